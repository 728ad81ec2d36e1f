"""The greedy bound of one pool: exact by explicit flows, proven by its price, and monotone in all that helps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scheduler.simulation.bound.bound import BoundPools, BoundRequests, clairvoyant
from scheduler.simulation.bound.dual import LeastPrice, certificate_usd
from scheduler.simulation.bound.edf import CLASSES_MAX, Pieces, Steps, place, round_up
from scheduler.simulation.bound.pool import constant, late_requests_max, pool_bound
from tests.support.bound_cases import SEEDS, capacity, flow_usd, pieces, work


def saved(made: Pieces, delta_s: np.ndarray, pool: Steps) -> float:
    placed = place(made, delta_s, pool)
    free = np.isfinite(made.density)
    return float(np.dot(placed.work_s[free], made.density[free]))


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.integers(1, 40), st.integers(1, 3), st.booleans(), st.integers(1, 3))
def test_the_greedy_saves_exactly_what_explicit_flows_save(
    seed: int, count: int, kinds: int, ties: bool, steps: int
) -> None:
    made, delta_s = pieces(seed, count, kinds, ties)
    pool = capacity(seed, steps)
    assert saved(made, delta_s, pool) == pytest.approx(flow_usd(made, delta_s, pool), rel=1e-6, abs=1e-7)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.booleans())
def test_forced_work_takes_its_place_before_any_other(seed: int, ties: bool) -> None:
    made, delta_s = pieces(seed, 20, ties=ties, forced=0.3)
    pool = capacity(seed)
    assert saved(made, delta_s, pool) == pytest.approx(flow_usd(made, delta_s, pool), rel=1e-6, abs=1e-6)


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.integers(1, 200), st.integers(1, 3), st.sampled_from([0.0, 0.2]), st.integers(1, 3))
def test_the_price_proves_what_the_greedy_saves(seed: int, count: int, kinds: int, forced: float, steps: int) -> None:
    made, delta_s = pieces(seed, count, kinds, forced=forced)
    pool = capacity(seed, steps)
    placed = place(made, delta_s, pool)
    assert certificate_usd(made, delta_s, pool, placed) == pytest.approx(saved(made, delta_s, pool), rel=1e-6, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.lists(st.floats(0.0, 5.0), min_size=1, max_size=5))
def test_any_price_gives_a_bound(seed: int, levels: list[float]) -> None:
    made, delta_s = pieces(seed)
    pool = capacity(seed)
    price = Steps(np.linspace(0.0, 20.0, len(levels) + 1), np.array([*levels, 0.0]))
    placed = place(made, delta_s, pool)
    proven = certificate_usd(made, delta_s, pool, placed._replace(price=price))
    assert proven >= saved(made, delta_s, pool) * (1.0 - 1e-9)


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_served_work_meets_every_deadline_and_fits_every_stretch(seed: int) -> None:
    made, delta_s = pieces(seed, 30)
    pool = capacity(seed, 2)
    served = place(made, delta_s, pool).work_s
    assert (served >= 0.0).all()
    assert (served <= made.work_s).all()
    deadline_s = made.arrival_s + delta_s[made.deadline_class]
    for start in made.arrival_s:
        for end in deadline_s[deadline_s > start]:
            inside = (made.arrival_s >= start) & (deadline_s <= end)
            room = np.diff(pool.integral(np.array([start, end])))[0]
            assert served[inside].sum() <= room + 1e-9
    room = np.diff(pool.integral(np.array([made.arrival_s.min(), deadline_s.max()])))[0]
    assert saved(made, delta_s, pool) <= made.density.max() * room + 1e-9


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.floats(1.0, 3.0))
def test_more_capacity_and_later_deadlines_never_save_less(seed: int, factor: float) -> None:
    made, delta_s = pieces(seed, 40)
    pool = capacity(seed)
    before = saved(made, delta_s, pool)
    assert saved(made, delta_s, pool._replace(level=pool.level * factor)) >= before * (1.0 - 1e-9)
    assert saved(made, delta_s * factor, pool) >= before * (1.0 - 1e-9)
    assert saved(made, delta_s + factor - 1.0, pool) >= before * (1.0 - 1e-9)


def test_the_price_is_that_of_the_first_work_that_does_not_fit() -> None:
    made = Pieces(np.array([0.0, 0.0, 0.0]), np.array([0, 0, 0]), np.array([1.0, 2.0, 5.0]), np.array([3.0, 2.0, 1.0]))
    placed = place(made, np.array([2.0]), constant(1.0, 0.0))
    assert placed.work_s.tolist() == [1.0, 1.0, 0.0]
    assert placed.price.at_s.tolist() == [0.0, 2.0]
    assert placed.price.level.tolist() == [2.0, 0.0]


def test_no_capacity_saves_nothing_and_ample_capacity_everything() -> None:
    asked = work(3)
    worth = float(asked.usd_saved[(asked.usd_saved > 0.0) & asked.on_time].sum())
    none, ample = (pool_bound(asked, constant(replicas, 0.0), 0.0) for replicas in (0.0, 1e4))
    assert (none.usd_saved, none.accepted.max()) == (pytest.approx(0.0, abs=1e-12), 0.0)
    assert ample.usd_saved == pytest.approx(worth)
    assert ample.accepted.tolist() == ((asked.usd_saved > 0.0) & asked.on_time).astype(float).tolist()


def test_nothing_asked_is_nothing_saved() -> None:
    empty = pool_bound(work(1, 0), constant(1.0, 0.0), 0.5)
    assert (empty.usd_saved, len(empty.accepted), len(empty.late_requests)) == (0.0, 0, 0)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.floats(0.0, 2.0), st.sampled_from([0.0, 0.2]))
def test_the_bounds_of_a_pool_come_in_order(seed: int, replicas: float, forced: float) -> None:
    asked = work(seed, forced=forced)
    bounds = [pool_bound(asked, constant(replicas, 0.0), allowance) for allowance in (0.0, 0.05, 0.2, 1.0)]
    assert bounds[0].usd_saved_certificate == pytest.approx(bounds[0].usd_saved_primal, rel=1e-6, abs=1e-9)
    assert bounds[0].usd_saved_on_time <= bounds[0].usd_saved_primal + 1e-9
    assert [len(b.late_requests) <= share * 25 for b, share in zip(bounds, (0.0, 0.05, 0.2, 1.0), strict=True)]
    savings = [b.usd_saved for b in bounds]
    assert savings == sorted(savings)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.floats(0.2, 2.0), st.integers(0, 3))
def test_no_integral_schedule_saves_more_than_the_bound(seed: int, replicas: float, late: int) -> None:
    asked = work(seed, 9)
    rng = np.random.default_rng(seed)
    bound = pool_bound(asked, constant(replicas, 0.0), late / 9)
    delta_s, classes = np.unique(
        np.concatenate((asked.ttft_s, asked.ttft_s + asked.decode_s, asked.late_s)), return_inverse=True
    )
    for _ in range(40):
        # Whole requests, some of them late: a schedule exists iff all of their work can be placed.
        chosen = rng.permutation(9)[: rng.integers(1, 9)]
        on_time, tardy = chosen[late:], chosen[:late]
        on_time = on_time[asked.on_time[on_time]]
        made = Pieces(
            asked.arrival_s[np.concatenate((on_time, on_time, tardy))],
            classes[np.concatenate((on_time, on_time + 9, tardy + 18))],
            np.concatenate(
                (
                    asked.prefill_work_s[on_time],
                    asked.decode_work_s[on_time],
                    (asked.prefill_work_s + asked.decode_work_s)[tardy],
                )
            ),
            np.ones(2 * len(on_time) + len(tardy)),
        )
        if place(made, delta_s, constant(replicas, 0.0)).work_s.sum() >= made.work_s.sum() * (1.0 - 1e-12):
            assert asked.usd_saved[np.concatenate((on_time, tardy))].sum() <= bound.usd_saved + 1e-9


def test_the_allowance_counts_whole_requests() -> None:
    assert [late_requests_max(n, 0.01) for n in (99, 100, 199, 200, 300)] == [0, 1, 1, 2, 3]
    assert late_requests_max(100, 0.29) == 29  # 100 * 0.29 is a little less in binary


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.01, 1000.0), min_size=1, max_size=60), st.integers(1, CLASSES_MAX))
def test_rounding_deadlines_never_brings_one_forward(values: list[float], classes: int) -> None:
    rounded = round_up(np.array(values), classes)
    assert (rounded >= np.array(values)).all()
    assert set(rounded) <= set(values)
    assert len(set(rounded)) <= classes
    assert rounded.max() == max(values)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.0, 9.0), min_size=1, max_size=20), SEEDS)
def test_the_least_price_of_a_window_is_found(levels: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    price = Steps(np.arange(len(levels), dtype=float), np.array(levels))
    begin = rng.uniform(-2.0, len(levels) + 2.0, 50)
    end = begin + rng.uniform(0.01, 5.0, 50)
    found = LeastPrice(price).between(begin, end)
    for at, until, least in zip(begin, end, found, strict=True):
        met = [lv for i, lv in enumerate(levels) if i < until and (i + 1 > at or i + 1 == len(levels))]
        assert least == min([0.0] * int(at < 0.0) + met)


def site(seed: int, count: int = 40) -> BoundRequests:
    """Two pools, each request on one of them or on none; some may not leave."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, count)
    elsewhere = rng.exponential(1.0, count)
    elsewhere[rng.random(count) < 0.1] = np.inf
    return BoundRequests(
        arrival_s=rng.uniform(0.0, 10.0, count),
        ttft_s=rng.choice([0.5, 2.0], count),
        late_s=np.full(count, 15.0),
        usd_elsewhere=elsewhere,
        energy_usd=rng.uniform(0.0, 0.1, (count, 2)),
        prefill_work_s=rng.exponential(0.2, (count, 2)),
        decode_work_s=rng.exponential(0.4, (count, 2)),
        decode_s=rng.uniform(0.5, 4.0, (count, 2)),
        eligible=np.stack((kind == 0, kind == 1), axis=1),
    )


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from([0.0, 0.1]))
@example(163, 0.0)  # of 700, that with the widest gap
def test_the_bill_of_a_site_adds_up(seed: int, allowance: float) -> None:
    asked = site(seed)
    bound = clairvoyant(asked, BoundPools.fixed(np.array([1.0, 0.5]), 0.0), allowance)
    assert bound.usd_total == pytest.approx(bound.usd_all_api - bound.usd_saved)
    assert 0.0 <= bound.usd_api <= bound.usd_all_api
    assert len(bound.late_requests) <= 40 * allowance
    assert 0.0 <= bound.local_share <= 1.0
    # The proof allows at least what its own optimum describes. That has forced requests at home even where no room is left
    # for them, which the proof does not: each may cost what one that it drives away does, 1 USD on average.
    if not allowance:
        forced = np.isinf(asked.usd_elsewhere) & asked.eligible.any(axis=1)
        without_room = int((forced & (bound.accepted.sum(axis=1) < 1.0 - 1e-9)).sum())
        assert bound.usd_total <= bound.usd_api + bound.usd_energy + 1.0 + without_room


