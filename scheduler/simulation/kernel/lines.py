"""Those who wait at a gate: lines by TTFT objective in order of arrival, and whose time is out when. Compiled.

Hardly a step takes longer in a long line than in a short one: sums over lines are kept, and instants sorted as they come.
"""

from __future__ import annotations

import math

import numpy as np

from scheduler.simulation.kernel.state import NOBODY, TICK_S, WAITING, L, State, inner, tight

_PARTS = 2.0**32  # of a second of work
_ROUNDING = 1e-9  # more than the order makes in which work is added up


@tight
def join(s: State, row: int, now_s: float) -> None:
    """The ticket waits, as the last of its line."""
    ticket = s.tickets[row]
    line_row = L(ticket.line)
    line = s.lines[line_row]
    pool = s.pools[line.pool]
    ticket.state, ticket.before, ticket.after = WAITING, line.tail, NOBODY
    if line.tail == NOBODY:
        line.head = row
        pool.first = NOBODY
    else:
        s.tickets[line.tail].after = row
    line.tail = row
    line.count += 1
    line.work_s += ticket.work_s
    pool.waiting += 1
    s.clock[0].waiting += 1
    for other in range(pool.line_first, line_row):
        earlier = s.earlier[other, line_row - pool.line_first]
        if earlier.ticket == NOBODY:
            earlier.ticket = row
    _set_timeout(s, row, now_s)


@tight
def leave(s: State, row: int) -> None:
    """The ticket waits no more."""
    ticket = s.tickets[row]
    line_row = L(ticket.line)
    line = s.lines[line_row]
    pool = s.pools[line.pool]
    for other in range(pool.line_first, line_row):
        earlier = s.earlier[other, line_row - pool.line_first]
        if ticket.ttft_by_s < earlier.by_s:
            earlier.work -= int(ticket.work_s * _PARTS)
        elif earlier.ticket == row:
            earlier.ticket = ticket.after
    if pool.first == row:
        pool.first = NOBODY
    if ticket.before == NOBODY:
        line.head = ticket.after
    else:
        s.tickets[ticket.before].after = ticket.after
    if ticket.after == NOBODY:
        line.tail = ticket.before
    else:
        s.tickets[ticket.after].before = ticket.before
    line.count -= 1
    line.work_s = max(0.0, line.work_s - ticket.work_s) if line.count else 0.0
    pool.waiting -= 1
    s.clock[0].waiting -= 1
    _drop_timeout(s, row)


@tight
def first_of(s: State, pool_row: int) -> int:
    """Who is first of all lines of a pool: the earliest deadline."""
    pool = s.pools[pool_row]
    if pool.first != NOBODY:
        return int(pool.first)
    row, by_s = L(NOBODY), np.inf
    for line_row in range(pool.line_first, pool.line_end):
        head = s.lines[line_row].head
        if head != NOBODY and (row == NOBODY or s.tickets[head].ttft_by_s < by_s):
            row, by_s = head, s.tickets[head].ttft_by_s
    pool.first = row
    return int(row)


@tight
def work_before_s(s: State, line_row: int, ttft_by_s: float) -> float:
    """Work of those in slower lines whose deadlines come first, as the exact engine adds it up."""
    work_s = 0.0
    for row in range(line_row + 1, s.pools[s.lines[line_row].pool].line_end):
        other = s.lines[row].head
        while other != NOBODY and s.tickets[other].ttft_by_s < ttft_by_s:
            work_s += s.tickets[other].work_s
            other = s.tickets[other].after
    return work_s


@tight
def work_before_within_s(s: State, line_row: int, ttft_by_s: float) -> tuple[float, float]:
    """Bounds of ``work_before_s``. ``ttft_by_s`` is that of who joins ``line_row`` now: it never goes back."""
    pool = s.pools[s.lines[line_row].pool]
    work = 0
    for row in range(line_row + 1, pool.line_end):
        earlier = s.earlier[line_row, row - pool.line_first]
        earlier.by_s = ttft_by_s
        while earlier.ticket != NOBODY and s.tickets[earlier.ticket].ttft_by_s < ttft_by_s:
            earlier.work += int(s.tickets[earlier.ticket].work_s * _PARTS)
            earlier.ticket = s.tickets[earlier.ticket].after
        work += earlier.work
    work_s = work / _PARTS
    return work_s * (1.0 - _ROUNDING), (work_s + pool.waiting / _PARTS) * (1.0 + _ROUNDING)


@tight
def next_tick(s: State, now_s: float) -> int:
    """The number of the first tick from ``now_s`` on that has not been."""
    tick = s.clock[0].tick
    return tick if tick * TICK_S >= now_s else L(math.floor(now_s / TICK_S)) + 1


@tight
def _set_timeout(s: State, row: int, now_s: float) -> None:
    """Note the first tick at which the ticket's time is out, or an earlier one if there is no place for that."""
    ticket = s.tickets[row]
    timeouts = s.timeouts[ticket.line]
    tick = soonest = next_tick(s, now_s)
    latest = soonest + len(timeouts) - 2
    if not ticket.start_by_s <= latest * TICK_S:
        tick = latest
    elif ticket.start_by_s > soonest * TICK_S:
        tick = L(math.ceil(ticket.start_by_s / TICK_S))
        while (tick - 1) * TICK_S >= ticket.start_by_s:  # ticks are rounded, too
            tick -= 1
    place = tick & (len(timeouts) - 1)
    before, after = L(timeouts[place, 1]), L(NOBODY)
    while before != NOBODY and s.tickets[before].number > ticket.number:  # only who was looked at again
        before, after = L(s.tickets[before].timeout_before), before
    ticket.timeout, ticket.timeout_before, ticket.timeout_after = place, before, after
    if before == NOBODY:
        timeouts[place, 0] = row
    else:
        s.tickets[before].timeout_after = row
    if after == NOBODY:
        timeouts[place, 1] = row
    else:
        s.tickets[after].timeout_before = row


@tight
def _drop_timeout(s: State, row: int) -> None:
    ticket = s.tickets[row]
    timeouts = s.timeouts[ticket.line]
    if ticket.timeout_before == NOBODY:
        timeouts[ticket.timeout, 0] = ticket.timeout_after
    else:
        s.tickets[ticket.timeout_before].timeout_after = ticket.timeout_after
    if ticket.timeout_after == NOBODY:
        timeouts[ticket.timeout, 1] = ticket.timeout_before
    else:
        s.tickets[ticket.timeout_after].timeout_before = ticket.timeout_before


@inner
def out_of_time(s: State, line_row: int, tick: int, now_s: float) -> int:
    """The first in line of those whose time is out at this tick (``now_s``); -1 for nobody."""
    timeouts = s.timeouts[line_row]
    row = L(timeouts[tick & (len(timeouts) - 1), 0])
    while row != NOBODY and s.tickets[row].start_by_s > now_s:  # not yet
        after = L(s.tickets[row].timeout_after)
        _drop_timeout(s, row)
        _set_timeout(s, row, now_s)
        row = after
    return row
