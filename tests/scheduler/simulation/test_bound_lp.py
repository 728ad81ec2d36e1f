"""The staircase program: exact for one deadline, a relaxation for several, and nothing in common with the greedy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.simulation.bound.edf import Pieces, Steps, place
from scheduler.simulation.bound.lp import staircase
from tests.support.bound_cases import SEEDS, capacity, flow_usd, pieces


def greedy_usd(made: Pieces, delta_s: np.ndarray, pool: Steps) -> float:
    placed = place(made, delta_s, pool)
    free = np.isfinite(made.density)
    return float(np.dot(placed.work_s[free], made.density[free]))


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(1, 80), st.booleans(), st.integers(1, 3))
def test_with_one_deadline_the_program_and_the_greedy_agree(seed: int, count: int, ties: bool, steps: int) -> None:
    made, delta_s = pieces(seed, count, 1, ties)
    pool = capacity(seed, steps)
    usd, share = staircase(made, delta_s, pool)
    assert usd == pytest.approx(greedy_usd(made, delta_s, pool), rel=1e-6, abs=1e-7)
    assert usd == pytest.approx(float(np.dot(share, made.work_s * made.density)))


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(1, 60), st.integers(2, 3), st.integers(1, 3))
def test_with_several_deadlines_the_program_never_saves_less_than_the_greedy(
    seed: int, count: int, kinds: int, steps: int
) -> None:
    made, delta_s = pieces(seed, count, kinds)
    pool = capacity(seed, steps)
    assert staircase(made, delta_s, pool)[0] >= greedy_usd(made, delta_s, pool) - 1e-6


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 25))
def test_the_greedy_lies_between_flows_and_staircase(seed: int, count: int) -> None:
    made, delta_s = pieces(seed, count, 3)
    pool = capacity(seed)
    exact, relaxed = flow_usd(made, delta_s, pool), staircase(made, delta_s, pool)[0]
    assert exact - 1e-6 <= greedy_usd(made, delta_s, pool) <= relaxed + 1e-6


def test_a_staircase_misses_urgent_work_that_arrives_before_patient_work_is_due() -> None:
    # One replica; 2 s of patient work at 0 and 0.5 s of urgent work at 1.5, all due at 2. When the urgent work comes, the
    # backlog of both is 1 s, which would be fine if the patient work were due two seconds from then.
    made = Pieces(np.array([0.0, 1.5]), np.array([1, 0]), np.array([2.0, 0.5]), np.array([1.0, 1.0]))
    delta_s, pool = np.array([0.5, 2.0]), Steps(np.zeros(1), np.ones(1))
    assert greedy_usd(made, delta_s, pool) == pytest.approx(2.0)
    assert staircase(made, delta_s, pool)[0] == pytest.approx(2.5)


def test_what_has_to_be_served_is_served_though_it_is_worth_nothing() -> None:
    made = Pieces(np.array([0.0, 0.0]), np.array([0, 0]), np.array([0.75, 1.0]), np.array([np.inf, 4.0]))
    usd, share = staircase(made, np.array([1.0]), Steps(np.zeros(1), np.ones(1)))
    assert usd == pytest.approx(1.0)
    assert share.tolist() == pytest.approx([1.0, 0.25])


def test_what_has_to_be_served_and_does_not_fit_is_an_error() -> None:
    made = Pieces(np.array([0.0]), np.array([0]), np.array([2.0]), np.array([np.inf]))
    with pytest.raises(ValueError, match="no solution"):
        staircase(made, np.array([1.0]), Steps(np.zeros(1), np.ones(1)))


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.floats(1.0, 3.0))
def test_the_program_is_monotone_in_capacity_and_bounded_by_its_integral(seed: int, factor: float) -> None:
    made, delta_s = pieces(seed, 30)
    pool = capacity(seed)
    usd, share = staircase(made, delta_s, pool)
    assert staircase(made, delta_s, pool._replace(level=pool.level * factor))[0] >= usd - 1e-7
    end_s = made.arrival_s.max() + delta_s[-1]
    room_s = np.diff(pool.integral(np.array([made.arrival_s.min(), end_s])))[0]
    assert np.dot(share, made.work_s) <= room_s + 1e-6
