"""What a plan means in money, energy and words: against sums over the requests themselves, and invariants."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing.board import Board
from scheduler.config import ClusterConfig
from scheduler.config.planning import Uncertain
from scheduler.config.prices import Period, TimeOfUse
from scheduler.planning import alternatives, document, energy_use, meaning, recourse
from scheduler.planning.assumptions import assumptions
from scheduler.planning.bill import bill
from scheduler.planning.cautions import cautions
from scheduler.planning.compose import plan_of
from scheduler.planning.energy_use import homes
from scheduler.planning.found import Asked, Found
from scheduler.planning.model import Choice, Model, model_of
from scheduler.planning.played import Played
from scheduler.planning.recourse import UnitMoney
from scheduler.planning.requests import requests_of
from scheduler.planning.scenarios import Instant, Scenario
from scheduler.planning.shortage import short_usd_per_hour, shortage
from scheduler.planning.sizes import BUCKETS
from scheduler.planning.technologies import technologies_of
from scheduler.planning.units import Placement
from scheduler.simulation.scenario import EPOCH_S, Window
from scheduler.simulation.site import Site, site_of
from serving.planning_report import tables
from serving.planning_report.findings import of_npv
from serving.planning_report.outcome import lead
from tests.scheduler.planning.worlds import SPAN_S, hours, scenario, site
from tests.support import planning_sites
from tests.support.planning_rows import columns, surface

SURE: dict[str, object] = {"mean": 0.0, "sd": 0.0}
CERTAIN: dict[str, object] = {
    "growth_per_year": SURE, "api_price_per_year": SURE, "power_price_per_year": SURE, "replica_availability": 1.0,
}  # fmt: skip
FACTS = document.TraceFacts("hours", "requests", 4000, SPAN_S, 1.0, 0, 900.0, 120.0, 1.0, 2.0)
PRICES = (0.18, 0.6)  # USD per kWh before and from 01:00 on


def searched(
    config: ClusterConfig, placements: dict[str, Placement] | None = None, must_each: int = 0, span_s: float = SPAN_S
) -> Found:
    """As far as the first search, without the simulator; every ``must_each``-th request has to stay."""
    asked = Asked(config, scenario(config, hours(span_s=span_s)), Window(0.0, span_s))
    technologies = technologies_of(config, EPOCH_S)
    requests = requests_of(asked.scenario, config, technologies, asked.window, rows_max=40_000)
    if must_each:
        pools = tuple(
            replace(p, elsewhere_usd=np.where(np.arange(len(p)) % must_each, p.elsewhere_usd, np.inf))
            for p in requests.pools
        )
        requests = replace(requests, pools=pools)
    model = model_of(config.planning, requests, placements or {}, 0)
    return Found(asked, technologies, requests, model, model.best())


def made(found: Found) -> tuple[Model, Choice]:
    """What is there after a search."""
    assert found.model is not None
    assert found.choice is not None
    return found.model, found.choice


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return searched(site(tmp_path_factory.mktemp("plain"), **CERTAIN))


@pytest.fixture(scope="module")
def staying(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return searched(site(tmp_path_factory.mktemp("staying")), must_each=3)


def joules_and_tokens(found: Found) -> tuple[float, float]:
    """Per hour, of all requests at home, at the board."""
    model, _ = made(found)
    (pool,), (unit,) = model.requests.pools, model.units
    t, per_hour = unit.technology, model.requests.stands_for / model.requests.hours
    joules = pool.input_tokens * t.joules_per_input_token + pool.output_tokens * t.joules_per_output_token
    return float(joules.sum()) * per_hour, float((pool.input_tokens + pool.output_tokens).sum()) * per_hour


def test_what_owning_is_worth_does_not_depend_on_the_horizon_of_the_plan(tmp_path: Path) -> None:
    moving = {"growth_per_year": {"mean": 0.5, "sd": 0.0}, "api_price_per_year": {"mean": -0.3, "sd": 0.0}}
    model, choice = made(searched(site(tmp_path, **CERTAIN | moving)))
    found = []
    for years in (1.0, 5.0):
        spec = model.spec.model_copy(update={"horizon_years": years})
        again = model_of(spec, model.requests, model.placements, model.seed)
        found.append(meaning.present_value(again, choice))
    assert found[0] == found[1]


def test_api_prices_that_double_every_year_double_what_is_saved_and_once_only(tmp_path: Path) -> None:
    doubling = {"api_price_per_year": {"mean": 1.0, "sd": 0.0}}
    model, _ = made(searched(site(tmp_path, horizon_years=3.0, **CERTAIN | doubling)))
    everything = model.of([math.ceil(float(s.load.max()) / 0.9) for s in model.surfaces])  # nothing is bought
    npv = meaning.present_value(model, everything)
    assert npv is not None
    today = model.spec.model_copy(update={"api_price_per_year": Uncertain(mean=0.0, sd=0.0)})
    flat = model_of(today, model.requests, model.placements, model.seed).all_api_usd_per_hour().mean()
    first = flat * np.mean([2.0 ** ((k + 0.5) / 4) for k in range(4)])  # over the four instants of the first year
    rise = npv.years[2].cash_usd - npv.years[1].cash_usd
    assert rise == pytest.approx(first * 8760.0, rel=1e-6)


def test_what_is_expected_has_rent_and_prices_tokens_by_those_that_were_bought(plain: Found) -> None:
    model, choice = made(plain)
    played = Played(1.0, 10, {"a": 2.0, "": 1.0}, {"a": 0.25}, 0.5, 1.0, bought_mtok_per_hour=1.5)
    found = replace(plain, played=played, rent_usd_per_hour={"a": 0.5, "b": 0.25})
    expected = meaning.expected(found, model, choice)
    assert expected is not None
    assert expected.api_usd_per_mtok == pytest.approx(2.0)
    (unit,) = model.units
    held = choice.owned[0] * (unit.technology.owned_usd_per_hour or 0.0)
    assert expected.usd_per_hour == pytest.approx(held + 3.0 + 0.25 + 0.75)
    nothing = replace(found, played=replace(played, bought_mtok_per_hour=0.0))
    without = meaning.expected(nothing, model, choice)
    assert without is not None
    assert without.api_usd_per_mtok == 0.0


def test_energy_of_a_plan_that_serves_everything_is_that_of_all_tokens_and_of_idle_replicas(plain: Found) -> None:
    model, _ = made(plain)
    count = math.ceil(float(model.surfaces[0].load.max()) / 0.9)
    use = energy_use.energy_use(plain, model, model.of([count]))
    joules, tokens = joules_and_tokens(plain)
    kw = 1.3 * (joules / 3.6e6 + count * 0.09)
    assert use.kwh_per_year == pytest.approx(kw * 8760.0)
    assert use.usd_per_year == pytest.approx(use.kwh_per_year * 0.18)
    assert use.joules_per_token == pytest.approx(kw * 3.6e6 / tokens)
    assert use.kg_co2_per_year is None
    assert use.grams_co2_per_kwh is None


def test_growth_and_dearer_power_of_the_years_to_come_are_not_in_the_energy_of_today(plain: Found) -> None:
    model, choice = made(plain)
    grown = model.spec.model_copy(
        update={"growth_per_year": Uncertain(mean=1.0), "power_price_per_year": Uncertain(mean=1.0)}
    )
    changed = replace(model, spec=grown)
    assert energy_use.energy_use(plain, changed, choice) == energy_use.energy_use(plain, model, choice)


def test_what_a_plan_serves_in_part_draws_what_the_surface_says_it_does(plain: Found) -> None:
    model, _ = made(plain)
    as_is = Scenario(np.diff(model.edges_s) / SPAN_S, (Instant(1.0, 1.0, 1.0),))
    (unit,), (of,) = model.units, model.surfaces
    assert float(of.load.max()) > 1.0
    (home,) = homes(model, model.of([1]))
    billed = recourse.parts(of, model.money(unit), [as_is], 1, 0).costs.energy
    watts = float(as_is.weight @ home.watts)
    assert watts * 3600.0 * unit.technology.usd_per_joule == pytest.approx(billed, rel=0.01)
    _, tokens = joules_and_tokens(plain)
    assert 0.05 * tokens < float(as_is.weight @ home.tokens_per_s) * 3600.0 < 0.99 * tokens


def test_a_plan_that_has_nothing_draws_nothing(plain: Found) -> None:
    model, _ = made(plain)
    use = energy_use.energy_use(plain, model, model.of([0]))
    assert use == document.EnergyUse(0.0, 0.0, None, 0.0, None)


def test_power_costs_what_it_does_at_the_hour_at_which_it_is_drawn(plain: Found) -> None:
    model, choice = made(plain)
    config = plain.asked.config
    (where,) = config.sites
    by_time = TimeOfUse(
        timezone="UTC", usd_per_kwh=PRICES[1], periods=(Period(hours="00:00-01:00", usd_per_kwh=PRICES[0]),)
    )
    electricity = where.electricity.model_copy(update={"usd_per_kwh": None, "time_of_use": by_time, "pue": 1.1})
    moved = config.model_copy(update={"sites": (where.model_copy(update={"electricity": electricity}),)})
    found = replace(plain, asked=replace(plain.asked, config=moved))
    use = energy_use.energy_use(found, model, choice)
    (home,) = homes(model, choice)
    kw = 1.1 * (home.watts + home.idle_watts) / 1e3
    first = 0.5 * (model.edges_s[1:] + model.edges_s[:-1]) < 3600.0
    usd_per_hour = np.diff(model.edges_s) / SPAN_S @ (kw * np.where(first, *PRICES))
    assert use.usd_per_year == pytest.approx(usd_per_hour * 8760.0)


def test_each_pool_has_the_pue_and_the_tariff_of_its_own_site() -> None:
    text = planning_sites.document()
    text["sites"].append({"name": "there", "zone": "on-prem", "electricity": {"usd_per_kwh": 0.05, "pue": 1.05}})
    text["pools"][1]["site"] = "there"
    config = ClusterConfig.model_validate(text | {"planning": {"scenarios": 2}})
    of = planning_sites.scenario(config)
    technologies, window = technologies_of(config, EPOCH_S), planning_sites.window(of)
    model = model_of(config.planning, requests_of(of, config, technologies, window), {}, 0)
    choice = model.of([1, 2, 1])
    use = energy_use.energy_use(Found(Asked(config, of, window)), model, choice)
    share = np.diff(model.edges_s) / window.span_s
    kw = [float(share @ (home.watts + home.idle_watts)) / 1e3 for home in homes(model, choice)]
    assert min(kw) > 0.0
    assert use.kwh_per_year == pytest.approx((1.3 * (kw[0] + kw[2]) + 1.05 * kw[1]) * 8760.0)
    assert use.usd_per_year == pytest.approx((1.3 * 0.18 * (kw[0] + kw[2]) + 1.05 * 0.05 * kw[1]) * 8760.0)


def test_carbon_is_told_where_the_board_knows_it(plain: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    class Listed(Site):
        def priced_until(self, now_s: float) -> tuple[Board, float]:
            board, until_s = super().priced_until(now_s)
            pools = {name: pool._replace(grams_co2_per_kwh=400.0) for name, pool in board.pools.items()}
            return replace(board, pools=pools), until_s

    def listed(*args: Any) -> Site:
        of = site_of(*args)
        return Listed(of.config, of.pools, of.ttft_s_max)

    monkeypatch.setattr(energy_use, "site_of", listed)
    use = energy_use.energy_use(plain, *made(plain))
    assert use.grams_co2_per_kwh == pytest.approx(400.0)
    assert use.kg_co2_per_year == pytest.approx(0.4 * use.kwh_per_year)


def test_what_kinds_of_requests_cost_here_adds_up_to_what_is_owned_and_to_their_energy(plain: Found) -> None:
    model, _ = made(plain)
    count = math.ceil(2.0 * float(model.surfaces[0].load.max()))
    choice = model.of([count])
    rows = meaning.switches(plain, model, choice, model.parts(choice))
    assert len(rows) == 5
    (unit,) = model.units
    energy = float(unit.energy_usd.sum(dtype=float)) * unit.stands_for / model.requests.hours
    whole = 24.0 * (count * (unit.technology.owned_usd_per_hour or 0.0) + energy)
    assert sum((row.here_usd_per_mtok or 0.0) * row.mtok_per_day for row in rows) == pytest.approx(whole)
    half_as_full = meaning.switches(plain, model, model.of([2 * count]), model.parts(model.of([2 * count])))
    assert all(
        (a.here_usd_per_mtok or 0.0) < (b.here_usd_per_mtok or 0.0) for a, b in zip(rows, half_as_full, strict=True)
    )
    assert [row.crossing_mtok_per_day for row in rows] == [row.crossing_mtok_per_day for row in half_as_full]


def test_a_kind_of_request_is_compared_on_the_technology_where_it_is_placed(tmp_path: Path) -> None:
    cheap = {
        "name": "cheap", "pool": "llama-8b", "zone": "on-prem", "gpus_per_replica": 1, "reserved_usd_per_hour": 0.2,
        "energy": {"joules_per_input_token": 0.01, "joules_per_output_token": 0.03, "label": "modelled"},
        "curve": {"prefill_tokens_per_s": 20_000, "itl_base_s": 0.01, "itl_per_seq_s": 0.0002, "seqs_max": 64},
    }  # fmt: skip
    config = site(tmp_path, candidates=[cheap], **CERTAIN)
    everywhere = {(profile, bucket): 1 for profile in range(20) for bucket in range(BUCKETS)}
    found = searched(config, {"llama-8b": everywhere})
    model, _ = made(found)
    index = [unit.name for unit in model.units].index("cheap")
    none = model.of([0] * len(model.units))
    rows = meaning.switches(found, model, none, model.parts(none))
    t = model.units[index].technology
    (pool,) = model.requests.pools
    for row in rows:
        profile = [one.name for one in found.asked.scenario.profiles].index(row.profile)
        own = (pool.profile == profile) & np.isfinite(pool.work_s[1])
        tokens = float((pool.input_tokens + pool.output_tokens)[own].sum())
        energy = float(pool.energy_usd[1, own].sum(dtype=float)) / tokens * 1e6
        assert row.here_usd_per_mtok is None  # none is there
        if row.crossing_mtok_per_day is not None and row.there_usd_per_mtok is not None:
            at = 24.0 * (t.reserved_usd_per_hour or 0.0) / (row.there_usd_per_mtok - energy)
            assert row.crossing_mtok_per_day == pytest.approx(at)
    assert any(row.crossing_mtok_per_day is not None for row in rows)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10_000), st.floats(0.6, 1.0), st.none() | st.floats(0.1, 5.0), st.sampled_from([0.0, 0.4, 1.0]),
    st.integers(0, 3), st.integers(0, 3),
)  # fmt: skip
def test_the_shortage_is_what_the_parts_of_a_choice_leave_of_its_costs(
    seed: int, works: float, rent: float | None, availability: float, owned: int, reserved: int
) -> None:
    edges_s = np.array([0.0, 1_800.0, 3_600.0, 9_000.0])
    of = surface(columns(seed, 60, 9_000.0, must_share=0.4), edges_s)
    money = UnitMoney(
        1.0, 1.5, rent, owned_availability=works, rented_availability=availability, usable=0.9, short_usd_per_hour=50.0
    )
    drawn = [Scenario(np.array([0.2, 0.3, 0.5]), (Instant(growth, 1.0, 1.0),)) for growth in (0.7, 1.0, 2.0)]
    found = shortage(of, money, drawn, np.arange(4), np.arange(4))
    parts = recourse.parts(of, money, drawn, owned, reserved)
    assert found[:, owned, reserved].mean() == pytest.approx(parts.short_usd_per_hour, rel=1e-6, abs=1e-9)


def test_no_figure_of_a_plan_holds_the_weight_of_what_finds_no_room(staying: Found) -> None:
    model, choice = made(staying)
    assert short_usd_per_hour(model, choice).mean() > 0.0  # replicas fail
    plan = plan_of(staying, FACTS, "now")
    assert plan.usd_per_hour.mean == pytest.approx(plan.costs.total, rel=1e-9)
    costs = alternatives.owned_costs(model)
    assert costs
    for cost in costs:
        other = model.of([round(cost.gpus)])
        paid = bill(staying, model, other, model.parts(other)).total
        assert cost.usd_per_hour.mean == pytest.approx(paid, rel=1e-9)


def test_sizings_and_numbers_of_gpus_that_cannot_hold_what_must_stay_are_left_out(staying: Found) -> None:
    model, choice = made(staying)
    (unit,), (of,) = model.units, model.surfaces
    needed = float(of.must.max()) / model.money(unit).usable
    assert needed > 1.0
    gpus = [cost.gpus for cost in alternatives.owned_costs(model)]
    assert min(gpus) >= math.floor(needed)
    assert max(gpus) > choice.owned[0]
    names = {sizing.name for sizing in alternatives.sizings(model, choice)}
    assert {"plan", "peak"} <= names
    assert "none" not in names
    # As many as there are now, where that is one too few.
    few = replace(unit, technology=replace(unit.technology, replicas_now=math.ceil(needed) - 1))
    assert "now" not in {one.name for one in alternatives.sizings(replace(model, units=(few,)), choice)}


def test_where_some_requests_must_stay_the_plan_is_held_against_buying_what_may_leave(
    staying: Found, plain: Found
) -> None:
    for found, words in ((staying, "of what may leave"), (plain, "buying everything from APIs")):
        sizings = alternatives.sizings(*made(found))
        plan = plan_of(replace(found, sizings=sizings), FACTS, "2026-11-22T09:00:00Z")
        assert words in lead(plan)
        assert words in of_npv(plan)


def warned(found: Found, model: Model, choice: Choice) -> tuple[str, ...]:
    return cautions(model, choice, bill(found, model, choice, model.parts(choice)))


def test_a_plan_says_that_it_stands_at_a_limit_that_load_will_grow_and_that_its_trace_is_short(
    plain: Found, tmp_path: Path
) -> None:
    model, choice = made(plain)
    assert warned(plain, model, choice) == ()
    (unit,) = model.units
    bounded = replace(unit, technology=replace(unit.technology, replicas_max=choice.owned[0]))
    at = f"llama-8b: {choice.owned[0]} replicas is planning's limit (replicas_max); more might be better"
    assert warned(plain, replace(model, units=(bounded,)), choice) == (at,)
    growing = {"growth_per_year": {"mean": 0.5, "sd": 0.0}, "horizon_years": 5.0}
    plan = plan_of(searched(site(tmp_path, **CERTAIN | growing), span_s=1800.0), FACTS, "now")
    mean = np.mean([1.5 ** (5.0 * (k + 0.5) / 4) for k in range(4)])
    grown = f"sized for the mean of the horizon, {mean:.1f} times today's load; --horizon 1 says what is needed first"
    assert set(plan.warnings) == {"the trace spans only 1,800 s: nothing is known of hours and days", grown}


def test_a_choice_that_cannot_hold_what_must_stay_says_so(staying: Found) -> None:
    model, _ = made(staying)
    (told,) = warned(staying, model, model.of([1]))
    assert "what must stay at home finds no room" in told


@pytest.mark.parametrize(("times", "shown"), [(1.0, "use"), (1e-4, "never"), (0.0, "never")])
def test_owning_that_never_pays_is_a_number_and_told_as_never(times: float, shown: str, plain: Found) -> None:
    model, _ = made(plain)
    (unit,) = model.units
    elsewhere = np.asarray(unit.elsewhere_usd * times, np.float32)
    changed = replace(model, units=(replace(unit, elsewhere_usd=elsewhere),))
    plan = plan_of(replace(plain, model=changed), FACTS, "now")
    (pool,) = plan.pools
    assert pool.breakeven_utilization is not None
    assert math.isfinite(pool.breakeven_utilization)
    assert (pool.breakeven_utilization > 1.0) == (shown == "never")
    assert shown in tables.pools(plan).rows[0][-1]


def test_every_figure_that_can_be_given_is_listed_as_an_assumption(plain: Found) -> None:
    listed = {one.name: (one.value, one.source) for one in assumptions(plain, made(plain)[0])}
    assert listed["discount rate"] == ("8", "default")
    assert listed["objectives to be met"] == ("99", "default")
    assert listed["scenarios"] == ("8", "cluster.yaml, planning")


def test_the_month_in_which_owning_breaks_even_is_told(plain: Found) -> None:
    plan = plan_of(plain, FACTS, "2026-11-22T09:00:00+00:00")
    assert plan.npv is not None
    assert plan.npv.breakeven_years is not None
    months = 12 * 2026 + 10 + (22.0 / 30.4 + 12.0 * plan.npv.breakeven_years)
    year = of_npv(plan).rstrip(".").rsplit(" ", 1)[-1]
    assert abs(int(year) - months // 12) <= (0 if 0.1 < months % 12 < 11.9 else 1)
