"""A gateway in the simulator: one request's way through its merit order, by the functions that walk it live."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from scheduler.core.admission import Bounce, Ticket
from scheduler.core.bids import Demand, Sample
from scheduler.core.costs import work_s
from scheduler.core.dispatch import Attempt, decide, next_attempt
from scheduler.core.learning import OutputLengths
from scheduler.core.market import Decision, Market, Outcome, Policy, Quote, Request, Status
from scheduler.core.standing import Standing
from scheduler.core.supply import Offer, Usage
from scheduler.core.tickets import displaced_usd, pool_of, ticket
from scheduler.simulation.mix import Profile
from scheduler.simulation.policies import Rule
from scheduler.simulation.rows import Row

_LENGTH_GUESS = 256.0
_NOTHING = Usage(0, 0, 0)
_SESSIONS_MAX = 20_000


@dataclass(slots=True)
class Journey:
    """A request on its way. ``usage`` is what it will turn out to need; only the sources know."""

    id: str
    request: Request
    usage: Usage
    template: str
    blocks: Sequence[Hashable]
    gateway: SimulatedGateway
    decision: Decision
    outcomes: list[Outcome] = field(default_factory=list)
    quote: Quote | None = None
    started_s: float = 0.0
    ticket: str = ""
    ttft_s: float | None = None


class World(Protocol):
    """What a gateway asks of the world around it."""

    def enter(self, journey: Journey, ticket: Ticket, now_s: float) -> None:
        """Ask the gate of the journey's pool."""

    def ask(self, journey: Journey, now_s: float) -> None:
        """Ask the journey's provider."""

    def ended(self, journey: Journey, now_s: float) -> None:
        """The request is over, served or not."""


