"""The sentence below each figure on load and supply, computed from the plan."""

from __future__ import annotations

import math

import numpy as np

from scheduler.planning.document import Plan, Screening, Supply, Week
from serving.planning_report.background import by_merit
from serving.planning_report.outcome import money, part
from serving.planning_report.stack import KINDS, WORDS, carried, source
from serving.report.words import age, count, number, percent, short

_POOLS_MAX = 3
_DAY_S = 86_400.0
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_NEGLIGIBLE = 0.0005
# A load whose least hour has so much of its busiest is level.
_LEVEL = 0.98


def missing(plan: Plan, why: str) -> str:
    """Why there is no figure."""
    return "Not reached: the plan was stopped before this." if plan.partial else why


def of_load(plan: Plan) -> str:
    """Who carries the work of each pool."""
    if not plan.load_duration:
        return missing(plan, "No pool has any load.")
    told = []
    for duration in plan.load_duration[:_POOLS_MAX]:
        shares = carried(duration)
        parts = [f"{WORDS[kind]} {part(shares[kind])}" for kind in KINDS if shares.get(kind, 0.0) > _NEGLIGIBLE]
        told.append(f"of {short(duration.pool)}, {', '.join(parts)}" if parts else f"{short(duration.pool)} has none")
    return f"Who carries the work, if base load comes first: {'; '.join(told)}{_more(len(plan.load_duration))}."


def of_screening(plan: Plan) -> str:
    """From which use on which source is the cheapest."""
    if not plan.screening:
        return missing(plan, "No pool has anything to choose between.")
    told = [_screened(one) for one in plan.screening[:_POOLS_MAX]]
    return (
        f"The cheapest source of one more replica, by the share of time in which it is used: {'; '.join(told)}"
        f"{_more(len(plan.screening))}."
    )


def _screened(screening: Screening) -> str:
    changes = [(share, name) for share, name in screening.crossings if 0.0 < share < 1.0]
    first = _cheapest(screening, 0.5 * min((share for share, _ in changes), default=1.0))
    if not first:
        return f"{short(screening.pool)} has none"
    if not changes:
        return f"for {short(screening.pool)} it is {source(first)} throughout"
    steps = ", ".join(f"then {source(name)} from {percent(share)}" for share, name in changes)
    return f"for {short(screening.pool)} it is first {source(first)}, {steps}"


def _cheapest(screening: Screening, share: float) -> str:
    """The name of the cheapest line at this share of time; "" without lines."""
    known = [(float(np.interp(share, curve.x, curve.y)), name) for name, curve in screening.lines if curve.x]
    return min(known, default=(0.0, ""))[1]


def of_week(week: Week) -> str:
    """How many replicas of a pool should run, when it is busiest, and what APIs take."""
    name, low, high = short(week.pool), min(week.replicas, default=0), max(week.replicas, default=0)
    run = f"always {high:,}" if low == high else f"{low:,} to {high:,}"
    told = f"Of {name}, {run} {'replica' if high == 1 else 'replicas'} should run"
    whole, api, most = math.fsum(week.load), math.fsum(week.api), max(week.load, default=0.0)
    if not whole > 0.0:
        return f"{told}; nothing is asked of it."
    if min(week.load) > _LEVEL * most:
        told += f"; its load is level, with work for {number(whole / len(week.load))} of them"
    else:
        place = week.load.index(most)
        hour, day = place % 24, day_of(week, place)
        when = f"from {hour:02}:00 UTC on {day}s" if week.from_monday else f"in hour {hour} of {day}"
        told += f"; it is busiest {when}, with work for {number(most)} of them"
    if api > _NEGLIGIBLE * whole:
        told += f", and APIs take {percent(api / whole)} of its work"
    return f"{told}.{_seen(week)}"


def day_of(week: Week, place: int) -> str:
    """The day of an hour of the week: its name where the calendar is known, else its number from the trace's beginning."""
    day = place // 24
    return _DAYS[day % 7] if week.from_monday else f"day {day + 1}"


def _seen(week: Week) -> str:
    if week.days_seen >= 7.0:
        return ""
    return f" Only {age(week.days_seen * _DAY_S)} of the week were seen; the rest is taken to be like them."


def of_merit(plan: Plan) -> str:
    """Where the next token is cheapest, and where APIs begin."""
    steps = by_merit(plan)
    if not steps:
        return missing(plan, "Nothing has a price.")
    first = steps[0]
    told = f"The next million tokens is cheapest at {_supply(first)}"
    if first.amortized_usd_per_mtok is not None:
        told += f" ({money(first.amortized_usd_per_mtok)} with everything)"
    api = next((step for step in steps if step.kind == "api"), None)
    if api is None:
        return f"{told}; no API may serve any of this."
    if api is first:
        rest = [step for step in steps if step.kind != "api"]
        return f"{told}; ours begin at {_supply(rest[0])}." if rest else f"{told}; nothing is ours."
    return f"{told}; APIs begin at {_supply(api)}."


def _supply(supply: Supply) -> str:
    kind = "an API" if supply.kind == "api" else supply.kind
    return f"{short(supply.name)} ({kind}) for {money(supply.avoidable_usd_per_mtok)}"


def of_energy(plan: Plan) -> str:
    """A year's energy and carbon."""
    use = plan.energy
    if use is None:
        return missing(plan, "No energy is used here: nothing is to be owned, reserved or rented.")
    kwh, tonnes = use.kwh_per_year, (use.kg_co2_per_year or 0.0) / 1000.0
    amount = f"{number(kwh / 1000.0)} MWh" if kwh >= 10_000.0 else f"{number(kwh)} kWh"
    told = f"A year takes {amount} for {money(use.usd_per_year)}, {number(use.joules_per_token)} J a token"
    if use.kg_co2_per_year is None:
        return f"{told}; how much carbon that is, is not known."
    carbon = f"{number(tonnes)} t" if tonnes >= 10.0 else f"{number(1000.0 * tonnes)} kg"
    grid = f" at {number(use.grams_co2_per_kwh)} g per kWh" if use.grams_co2_per_kwh is not None else ""
    return f"{told}, and {carbon} of CO2{grid}."


def _more(pools: int) -> str:
    rest = pools - _POOLS_MAX
    return f"; and {count(rest, 'more pool')}" if rest > 0 else ""
