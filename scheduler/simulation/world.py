"""The exact engine: one event heap, a virtual clock, and the functions that decide live.

Gateways see the market as a snapshot; a controller clears it, and solves bid prices anew, at its own times; gates know exact
state. All of it is deterministic for a seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import Any

import numpy as np

from scheduler.core.admission import Bounce, Ticket
from scheduler.core.bids import BidBook
from scheduler.core.clearing import Observation, clear
from scheduler.core.gate import Grant, Verdicts
from scheduler.core.market import Market, Policy, Request
from scheduler.core.settlement import settle
from scheduler.core.supply import FixedCost, Offer, Usage
from scheduler.simulation.attempts import Journey, SimulatedGateway
from scheduler.simulation.mix import Profile
from scheduler.simulation.policies import Rule
from scheduler.simulation.scenario import EPOCH_S
from scheduler.simulation.site import Site, gate_of
from scheduler.simulation.sources import Answer, SimulatedPool, SimulatedProvider
from scheduler.simulation.tally import Tally
from scheduler.simulation.workload import Batch

_TICK_S = 0.05
_REPRICE_S = 300.0

_ENGINE, _FIRST, _DONE, _ANSWERED, _CLEAR, _SOLVE, _TICK, _REPRICE, _CALL = range(9)


@dataclass(frozen=True, slots=True)
class Settings:
    """How the world behaves: ``snapshot_age_s`` is the time between two snapshots of the market.

    ``curve_error``: engines need this many times the seconds that their curve says. ``outages``: by offer, (begin, end) on
    the clock of the trace. ``calls``: what else happens, as (time, what is done to the world).
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
    usd_factor: Callable[[str, float], float] | None = None


