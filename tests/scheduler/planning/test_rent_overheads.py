"""What renting comes to: the search expects what the clock pays, also where that reacts too late or nothing may be bought."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.planning.calibration import overheads_of
from scheduler.planning.compose import plan_of
from scheduler.planning.planner import Found, find
from scheduler.simulation.scenario import Window
from tests.scheduler.planning.test_planner import FACTS, quiet
from tests.scheduler.planning.worlds import SPAN_S, asked, hours, scenario

CLOUD = [{"pool": "llama-8b", "zone": "on-prem", "rental": {"usd_per_hour": 1.5, "gpu": "H100"}}]


def test_a_trace_that_is_over_before_the_clock_reacts_is_not_planned_with_foresight(tmp_path: Path) -> None:
    given = asked(tmp_path, cloud=CLOUD)
    short = replace(given, scenario=scenario(given.config, hours(400, 90.0), 2.0), window=Window(0.0, 90.0))
    found = find(short, quiet)
    assert found.model is not None
    assert found.choice is not None
    none = replace(found.choice, owned=(1,), reserved=(0,))
    assert overheads_of(found.model, none, given.config.policy.commitment)["llama-8b"] > 2.0


@pytest.fixture(scope="module")
def bound(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """All of the load has to stay."""
    given = asked(tmp_path_factory.mktemp("bound"), cloud=CLOUD)
    profiles = tuple(replace(p, zones=frozenset({"on-prem"})) for p in given.scenario.profiles)
    return find(replace(given, scenario=replace(given.scenario, profiles=profiles), window=Window(0.0, SPAN_S)), quiet)


def test_what_must_stay_gets_replicas_however_dear_renting_comes(bound: Found) -> None:
    plan = plan_of(bound, FACTS, "now")
    (pool,) = plan.pools
    assert bound.requests is not None
    assert pool.owned + pool.rented_max >= 8
    assert pool.owned >= 1


def test_where_rents_stand_for_more_than_a_bill_the_plan_says_so(bound: Found) -> None:
    assert bound.model is not None
    assert bound.choice is not None
    held_usd = sum(part.costs.rented for part in bound.model.parts(bound.choice))
    says_so = any("clouds bill about" in warning for warning in bound.warnings)
    whole_usd = float(bound.choice.usd_per_hour.mean())
    assert says_so == (held_usd - bound.rent_usd_per_hour > 0.05 * whole_usd)
