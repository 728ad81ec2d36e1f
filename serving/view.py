"""A gateway's view: the newest market, one reference swapped at a time, and its own load since."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

import msgspec

from pricing.report import PriceReport
from scheduler.core.market import NO_LOAD, Load, Market, OfferLoad, Outcome, Policy
from scheduler.core.supply import FixedCost, Offer
from serving.gate.wire import EngineStats

EMPTY = Market(0, 0.0, ())

_RETRY_TOKENS_MAX = 50.0
_TTFT_WEIGHT = 0.1
_CLOCK_S_MAX = 5.0


class Published(msgspec.Struct, frozen=True):
    """What the controller sends a gateway: the market with this gateway's leases, where the gates are, engine counters.

    ``fixed`` is the amortized cost by offer id: for settlement and reports, never for ``decide``. ``at_s``: the
    controller's clock as it answered.
    """

    market: Market
    gates: dict[str, str]
    engines: dict[str, EngineStats] = {}
    fixed: dict[str, FixedCost] = {}
    at_s: float = 0.0


def on_our_clock(published: Published, now_s: float) -> Published:
    """The same with instants of this process's clock, where the controller's was set differently: nothing lives longer."""
    ahead_s = published.at_s - now_s
    if not published.at_s or abs(ahead_s) < _CLOCK_S_MAX:
        return published
    market = published.market
    offers = tuple(
        replace(
            offer,
            as_of_s=offer.as_of_s - ahead_s,
            expires_s=offer.expires_s - ahead_s,
            capacity=offer.capacity and replace(offer.capacity, as_of_s=offer.capacity.as_of_s - ahead_s),
        )
        for offer in market.offers
    )
    leases = {name: replace(lease, expires_s=lease.expires_s - ahead_s) for name, lease in market.leases.items()}
    moved = replace(market, as_of_s=market.as_of_s - ahead_s, offers=offers, leases=leases)
    return msgspec.structs.replace(published, market=moved, at_s=now_s)


class View:
    """Read by attribute, updated between awaits: no locks, nothing on the request path waits."""

    def __init__(self, policy: Policy, retry_share_max: float, clock: Callable[[], float]) -> None:
        self.market: Market = EMPTY
        self.gates: dict[str, str] = {}
        self.engines: dict[str, EngineStats] = {}
        self.fixed: dict[str, FixedCost] = {}
        self.prices: PriceReport | None = None
        self._offers: dict[str, OfferLoad] = {}
        self._usd: dict[str, float] = {}
        self._starts: dict[str, deque[float]] = {}
        self.load = Load(self._offers, self._usd)
        self.retry_tokens = _RETRY_TOKENS_MAX
        self._policy, self._retry_share_max, self._clock = policy, retry_share_max, clock

    def publish(self, published: Published) -> None:
        """Swap in a new market. What was sent since the old snapshot is in the new one's counts."""
        published = on_our_clock(published, self._clock())
        old = {offer.id: offer.capacity for offer in self.market.offers}
        # A controller that has just restarted grants nothing yet: leases that were granted before run to their end.
        leases = {**self.market.leases, **published.market.leases}
        self.market, self.gates = replace(published.market, leases=leases), published.gates
        self.engines, self.fixed = published.engines, published.fixed
        for offer in self.market.offers:
            before = old.get(offer.id)
            here = self._offers.get(offer.id)
            fresh = offer.capacity is not None and (before is None or offer.capacity.as_of_s > before.as_of_s)
            if here is not None and here.new_since_snapshot and fresh:
                here = self._offers[offer.id] = here._replace(new_since_snapshot=0)
            if here is not None and offer.id in self._starts:
                # A limit that was reached sends nothing here any more: the minute passes all the same.
                self._offers[offer.id] = here._replace(requests_last_min=self._recent(offer, self._clock()))

    def cooling(self) -> list[str]:
        """Offers that are left alone for a while after failures."""
        now_s = self._clock()
        return sorted(offer_id for offer_id, load in self._offers.items() if load.cooldown_until_s > now_s)

    def spent_usd(self) -> dict[str, float]:
        """Per tenant, USD spent or reserved since this gateway started."""
        return dict(self._usd)

    def held_usd(self) -> dict[str, float]:
        """Leases that still hold, by tenant: what the controller must count on until this gateway says less."""
        now_s = self._clock()
        return {tenant: lease.usd for tenant, lease in self.market.leases.items() if lease.expires_s > now_s}

    def begin(self, offer: Offer, tenant: str, usd: float) -> None:
        """An attempt starts: it counts as load, and its estimate is reserved from the tenant's lease."""
        now_s = self._clock()
        here = self._offers.get(offer.id, NO_LOAD)
        recent = here.requests_last_min
        if offer.requests_per_min_max:
            starts = self._starts.setdefault(offer.id, deque(maxlen=offer.requests_per_min_max))
            starts.append(now_s)
            recent = sum(1 for start_s in starts if start_s > now_s - 60.0)
        self._offers[offer.id] = OfferLoad(
            here.inflight + 1,
            here.new_since_snapshot + 1,
            recent,
            here.cooldown_until_s,
            here.failures,
            here.ttft_ratio,
        )
        self._usd[tenant] = self._usd.get(tenant, 0.0) + usd
        self.retry_tokens = min(_RETRY_TOKENS_MAX, self.retry_tokens + self._retry_share_max)

    def end(self, offer: Offer, tenant: str, usd_reserved: float, outcome: Outcome, prefill_s: float) -> None:
        """An attempt ended: release its load, replace the reservation by what it cost, and learn from it."""
        here = self._offers.get(offer.id, NO_LOAD)
        self._usd[tenant] = self._usd.get(tenant, 0.0) + outcome.usd - usd_reserved
        cooldown_s, failures, ratio = here.cooldown_until_s, here.failures, here.ttft_ratio
        if outcome.status in ("failed", "timeout"):
            self.retry_tokens = max(0.0, self.retry_tokens - 1.0)
            # A burst that fails together is one failure: only the first after a cooldown makes the next one longer.
            if offer.kind == "api" and cooldown_s <= outcome.ended_s:
                failures += 1
                cooldown_s = outcome.ended_s + self._cooldown_s(outcome, failures)
            elif outcome.retry_after_s:
                cooldown_s = max(cooldown_s, outcome.ended_s + self._cooldown_s(outcome, failures))
        elif outcome.status == "complete":
            failures = 0
        if outcome.ttft_s is not None and offer.kind == "api" and prefill_s > 0:
            ratio += _TTFT_WEIGHT * (min(outcome.ttft_s / prefill_s, 100.0) - ratio)
        self._offers[offer.id] = OfferLoad(
            here.inflight - 1,
            here.new_since_snapshot,
            self._recent(offer, outcome.ended_s),
            cooldown_s,
            failures,
            ratio,
        )

    def _recent(self, offer: Offer, now_s: float) -> int:
        starts = self._starts.get(offer.id)
        return sum(1 for start_s in starts if start_s > now_s - 60.0) if starts else 0

    def _cooldown_s(self, outcome: Outcome, failures: int) -> float:
        """Retry-After is obeyed; a refused connection or a 503 counts at once; other faults from the second on."""
        policy = self._policy
        if outcome.retry_after_s:
            return min(outcome.retry_after_s, policy.breaker_max_s)
        if failures < 2 and outcome.http_status not in (0, 429, 503):
            return 0.0
        return float(min(policy.breaker_max_s, policy.breaker_base_s * 2.0 ** min(failures - 1, 16)))
