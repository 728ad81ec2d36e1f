"""The price board as Prometheus gauges, brought up to date at each scrape; what is no longer there is no longer told."""

from __future__ import annotations

from pricing.report import MtokPrice, PriceReport
from serving import metrics


def expose(report: PriceReport, now_s: float) -> None:
    """Set every gauge of prices from ``report``."""
    for gauge in (
        metrics.COST,
        metrics.GPU_HOUR,
        metrics.POOL_WATTS,
        metrics.POOL_JOULES,
        metrics.UTILIZATION,
        metrics.TARIFF,
        metrics.PRICE_AGE,
        metrics.FEED_AGE,
        metrics.FEED_POLLS,
    ):
        gauge.clear()
    metrics.PRICES_AGE.set(max(0.0, now_s - report.as_of_s))
    for offer in report.offers:
        if offer.kind == "api":
            _cost(offer.offer, "list", offer.usd_per_mtok)
        metrics.PRICE_AGE.labels(offer.offer).set(max(0.0, now_s - offer.observed_s))
    for pool in report.local:
        for basis, price in pool.bases.items():
            _cost(pool.pool, basis, price)
        if pool.standard_usd_per_mtok is not None:
            _cost(pool.pool, "standard", pool.standard_usd_per_mtok)
        for part, usd in pool.usd_per_gpu_hour.items():
            metrics.GPU_HOUR.labels(pool.pool, part).set(usd)
        metrics.POOL_WATTS.labels(pool.pool, pool.power_label).set(pool.watts)
        if pool.joules is not None:
            metrics.POOL_JOULES.labels(pool.pool, pool.power_label).set(pool.joules)
        metrics.TARIFF.labels(pool.pool).set(pool.usd_per_kwh)
        if pool.utilization is not None:
            metrics.UTILIZATION.labels(pool.pool).set(pool.utilization)
    for feed in report.feeds:
        if feed.last_ok_s is not None:
            metrics.FEED_AGE.labels(feed.feed).set(max(0.0, now_s - feed.last_ok_s))
        metrics.FEED_POLLS.labels(feed.feed, "error").set(feed.errors)
        metrics.FEED_POLLS.labels(feed.feed, "unchanged").set(feed.unchanged)
        metrics.FEED_POLLS.labels(feed.feed, "changed").set(feed.polls - feed.errors - feed.unchanged)


def _cost(name: str, basis: str, price: MtokPrice) -> None:
    for token_type in ("input", "output", "blended"):
        metrics.COST.labels(name, token_type, basis).set(getattr(price, token_type))
