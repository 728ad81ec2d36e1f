"""The price board as a document for people: offers, local cost, feeds, rents, and what needs attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pricing import bought, local_cost, spot
from pricing.board import Board, PoolPrice
from pricing.desk import Sheet
from pricing.listing import GpuPrice
from pricing.local_cost import ApiPrice, EnergyInUse, LocalInputs, Rent, Served
from pricing.report import (
    BLEND_INPUT_SHARE,
    Incident,
    LocalCost,
    MtokPrice,
    OfferPrice,
    PriceReport,
    RentPrice,
    TierPrice,
    Unpriced,
)
from scheduler.config import ClusterConfig
from scheduler.config.supply import Pool
from scheduler.core.supply import Offer, Rate, Tier, Usage

_TYPICAL_TOKENS = 1000
_SOON_S = 30 * 86_400.0
_RENTS_MAX = 100
_INCIDENTS_MAX = 100


def report(
    config: ClusterConfig,
    board: Board,
    sheet: Sheet,
    now_s: float,
    served: Mapping[str, Served],
    replicas: Mapping[str, int],
) -> PriceReport:
    """Everything on ``board`` at ``now_s``. ``served`` and ``replicas`` by pool, as far as they are known."""
    offers = tuple(_offer(config, board, offer) for offer in board.offers)
    return PriceReport(
        as_of_s=now_s,
        offers=offers,
        unpriced=tuple(Unpriced(offer, reason) for offer, reason in sorted(board.unpriced.items())),
        local=tuple(
            _local(config, pool, board, now_s, served.get(pool.name), replicas.get(pool.name))
            for pool in config.pools
            if pool.name in board.pools
        ),
        feeds=tuple(sheet.feeds),
        rents=tuple(sorted(_rents(config, sheet, now_s), key=lambda rent: not rent.pool)[:_RENTS_MAX]),
        incidents=(*_incidents(board, offers, now_s), *_doubts(config, sheet)),
    )


def mtok(place: Rate | Tier, input_share: float = BLEND_INPUT_SHARE) -> MtokPrice:
    """A rate in USD per million tokens."""

    def scaled(usd: float | None) -> float | None:
        return None if usd is None else usd * 1e6

    blended = input_share * place.usd_per_input + (1.0 - input_share) * place.usd_per_output
    return MtokPrice(
        place.usd_per_input * 1e6,
        place.usd_per_output * 1e6,
        blended * 1e6,
        place.usd_per_cached * 1e6,
        scaled(place.usd_per_cache_write),
        scaled(place.usd_per_reasoning),
    )


def _offer(config: ClusterConfig, board: Board, offer: Offer) -> OfferPrice:
    name, _, model = offer.id.partition("/")
    rate, found = offer.rate, board.found.get(offer.id)
    tier, batch = "standard", None
    if found is not None:
        provider = next(p for p in config.providers if p.name == name)
        tier = next(served.service_tier for served in provider.models if served.model == model)
        batch = found.price.rates.get("batch")
    return OfferPrice(
        offer=offer.id,
        kind=offer.kind,
        model=offer.model,
        zone=offer.zone,
        source=board.sources[offer.id],
        label="listed" if found is not None else board.pools[name].energy.label,
        observed_s=offer.as_of_s,
        expires_s=offer.expires_s,
        usd_per_mtok=mtok(rate),
        service_tier=tier,
        tiers=tuple(TierPrice(t.input_tokens_above, mtok(t)) for t in rate.tiers),
        usd_per_request=rate.usd_per_request,
        usd_per_search=rate.usd_per_search,
        off_peak=offer.id in board.off_peak,
        deprecated_s=found.price.deprecated_s if found is not None else None,
        others=found.others if found is not None else (),
        batch_usd_per_mtok=mtok(batch) if batch is not None else None,
    )


def _local(
    config: ClusterConfig, pool: Pool, board: Board, now_s: float, served: Served | None, replicas: int | None
) -> LocalCost:
    priced: PoolPrice = board.pools[pool.name]
    site = next(site for site in config.sites if site.name == pool.site)
    energy = priced.energy
    return local_cost.local_cost(
        LocalInputs(
            pool=pool,
            zone=site.zone,
            replicas=pool.replicas.min if replicas is None else replicas,
            usd_per_kwh=priced.tariff.usd_per_kwh,
            tariff=priced.tariff.label,
            pue=site.electricity.pue,
            energy=EnergyInUse(
                energy.joules_per_input_token,
                energy.joules_per_output_token,
                energy.idle_watts or 0.0,
                energy.label,
                now_s if energy.at_s is None else energy.at_s,
            ),
            served=served,
            rent=priced.rent if isinstance(priced.rent, Rent) else None,
            grams_co2_per_kwh=priced.grams_co2_per_kwh,
            api=_cheapest_api(config, pool, board, local_cost.input_share(served)),
        )
    )


def _cheapest_api(config: ClusterConfig, pool: Pool, board: Board, input_share: float) -> ApiPrice | None:
    """The cheapest bought offer that clients may get instead of the pool's model: the model itself, or by an alias.

    Priced as a request of a thousand tokens of the pool's mix would be: with its fee, its tokenizer and its thinking.
    """
    names = {pool.model}
    for alias in config.aliases:
        names |= set(alias.models) if pool.model in alias.models else set()
    typical = Usage(round(_TYPICAL_TOKENS * input_share), 0, round(_TYPICAL_TOKENS * (1.0 - input_share)))
    prices = [
        ApiPrice(offer.id, offer.rate.usd(offer.expected(typical)) / _TYPICAL_TOKENS * 1e6)
        for offer in board.offers
        if offer.kind == "api" and offer.model in names
    ]
    return min(prices, key=lambda price: price.usd_per_mtok, default=None)


def _rents(config: ClusterConfig, sheet: Sheet, now_s: float) -> Iterator[RentPrice]:
    ttl_s = {feed.name: feed.ttl_s for feed in config.feeds}
    pools = {
        (listed.feed, listed.product): pool for pool in config.pools if pool.rental for listed in pool.rental.listed
    }
    for entry in sorted(sheet.entries, key=lambda entry: (entry.feed, entry.product)):
        price = entry.price
        if not isinstance(price, GpuPrice) or bought.unusable(entry, ttl_s.get(entry.feed, 0.0), now_s) is not None:
            continue
        pool = pools.get((entry.feed, entry.product))
        effective = spot.effective_usd_per_hour(price.usd_per_hour, pool.rental) if pool and pool.rental else None
        yield RentPrice(
            feed=entry.feed,
            product=entry.product,
            gpu=price.gpu,
            gpu_count=price.gpu_count,
            provider=price.provider,
            region=price.region,
            spot=price.spot,
            usd_per_gpu_hour=price.usd_per_hour / price.gpu_count,
            observed_s=entry.observed_s,
            effective_usd_per_gpu_hour=None if effective is None else effective / price.gpu_count,
            pool=pool.name if pool else "",
        )


def _doubts(config: ClusterConfig, sheet: Sheet) -> Iterator[Incident]:
    """A history that cannot be written; prices that are not believed or listed now, first those that the site names."""
    if sheet.history_problem:
        yield Incident(sheet.at_s, "", "", "history", sheet.history_problem)
    wanted = {(listed.feed, listed.product) for _, listed in config.listed()}
    found = sorted(_doubted(sheet), key=lambda doubt: ((doubt.feed, doubt.product) not in wanted, doubt.what))
    yield from found[:_INCIDENTS_MAX]


def _doubted(sheet: Sheet) -> Iterator[Incident]:
    for entry in sheet.entries:
        if entry.held is not None:
            yield Incident(entry.held.since_s, entry.feed, entry.product, "quarantined", entry.held.reason)
        elif entry.refused:
            yield Incident(entry.doubted_s, entry.feed, entry.product, "refused", entry.refused)
        elif not entry.listed:
            yield Incident(entry.doubted_s, entry.feed, entry.product, "unlisted", "the last poll did not list it")


def _incidents(board: Board, offers: tuple[OfferPrice, ...], now_s: float) -> Iterator[Incident]:
    """What is so now: sources that disagree, models about to end."""
    for offer in offers:
        for other in offer.others:
            if not other.agrees and other.blended_usd_per_mtok is not None:
                text = f"{other.source} says {other.blended_usd_per_mtok:.4g} USD per Mtok blended; {other.note}"
                yield Incident(now_s, offer.source, offer.offer, "disagreement", text)
        if offer.deprecated_s is not None and offer.deprecated_s - now_s < _SOON_S:
            days = (offer.deprecated_s - now_s) / 86_400.0
            yield Incident(now_s, offer.source, offer.offer, "deprecated", f"the provider ends it in {days:.0f} days")
