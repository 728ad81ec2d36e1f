"""The gate in front of a pool: ``scheduler.core.gate`` and ``scheduler.core.admission`` on arrays. Compiled."""

from __future__ import annotations

import numpy as np

from scheduler.core import capacity, gate
from scheduler.simulation.kernel.lanes import began, begun, best, flow, give, look, served, watch
from scheduler.simulation.kernel.ledger import free, in_time_here, send_on
from scheduler.simulation.kernel.prices import price
from scheduler.simulation.kernel.state import NOBODY, WAITING, State, inner, tight
from scheduler.simulation.kernel.tournament import least_worth, may_leave

_ROUNDS, _SERVICE_WEIGHT = capacity._ROUNDS, gate._SERVICE_WEIGHT


@tight
def _unlink(s: State, row: int) -> None:
    ticket = s.tickets[row]
    line = s.lines[ticket.line]
    pool = s.pools[line.pool]
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


@inner
def _out(s: State, row: int, now_s: float) -> None:
    """The ticket is sent elsewhere from where it waits."""
    _unlink(s, row)
    pool = s.pools[s.lines[s.tickets[row].line].pool]
    if not pool.waiting:  # not all of them began: the time from here on is nobody's wait
        pool.began_s, pool.began_work_s = -1.0, 0.0
    send_on(s, row, now_s)
    free(s, row)


@tight
def _next(s: State, pool_row: int) -> int:
    """Who is first in line: the earliest deadline."""
    pool = s.pools[pool_row]
    row, by_s = NOBODY, np.inf
    for line_row in range(pool.line_first, pool.line_end):
        head = s.lines[line_row].head
        if head != NOBODY and (row == NOBODY or s.tickets[head].ttft_by_s < by_s):
            row, by_s = head, s.tickets[head].ttft_by_s
    return int(row)


@inner
def pump(s: State, pool_row: int, now_s: float) -> None:
    """Engines that can begin get the tickets with the earliest deadlines."""
    pool = s.pools[pool_row]
    while pool.waiting:
        row = _next(s, pool_row)
        ticket = s.tickets[row]
        lane_row = best(s, pool_row, ticket.kv_tokens, now_s)
        if lane_row == NOBODY:
            return
        _unlink(s, row)
        served(s, ticket.line, ticket.work_s, now_s)
        began(s, pool_row, ticket.work_s, now_s)
        give(s, row, lane_row, now_s)


@inner
def enter(s: State, row: int, now_s: float) -> None:
    """A ticket arrives: it starts, is held, or is sent on at once."""
    ticket = s.tickets[row]
    line, pool_row = s.lines[ticket.line], s.lines[ticket.line].pool
    pool, profile = s.pools[pool_row], s.profiles[ticket.profile]
    admitted = pool.healthy > 0
    if admitted:
        look(s, pool_row, now_s)
        share = pool.work_ratio / pool.healthy
        wait_s = line.wait_s + share * _work_before_s(s, ticket.line, ticket.ttft_by_s)
        if ticket.usd_displaced < np.inf:
            usd = price(s, ticket.line, ticket.work_s * share, 0.0, 0.0, False)
            admitted = ticket.usd_displaced - profile.usd_per_s_waiting * wait_s >= usd
        if admitted and (pool.waiting or best(s, pool_row, ticket.kv_tokens, now_s) == NOBODY):
            late = now_s + wait_s > ticket.start_by_s and ticket.leave_by_s < now_s
            admitted = pool.waiting < pool.waiting_max and not late
    if not admitted:
        send_on(s, row, now_s)
        free(s, row)
        return
    ticket.state, ticket.before, ticket.after = WAITING, line.tail, NOBODY
    if line.tail == NOBODY:
        line.head = row
    else:
        s.tickets[line.tail].after = row
    line.tail = row
    line.soonest_s = min(line.soonest_s, ticket.start_by_s) if line.count else ticket.start_by_s
    line.count += 1
    line.work_s += ticket.work_s
    pool.waiting += 1
    s.clock[0].waiting += 1
    pump(s, pool_row, now_s)
    if pool.waiting:
        if ticket.state == WAITING and ticket.leave_by_s >= now_s and ticket.usd_displaced < np.inf:
            may_leave(s, ticket.line, row)
        _make_room(s, pool_row, ticket.line, now_s)


@tight
def _work_before_s(s: State, line_row: int, ttft_by_s: float) -> float:
    """Work of those in slower lines whose deadlines come first."""
    work_s = 0.0
    for row in range(line_row + 1, s.pools[s.lines[line_row].pool].line_end):
        other = s.lines[row].head
        while other != NOBODY and s.tickets[other].ttft_by_s < ttft_by_s:
            work_s += s.tickets[other].work_s
            other = s.tickets[other].after
    return work_s


