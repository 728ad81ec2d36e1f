"""What a gate keeps: ``Line``, who waits with one objective, and ``Lane``, one engine as far as the gate knows it."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from scheduler.core.admission import Ticket
from scheduler.core.capacity import BidCurve

# An engine that is overdue with a first token gets nothing more until it comes, or until this many times the prediction.
_PATIENCE = 3.0
# How long the share of the pool that a line takes is remembered.
_FLOW_S = 20.0


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Bounds of a gate. ``ttft_s_max``: the objectives of the service classes; ``ttft_base_s``: latency around an engine.

    A first token also waits for the step that runs when its prompt comes, about ``step_base_s + step_per_seq_s * running``.
    """

    slots: int
    waiting_max: int
    service_s_guess: float
    kv_tokens: int = 0
    ttft_base_s: float = 0.0
    step_base_s: float = 0.0
    step_per_seq_s: float = 0.0
    ttft_s_max: Sequence[float] = ()


class Grant(NamedTuple):
    """Start now, on this replica."""

    replica_id: str


class Line:
    """Tickets that wait with one TTFT objective, in order of arrival, and the work in them."""

    __slots__ = ("_at_s", "_flow_s", "bid", "tickets", "ttft_s_max", "work_s")

    def __init__(self, ttft_s_max: float) -> None:
        self.ttft_s_max, self.work_s = ttft_s_max, 0.0
        self._flow_s = self._at_s = 0.0
        self.bid: BidCurve | None = None
        self.tickets: OrderedDict[str, Ticket] = OrderedDict()

    def add(self, ticket: Ticket) -> None:
        """At the end."""
        self.tickets[ticket.id] = ticket
        self.work_s += ticket.work_s

    def remove(self, ticket_id: str) -> None:
        """Wherever it stands."""
        work_s = self.work_s - self.tickets.pop(ticket_id).work_s
        self.work_s = max(0.0, work_s) if self.tickets else 0.0  # rounding must not pile up

    def work_before_s(self, ttft_by_s: float) -> float:
        """Work of those whose deadlines come before ``ttft_by_s``."""
        work_s = 0.0
        for ticket in self.tickets.values():
            if ticket.ttft_by_s >= ttft_by_s:
                break
            work_s += ticket.work_s
        return work_s

    def served(self, work_s: float, now_s: float) -> None:
        """Work that the pool has begun on for this line."""
        self._flow_s = self.flow(now_s) * _FLOW_S + work_s
        self._at_s = now_s

    def flow(self, now_s: float) -> float:
        """Replica-seconds of this line's work per second, over the last ``_FLOW_S`` or so."""
        return self._flow_s * math.exp((self._at_s - now_s) / _FLOW_S) / _FLOW_S


@dataclass(slots=True)
class Lane:
    """``others``: requests in the engine's own queue that did not come from here."""

    slots: int
    kv_tokens: int = 0
    healthy: bool = False
    others: int = 0
    kv_held: int = 0
    held: dict[str, tuple[Ticket, float]] = field(default_factory=dict)
    begun: OrderedDict[str, float] = field(default_factory=OrderedDict)  # given, no first token yet: prefill_s
    begun_s: float = 0.0  # prefill of all of ``begun``, by the curve
    since_s: float = 0.0  # when the first of them began
    step_s: float = 0.0  # what the first of a busy time waits for besides

    def backlog_s(self, now_s: float, ratio: float) -> float:
        """Seconds until the engine has computed every prompt that it was given."""
        left_s = self.begun_s * ratio - (now_s - self.since_s)
        return left_s if left_s > 0.0 else 0.0

    def has_room(self, kv_tokens: int) -> bool:
        """Whether a slot is free, and as much of the KV cache."""
        if len(self.held) >= self.slots:
            return False
        return not self.kv_tokens or not self.held or self.kv_held + kv_tokens <= self.kv_tokens

    def takes(self, kv_tokens: int, ahead_s: float, now_s: float, ratio: float) -> bool:
        """Whether one more ticket of ``kv_tokens`` may be given to it now."""
        if not self.healthy or self.others or not self.has_room(kv_tokens):
            return False
        took_s, begun_s = now_s - self.since_s, self.begun_s * ratio
        if begun_s - took_s > ahead_s:
            return False
        return not self.begun or took_s <= begun_s or took_s > _PATIENCE * begun_s

    def give(self, ticket: Ticket, step_s: float, now_s: float, ratio: float) -> None:
        """The ticket takes a slot; its prompt comes after those that were given before."""
        if not self.backlog_s(now_s, ratio):  # idle, or so overdue that what it was given is no guide any more
            self.begun.clear()
            self.begun_s, self.since_s, self.step_s = 0.0, now_s, step_s
        self.hold(ticket, now_s)
        self.begun_s += ticket.prefill_s
        self.begun[ticket.id] = ticket.prefill_s

    def hold(self, ticket: Ticket, now_s: float) -> None:
        """The ticket holds a slot (its prompt is no business of the prediction)."""
        self.held[ticket.id] = (ticket, now_s)
        self.kv_held += ticket.kv_tokens

    def first_token(self, ticket_id: str, now_s: float) -> tuple[float, float] | None:
        """The engine has begun to answer it, and so whatever it was given before. None where that was known.

        Returned: seconds that the curve predicts for what it did since the last first token (or since it was idle), and the
        seconds that it took. Over a busy time both add up, however the engine cuts prompts into steps.
        """
        if ticket_id not in self.begun:
            return None
        predicted_s, actual_s = self.step_s, max(0.0, now_s - self.since_s)
        while self.begun:
            earlier, prefill_s = self.begun.popitem(last=False)
            predicted_s += prefill_s
            self.begun_s -= prefill_s
            if earlier == ticket_id:
                break
        self.since_s, self.step_s = now_s, 0.0
        if not self.begun or self.begun_s < 0.0:
            self.begun_s = 0.0
        return predicted_s, actual_s

    def release(self, ticket_id: str, now_s: float) -> tuple[Ticket, float]:
        """The ticket gives its slot back; returned with when it got it."""
        ticket, granted_s = self.held.pop(ticket_id)
        self.kv_held -= ticket.kv_tokens
        prefill_s = self.begun.pop(ticket_id, None)
        if prefill_s is not None:
            self.begun_s = max(0.0, self.begun_s - prefill_s) if self.begun else 0.0
        return ticket, granted_s
