"""Parts of the compiled kernel by themselves, against the plain way to do the same."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numba import njit

from scheduler.core.capacity import Level, overtaken_s
from scheduler.simulation.kernel import KernelRun
from scheduler.simulation.kernel.gates import _ROUNDS, _is_overtaken
from scheduler.simulation.kernel.lines import (
    first_of,
    join,
    leave,
    next_tick,
    out_of_time,
    work_before_s,
    work_before_within_s,
)
from scheduler.simulation.kernel.reference import by_reference
from scheduler.simulation.kernel.state import NOBODY, TICK_S, State
from scheduler.simulation.kernel.tournament import due_of, set_due
from tests.support.small_worlds import apis, config, own, poisson, scenario

LIMITS_S = (2.0, 2.5, 4.0)
LANES = 5
TICKETS = 60


@cache
def _empty() -> State:
    """A site at rest: one pool, a line for each of three objectives. There are places for timeouts some 6 seconds ahead."""
    classes = tuple(
        {"name": f"within{i}", "ttft_s_max": limit_s, "deadline_s": 1.0} for i, limit_s in enumerate(LIMITS_S)
    )
    of = config(
        pools=[own("own", replicas=LANES, gate={"waiting_max": TICKETS, "hold_s_max": 60})],
        providers=apis(mini=1.0),
        aliases=[{"name": "both", "models": ["small", "mini"]}],
        service_classes=classes,
    )
    profiles = tuple({"model": "both", "service_class": one["name"]} for one in classes)
    trace = poisson(np.random.default_rng(0), 1.0, np.full(10, 100))
    of_classes = scenario(of, trace, profiles)
    return KernelRun(of_classes.site, of_classes.profiles, "all-local", math.nan, of_classes.policy).state


def fresh() -> State:
    return State(*(array.copy() for array in _empty()))


@njit(error_model="numpy", _nrt=False)  # type: ignore[untyped-decorator]
def _at_a_gate(state: State, row: int, at_s: float, joins: bool) -> tuple[int, float, float, float]:
    """Who was first; the work before ``row``, exact and its bounds. Then it joins, or leaves."""
    s = by_reference(state)
    first, line_row, by_s = first_of(s, 0), np.int64(s.tickets[row].line), s.tickets[row].ttft_by_s
    exact_s, least_s, most_s = 0.0, 0.0, 0.0
    if joins:
        exact_s = work_before_s(s, line_row, by_s)
        least_s, most_s = work_before_within_s(s, line_row, by_s)
        join(s, row, at_s)
    else:
        leave(s, row)
    return first, exact_s, least_s, most_s


@njit(error_model="numpy", _nrt=False)  # type: ignore[untyped-decorator]
def _wait(state: State, at_s: float, until_s: float, gone: np.ndarray) -> int:
    """Every tick, until nobody waits any more. Fills in who went and when, and returns how many."""
    s, count = by_reference(state), 0
    clock = s.clock[0]
    while clock.waiting:
        clock.tick = next_tick(s, at_s)
        at_s = clock.tick * TICK_S
        if at_s > until_s:
            break
        clock.tick += 1
        for line_row in range(len(s.lines)):
            row = out_of_time(s, line_row, clock.tick - 1, at_s)
            while row != NOBODY:
                gone[count, 0], gone[count, 1] = row, at_s
                count += 1
                leave(s, row)
                row = out_of_time(s, line_row, clock.tick - 1, at_s)
    return count


class Waiting(NamedTuple):
    row: int
    by_s: float
    start_by_s: float
    work_s: float


STEP = st.tuples(
    st.sampled_from(["join", "join", "leave"]),
    st.one_of(st.sampled_from([0.0, 0.1, 1.0, 2.0]), st.floats(0.0, 5.0)),  # seconds since the last step
    st.integers(0, 2),
    st.one_of(st.sampled_from([0.0, 1.0, 6.0, 7.0, 8.0, 20.0, math.inf]), st.floats(0.0, 10.0)),  # how long it may wait
    st.sampled_from(["", "to a tick", "beyond a tick"]),
    st.floats(1e-6, 10.0),
)


def _held(hold_s: float, gap_s: float = 0.0) -> tuple[str, float, int, float, str, float]:
    return "join", gap_s, 0, hold_s, "to a tick", 1.0


@settings(max_examples=200, deadline=None)
@example([_held(8.0), _held(20.0), _held(20.0), _held(6.0, 2.0), *[_held(0.0, 4.0)] * 6], 0.013)  # places are few
@given(st.lists(STEP, max_size=TICKETS), st.sampled_from([0.013, 7.31]))
def test_lines_know_what_a_walk_along_them_would_find(steps: list[Any], now_s: float) -> None:
    s, lines = fresh(), [list[Waiting](), list[Waiting](), list[Waiting]()]
    gone = np.zeros((TICKETS, 2))
    for row, (what, gap_s, level, hold_s, exactly, work_s) in enumerate(steps):
        count = _wait(s, now_s, now_s + gap_s, gone)
        expected = _walked(lines, now_s, now_s + gap_s)
        assert [(int(at), at_s) for at, at_s in gone[:count]] == expected
        now_s += gap_s
        if what == "join":
            by_s = now_s + LIMITS_S[level]
            start_by_s = now_s + hold_s
            if exactly and hold_s < math.inf:
                start_by_s = round(start_by_s / TICK_S) * TICK_S
                start_by_s = math.nextafter(start_by_s, math.inf) if exactly == "beyond a tick" else start_by_s
            one = Waiting(row, by_s, start_by_s, work_s)
            ticket = s.tickets[row]
            ticket["number"], ticket["line"], ticket["work_s"] = row, level, work_s
            ticket["ttft_by_s"], ticket["start_by_s"] = by_s, one.start_by_s
            first, exact_s, least_s, most_s = _at_a_gate(s, row, now_s, True)
            before_s = sum(t.work_s for line in lines[level + 1 :] for t in line if t.by_s < by_s)
            assert exact_s == pytest.approx(before_s)
            assert least_s <= exact_s <= most_s <= least_s + 1e-6
            assert first == _first(lines)
            lines[level].append(one)
        elif lines[level]:
            left = lines[level].pop(int(work_s * 1e3) % len(lines[level]))
            _at_a_gate(s, left.row, now_s, False)
        assert s.clock["waiting"][0] == s.pools["waiting"][0] == sum(map(len, lines))
        assert list(s.lines["count"]) == [len(line) for line in lines]
        assert s.lines["work_s"] == pytest.approx([sum(t.work_s for t in line) for line in lines])


def _first(lines: list[list[Waiting]]) -> int:
    heads = [line[0] for line in lines if line]
    return min(heads, key=lambda head: head.by_s).row if heads else NOBODY


def _walked(lines: list[list[Waiting]], now_s: float, until_s: float) -> list[tuple[int, float]]:
    """Who goes at which tick from ``now_s`` to ``until_s``, found by a look at everybody at every tick."""
    found = []
    for tick in range(int(now_s / TICK_S), int(until_s / TICK_S) + 2):
        if now_s < tick * TICK_S <= until_s:
            for line in lines:
                late = [one for one in line if one.start_by_s <= tick * TICK_S]
                found += [(one.row, tick * TICK_S) for one in late]
                line[:] = [one for one in line if one not in late]
    return found


@njit(error_model="numpy", _nrt=False)  # type: ignore[untyped-decorator]
def _set_due(state: State, leaf: int, due_s: float) -> tuple[int, float, float]:
    s = by_reference(state)
    set_due(s, leaf, due_s)
    return s.first[1], s.due_s[1], due_of(s, leaf)


@given(
    st.lists(
        st.tuples(st.integers(0, LANES - 1), st.sampled_from([0.0, 1.0, 1.5, 2.0, math.inf])), min_size=1, max_size=30
    )
)
def test_the_earliest_is_next_and_among_equals_the_first(steps: list[tuple[int, float]]) -> None:
    s, due_s = fresh(), np.full(LANES, np.inf)
    for leaf, at_s in steps:
        due_s[leaf] = at_s
        assert _set_due(s, leaf, at_s) == (int(np.argmin(due_s)), due_s.min(), at_s)


@njit(error_model="numpy", _nrt=False)  # type: ignore[untyped-decorator]
def _overtaken(state: State, line_row: int, enough_s: float) -> bool:
    return _is_overtaken(by_reference(state), 0, line_row, 0.0, enough_s)


WAIT_S = st.floats(0.0, 30.0)


@settings(deadline=None)
@given(st.lists(st.tuples(WAIT_S, st.floats(0.0, 1.2)), min_size=3, max_size=3), st.integers(0, 2), WAIT_S)
def test_whether_a_line_is_overtaken_is_known_without_the_rounds(
    made: list[tuple[float, float]], level: int, other_s: float
) -> None:
    s = fresh()
    s.lines["wait_s"], s.lines["flow_s"] = np.cumsum([wait_s for wait_s, _ in made]), [20.0 * load for _, load in made]
    s.pools["healthy"] = 1
    loads = [min(1.0, 20.0 * load / 20.0) for _, load in made]
    waits_s = s.lines["wait_s"]
    wait_s = float(waits_s[level])
    for _ in range(_ROUNDS):
        steps = zip(loads[:level], LIMITS_S, strict=False)
        wait_s = sum((load * min(wait_s, LIMITS_S[level] - limit_s) for load, limit_s in steps), float(waits_s[level]))
    if sum(loads[:level]) <= 0.9:  # else the rounds of the exact engine end where they get on slowly
        levels = [Level(*one, None, load) for *one, load in zip(LIMITS_S, map(float, waits_s), loads, strict=True)]
        assert overtaken_s(levels, level) == pytest.approx(wait_s, abs=0.01)
    for enough_s in (wait_s, math.nextafter(wait_s, 0.0), math.nextafter(wait_s, math.inf), other_s):
        assert _overtaken(s, level, enough_s) == (wait_s > enough_s)


class Arrays(NamedTuple):
    line: np.ndarray
    table: np.ndarray
    records: np.ndarray


@njit(error_model="numpy", _nrt=False)  # type: ignore[untyped-decorator]
def _moved(arrays: Arrays, i: int, j: int) -> float:
    a = by_reference(arrays)
    row, record = a.table[i], a.records[i]
    row[j], record.count = a.line[j] + row[j], record.count + len(a.table)
    a.line[j], a.table[i, 0] = record.size, 7.0
    return len(row) + a.table[i, j] + a.records[i].count


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_what_is_referred_to_is_read_and_written_in_its_place(kind: type) -> None:
    made = np.zeros(3, [("size", "f8"), ("count", "i4")])
    made["size"] = 0.25, 0.5, 0.75
    arrays = Arrays(np.arange(4.0), np.arange(12.0).reshape(3, 4), made)
    assert _moved(arrays, kind(2), kind(3)) == 4 + (3.0 + 11.0) + 3
    assert arrays.line.tolist() == [0.0, 1.0, 2.0, 0.75]
    assert arrays.table.tolist() == [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0], [7.0, 9.0, 10.0, 14.0]]
    assert made["count"].tolist() == [0, 0, 3]