@inner
def _overtaken_s(s: State, pool_row: int, line_row: int, now_s: float, enough_s: float) -> float:
    """Wait at the end of a line when faster requests go on arriving as they did (``capacity.overtaken_s``).

    Where even the worst that they can do stays below ``enough_s``, that worst.
    """
    pool, line = s.pools[pool_row], s.lines[line_row]
    wait_s = line.wait_s
    for row in range(pool.line_first, line_row):
        wait_s += line.ttft_s_max - s.lines[row].ttft_s_max
    if line_row == pool.line_first or wait_s <= enough_s:
        return float(wait_s)
    for row in range(pool.line_first, line_row):
        s.lines[row].load = min(1.0, flow(s, row, now_s) * pool.work_ratio / pool.healthy)
    wait_s = line.wait_s
    for _ in range(_ROUNDS):
        before_s, wait_s = wait_s, line.wait_s
        for row in range(pool.line_first, line_row):
            wait_s += s.lines[row].load * min(before_s, line.ttft_s_max - s.lines[row].ttft_s_max)
        if wait_s == before_s:
            break
    return float(wait_s)


@inner
def _make_room(s: State, pool_row: int, line_row: int, now_s: float) -> None:
    """While the last of a line (from ``line_row`` on) is late, the least valuable who may leave goes."""
    pool = s.pools[pool_row]
    if not pool.healthy or not s.clock[0].evicts:
        return
    look(s, pool_row, now_s)
    while line_row < pool.line_end:
        row = s.lines[line_row].tail
        if row != NOBODY:
            last = s.tickets[row]
            own_s = last.prefill_s * pool.prefill_ratio + pool.ttft_base_s
            left_s = pool.margin * (last.ttft_by_s - last.arrived_s) - (now_s - last.arrived_s) - own_s
            in_line_s = left_s + last.work_s * pool.work_ratio / pool.healthy  # its own work is part of the line's
            if _overtaken_s(s, pool_row, line_row, now_s, in_line_s) > in_line_s:
                worst = NOBODY
                if left_s >= 0.0:
                    worst = _worst(s, pool.line_first, line_row, now_s)
                elif last.leave_by_s >= now_s and last.usd_displaced < np.inf:
                    worst = row
                if worst != NOBODY:
                    _out(s, worst, now_s)
                    look(s, pool_row, now_s)
                    continue
        line_row += 1


@inner
def _worst(s: State, first: int, last: int, now_s: float) -> int:
    """Who of these lines makes room: the lowest worth per second of work."""
    found, found_usd = NOBODY, np.inf
    for row in range(first, last + 1):
        one = least_worth(s, row, now_s)
        if one != NOBODY and s.room_usd[row, 0] < found_usd:
            found, found_usd = one, s.room_usd[row, 0]
    return int(found)


@tight
def news(s: State, pool_row: int, what: int, now_s: float) -> None:
    """A first token, or the end of an answer."""
    row, pool = what >> 1, s.pools[pool_row]
    ticket = s.tickets[row]
    if what & 1 == 0:
        ticket.ttft_s = now_s - ticket.arrived_s
        if begun(s, row, now_s):
            pump(s, pool_row, now_s)
        return
    lane = s.lanes[ticket.lane]
    lane.held -= 1
    lane.kv_held -= ticket.kv_tokens
    if lane.healthy:
        pool.held -= 1
    pool.service_s_mean += _SERVICE_WEIGHT * (now_s - ticket.granted_s - pool.service_s_mean)
    pump(s, pool_row, now_s)
    in_time_here(s, row)
    free(s, row)


@inner
def tick(s: State, pool_row: int, now_s: float) -> None:
    """Some twenty times a second: those whose time is out go, and those who are late make room."""
    pool = s.pools[pool_row]
    for line_row in range(pool.line_first, pool.line_end):
        line = s.lines[line_row]
        if not line.count or line.soonest_s > now_s:
            continue
        row, line.soonest_s = line.head, np.inf
        while row != NOBODY:
            after = s.tickets[row].after
            if s.tickets[row].start_by_s <= now_s:
                _out(s, row, now_s)
            else:
                line.soonest_s = min(line.soonest_s, s.tickets[row].start_by_s)
            row = after
    pump(s, pool_row, now_s)
    if pool.waiting:
        watch(s, pool_row, s.tickets[_next(s, pool_row)].kv_tokens, now_s)
        _make_room(s, pool_row, pool.line_first, now_s)
