"""Gates for tests: a state with a few settings, tickets with what matters to them."""

from __future__ import annotations

import math
from typing import Any

from scheduler.core.capacity import BidCurve
from scheduler.core.lanes import GateSettings
from scheduler.core.market import Policy
from serving.gate.state import GateState, Messages
from serving.gate.wire import Bids, EngineStats, Enter, LevelBid


def gate_state(
    slots: int = 1,
    waiting_max: int = 8,
    service_s_guess: float = 1.0,
    ttft_s_max: tuple[float, ...] = (),
    holds: bool = True,
    policy: Policy | None = None,
    **settings: Any,
) -> GateState:
    """A gate that knows no engine yet. Unless ``policy`` says otherwise engines are given all they have slots for."""
    limits = GateSettings(slots, waiting_max, service_s_guess, ttft_s_max=ttft_s_max, **settings)
    return GateState(limits, policy or Policy(grant_ahead_s=1e9), holds=holds)


def gate_with_engine(slots: int = 1, **settings: Any) -> GateState:
    """A gate in front of one engine that lives."""
    state = gate_state(slots, **settings)
    state.set_replicas({"r": "http://r"}, 0.0)
    state.heard("r", EngineStats(), 0.0)
    state.surveyed(0.0)
    return state


def enter(state: GateState, owner: str, ticket: str, now_s: float = 0.0, **fields: Any) -> Messages:
    """A ticket of a tenth of a second of work that displaces two cents and may wait for a minute."""
    values = {"work_s": 0.1, "usd_displaced": 0.02, "start_within_s": 60.0} | fields
    return state.enter(owner, Enter(ticket, **values), now_s)


def steep(usd_per_s: float, ttft_s_max: float = math.inf, at_s: float = 1.0) -> Bids:
    """Bid curves at which each second of wait costs ``usd_per_s``."""
    return Bids(at_s, (LevelBid(ttft_s_max, BidCurve((0.0, 100.0), (0.0, -100.0 * usd_per_s))),))
