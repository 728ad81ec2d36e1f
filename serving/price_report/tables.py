"""A report's tables as text, for terminal and page alike. Every cell is printable: nothing from outside is markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pricing.report import BASES, Basis, LocalCost, MtokPrice, OfferPrice, PriceReport
from serving.report.tables import Column, Table, left
from serving.report.words import age, count, instant, number, percent, plain

PARTS = ("capital", "maintenance", "staff", "rack", "network", "rent", "power")
BASIS_WORDS: dict[Basis, str] = {
    "allocation": "allocation (tokens served)",
    "usage": "usage (at full use)",
    "avoidable": "avoidable (next token)",
}
BASIS_LEGEND = (
    "Allocation is all that a pool costs over the tokens that it served; usage is the same as if it were fully used; "
    "avoidable is the energy of the next token, and all that dispatch reads; standard is at a fixed use, for chargeback."
)
_SOON_S = 60 * 86_400.0


def merit_order(offers: Iterable[OfferPrice]) -> list[OfferPrice]:
    """Offers by blended price, the cheapest first."""
    return sorted(offers, key=lambda offer: (offer.usd_per_mtok.blended, offer.offer))


def sentence(report: PriceReport, now_s: float) -> str:
    """What is on the market, what is not, and how old it is."""
    told = [f"{count(len(report.offers), 'offer')} on the market"]
    expired = sum(1 for offer in report.offers if offer.expires_s <= now_s)
    if expired:
        told.append(f"{expired:,} of them expired")
    told.append(f"{len(report.unpriced) or 'none'} without a price")
    held = len({(incident.feed, incident.product) for incident in report.incidents if incident.what == "quarantined"})
    if held:
        told.append(f"{count(held, 'price')} in quarantine")
    silent = sum(1 for feed in report.feeds if feed.error)
    if silent:
        told.append(f"{silent:,} of {count(len(report.feeds), 'feed')} failing")
    text = ", ".join(told)
    ages = [now_s - offer.observed_s for offer in report.offers]
    return f"{text}; newest {age(min(ages))}, oldest {age(max(ages))}." if ages else f"{text}."


def offers(report: PriceReport, now_s: float) -> Table:
    """The market in merit order of blended price."""
    columns = (
        left("offer"),
        left("model", 8),
        left("zone", 7),
        left("kind", 2),
        Column("input", 1),
        Column("cached", 5),
        Column("output", 1),
        Column("blended"),
        left("source", 4),
        left("label", 1),
        Column("age"),
        Column("expires in", 3),
        left("notes", 6, aside=True),
    )
    rows = [
        (
            plain(offer.offer),
            plain(offer.model),
            plain(offer.zone),
            offer.kind,
            number(offer.usd_per_mtok.input),
            number(offer.usd_per_mtok.cached),
            number(offer.usd_per_mtok.output),
            number(offer.usd_per_mtok.blended),
            plain(offer.source),
            offer.label,
            age(now_s - offer.observed_s),
            age(offer.expires_s - now_s) if offer.expires_s > now_s else "EXPIRED",
            "; ".join(notes(offer, now_s)),
        )
        for offer in merit_order(report.offers)
    ]
    return Table("Offers, USD per million tokens, cheapest blended price first", columns, rows, "No offer has a price.")


def notes(offer: OfferPrice, now_s: float) -> list[str]:
    """What a price alone does not say of an offer."""
    told = [
        f"{plain(other.source)} disagrees: {number(other.blended_usd_per_mtok)}"
        + (f" ({number(other.ratio)} ×)" if other.ratio is not None else "")
        + (f", {plain(other.note)}" if other.note else "")
        for other in offer.others
        if not other.agrees
    ]
    if offer.deprecated_s is not None and offer.deprecated_s - now_s < _SOON_S:
        over = offer.deprecated_s <= now_s
        told.append(f"{'ended' if over else 'ends'} {instant(offer.deprecated_s)}")
    if offer.off_peak:
        told.append("off-peak now")
    if offer.service_tier != "standard":
        told.append(f"tier {plain(offer.service_tier)}")
    told += [f"above {tier.input_tokens_above:,} tokens {_pair(tier.usd_per_mtok)}" for tier in offer.tiers]
    if offer.usd_per_mtok.cache_write is not None:
        told.append(f"cache write {number(offer.usd_per_mtok.cache_write)}")
    if offer.usd_per_mtok.reasoning is not None:
        told.append(f"reasoning {number(offer.usd_per_mtok.reasoning)}")
    if offer.usd_per_request:
        told.append(f"{number(offer.usd_per_request)} USD a request")
    if offer.usd_per_search:
        told.append(f"{number(offer.usd_per_search)} USD a search")
    if offer.batch_usd_per_mtok is not None:
        told.append(f"batch {_pair(offer.batch_usd_per_mtok)}")
    return told


def _pair(price: MtokPrice) -> str:
    return f"{number(price.input)} in, {number(price.output)} out"


def bases(local: Sequence[LocalCost]) -> Table:
    """What a million tokens of each pool cost, on each basis that is known."""
    columns = (
        left("pool"),
        left("basis"),
        Column("input"),
        Column("output"),
        Column("blended"),
        Column("input share", 1),
    )
    rows = []
    for cost in local:
        prices = [(BASIS_WORDS[name], cost.bases[name]) for name in BASES if name in cost.bases]
        if cost.standard_usd_per_mtok is not None:
            prices.append((f"standard (at {percent(cost.utilization_standard)} use)", cost.standard_usd_per_mtok))
        for name, price in prices:
            values = (number(price.input), number(price.output), number(price.blended))
            rows.append((plain(cost.pool), name, *values, percent(cost.input_share)))
    title = "Local cost, USD per million tokens, on bases that are never mixed"
    return Table(title, columns, rows, "No pool's cost per token is known.")


def parts_of(local: Iterable[LocalCost]) -> list[str]:
    """Names of the parts of the cost stack that occur, the usual ones first."""
    found = dict.fromkeys(name for cost in local for name in cost.usd_per_gpu_hour)
    return [name for name in PARTS if name in found] + [name for name in found if name not in PARTS]


def stack(local: Sequence[LocalCost]) -> Table:
    """What a GPU-hour of each pool is made of."""
    parts = parts_of(local)
    columns = (left("pool"), *(Column(plain(name), 1) for name in parts), Column("total"))
    rows = [
        (
            plain(cost.pool),
            *(number(cost.usd_per_gpu_hour.get(name)) for name in parts),
            number(sum(cost.usd_per_gpu_hour.values()) if cost.usd_per_gpu_hour.keys() - {"power"} else None),
        )
        for cost in local
    ]
    return Table("Local cost, USD per GPU-hour", columns, rows, "No pool of ours has a known cost.")


def pools(report: PriceReport, now_s: float) -> Table:
    """How each pool is used and powered."""
    columns = (
        left("pool"),
        left("site", 6),
        left("GPU", 5),
        Column("replicas", 7),
        Column("utilization"),
        left("breaks even at", 4),
        Column("tokens/h", 8),
        Column("watts", 2),
        left("power", 1),
        Column("USD/kWh"),
        left("tariff", 3),
        Column("PUE", 9),
        Column("g CO2/kWh", 10),
        Column("g CO2/Mtok", 11),
        left("notes", 12, aside=True),
    )
    rows = [
        (
            plain(cost.pool),
            f"{plain(cost.site)} ({plain(cost.zone)})",
            f"{cost.gpus:g} × {plain(cost.gpu)}",
            f"{cost.replicas:,}",
            "unknown" if cost.utilization is None else percent(cost.utilization),
            _break_even(cost),
            number(cost.tokens_per_hour),
            number(cost.watts),
            f"{cost.power_label} {age(now_s - cost.power_at_s)} ago",
            number(cost.usd_per_kwh),
            plain(cost.tariff),
            f"{cost.pue:.2f}",
            number(cost.grams_co2_per_kwh),
            number(cost.grams_co2_per_mtok),
            "; ".join(plain(note) for note in cost.notes),
        )
        for cost in report.local
    ]
    return Table("Pools: use and power", columns, rows, "No pool of ours has a known cost.")


def _break_even(cost: LocalCost) -> str:
    share = percent(cost.break_even_utilization)
    against = plain(cost.break_even_against)
    return f"{share} against {against}" if against and cost.break_even_utilization is not None else share
