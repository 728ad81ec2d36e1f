"""The controller of a simulated site: prices, clearing, and bid curves, by the functions that the live one calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
_PROBE_S = 0.01


class SimulatedController:
    """``market`` is the newest; ``fixed`` are amortized costs by offer, for settlement alone."""

    def __init__(self, site: Site, pools: Mapping[str, SimulatedPool], policy: Policy, start_s: float) -> None:
        self._site, self._pools, self._policy = site, pools, policy
        self.pool_of = {offer_id: spec.name for spec in site.pools for offer_id in spec.offer_ids}
        self.bids = BidBook(policy)
        self.market = Market(0, start_s, ())
        self.offers: tuple[Offer, ...] = ()
        self.fixed: dict[str, FixedCost] = {}

    def reprice(self, now_s: float, usd_factor: UsdFactor | None = None) -> None:
        """Prices of this moment."""
        board = self._site.priced(now_s)
        self.offers, self.fixed = board.offers, board.fixed
        if usd_factor is not None:
            self.offers = tuple(
                replace(offer, rate=_times(offer.rate, usd_factor(offer.id, now_s))) if offer.kind == "api" else offer
                for offer in self.offers
            )

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


def _times(rate: Rate, factor: float) -> Rate:
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
