"""The price board: every offer of cluster.yaml with its price, the price's source, and its time to live.

An unknown price makes no offer; it is listed in ``Board.unpriced`` with the reason, and never defaulted.
"""

from __future__ import annotations

from dataclasses import dataclass

from pricing import onprem
from pricing.feeds import litellm_map
from scheduler.config import ClusterConfig
from scheduler.config.supply import Pool, Provider, ProviderModel, QualityPoints
from scheduler.core.supply import FixedCost, Offer, Quality, Rate


@dataclass(frozen=True, slots=True)
class Board:
    """Offers as priced at one time; ``fixed`` (by offer id) is for settlement and reports, never for ``decide``."""

    offers: tuple[Offer, ...]
    fixed: dict[str, FixedCost]
    sources: dict[str, str]
    unpriced: dict[str, str]


def price(config: ClusterConfig, now_s: float) -> Board:
    """Price every pool and provider of ``config`` as of ``now_s``."""
    offers: list[Offer] = []
    fixed: dict[str, FixedCost] = {}
    sources: dict[str, str] = {}
    unpriced: dict[str, str] = {}
    for pool in config.pools:
        for offer, cost in _pool_offers(config, pool, now_s):
            offers.append(offer)
            sources[offer.id] = f"energy ({pool.energy.label}) x tariff"
            if cost is not None:
                fixed[offer.id] = cost
    for provider in config.providers:
        for served in provider.models:
            offer_id = f"{provider.name}/{served.model}"
            rate, source = _provider_rate(served)
            if rate is None:
                unpriced[offer_id] = source
                continue
            offers.append(_provider_offer(config, provider, served, rate, now_s))
            sources[offer_id] = source
    return Board(tuple(offers), fixed, sources, unpriced)


def _quality(config: ClusterConfig, model: str, override: QualityPoints | None) -> Quality:
    points = override or next(m.quality for m in config.models if m.name == model)
    return Quality(points.low, points.medium, points.high)


def _pool_offers(config: ClusterConfig, pool: Pool, now_s: float) -> list[tuple[Offer, FixedCost | None]]:
    """One offer for the pool's model and one for each adapter: same engines, same capacity."""
    site = next(s for s in config.sites if s.name == pool.site)
    cost = onprem.fixed_cost(pool.hardware, site.electricity) if pool.hardware else None
    models: list[tuple[str, QualityPoints | None]] = [(pool.model, None)]
    if pool.engine.kind == "vllm":
        models += [(adapter.model, adapter.quality) for adapter in pool.engine.adapters]
    result = []
    for model, quality in models:
        spec = next(m for m in config.models if m.name == model)
        offer = Offer(
            id=f"{pool.name}/{model}",
            kind=pool.kind,
            model=model,
            zone=site.zone,
            rate=onprem.avoidable_rate(pool.energy, site.electricity),
            curve=onprem.service_curve(pool.curve),
            quality=_quality(config, model, quality),
            abilities=frozenset(spec.abilities),
            context_tokens=spec.context_tokens,
            as_of_s=now_s,
            expires_s=now_s + config.policy.price_ttl_s,
            floor=cost if config.policy.local_floor == "amortized" else None,
        )
        result.append((offer, cost))
    return result


def _provider_rate(served: ProviderModel) -> tuple[Rate | None, str]:
    if served.price == "litellm":
        rate = litellm_map.rate(served.upstream)
        return rate, "litellm's price map" if rate else f"litellm's price map has no price for {served.upstream!r}"
    price_usd = served.price
    cached = price_usd.input if price_usd.cached is None else price_usd.cached
    return Rate(price_usd.input / 1e6, cached / 1e6, price_usd.output / 1e6, price_usd.usd_per_request), "cluster.yaml"


def _provider_offer(
    config: ClusterConfig, provider: Provider, served: ProviderModel, rate: Rate, now_s: float
) -> Offer:
    spec = next(m for m in config.models if m.name == served.model)
    return Offer(
        id=f"{provider.name}/{served.model}",
        kind="api",
        model=served.model,
        zone=provider.zone,
        rate=rate,
        curve=onprem.service_curve(served.curve),
        quality=_quality(config, served.model, served.quality),
        abilities=frozenset(spec.abilities),
        context_tokens=spec.context_tokens,
        as_of_s=now_s,
        expires_s=now_s + config.policy.price_ttl_s,
        inflight_max=provider.limits.concurrent,
        requests_per_min_max=provider.limits.requests_per_min,
    )
