"""What a gate keeps: ``Line``, who waits with one objective, and ``Lane``, one engine as far as the gate knows it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from scheduler.core.admission import Ticket
from scheduler.core.capacity import BidCurve

# An engine that is overdue with a first token gets nothing more until it comes, or until this many times the prediction.
_PATIENCE = 3.0


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Bounds of a gate. ``ttft_s_max``: the objectives of the service classes; ``ttft_base_s``: latency around an engine."""

    slots: int
    waiting_max: int
    service_s_guess: float
    kv_tokens: int = 0
    ttft_base_s: float = 0.0
    ttft_s_max: Sequence[float] = ()


class Line:
    """Tickets that wait with one TTFT objective, in order of arrival, and the work in them."""

    __slots__ = ("bid", "tickets", "ttft_s_max", "work_s")

    def __init__(self, ttft_s_max: float) -> None:
        self.ttft_s_max, self.work_s = ttft_s_max, 0.0
        self.bid: BidCurve | None = None
        self.tickets: OrderedDict[str, Ticket] = OrderedDict()

    def add(self, ticket: Ticket) -> None:
        """At the end."""
        self.tickets[ticket.id] = ticket
        self.work_s += ticket.work_s

    def remove(self, ticket_id: str) -> None:
        """Wherever it stands."""
        work_s = self.work_s - self.tickets.pop(ticket_id).work_s
        self.work_s = work_s if self.tickets else 0.0  # rounding must not pile up


class Begun(NamedTuple):
    """A ticket that an engine was given and has not begun to answer, as far as is known."""

    prefill_s: float
    granted_s: float
    predicted_s: float  # from its grant to its first token


@dataclass(slots=True)
class Lane:
    """``others``: requests in the engine's own queue that did not come from here."""

    slots: int
    kv_tokens: int = 0
    healthy: bool = False
    others: int = 0
    kv_held: int = 0
    held: dict[str, tuple[Ticket, float]] = field(default_factory=dict)
    begun: OrderedDict[str, Begun] = field(default_factory=OrderedDict)
    begun_s: float = 0.0  # prefill of all of ``begun``
    since_s: float = 0.0  # when the first of them began

    def backlog_s(self, now_s: float) -> float:
        """Seconds until the engine has computed every prompt that it was given."""
        left_s = self.begun_s - (now_s - self.since_s)
        return left_s if left_s > 0.0 else 0.0

    def takes(self, kv_tokens: int, ahead_s: float, now_s: float) -> bool:
        """Whether one more ticket of ``kv_tokens`` may be given to it now."""
        if not self.healthy or self.others or len(self.held) >= self.slots:
            return False
        if self.kv_tokens and self.held and self.kv_held + kv_tokens > self.kv_tokens:
            return False
        took_s = now_s - self.since_s
        if self.begun_s - took_s > ahead_s:
            return False
        return not self.begun or took_s <= self.begun_s or took_s > _PATIENCE * self.begun_s

    def give(self, ticket: Ticket, now_s: float) -> None:
        """The ticket takes a slot; its prompt comes after those that were given before."""
        left_s = self.backlog_s(now_s)
        if not left_s:  # idle, or so overdue that what it was given is no guide any more
            self.begun.clear()
            self.begun_s, self.since_s = 0.0, now_s
        self.hold(ticket, now_s)
        self.begun_s += ticket.prefill_s
        self.begun[ticket.id] = Begun(ticket.prefill_s, now_s, left_s + ticket.prefill_s)

    def hold(self, ticket: Ticket, now_s: float) -> None:
        """The ticket holds a slot (its prompt is no business of the prediction)."""
        self.held[ticket.id] = (ticket, now_s)
        self.kv_held += ticket.kv_tokens

    def first_token(self, ticket_id: str, now_s: float) -> Begun | None:
        """The engine has begun to answer it, and so whatever it was given before. None where that was known."""
        found = self.begun.get(ticket_id)
        if found is None:
            return None
        while self.begun:
            earlier, begun = self.begun.popitem(last=False)
            self.begun_s -= begun.prefill_s
            if earlier == ticket_id:
                break
        self.since_s = now_s
        if not self.begun or self.begun_s < 0.0:
            self.begun_s = 0.0
        return found

    def release(self, ticket_id: str, now_s: float) -> tuple[Ticket, float]:
        """The ticket gives its slot back; returned with when it got it."""
        ticket, granted_s = self.held.pop(ticket_id)
        self.kv_held -= ticket.kv_tokens
        begun = self.begun.pop(ticket_id, None)
        if begun is not None:
            self.begun_s = max(0.0, self.begun_s - begun.prefill_s) if self.begun else 0.0
        return ticket, granted_s
