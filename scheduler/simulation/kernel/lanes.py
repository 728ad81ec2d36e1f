"""What a gate knows of its engines: ``scheduler.core.lanes`` and ``scheduler.core.learning`` on arrays. Compiled."""

from __future__ import annotations

import math

import numpy as np

from scheduler.core import lanes, learning
from scheduler.simulation.kernel.engines import submit
from scheduler.simulation.kernel.state import HELD, NOBODY, L, State, inner, tight

_PATIENCE, _FLOW_S = lanes._PATIENCE, lanes._FLOW_S
_RATIO_MIN, _RATIO_MAX = learning._RATIO_MIN, learning._RATIO_MAX
_PACE_WORK_S, _MARGIN_MIN = learning._PACE_WORK_S, learning._MARGIN_MIN
_MISS_TARGET, _MARGIN_STEP = learning._MISS_TARGET, learning._MARGIN_STEP
_SLOTS_STEP = learning._SLOTS_STEP
_REST_S, _REST_FADE_S = learning._REST_S, learning._REST_FADE_S
_NEW = learning.Calibration(1.0)
PREFILL_PRIOR_S, WORK_PRIOR_S = _NEW.prefill._prior_s, _NEW.work._prior_s
_PREFILL_FADE_S, _WORK_FADE_S = _NEW.prefill._fade_s, _NEW.work._fade_s


@tight
def _ratio(actual_s: float, predicted_s: float) -> float:
    return min(_RATIO_MAX, max(_RATIO_MIN, actual_s / predicted_s))


@inner
def rest(s: State, pool_row: int, now_s: float) -> None:
    """While nothing is seen, what was learnt fades."""
    pool = s.pools[pool_row]
    if pool.faded_s < 0.0:
        pool.faded_s = now_s
    elif now_s - pool.faded_s > _REST_S:
        share = min(0.5, (now_s - pool.faded_s) / _REST_FADE_S)
        pool.prefill_actual_s += share * (PREFILL_PRIOR_S - pool.prefill_actual_s)
        pool.prefill_predicted_s += share * (PREFILL_PRIOR_S - pool.prefill_predicted_s)
        pool.prefill_ratio = _ratio(pool.prefill_actual_s, pool.prefill_predicted_s)
        pool.work_actual_s += share * (WORK_PRIOR_S - pool.work_actual_s)
        pool.work_predicted_s += share * (WORK_PRIOR_S - pool.work_predicted_s)
        pool.work_ratio = _ratio(pool.work_actual_s, pool.work_predicted_s)
        pool.faded_s = now_s


@tight
def best(s: State, pool_row: int, kv_tokens: float, now_s: float) -> int:
    """The engine that would begin first with a ticket of that size; the one with the most free slots among equals."""
    pool = s.pools[pool_row]
    ratio, ahead_s = pool.prefill_ratio, s.clock[0].grant_ahead_s
    found, found_s, found_held = L(NOBODY), np.inf, 0
    for lane_row in range(pool.lane_first, pool.lane_end):
        lane = s.lanes[lane_row]
        if not lane.healthy or lane.held >= pool.slots:
            continue
        if pool.kv_tokens and lane.held and lane.kv_held + kv_tokens > pool.kv_tokens:
            continue
        took_s, begun_s = now_s - lane.since_s, lane.begun_s * ratio
        left_s = begun_s - took_s
        if left_s > ahead_s:
            continue
        if lane.begun_head < lane.tail and begun_s < took_s <= _PATIENCE * begun_s:
            continue
        left_s = max(0.0, left_s)
        if left_s < found_s or (left_s == found_s and lane.held < found_held):
            found, found_s, found_held = lane_row, left_s, lane.held
    return found


@tight
def give(s: State, row: int, lane_row: int, now_s: float) -> None:
    """The ticket takes a slot of that engine, which gets it at once."""
    ticket, lane, ring = s.tickets[row], s.lanes[lane_row], s.lane_ring[lane_row]
    pool = s.pools[lane.pool]
    if lane.begun_s * pool.prefill_ratio - (now_s - lane.since_s) <= 0.0:
        lane.begun_head, lane.begun_s, lane.since_s = lane.tail, 0.0, now_s
        lane.step_s = pool.step_base_s + pool.step_per_seq_s * lane.held
    lane.held += 1
    pool.held += 1
    lane.kv_held += ticket.kv_tokens
    lane.begun_s += ticket.prefill_s
    ticket.state, ticket.lane, ticket.place, ticket.granted_s = HELD, lane_row, lane.tail, now_s
    ring[lane.tail & (len(ring) - 1)] = row
    lane.tail += 1
    submit(s, lane_row, now_s)


