"""Tables of where prices come from: feeds, rents, incidents, offers without a price, and what the figures rest on."""

from __future__ import annotations

from collections.abc import Iterator

from pricing.report import BLEND_INPUT_SHARE, LocalCost, PriceReport, RentPrice
from serving.price_report.tables import merit_order
from serving.report.tables import Column, Table, left
from serving.report.words import age, instant, number, percent, plain


def feeds(report: PriceReport, now_s: float) -> Table:
    """How each feed is doing."""
    columns = (
        left("feed"),
        left("kind", 3),
        Column("last good"),
        Column("next"),
        Column("polls", 5),
        Column("unchanged", 6),
        Column("errors", 1),
        Column("listings", 2),
        left("last error", 4, aside=True),
    )
    rows = [
        (
            plain(feed.feed),
            plain(feed.kind),
            "never" if feed.last_ok_s is None else f"{age(now_s - feed.last_ok_s)} ago",
            f"in {age(feed.next_poll_s - now_s)}" if feed.next_poll_s > now_s else "due",
            f"{feed.polls:,}",
            f"{feed.unchanged:,}",
            f"{feed.errors:,}",
            f"{feed.listings:,}",
            plain(feed.error),
        )
        for feed in report.feeds
    ]
    return Table("Feeds", columns, rows, "No feed is configured.")


def rents(report: PriceReport, now_s: float) -> Table:
    """GPUs that are or could be rented: those of a pool first, then the cheapest of each kind first."""
    columns = (
        left("GPU"),
        Column("listed"),
        Column("effective"),
        left("kind", 1),
        left("provider"),
        left("region", 3),
        left("pool", 2),
        left("product", 5),
        left("feed", 6),
        Column("age", 4),
    )
    rows = [
        (
            f"{rent.gpu_count:,} × {plain(rent.gpu)}",
            number(rent.usd_per_gpu_hour),
            number(rent.effective_usd_per_gpu_hour),
            "spot" if rent.spot else "on demand",
            plain(rent.provider),
            plain(rent.region),
            plain(rent.pool),
            plain(rent.product),
            plain(rent.feed),
            age(now_s - rent.observed_s),
        )
        for rent in sorted(report.rents, key=_rank)
    ]
    return Table("Rents, USD per GPU-hour", columns, rows, "No GPU is listed for rent.")


def _rank(rent: RentPrice) -> tuple[bool, str, float, str]:
    effective = rent.effective_usd_per_gpu_hour
    return (not rent.pool, rent.gpu, rent.usd_per_gpu_hour if effective is None else effective, rent.product)


def incidents(report: PriceReport) -> Table:
    """What a person should know of, the newest first."""
    columns = (left("at (UTC)"), left("what"), left("feed", 1), left("product"), left("text"))
    rows = [
        (instant(incident.at_s), incident.what, plain(incident.feed), plain(incident.product), plain(incident.text))
        for incident in sorted(report.incidents, key=lambda incident: -incident.at_s)
    ]
    return Table("Incidents", columns, rows, "No incident.")


def unpriced(report: PriceReport) -> Table:
    """Offers of cluster.yaml that are not on the market."""
    columns = (left("offer"), left("why it is not on the market"))
    rows = [(plain(offer.offer), plain(offer.reason)) for offer in report.unpriced]
    return Table("Without a price", columns, rows, "Every configured offer has a price.")


def assumptions(report: PriceReport) -> Table:
    """What the figures rest on: value, label, source, and of when it is."""
    columns = (left("of"), left("what"), Column("value"), left("label"), left("source"), left("as of (UTC)"))
    blend = f"{percent(BLEND_INPUT_SHARE)} input"
    rows = [("every offer", "blend", blend, "configured", "three input tokens to one output token", "-")]
    for cost in report.local:
        rows += [(plain(cost.pool), *row) for row in _of_pool(cost, report.as_of_s)]
    for offer in merit_order(report.offers):
        price = f"{number(offer.usd_per_mtok.blended)} USD/Mtok"
        row = ("blended price", price, offer.label, plain(offer.source), instant(offer.observed_s))
        rows.append((plain(offer.offer), *row))
    return Table("Assumptions: what these figures rest on", columns, rows)


def _of_pool(cost: LocalCost, as_of_s: float) -> Iterator[tuple[str, str, str, str, str]]:
    now, power_at = instant(as_of_s), instant(cost.power_at_s)
    counted = cost.utilization is not None
    mix_label, mix_source = (
        ("measured", f"tokens of {age(cost.window_s)}") if counted else ("modelled", "the usual blend")
    )
    yield "board power", f"{number(cost.watts)} W", cost.power_label, "meter, or the pool's profile", power_at
    yield "power price", f"{number(cost.usd_per_kwh)} USD/kWh", "listed", plain(cost.tariff), now
    yield "PUE", f"{cost.pue:.2f}", "configured", f"cluster.yaml, site {plain(cost.site)}", now
    yield "token mix", f"{percent(cost.input_share)} input", mix_label, mix_source, now
    if counted:
        yield "utilization", percent(cost.utilization), mix_label, mix_source, now
    yield "standard utilization", percent(cost.utilization_standard), "configured", "cluster.yaml", now
    for name, usd in cost.usd_per_gpu_hour.items():
        label, source = ("configured", "cluster.yaml") if name != "power" else (cost.power_label, "power × PUE × price")
        if name == "rent":
            label, source = "listed", "the pool's rental"
        yield plain(name), f"{number(usd)} USD/GPU-hour", label, source, power_at if name == "power" else now
    if cost.grams_co2_per_kwh is not None:
        yield "carbon intensity", f"{number(cost.grams_co2_per_kwh)} g/kWh", "listed", "feed of the site", now
    for note in cost.notes:
        yield "note", plain(note), "-", "-", now
