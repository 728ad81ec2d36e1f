"""A gate of healthy engines, tickets for it, and what its verdicts say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scheduler.core.admission import Bounce, Ticket
from scheduler.core.gate import PoolGate, Verdicts
from scheduler.core.lanes import GateSettings, Grant
from tests.support.markets import POLICY

URGENT, PATIENT = 1.0, 5.0


def ticket(ticket_id: str, ttft_s_max: float = PATIENT, at_s: float = 0.0, **fields: Any) -> Ticket:
    """A tenth of a second of work, all of it prompt; it can go nowhere else in time unless told."""
    values: dict[str, Any] = {
        "work_s": 0.1,
        "usd_displaced": 1.0,
        "arrived_s": at_s,
        "start_by_s": at_s + ttft_s_max,
        "prefill_s": 0.1,
        "ttft_s_max": ttft_s_max,
        "ttft_by_s": at_s + ttft_s_max,
    }
    return Ticket(ticket_id, **(values | fields))


def gate_of(*replicas: str, slots: int = 1, now_s: float = 0.0, **settings: Any) -> PoolGate:
    """A gate of healthy engines."""
    values: dict[str, Any] = {"waiting_max": 100, "service_s_guess": 0.0, "ttft_s_max": (URGENT, PATIENT)}
    gate = PoolGate(GateSettings(slots=slots, **(values | settings)), POLICY)
    gate.set_replicas(replicas)
    for replica in replicas:
        gate.heard(replica, True, 0, now_s)
    return gate


def entered(gate: PoolGate, *tickets: Ticket, now_s: float = 0.0) -> Verdicts:
    return [verdict for one in tickets for verdict in gate.enter(one, now_s)]


def granted(verdicts: Verdicts) -> list[str]:
    return [ticket_id for ticket_id, verdict in verdicts if isinstance(verdict, Grant)]


def bounced(verdicts: Verdicts) -> dict[str, str]:
    return {ticket_id: verdict.reason for ticket_id, verdict in verdicts if isinstance(verdict, Bounce)}


def crowd(worths: Sequence[float], leave_by_s: float = 4.0) -> list[Ticket]:
    """A second of work each: beside the one that is begun, some four of them are in time."""
    return [
        ticket(f"w{i}", work_s=1.0, prefill_s=0.0, usd_displaced=usd, leave_by_s=leave_by_s, start_by_s=1e9)
        for i, usd in enumerate(worths)
    ]
