"""Demand as gateways report it, and the staircase of curves that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.bids import SAMPLES_MAX, BidBook, Demand, Sample
from scheduler.core.capacity import BidCurve, Level
from scheduler.core.market import Policy
from scheduler.core.value import cushioned, value_curve
from tests.support.markets import POLICY

URGENT, PATIENT = 1.0, 20.0
LIMITS = (URGENT, PATIENT)


def demands(usd: float, n: int, ttft_s_max: float = URGENT, work_s: float = 0.1) -> list[Demand]:
    return [Demand(usd, work_s, ttft_s_max)] * n


def solved(book: BidBook, now_s: float, replicas: int = 1, ratio: float = 1.0) -> dict[float, BidCurve | None]:
    lines = [Level(limit_s, 0.0) for limit_s in LIMITS]
    book.solve({"pool": lines}, {"pool": replicas}, {"pool": ratio}, now_s)
    return book.curves.get("pool", {})


def book_of(*reports: tuple[float, Sequence[Demand]], **settings: Any) -> BidBook:
    """A book that heard each of these at its instant, and of nothing at 0."""
    book = BidBook(Policy(**settings))
    book.heard("pool", [], 0.0)
    for now_s, demand in reports:
        book.heard("pool", demand, now_s)
    return book


# ---- samples ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 3_000), st.integers(1, 40))
def test_a_sample_is_bounded_evenly_spread_and_stands_for_all_that_was_seen(seen: int, samples_max: int) -> None:
    sample = Sample(samples_max)
    for i in range(seen):
        sample.add(Demand(float(i), 1.0))
    taken = sample.take()
    assert len(taken) <= samples_max
    assert sum(demand.weight for demand in taken) == pytest.approx(seen)
    # The order numbers of those kept: the first, and then every k-th.
    kept = [demand.usd_displaced for demand in taken]
    gaps = {b - a for a, b in pairwise(kept)}
    assert kept[:1] == ([0.0] if seen else [])
    assert len(gaps) <= 1
    assert not kept or seen - kept[-1] <= max(gaps, default=float(seen))
    assert seen <= samples_max or samples_max == 1 or len(taken) >= samples_max / 2


def test_a_sample_begins_anew_when_it_was_taken() -> None:
    sample = Sample()
    for _ in range(3 * SAMPLES_MAX):
        sample.add(Demand(1.0, 1.0))
    assert sample.take()
    assert sample.take() == []
    sample.add(Demand(2.0, 1.0))
    assert sample.take() == [Demand(2.0, 1.0)]


# ---- the book -----------------------------------------------------------------------------------------------------


def test_a_curve_is_solved_from_rate_work_and_worth_of_what_was_heard() -> None:
    demand = [Demand(usd, work_s, URGENT) for usd, work_s in zip((1.0, 0.3, 0.1), (0.2, 0.4, 0.6), strict=True)] * 20
    found = solved(book_of((10.0, demand), (20.0, demand)), 20.0, replicas=2, ratio=1.5)[URGENT]
    # 120 in 20 s; on two replicas a second of work is half a second of wait, and engines need half as much again.
    added_s = [0.75 * d.work_s for d in demand]
    curve = value_curve([d.usd_displaced for d in demand], added_s, 1.0 / 6.0, POLICY.ttft_margin * URGENT)
    expected = cushioned(curve, [d.usd_displaced for d in demand], added_s)
    assert found is not None
    assert expected is not None
    assert found.wait_s == expected.wait_s
    assert found.usd == pytest.approx(expected.usd, abs=1e-9)


def test_weights_count_as_requests() -> None:
    whole = solved(book_of((10.0, demands(1.0, 100))), 10.0)[URGENT]
    sampled = solved(book_of((10.0, [Demand(1.0, 0.1, URGENT, weight=5.0)] * 20)), 10.0)[URGENT]
    assert whole is not None
    assert sampled is not None
    assert sampled.usd == pytest.approx(whole.usd)


def test_the_time_of_an_urgent_line_is_priced_by_the_urgent_alone() -> None:
    urgent, patient = demands(1.0, 50), demands(9.0, 150, PATIENT)
    alone = solved(book_of((10.0, urgent)), 10.0)
    beside = solved(book_of((10.0, urgent + patient)), 10.0)
    assert beside[URGENT] == alone[URGENT]
    assert beside[PATIENT] != alone[PATIENT]
    assert beside[PATIENT] is not None
    # The slower line is everybody's: load 2, and the dear half of it fills the pool.
    assert beside[PATIENT].price_usd(15.0, 0.1) > 1.0


def test_whoever_is_slower_than_all_lines_counts_in_the_slowest() -> None:
    batch = solved(book_of((10.0, demands(1.0, 150, 3_600.0))), 10.0)
    usual = solved(book_of((10.0, demands(1.0, 150, PATIENT))), 10.0)
    assert batch[URGENT] is None
    assert batch[PATIENT] == usual[PATIENT]


def test_each_line_has_the_patience_of_its_objective() -> None:
    found = solved(book_of((10.0, demands(1.0, 50))), 10.0)
    for limit_s in LIMITS:
        curve = found[limit_s]
        assert curve is not None
        assert curve.wait_s[-1] == pytest.approx(POLICY.ttft_margin * limit_s)


def test_what_is_older_than_the_horizon_is_forgotten() -> None:
    book = book_of((10.0, demands(1.0, 500)), (350.0, demands(1.0, 50)), horizon_s=300.0)
    fresh = solved(book_of((350.0, demands(1.0, 50)), horizon_s=300.0), 350.0)
    assert solved(book, 350.0) == fresh
    assert set(solved(book, 999.0).values()) <= {None} or solved(book, 999.0) == {}


def test_a_quiet_time_counts_as_time() -> None:
    # The same fifty requests: in ten seconds half a load, in a hundred hardly anything.
    busy, quiet = (solved(book_of((now_s, demands(1.0, 50))), now_s)[URGENT] for now_s in (10.0, 100.0))
    assert busy is not None
    assert quiet is not None
    assert busy.price_usd(0.5, 0.1) > 3.0 * quiet.price_usd(0.5, 0.1)


def test_a_flood_beyond_what_is_kept_is_not_taken_for_calm() -> None:
    # 100 a second for 200 s at load 2, of which only the newest are kept. Were they spread over all of the time, there
    # would be room for everybody.
    second = (demands(1.0, 1, work_s=0.02) + demands(0.2, 3, work_s=0.02)) * 25
    flood = solved(book_of(*((float(s), second) for s in range(1, 201))), 200.0)[URGENT]
    short = solved(book_of(*((float(s), second) for s in range(1, 51))), 50.0)[URGENT]
    assert flood is not None
    assert short is not None
    assert flood.price_usd(0.4, 0.02) == pytest.approx(short.price_usd(0.4, 0.02), rel=0.02)


@pytest.mark.parametrize(
    ("demand", "replicas", "now_s"),
    [([], 1, 10.0), (demands(1.0, 1), 1, 10.0), (demands(1.0, 50), 0, 10.0), (demands(1.0, 50), 1, 0.0)],
)
def test_of_nothing_follows_nothing(demand: list[Demand], replicas: int, now_s: float) -> None:
    found = solved(book_of((now_s, demand)), now_s, replicas)
    assert set(found.values()) <= {None}


def test_the_curve_of_a_pool_that_lost_its_replicas_is_withdrawn() -> None:
    book = book_of((10.0, demands(1.0, 50)))
    assert solved(book, 10.0)
    assert solved(book, 11.0, replicas=0) == {}


def test_thousands_of_requests_are_solved_from_a_sample_of_them() -> None:
    rng = np.random.default_rng(3)
    many = [Demand(usd, work_s, URGENT) for usd, work_s in rng.lognormal(-2.0, 0.5, (4_000, 2))]
    found = solved(book_of((600.0, many), horizon_s=600.0), 600.0)[URGENT]
    curve = value_curve([d.usd_displaced for d in many], [d.work_s for d in many], 600.0 / 4_000, 0.93, points=32)
    whole = cushioned(curve, [d.usd_displaced for d in many], [d.work_s for d in many])
    assert found is not None
    assert whole is not None
    assert found.price_usd(0.4, 0.15) == pytest.approx(whole.price_usd(0.4, 0.15), rel=0.2)


@pytest.mark.parametrize("per_s", [30, 100, 300])
def test_a_sampled_stream_is_priced_like_the_whole_of_it(per_s: int) -> None:
    rng, sample = np.random.default_rng(4), Sample(16)
    whole, sampled = [], []
    for second in range(1, 61):
        came = [
            Demand(float(rng.lognormal(-1.0, 0.7)), float(rng.uniform(0.9, 1.1)) * 1.2 / per_s, URGENT)
            for _ in range(rng.poisson(per_s))
        ]
        for demand in came:
            sample.add(demand)
        whole.append((float(second), came))
        sampled.append((float(second), sample.take()))
    all_of_it, part = (solved(book_of(*reports), 60.0)[URGENT] for reports in (whole, sampled))
    assert all_of_it is not None
    assert part is not None
    for wait_s in (0.2, 0.5, 0.8):
        price_usd = all_of_it.price_usd(wait_s, 1.2 / per_s)
        assert price_usd > 0.0
        assert part.price_usd(wait_s, 1.2 / per_s) == pytest.approx(price_usd, rel=0.15)


def test_a_heavy_sample_counts_for_more_than_a_light_one_in_the_same_stream() -> None:
    # Of a hundred in ten seconds ninety are dear, though only nine of them were kept.
    dear, cheap = [Demand(1.0, 0.2, URGENT, weight=10.0)] * 9, [Demand(0.1, 0.2, URGENT)] * 10
    found = solved(book_of((10.0, dear + cheap)), 10.0)[URGENT]
    whole = solved(book_of((10.0, (demands(1.0, 9, work_s=0.2) + demands(0.1, 1, work_s=0.2)) * 10)), 10.0)[URGENT]
    assert found is not None
    assert whole is not None
    # Nineteen picks stand for the hundred: 17 of them dear, or 18.
    assert found.usd == pytest.approx(whole.usd, rel=0.1, abs=0.01)


# ---- bursts -------------------------------------------------------------------------------------------------------


def burst_of(monkeypatch: pytest.MonkeyPatch, book: BidBook, now_s: float) -> float:
    """How many requests come at once, as the curves of ``book`` are solved with."""
    seen: list[float] = []

    def noted(*given: Any) -> BidCurve | None:
        seen.append(given[4])
        return None

    with monkeypatch.context() as patched:
        patched.setattr("scheduler.core.bids.value_curve", noted)
        solved(book, now_s)
    assert len(set(seen)) == 1
    return seen[0]


def stream(
    seconds: int, batches_per_s: float, batch: int, spread: float = 0.0, gateways: int = 1, seed: int = 6
) -> list[tuple[float, list[Demand]]]:
    """Reports once a second from each gateway, in turn; batches come at random, to any of them as a whole."""
    rng, reports = np.random.default_rng(seed), []
    for turn in range(1, seconds * gateways + 1):
        count = batch * int(rng.poisson(batches_per_s / gateways))
        works = 0.01 * rng.lognormal(0.0, spread, count)
        reports.append((turn / gateways, [Demand(1.0, float(work_s), URGENT) for work_s in works]))
    return reports


@pytest.mark.parametrize("gateways", [1, 3])
@pytest.mark.parametrize("spread", [0.0, 1.0])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_the_burst_index_is_how_many_come_at_once_however_long_they_are(
    monkeypatch: pytest.MonkeyPatch, batch: int, spread: float, gateways: int
) -> None:
    # With works of their own in a batch of k: E of the squared work of a batch over that of a request and k requests.
    same = 1.0 / np.exp(spread**2)  # squared mean over mean square of a work
    expected = 1.0 + (batch - 1) * same
    book = book_of(*stream(300, 12.0 / batch, batch, spread, gateways))
    assert burst_of(monkeypatch, book, 300.0) == pytest.approx(expected, rel=0.2)


def test_the_burst_index_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert burst_of(monkeypatch, book_of(*stream(200, 0.1, 400)), 200.0) == 20.0
    # Smoother than chance is no reason to expect less than one.
    assert burst_of(monkeypatch, book_of(*((float(s), demands(1.0, 9)) for s in range(1, 100))), 100.0) == 1.0


@pytest.mark.parametrize(("seconds", "bursty"), [(8, False), (10, False), (14, True), (40, True)])
def test_a_few_seconds_say_nothing_about_bursts(monkeypatch: pytest.MonkeyPatch, seconds: int, bursty: bool) -> None:
    reports = [(float(s), demands(1.0, 100 * (s % 3 == 0), work_s=0.001)) for s in range(1, seconds + 1)]
    assert (burst_of(monkeypatch, book_of(*reports), float(seconds)) > 1.0) is bursty


def test_reports_within_a_second_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    # One gateway each quarter of a second has all of the requests: even, looked at by the second.
    reports = [(0.25 * turn, demands(1.0, 40 * (turn % 4 == 0))) for turn in range(1, 401)]
    assert burst_of(monkeypatch, book_of(*reports), 100.0) == 1.0
    # And several of them at the same instant are one.
    reports = [(float(s), demands(1.0, 20 * (gateway == s % 2))) for s in range(1, 101) for gateway in range(2)]
    assert burst_of(monkeypatch, book_of(*reports), 100.0) == 1.0


def test_bursts_before_the_horizon_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    calm = [(400.0 + at_s, came) for at_s, came in stream(300, 12.0, 1)]
    book = book_of(*stream(390, 1.0, 12, seed=1), *calm)
    assert burst_of(monkeypatch, book, 390.0) > 8.0
    assert burst_of(monkeypatch, book, 705.0) < 1.5


def test_a_stream_in_bursts_makes_a_long_line_dearer_than_the_same_work_one_by_one() -> None:
    steady = solved(book_of(*stream(300, 80.0, 1)), 300.0)[URGENT]
    bursts = solved(book_of(*stream(300, 10.0, 8)), 300.0)[URGENT]
    assert steady is not None
    assert bursts is not None
    assert bursts.price_usd(0.6, 0.01) > 1.5 * steady.price_usd(0.6, 0.01)


@pytest.mark.parametrize("late", [demands(1.0, 9, work_s=0.0), []])
def test_when_all_work_is_forgotten_or_none_the_book_is_still_solved(late: list[Demand]) -> None:
    seconds = [(float(s), late) for s in range(2, 400)]
    found = solved(book_of((1.0, demands(1.0, 50)), *seconds), 399.0)
    assert set(found.values()) <= {None}
