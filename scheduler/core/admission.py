"""``admit``: the gate in front of a pool's engines has the last word, on exact state, before the first token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Ticket(NamedTuple):
    """A request at the gate: its work, what it would cost elsewhere above what it costs here, when it must start."""

    id: str
    work_s: float
    usd_displaced: float
    arrived_s: float
    start_by_s: float


class Replica(NamedTuple):
    """Exact state of one engine: ``held`` are tickets admitted and not yet left, ``engine_waiting`` its own queue."""

    id: str
    slots: int
    held: int
    engine_waiting: int
    healthy: bool

    @property
    def free(self) -> int:
        """Slots that a request could start in at once; an engine that queues by itself has none."""
        return self.slots - self.held if self.healthy and not self.engine_waiting else 0


@dataclass(frozen=True, slots=True)
class Queue:
    """All of a pool at one instant. ``service_s_mean`` is the observed time that a ticket holds its slot."""

    replicas: tuple[Replica, ...]
    waiting: int
    waiting_max: int
    service_s_mean: float

    def wait_s(self) -> float:
        """Predicted wait of one more ticket behind those already waiting."""
        slots = sum(replica.slots for replica in self.replicas if replica.healthy)
        return (self.waiting + 1) * self.service_s_mean / slots if slots else float("inf")


class Admit(NamedTuple):
    """Start now, on this replica."""

    replica_id: str


class Hold(NamedTuple):
    """Wait; about ``wait_s`` seconds."""

    wait_s: float


class Bounce(NamedTuple):
    """Not here; a computed time after which it may be worth asking again."""

    reason: str
    retry_after_s: float


Admission = Admit | Hold | Bounce


def admit(ticket: Ticket, queue: Queue, now_s: float) -> Admission:
    """Admit, hold or bounce ``ticket``; the shell asks again whenever a slot frees or the ticket's time runs out.

    Bounces at once where waiting is pointless: no replica, a full queue, or a start that would come too late.
    """
    if not any(replica.healthy for replica in queue.replicas):
        return Bounce("no healthy replica", 1.0)
    best = least_loaded(queue.replicas)
    if best is not None and not queue.waiting:
        return Admit(best.id)
    wait_s = queue.wait_s()
    if queue.waiting >= queue.waiting_max:
        return Bounce("the pool's queue is full", wait_s)
    if now_s + wait_s > ticket.start_by_s:
        return Bounce("would start too late", wait_s)
    return Hold(wait_s)


def least_loaded(replicas: Sequence[Replica]) -> Replica | None:
    """The replica with the most free slots, or None when all are full. Ties go to the first."""
    best = max(replicas, key=lambda replica: replica.free, default=None)
    return best if best is not None and best.free > 0 else None
