"""CVaR against a linear program and repeated values; the search against every combination."""

from __future__ import annotations

import doctest
import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from scheduler.config.planning import PlanningSpec, Uncertain
from scheduler.planning import search as planning_search
from scheduler.planning.recourse import UnitMoney, costs
from scheduler.planning.scenarios import draw
from scheduler.planning.search import UnitCosts, cvar, objective, search, summary
from tests.support.planning_rows import columns, surface

SEEDS = st.integers(0, 10_000)
USD = st.lists(st.floats(-100.0, 100.0), min_size=1, max_size=30)
SHARES = st.floats(0.01, 1.0)


def test_the_example_in_the_docstring_holds() -> None:
    assert doctest.testmod(planning_search).attempted >= 1
    assert doctest.testmod(planning_search).failed == 0


@given(USD, SHARES)
def test_cvar_is_the_least_of_rockafellar_and_uryasevs_program(usd: list[float], share: float) -> None:
    count = len(usd)
    # min t + sum(over) / (share * count), over >= usd - t, over >= 0
    found = linprog(
        np.append(1.0, np.full(count, 1.0 / (share * count))),
        np.column_stack([-np.ones(count), -np.eye(count)]),
        -np.array(usd),
        bounds=[(None, None), *[(0.0, None)] * count],
        method="highs",
    )
    assert cvar(np.array(usd), share) == pytest.approx(found.fun, rel=1e-6, abs=1e-6)


@given(st.lists(st.integers(-100, 100), min_size=1, max_size=12), st.integers(1, 40))
def test_cvar_is_the_mean_of_the_worst_when_each_value_is_repeated_often_enough(usd: list[int], fortieths: int) -> None:
    worst = sorted((value for value in usd for _ in range(40)), reverse=True)[: fortieths * len(usd)]
    wanted = Fraction(sum(worst), len(worst))
    assert cvar(np.array(usd, float), fortieths / 40) == pytest.approx(float(wanted))


@given(SEEDS, SHARES, st.integers(1, 20), st.integers(1, 5))
def test_cvar_of_many_columns_is_that_of_each(seed: int, share: float, rows: int, count: int) -> None:
    usd = np.random.default_rng(seed).normal(size=(rows, count))
    assert cvar(usd, share) == pytest.approx(np.array([float(cvar(column, share)) for column in usd.T]))


def test_all_is_the_mean_and_the_smallest_share_is_the_maximum() -> None:
    usd = np.array([3.0, 9.0, 6.0])
    assert float(cvar(usd, 1.0)) == pytest.approx(6.0)
    assert float(cvar(usd, 0.01)) == 9.0
    for share in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="a share is above 0"):
            cvar(usd, share)


def exhausted(units: list[UnitCosts], risk_weight: float, share: float) -> float:
    """The least objective over every combination."""
    flats = [unit.usd_per_hour.reshape(len(unit.usd_per_hour), -1) for unit in units]
    least = np.inf
    for combination in itertools.product(*(range(flat.shape[1]) for flat in flats)):
        usd = sum(flat[:, choice] for flat, choice in zip(flats, combination, strict=True))
        worst = np.sort(usd)[::-1]
        weights = np.clip(share * len(worst) - np.arange(len(worst)), 0.0, 1.0)
        least = min(least, float(usd.mean()) + risk_weight * float(weights @ worst / weights.sum()))
    return least


def said_usd(units: list[UnitCosts], owned: tuple[int, ...], reserved: tuple[int, ...]) -> np.ndarray:
    """What the units' tables say of a choice."""
    return np.sum(
        [
            unit.usd_per_hour[:, unit.owned.tolist().index(n), unit.reserved.tolist().index(m)]
            for unit, n, m in zip(units, owned, reserved, strict=True)
        ],
        axis=0,
    )


