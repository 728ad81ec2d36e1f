"""The sentence below each figure, computed from the data. Names in it come from outside and are made harmless here."""

from __future__ import annotations

from collections.abc import Sequence

from pricing.report import LocalCost, OfferPrice, PriceReport
from serving.price_report.history import Summary
from serving.report.words import age, count, day, instant, number, percent, short


def of_prices(summaries: Sequence[Summary], until_s: float, what: str) -> str:
    """What changed most among prices over time. ``what`` names one of them: "offer", "rent"."""
    if not summaries:
        return f"No {what} has a price history yet."
    start_s = min(summary.start_s for summary in summaries)
    movers = [summary for summary in summaries if summary.largest is not None]
    if movers:
        told = _largest(movers, len(summaries), what)
    else:
        cheapest = min(summaries, key=lambda summary: summary.mean)
        told = f"{_name(cheapest)} cost {number(cheapest.mean)} {cheapest.unit} throughout"
        if len(summaries) > 1:
            told = f"None of {count(len(summaries), what)} changed its price; the cheapest, {told}"
    told += f" (from {day(start_s)} to {day(until_s)})." if day(start_s) != day(until_s) else f" ({day(until_s)})."
    gap = max(summaries, key=lambda summary: summary.gap_s)
    if gap.gap_s > 0:
        told += f" {_name(gap)} had no good price for {age(gap.gap_s)}"
        told += ", longer than any other" if len(summaries) > 1 else ""
        told += "; a cross marks where a price was lost."
    return told


def _largest(movers: Sequence[Summary], of: int, what: str) -> str:
    changes = sum(summary.changes for summary in movers)
    mover = max(movers, key=lambda summary: summary.largest.size if summary.largest else 0.0)
    change = mover.largest
    assert change is not None  # noqa: S101 - movers have one
    verb = "rose" if change.after > change.before else "fell"
    by = f" by {percent(abs(change.after / change.before - 1.0))}" if change.before > 0 and change.after > 0 else ""
    told = f"{_name(mover)} {verb}{by} on {day(change.at_s)}, from {number(change.before)} to {number(change.after)}"
    told += f" {mover.unit}"
    if changes > 1:
        told += f": the largest of {count(changes, 'change')}"
    still = of - len(movers)
    if still:
        told += f"; {still:,} of {count(of, what)} did not change"
    return told


def of_grid(power: Sequence[Summary], carbon: Sequence[Summary]) -> str:
    """The range of power prices and of carbon intensity."""
    told = [
        _range(summaries, what) for summaries, what in ((power, "Power"), (carbon, "Carbon intensity")) if summaries
    ]
    return " ".join(told) or "No feed of power prices or of carbon intensity has a history."


def _range(summaries: Sequence[Summary], what: str) -> str:
    widest = max(summaries, key=lambda summary: summary.high - summary.low)
    if widest.high == widest.low:
        rest = f" and {count(len(summaries) - 1, 'other')}" if len(summaries) > 1 else ""
        return f"{what} of {_name(widest)}{rest} stayed at {number(widest.low)} {widest.unit}."
    return (
        f"{what} of {_name(widest)} lay between {number(widest.low)} ({instant(widest.low_at_s)}) and "
        f"{number(widest.high)} ({instant(widest.high_at_s)}) {widest.unit}, {number(widest.mean)} on average."
    )


def of_stack(local: Sequence[LocalCost]) -> str:
    """The dearest pool, its largest part, and the cheapest pool beside it."""
    if not local:
        return "No pool of ours has a known cost."
    totals = {cost.pool: sum(cost.usd_per_gpu_hour.values()) for cost in local}
    dearest = max(local, key=lambda cost: totals[cost.pool])
    told = f"A GPU-hour of {_short(dearest.pool)} costs {number(totals[dearest.pool])} USD"
    parts = {name: usd for name, usd in dearest.usd_per_gpu_hour.items() if usd > 0}
    if parts:
        name = max(parts, key=lambda part: parts[part])
        told += f", of which {_short(name)} is {percent(parts[name] / sum(parts.values()))}"
    cheapest = min(local, key=lambda cost: totals[cost.pool])
    if cheapest is not dearest:
        told += f"; {_short(cheapest.pool)} is the cheapest of {count(len(local), 'pool')} at {number(totals[cheapest.pool])}"
    return told + "."


def of_bases(report: PriceReport) -> str:
    """The cheapest next token of ours, what it costs with everything, and the cheapest that could be bought."""
    bought = cheapest_bought(report)
    beside = f"{_short(bought.offer)} at {number(bought.usd_per_mtok.blended)} USD/Mtok" if bought else ""
    known = [cost for cost in report.local if cost.bases]
    if not known:
        return (
            f"The cheapest bought offer is {beside}; no pool of ours has a known cost."
            if bought
            else "Nothing has a price."
        )
    with_avoidable = [cost for cost in known if "avoidable" in cost.bases]
    best = min(with_avoidable or known, key=lambda cost: min(price.blended for price in cost.bases.values()))
    parts = [
        f"{name} {number(best.bases[name].blended)}"
        for name in ("avoidable", "usage", "allocation")
        if name in best.bases
    ]
    told = f"{_short(best.pool)}, blended, in USD/Mtok: {', '.join(parts)}"
    if not bought:
        return f"{told}; nothing is bought."
    told += f"; the cheapest bought offer is {beside}"
    price = bought.usd_per_mtok.blended
    full = best.bases.get("allocation")
    if full is not None and full.blended > 0 and price > 0:
        ratio = full.blended / price
        told += f", so all that {_short(best.pool)} costs, at the use it has, is {number(ratio)} × that"
    return told + "."


def cheapest_bought(report: PriceReport) -> OfferPrice | None:
    """The cheapest offer by blended price that is not ours."""
    bought = [offer for offer in report.offers if offer.kind == "api"]
    return min(bought, key=lambda offer: offer.usd_per_mtok.blended, default=None)


def _name(summary: Summary) -> str:
    return _short(summary.name)


def _short(name: str) -> str:
    return short(name, 60)
