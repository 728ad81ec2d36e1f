"""A gateway's view: the newest market, one reference swapped at a time, and its own load since."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import msgspec

from pricing.report import PriceReport
from scheduler.core.market import Market, Outcome, Policy
from scheduler.core.standing import Standing
from scheduler.core.supply import FixedCost, Offer
from serving.gate.wire import EngineStats

EMPTY = Market(0, 0.0, ())

_CLOCK_S_MAX = 5.0


class BidState(msgspec.Struct, frozen=True):
    """When each pool's bid curves were solved, by the controller's clock, and how long the last solving took.

    ``ratios``: seconds of work that each pool's engines need over those of their curve, as the gates have learnt.
    """

    solved_at_s: dict[str, float] = {}
    solve_s: float = 0.0
    ratios: dict[str, float] = {}


NO_BIDS = BidState()


class ActionCount(NamedTuple):
    """How often the commitment clock has said ``direction`` (up, down) of a pool since the controller started."""

    pool: str
    direction: str
    applied: bool
    times: int


class FleetState(msgspec.Struct, frozen=True):
    """What the commitment clock wants: replicas by pool, none while it is off or has not looked yet."""

    desired: dict[str, int] = {}
    actions: tuple[ActionCount, ...] = ()


NO_FLEET = FleetState()


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
    bids: BidState = NO_BIDS
    fleet: FleetState = NO_FLEET


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
    solved = {pool: solved_s - ahead_s for pool, solved_s in published.bids.solved_at_s.items()}
    bids = msgspec.structs.replace(published.bids, solved_at_s=solved)
    return msgspec.structs.replace(published, market=moved, at_s=now_s, bids=bids)


class View:
    """Read by attribute, updated between awaits: no locks, nothing on the request path waits."""

    def __init__(self, policy: Policy, retry_share_max: float, clock: Callable[[], float]) -> None:
        self.market: Market = EMPTY
        self.gates: dict[str, str] = {}
        self.engines: dict[str, EngineStats] = {}
        self.fixed: dict[str, FixedCost] = {}
        self.bids, self.fleet = NO_BIDS, NO_FLEET
        self.prices: PriceReport | None = None
        self._standing, self._clock = Standing(policy, retry_share_max), clock
        self.load = self._standing.load

    @property
    def retry_tokens(self) -> float:
        """What is left of the retry allowance."""
        return self._standing.retry_tokens

    def publish(self, published: Published) -> None:
        """Swap in a new market. What was sent since the old snapshot is in the new one's counts."""
        published = on_our_clock(published, self._clock())
        old = {offer.id: offer.capacity for offer in self.market.offers}
        # A controller that has just restarted grants nothing yet: leases that were granted before run to their end.
        leases = {**self.market.leases, **published.market.leases}
        self.market, self.gates = replace(published.market, leases=leases), published.gates
        self.engines, self.fixed, self.bids = published.engines, published.fixed, published.bids
        self.fleet = published.fleet
        self._standing.seen(old, self.market.offers, self._clock())

    def cooling(self) -> list[str]:
        """Offers that are left alone for a while after failures."""
        return self._standing.cooling(self._clock())

    def spent_usd(self) -> dict[str, float]:
        """Per tenant, USD spent or reserved since this gateway started."""
        return self._standing.spent_usd()

    def held_usd(self) -> dict[str, float]:
        """Leases that still hold, by tenant: what the controller must count on until this gateway says less."""
        now_s = self._clock()
        return {tenant: lease.usd for tenant, lease in self.market.leases.items() if lease.expires_s > now_s}

    def begin(self, offer: Offer, tenant: str, usd: float, work_s: float = 0.0) -> None:
        """An attempt starts: it counts as load, and its estimate is reserved from the tenant's lease."""
        self._standing.begin(offer, tenant, usd, work_s, self._clock())

    def end(self, offer: Offer, tenant: str, usd_reserved: float, outcome: Outcome, prefill_s: float) -> None:
        """An attempt ended: release its load, replace the reservation by what it cost, and learn from it."""
        self._standing.end(offer, tenant, usd_reserved, outcome, prefill_s)
