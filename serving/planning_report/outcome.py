"""What a plan comes to, in words. USD, replicas, GPUs; shares are fractions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta

from scheduler.planning.document import Plan, PoolPlan
from serving.report.words import count, listed, number, percent, plain

HOURS_PER_YEAR = 8760.0
SIZINGS = {
    "plan": "this plan",
    "mean": "sized for the mean",
    "p95": "sized for the 95th percentile",
    "peak": "sized for the peak",
    "newsvendor": "sized by the newsvendor's formula",
    "none": "own nothing",
    "now": "as it is now",
}
_LARGE = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))
_NAMES_MAX = 3
_DAYS_PER_YEAR = 365.25
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip


def money(usd: float) -> str:
    """An amount for a sentence: three significant digits, millions by name.

    >>> [money(usd) for usd in (31.234, 1234.4, 273_312.0, 999_999.0, 2.5e9, -0.5, 0.0)]
    ['$31.2', '$1,230', '$273,000', '$1.00 million', '$2.50 billion', '−$0.500', '$0']
    >>> money(float("inf"))
    '$?'
    """
    if not math.isfinite(usd):
        return "$?"
    rounded = abs(float(f"{usd:.2e}"))
    size, name = next((row for row in _LARGE if rounded >= row[0]), (1.0, ""))
    return f"{'−' if usd < 0.0 < rounded else ''}${number(rounded / size)}{' ' if name else ''}{name}"


def gpus(amount: float) -> str:
    """GPUs with their noun; parts of one as far as they matter.

    >>> [gpus(amount) for amount in (1, 8.0, 2.5, 12_000, 1234.5, 0.125)]
    ['1 GPU', '8 GPUs', '2.5 GPUs', '12,000 GPUs', '1,234.5 GPUs', '0.125 GPUs']
    """
    return f"{amount_of(amount)} {'GPU' if amount == 1 else 'GPUs'}"


def amount_of(amount: float) -> str:
    """A number of things that are mostly whole.

    >>> [amount_of(amount) for amount in (3.0, 2.25, 1e400)]
    ['3', '2.25', '?']
    """
    if not math.isfinite(amount):
        return "?"
    if abs(amount - round(amount)) < 1e-9:
        return f"{amount:,.0f}"
    return f"{amount:,.3g}" if abs(amount) < 100.0 else f"{amount:,.1f}"


def part(share: float) -> str:
    """A share of something in per cent, never 100 for less than all.

    >>> part(1.0), part(0.998), part(0.99999), part(0.42)
    ('100 %', '99.8 %', '99.9 %', '42 %')
    """
    if 0.995 <= share < 1.0:
        return f"{min(999, round(1000.0 * share)) / 10.0:.1f} %"
    return percent(share)


def replicas_of(replicas: Mapping[str, int], names_max: int = _NAMES_MAX) -> str:
    """How many replicas of what; candidates without any are left out.

    >>> replicas_of({"chat": 4, "code": 0, "mail": 1}), replicas_of({"chat": 0})
    ('4 × chat, 1 × mail', 'none')
    """
    return listed((f"{n:,} × {plain(name, 50)}" for name, n in replicas.items() if n), names_max) or "none"


def gpus_owned(plan: Plan) -> float:
    """GPUs to own in all."""
    return math.fsum(pool.gpus_owned for pool in plan.pools)


def saved_usd_per_hour(plan: Plan) -> float:
    """USD per hour less than buying everything from APIs."""
    return plan.all_api_usd_per_hour - plan.usd_per_hour.mean


def must_stay(plan: Plan) -> bool:
    """Whether some requests may not leave: no sizing owns nothing, or (stopped early) nothing else may serve them."""
    if plan.sizings:
        return all(one.name != "none" for one in plan.sizings)
    return any(one.there_usd_per_mtok is None for one in plan.switches)


def all_bought(plan: Plan) -> str:
    """What the plan is held against, in words."""
    return "buying from APIs all of what may leave" if must_stay(plan) else "buying everything from APIs"


def notices(plan: Plan) -> tuple[str, ...]:
    """What has to be said before anything else: that the plan is partial, and its warnings."""
    early = "PARTIAL: the plan was stopped early. What is here holds; what is missing was not reached."
    return (*((early,) if plan.partial else ()), *(_sentence(plain(text)) for text in plan.warnings))


def capital(text: str) -> str:
    """Text that begins a sentence.

    >>> capital("rent"), capital("")
    ('Rent', '')
    """
    return f"{text[:1].upper()}{text[1:]}"


def _sentence(text: str) -> str:
    return capital(text) + ("" if text.endswith((".", "!", "?")) else ".")


def lead(plan: Plan) -> str:
    """What to own, reserve, rent and buy, what that costs and what it saves, in one sentence."""
    mean, bought = plan.usd_per_hour.mean, all_bought(plan)
    told = f"{_deeds(plan)}: this costs {money(mean)} per hour ({money(mean * HOURS_PER_YEAR)} a year)"
    whole, saved = plan.all_api_usd_per_hour, saved_usd_per_hour(plan)
    if not math.isfinite(whole) or whole <= 0.0:
        return f"{told}; what APIs alone would cost is not known."
    if abs(saved) < 5e-4 * whole:
        is_all = plan.costs.api >= plan.costs.total > 0.0
        return f"{told}; nothing else is cheaper." if is_all else f"{told}, as much as {bought}."
    beside = f"{money(abs(saved))} per hour ({percent(abs(saved) / whole)})"
    if saved < 0.0:
        return f"{told}, {beside} MORE than {bought}."
    return f"{told} and saves {beside} against {bought}."


def _deeds(plan: Plan) -> str:
    """What to do: own, reserve, rent, buy."""
    own = {pool.name: pool.owned for pool in plan.pools}
    told = [f"Own {_of(plan, own)}" if any(own.values()) else "Own nothing"]
    reserve = {pool.name: pool.reserved for pool in plan.pools}
    rent = {pool.name: pool.rented_max for pool in plan.pools}
    if any(reserve.values()):
        told.append(f"reserve {_of(plan, reserve)}")
    if any(rent.values()):
        told.append(f"rent up to {_of(plan, rent)} by the hour")
    last = "buy nothing from APIs" if plan.costs.api <= 0.0 else "buy the rest from APIs"
    if not any((*own.values(), *reserve.values(), *rent.values())) and plan.costs.api > 0.0:
        last = "buy everything from APIs"
    return f"{', '.join(told)} and {last}"


def _of(plan: Plan, replicas: Mapping[str, int]) -> str:
    whole = math.fsum(replicas[pool.name] * pool.gpus_per_replica for pool in plan.pools)
    return f"{gpus(whole)} ({replicas_of(replicas)})"


def change(pool: PoolPlan) -> str:
    """What is to be done about what is owned already.

    Against ``owned_now``; "" where nothing changes.
    """
    more = pool.owned - pool.owned_now
    return f"+{more:,}" if more > 0 else f"−{-more:,}" if more < 0 else ""


def years(span: float) -> str:
    """A span in years.

    >>> years(1.0), years(2.5), years(0.25)
    ('1 year', '2.5 years', '0.25 years')
    """
    return f"{amount_of(span)} {'year' if span == 1 else 'years'}"


def span(years_long: float) -> str:
    """How long something takes, in months below a year.

    >>> span(1.76), span(0.31), span(0.001), span(1.0)
    ('1.8 years', '4 months', '1 month', '1 year')
    """
    if years_long < 1.0:
        return count(max(1, math.ceil(12.0 * years_long)), "month")
    return years(round(years_long, 1))


def month(made_at: str, years_later: float) -> str:
    """The month so many years after a time as ISO 8601 gives it; "" where it gives none.

    >>> month("2026-11-22T09:00:00Z", 1.76), month("yesterday", 1.0)
    ('August 2028', '')
    """
    try:
        at = datetime.fromisoformat(made_at) + timedelta(days=_DAYS_PER_YEAR * years_later)
    except (ValueError, OverflowError):
        return ""
    return f"{_MONTHS[at.month - 1]} {at.year}"


def made_from(plan: Plan) -> str:
    """What the plan was made from, and how its figures are to be read."""
    trace = plan.trace
    return (
        f"Planned for {years(plan.horizon_years)} from {count(trace.requests, 'request')} of {plain(trace.name, 80)}. "
        "USD per hour are means over the planned hours and the scenarios. Owned, reserved and rented money is amortized, "
        "energy and APIs are avoidable: only these are what dispatch weighs, request by request."
    )
