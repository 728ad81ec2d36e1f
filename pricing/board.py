"""The price board: every offer of cluster.yaml with its price of this moment, the price's source and its time to live.

Pure: made anew from the configuration, the desk's sheet and what the meter has measured. An unknown price makes no offer;
it is listed in ``Board.unpriced`` with the reason, and never defaulted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pricing import bought, desk, onprem, spot
from pricing.bought import Entries, Found
from pricing.desk import Sheet
from pricing.listing import CarbonIntensity, GpuPrice, PowerPrice
from pricing.local_cost import Rent
from pricing.meter.readings import Label
from pricing.meter.slope import EnergyFit
from pricing.tariff import Tariff, grams_per_kwh_at, tariff_at
from scheduler.config import ClusterConfig
from scheduler.config.prices import Rental
from scheduler.config.supply import Pool, Provider, ProviderModel, QualityPoints, Site
from scheduler.core.supply import FixedCost, Offer, Quality


class Energy(NamedTuple):
    """Slope of power in use for a pool, and how firm it is."""

    joules_per_input_token: float
    joules_per_output_token: float
    idle_watts: float | None
    label: Label
    at_s: float | None


class PoolPrice(NamedTuple):
    """What a pool's offers are priced from. ``rent``: effective, for rented pools, or the reason why it is not known."""

    tariff: Tariff
    energy: Energy
    rent: Rent | str | None = None
    grams_co2_per_kwh: float | None = None


@dataclass(frozen=True, slots=True)
class Board:
    """Offers as priced at one time; ``fixed`` (by offer id) is for settlement and reports, never for ``decide``."""

    offers: tuple[Offer, ...]
    fixed: dict[str, FixedCost]
    sources: dict[str, str]
    unpriced: dict[str, str]
    found: dict[str, Found] = field(default_factory=dict)
    pools: dict[str, PoolPrice] = field(default_factory=dict)
    off_peak: frozenset[str] = frozenset()


_NO_FITS: Mapping[str, EnergyFit] = {}


def price(
    config: ClusterConfig, now_s: float, sheet: Sheet = desk.EMPTY, fits: Mapping[str, EnergyFit] = _NO_FITS
) -> Board:
    """Price every pool and provider as of ``now_s``. ``fits``: trustworthy measurements of pools' power, by pool."""
    entries: Entries = {(entry.feed, entry.product): entry for entry in sheet.entries}
    board = Board((), {}, {}, {}, {}, {})
    offers: list[Offer] = []
    for pool in config.pools:
        site = next(s for s in config.sites if s.name == pool.site)
        priced = pool_price(config, pool, site, entries, fits.get(pool.name), now_s)
        if isinstance(priced, str):
            board.unpriced.update({f"{pool.name}/{model}": priced for model, _ in _models(pool)})
            continue
        board.pools[pool.name] = priced
        offers += _pool_offers(config, pool, site, priced, board, now_s)
    off_peak = set()
    for provider in config.providers:
        for served in provider.models:
            offer_id = f"{provider.name}/{served.model}"
            found = bought.find(config, served, entries, now_s)
            rated = found if isinstance(found, str) else bought.rate_now(found, served.service_tier, now_s)
            if isinstance(found, str) or isinstance(rated, str):
                board.unpriced[offer_id] = str(rated)
                continue
            offer = _provider_offer(config, provider, served, found, rated, now_s)
            offers.append(offer)
            board.found[offer_id], board.sources[offer_id] = found, found.source
            off_peak |= {offer_id} if rated.off_peak else set()
    return Board(
        tuple(offers), board.fixed, board.sources, board.unpriced, board.found, board.pools, frozenset(off_peak)
    )


def pool_price(
    config: ClusterConfig, pool: Pool, site: Site, entries: Entries, fit: EnergyFit | None, now_s: float
) -> PoolPrice | str:
    """What a pool's prices are made from, or the reason why it has none."""
    electricity = site.electricity
    power = carbon = None
    observed_s: float | None = None
    believed_until_s = math.inf
    if electricity.day_ahead is not None:
        entry = entries.get((electricity.day_ahead.feed, electricity.day_ahead.product))
        ttl_s = next(feed.ttl_s for feed in config.feeds if feed.name == electricity.day_ahead.feed)
        if bought.unusable(entry, ttl_s, now_s) is None and entry is not None and isinstance(entry.price, PowerPrice):
            power, observed_s = entry.price, min(entry.observed_s, now_s)
            believed_until_s = observed_s + ttl_s
    if electricity.carbon is not None:
        entry = entries.get((electricity.carbon.feed, electricity.carbon.product))
        ttl_s = next(feed.ttl_s for feed in config.feeds if feed.name == electricity.carbon.feed)
        if bought.unusable(entry, ttl_s, now_s) is None and entry is not None:
            carbon = entry.price if isinstance(entry.price, CarbonIntensity) else None
    tariff = tariff_at(electricity, power, now_s, observed_s)
    if tariff is None:
        return f"no power price for site {site.name} now, and no fallback_usd_per_kwh is declared"
    tariff = tariff._replace(until_s=min(tariff.until_s, believed_until_s))
    rent = _rent(config, pool.rental, entries, now_s) if pool.rental else None
    if isinstance(rent, str) and config.policy.local_floor == "amortized":
        return f"no rent to make the floor of: {rent}"
    return PoolPrice(tariff, _energy(pool, fit), rent, grams_per_kwh_at(carbon, now_s))


