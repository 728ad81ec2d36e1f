"""Sources, gates and a journal that do as a plan says and remember what was asked of them."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from serving.gate.client import GateBounce, Grant
from serving.gate.wire import Enter, decode_to_gate, encode
from serving.ledger.errors import LedgerFull
from serving.ledger.records import Begin, End, Record, decode
from serving.routes import Route
from serving.upstreams import UpstreamError


@dataclass(frozen=True)
class Plan:
    """How a source behaves once. ``whole`` is what a client gets of a sound answer, or None where it is not sound."""

    name: str
    head: Literal["answer", "unreachable", "broken", "hang"] = "answer"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[bytes, ...] = ()
    end: Literal["close", "cut", "hang"] = "close"
    whole: bytes | None = None
    delay_s: float = 0.0
    gap_s: float = 0.0


@dataclass(frozen=True)
class Call:
    """One request as a source saw it; ``tag`` is its ``user`` field."""

    tag: str
    offer_id: str
    model: str
    plan: Plan
    at_s: float


class FakeReply:
    """A reply that goes as planned; ``closed`` once it was closed."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.status, self.headers, self.closed = plan.status, plan.headers, False

    async def read(self) -> bytes:
        return b"".join([part async for part in self.chunks()])

    async def chunks(self) -> AsyncIterator[bytes]:
        for part in self._plan.parts:
            await asyncio.sleep(self._plan.gap_s)
            yield part
        if self._plan.end == "cut":
            raise UpstreamError("broke off: on purpose")
        if self._plan.end == "hang":
            await asyncio.Event().wait()

    def close(self) -> None:
        self.closed = True


class FakeTransport:
    """Sources by offer id, each with its plans in order; the last plan stays."""

    def __init__(self, plans: Mapping[str, list[Plan]]) -> None:
        self._plans = {offer_id: list(listed) for offer_id, listed in plans.items()}
        self.calls: list[Call] = []
        self.replies: list[FakeReply] = []

    async def post(self, base_url: str, path: str, body: bytes, route: Route, left_s: float) -> FakeReply:
        listed = self._plans[route.offer_id]
        plan = listed.pop(0) if len(listed) > 1 else listed[0]
        fields = msgspec.json.decode(body)
        now_s = asyncio.get_running_loop().time()
        self.calls.append(Call(fields["user"], route.offer_id, fields["model"], plan, now_s))
        await asyncio.sleep(plan.delay_s)
        if plan.head == "unreachable":
            raise UpstreamError("cannot connect: on purpose", begun=False)
        if plan.head == "broken":
            raise UpstreamError("broke off: on purpose")
        if plan.head == "hang":
            await asyncio.Event().wait()
        self.replies.append(FakeReply(plan))
        return self.replies[-1]

    async def close(self) -> None:
        """Nothing to close."""


@dataclass(frozen=True)
class GatePlan:
    """How a gate answers once, after ``delay_s``."""

    verdict: Literal["grant", "bounce", "silence"] = "grant"
    delay_s: float = 0.0


class FakeGate:
    """A pool's gate: plans in order, the last one stays; ``held`` are tickets that were not given back."""

    def __init__(self, plans: list[GatePlan]) -> None:
        self._plans = list(plans)
        self.held: set[str] = set()
        self.begun: set[str] = set()
        self.asked: list[Enter] = []
        self.unreachable = 0

    async def enter(self, message: Enter) -> Grant:
        assert message.id not in self.held, "a request takes two slots"
        assert message.start_within_s >= 0.0
        assert math.isfinite(message.work_s) and message.work_s >= 0.0
        self.asked.append(decode_to_gate(encode(message)))  # type: ignore[arg-type]
        plan = self._plans.pop(0) if len(self._plans) > 1 else self._plans[0]
        if plan.verdict == "silence":
            await asyncio.sleep(message.start_within_s + 0.25)
            raise GateBounce("the pool's gate does not answer", 1.0)
        await asyncio.sleep(min(plan.delay_s, message.start_within_s))
        if plan.verdict == "bounce":
            raise GateBounce("the pool's queue is full", 0.5)
        self.held.add(message.id)
        return Grant("r0", "http://r0")

    def began(self, ticket_id: str) -> None:
        assert ticket_id in self.held
        assert ticket_id not in self.begun, "a first token is told once"
        self.begun.add(ticket_id)

    async def leave(self, ticket_id: str, unreachable: bool = False) -> None:
        self.unreachable += unreachable and ticket_id in self.held
        self.held.discard(ticket_id)
        await asyncio.sleep(0.02)  # the real one writes to a socket here


class FakeJournal:
    """Keeps records as they would be read again; ``begins_max`` is when the disk is full."""

    healthy = True

    def __init__(self, begins_max: int = 10**9) -> None:
        self.begins: dict[str, Begin] = {}
        self.ends: dict[str, End] = {}
        self.usd_ended: dict[str, float] = defaultdict(float)
        self.usd_ended_before: dict[str, float] = {}
        self._begins_max = begins_max

    def append(self, record: Record) -> None:
        read: Any = decode(msgspec.json.encode(record))
        assert read == record
        if isinstance(record, Begin):
            if len(self.begins) >= self._begins_max:
                raise LedgerFull("full on purpose")
            assert record.id not in self.begins, "begun twice"
            self.begins[record.id] = record
            self.usd_ended_before[record.id] = self.usd_ended[record.tenant]
        else:
            assert record.id in self.begins, "ended without a beginning"
            assert record.id not in self.ends, "ended twice"
            self.ends[record.id] = record
            self.usd_ended[self.begins[record.id].tenant] += record.usd_avoidable
