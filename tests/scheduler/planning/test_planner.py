"""The whole of planning on a small site: it plays what it plans, says what it found, and stops cleanly."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml

from scheduler.config import load
from scheduler.planning import calibration, document, planner
from scheduler.planning.compose import plan_of
from scheduler.planning.planner import Asked, Found, find
from scheduler.planning.played import Played
from scheduler.planning.technologies import PlanError
from scheduler.simulation.scenario import Window
from tests.scheduler.planning.worlds import ROOT, SPAN_S, asked, hours, scenario, site

FACTS = document.TraceFacts("hours", "requests", 4000, SPAN_S, 1.0, 0, 900.0, 120.0, 1.0, 2.0)


def quiet(what: str, share: float) -> None:
    assert what
    assert 0.0 <= share <= 1.0


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return find(asked(tmp_path_factory.mktemp("plan")), quiet)


@pytest.fixture(scope="module")
def plan(found: Found) -> document.Plan:
    return plan_of(found, FACTS, "2026-11-01T00:00:00+00:00")


def test_the_plan_is_cheaper_than_sizing_for_mean_p95_and_peak_and_than_buying_everything(found: Found) -> None:
    # What is minimised: the mean, and a tenth of the mean of the worst tenth.
    spreads = {sizing.name: sizing.usd_per_hour for sizing in found.sizings}
    usd = {name: spread.mean + 0.1 * spread.cvar for name, spread in spreads.items()}
    assert {"plan", "mean", "p95", "peak", "none"} <= usd.keys()
    assert all(usd["plan"] <= of + 1e-9 for of in usd.values())
    assert usd["plan"] < 0.7 * usd["none"]


def test_the_chosen_plan_was_played_by_kernel_and_exact_engine_and_the_search_foresaw_what_it_costs(
    found: Found,
) -> None:
    chosen = {one.engine: one for one in found.finalists if one.is_chosen}
    assert chosen.keys() == {"kernel", "exact"}
    kernel = chosen["kernel"]
    assert kernel.replicas == found.replicas
    assert kernel.slo_attainment >= 0.99
    everything = next(sizing for sizing in found.sizings if sizing.name == "none").usd_per_hour.mean
    assert abs(kernel.searched_usd_per_hour - kernel.played_usd_per_hour) < 0.03 * everything


def test_no_other_number_of_replicas_is_cheaper_in_the_model(found: Found) -> None:
    model, choice = found.model, found.choice
    assert model is not None
    assert choice is not None
    for change in (-2, -1, 1, 2):
        other = model.of([max(0, n + change) for n in choice.owned], choice.reserved)
        assert other.objective >= choice.objective - 1e-9


def test_the_same_seed_gives_the_same_plan_to_the_byte(plan: document.Plan, tmp_path: Path) -> None:
    again = plan_of(find(asked(tmp_path), quiet), FACTS, plan.made_at)
    assert msgspec.json.encode(again) == msgspec.json.encode(plan)


def test_the_document_survives_json_and_holds_nothing_that_is_no_number(plan: document.Plan) -> None:
    text = msgspec.json.encode(plan)
    assert msgspec.json.decode(text, type=document.Plan) == plan
    assert all(math.isfinite(x) for x in numbers(msgspec.json.decode(text)))
    assert plan.expected is not None
    assert plan.costs.total == pytest.approx(plan.usd_per_hour.mean, rel=1e-6)
    assert plan.npv is not None
    assert plan.npv.npv_usd > 0.0


def numbers(of: object) -> list[float]:
    if isinstance(of, dict):
        return [x for value in of.values() for x in numbers(value)]
    if isinstance(of, list):
        return [x for value in of for x in numbers(value)]
    return [of] if isinstance(of, int | float) and not isinstance(of, bool) else []


def test_hours_of_the_week_add_up_to_the_load_and_run_what_is_owned(found: Found, plan: document.Plan) -> None:
    for week in plan.weeks:
        parts = np.array(week.base) + np.array(week.rented) + np.array(week.api)
        np.testing.assert_allclose(parts, week.load, rtol=1e-9, atol=1e-12)
        assert min(week.replicas) >= found.replicas[week.pool]
        assert len(week.load) == 168


def test_every_step_of_the_merit_order_is_dearer_than_the_one_before(plan: document.Plan) -> None:
    steps = plan.merit_order
    usd = [step.avoidable_usd_per_mtok for step in steps]
    assert usd == sorted(usd)
    assert steps[0].kind == "owned"
    assert {step.kind for step in steps} == {"owned", "api"}


def test_owning_more_costs_less_up_to_the_plan_and_more_beyond_it(found: Found) -> None:
    gpus = [cost.gpus for cost in found.owned_costs]
    usd = [cost.usd_per_hour.mean for cost in found.owned_costs]
    assert gpus == sorted(set(gpus))
    least = int(np.argmin(usd))
    assert 0 < least < len(usd) - 1
    assert all(a >= b for a, b in pairwise(usd[: least + 1]))
    assert all(a <= b for a, b in pairwise(usd[least:]))


def test_dearer_apis_and_more_load_cost_more_and_ask_for_no_fewer_gpus(found: Found) -> None:
    moved = {one.assumption: one for one in found.sensitivity}
    for name in ("API prices", "load"):
        one = moved[name]
        assert one.usd_per_hour_high >= one.usd_per_hour_low
        assert one.gpus_high >= one.gpus_low
    swings = [one.swing_usd_per_hour for one in found.sensitivity]
    assert swings == sorted(swings, reverse=True)


@pytest.mark.parametrize("step", ["play", "exact", "_alternatives"])
def test_interrupted_after_the_first_search_it_returns_a_partial_plan_that_says_so(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(found: Found, say: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(planner, step, interrupted)
    stopped = find(asked(tmp_path), quiet)
    assert stopped.partial
    assert "stopped while" in stopped.warnings[-1]
    plan = plan_of(stopped, FACTS, "now")
    assert plan.partial
    assert plan.pools[0].owned > 0
    assert plan.sensitivity == ()


def test_interrupted_before_anything_was_found_it_is_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(found: Found, say: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(planner, "_program", interrupted)
    with pytest.raises(KeyboardInterrupt):
        find(asked(tmp_path), quiet)


def test_an_objective_that_no_pool_can_meet_is_said_and_not_planned_for(tmp_path: Path) -> None:
    given = asked(tmp_path)
    hasty = tuple(
        replace(profile, service_class=replace(profile.service_class, ttft_s_max=0.001))
        for profile in given.scenario.profiles
    )
    with pytest.raises(PlanError, match="can be served by any pool in time"):
        find(replace(given, scenario=replace(given.scenario, profiles=hasty)), quiet)


def test_a_window_without_requests_is_refused(tmp_path: Path) -> None:
    given = asked(tmp_path)
    with pytest.raises(PlanError, match="nothing to plan for"):
        find(replace(given, window=Window(SPAN_S - 1e-3, SPAN_S)), quiet)


def test_what_the_policy_does_in_the_simulator_becomes_what_the_fluid_may_count(found: Found) -> None:
    model = found.model
    assert model is not None
    (unit,), (surface,) = model.units, model.surfaces
    weight = np.full(len(surface.load), 1.0 / len(surface.load))
    everything = float(weight @ surface.all_api_usd_per_hour)
    count = max(1, math.floor(surface.load.max() * 0.6))
    for usable in (0.5, 0.8, 1.0):
        spent = everything - float(weight @ surface.saved(count * usable))
        played = Played(1.0, 1, {unit.name: spent}, {unit.name: 0.0}, 0.0, 1.0)
        bought = Played(1.0, 1, {unit.name: everything}, {unit.name: 0.0}, 1.0, 1.0)
        told = calibration.usable_of(model, weight, {unit.name: count}, {}, played, bought)
        assert told[unit.name] == pytest.approx(usable, abs=1e-3)


def test_where_a_cloud_is_cheaper_for_few_hours_the_peak_is_rented_and_the_base_is_owned(tmp_path: Path) -> None:
    cloud = [{"pool": "llama-8b", "zone": "on-prem", "rental": {"usd_per_hour": 1.2, "gpu": "H100"}}]
    config = site(tmp_path, cloud=cloud)
    given = Asked(
        config, scenario(config, hours(), 2.0), Window(0.0, SPAN_S), played_requests=5_000, exact_requests=100
    )
    rented = find(given, quiet)
    plan = plan_of(rented, FACTS, "now")
    (pool,) = plan.pools
    assert pool.owned > 0
    assert pool.rented_max > 0
    assert plan.costs.rented > 0.0
    by_hour = plan.weeks[0].rented
    assert sum(by_hour[:2]) < sum(by_hour[2:4])  # the busy half


def test_what_a_pool_would_often_answer_wrong_is_planned_for_where_the_policy_sends_it(tmp_path: Path) -> None:
    text = yaml.safe_load((ROOT / "examples" / "h100-site.yaml").read_text())
    text["models"][0]["quality"] = {"low": 0.97, "medium": 0.9, "high": 0.6}  # of the pool's model
    text["planning"] = {"scenarios": 4}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(text))
    config = load(tmp_path / "cluster.yaml")
    made = scenario(config, hours(), 0.2)
    hard = tuple(replace(p, difficulty_low=0.0, difficulty_high=1.0) for p in made.profiles)
    whole = Window(0.0, SPAN_S)
    given = Asked(config, replace(made, profiles=hard), whole, played_requests=1_000_000, exact_requests=300)
    poor = find(given, quiet)
    requests = poor.requests
    assert requests is not None
    assert 0.3 < requests.homeless / requests.count < 0.95
    chosen = next(one for one in poor.finalists if one.is_chosen and one.engine == "kernel")
    assert abs(chosen.searched_usd_per_hour - chosen.played_usd_per_hour) < 0.05 * chosen.played_usd_per_hour
    assert chosen.burst_share == pytest.approx(requests.homeless / requests.count, abs=0.05)


def test_what_is_only_rented_is_played_with_its_replicas_and_expected_with_its_rent(tmp_path: Path) -> None:
    text = yaml.safe_load((ROOT / "examples" / "h100-site.yaml").read_text())
    del text["pools"][0]["hardware"]
    text["pools"][0]["rental"] = {"usd_per_hour": 1.5, "gpu": "H100"}
    text["planning"] = {"scenarios": 4}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(text))
    config = load(tmp_path / "cluster.yaml")
    given = Asked(config, scenario(config, hours()), Window(0.0, SPAN_S), played_requests=20_000, exact_requests=300)
    rented = find(given, quiet)
    assert rented.replicas == {"llama-8b": 0}
    assert rented.rent_usd_per_hour["llama-8b"] > 1.0
    assert rented.played is not None
    assert rented.played.burst_share < 0.3
    assert {one.engine for one in rented.finalists if one.is_chosen} == {"kernel", "exact"}
    told = plan_of(rented, FACTS, "now").expected
    assert told is not None
    assert told.usd_per_hour == pytest.approx(rented.rent_usd_per_hour["llama-8b"] + rented.played.usd_per_hour)


def test_an_objective_of_pace_is_planned_for_with_emptier_batches_and_played_by_the_exact_engine(
    tmp_path: Path,
) -> None:
    given = asked(tmp_path)
    paced = tuple(
        replace(p, service_class=replace(p.service_class, tpot_s_max=0.0075)) for p in given.scenario.profiles
    )
    slow, quick = find(given, quiet), find(replace(given, scenario=replace(given.scenario, profiles=paced)), quiet)
    assert quick.replicas["llama-8b"] > slow.replicas["llama-8b"]
    assert any("tpot_s_max" in warning for warning in quick.warnings)
    assert [one.engine for one in quick.finalists] == ["exact"]
