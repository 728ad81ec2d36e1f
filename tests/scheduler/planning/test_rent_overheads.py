"""What renting comes to: the search expects what the clock pays, also where that reacts too late or nothing may be bought."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scheduler.planning.bill import bill
from scheduler.planning.calibration import overheads_of, rehearsals_of, rented_of
from scheduler.planning.compose import plan_of
from scheduler.planning.planner import Found, find
from scheduler.planning.played import Sample
from scheduler.planning.rehearsal import Rehearsed
from scheduler.planning.scenarios import today
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


@pytest.mark.parametrize(("times", "billed"), [(0.4, 0.4), (1.0, 1.0), (1.7, 1.0)])
def test_what_is_billed_is_told_from_what_waits_until_replicas_answer(
    bound: Found, times: float, billed: float
) -> None:
    """Of what the search pays the clock is billed so many times as much; nothing is uncertain."""
    assert bound.model is not None
    assert bound.choice is not None
    certain = replace(bound.model, drawn=(today(bound.model.edges_s),))
    parts = certain.parts(bound.choice)
    searched_usd = sum(part.costs.rented for part in parts)
    assert searched_usd > 0.0
    told = replace(bound, rent_usd_per_hour={"llama-8b": times * searched_usd})
    found = bill(told, certain, bound.choice, parts)
    assert found.rented == pytest.approx(billed * searched_usd)
    assert found.rented + found.starting == pytest.approx(searched_usd)
    assert found.total == pytest.approx(float(certain.of(bound.choice.owned).usd_per_hour.mean()), rel=0.05)


def test_before_a_clock_was_rehearsed_rents_are_billed_as_listed(bound: Found) -> None:
    assert bound.model is not None
    assert bound.choice is not None
    dear = replace(bound.model, overheads={"llama-8b": 2.5})
    found = bill(replace(bound, rent_usd_per_hour={}), dear, bound.choice, dear.parts(bound.choice))
    (unit,) = dear.units
    listed, paid = (of.rented_usd_per_hour or 0.0 for of in (dear.listed(unit), dear.money(unit)))
    assert listed < paid
    assert found.rented / (found.rented + found.starting) == pytest.approx(listed / paid)


def test_a_plan_says_what_waits_where_that_is_much(bound: Found) -> None:
    for times in (0.1, 0.99):
        assert bound.model is not None
        assert bound.choice is not None
        (part,) = bound.model.parts(bound.choice)
        plan = plan_of(replace(bound, rent_usd_per_hour={"llama-8b": times * part.costs.rented}), FACTS, "now")
        says_so = any("until rented replicas have started" in warning for warning in plan.warnings)
        assert says_so == (plan.costs.starting > 0.05 * plan.costs.total)
        assert plan.costs.total == pytest.approx(plan.usd_per_hour.mean)
    assert plan.costs.rented > 0.0


def test_a_bin_that_two_windows_share_has_the_mean_of_what_is_rented_in_them(bound: Found) -> None:
    assert bound.model is not None
    edges_s = bound.model.edges_s
    cut_s = float(edges_s[0] + edges_s[1]) / 2.0
    windows = (Window(float(edges_s[0]), cut_s), Window(cut_s, float(edges_s[2])))
    at_s = np.array([windows[0].start_s, windows[1].start_s])
    counts = np.array([2.0, 4.0])
    told = {"llama-8b": Rehearsed(at_s, np.zeros(2, int), counts, counts, np.ones(2))}
    by_window, by_bin = rented_of(bound.model, Sample(windows, (0.5, 0.5), 0.0), told)
    assert by_window == [{"llama-8b": 2}, {"llama-8b": 4}]
    assert by_bin["llama-8b"][:3] == pytest.approx([3.0, 4.0, 0.0])


def test_the_clock_never_wants_more_than_the_written_file_lets_it_have(bound: Found) -> None:
    assert bound.model is not None
    assert bound.choice is not None
    rehearsed = rehearsals_of(bound.model, bound.choice, bound.asked.config.policy.commitment)["llama-8b"]
    (pool,) = plan_of(bound, FACTS, "now").pools
    assert 0 < rehearsed.held.max() <= pool.rented_max