def test_separate_pools_are_bounded_as_if_each_were_alone() -> None:
    asked = site(7)
    pools = BoundPools.fixed(np.array([1.0, 0.5]), 0.0)
    alone = 0.0
    for k in range(2):
        rows = np.flatnonzero(asked.eligible[:, k])
        alone += pool_bound(asked.on_pool(k, rows), pools.capacity[k], 0.0).usd_saved
    assert clairvoyant(asked, pools, 0.0).usd_saved == pytest.approx(alone)


def test_a_site_without_pools_buys_everything() -> None:
    asked = replace(site(5), eligible=np.zeros((40, 2), bool))
    bound = clairvoyant(asked, BoundPools.fixed(np.ones(2), 0.0), 0.5)
    may_leave = np.isfinite(asked.usd_elsewhere)
    assert (bound.usd_saved, bound.local_share) == (0.0, 0.0)
    assert bound.usd_total == pytest.approx(asked.usd_elsewhere[may_leave].sum())
    assert bound.usd_api == pytest.approx(bound.usd_all_api)


def test_a_site_may_have_no_pools_and_no_requests() -> None:
    asked = site(5)
    narrow = {
        name: getattr(asked, name)[:, :0] for name in ("energy_usd", "prefill_work_s", "decode_work_s", "decode_s")
    }
    bare = replace(asked, eligible=asked.eligible[:, :0], **narrow)
    assert clairvoyant(bare, BoundPools(()), 0.1).usd_saved == 0.0
    nobody = BoundRequests(*(getattr(asked, name)[:0] for name in BoundRequests.__dataclass_fields__))
    assert clairvoyant(nobody, BoundPools.fixed(np.ones(2), 0.0), 0.1).usd_total == 0.0
