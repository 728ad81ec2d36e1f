"""``admit``: the gate in front of a pool's engines has the last word, on exact state, before the first token.

Units: USD, seconds, replica-seconds, tokens. Seconds of work are those of the service curve; waits are calibrated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from scheduler.core.capacity import Level, price_usd


class Ticket(NamedTuple):
    """A request at the gate. ``work_s`` is what it takes from the others, ``prefill_s`` what its first token needs.

    ``usd_displaced``: what it would cost elsewhere above what it costs here, without waiting (inf: it can go nowhere
    else). ``start_by_s``: it is not held longer. ``leave_by_s``: sent elsewhere by then, it still meets its objective.
    """

    id: str
    work_s: float
    usd_displaced: float
    arrived_s: float
    start_by_s: float
    prefill_s: float = 0.0
    kv_tokens: int = 0
    ttft_s_max: float = math.inf
    ttft_by_s: float = math.inf
    leave_by_s: float = -math.inf
    usd_per_s_waiting: float = 0.0


class Queue(NamedTuple):
    """The pool as one ticket finds it. ``levels`` are the lines it would stand in or make longer, its own first.

    ``wait_s``: predicted seconds until an engine begins with it. ``free``: an engine would begin at once. ``replicas``:
    those that answer. ``ratio``: seconds that engines need over those that the curve predicts.
    """

    replicas: int
    free: bool
    waiting: int
    waiting_max: int
    wait_s: float
    levels: tuple[Level, ...] = ()
    ratio: float = 1.0


class Admit(NamedTuple):
    """Start now."""


class Hold(NamedTuple):
    """Wait; about ``wait_s`` seconds."""

    wait_s: float


class Bounce(NamedTuple):
    """Not here; a computed time after which it may be worth asking again."""

    reason: str
    retry_after_s: float


Admission = Admit | Hold | Bounce

WORTH_LESS = "worth less than the pool's time"
TOO_LATE = "would start too late"
FULL = "the pool's queue is full"
NOBODY = "no healthy replica"
EVICTED = "made room for a dearer request"


def admit(ticket: Ticket, queue: Queue, now_s: float) -> Admission:
    """Admit, hold or bounce ``ticket``, on exact state and at the full bid price.

    Bounces at once what the pool's time is dearer than, and where waiting is pointless: no replica, a full queue, a start
    that would come too late. A ticket that is held may still be evicted (``least_valuable``) before its first token.
    """
    if not queue.replicas:
        return Bounce(NOBODY, 1.0)
    if ticket.usd_displaced != math.inf and queue.levels:
        price = price_usd(queue.levels, ticket.ttft_s_max, ticket.work_s * queue.ratio / queue.replicas)
        if ticket.usd_displaced - ticket.usd_per_s_waiting * queue.wait_s < price:
            return Bounce(WORTH_LESS, queue.wait_s)
    if queue.free and not queue.waiting:
        return Admit()
    if queue.waiting >= queue.waiting_max:
        return Bounce(FULL, queue.wait_s)
    if now_s + queue.wait_s > ticket.start_by_s and ticket.leave_by_s < now_s:  # else somebody may make room
        return Bounce(TOO_LATE, queue.wait_s)
    return Hold(queue.wait_s)


def is_late(ticket: Ticket, ttft_s: float, margin: float, now_s: float) -> bool:
    """Whether a ticket with ``ttft_s`` more to its first token is predicted to miss, planned with ``margin``."""
    return now_s - ticket.arrived_s + ttft_s > margin * (ticket.ttft_by_s - ticket.arrived_s)


def least_valuable(waiting: Iterable[Ticket], now_s: float) -> Ticket | None:
    """Who makes room: the lowest worth per second of work, among those that can still be in time elsewhere."""
    worst, worst_usd_per_s = None, math.inf
    for ticket in waiting:
        if ticket.leave_by_s >= now_s:
            usd_per_s = ticket.usd_displaced / ticket.work_s if ticket.work_s > 0.0 else math.inf
            if usd_per_s < worst_usd_per_s:
                worst, worst_usd_per_s = ticket, usd_per_s
    return worst