class World:
    """One run of one policy. ``play`` takes the requests; ``tally`` is what came of them."""

    def __init__(
        self, site: Site, profiles: tuple[Profile, ...], rule: Rule, policy: Policy, settings: Settings,
        from_s: float, span_s: float,
    ) -> None:  # fmt: skip
        self._site, self._profiles, self._rule = site, profiles, rule
        self._policy, self._settings = policy, settings
        self._events: list[tuple[float, int, int, Any]] = []
        self._count = 0
        self._rng = np.random.default_rng([settings.seed, 7])
        start_s = EPOCH_S + from_s
        self.tally = Tally(start_s, span_s)
        self.bids = BidBook(policy)
        self._fixed: dict[str, FixedCost] = {}
        self._offers: tuple[Offer, ...] = ()
        self.market = Market(0, start_s, ())
        self.pools: dict[str, SimulatedPool] = {}
        self._pool_of: dict[str, str] = {}
        for spec in site.pools:
            slower = settings.curve_error
            curve = replace(
                spec.curve,
                prefill_tokens_per_s=spec.curve.prefill_tokens_per_s / slower,
                itl_base_s=spec.curve.itl_base_s * slower,
                itl_per_seq_s=spec.curve.itl_per_seq_s * slower,
            )
            pool = SimulatedPool(
                spec.offer_ids[0], gate_of(spec, site.ttft_s_max, policy), curve, spec.gated, spec.chunk_tokens, since_s=start_s
            )
            self.pools[spec.name] = pool
            self._pool_of |= dict.fromkeys(spec.offer_ids, spec.name)
            for _ in range(spec.replicas_max):
                self.ready(spec.name, pool.start(start_s, start_s), start_s)
        self._reprice(start_s)
        self._providers = {
            offer.id: SimulatedProvider(
                offer, np.random.default_rng([settings.seed, 11, i]), settings.api_spread,
                tuple((EPOCH_S + a, EPOCH_S + b) for a, b in settings.outages.get(offer.id, ())),
            )
            for i, offer in enumerate(self._offers)
            if offer.kind == "api"
        }  # fmt: skip
        self.gateways: list[SimulatedGateway] = []
        self._clear(start_s)
        self.gateways = [SimulatedGateway(self, rule, policy, self.market) for _ in range(settings.gateways)]
        self._journeys: dict[str, Journey] = {}
        self.price_series: list[tuple[float, float]] = []
        for at_s, kind in (
            (settings.snapshot_age_s, _CLEAR), (min(1.0, settings.bid_every_s), _SOLVE), (_TICK_S, _TICK), (_REPRICE_S, _REPRICE),
        ):  # fmt: skip
            self._at(start_s + at_s, kind, None)
        for at_s, call in settings.calls:
            self._at(EPOCH_S + at_s, _CALL, call)

    # --- the clock ------------------------------------------------------------------------------------------------

    def _at(self, when_s: float, kind: int, what: Any) -> None:
        self._count += 1
        heappush(self._events, (when_s, self._count, kind, what))

    def play(self, batches: Iterable[Batch], progress: Callable[[int], None] | None = None) -> Tally:
        """Play all requests, then until the last of them has ended."""
        number = 0
        for batch in batches:
            for row in _rows(batch):
                arrived_s = EPOCH_S + row[0]
                while self._events and self._events[0][0] <= arrived_s:
                    self._next()
                self._arrive(number, arrived_s, row)
                number += 1
            if progress is not None:
                progress(len(batch))
        while self.tally.requests < number:
            self._next()
        for spec in self._site.pools:
            self.pools[spec.name].count(self.now_s)
        return self.tally

    def _next(self) -> None:
        when_s, _, kind, what = heappop(self._events)
        self.now_s = when_s
        if kind == _ENGINE:
            self._proceed(*what, when_s)
        elif kind == _FIRST:
            gate, name, ticket_id = what
            self._verdicts(name, gate.first_token(ticket_id, when_s), when_s)
        elif kind == _DONE:
            self._done(what[1], what[2], when_s)
        elif kind == _ANSWERED:
            self._answered(*what, when_s)
        elif kind == _TICK:
            for name, pool in self.pools.items():
                if pool.gate.waiting:
                    self._verdicts(name, pool.gate.tick(when_s), when_s)
            self._at(when_s + _TICK_S, _TICK, None)
        elif kind == _CLEAR:
            self._clear(when_s)
            for gateway in self.gateways:
                gateway.publish(self.market, when_s)
            self._at(when_s + self._settings.snapshot_age_s, _CLEAR, None)
        elif kind == _SOLVE:
            self._solve(when_s)
            # The first prices come soon and are made anew soon: little demand is better than none.
            since_s = when_s - self.tally.from_s
            self._at(when_s + min(self._settings.bid_every_s, since_s), _SOLVE, None)
        elif kind == _REPRICE:
            self._reprice(when_s)
            self._at(when_s + _REPRICE_S, _REPRICE, None)
        else:
            what(self, when_s)

    # --- the controller -------------------------------------------------------------------------------------------

    def _reprice(self, now_s: float) -> None:
        board = self._site.priced(now_s)
        self._offers, self._fixed = board.offers, board.fixed

    def _clear(self, now_s: float) -> None:
        for gateway in self.gateways:
            for offer_id, sample in gateway.samples.items():
                self.bids.heard(offer_id, sample.take(), now_s)
        observed = {name: pool.observe(now_s) for name, pool in self.pools.items()}
        pools = {offer_id: observed[name] for offer_id, name in self._pool_of.items()}
        bids = {offer_id: self.bids.curves.get(offer_id, {}) for offer_id in pools}
        self.market = clear(self.market, Observation(now_s, self._offers, pools, bids=bids), self._policy)

    def _solve(self, now_s: float) -> None:
        if not self._rule.bids:
            return
        levels = {offer_id: self.pools[name].gate.levels(now_s) for offer_id, name in self._pool_of.items()}
        replicas = {offer_id: self.pools[name].gate.healthy for offer_id, name in self._pool_of.items()}
        ratios = {offer_id: self.pools[name].gate.calibration.ratio for offer_id, name in self._pool_of.items()}
        ratios = {offer_id: ratio * self._settings.demand_error for offer_id, ratio in ratios.items()}
        self.bids.solve(levels, replicas, ratios, now_s)
        for pool in self.pools.values():
            pool.gate.set_bids(self.bids.curves.get(pool.offer_id, {}))

    # --- requests -------------------------------------------------------------------------------------------------

    def _arrive(self, number: int, arrived_s: float, row: tuple[Any, ...]) -> None:
        _, input_tokens, output_tokens, profile_index, difficulty, session = row
        profile = self._profiles[profile_index]
        gateway = self.gateways[number % len(self.gateways)]
        expected = gateway.expected_output(profile.tenant, profile.name, output_tokens)
        request = Request(
            id=str(number),
            tenant=profile.tenant,
            service_class=profile.service_class,
            models=profile.models,
            usage=Usage(input_tokens, 0, expected),
            difficulty=difficulty,
            needs=profile.needs,
            zones=profile.zones,
            usd_max=profile.usd_max,
            deadline_s=arrived_s + profile.deadline_s,
            arrived_s=arrived_s,
            session=session,
        )
        gateway.arrive(request, Usage(input_tokens, 0, output_tokens), profile.name, request.id, arrived_s)

    def enter(self, journey: Journey, ticket: Ticket, now_s: float) -> None:
        """A gateway asks a pool's gate."""
        self._journeys[ticket.id] = journey
        assert journey.quote is not None  # noqa: S101 - it has a quote to have a ticket
        name = self._pool_of[journey.quote.offer.id]
        self._verdicts(name, self.pools[name].gate.enter(ticket, now_s), now_s)

    def _verdicts(self, name: str, verdicts: Verdicts, now_s: float) -> None:
        engines = self.pools[name].engines
        for ticket_id, verdict in verdicts:
            if isinstance(verdict, Grant):
                journey, engine = self._journeys[ticket_id], engines[verdict.replica_id]
                before_s = engine.next_s
                usage = journey.usage
                engine.submit(ticket_id, usage.input_tokens - usage.cached_tokens, usage.output_tokens, now_s)
                if engine.next_s != before_s:
                    self._at(engine.next_s, _ENGINE, (name, verdict.replica_id, engine.next_s))
        for ticket_id, verdict in verdicts:
            if isinstance(verdict, Bounce):
                journey = self._journeys.pop(ticket_id)
                journey.gateway.bounced(journey, verdict, now_s)

    def _proceed(self, name: str, replica_id: str, due_s: float, now_s: float) -> None:
        pool = self.pools[name]
        engine = pool.engines.get(replica_id)
        if engine is None or engine.next_s != due_s:
            return
        first, done = engine.proceed(now_s)
        before_s = engine.next_s
        if before_s < math.inf:
            self._at(before_s, _ENGINE, (name, replica_id, before_s))
        base_s = pool.true_curve.ttft_base_s
        for ticket_id in first:
            self._journeys[ticket_id].ttft_s = now_s + base_s - self._journeys[ticket_id].started_s
            self._at(now_s + base_s, _FIRST, (pool.gate, name, ticket_id))
        for ticket_id in done:
            self._at(now_s + base_s, _DONE, (pool.gate, name, ticket_id))

    def _done(self, name: str, ticket_id: str, now_s: float) -> None:
        journey = self._journeys.pop(ticket_id)
        self._verdicts(name, self.pools[name].gate.leave(ticket_id, now_s), now_s)
        journey.gateway.end(journey, "complete", now_s)

    def ask(self, journey: Journey, now_s: float) -> None:
        """A gateway asks a provider."""
        assert journey.quote is not None  # noqa: S101 - it has a quote to have a provider
        offer = journey.quote.offer
        answer = self._providers[offer.id].ask(offer.expected(journey.usage), now_s)
        self._at(now_s + answer.ended_s, _ANSWERED, (journey, answer))

    def _answered(self, journey: Journey, answer: Answer, now_s: float) -> None:
        assert journey.quote is not None  # noqa: S101 - it has been asked
        if answer.http_status == 200:
            self._providers[journey.quote.offer.id].done()
            journey.ttft_s = answer.ttft_s
            journey.gateway.end(journey, "complete", now_s)
            return
        self.tally.failures += 1
        journey.gateway.end(
            journey, "failed", now_s, error=f"HTTP {answer.http_status}", http_status=answer.http_status,
            retry_after_s=answer.retry_after_s,
        )  # fmt: skip
        journey.gateway.advance(journey, now_s)

    def ended(self, journey: Journey, now_s: float) -> None:
        """A request is over."""
        entry = settle(journey.decision, journey.outcomes, self._fixed)
        bounces = sum(1 for outcome in journey.outcomes if outcome.status == "bounced")
        served = journey.quote.offer if journey.quote is not None and entry.status == "complete" else None
        if served is not None and served.zone not in journey.request.zones:
            self.tally.violations += 1
        self.tally.add(int(journey.id), journey.request, entry, served.kind if served else "", bounces)

    def ready(self, name: str, replica_id: str, now_s: float) -> None:
        """An engine answers for the first time."""
        pool = self.pools[name]
        self._verdicts(name, pool.gate.heard(replica_id, True, 0, now_s), now_s)


def _rows(batch: Batch) -> Iterable[tuple[Any, ...]]:
    return zip(
        batch.arrival_s.tolist(), batch.input_tokens.tolist(), batch.output_tokens.tolist(), batch.profile.tolist(),
        batch.difficulty.tolist(), map(str, batch.session.tolist()), strict=True,
    )  # fmt: skip
