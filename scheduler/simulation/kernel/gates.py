"""The gate in front of a pool: ``scheduler.core.gate`` and ``scheduler.core.admission`` on arrays. Compiled."""

from __future__ import annotations

import numpy as np

from scheduler.core import capacity, gate
from scheduler.simulation.kernel.lanes import began, begun, best, flow, give, look, served, watch
from scheduler.simulation.kernel.ledger import free, in_time_here, send_on
from scheduler.simulation.kernel.lines import first_of, join, leave, out_of_time, work_before_s, work_before_within_s
from scheduler.simulation.kernel.prices import price
from scheduler.simulation.kernel.state import NOBODY, WAITING, L, State, inner, tight
from scheduler.simulation.kernel.tournament import least_worth, may_leave

_ROUNDS, _SERVICE_WEIGHT = capacity._ROUNDS, gate._SERVICE_WEIGHT


@inner
def _out(s: State, row: int, now_s: float) -> None:
    """The ticket is sent elsewhere from where it waits."""
    leave(s, row)
    pool = s.pools[s.lines[s.tickets[row].line].pool]
    if not pool.waiting:  # not all of them began: the time from here on is nobody's wait
        pool.began_s, pool.began_work_s = -1.0, 0.0
    send_on(s, row, now_s)
    free(s, row)


@inner
def pump(s: State, pool_row: int, now_s: float) -> int:
    """Engines that can begin get the tickets with the earliest deadlines. Returns who is first in line then (-1: nobody)."""
    pool = s.pools[pool_row]
    while pool.waiting:
        row = first_of(s, pool_row)
        lane_row = best(s, pool_row, s.tickets[row].kv_tokens, now_s)
        if lane_row == NOBODY:
            return row
        leave(s, row)
        _start(s, pool_row, row, lane_row, now_s)
    return L(NOBODY)


@tight
def _start(s: State, pool_row: int, row: int, lane_row: int, now_s: float) -> None:
    ticket = s.tickets[row]
    served(s, L(ticket.line), ticket.work_s, now_s)
    began(s, pool_row, ticket.work_s, now_s)
    give(s, row, lane_row, now_s)


@inner
def enter(s: State, row: int, now_s: float) -> None:
    """A ticket arrives: it starts, is held, or is sent on at once."""
    ticket = s.tickets[row]
    line_row = L(ticket.line)
    pool_row, lane_row = s.lines[line_row].pool, L(NOBODY)
    pool = s.pools[pool_row]
    admitted, alone = pool.healthy > 0, pool.waiting == 0
    if admitted:
        look(s, pool_row, now_s)
        usd = -np.inf
        if ticket.usd_displaced < np.inf:
            usd = price(s, line_row, ticket.work_s * (pool.work_ratio / pool.healthy), 0.0, 0.0, False)
        if alone:
            lane_row = best(s, pool_row, ticket.kv_tokens, now_s)
            admitted = _admitted(s, row, usd, 0.0, lane_row != NOBODY, now_s)
        else:
            least_s, most_s = work_before_within_s(s, line_row, ticket.ttft_by_s)
            admitted = _admitted(s, row, usd, most_s, False, now_s)
            if admitted != _admitted(s, row, usd, least_s, False, now_s):  # so close that rounding decides
                admitted = _admitted(s, row, usd, work_before_s(s, line_row, ticket.ttft_by_s), False, now_s)
    if not admitted:
        send_on(s, row, now_s)
        free(s, row)
        return
    if lane_row != NOBODY:
        _start(s, pool_row, row, lane_row, now_s)
        return
    join(s, row, now_s)
    if not alone:
        pump(s, pool_row, now_s)
    if pool.waiting:
        if ticket.state == WAITING and ticket.leave_by_s >= now_s and ticket.usd_displaced < np.inf:
            may_leave(s, line_row, row)
        _make_room(s, pool_row, line_row, now_s)


@tight
def _admitted(s: State, row: int, usd: float, before_s: float, starts: bool, now_s: float) -> bool:
    """Whether who arrives is worth ``usd`` after that work of slower lines, and can start now or may wait."""
    ticket = s.tickets[row]
    line = s.lines[ticket.line]
    pool, profile = s.pools[line.pool], s.profiles[ticket.profile]
    wait_s = line.wait_s + pool.work_ratio / pool.healthy * before_s
    if ticket.usd_displaced < np.inf and not ticket.usd_displaced - profile.usd_per_s_waiting * wait_s >= usd:
        return False
    late = now_s + wait_s > ticket.start_by_s and ticket.leave_by_s < now_s
    return starts or (pool.waiting < pool.waiting_max and not late)


@inner
def _is_overtaken(s: State, pool_row: int, line_row: int, now_s: float, enough_s: float) -> bool:
    """Whether the wait at the end of a line, when faster requests go on arriving as they did, is more than ``enough_s``.

    The wait is that of ``capacity.overtaken_s``, by its rounds. They are seldom made: no round takes wait away, and where one
    that begins with ``enough_s`` itself does not add to it, none comes beyond.
    """
    pool, line = s.pools[pool_row], s.lines[line_row]
    if line_row == pool.line_first or line.wait_s > enough_s:
        return bool(line.wait_s > enough_s)
    most_s = line.wait_s
    for row in range(pool.line_first, line_row):
        most_s += line.ttft_s_max - s.lines[row].ttft_s_max
    if most_s <= enough_s:
        return False
    for row in range(pool.line_first, line_row):
        s.lines[row].load = min(1.0, flow(s, row, now_s) * pool.work_ratio / pool.healthy)
    if _longer_s(s, pool.line_first, line_row, enough_s) <= enough_s:
        return False
    wait_s = line.wait_s
    for _ in range(_ROUNDS):
        before_s, wait_s = wait_s, _longer_s(s, pool.line_first, line_row, wait_s)
        if wait_s == before_s or wait_s > enough_s:
            break
    return bool(wait_s > enough_s)


@tight
def _longer_s(s: State, first: int, line_row: int, wait_s: float) -> float:
    """The wait at the end of a line with those who overtake it within ``wait_s``."""
    line = s.lines[line_row]
    longer_s = line.wait_s
    for row in range(first, line_row):
        longer_s += s.lines[row].load * min(wait_s, line.ttft_s_max - s.lines[row].ttft_s_max)
    return float(longer_s)


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
            if _is_overtaken(s, pool_row, line_row, now_s, in_line_s):
                worst = L(NOBODY)
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
    found, found_usd = L(NOBODY), np.inf
    for row in range(first, last + 1):
        one = least_worth(s, row, now_s)
        if one != NOBODY and s.room_usd[row, 0] < found_usd:
            found, found_usd = one, s.room_usd[row, 0]
    return found


@tight
def news(s: State, pool_row: int, what: int, now_s: float) -> None:
    """A first token, or the end of an answer."""
    row, pool = L(what >> 1), s.pools[pool_row]
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
def tick(s: State, pool_row: int, number: int, now_s: float) -> None:
    """Some twenty times a second: those whose time is out go, and those who are late make room."""
    pool = s.pools[pool_row]
    for line_row in range(pool.line_first, pool.line_end):
        row = out_of_time(s, line_row, number, now_s)
        while row != NOBODY:
            _out(s, row, now_s)
            row = out_of_time(s, line_row, number, now_s)
    row = pump(s, pool_row, now_s)
    if row != NOBODY:
        watch(s, pool_row, s.tickets[row].kv_tokens, now_s)
        _make_room(s, pool_row, pool.line_first, now_s)
