"""The price board as Prometheus gauges, brought up to date at each scrape; what is no longer there is no longer told."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from pricing.meter.readings import GpuReading
from pricing.report import MtokPrice, NodeReading, PriceReport
from serving import metrics

_GPUS_MAX = 512
_NODES_MAX = 512


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
        metrics.GPU_WATTS,
        metrics.GPU_JOULES,
        metrics.GPU_UTILIZATION,
        metrics.GPU_MEMORY,
        metrics.GPU_THROTTLED,
        metrics.HOST_WATTS,
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
            metrics.POOL_JOULES.labels(pool.pool, pool.joules_label).set(pool.joules)
        metrics.TARIFF.labels(pool.pool).set(pool.usd_per_kwh)
        if pool.utilization is not None:
            metrics.UTILIZATION.labels(pool.pool).set(pool.utilization)
    for feed in report.feeds:
        if feed.last_ok_s is not None:
            metrics.FEED_AGE.labels(feed.feed).set(max(0.0, now_s - feed.last_ok_s))
        metrics.FEED_POLLS.labels(feed.feed, "error").set(feed.errors)
        metrics.FEED_POLLS.labels(feed.feed, "unchanged").set(feed.unchanged)
        metrics.FEED_POLLS.labels(feed.feed, "changed").set(feed.polls - feed.errors - feed.unchanged)
    _expose_nodes(report.nodes)


def _expose_nodes(nodes: Iterable[NodeReading]) -> None:
    nodes = tuple(islice(nodes, _NODES_MAX))
    for name, gpu in islice(((node.node, gpu) for node in nodes for gpu in node.gpus), _GPUS_MAX):
        _expose_gpu(name, gpu)
    for one in nodes:
        if one.host.watts is not None:
            metrics.HOST_WATTS.labels(one.node, one.host.how, one.host.label).set(one.host.watts)


def _expose_gpu(node: str, gpu: GpuReading) -> None:
    """A board that cannot be read now tells what it had drawn, and nothing of the moment."""
    how = gpu.how.partition(",")[0]  # without its counts, each of which would be another series
    metrics.GPU_JOULES.labels(node, gpu.uuid, how, gpu.label).set(gpu.joules)
    if gpu.problem:
        return
    metrics.GPU_WATTS.labels(node, gpu.uuid, how, gpu.label).set(gpu.watts)
    if gpu.utilization is not None:
        metrics.GPU_UTILIZATION.labels(node, gpu.uuid).set(gpu.utilization)
    if gpu.memory_total_bytes:
        metrics.GPU_MEMORY.labels(node, gpu.uuid, "used").set(gpu.memory_used_bytes)
        metrics.GPU_MEMORY.labels(node, gpu.uuid, "total").set(gpu.memory_total_bytes)
    for reason in gpu.throttled_by:
        metrics.GPU_THROTTLED.labels(node, gpu.uuid, reason).set(1)


def _cost(name: str, basis: str, price: MtokPrice) -> None:
    for token_type in ("input", "output", "blended"):
        metrics.COST.labels(name, token_type, basis).set(getattr(price, token_type))
