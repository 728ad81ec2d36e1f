"""The kernel's clock: the next event of all, until a batch or a span of time is over. Compiled once for all files here."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from scheduler.core import bids, capacity, gate, lanes, learning, tickets
from scheduler.simulation import policies
from scheduler.simulation.kernel.engines import proceed
from scheduler.simulation.kernel.gates import news, pump, tick
from scheduler.simulation.kernel.gateways import BID, arrive
from scheduler.simulation.kernel.lanes import flow, look, rest
from scheduler.simulation.kernel.lines import next_tick
from scheduler.simulation.kernel.reference import by_reference
from scheduler.simulation.kernel.state import DEMAND_MAX, TICK_S, Arrivals, L, State, inner, tight

_WINDOW_S = bids._WINDOW_S


@inner
def _report(s: State, pool_row: int, now_s: float) -> None:
    """Demand since the last snapshot, kept as ``bids.BidBook.heard`` keeps it."""
    pool = s.pools[pool_row]
    if pool.since_s < 0.0:
        if not pool.sample_seen:
            return
        pool.since_s, pool.window_kept = now_s, 1
        s.windows[pool_row, 0, 0] = now_s
    weight, work_s = pool.sample_seen / max(1, pool.sample_kept), 0.0
    for i in range(pool.sample_kept):
        one, kept = s.sample[pool_row, i], s.demand[pool_row, pool.demand_head]
        work_s += one[1] * weight
        kept[0], kept[1], kept[2], kept[3], kept[4] = now_s, one[0], one[1], one[2], weight
        pool.demand_head = (pool.demand_head + 1) % DEMAND_MAX
    pool.demand_kept = min(DEMAND_MAX, pool.demand_kept + pool.sample_kept)
    pool.sample_kept, pool.sample_seen, pool.sample_every = 0, 0, 1
    window = s.windows[pool_row, pool.window_head]
    end_s = window[0]
    if window[1] < _WINDOW_S or now_s <= end_s:
        window[0], window[1], window[2] = now_s, window[1] + now_s - end_s, window[2] + work_s
    else:
        pool.window_head = (pool.window_head + 1) % DEMAND_MAX
        pool.window_kept = min(DEMAND_MAX, pool.window_kept + 1)
        window = s.windows[pool_row, pool.window_head]
        window[0], window[1], window[2] = now_s, now_s - end_s, work_s


@inner
def _clear(s: State, now_s: float) -> None:
    """A new snapshot for every gateway."""
    clock = s.clock[0]
    clock.clear_s = now_s + clock.snapshot_age_s
    for pool_row in range(len(s.pools)):
        pool = s.pools[pool_row]
        rest(s, pool_row, now_s)
        if clock.kind == BID:
            _report(s, pool_row, now_s)
        pool.seen_replicas, pool.seen_waiting, pool.seen_usage = pool.healthy, pool.waiting, 1.0
        pool.seen_slots_bound = pool.slots_bound
        for gateway in range(clock.gateways):
            s.sent_s[gateway, pool_row] = 0.0
        if not pool.healthy:
            continue
        look(s, pool_row, now_s)
        for row in range(pool.line_first, pool.line_end):
            s.lines[row].seen_wait_s = s.lines[row].wait_s
        kv_held = 0.0
        for row in range(pool.lane_first, pool.lane_end):
            kv_held += s.lanes[row].kv_held if s.lanes[row].healthy else 0.0
        pool.seen_usage = kv_held / (pool.kv_tokens * pool.healthy) if pool.kv_tokens else 0.0
        if not pool.seen_usage:
            pool.seen_usage = pool.held / (pool.slots * pool.healthy)


@inner
def _change(s: State, now_s: float) -> None:
    """Replicas come, or get nothing more and end what they have."""
    clock = s.clock[0]
    while clock.changed < clock.changes and s.changes[clock.changed, 0] <= now_s:
        pool_row, replicas = int(s.changes[clock.changed, 1]), int(s.changes[clock.changed, 2])
        pool = s.pools[pool_row]
        pool.healthy, pool.held = min(replicas, pool.lane_end - pool.lane_first), 0
        for row in range(pool.lane_first, pool.lane_end):
            s.lanes[row].healthy = row - pool.lane_first < pool.healthy
            pool.held += s.lanes[row].held if s.lanes[row].healthy else 0
        clock.changed += 1
        pump(s, pool_row, now_s)
    clock.change_s = s.changes[clock.changed, 0] if clock.changed < clock.changes else np.inf


@inner
def _hear(s: State, now_s: float) -> None:
    """News that have reached a gate."""
    clock = s.clock[0]
    pool_row = clock.news_pool
    pool = s.pools[pool_row]
    what = L(s.news[pool_row, pool.ring_head & pool.ring_mask])
    pool.ring_head += 1
    pool.news_s = s.news_s[pool_row, pool.ring_head & pool.ring_mask] if pool.ring_head < pool.ring_tail else np.inf
    clock.news_s = np.inf
    for row in range(len(s.pools)):  # among equals the first one
        if s.pools[row].news_s < clock.news_s:
            clock.news_s, clock.news_pool = s.pools[row].news_s, row
    news(s, pool_row, what, now_s)


@tight
def _timer(s: State, now_s: float, tick_s: float) -> None:
    """A change of replicas, a snapshot, or a tick of the gates."""
    clock = s.clock[0]
    if clock.change_s <= now_s:
        _change(s, now_s)
    elif clock.clear_s <= now_s:
        _clear(s, now_s)
    elif tick_s <= now_s:
        number = clock.tick
        clock.tick += 1
        for pool_row in range(len(s.pools)):
            if s.pools[pool_row].waiting:
                tick(s, pool_row, number, now_s)


@inner
def _levels(s: State, now_s: float) -> None:
    """``PoolGate.levels`` of every pool, for who solves the next curves."""
    for pool_row in range(len(s.pools)):
        pool = s.pools[pool_row]
        if pool.healthy:
            look(s, pool_row, now_s)
            for row in range(pool.line_first, pool.line_end):
                s.lines[row].load = min(1.0, flow(s, row, now_s) * pool.work_ratio / pool.healthy)


def _compiled(source: int) -> Callable[..., Any]:
    @njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
    def advance(state: State, arrivals: Arrivals, first: int, until_s: float, last: bool) -> int:
        s, of = by_reference(state), by_reference(arrivals)
        clock, i, count = s.clock[0], first, len(of.arrival_s)
        while source:  # never 0: it is here so that the cached code belongs to these sources
            engine_s = min(s.due_s[1], clock.news_s)
            timer_s, tick_s = min(clock.clear_s, clock.change_s), np.inf
            if clock.waiting:
                clock.tick = next_tick(s, clock.now_s)
                tick_s = clock.tick * TICK_S
                timer_s = min(timer_s, tick_s)
            event_s = min(engine_s, timer_s)
            if i < count and of.arrival_s[i] < event_s and of.arrival_s[i] < until_s:
                clock.now_s = of.arrival_s[i]
                arrive(s, of, i, len(of.kept) > 0 and of.kept[i])
                i += 1
            elif event_s > until_s or (i == count and (not last or not clock.in_flight)):
                break
            elif engine_s <= timer_s:
                clock.now_s = engine_s
                if s.due_s[1] <= engine_s:
                    proceed(s, L(s.first[1]), engine_s)
                else:
                    _hear(s, engine_s)
            else:
                clock.now_s = timer_s
                _timer(s, timer_s, tick_s)
        if until_s < np.inf:
            _levels(s, until_s)
        return i

    return advance


_CORE = (bids, capacity, gate, lanes, learning, policies, tickets)  # whose constants are compiled in
_SOURCES = [*sorted(Path(__file__).parent.glob("*.py")), *(Path(str(module.__file__)) for module in _CORE)]

# Runs until every arrival from row ``first`` on has been taken, but not beyond ``until_s``; what lies between two batches is
# done only once the second is known, or with ``last``, until everybody is served. Returns the row after the last one taken.
# numba keeps code by the file of one function: the sources of all are part of its key here.
advance = _compiled(1 + zlib.crc32(b"".join(path.read_bytes() for path in _SOURCES)))