def _energy(pool: Pool, fit: EnergyFit | None) -> Energy:
    given = pool.energy
    if fit is not None and given.live:
        return Energy(fit.joules_per_input_token, fit.joules_per_output_token, fit.idle_watts, fit.label, fit.at_s)
    idle_watts = (pool.hardware or pool.rental).idle_watts if pool.hardware or pool.rental else None  # type: ignore[union-attr]
    return Energy(given.joules_per_input_token, given.joules_per_output_token, idle_watts, given.label, None)


def _rent(config: ClusterConfig, rental: Rental, entries: Entries, now_s: float) -> Rent | str:
    """Effective rent of the hardware under a replica, or the reason why it is not known."""
    if rental.usd_per_hour is not None:
        return Rent(spot.effective_usd_per_hour(rental.usd_per_hour, rental), rental.gpu, rental.gpu_count)
    ttl_s = {feed.name: feed.ttl_s for feed in config.feeds}
    reasons = []
    for listed in rental.listed:
        entry = entries.get((listed.feed, listed.product))
        reason = bought.unusable(entry, ttl_s[listed.feed], now_s)
        if reason is None and entry is not None and isinstance(entry.price, GpuPrice):
            price = entry.price
            return Rent(spot.effective_usd_per_hour(price.usd_per_hour, rental), price.gpu, float(price.gpu_count))
        reasons.append(f"{listed.feed}: {listed.product}: {reason or 'no price of GPUs'}")
    return "; ".join(reasons)


def _models(pool: Pool) -> list[tuple[str, QualityPoints | None]]:
    """The pool's model and its adapters: same engines, same capacity."""
    models: list[tuple[str, QualityPoints | None]] = [(pool.model, None)]
    if pool.engine.kind == "vllm":
        models += [(adapter.model, adapter.quality) for adapter in pool.engine.adapters]
    return models


def _quality(config: ClusterConfig, model: str, override: QualityPoints | None) -> Quality:
    points = override or next(m.quality for m in config.models if m.name == model)
    return Quality(points.low, points.medium, points.high)


def _pool_offers(
    config: ClusterConfig, pool: Pool, site: Site, priced: PoolPrice, board: Board, now_s: float
) -> list[Offer]:
    tariff, energy, pue = priced.tariff, priced.energy, site.electricity.pue
    cost: FixedCost | None = None
    if pool.hardware is not None:
        cost = onprem.fixed_cost(pool.hardware, tariff.usd_per_kwh, pue)
    elif pool.rental is not None and isinstance(priced.rent, Rent):
        cost = onprem.fixed_cost(pool.rental, tariff.usd_per_kwh, pue, priced.rent.usd_per_hour)
    offers = []
    for model, quality in _models(pool):
        spec = next(m for m in config.models if m.name == model)
        offer_id = f"{pool.name}/{model}"
        offers.append(
            Offer(
                id=offer_id,
                kind=pool.kind,
                model=model,
                zone=site.zone,
                rate=onprem.avoidable_rate(
                    energy.joules_per_input_token, energy.joules_per_output_token, tariff.usd_per_kwh, pue
                ),
                curve=onprem.service_curve(pool.curve),
                quality=_quality(config, model, quality),
                abilities=frozenset(spec.abilities),
                context_tokens=spec.context_tokens,
                as_of_s=min(now_s, tariff.observed_s),
                expires_s=min(now_s + config.policy.price_ttl_s, tariff.until_s + bought.GRACE_S),
                floor=cost if config.policy.local_floor == "amortized" else None,
            )
        )
        board.sources[offer_id] = f"energy ({energy.label}) x tariff ({tariff.label})"
        if cost is not None:
            board.fixed[offer_id] = cost
    return offers


def _provider_offer(
    config: ClusterConfig,
    provider: Provider,
    served: ProviderModel,
    found: Found,
    rated: bought.RateNow,
    now_s: float,
) -> Offer:
    spec = next(m for m in config.models if m.name == served.model)
    return Offer(
        id=f"{provider.name}/{served.model}",
        kind="api",
        model=served.model,
        zone=provider.zone,
        rate=rated.rate,
        curve=onprem.service_curve(served.curve),
        quality=_quality(config, served.model, served.quality),
        abilities=frozenset(spec.abilities),
        context_tokens=spec.context_tokens,
        as_of_s=min(found.observed_s, now_s),
        expires_s=rated.expires_s,
        inflight_max=provider.limits.concurrent,
        requests_per_min_max=provider.limits.requests_per_min,
        reasoning_tokens=served.reasoning_tokens,
        tokens_ratio=served.tokens_ratio,
    )
