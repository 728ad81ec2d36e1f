"""The exact engine: one event heap, a virtual clock, and the functions that decide live.

Gateways see the market as a snapshot; a controller clears it, and solves bid prices anew, at its own times; gates know exact
state. All of it is deterministic for a seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

import numpy as np

from scheduler.core.admission import Bounce, Ticket
from scheduler.core.gate import Grant, PoolGate, Verdicts
from scheduler.core.market import Policy
from scheduler.core.settlement import settle
from scheduler.simulation.attempts import Journey, SimulatedGateway
from scheduler.simulation.controller import SimulatedController, UsdFactor
from scheduler.simulation.mix import Profile
from scheduler.simulation.policies import Rule
from scheduler.simulation.prefix import PrefixCache
from scheduler.simulation.rows import rows_of
from scheduler.simulation.scenario import EPOCH_S
from scheduler.simulation.site import Site, gate_of
from scheduler.simulation.sources import Answer, SimulatedPool, SimulatedProvider, slower
from scheduler.simulation.tally import Tally
from scheduler.simulation.workload import Batch

_TICK_S = 0.05


@dataclass(frozen=True, slots=True)
class Settings:
    """How the world behaves: ``snapshot_age_s`` is the time between two snapshots of the market.

    ``curve_error``: engines need this many times the seconds that their curve says; ``demand_error``: bid prices are solved
    for this many times the demand. ``outages``: by offer, (begin, end) on the clock of the trace. ``calls``: what else
    happens, as (time on that clock, what is done to the world). ``usd_factor``: what API prices are multiplied by.
    ``ended``: who else wants to know of every request that is over.
    """

    gateways: int = 1
    snapshot_age_s: float = 1.0
    seed: int = 0
    bid_every_s: float = 15.0
    curve_error: float = 1.0
    demand_error: float = 1.0
    api_spread: float = 0.15
    outages: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    calls: tuple[tuple[float, Callable[[World, float], None]], ...] = ()
    usd_factor: UsdFactor | None = None
    ended: Callable[[Journey, float], None] | None = None


class World:
    """One run of one policy. ``play`` takes the requests; ``tally`` is what came of them."""

    def __init__(
        self, site: Site, profiles: tuple[Profile, ...], rule: Rule, policy: Policy, settings: Settings,
        from_s: float, span_s: float,
    ) -> None:  # fmt: skip
        self.site, self.rule, self.settings = site, rule, settings
        self._profiles = profiles
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._journeys: dict[str, Journey] = {}
        self.now_s = start_s = EPOCH_S + from_s
        self.tally = Tally(start_s, span_s)
        self.pools: dict[str, SimulatedPool] = {}
        for spec in site.pools:
            curve = slower(spec.curve, settings.curve_error)
            gate = gate_of(spec, site.ttft_s_max, policy)
            pool = SimulatedPool(spec.offer_ids[0], gate, curve, spec.gated, spec.chunk_tokens, since_s=start_s)
            if spec.prefix_tokens:
                pool.prefixes = PrefixCache(spec.prefix_tokens)
            self.pools[spec.name] = pool
            for _ in range(spec.replicas_max):
                self.ready(spec.name, pool.start(start_s, start_s), start_s)
        self.controller = SimulatedController(site, self.pools, policy, start_s)
        self.controller.reprice(start_s, settings.usd_factor)
        self.controller.clear(start_s)
        self._providers = {}
        for i, offer in enumerate(self.controller.offers):
            if offer.kind == "api":
                out = tuple((EPOCH_S + a, EPOCH_S + b) for a, b in settings.outages.get(offer.id, ()))
                rng = np.random.default_rng([settings.seed, 11, i])
                self._providers[offer.id] = SimulatedProvider(offer, rng, settings.api_spread, out)
        market = self.controller.market
        caches = any(spec.prefix_tokens for spec in site.pools)
        self.gateways = [SimulatedGateway(self, rule, policy, market, caches) for _ in range(settings.gateways)]
        self.at(start_s + settings.snapshot_age_s, self._clear)
        self.at(start_s + _TICK_S, self._tick)
        self.at(self.controller.reprice_s, self._reprice)
        if rule.bids:
            self.at(start_s + min(1.0, settings.bid_every_s), self._solve)
        for at_s, call in settings.calls:
            self.at(EPOCH_S + at_s, self._called, call)

    def at(self, when_s: float, what: Callable[..., None], *arguments: Any) -> None:
        """``what(*arguments, now_s)`` shall happen at ``when_s``."""
        self._count += 1
        heappush(self._events, (when_s, self._count, what, arguments))

    def play(self, batches: Iterable[Batch], progress: Callable[[int], None] | None = None) -> Tally:
        """Play all requests, then until the last of them has ended."""
        number, events = 0, self._events
        for batch in batches:
            for row in rows_of(batch):
                arrived_s = EPOCH_S + row.arrival_s
                while events[0][0] <= arrived_s:
                    self._next()
                gateway = self.gateways[number % len(self.gateways)]
                gateway.arrive(str(number), row, self._profiles[row.profile], arrived_s)
                number += 1
            if progress is not None:
                progress(len(batch))
        while self.tally.requests < number:
            self._next()
        for pool in self.pools.values():
            pool.count(self.now_s)
        self.tally.replica_s = {name: pool.replica_s for name, pool in self.pools.items()}
        return self.tally

    def _next(self) -> None:
        self.now_s, _, what, arguments = heappop(self._events)
        what(*arguments, self.now_s)

    # --- what happens again and again -----------------------------------------------------------------------------

    def _clear(self, now_s: float) -> None:
        if self.rule.bids:
            for gateway in self.gateways:
                self.controller.heard(gateway.report(), now_s)
        self.tally.bid(self.controller.clear(now_s), now_s)
        for gateway in self.gateways:
            gateway.publish(self.controller.market, now_s)
        self.at(now_s + self.settings.snapshot_age_s, self._clear)

    def _solve(self, now_s: float) -> None:
        self.controller.solve(now_s, self.settings.demand_error)
        # The first prices come soon and are made anew soon: little demand is better than none.
        self.at(now_s + min(self.settings.bid_every_s, now_s - self.tally.from_s), self._solve)

    def _reprice(self, now_s: float) -> None:
        if self.controller.reprice(now_s, self.settings.usd_factor):
            for gateway in self.gateways:  # what is billed is no older than what is decided by
                gateway.publish(self.controller.market, now_s)
        self.at(self.controller.reprice_s, self._reprice)

    def _tick(self, now_s: float) -> None:
        for name, pool in self.pools.items():
            self._verdicts(name, pool.gate.tick(now_s), now_s)
        self.at(now_s + _TICK_S, self._tick)

    def _called(self, call: Callable[[World, float], None], now_s: float) -> None:
        call(self, now_s)

    # --- requests -------------------------------------------------------------------------------------------------

    def enter(self, journey: Journey, ticket: Ticket, now_s: float) -> None:
        """A gateway asks a pool's gate."""
        self._journeys[ticket.id] = journey
        assert journey.quote is not None  # noqa: S101 - it has a quote to have a ticket
        name = self.controller.pool_of[journey.quote.offer.id]
        pool = self.pools[name]
        verdicts = pool.gate.enter(ticket, now_s) if pool.gated else pool.at_once(ticket, now_s)
        self._verdicts(name, verdicts, now_s)

    def _verdicts(self, name: str, verdicts: Verdicts, now_s: float) -> None:
        for ticket_id, verdict in verdicts:
            if isinstance(verdict, Grant):
                journey, pool = self._journeys[ticket_id], self.pools[name]
                engine, usage = pool.engines[verdict.replica_id], pool.cached(journey)
                before_s = engine.next_s
                engine.submit(ticket_id, usage.input_tokens - usage.cached_tokens, usage.output_tokens, now_s)
                if engine.next_s != before_s:
                    self.at(engine.next_s, self._proceed, name, verdict.replica_id, engine.next_s)
            elif isinstance(verdict, Bounce):
                journey = self._journeys.pop(ticket_id)
                journey.gateway.bounced(journey, verdict, now_s)

    def _proceed(self, name: str, replica_id: str, due_s: float, now_s: float) -> None:
        pool = self.pools[name]
        engine = pool.engines.get(replica_id)
        if engine is None or engine.next_s != due_s:
            return
        first, done = engine.proceed(now_s)
        if engine.next_s < math.inf:
            self.at(engine.next_s, self._proceed, name, replica_id, engine.next_s)
        heard_s = now_s + pool.true_curve.ttft_base_s
        for ticket_id in first:
            self._journeys[ticket_id].ttft_s = heard_s - self._journeys[ticket_id].started_s
            self.at(heard_s, self._begun, pool.gate, name, ticket_id)
        for ticket_id in done:
            self.at(heard_s, self._done, pool.gate, name, ticket_id)

    def _begun(self, gate: PoolGate, name: str, ticket_id: str, now_s: float) -> None:
        self._verdicts(name, gate.first_token(ticket_id, now_s), now_s)

    def _done(self, gate: PoolGate, name: str, ticket_id: str, now_s: float) -> None:
        journey = self._journeys.pop(ticket_id)
        self._verdicts(name, gate.leave(ticket_id, now_s), now_s)
        journey.gateway.end(journey, "complete", now_s)

    def ask(self, journey: Journey, now_s: float) -> None:
        """A gateway asks a provider."""
        assert journey.quote is not None  # noqa: S101 - it has a quote to have a provider
        offer = journey.quote.offer
        answer = self._providers[offer.id].ask(offer.expected(journey.usage), now_s)
        self.at(now_s + answer.ended_s, self._answered, journey, answer)

    def _answered(self, journey: Journey, answer: Answer, now_s: float) -> None:
        assert journey.quote is not None  # noqa: S101 - it has been asked
        if answer.http_status == 200:
            self._providers[journey.quote.offer.id].done()
            journey.ttft_s = answer.ttft_s
            journey.gateway.end(journey, "complete", now_s)
            return
        self.tally.failures += 1
        journey.gateway.failed(journey, answer.http_status, answer.retry_after_s, now_s)

    def ended(self, journey: Journey, now_s: float) -> None:
        """A request is over."""
        entry = settle(journey.decision, journey.outcomes, self.controller.fixed)
        bounces = sum(1 for outcome in journey.outcomes if outcome.status == "bounced")
        served = journey.quote.offer if journey.quote is not None and entry.status == "complete" else None
        if served is not None and served.zone not in journey.request.zones:
            self.tally.violations += 1
        self.tally.add(int(journey.id), journey.request, entry, served.kind if served else "", bounces)
        if self.settings.ended is not None:
            self.settings.ended(journey, now_s)

    def lose(self, name: str, replica_id: str, now_s: float) -> None:
        """An engine is gone at once: what it had fails, and walks on down its merit order."""
        pool = self.pools[name]
        for ticket_id in pool.stop(replica_id, now_s):
            journey = self._journeys.pop(ticket_id, None)
            if journey is not None:
                self._verdicts(name, pool.gate.leave(ticket_id, now_s, served=False), now_s)
                journey.gateway.failed(journey, 0, 0.0, now_s)  # or interrupted, where its answer had begun

    def ready(self, name: str, replica_id: str, now_s: float) -> None:
        """An engine answers for the first time."""
        self._verdicts(name, self.pools[name].gate.heard(replica_id, True, 0, now_s), now_s)
