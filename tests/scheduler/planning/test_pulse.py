"""Ups and downs from minute to minute: all of them are seen, and none that are chance of a sample."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.fleet import CommitmentPolicy
from scheduler.planning.hourly import UnitMoney
from scheduler.planning.pulse import pulse
from scheduler.planning.rehearsal import rehearse
from tests.support.planning_rows import Columns, columns, surface

BIN_S, SPAN_S = 600.0, 60.0
EDGES_S = BIN_S * np.arange(13)
TICKS_S = SPAN_S * np.arange(1, 121)


def rows_at(at_s: np.ndarray, work_s: float, stands_for: float = 1.0) -> Columns:
    """Requests all alike at these instants."""
    alike = np.ones(len(at_s))
    return Columns(np.sort(at_s), work_s * alike, 0.01 * work_s * alike, 0.0 * alike, stands_for)


def sampled(rows: Columns, times: float, seed: int) -> Columns:
    """One request of so many, each of which stands for that many."""
    kept = np.random.default_rng(seed).random(len(rows.at_s)) < 1.0 / times
    found = (each[kept] for each in (rows.at_s, rows.work_s, rows.elsewhere_usd, rows.energy_usd))
    return Columns(*found, stands_for=times)


@settings(max_examples=50)
@given(seed=st.integers(0, 1000), count=st.integers(1, 400))
def test_over_a_bin_the_minutes_make_its_mean(seed: int, count: int) -> None:
    rows = columns(seed, count, EDGES_S[-1])
    of = surface(rows, EDGES_S)
    minutes = np.repeat(of.load, 10) * pulse(rows, of, TICKS_S, SPAN_S)
    assert minutes.reshape(-1, 10).mean(axis=1) == pytest.approx(of.load, rel=1e-6, abs=1e-9)


def test_whoever_comes_on_the_edge_of_a_bin_is_seen_in_that_bin() -> None:
    rows = rows_at(np.array([0.0, BIN_S, 2.0 * BIN_S, EDGES_S[-1]]), 30.0)
    of = surface(rows, EDGES_S)
    minutes = (np.repeat(of.load, 10) * pulse(rows, of, TICKS_S, SPAN_S)).reshape(-1, 10)
    assert minutes[:3, 0] == pytest.approx(np.full(3, 30.0 / SPAN_S))
    assert minutes.sum() == pytest.approx(4 * 30.0 / SPAN_S)


def test_what_is_chance_of_a_sample_is_no_pulse() -> None:
    everything = rows_at(np.random.default_rng(1).random(100_000) * EDGES_S[-1], 0.5)
    few = sampled(everything, 50.0, 2)
    of_all, of_few = (pulse(rows, surface(rows, EDGES_S), TICKS_S, SPAN_S) for rows in (everything, few))
    untold = replace(few, stands_for=1.0)  # as if those few were all there are
    taken_for_real = pulse(untold, surface(untold, EDGES_S), TICKS_S, SPAN_S)
    assert taken_for_real.std() > 5.0 * of_all.std()
    assert of_few.std() < 3.0 * of_all.std()


def test_bursts_that_are_real_stay_in_a_sample() -> None:
    rng = np.random.default_rng(3)
    first_minutes = rng.integers(0, 12, 60_000) * BIN_S + SPAN_S * rng.random(60_000)
    few = sampled(rows_at(first_minutes, 0.5), 20.0, 4)
    found = pulse(few, surface(few, EDGES_S), TICKS_S, SPAN_S).reshape(-1, 10)
    assert found[:, 0] == pytest.approx(np.full(12, 10.0), rel=0.05)
    assert found[:, 1:].max() < 0.2


def test_the_clock_rents_for_bursts_that_a_bin_hides() -> None:
    """Every fourth minute brings four times its bin's load: the replicas that are owned are too few for that alone."""
    rng = np.random.default_rng(5)
    fourth = SPAN_S * (4.0 * rng.integers(0, 30, 20_000) + rng.random(20_000))
    rows = rows_at(fourth, work_s=4.0 * EDGES_S[-1] / 20_000)
    of = surface(rows, EDGES_S)
    assert of.load.max() < 5.4  # of six, a tenth of each kept free
    money = UnitMoney(owned_usd_per_hour=1.0, rented_usd_per_hour=2.0)
    told = {"owned": 6, "policy": CommitmentPolicy(), "every_s": SPAN_S, "start_s": 60.0}
    assert not rehearse(of, money, **told).held.any()
    assert rehearse(of, money, **told, requests=rows).held.max() >= 3


def test_what_rented_replicas_add_in_a_burst_counts_as_saved() -> None:
    """In one minute of four the load is twelve, in the others none; six are owned, six more are there from the beginning."""
    rows = rows_at(np.repeat(4.0 * SPAN_S * np.arange(30), 10) + np.tile(np.arange(10.0), 30), work_s=72.0)
    of = surface(rows, EDGES_S)
    money = UnitMoney(owned_usd_per_hour=1.0, rented_usd_per_hour=2.0)
    found = rehearse(of, money, 6, CommitmentPolicy(), SPAN_S, 60.0, requests=rows)
    assert found.times.reshape(-1, 4).max(axis=0)[1:] == pytest.approx(np.zeros(3))
    all_there, none = (replace(found, working=np.full(len(found.at_s), count)) for count in (6.0, 0.0))
    added_usd = all_there.saved_usd_per_hour(of, money, 6) - none.saved_usd_per_hour(of, money, 6)
    usd_per_work_hour = float((rows.elsewhere_usd / rows.work_s).mean()) * 3600.0
    assert added_usd == pytest.approx(6.0 / 4.0 * usd_per_work_hour, rel=0.02)
