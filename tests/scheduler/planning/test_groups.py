"""Groups and slices: what the mixed-integer program is told adds up to the requests, and its answer is read back rightly."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.planning.capacity import solve
from scheduler.planning.groups import SLICES, Grouped, grouped, load_of
from scheduler.planning.requests import PoolRequests, Requests
from scheduler.planning.sizes import bucket_of
from scheduler.planning.technologies import Technology, technologies_of
from scheduler.planning.units import units_of
from scheduler.simulation.scenario import EPOCH_S, Window
from tests.support.planning_sites import BIG_GPU, SMALL_GPU, fleet, priced, scenario

SEEDS = st.integers(0, 2**32 - 1)
HOUR_S = 3_600.0


@cache
def technologies() -> tuple[Technology, ...]:
    """Of the fleet: two for the small model, two for the middle one, one for the large one."""
    return technologies_of(fleet(SMALL_GPU, BIG_GPU), EPOCH_S)


@cache
def real() -> Requests:
    """An hour or two of it, each row for 2.5 requests."""
    config = fleet(SMALL_GPU, BIG_GPU)
    of = scenario(config, copies=2.5)
    return priced(config, of, rows_max=of.requests_expected(of.judged) // 2)


def edges(bins: int, span_s: float = HOUR_S) -> np.ndarray:
    """Of so many bins of one length."""
    return np.linspace(0.0, span_s, bins + 1)


def pool(at_s: list[float], **columns: Any) -> PoolRequests:
    """Requests of one profile and size on the small model, of one replica-second each; ``columns`` replace that."""
    count = len(at_s)
    plain = {
        "profile": np.zeros(count, np.int16), "input_tokens": np.full(count, 100), "output_tokens": np.full(count, 10),
        "elsewhere_usd": np.ones(count, np.float32), "work_s": np.ones((2, count)), "energy_usd": np.zeros((2, count)),
        "stands_for": 1.0,
    }  # fmt: skip
    own = tuple(t for t in technologies() if t.pool == "llama-8b")
    given_columns = {name: np.asarray(value) for name, value in columns.items() if name != "stands_for"}
    return PoolRequests(pool="llama-8b", technologies=own, at_s=np.array(at_s), **(plain | columns | given_columns))


def hour(*pools: PoolRequests) -> Requests:
    """An hour of these."""
    return Requests(
        Window(0.0, HOUR_S), pools, 1.0, sum(map(len, pools)), 1.0, 1.0, 0.0, 0.0, 0.0, np.zeros(0), np.zeros(0)
    )


@given(st.integers(1, 200))
@settings(max_examples=30)
def test_rates_times_hours_are_the_requests_of_every_group(bins: int) -> None:
    made = grouped(real(), technologies(), edges(bins, real().window.end_s))
    span_s = real().window.end_s
    counts = (made.problem.rate * made.problem.hours).sum(axis=1) * span_s
    expected = {}
    for of in real().pools:
        for profile, bucket in zip(of.profile.tolist(), bucket_of(of.input_tokens).tolist(), strict=True):
            key = (of.pool, profile, bucket)
            expected[key] = expected.get(key, 0.0) + of.stands_for
    assert dict(zip(made.of, counts.tolist(), strict=True)) == pytest.approx(expected)
    assert made.problem.hours.sum() == pytest.approx(1.0)
    assert len(made.problem.hours) <= min(bins, SLICES)


@given(SEEDS, st.integers(1, 60), st.integers(1, 120))
def test_slices_hold_bins_of_about_one_load_the_highest_first(seed: int, bins: int, count: int) -> None:
    at_s = np.sort(np.random.default_rng(seed).random(count)) * HOUR_S
    alike = pool(at_s.tolist())
    found = grouped(hour(alike), technologies(), edges(bins)).problem
    sizes = np.round(found.hours * bins).astype(int)
    assert sizes.sum() == bins
    assert (np.diff(sizes) >= -1).all()  # thinner where the load is high
    # The duration curve by hand: busy seconds of each bin, sorted, a mean for each slice.
    busy = sorted((sum(1.0 for t in at_s if int(t // (HOUR_S / bins)) == i) for i in range(bins)), reverse=True)
    means = [float(np.mean(part)) * bins / HOUR_S for part in np.split(np.array(busy), np.cumsum(sizes)[:-1])]
    assert found.rate[0].tolist() == pytest.approx(means)


def test_load_is_the_work_of_a_bin_over_its_length_on_the_first_technology_that_fits() -> None:
    of = pool([10.0, 20.0, 50.0, 130.0], work_s=[[6.0, math.inf, 3.0, 1.0], [9.0, 30.0, 9.0, 9.0]], stands_for=2.0)
    assert load_of(of, edges(3, 180.0)).tolist() == pytest.approx([2 * 39 / 60, 0.0, 2 * 1 / 60])


def test_every_group_is_the_mean_of_its_requests() -> None:
    made = grouped(real(), technologies(), edges(12, real().window.end_s))
    names = [t.name for t in technologies()]
    for row, (name, profile, bucket) in enumerate(made.of):
        (of,) = [p for p in real().pools if p.pool == name]
        rows = [
            r for r in range(len(of)) if of.profile[r] == profile and bucket_of(of.input_tokens[r : r + 1])[0] == bucket
        ]
        leaving = [float(of.elsewhere_usd[r]) for r in rows if math.isfinite(of.elsewhere_usd[r])]
        expected = sum(leaving) / len(leaving) if 2 * len(leaving) >= len(rows) else math.inf
        assert made.problem.elsewhere_usd[row] == pytest.approx(expected)
        for place, technology in enumerate(of.technologies):
            column = names.index(technology.name)
            fit = [r for r in rows if math.isfinite(of.work_s[place, r])]
            if 2 * len(fit) < len(rows):
                assert made.problem.work_s[row, column] == math.inf
                continue
            assert made.problem.work_s[row, column] == pytest.approx(np.mean([of.work_s[place, r] for r in fit]))
            assert made.problem.energy_usd[row, column] == pytest.approx(
                np.mean([of.energy_usd[place, r] for r in fit])
            )
        others = [i for i, t in enumerate(technologies()) if t.pool != name]
        assert np.isinf(made.problem.work_s[row, others]).all()


def test_a_few_that_must_stay_or_do_not_fit_do_not_bind_all_of_their_like() -> None:
    inf = math.inf
    few = pool(
        [1.0, 2.0, 3.0],
        elsewhere_usd=[2.0, inf, 4.0],
        work_s=[[1, 3, inf], [inf, inf, 5]],
        energy_usd=[[1, 3, 9], [9, 9, 5]],
    )
    found = grouped(hour(few), technologies(), edges(4)).problem
    own = [i for i, t in enumerate(technologies()) if t.pool == "llama-8b"]
    assert found.elsewhere_usd.tolist() == [3.0]
    assert found.work_s[0, own].tolist() == [2.0, inf]
    assert found.energy_usd[0, own].tolist() == [2.0, 0.0]
    most = pool([1.0, 2.0, 3.0], elsewhere_usd=[2.0, inf, inf])
    assert grouped(hour(most), technologies(), edges(4)).problem.elsewhere_usd.tolist() == [inf]


def test_prices_and_bounds_are_those_of_the_technologies_and_infinite_where_there_are_none() -> None:
    found = grouped(real(), technologies(), edges(6, real().window.end_s), usable=0.9).problem
    owned = [t.owned_usd_per_hour for t in technologies()]
    assert found.owned_usd_per_hour.tolist() == [*owned[:3], math.inf, math.inf]
    assert found.reserved_usd_per_hour.tolist() == [math.inf] * 4 + [2.5]
    assert found.rented_usd_per_hour.tolist() == pytest.approx([math.inf] * 3 + [0.9 / 0.76 + 0.15, math.inf])
    assert found.replicas_max.tolist() == [1024, 1024, 1024, 256, 7]
    assert found.usable == 0.9


@given(SEEDS)
@settings(max_examples=40)
def test_a_profile_and_size_is_placed_where_most_of_it_flows(seed: int) -> None:
    made = grouped(real(), technologies(), edges(20, real().window.end_s))
    rng = np.random.default_rng(seed)
    share = rng.random((*made.problem.work_s.shape, len(made.problem.hours)))
    share[np.isinf(made.problem.work_s)] = 0.0
    found = made.placements(share)
    for row, (name, profile, bucket) in enumerate(made.of):
        own = [i for i, t in enumerate(technologies()) if t.pool == name]
        flow = [float((share[row, i] * made.problem.rate[row] * made.problem.hours).sum()) for i in own]
        assert found[name][profile, bucket] == int(np.argmax(flow))
    assert sum(map(len, found.values())) == len(made.of)


def test_what_is_only_bought_would_come_home_where_its_work_is_cheapest() -> None:
    of = pool([1.0, 2.0], work_s=[[10.0, 10.0], [1.0, 1.0]])
    made = grouped(hour(of), technologies(), edges(2))
    nothing = np.zeros((*made.problem.work_s.shape, len(made.problem.hours)))
    assert made.placements(nothing) == {"llama-8b": {(0, 0): 1}}
    cheap = replace(technologies()[0], owned_usd_per_hour=0.01)
    assert Grouped(made.problem, made.of, (cheap, *technologies()[1:])).placements(nothing) == {"llama-8b": {(0, 0): 0}}
    unfit = grouped(hour(pool([1.0, 2.0], work_s=[[10.0, 10.0], [math.inf] * 2])), technologies(), edges(2))
    assert unfit.placements(nothing) == {"llama-8b": {(0, 0): 0}}


def test_what_the_program_decides_places_all_requests_that_come_home() -> None:
    made = grouped(real(), technologies(), edges(12, real().window.end_s))
    found = made.placements(solve(made.problem).share)
    units, stray_usd = units_of(real(), found)
    assert sum(len(unit.at_s) for unit in units) == sum(map(len, real().pools))
    assert stray_usd == 0.0