@tight
def begun(s: State, row: int, now_s: float) -> bool:
    """An engine has begun to answer the ticket, and so whatever it was given before; False where that was known."""
    ticket = s.tickets[row]
    lane, ring = s.lanes[ticket.lane], s.lane_ring[ticket.lane]
    if ticket.place < lane.begun_head:
        return False
    pool = s.pools[lane.pool]
    at_s = now_s - pool.ttft_base_s
    predicted_s, actual_s = lane.step_s, max(0.0, at_s - lane.since_s)
    for place in range(lane.begun_head, ticket.place + 1):
        prefill_s = s.tickets[ring[place & (len(ring) - 1)]].prefill_s
        predicted_s += prefill_s
        lane.begun_s -= prefill_s
    lane.begun_head, lane.since_s, lane.step_s = ticket.place + 1, at_s, 0.0
    if lane.begun_head == lane.tail or lane.begun_s < 0.0:
        lane.begun_s = 0.0
    if predicted_s > 0.0:
        keep = max(0.5, 1.0 - predicted_s / _PREFILL_FADE_S)
        pool.prefill_actual_s = pool.prefill_actual_s * keep + actual_s
        pool.prefill_predicted_s = pool.prefill_predicted_s * keep + predicted_s
        pool.prefill_ratio = _ratio(pool.prefill_actual_s, pool.prefill_predicted_s)
    step = _MARGIN_STEP * (_MISS_TARGET - 1.0 if now_s > ticket.ttft_by_s else _MISS_TARGET)
    pool.margin = min(s.clock[0].margin_max, max(_MARGIN_MIN, pool.margin + step))
    return True


@tight
def began(s: State, pool_row: int, work_s: float, now_s: float) -> None:
    """Work of one ticket has begun: the pace at which a line that never runs empty is worked off."""
    pool = s.pools[pool_row]
    if pool.began_s >= 0.0:
        pool.began_work_s += work_s
        if not pool.waiting or pool.began_work_s > _PACE_WORK_S * pool.healthy:
            keep = max(0.5, 1.0 - pool.began_work_s / _WORK_FADE_S)
            pool.work_actual_s = pool.work_actual_s * keep + (now_s - pool.began_s) * pool.healthy
            pool.work_predicted_s = pool.work_predicted_s * keep + pool.began_work_s
            pool.work_ratio = _ratio(pool.work_actual_s, pool.work_predicted_s)
            pool.began_s, pool.began_work_s = -1.0, 0.0
    if pool.waiting and pool.began_s < 0.0:
        pool.began_s = now_s


@tight
def watch(s: State, pool_row: int, kv_tokens: float, now_s: float) -> None:
    """A look at what keeps the line back, whose first ticket has that size: slots and cache, or compute."""
    pool = s.pools[pool_row]
    full = 0
    for row in range(pool.lane_first, pool.lane_end):
        lane = s.lanes[row]
        if lane.healthy and lane.begun_s * pool.prefill_ratio - (now_s - lane.since_s) <= s.clock[0].grant_ahead_s:
            no_cache = pool.kv_tokens and lane.held and lane.kv_held + kv_tokens > pool.kv_tokens
            full += 1 if lane.held >= pool.slots or no_cache else 0
    if pool.healthy:
        pool.slots_bound += _SLOTS_STEP * (full / pool.healthy - pool.slots_bound)


@tight
def look(s: State, pool_row: int, now_s: float) -> None:
    """Predicted wait at the end of every line, into ``wait_s``."""
    pool = s.pools[pool_row]
    ahead_s = 0.0
    for row in range(pool.lane_first, pool.lane_end):
        lane = s.lanes[row]
        if lane.healthy:
            ahead_s += max(0.0, lane.begun_s * pool.prefill_ratio - (now_s - lane.since_s))
    ahead_s, slots = ahead_s / pool.healthy, pool.slots * pool.healthy
    if pool.held >= slots:  # the next slot must come free first
        ahead_s += pool.service_s_mean / slots
    share = pool.work_ratio / pool.healthy
    for row in range(pool.line_first, pool.line_end):
        line = s.lines[row]
        ahead_s += line.work_s * share
        line.wait_s = ahead_s


@tight
def flow(s: State, line_row: int, now_s: float) -> float:
    """Replica-seconds of this line's work per second, as of late."""
    line = s.lines[line_row]
    return float(line.flow_s * math.exp((line.flow_at_s - now_s) / _FLOW_S) / _FLOW_S)


@tight
def served(s: State, line_row: int, work_s: float, now_s: float) -> None:
    """Work that the pool has begun on for this line."""
    line = s.lines[line_row]
    line.flow_s = line.flow_s * math.exp((line.flow_at_s - now_s) / _FLOW_S) + work_s
    line.flow_at_s = now_s
