"""A plan's own cluster.yaml in the exact engine, its rented replicas started and stopped by the commitment clock."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import yaml

from scheduler.config import load
from scheduler.planning.compose import plan_of
from scheduler.planning.document import Plan
from scheduler.planning.planner import Asked, find
from scheduler.planning.policy import written
from scheduler.simulation.policies import rule
from scheduler.simulation.scenario import Window
from scheduler.simulation.simulate import usd_fixed
from scheduler.simulation.tally import Tally
from scheduler.simulation.traces import Trace, trace_of
from scheduler.simulation.tuning import play
from scheduler.simulation.world import Settings
from tests.scheduler.planning.test_planner import FACTS, quiet
from tests.scheduler.planning.worlds import ROOT, scenario

SLOW = {"prefill_tokens_per_s": 2_000, "itl_base_s": 0.03, "itl_per_seq_s": 0.002, "seqs_max": 16, "ttft_base_s": 0.05}
NOTHING_CHANGES = {"mean": 0.0, "sd": 0.0}
RENT_USD_PER_HOUR = 0.06
HOURS = 8.0


class Simulated(NamedTuple):
    """USD per hour with hardware and rent, and what was played."""

    usd_per_hour: float
    tally: Tally


def waves(requests: int = 12_000) -> Trace:
    """Twice in eight hours the load comes and goes."""
    rng, span_s = np.random.default_rng(0), 3600.0 * HOURS
    at_s = rng.random(8 * requests)
    at_s = at_s[rng.random(len(at_s)) < 0.5 + 0.5 * np.sin(4.0 * np.pi * at_s)][:requests]
    at_s = np.sort(at_s) * span_s
    return trace_of("waves", at_s - at_s[0], np.full(requests, 1_500), rng.integers(600, 2_400, requests))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, dict[str, Simulated]]:
    """A plan of small engines, cheap to own and dearer to rent, without a doubt about the future; its file simulated."""
    directory = tmp_path_factory.mktemp("simulated")
    text = yaml.safe_load((ROOT / "examples" / "h100-site.yaml").read_text())
    text["pools"][0] |= {"curve": SLOW, "start_s": 120.0}
    text["pools"][0]["hardware"] |= {"purchase_price_usd": 600.0, "idle_watts": 20.0}
    yearly = dict.fromkeys(("growth_per_year", "api_price_per_year", "power_price_per_year"), NOTHING_CHANGES)
    cloud = {"pool": "llama-8b", "zone": "on-prem", "rental": {"usd_per_hour": RENT_USD_PER_HOUR, "gpu": "H100"}}
    text["planning"] = {"scenarios": 8, "level_sd": 0.0, "replica_availability": 1.0, "cloud": [cloud], **yearly}
    path = directory / "cluster.yaml"
    path.write_text(yaml.safe_dump(text))
    config, trace = load(path), waves()
    whole = Window(0.0, trace.span_s)
    asked = Asked(
        config, replace(scenario(config, trace), copies=1.0), whole, played_requests=50_000, exact_requests=300
    )
    plan = plan_of(find(asked, quiet), FACTS, "now")
    path.write_text(written(path.read_text(), config, plan))
    new = replace(scenario(load(path), trace), copies=1.0, judged=whole)
    found = {}
    for name in ("commitment", "bid-price"):
        tally = play(new, rule(name), Settings(gateways=4), whole, list(new.batches(whole)))
        found[name] = Simulated((tally.usd_total + usd_fixed(new, tally)) / (whole.span_s / 3600.0), tally)
    return plan, found


def test_what_a_plan_expects_is_what_its_file_costs_under_its_own_clock(
    made: tuple[Plan, dict[str, Simulated]],
) -> None:
    plan, simulated = made
    assert plan.expected is not None
    (pool,) = plan.pools
    assert pool.owned > 0
    assert pool.rented_max > 0
    of = simulated["commitment"]
    assert of.usd_per_hour == pytest.approx(plan.expected.usd_per_hour, rel=0.15)
    assert of.tally.slo_attainment >= 0.99
    assert (of.tally.served, of.tally.failures) == (of.tally.requests, 0)
    rent_usd_per_hour = of.tally.replica_s["llama-8b-cloud"] / 3600.0 / HOURS * RENT_USD_PER_HOUR
    assert (
        0.5 < rent_usd_per_hour / plan.costs.rented < 2.0
    )  # seven replicas are few: who waits does not add up to a mean


def test_a_clock_that_rents_by_need_is_cheaper_than_all_that_may_be_rented(
    made: tuple[Plan, dict[str, Simulated]],
) -> None:
    _, simulated = made
    always, by_need = simulated["bid-price"], simulated["commitment"]
    assert always.tally.replica_s["llama-8b-cloud"] > 2.0 * by_need.tally.replica_s["llama-8b-cloud"] > 0.0
    assert by_need.tally.replica_s["llama-8b"] == pytest.approx(always.tally.replica_s["llama-8b"], rel=0.01)
    assert by_need.usd_per_hour < always.usd_per_hour
