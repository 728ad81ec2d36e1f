"""The supply side as it behaves in the simulator: pools of modelled engines behind the real gate, and providers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from scheduler.core.admission import NOBODY, Bounce, Ticket
from scheduler.core.capacity import Capacity
from scheduler.core.gate import PoolGate, Verdicts
from scheduler.core.supply import Offer, ServiceCurve, Usage
from scheduler.simulation.engine import CHUNK_TOKENS, Engine
from scheduler.simulation.prefix import PrefixCache


class Prompt(Protocol):
    """A request with the blocks of its prompt."""

    usage: Usage
    blocks: Sequence[Hashable]


@dataclass(slots=True)
class SimulatedPool:
    """Engines of one pool. ``true_curve`` is how they behave; the gate and the gateways plan with the offer's curve."""

    offer_id: str
    gate: PoolGate
    true_curve: ServiceCurve
    gated: bool = True
    chunk_tokens: int = CHUNK_TOKENS
    engines: dict[str, Engine] = field(default_factory=dict)
    ready_s: dict[str, float] = field(default_factory=dict)  # engines that are starting
    prefixes: PrefixCache | None = None
    replica_s: float = 0.0  # replica-seconds that existed, for the fixed cost
    _made: int = 0
    since_s: float = 0.0
    _admitted: tuple[float, float] = (0.0, 0.0)
    admitted_per_s: float = 0.0

    def start(self, now_s: float, ready_s: float) -> str:
        """A new engine that answers from ``ready_s`` on. Returns its id."""
        self.count(now_s)
        replica_id = f"r{self._made:04d}"
        self._made += 1
        self.ready_s[replica_id] = ready_s
        self.engines[replica_id] = Engine(self.true_curve, self.chunk_tokens)
        self.gate.set_replicas(self.engines)
        return replica_id

    def stop(self, replica_id: str, now_s: float) -> list[str]:
        """The engine is gone. Returns the tickets that it had."""
        self.count(now_s)
        self.ready_s.pop(replica_id, None)
        lost = self.engines.pop(replica_id).drop_all()
        self.gate.set_replicas(self.engines)
        return lost

    def at_once(self, ticket: Ticket, now_s: float) -> Verdicts:
        """Engines that are not ours to hold requests for take them as they come, into queues of their own."""
        answering = {i: lane for i, lane in self.gate.lanes.items() if lane.healthy}
        if not answering:
            return [(ticket.id, Bounce(NOBODY, 1.0))]
        self.gate.admitted_work_s += ticket.work_s
        emptiest = min(answering, key=lambda i: len(answering[i].held))
        return [self.gate.give(ticket, emptiest, now_s)]

    def cached(self, prompt: Prompt) -> Usage:
        """What the engines will need for a prompt that is given to them now; it stays in their cache."""
        usage = prompt.usage
        if self.prefixes is None or not prompt.blocks:
            return usage
        hit_tokens = self.prefixes.hit_tokens(prompt.blocks, usage.input_tokens)
        self.prefixes.add(prompt.blocks)
        prompt.usage = usage = usage._replace(cached_tokens=hit_tokens)
        return usage

    def count(self, now_s: float) -> None:
        """Bring ``replica_s`` up to date."""
        self.replica_s += (now_s - self.since_s) * len(self.engines)
        self.since_s = now_s

    def observe(self, now_s: float) -> Capacity:
        """What the gate tells the controller."""
        at_s, work_s = self._admitted
        if now_s > at_s:
            self.admitted_per_s += 0.3 * ((self.gate.admitted_work_s - work_s) / (now_s - at_s) - self.admitted_per_s)
            self._admitted = (now_s, self.gate.admitted_work_s)
        gate = self.gate
        kv_tokens = sum(lane.kv_tokens for lane in gate.lanes.values() if lane.healthy)
        kv_held = sum(lane.kv_held for lane in gate.lanes.values() if lane.healthy)
        return Capacity(
            replicas=gate.healthy,
            slots=gate.slots,
            running=gate.running,
            waiting=gate.waiting,
            service_s_mean=gate.service_s_mean,
            as_of_s=now_s,
            levels=gate.levels(now_s) if gate.healthy else (),
            gated=self.gated,
            admitted_per_s=self.admitted_per_s,
            kv_usage=kv_held / kv_tokens if kv_tokens else 0.0,
            slots_bound=gate.calibration.slots_bound,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """How a provider answers: after ``ttft_s`` and ``ended_s`` seconds, or with ``http_status`` at once."""

    ttft_s: float
    ended_s: float
    http_status: int = 200
    retry_after_s: float = 0.0


class SimulatedProvider:
    """One provider model: latency with a log-normal spread, its rate limits, and windows in which it is out."""

    def __init__(
        self, offer: Offer, rng: np.random.Generator, spread: float = 0.15,
        outages: tuple[tuple[float, float], ...] = (),
    ) -> None:  # fmt: skip
        self._offer, self._outages = offer, outages
        self._inflight = 0
        self._starts: deque[float] = deque()
        self._noise: Callable[[], float] = _lognormal(rng, spread)

    def ask(self, usage: Usage, now_s: float) -> Answer:
        """A request arrives."""
        offer = self._offer
        for begin_s, end_s in self._outages:
            if begin_s <= now_s < end_s:
                return Answer(0.05, 0.05, 503)
        while self._starts and self._starts[0] <= now_s - 60.0:
            self._starts.popleft()
        if offer.inflight_max and self._inflight >= offer.inflight_max:
            return Answer(0.05, 0.05, 429, 1.0)
        if offer.requests_per_min_max:
            if len(self._starts) >= offer.requests_per_min_max:
                return Answer(0.05, 0.05, 429, self._starts[0] + 60.0 - now_s)
            self._starts.append(now_s)
        self._inflight += 1
        ttft_s = offer.curve.prefill_s(usage) * self._noise()
        return Answer(ttft_s, ttft_s + max(0, usage.output_tokens - 1) * offer.curve.itl_s(1))

    def done(self) -> None:
        """A request that was taken has ended."""
        self._inflight -= 1


def _lognormal(rng: np.random.Generator, spread: float) -> Callable[[], float]:
    """Factors with median 1, drawn in blocks (one draw at a time costs more than the rest of a request)."""
    block: list[float] = []

    def draw() -> float:
        if not block:
            block.extend(np.exp(spread * rng.standard_normal(4096)).tolist())
        return block.pop()

    return draw


def slower(curve: ServiceCurve, factor: float) -> ServiceCurve:
    """The curve of engines that need ``factor`` times as long."""
    if factor == 1.0:
        return curve
    return replace(
        curve,
        prefill_tokens_per_s=curve.prefill_tokens_per_s / factor,
        itl_base_s=curve.itl_base_s * factor,
        itl_per_seq_s=curve.itl_per_seq_s * factor,
    )