class SimulatedGateway:
    """One gateway: its own standing, its own snapshot of the market, what it has learnt by itself."""

    def __init__(self, world: World, rule: Rule, policy: Policy, market: Market, caches: bool = False) -> None:
        self._world, self._rule, self._policy, self._caches = world, rule, policy, caches
        self.market = market
        self.standing = Standing(policy, 0.1)
        self.lengths = OutputLengths(_LENGTH_GUESS)
        self.samples: dict[str, Sample] = {}
        self._sessions: OrderedDict[str, tuple[str, int]] = OrderedDict()

    def publish(self, market: Market, now_s: float) -> None:
        """A new snapshot."""
        old = {offer.id: offer.capacity for offer in self.market.offers}
        self.market = market
        self.standing.seen(old, market.offers, now_s)

    def arrive(self, request_id: str, row: Row, profile: Profile, now_s: float) -> None:
        """A request comes in: decided once, then tried."""
        rule, tenant, template = self._rule, profile.tenant, profile.name
        expected: float = row.output_tokens
        if not rule.knows_lengths:
            expected = self.lengths.expected(tenant, template, row.input_tokens)
        prefix_offer, prefix_tokens = self._sessions.get(row.session, ("", 0)) if row.session else ("", 0)
        request = Request(
            id=request_id,
            tenant=tenant,
            service_class=profile.service_class,
            models=profile.models,
            usage=Usage(row.input_tokens, 0, max(1, round(expected))),
            difficulty=row.difficulty,
            needs=profile.needs,
            zones=profile.zones,
            usd_max=profile.usd_max,
            deadline_s=now_s + profile.deadline_s,
            arrived_s=now_s,
            session=row.session,
            prefix_offer=prefix_offer,
            prefix_tokens=prefix_tokens,
        )
        decision = decide(request, self.market, self.standing.load, self._policy, now_s, soft=rule.soft)
        if rule.reorders is not None:
            decision = rule.reorders(decision, self.standing, now_s)
        if rule.bids:
            self._sample(request, decision)
        usage = Usage(row.input_tokens, 0, row.output_tokens)
        self.advance(Journey(request_id, request, usage, template, row.blocks, self, decision), now_s)

    def _sample(self, request: Request, decision: Decision) -> None:
        limit_s, seen = request.service_class.ttft_s_max, set()
        for quote in decision.merit_order:
            offer = quote.offer
            pool = pool_of(offer.id)
            if offer.capacity is not None and pool not in seen:
                seen.add(pool)
                usd = displaced_usd(decision, quote, self.standing.load)
                self.samples.setdefault(pool, Sample()).add(Demand(usd, work_s(request, offer), limit_s))

    def advance(self, journey: Journey, now_s: float) -> None:
        """The next attempt, or the end."""
        standing = self.standing
        step = next_attempt(journey.decision, journey.outcomes, self._policy, standing.retry_tokens)
        if not isinstance(step, Attempt):
            self._world.ended(journey, now_s)
            return
        quote, request = step.quote, journey.request
        offer = quote.offer
        journey.quote, journey.started_s, journey.ttft_s = quote, now_s, None
        reserved = max(quote.usd_cash, quote.usd_most)
        standing.begin(offer, request.tenant, reserved, work_s(request, offer), now_s)
        if offer.capacity is None:
            self._world.ask(journey, now_s)
            return
        journey.ticket = f"{journey.id}-{len(journey.outcomes)}"
        self._world.enter(journey, self._ticket(journey, quote, now_s), now_s)

    def _ticket(self, journey: Journey, quote: Quote, now_s: float) -> Ticket:
        """The ticket as live; rules without eviction are held for a share of the time until the last moment to leave."""
        tried = [outcome.offer_id for outcome in journey.outcomes]
        made = ticket(journey.ticket, journey.decision, quote, self.standing.load, tried, now_s)
        if self._rule.evicts:
            return made
        if made.usd_displaced != math.inf:
            made = made._replace(start_by_s=self._rule.start_by_s(made.leave_by_s, now_s))
        return made._replace(leave_by_s=-math.inf)

    def report(self) -> dict[str, list[Demand]]:
        """Demand since the last report, by pool."""
        return {pool: sample.take() for pool, sample in self.samples.items()}

    def failed(self, journey: Journey, http_status: int, retry_after_s: float, now_s: float) -> None:
        """The source failed; after its first token nobody else is asked."""
        error = f"HTTP {http_status}" if http_status else "the engine is gone"
        status: Status = "failed" if journey.ttft_s is None else "interrupted"
        self.end(journey, status, now_s, error=error, http_status=http_status, retry_after_s=retry_after_s)
        self.advance(journey, now_s)

    def bounced(self, journey: Journey, bounce: Bounce, now_s: float) -> None:
        """The gate said no: an outcome like another."""
        self.end(journey, "bounced", now_s, error=bounce.reason, retry_after_s=bounce.retry_after_s)
        self.advance(journey, now_s)

    def end(
        self, journey: Journey, status: Status, now_s: float, *, error: str = "", http_status: int = 0,
        retry_after_s: float = 0.0,
    ) -> None:  # fmt: skip
        """The attempt ended; its outcome goes where ``next_attempt`` and ``settle`` will look."""
        quote, request = journey.quote, journey.request
        assert quote is not None  # noqa: S101 - an attempt has a quote
        offer = quote.offer
        usage = offer.expected(journey.usage) if status == "complete" else _NOTHING
        outcome = Outcome(
            offer_id=offer.id,
            status=status,
            started_s=journey.started_s,
            ended_s=now_s,
            usage=usage,
            usd=offer.rate.usd(usage) if status == "complete" else 0.0,
            ttft_s=journey.ttft_s,
            http_status=http_status,
            error=error,
            retry_after_s=retry_after_s,
            measured=True,
        )
        journey.outcomes.append(outcome)
        reserved = max(quote.usd_cash, quote.usd_most)
        self.standing.end(offer, request.tenant, reserved, outcome, offer.curve.prefill_s(request.usage))
        if status == "complete":
            usage = journey.usage
            self.lengths.observe(request.tenant, journey.template, usage.output_tokens, usage.input_tokens)
            if request.session and self._caches:
                self._remember(request.session, offer, journey.usage)
            self._world.ended(journey, now_s)

    def _remember(self, session: str, offer: Offer, usage: Usage) -> None:
        if offer.capacity is None:
            self._sessions.pop(session, None)  # the cache that it had ages unseen: not to be counted on
            return
        self._sessions[session] = (offer.id, usage.input_tokens)
        self._sessions.move_to_end(session)
        if len(self._sessions) > _SESSIONS_MAX:
            self._sessions.popitem(last=False)
