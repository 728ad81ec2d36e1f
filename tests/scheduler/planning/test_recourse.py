"""What replicas of a unit cost over scenarios: against enumeration, against a linear program, and part by part."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from scheduler.planning.recourse import UnitMoney, costs, parts
from scheduler.planning.scenarios import Instant, Scenario
from scheduler.planning.surface import Surface, surface_of
from tests.support.planning_rows import HOUR_S, Columns, columns, surface

EDGES_S = np.array([0.0, 1_800.0, 3_600.0, 9_000.0])
SEEDS = st.integers(0, 10_000)
TODAY = Instant(1.0, 1.0, 1.0)
AS_IS = (Scenario(np.diff(EDGES_S) / EDGES_S[-1], (TODAY,)),)
INSTANTS = st.builds(Instant, st.floats(0.3, 3.0), st.floats(0.3, 3.0), st.floats(0.0, 3.0))
MONEY = st.builds(
    UnitMoney,
    owned_usd_per_hour=st.floats(0.1, 3.0),
    reserved_usd_per_hour=st.floats(0.1, 3.0),
    rented_usd_per_hour=st.none() | st.floats(0.1, 5.0),
    idle_usd_per_hour=st.floats(0.0, 0.1),
    owned_availability=st.floats(0.6, 1.0),
    rented_availability=st.sampled_from([0.0, 0.4, 1.0]),
    rented_start_s=st.floats(0.0, 1_200.0),
    usable=st.floats(0.5, 1.0),
    short_usd_per_hour=st.sampled_from([0.0, 50.0]),
)
COUNTS = np.arange(4)


@st.composite
def scenario_lists(draw: st.DrawFn) -> tuple[Scenario, ...]:
    made = []
    for _ in range(draw(st.integers(1, 3))):
        weight = np.array(draw(st.lists(st.integers(0, 5), min_size=3, max_size=3).filter(any)), float)
        made.append(Scenario(weight / weight.sum(), tuple(draw(st.lists(INSTANTS, min_size=1, max_size=2)))))
    return tuple(made)


def kept_usd(made: Surface, money: UnitMoney, instant: Instant, row: int, replicas: int) -> float:
    """USD per hour that working replicas keep in one bin: the best level below what they reach, less what is missing."""
    net = instant.api_price * made.api_saved_usd_per_hour[row] - instant.power_price * made.energy_usd_per_hour[row]
    reached = replicas * money.usable / instant.growth
    best = float(np.interp(reached, made.levels, [max(net[: k + 1]) for k in range(len(net))]))
    lacking = max(0.0, instant.growth * float(made.must[row]) - replicas * money.usable)
    return instant.growth * best - money.short_usd_per_hour * lacking


def enumerated_usd(made: Surface, money: UnitMoney, scenario: Scenario, owned: int, reserved: int) -> float:
    """Every set of owned replicas that work, every number of rented ones."""
    usd = 0.0
    for instant in scenario.instants:
        idle_usd = money.idle_usd_per_hour * (instant.power_price - 1.0)
        most = math.ceil(instant.growth * made.levels[-1] / money.usable)
        hourly = owned * (money.owned_usd_per_hour + idle_usd) + reserved * (money.reserved_usd_per_hour + idle_usd)
        for states in itertools.product((True, False), repeat=owned):
            chance = math.prod(money.owned_availability if up else 1.0 - money.owned_availability for up in states)
            working = sum(states) + reserved
            for row, share in enumerate(scenario.weight):
                unavoidable = instant.growth * (
                    instant.api_price * made.all_api_usd_per_hour[row]
                    + instant.power_price * made.must_energy_usd_per_hour[row]
                )
                alone = kept_usd(made, money, instant, row, working)
                best = alone
                if money.rented_usd_per_hour is not None:
                    rent_usd = (money.rented_usd_per_hour + idle_usd) * HOUR_S / (HOUR_S - money.rented_start_s)
                    rent_usd = max(0.0, rent_usd)
                    options = [kept_usd(made, money, instant, row, working + k) - k * rent_usd for k in range(most + 1)]
                    best = money.rented_availability * max(options) + (1.0 - money.rented_availability) * alone
                hourly += chance * share * (unavoidable - best)
        usd += hourly / len(scenario.instants)
    return usd


@settings(max_examples=25)
@given(SEEDS, MONEY, scenario_lists(), st.sampled_from([0.0, 0.3]))
def test_costs_are_those_of_an_enumeration_of_failures_and_rentals(
    seed: int, money: UnitMoney, scenarios: tuple[Scenario, ...], must_share: float
) -> None:
    made = surface(columns(seed, 60, EDGES_S[-1], must_share), EDGES_S, levels=9)
    found = costs(made, money, scenarios, COUNTS, np.array([0, 2]))
    for row, scenario in enumerate(scenarios):
        for owned, (column, reserved) in itertools.product(range(4), enumerate((0, 2))):
            usd = enumerated_usd(made, money, scenario, owned, reserved)
            assert found[row, owned, column] == pytest.approx(usd, rel=1e-9, abs=1e-9)


def bill_usd_per_hour(rows: Columns, replicas: int, usable: float) -> float:
    """The least bill of an hour with so many replicas, by a program that knows each request."""
    must = ~np.isfinite(rows.elsewhere_usd)
    elsewhere_usd = np.where(must, 0.0, rows.elsewhere_usd)
    home = linprog(
        rows.energy_usd - elsewhere_usd,
        rows.work_s[None, :],
        [replicas * usable * HOUR_S],
        bounds=[(1.0 if stays else 0.0, 1.0) for stays in must],
        method="highs",
    )
    assert home.status == 0
    return float(elsewhere_usd.sum() + home.fun)


@settings(max_examples=30)
@given(SEEDS, st.integers(1, 3), st.sampled_from([0.5, 1.0]), st.sampled_from([0.0, 0.1]))
def test_replicas_that_never_fail_cost_their_price_and_the_least_bill_of_a_linear_program(
    seed: int, owned: int, usable: float, must_share: float
) -> None:
    rows = columns(seed, 30, HOUR_S, must_share)
    edges_s = np.array([0.0, HOUR_S])
    load = rows.work_s.sum() / HOUR_S
    # Levels at whole replicas, so that no interpolation lies between.
    levels = np.arange(0.0, math.ceil(load / usable) + 4) * usable
    money = UnitMoney(1.0, usable=usable, short_usd_per_hour=1e6)
    made = surface_of(rows, edges_s, levels)
    owned += math.ceil(float(made.must[0]) / usable)
    found = costs(made, money, (Scenario(np.ones(1), (TODAY,)),), np.array([owned]), np.array([0]))
    assert found[0, 0, 0] == pytest.approx(owned + bill_usd_per_hour(rows, owned, usable), rel=1e-6)


@settings(max_examples=40)
@given(SEEDS, MONEY, scenario_lists(), st.integers(0, 4), st.integers(0, 3), st.sampled_from([0.0, 0.3]))
def test_the_parts_add_up_to_the_mean_of_the_costs(
    seed: int, money: UnitMoney, scenarios: tuple[Scenario, ...], owned: int, reserved: int, must_share: float
) -> None:
    made = surface(columns(seed, 60, EDGES_S[-1], must_share), EDGES_S, levels=9)
    found = parts(made, money, scenarios, owned, reserved)
    total = costs(made, money, scenarios, np.array([owned]), np.array([reserved])).mean()
    assert found.costs.total + found.short_usd_per_hour == pytest.approx(float(total), rel=1e-9, abs=1e-9)
    assert found.costs.rented >= 0.0
    assert found.costs.api >= -1e-9
    assert found.rented.max() <= 40
    assert (found.rented > 0.0).any() <= (found.rented_max > 0 or money.owned_availability < 1.0)


@settings(max_examples=40)
@given(SEEDS, st.floats(0.5, 4.0), st.floats(0.6, 1.0))
def test_one_more_owned_replica_saves_less_than_the_one_before(seed: int, growth: float, availability: float) -> None:
    made = surface(columns(seed, 100, EDGES_S[-1]), EDGES_S, levels=33)
    scenarios = (Scenario(AS_IS[0].weight, (Instant(growth, 1.0, 1.0),)),)
    money = UnitMoney(0.7, None, 2.0, owned_availability=availability)
    usd = costs(made, money, scenarios, np.arange(10), np.array([0]))[0, :, 0]
    assert (np.diff(usd, 2) >= -1e-9).all()


def one_hour(*requests: tuple[float, float, float]) -> tuple[Surface, tuple[Scenario, ...]]:
    """Requests of (replica-hours, USD elsewhere, USD of energy) in one hour."""
    work_h, elsewhere_usd, energy_usd = np.array(requests, float).T
    rows = Columns(np.zeros(len(work_h)), work_h * HOUR_S, elsewhere_usd, energy_usd)
    made = surface_of(rows, np.array([0.0, HOUR_S]), np.arange(0.0, 9.0))
    return made, (Scenario(np.ones(1), (TODAY,)),)


def test_an_hour_is_rented_where_it_saves_more_than_it_costs() -> None:
    made, scenarios = one_hour((1.0, 5.0, 1.0), (1.0, 3.0, 1.0), (1.0, 2.0, 1.0))
    # Saves 4, 2 and 1 USD; all that is bought costs 10.
    for rent_usd, rented, usd in ((0.5, 3, 4.5), (1.5, 2, 7.0), (2.5, 1, 8.5), (4.5, 0, 10.0)):
        money = UnitMoney(None, None, rent_usd)
        found = parts(made, money, scenarios, 0, 0)
        assert (found.rented_max, found.rented.tolist()) == (rented, [rented])
        assert found.costs.total == pytest.approx(usd)
        assert found.costs.rented == pytest.approx(rented * rent_usd)
    # An owned one takes the place of the first.
    found = parts(made, UnitMoney(0.1, None, 1.5), scenarios, 1, 0)
    assert (found.rented_max, found.home_usd_per_hour.tolist()) == (1, [6.0])
    assert found.costs.energy == pytest.approx(2.0)
    assert found.costs.api == pytest.approx(2.0)


def test_a_rented_replica_is_paid_for_while_it_starts() -> None:
    money = UnitMoney(None, None, 1.5, rented_start_s=900.0)
    assert money.rent_usd_per_hour() == pytest.approx(2.0)
    assert replace(money, rented_hold_s=9_000.0).rent_usd_per_hour() == pytest.approx(1.5 / 0.9)
    assert replace(money, rented_start_s=3_600.0).rent_usd_per_hour() == math.inf
    assert replace(money, idle_usd_per_hour=0.3).rent_usd_per_hour(2.0) == pytest.approx(1.8 / 0.75)
    made, scenarios = one_hour((1.0, 2.8, 1.0))
    assert parts(made, money, scenarios, 0, 0).rented_max == 0
    assert parts(made, replace(money, rented_start_s=0.0), scenarios, 0, 0).rented_max == 1


def test_what_can_seldom_be_rented_is_bought_in_the_other_hours() -> None:
    made, scenarios = one_hour((1.0, 5.0, 1.0))
    found = parts(made, UnitMoney(None, None, 2.0, rented_availability=0.25), scenarios, 0, 0)
    assert found.rented.tolist() == [0.25]
    assert found.costs.total == pytest.approx(0.25 * 3.0 + 0.75 * 5.0)


def test_a_spare_replica_pays_where_missing_work_that_must_stay_is_dear() -> None:
    made, scenarios = one_hour((1.0, np.inf, 1.0))
    for short_usd, best in ((10.0, 1), (1_000.0, 2)):
        money = UnitMoney(1.0, owned_availability=0.98, short_usd_per_hour=short_usd)
        usd = costs(made, money, scenarios, np.arange(5), np.array([0]))[0, :, 0]
        assert int(np.argmin(usd)) == best
        assert usd[1] == pytest.approx(1.0 + 1.0 + 0.02 * short_usd)
    assert parts(made, money, scenarios, 1, 0).short_usd_per_hour == pytest.approx(20.0)


def test_what_would_cost_more_at_home_at_new_prices_stays_away() -> None:
    made, _ = one_hour((1.0, 5.0, 1.0), (1.0, 3.0, 2.0))
    dear_power = (Scenario(np.ones(1), (Instant(1.0, 1.0, 2.0),)),)
    found = parts(made, UnitMoney(1.0), dear_power, 2, 0)
    # The second would save 3 and draw 4.
    assert (found.costs.api, found.costs.energy) == (pytest.approx(3.0), pytest.approx(2.0))
    assert parts(made, UnitMoney(1.0, idle_usd_per_hour=0.2), dear_power, 2, 0).costs.owned == pytest.approx(2.4)


def test_far_more_replicas_than_are_of_use_cost_no_more_than_their_price() -> None:
    made, scenarios = one_hour((1.0, 5.0, 1.0))
    usd = costs(made, UnitMoney(1.0, 2.0, 3.0), scenarios, np.array([1, 500]), np.array([0, 400]))[0]
    assert usd.tolist() == [[2.0, 802.0], [501.0, 1301.0]]


def test_what_is_not_to_be_had_and_other_time_bins_are_errors() -> None:
    made, scenarios = one_hour((1.0, 5.0, 1.0))
    with pytest.raises(ValueError, match="cannot be owned"):
        costs(made, UnitMoney(None), scenarios, np.arange(2), np.array([0]))
    with pytest.raises(ValueError, match="cannot be reserved"):
        costs(made, UnitMoney(1.0), scenarios, np.array([0]), np.array([1]))
    assert costs(made, UnitMoney(None), scenarios, np.array([0]), np.array([0])).shape == (1, 1, 1)
    with pytest.raises(ValueError, match="3 time bins for a surface of 1"):
        costs(made, UnitMoney(1.0), AS_IS, np.array([0]), np.array([0]))
