"""A workload is a function of trace, mix, seed and copies: sorted, complete, reproducible, however it is cut."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scheduler.core.market import ServiceClass
from scheduler.simulation.chance import stream, uniform
from scheduler.simulation.mix import Profile
from scheduler.simulation.superposition import Superposition
from scheduler.simulation.traces import Trace, open_trace, trace_of
from scheduler.simulation.workload import Batch, Workload, copies_for, offered_work

CLASS = ServiceClass("c", 1.0, 0.0, 0.0, 0.0)


def profile(share: float = 1.0, low: float = 0.2, high: float = 0.2) -> Profile:
    return Profile("p", share, "t", CLASS, None, frozenset(), low, high, frozenset(), False, 1.0, 60.0)


MIX = (profile(1.0, 0.0, 0.5), profile(3.0), profile(4.0, 0.6, 1.0))


def numbered(arrival_s: Any) -> Trace:
    """A trace whose requests can be told apart in every copy: client, input tokens and blocks are the place in it."""
    place = np.arange(len(arrival_s))
    session = np.where(place % 3 == 0, -1, place // 3)
    lengths = place % 3
    blocks = np.repeat(place, lengths)
    ragged = {"prefix_offsets": np.concatenate([[0], np.cumsum(lengths)]), "prefix_blocks": blocks}
    return trace_of(
        "n", arrival_s, place, place + 1, client=place, session=session, reusable_prefix_tokens=place, **ragged
    )


def whole(workload: Workload) -> Batch:
    """All batches of a workload as one."""
    batches = list(workload)
    columns: dict[str, Any] = {
        field.name: np.concatenate([getattr(batch, field.name) for batch in batches])
        for field in fields(Batch)
        if getattr(batches[0], field.name) is not None
    }
    if "prefix_offsets" in columns:
        lengths = np.concatenate(
            [np.diff(batch.prefix_offsets) for batch in batches if batch.prefix_offsets is not None]
        )
        columns["prefix_offsets"] = np.concatenate([[0], np.cumsum(lengths)])
    return Batch(**columns)


def told(batch: Batch) -> bytes:
    columns = [getattr(batch, field.name) for field in fields(Batch)]
    return b"|".join(column.tobytes() for column in columns if column is not None)


def copies_of(batch: Batch, trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """Copy and place in the trace of each request, by the client numbers of ``numbered``."""
    return np.divmod(batch.client, trace.requests)


ARRIVALS = st.lists(
    st.one_of(st.floats(0.0, 1e4, allow_subnormal=False), st.sampled_from([0.0, 1.0, 3.0, 3.1])),
    min_size=1,
    max_size=50,
).map(sorted)
COPIES = st.one_of(st.integers(1, 6).map(float), st.floats(0.05, 6.0))
SEEDS = st.integers(0, 2**32)


@settings(max_examples=150)
@given(arrivals=ARRIVALS, copies=COPIES, seed=SEEDS, rows=st.integers(1, 40))
def test_every_request_comes_once_per_copy_turned_by_one_offset(
    arrivals: list[float], copies: float, seed: int, rows: int
) -> None:
    trace = numbered(arrivals)
    batches = list(Workload(trace, MIX, seed, copies, batch_requests=rows))
    assume(batches)
    got = whole(Workload(trace, MIX, seed, copies, batch_requests=rows))
    assert (np.diff(got.arrival_s) >= 0.0).all()
    assert got.arrival_s[0] >= 0.0
    assert got.arrival_s[-1] < trace.span_s
    copy, place = copies_of(got, trace)
    assert copy.max() < math.ceil(copies)
    for k in range(math.ceil(copies)):
        mine = place[copy == k]
        assert len(set(mine.tolist())) == len(mine)
        if k < math.floor(copies):
            assert len(mine) == trace.requests
        turned_s = (got.arrival_s[copy == k] - trace.arrival_s[mine]) % trace.span_s
        off = np.angle(np.exp(2j * math.pi * turned_s / trace.span_s))  # 0 and the whole span are the same turn
        if len(mine):
            assert np.abs(np.angle(np.exp(1j * (off - off[0])))).max() < 1e-6
            assert k > 0 or np.abs(off).max() < 1e-6


@given(arrivals=ARRIVALS, copies=COPIES, seed=SEEDS, rows=st.integers(1, 40))
def test_the_size_of_a_batch_changes_nothing(arrivals: list[float], copies: float, seed: int, rows: int) -> None:
    trace = numbered(arrivals)
    workloads = [Workload(trace, MIX, seed, copies, batch_requests=n) for n in (rows, 10_000)]
    assume(list(workloads[0]))
    assert told(whole(workloads[0])) == told(whole(workloads[1]))
    assert told(whole(workloads[0])) == told(whole(workloads[0]))


@given(arrivals=ARRIVALS, copies=st.integers(1, 5), seed=SEEDS, rows=st.integers(1, 40))
def test_rows_of_a_copy_carry_what_the_trace_says_with_ids_of_their_own(
    arrivals: list[float], copies: int, seed: int, rows: int
) -> None:
    trace = numbered(arrivals)
    got = whole(Workload(trace, MIX, seed, copies, batch_requests=rows))
    copy, place = copies_of(got, trace)
    assert (got.input_tokens == trace.input_tokens[place]).all()
    assert (got.output_tokens == trace.output_tokens[place]).all()
    assert (got.reusable_prefix_tokens == trace.reusable_prefix_tokens[place]).all()
    assert ((got.session < 0) == (trace.session[place] < 0)).all()
    sessions = [set(got.session[(copy == k) & (got.session >= 0)].tolist()) for k in range(copies)]
    assert len(set().union(*sessions)) == sum(map(len, sessions))
    assert got.prefix_offsets is not None
    assert got.prefix_blocks is not None
    owner = np.repeat(np.arange(len(got)), np.diff(got.prefix_offsets))
    assert (np.diff(got.prefix_offsets) == place % 3).all()
    ids = int(trace.prefix_blocks.max()) + 1 if trace.prefix_blocks is not None and len(trace.prefix_blocks) else 1
    assert (got.prefix_blocks == place[owner] + copy[owner] * ids).all()


@given(arrivals=ARRIVALS, copies=COPIES, seed=SEEDS, cut=st.floats(0.0, 1.0), rows=st.integers(1, 40))
def test_two_windows_that_meet_are_one(arrivals: list[float], copies: float, seed: int, cut: float, rows: int) -> None:
    trace = numbered(arrivals)
    middle_s = trace.span_s * cut
    assume(0.0 < middle_s < trace.span_s)
    one = list(Workload(trace, MIX, seed, copies))
    assume(one)
    first = list(Workload(trace, MIX, seed, copies, 0.0, middle_s, batch_requests=rows))
    second = list(Workload(trace, MIX, seed, copies, middle_s, 1e9, batch_requests=rows))
    assert all(batch.arrival_s[-1] < middle_s for batch in first)
    assert all(batch.arrival_s[0] >= middle_s for batch in second)
    for name in ("arrival_s", "client", "profile", "difficulty"):
        parts = np.concatenate([getattr(batch, name) for batch in first + second])
        assert parts.tobytes() == getattr(whole(Workload(trace, MIX, seed, copies)), name).tobytes()


@given(arrivals=ARRIVALS, copies=st.integers(1, 4), most=st.integers(1, 120), rows=st.integers(1, 40))
def test_no_more_than_the_most_requests_come_and_they_are_the_first(
    arrivals: list[float], copies: int, most: int, rows: int
) -> None:
    trace = numbered(arrivals)
    every = whole(Workload(trace, MIX, 1, copies))
    some = whole(Workload(trace, MIX, 1, copies, requests_max=most, batch_requests=rows))
    assert len(some) == min(most, len(every))
    assert told(some) == told(every.head(most))


def busy(requests: int, seed: int = 5) -> Trace:
    rng = np.random.default_rng(seed)
    arrival_s = np.sort(rng.exponential(1.0, requests).cumsum())
    clients = rng.integers(0, 400, requests)
    return trace_of("b", arrival_s, rng.integers(1, 99, requests), rng.integers(1, 99, requests), client=clients)


def test_one_copy_is_the_trace_itself() -> None:
    trace = busy(3_000)
    got = whole(Workload(trace, MIX, 9))
    assert got.arrival_s.tobytes() == trace.arrival_s.tobytes()
    assert (got.client == trace.client).all()


def test_a_fraction_keeps_its_share_and_more_copies_keep_what_fewer_had() -> None:
    trace = numbered(np.arange(40_000) * 0.5)
    few, more = (set(whole(Workload(trace, MIX, 4, copies)).client.tolist()) for copies in (0.3, 0.7))
    assert len(few) == pytest.approx(0.3 * 40_000, abs=5 * math.sqrt(40_000 * 0.21))
    assert len(more) == pytest.approx(0.7 * 40_000, abs=5 * math.sqrt(40_000 * 0.21))
    assert few < more
    two_and_a_bit = Workload(trace, MIX, 4, 2.25)
    assert len(whole(two_and_a_bit)) == pytest.approx(90_000, abs=5 * math.sqrt(40_000 * 0.19))
    assert two_and_a_bit.requests_expected == 90_000.0
    assert sum(map(len, Workload(trace, MIX, 4, 3.0))) == Workload(trace, MIX, 4, 3.0).requests_expected == 120_000.0


def test_seeds_differ_in_everything_drawn() -> None:
    trace = busy(2_000)
    one, other = (whole(Workload(trace, MIX, seed, 2.0)) for seed in (1, 2))
    assert not np.array_equal(one.arrival_s, other.arrival_s)
    assert not np.array_equal(one.profile, other.profile)
    assert not np.array_equal(one.difficulty, other.difficulty)


def test_profiles_come_by_share_and_difficulty_by_range() -> None:
    got = whole(Workload(busy(50_000), MIX, 3, 2.0))
    shares = np.bincount(got.profile, minlength=3) / len(got)
    assert shares == pytest.approx([0.125, 0.375, 0.5], abs=0.01)
    for i, (low, high) in enumerate([(0.0, 0.5), (0.2, 0.2), (0.6, 1.0)]):
        mine = got.difficulty[got.profile == i]
        assert mine.min() >= np.float32(low)
        assert mine.max() <= np.float32(high)
        assert mine.mean() == pytest.approx((low + high) / 2, abs=0.01)
        assert mine.std() == pytest.approx((high - low) / math.sqrt(12), abs=0.01)
    assert np.corrcoef(got.profile, got.input_tokens)[0, 1] == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("key", ["client", "session"])
def test_all_requests_of_a_client_or_session_have_one_profile(key: Any) -> None:
    plain = busy(20_000)
    trace = trace_of(
        "s", plain.arrival_s, plain.input_tokens, plain.output_tokens, client=plain.client, session=plain.client
    )
    got = whole(Workload(trace, MIX, 3, 3.0, assign_by=key))
    pairs = set(zip(getattr(got, key).tolist(), got.profile.tolist(), strict=True))
    assert len(pairs) == 1_200
    shares = np.bincount([p for _, p in pairs], minlength=3) / 1_200
    assert shares == pytest.approx([0.125, 0.375, 0.5], abs=0.06)
    by_client = {k: [p for c, p in sorted(pairs) if c // 400 == k] for k in range(3)}
    assert by_client[0] != by_client[1] != by_client[2]


def test_requests_without_a_session_draw_alone() -> None:
    n = 30_000
    trace = trace_of("s", np.arange(n), np.ones(n), np.ones(n), session=np.where(np.arange(n) % 2 == 0, -1, 0))
    got = whole(Workload(trace, MIX, 3, assign_by="session"))
    assert len(set(got.profile[got.session == 0].tolist())) == 1
    alone = np.bincount(got.profile[got.session < 0], minlength=3) / (n / 2)
    assert alone == pytest.approx([0.125, 0.375, 0.5], abs=0.02)


def test_copies_never_begin_close_to_each_other() -> None:
    for seed in range(20):
        starts = Superposition(np.zeros(1), 1000.0, 12, seed).windows(0.0, 1000.0, 99)
        arrival_s = np.concatenate([window[0] for window in starts])
        gaps_s = np.diff([*arrival_s, 1000.0])
        assert gaps_s.min() > 0.49 * 1000.0 / 12
        assert gaps_s.std() > 5.0
        near = Superposition(np.zeros(1), 1000.0, 12, seed, shift_s_max=60.0).windows(0.0, 1000.0, 99)
        assert 40.0 < max(window[0].max() for window in near) < 60.0


def test_a_request_that_rounding_turns_to_just_below_the_start_is_not_lost() -> None:
    """Adding an offset can reach the span where adding offset minus span stays below 0 by a rounding error."""
    rng = np.random.default_rng(0)
    for seed in range(500):
        span_s = float(rng.uniform(1.0, 1e4))
        windows = Superposition(np.zeros(1), span_s, 2, seed).windows(0.0, span_s, 9)
        exact_s = span_s - max(float(window[0].max()) for window in windows)  # comes round to the very start
        near_s = {exact_s, float(np.nextafter(exact_s, 0.0)), float(np.nextafter(exact_s, span_s))}
        arrival_s = np.array(sorted({0.0} | {t for t in near_s if t < span_s}))
        for start_s, end_s in ((0.0, span_s), (0.0, span_s / 2.0)):
            superposition = Superposition(arrival_s, span_s, 2, seed)
            rows = sum(len(window[0]) for window in superposition.windows(start_s, end_s, 2))
            assert rows == superposition.counts(start_s, end_s).sum()
        assert superposition.counts(0.0, span_s).tolist() == [len(arrival_s)] * 2


def test_memory_holds_a_batch_and_not_the_workload(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    arrival_s = np.cumsum(np.random.default_rng(0).exponential(1.0, 5_000))
    path.write_text("arrival_s,input_tokens,output_tokens\n" + "".join(f"{t},9,9\n" for t in arrival_s))
    with open_trace(path) as trace:
        workload = Workload(trace, MIX, 1, 80.0, batch_requests=1_000)
        tracemalloc.start()
        try:
            sizes = [len(batch) for batch in workload]
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert sum(sizes) == 400_000
    assert max(sizes) <= 2_000
    assert peak_bytes < 2_000 * 500  # all at once would be 400,000 requests of some 50 bytes


def test_many_requests_at_one_instant_come_in_one_batch() -> None:
    trace = numbered([0.0] * 300 + [7.0] * 300)
    sizes = [len(batch) for batch in Workload(trace, MIX, 0, batch_requests=10)]
    assert sizes == [300, 300]


def test_a_number_by_counting_is_the_same_alone_and_in_company() -> None:
    start = stream(7, 1, 2)
    index = np.arange(200_000)
    drawn = uniform(start, index)
    assert drawn[1234] == uniform(start, np.array([1234]))[0]
    assert uniform(np.array([start, start]), np.array([5, 6])).tolist() == drawn[5:7].tolist()
    # The first numbers of SplitMix64 from state 1234567, as its authors' C code gives them.
    known = np.array([6457827717110365317, 3203168211198807973, 9817491932198370423], np.uint64)
    assert uniform(np.uint64(1234567), np.arange(3)).tolist() == ((known >> np.uint64(11)) * 2.0**-53).tolist()
    counts = np.histogram(drawn, 50, (0.0, 1.0))[0]
    assert ((counts - 4_000) ** 2 / 4_000).sum() < 100.0  # chi-squared, 49 degrees of freedom
    assert np.corrcoef(drawn[:-1], drawn[1:])[0, 1] == pytest.approx(0.0, abs=0.01)
    assert np.corrcoef(drawn, uniform(stream(7, 1, 3), index))[0, 1] == pytest.approx(0.0, abs=0.01)


def test_offered_work_is_what_a_long_workload_brings_per_second() -> None:
    trace = busy(20_000)

    def work(i: int, input_tokens: np.ndarray, output_tokens: np.ndarray) -> np.ndarray:
        seconds = input_tokens * 0.01 + output_tokens * 0.001 * i
        return np.full(len(seconds), np.nan) if i == 1 else seconds  # nothing local takes the second profile

    offered = offered_work(trace, MIX, work)
    got = whole(Workload(trace, MIX, 6, 5.0))
    brought_s = sum(
        np.nansum(work(i, *(c[got.profile == i] for c in (got.input_tokens, got.output_tokens)))) for i in range(3)
    )
    assert 5.0 * offered == pytest.approx(brought_s / trace.span_s, rel=0.02)
    assert copies_for(1.2, 10.0, offered) * offered == pytest.approx(12.0)
    with pytest.raises(ValueError, match="served locally"):
        copies_for(1.2, 10.0, offered_work(trace, MIX[1:2], lambda i, a, b: np.full(len(a), np.nan)))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"copies": 0.0}, "copies"),
        ({"copies": math.nan}, "copies"),
        ({"profiles": ()}, "profile"),
        ({"seed": -1}, "seed"),
        ({"start_s": 1e9}, "nothing lies between"),
        ({"end_s": 0.0}, "nothing lies between"),
        ({"assign_by": "session"}, "names no sessions"),
        ({"shift_s_max": 0.0}, "shift_s_max"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Workload(**({"trace": busy(10), "profiles": MIX, "seed": 0, "copies": 1.0} | fields))
