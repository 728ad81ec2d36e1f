"""The sentence below each figure on money and risk, computed from the plan."""

from __future__ import annotations

import math

from scheduler.planning.document import Finalist, Plan, Sensitivity
from serving.planning_report.outcome import (
    all_bought,
    amount_of,
    capital,
    gpus,
    gpus_owned,
    money,
    month,
    span,
    years,
)
from serving.planning_report.supply_findings import missing
from serving.report.words import count, listed, number, percent, plain, short

_COMPARED = {
    "mean": "sized for the mean",
    "p95": "for the 95th percentile",
    "peak": "for the peak",
    "newsvendor": "by the newsvendor's formula",
    "now": "as it is now",
}
# Of all that the plan costs: what differs by less is the same.
_SAME_SHARE = 5e-4
_ENGINES = {"kernel": "the compiled kernel", "exact": "the exact engine"}


def of_owned(plan: Plan) -> str:
    """What the chosen number of GPUs costs, how sure that is, and what other sizings would."""
    if not plan.owned_costs:
        return missing(plan, "No number of GPUs to own was compared.")
    spread = plan.usd_per_hour
    owned = gpus_owned(plan)
    told = (
        f"With {gpus(owned) if owned else 'no GPU'} owned, everything costs {money(spread.mean)} per hour on average, and "
        f"between {money(spread.p10)} and {money(spread.p90)} in eight of ten scenarios"
    )
    best = min(plan.owned_costs, key=lambda cost: cost.usd_per_hour.mean)
    if best.usd_per_hour.mean < 0.995 * spread.mean and best.gpus != owned:
        told += f"; {gpus(best.gpus)} would have the lowest mean, {money(best.usd_per_hour.mean)}"
    others = {sizing.name: sizing for sizing in plan.sizings}
    beside = [
        (f"{words} ({gpus(others[name].gpus)})", money(others[name].usd_per_hour.mean))
        for name, words in _COMPARED.items()
        if name in others
    ]
    if not beside:
        return f"{told}."
    (first, usd), *rest = beside
    told += f"; {first} it would cost {usd}" + "".join(f", {words} {usd}" for words, usd in rest)
    return f"{told}."


def of_tornado(plan: Plan) -> str:
    """Which assumption matters most, and whether any of them changes what to own."""
    found = by_swing(plan)
    if not found:
        return missing(plan, "No assumption was moved.")
    first = found[0]
    if not first.swing_usd_per_hour > 0.0:
        return f"None of {count(len(found), 'assumption')} that were moved changes the cost."
    low, high = ends(first)
    unit = f" {plain(first.unit, 40)}" if first.unit else ""
    told = (
        f"{capital(plain(first.assumption, 80))} matters most: between {low} and {high}{unit} the plan costs "
        f"{money(first.usd_per_hour_low)} to {money(first.usd_per_hour_high)} per hour"
    )
    moved = [one for one in found if one.gpus_low != one.gpus_high]
    if not moved:
        return f"{told}; none of {count(len(found), 'assumption')} changes how many GPUs are best to own."
    most = max(moved, key=lambda one: abs(one.gpus_high - one.gpus_low))
    return (
        f"{told}; {len(moved):,} of {count(len(found), 'assumption')} would change how many GPUs to own, most "
        f"{plain(most.assumption, 80)} (from {amount_of(most.gpus_low)} to {gpus(most.gpus_high)})."
    )


def by_swing(plan: Plan) -> list[Sensitivity]:
    """Assumptions, those that move the cost most first."""
    return sorted(plan.sensitivity, key=lambda one: (-one.swing_usd_per_hour, one.assumption))


def ends(one: Sensitivity) -> tuple[str, str]:
    """The two values that an assumption was moved to; what is a part of something in per cent."""
    is_share = one.unit.startswith(("of ", "share", "fraction"))
    low, high = (_exact(100.0 * value if is_share else value) for value in (one.low, one.high))
    return (f"{low} %", f"{high} %") if is_share else (low, high)


def _exact(value: float) -> str:
    """Four significant digits without zeros behind them."""
    return f"{float(f'{value:.4g}'):,.12g}".replace("-", "−")


def of_npv(plan: Plan) -> str:
    """What is paid at the start, when it is back, and what it comes to."""
    npv = plan.npv
    if npv is None or not npv.years:
        why = (
            "Nothing is to be owned, so that nothing has to pay back."
            if not gpus_owned(plan)
            else "It was not computed."
        )
        return missing(plan, why)
    life = max(year.at_years for year in npv.years)
    told = f"{money(-npv.years[0].cash_usd)} at the start"
    told += " never pays back" if npv.breakeven_years is None else f" is paid back after {span(npv.breakeven_years)}"
    worth = "is worth" if npv.npv_usd >= 0.0 else "loses"
    told += (
        f"; over {years(life)} at {percent(npv.rate)} a year it {worth} {money(abs(npv.npv_usd))} of today's money "
        f"against {all_bought(plan)}."
    )
    when = month(plan.made_at, npv.breakeven_years) if npv.breakeven_years is not None else ""
    return f"{told} It breaks even in {when}." if when else told


