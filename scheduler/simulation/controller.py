"""The controller of a simulated site: prices, clearing, and bid curves, by the functions that the live one calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from scheduler.core.bids import BidBook, Demand
from scheduler.core.capacity import price_usd
from scheduler.core.clearing import Observation, clear
from scheduler.core.market import Market, Policy
from scheduler.core.supply import FixedCost, Offer, Rate
from scheduler.simulation.site import Site
from scheduler.simulation.sources import SimulatedPool

# What an API's price is multiplied by at a time: (offer id, now_s) -> factor.
UsdFactor = Callable[[str, float], float]
# Prices are made anew this often, and whenever one of them may have changed.
REPRICE_S = 300.0
_PROBE_S = 0.01


class SimulatedController:
    """``market`` is the newest; ``fixed`` are amortized costs by offer, for settlement alone.

    ``reprice_s``: when prices are to be made anew.
    """

    def __init__(self, site: Site, pools: Mapping[str, SimulatedPool], policy: Policy, start_s: float) -> None:
        self._site, self._pools, self._policy = site, pools, policy
        self.pool_of = {offer_id: spec.name for spec in site.pools for offer_id in spec.offer_ids}
        self.bids = BidBook(policy)
        self.market = Market(0, start_s, ())
        self.offers: tuple[Offer, ...] = ()
        self.fixed: dict[str, FixedCost] = {}
        self.reprice_s = start_s

    def reprice(self, now_s: float, usd_factor: UsdFactor | None = None) -> bool:
        """Prices of this moment. True where one has changed: it is in ``market`` at once, whose other news can wait."""
        before = {offer.id: (offer.rate, offer.floor) for offer in self.offers}
        board, until_s = self._site.priced_until(now_s)
        self.offers, self.fixed = _times(board.offers, usd_factor, now_s), board.fixed
        self.reprice_s = min(now_s + REPRICE_S, until_s)
        if all(before.get(offer.id) == (offer.rate, offer.floor) for offer in self.offers):
            return False
        new = {offer.id: offer for offer in self.offers}
        self.market = replace(self.market, offers=tuple(_at_price(o, new.get(o.id, o)) for o in self.market.offers))
        return True

    def heard(self, demand: Mapping[str, list[Demand]], now_s: float) -> None:
        """What one gateway saw since its last report, by pool."""
        for pool, sample in demand.items():
            self.bids.heard(pool, sample, now_s)

    def clear(self, now_s: float) -> dict[str, float]:
        """The next market. Returned: the bid price of each pool at its wait, USD per replica-second."""
        observed = {name: pool.observe(now_s) for name, pool in self._pools.items()}
        pools = {offer_id: observed[name] for offer_id, name in self.pool_of.items()}
        bids = {offer_id: self.bids.curves.get(name, {}) for offer_id, name in self.pool_of.items()}
        self.market = clear(self.market, Observation(now_s, self.offers, pools, bids=bids), self._policy)
        return {
            offer.id.partition("/")[0]: price_usd(offer.capacity.levels, 0.0, _PROBE_S)
            / (_PROBE_S * max(1, offer.capacity.replicas))
            for offer in self.market.offers
            if offer.capacity is not None
        }

    def solve(self, now_s: float, demand_error: float = 1.0) -> None:
        """New bid curves, for the market and for the gates. ``demand_error``: demand is taken for that many times itself."""
        gates = {name: pool.gate for name, pool in self._pools.items()}
        self.bids.solve(
            {name: gate.levels(now_s) for name, gate in gates.items()},
            {name: gate.healthy for name, gate in gates.items()},
            {name: gate.calibration.work.value * demand_error for name, gate in gates.items()},
            now_s,
        )
        for name, pool in self._pools.items():
            if pool.gated:
                pool.gate.set_bids(self.bids.curves.get(name, {}))


def offers_until(
    site: Site, start_s: float, end_s: float, usd_factor: UsdFactor | None = None
) -> Iterator[tuple[float, float, tuple[Offer, ...]]]:
    """Offers as a controller that starts at ``start_s`` has priced them, from one instant until another, up to ``end_s``."""
    while start_s < end_s:
        board, until_s = site.priced_until(start_s)
        if usd_factor is not None:
            until_s = min(start_s + REPRICE_S, until_s)
        yield start_s, until_s, _times(board.offers, usd_factor, start_s)
        start_s = until_s


def _at_price(offer: Offer, priced: Offer) -> Offer:
    """The offer as the market has it, at a new price."""
    return replace(offer, rate=priced.rate, floor=priced.floor, as_of_s=priced.as_of_s, expires_s=priced.expires_s)


def _times(offers: tuple[Offer, ...], usd_factor: UsdFactor | None, now_s: float) -> tuple[Offer, ...]:
    """The same offers, APIs that many times as dear."""
    if usd_factor is None:
        return offers
    return tuple(
        replace(offer, rate=_rate_times(offer.rate, usd_factor(offer.id, now_s))) if offer.kind == "api" else offer
        for offer in offers
    )


def _rate_times(rate: Rate, factor: float) -> Rate:
    """The same price list, everything ``factor`` times as dear."""
    tiers = tuple(
        tier._replace(
            usd_per_input=tier.usd_per_input * factor,
            usd_per_cached=tier.usd_per_cached * factor,
            usd_per_output=tier.usd_per_output * factor,
        )
        for tier in rate.tiers
    )
    return replace(
        rate,
        usd_per_input=rate.usd_per_input * factor,
        usd_per_cached=rate.usd_per_cached * factor,
        usd_per_output=rate.usd_per_output * factor,
        usd_per_request=rate.usd_per_request * factor,
        tiers=tiers,
    )
