"""The engines of the kernel: ``scheduler.simulation.engine`` on arrays, with one more jump.

While a prompt has more than a full chunk left, steps are alike whatever is submitted, until an answer ends; so many steps
are one event. Everything else is the same arithmetic. Compiled; nothing is checked.
"""

from __future__ import annotations

import math

import numpy as np

from scheduler.simulation.kernel.state import L, State, inner, tight
from scheduler.simulation.kernel.tournament import due_of, pop_end, push_end, set_due

_EPSILON = 1e-3  # of a step, as in scheduler.simulation.engine


@tight
def submit(s: State, lane_row: int, now_s: float) -> None:
    """The ticket that was put last into the lane's ring has arrived; its prompt joins the next step that begins."""
    lane = s.lanes[lane_row]
    if lane.in_step or lane.tail - lane.prompt_head > 1:
        return
    if lane.running:
        pool = s.pools[lane.pool]
        step_s = pool.true_base_s + pool.true_per_seq_s * lane.running
        _advance(s, lane_row, now_s, step_s)
        begins_s = now_s + (math.ceil(lane.steps - _EPSILON) - lane.steps) * step_s
        if begins_s > now_s + _EPSILON * step_s:
            if begins_s < due_of(s, lane_row):
                set_due(s, lane_row, begins_s)
            return
        lane.steps = np.rint(lane.steps)
    _begin_step(s, lane_row, now_s)


@tight
def _advance(s: State, lane_row: int, now_s: float, step_s: float) -> None:
    lane = s.lanes[lane_row]
    took_s = now_s - lane.anchor_s
    if took_s > 0.0:
        lane.steps += took_s / step_s
        lane.busy_s += took_s
        lane.decoded_tokens += took_s / step_s * lane.running
    lane.anchor_s = now_s


@tight
def _begin_step(s: State, lane_row: int, now_s: float) -> None:
    lane = s.lanes[lane_row]
    pool, ring = s.pools[lane.pool], s.lane_ring[lane_row]
    mask, full = len(ring) - 1, pool.chunk_tokens
    left = s.tickets[ring[lane.prompt_head & mask]].left_tokens
    many, chunk = 1.0, 0.0
    if left > full:
        many = math.ceil(left / full) - 1.0
        if lane.running:
            many = min(many, max(1.0, np.rint(s.ends_step[lane_row, 0] - lane.steps)))
        chunk = many * full
    else:
        place = lane.prompt_head
        while place < lane.tail:
            chunk += s.tickets[ring[place & mask]].left_tokens
            place += 1
            if chunk >= full:
                chunk = full
                break
    lane.chunk, lane.in_step, lane.steps_at_once, lane.anchor_s = chunk, 1, int(many), now_s
    step_s = max(pool.true_base_s, chunk / many * pool.true_per_token_s) + pool.true_per_seq_s * lane.running
    set_due(s, lane_row, now_s + many * step_s)


@tight
def _tell(s: State, pool_row: int, what: int, now_s: float) -> None:
    """News for the gate, which takes its time; all of a pool's takes the same, so the ring stays sorted."""
    pool = s.pools[pool_row]
    at = pool.ring_tail & pool.ring_mask
    s.news_s[pool_row, at], s.news[pool_row, at] = now_s + pool.ttft_base_s, what
    pool.ring_tail += 1
    if pool.ring_tail - pool.ring_head == 1:
        clock, pool.news_s = s.clock[0], now_s + pool.ttft_base_s
        if pool.news_s < clock.news_s or (pool.news_s == clock.news_s and pool_row < clock.news_pool):
            clock.news_s, clock.news_pool = pool.news_s, pool_row


@tight
def _end_chunk(s: State, lane_row: int, now_s: float) -> None:
    lane, ring = s.lanes[lane_row], s.lane_ring[lane_row]
    mask, left = len(ring) - 1, lane.chunk
    while left > 0.0:
        row = L(ring[lane.prompt_head & mask])
        ticket = s.tickets[row]
        if ticket.left_tokens > left:
            ticket.left_tokens -= left
            break
        left -= ticket.left_tokens
        lane.prompt_head += 1
        lane.decoded_tokens += 1.0
        _tell(s, lane.pool, 2 * row, now_s)
        if ticket.output_tokens <= 1.0:
            _tell(s, lane.pool, 2 * row + 1, now_s)
        else:
            push_end(s, lane_row, lane.running, lane.steps + ticket.output_tokens - 1.0, row)
            lane.running += 1


@inner
def proceed(s: State, lane_row: int, now_s: float) -> None:
    """What happens at the engine's next instant: first tokens, ends of answers, the next step."""
    lane = s.lanes[lane_row]
    pool = s.pools[lane.pool]
    if lane.in_step:
        lane.in_step = 0
        lane.busy_s += now_s - lane.anchor_s
        lane.decoded_tokens += lane.running * lane.steps_at_once
        lane.prefilled_tokens += lane.chunk
        lane.steps = np.rint(lane.steps) + lane.steps_at_once
        _end_chunk(s, lane_row, now_s)
        lane.anchor_s = now_s
    else:
        _advance(s, lane_row, now_s, pool.true_base_s + pool.true_per_seq_s * lane.running)
    while lane.running and s.ends_step[lane_row, 0] <= lane.steps + _EPSILON:
        row = pop_end(s, lane_row, lane.running)
        lane.running -= 1
        _tell(s, lane.pool, 2 * row + 1, now_s)
    if lane.prompt_head < lane.tail:
        _begin_step(s, lane_row, now_s)
    elif lane.running:
        step_s = pool.true_base_s + pool.true_per_seq_s * lane.running
        set_due(s, lane_row, now_s + max(0.0, s.ends_step[lane_row, 0] - lane.steps) * step_s)
    else:
        set_due(s, lane_row, np.inf)
