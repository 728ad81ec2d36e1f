"""Surfaces: the fractional knapsack of each bin by a linear program, its shape, and what growth does to it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from scheduler.planning.surface import Surface, load_of, surface_of
from tests.support.planning_rows import HOUR_S, Columns, columns, surface

SEEDS = st.integers(0, 10_000)
EDGES_S = np.array([0.0, 1_800.0, 3_600.0, 9_000.0])


def rows_of(*requests: tuple[float, float, float, float], stands_for: float = 1.0) -> Columns:
    """Requests as (at_s, work_s, elsewhere_usd, energy_usd)."""
    at_s, work_s, elsewhere_usd, energy_usd = np.array(requests, float).reshape(-1, 4).T
    return Columns(at_s, work_s, elsewhere_usd, energy_usd, stands_for)


def program_usd(rows: Columns, here: np.ndarray, room_s: float) -> float | None:
    """The most that the requests ``here`` can save in ``room_s`` replica-seconds; what must stay is served. None: no room."""
    must = ~np.isfinite(rows.elsewhere_usd[here])
    saved_usd = np.where(must, 0.0, np.where(must, 0.0, rows.elsewhere_usd[here]) - rows.energy_usd[here])
    bounds = [(1.0 if stays else 0.0, 1.0) for stays in must]
    found = linprog(-saved_usd, rows.work_s[here][None, :], [room_s], bounds=bounds, method="highs")
    return -float(found.fun) if found.status == 0 else None


@settings(max_examples=40)
@given(SEEDS, st.integers(1, 40), st.sampled_from([0.0, 0.3]))
def test_each_level_saves_what_a_linear_program_saves(seed: int, count: int, must_share: float) -> None:
    rows = columns(seed, count, EDGES_S[-1], must_share)
    made = surface(rows, EDGES_S, levels=7)
    net = made.api_saved_usd_per_hour - made.energy_usd_per_hour
    for row, (start_s, end_s) in enumerate(pairwise(EDGES_S)):
        here = (rows.at_s >= start_s) & (rows.at_s < end_s)
        for level, usd in zip(made.levels, net[row], strict=True):
            best = program_usd(rows, here, level * (end_s - start_s)) if here.any() else 0.0
            # Where there is no room for all that must stay, nothing else goes home.
            assert usd * (end_s - start_s) / HOUR_S == pytest.approx(best or 0.0, rel=1e-6, abs=1e-9)


@settings(max_examples=60)
@given(SEEDS, st.integers(0, 200), st.sampled_from([0.0, 0.2]))
def test_savings_rise_and_are_concave_above_what_must_stay(seed: int, count: int, must_share: float) -> None:
    made = surface(columns(seed, count, EDGES_S[-1], must_share), EDGES_S, levels=33)
    net = made.api_saved_usd_per_hour - made.energy_usd_per_hour
    slopes = np.diff(net, axis=1) / np.diff(made.levels)
    assert (slopes >= -1e-9).all()
    free = made.levels[:-1][None, :] >= made.must[:, None]
    falls = np.diff(slopes, axis=1) <= 1e-6 * max(1.0, slopes.max(initial=0.0))
    assert falls[free[:, :-1]].all()
    assert (net[made.levels[None, :] <= made.must[:, None]] == 0.0).all()


@settings(max_examples=40)
@given(SEEDS, st.floats(0.2, 5.0), st.floats(0.0, 3.0), st.sampled_from([0.0, 0.3]))
def test_growth_times_the_requests_is_growth_of_what_a_share_of_the_capacity_saves(
    seed: int, growth: float, capacity: float, must_share: float
) -> None:
    rows = columns(seed, 60, EDGES_S[-1], must_share)
    today = surface(rows, EDGES_S)
    grown = surface_of(replace(rows, stands_for=growth), EDGES_S, today.levels * growth)
    assert today.saved(capacity, growth) == pytest.approx(grown.saved(capacity), rel=1e-9, abs=1e-12)
    assert grown.must == pytest.approx(growth * today.must)
    assert grown.all_api_usd_per_hour == pytest.approx(growth * today.all_api_usd_per_hour)


@given(SEEDS)
def test_a_row_that_stands_for_three_is_three_rows(seed: int) -> None:
    rows = columns(seed, 30, EDGES_S[-1], 0.2)
    thrice = Columns(*(np.repeat(getattr(rows, name), 3) for name in ("at_s", "work_s", "elsewhere_usd", "energy_usd")))
    once, many = surface(replace(rows, stands_for=3.0), EDGES_S), surface(thrice, EDGES_S)
    for name in Surface.__dataclass_fields__:
        assert getattr(once, name) == pytest.approx(getattr(many, name), rel=1e-9, abs=1e-12)


def test_an_example_by_hand() -> None:
    # One hour. Worth 3 USD in half an hour of work, 2 in a whole one; a third costs more at home than elsewhere.
    rows = rows_of((0.0, 1_800.0, 4.0, 1.0), (10.0, 3_600.0, 2.5, 0.5), (20.0, 3_600.0, 1.0, 2.0))
    made = surface_of(rows, np.array([0.0, 3_600.0]), np.array([0.0, 0.25, 0.5, 1.0, 2.0]))
    assert made.api_saved_usd_per_hour.tolist() == [[0.0, 2.0, 4.0, 5.25, 6.5]]
    assert made.energy_usd_per_hour.tolist() == [[0.0, 0.5, 1.0, 1.25, 1.5]]
    assert made.all_api_usd_per_hour.tolist() == [7.5]
    assert (made.load.tolist(), made.must.tolist(), made.hours.tolist()) == ([2.5], [0.0], [1.0])
    assert made.saved(0.75).tolist() == [3.5]
    assert made.saved(np.array([9.0])).tolist() == [5.0]
    assert made.saved(1.5, growth=2.0).tolist() == [7.0]


def test_what_must_stay_goes_first_and_is_told_apart() -> None:
    rows = rows_of((0.0, 1_800.0, np.inf, 1.0), (10.0, 1_800.0, 9.0, 1.0))
    made = surface_of(rows, np.array([0.0, 3_600.0]), np.array([0.0, 0.5, 1.0]))
    assert made.must.tolist() == [0.5]
    assert made.must_energy_usd_per_hour.tolist() == [1.0]
    assert made.saved(0.5).tolist() == [0.0]
    assert made.saved(1.0).tolist() == [8.0]
    assert made.all_api_usd_per_hour.tolist() == [9.0]


def test_what_cannot_be_served_here_is_bought_and_is_no_load() -> None:
    rows = rows_of((0.0, np.inf, 5.0, 1.0), (0.0, 3_600.0, 2.0, 1.0))
    edges_s = np.array([0.0, 3_600.0])
    made = surface_of(rows, edges_s, np.array([0.0, 1.0]))
    assert made.all_api_usd_per_hour.tolist() == [7.0]
    assert made.load.tolist() == load_of(rows, edges_s).tolist() == [1.0]
    assert made.saved(9.0).tolist() == [1.0]


def test_single_precision_columns_are_summed_in_double() -> None:
    count = 200_000
    rows = Columns(
        np.linspace(0.0, 3_599.0, count), np.full(count, 0.1),
        np.full(count, 0.3, np.float32), np.full(count, 0.1, np.float32),
    )  # fmt: skip
    made = surface(rows, np.array([0.0, 3_600.0]))
    assert made.saved(1e9)[0] == pytest.approx(count * (float(np.float32(0.3)) - float(np.float32(0.1))), rel=1e-9)


def test_the_end_of_the_last_bin_belongs_to_it_and_nothing_lies_outside() -> None:
    rows = rows_of((0.0, 1.0, 1.0, 0.0), (3_600.0, 1.0, 1.0, 0.0))
    assert surface(rows, np.array([0.0, 3_600.0])).all_api_usd_per_hour.tolist() == [2.0]
    with pytest.raises(ValueError, match="1 requests lie outside"):
        surface(rows, np.array([0.0, 1_800.0]))
    with pytest.raises(ValueError, match="1 requests lie outside"):
        surface(rows, np.array([1.0, 3_600.0]))


def test_levels_that_end_below_what_is_worth_serving_are_an_error() -> None:
    rows = rows_of((0.0, 3_600.0, 1.0, 0.0))
    with pytest.raises(ValueError, match=r"levels end at 0\.5 replicas"):
        surface_of(rows, np.array([0.0, 3_600.0]), np.array([0.0, 0.5]))
    # What never goes home needs no level.
    surface_of(rows_of((0.0, 3_600.0, 1.0, 2.0)), np.array([0.0, 3_600.0]), np.array([0.0, 0.5]))


@pytest.mark.parametrize("levels", [[0.0], [0.5, 1.0], [0.0, 1.0, 1.0]])
def test_levels_that_do_not_ascend_from_zero_are_an_error(levels: list[float]) -> None:
    with pytest.raises(ValueError, match="levels ascend from 0"):
        surface_of(rows_of((0.0, 1.0, 1.0, 0.0)), np.array([0.0, 3_600.0]), np.array(levels))


def test_what_must_stay_and_cannot_be_served_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 requests have to stay and cannot"):
        surface_of(rows_of((0.0, np.inf, np.inf, 0.0)), np.array([0.0, 3_600.0]), np.array([0.0, 1.0]))