@settings(max_examples=150)
@given(SEEDS, st.integers(1, 3), st.integers(1, 8), st.floats(0.0, 5.0), SHARES, st.booleans())
def test_the_search_finds_the_best_of_every_combination_whatever_the_costs(
    seed: int, count: int, scenarios: int, risk_weight: float, share: float, ties: bool
) -> None:
    rng = np.random.default_rng(seed)
    units = []
    for _ in range(count):
        owned, reserved = np.arange(rng.integers(1, 5)), np.arange(rng.integers(1, 4)) * 2
        usd = rng.normal(size=(scenarios, len(owned), len(reserved)))
        units.append(UnitCosts(owned, reserved, np.round(usd) if ties else usd))
    best = search(units, risk_weight, share)
    assert best.objective == pytest.approx(exhausted(units, risk_weight, share), abs=1e-9)
    assert best.bound == best.objective
    assert best.usd_per_hour == pytest.approx(said_usd(units, best.owned, best.reserved))
    assert best.objective == pytest.approx(float(objective(best.usd_per_hour, risk_weight, share)))


@settings(max_examples=15)
@given(SEEDS, st.sampled_from([0.0, 0.1, 1.0, 10.0]), st.sampled_from([0.05, 0.1, 0.33]))
def test_the_search_finds_the_best_of_every_combination_of_real_units(
    seed: int, risk_weight: float, share: float
) -> None:
    edges_s = np.linspace(0.0, 3_600.0, 13)
    spec = PlanningSpec(growth_per_year=Uncertain(mean=0.4, sd=0.5), api_price_per_year=Uncertain(mean=-0.3, sd=0.3))
    scenarios = draw(spec, edges_s, seed, 12)
    units = []
    for unit in range(3):
        made = surface(columns(seed + unit, 80, 3_600.0, 0.1 * unit), edges_s, levels=9)
        money = UnitMoney(0.8 + 0.2 * unit, 0.7, 1.5 if unit else None, owned_availability=0.95)
        owned, reserved = np.arange(5), np.arange(2)
        units.append(UnitCosts(owned, reserved, costs(made, money, scenarios, owned, reserved)))
    best = search(units, risk_weight, share)
    assert best.objective == pytest.approx(exhausted(units, risk_weight, share))
    assert best.bound == best.objective


def test_one_unit_hedges_another() -> None:
    # Each unit alone would take its first choice; together the tails of both coincide, and one of them turns away.
    one = UnitCosts(np.arange(2), np.array([0]), np.array([[0.0, 1.0], [10.0, 9.5]])[:, :, None])
    two = UnitCosts(np.arange(2), np.array([0]), np.array([[0.0, 6.0], [10.0, 4.5]])[:, :, None])
    assert search([one, two], 0.0, 0.5).owned == (0, 0)
    assert search([one, two], 10.0, 0.5).owned == (1, 1)


def test_a_search_that_is_cut_short_says_what_it_has_not_proven() -> None:
    rng = np.random.default_rng(1)
    units = [UnitCosts(np.arange(6), np.arange(6), rng.normal(size=(20, 6, 6))) for _ in range(3)]
    full, cut = search(units, 3.0, 0.1), search(units, 3.0, 0.1, visits_max=0)
    assert cut.bound < full.objective <= cut.objective
    assert full.bound == full.objective


def test_units_without_common_scenarios_are_an_error() -> None:
    made = [UnitCosts(np.arange(1), np.arange(1), np.zeros((count, 1, 1))) for count in (1, 2)]
    for units in ([], made):
        with pytest.raises(ValueError, match="all with the same scenarios"):
            search(units, 0.1, 0.1)


def test_a_summary_is_mean_percentiles_and_the_mean_of_the_worst_tenth() -> None:
    found = summary(np.arange(101.0)[::-1])
    assert (found.mean, found.p10, found.p50, found.p90) == pytest.approx((50.0, 10.0, 50.0, 90.0))
    # The worst 10.1 values: 100 to 91, and a tenth of 90.
    assert found.cvar == pytest.approx((955.0 + 9.0) / 10.1)
    assert summary(np.array([7.0])).p10 == summary(np.array([7.0])).cvar == 7.0
