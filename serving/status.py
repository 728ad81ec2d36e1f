"""Readiness and metrics of a gateway, from its view."""

from __future__ import annotations

import math
from typing import Any

from prometheus_client import generate_latest

from scheduler.core.supply import Offer
from scheduler.core.tickets import pool_of
from serving import metrics, price_metrics
from serving.accounting import Accountant
from serving.clock import now_s
from serving.explain import slope_usd
from serving.view import View

_MARKET_S_MAX = 30.0


class Status:
    """What a gateway can say of itself. ``may_be_empty``: pools that may have no replica, which is then no fault."""

    def __init__(
        self,
        view: View,
        accountant: Accountant,
        budgeted: frozenset[str] = frozenset(),
        may_be_empty: frozenset[str] = frozenset(),
    ) -> None:
        self._view, self._accountant, self._budgeted = view, accountant, budgeted
        self._may_be_empty = may_be_empty
        self._ready_once = False
        self._counted: dict[tuple[str, str, bool], int] = {}

    def readiness(self) -> tuple[list[str], dict[str, Any]]:
        """Problems (none: ready), and what is there. At first every pool must be up; later any source will do."""
        market = self._view.market
        problems = []
        up = [offer.id for offer in market.offers if offer.healthy]
        empty = [offer.id for offer in market.offers if self._is_empty(offer)]
        down = [offer.id for offer in market.offers if not offer.healthy and offer.id not in empty]
        cooling = self._view.cooling()
        if not market.version:
            problems.append("no market yet: the controller has not been heard")
        elif not up:
            problems.append("no source is up")
        elif down and not self._ready_once:
            problems.append(f"starting: {', '.join(sorted(down))}")
        elif not self._ready_once and not self._budgeted <= market.leases.keys():
            problems.append("starting: the ledger has not told yet what budgets have left")
        if not self._accountant.healthy:
            problems.append("the ledger's journal cannot be written")
        self._ready_once = self._ready_once or not problems
        return problems, {
            "market_version": market.version,
            "up": sorted(up),
            "down": sorted(down),
            "empty": sorted(empty),
            "cooling": cooling,
        }

    def _is_empty(self, offer: Offer) -> bool:
        """Its gate is there and knows of no replica, and that is as it may be."""
        is_empty = offer.capacity is not None and not offer.capacity.replicas
        return is_empty and pool_of(offer.id) in self._may_be_empty

    def exposition(self) -> bytes:
        """Prometheus text, with the gauges brought up to date."""
        market = self._view.market
        metrics.MARKET_VERSION.set(market.version)
        metrics.MARKET_AGE.set(max(0.0, now_s() - market.as_of_s) if market.version else _MARKET_S_MAX)
        metrics.LEDGER_HEALTHY.set(self._accountant.healthy)
        metrics.OFFER_UP.clear()  # an offer that has left the market is not up
        metrics.POOL.clear()
        metrics.BID_PRICE.clear()
        metrics.BID_SOLVE.set(self._view.bids.solve_s)
        for offer in market.offers:
            if not self._is_empty(offer):
                metrics.OFFER_UP.labels(offer.id).set(offer.healthy)
            if offer.capacity is not None:
                pool, age_s = pool_of(offer.id), max(0.0, now_s() - offer.capacity.as_of_s)
                metrics.BID_PRICE.labels(pool).set(slope_usd(offer.capacity, 0.0, age_s, 0.0))
                for what in ("replicas", "slots", "running", "waiting"):
                    metrics.POOL.labels(pool, what).set(getattr(offer.capacity, what))
        for pool, ratio in self._view.bids.ratios.items():
            metrics.POOL.labels(pool, "work_ratio").set(ratio)
        for pool, stats in self._view.engines.items():
            for what in ("running", "waiting", "kv_usage", "prompt_tokens", "generation_tokens"):
                metrics.POOL.labels(pool, f"engine_{what}").set(getattr(stats, what))
        self._expose_fleet()
        if self._view.prices is None:
            metrics.PRICES_AGE.set(math.inf)
        else:
            price_metrics.expose(self._view.prices, now_s())
        return generate_latest(metrics.REGISTRY)

    def _expose_fleet(self) -> None:
        fleet = self._view.fleet
        metrics.COMMITMENT_DESIRED.clear()
        for pool, replicas in fleet.desired.items():
            metrics.COMMITMENT_DESIRED.labels(pool).set(replicas)
        for pool, direction, applied, times in fleet.actions:
            before = self._counted.get((pool, direction, applied), 0)
            self._counted[pool, direction, applied] = times
            # A controller that has restarted counts from nothing again.
            more = times - before if times >= before else times
            metrics.COMMITMENT_ACTIONS.labels(pool, direction, str(applied).lower()).inc(more)