def of_finalists(plan: Plan) -> str:
    """What the real policy paid, beside what the search expected."""
    if not plan.finalists:
        return missing(plan, "No plan was played by the real policy.")
    chosen = sorted((one for one in plan.finalists if one.is_chosen), key=lambda one: one.engine, reverse=True)
    if not chosen:
        return f"{count(len(plan.finalists), 'plan')} played by the real policy; none of them was chosen."
    whole = plan.usd_per_hour.mean
    told = f"The chosen plan, played by the real policy: {'; '.join(_played(one, whole) for one in chosen)}"
    others = sum(not one.is_chosen for one in plan.finalists)
    return (
        f"{told}; {count(others, 'other plan')} {'was' if others == 1 else 'were'} played too."
        if others
        else f"{told}."
    )


def _played(one: Finalist, whole_usd_per_hour: float) -> str:
    """Energy and APIs as played, and how far that is from what was searched, as part of what the plan costs in all."""
    told = f"{_ENGINES[one.engine]} paid {money(one.played_usd_per_hour)} per hour for energy and APIs over "
    told += f"{number(one.hours)} h"
    more = one.played_usd_per_hour - one.searched_usd_per_hour
    if abs(more) < _SAME_SHARE * whole_usd_per_hour:
        return f"{told}, as searched"
    beside = f" ({percent(abs(more) / whole_usd_per_hour)} of the whole cost)" if whole_usd_per_hour > 0.0 else ""
    return f"{told}, {money(abs(more))} {'more' if more > 0.0 else 'less'} than searched{beside}"


def of_switches(plan: Plan) -> str:
    """How many kinds of requests are cheaper at home, and which is the closest to a change."""
    if not plan.switches:
        return missing(plan, "No kind of request has both a model here and one elsewhere.")
    both = [one for one in plan.switches if one.here_usd_per_mtok is not None and one.there_usd_per_mtok is not None]
    if not both:
        return "For no kind of request is there a price both here and elsewhere."
    cheaper = [one for one in both if (one.here_usd_per_mtok or 0.0) < (one.there_usd_per_mtok or 0.0)]
    if len(both) == 1:
        told = f"{short(both[0].profile)} is {'cheaper' if cheaper else 'not cheaper'} here, everything included"
    else:
        told = (
            f"{len(cheaper):,} of {len(both):,} kinds of requests {'is' if len(cheaper) == 1 else 'are'} cheaper here"
        )
        told += ", everything included"
    near = [
        (abs(math.log(one.crossing_mtok_per_day / one.mtok_per_day)), one)
        for one in both
        if one.crossing_mtok_per_day is not None and min(one.crossing_mtok_per_day, one.mtok_per_day) > 0.0
    ]
    if not near:
        return f"{told}."
    _, closest = min(near, key=lambda pair: (pair[0], pair[1].profile))
    return (
        f"{told}; closest to a change is {short(closest.profile)}, with {number(closest.mtok_per_day)} million tokens a day, "
        f"where an own replica pays from {number(closest.crossing_mtok_per_day)} million."
    )


def of_what_if(plan: Plan) -> str:
    """Which what-if changes the cost most."""
    if not plan.what_if:
        return missing(plan, "No what-if was asked for.")
    mean = plan.usd_per_hour.mean
    most = max(plan.what_if, key=lambda one: abs(one.usd_per_hour.mean - mean))
    change = most.usd_per_hour.mean - mean
    told = f"With {plain(most.name, 120)} the best plan costs {money(most.usd_per_hour.mean)} per hour"
    told += (
        f", {money(abs(change))} {'more' if change > 0 else 'less'} than this one" if change else ", as this one does"
    )
    told += f", and owns {gpus(most.gpus)}, where this one owns {amount_of(gpus_owned(plan))}"
    return f"{told}." if len(plan.what_if) == 1 else f"{told}; none of {len(plan.what_if):,} what-ifs changes more."


def of_assumptions(plan: Plan) -> str:
    """How much of what is taken for granted was measured."""
    labels = [one.label for one in plan.assumptions]
    if not labels:
        return missing(plan, "No assumption is listed.")
    parts = [
        f"{labels.count(label):,} {label}"
        for label in ("measured", "calibrated", "modelled", "assumed")
        if label in labels
    ]
    return f"Of {count(len(labels), 'figure')} that the plan rests on: {listed(parts)}."
