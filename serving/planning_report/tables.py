"""What to have and what it costs, as tables of text, for terminal and page alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scheduler.planning.document import Outcome, Plan, PoolPlan, Spread
from serving.planning_report.outcome import (
    HOURS_PER_YEAR,
    SIZINGS,
    amount_of,
    change,
    must_stay,
    replicas_of,
    saved_usd_per_hour,
)
from serving.report.tables import Column, Table, left
from serving.report.words import NONE, number, percent, plain

# Totals that differ by more are both shown: parts are of the planned hours, the mean is over all scenarios.
_SAME_SHARE = 0.005
# From here on a difference is told as a multiple.
_MANY_TIMES = 9.0


def pools(plan: Plan) -> Table:
    """Each candidate: how many replicas to own, to reserve and to rent, and how full they would be."""
    columns = (
        left("candidate"),
        left("pool", 6),
        left("model", 8),
        left("a replica", 5),
        Column("owned now", 4),
        Column("own"),
        Column("change", 3),
        Column("reserve"),
        Column("rent up to"),
        Column("GPUs owned", 7),
        Column("utilization", 1),
        Column("owning pays from", 2),
    )
    rows = [
        (
            plain(pool.name),
            plain(pool.pool) if pool.pool != pool.name else "",
            plain(pool.model),
            _replica(pool),
            f"{pool.owned_now:,}",
            f"{pool.owned:,}",
            change(pool),
            f"{pool.reserved:,}",
            f"{pool.rented_max:,}",
            amount_of(pool.gpus_owned),
            percent(pool.utilization) if pool.owned + pool.reserved else NONE,
            _pays_from(pool),
        )
        for pool in plan.pools
    ]
    empty = "No pool and no candidate was planned."
    return Table("What to own, reserve and rent, in replicas", columns, rows, empty)


def _replica(pool: PoolPlan) -> str:
    gpu = plain(pool.gpu)
    has_count = gpu.partition("x")[0].isdigit()  # 4xH100
    return gpu if has_count else f"{amount_of(pool.gpus_per_replica)} × {gpu}"


def _pays_from(pool: PoolPlan) -> str:
    share = pool.breakeven_utilization
    return NONE if share is None else "never" if share > 1.0 else f"{percent(share)} use"


def prices(plan: Plan) -> Table:
    """What a replica of each candidate costs, and what it can do."""
    columns = (
        left("candidate"),
        Column("owned"),
        Column("reserved"),
        Column("rented"),
        Column("tokens/s at most", 2),
    )
    rows = [
        (
            plain(pool.name),
            number(pool.owned_usd_per_hour),
            number(pool.reserved_usd_per_hour),
            number(pool.rented_usd_per_hour),
            number(pool.tokens_per_s_max),
        )
        for pool in plan.pools
    ]
    return Table("What a replica costs, USD per hour; -: not to be had", columns, rows)


def costs(plan: Plan) -> Table:
    """What the plan costs, part by part, and what buying everything would."""
    columns = (
        left("what"),
        left("kind", 2),
        Column("USD per hour"),
        Column("share", 1),
        Column("USD per year", 3),
    )
    parts, whole = plan.costs, plan.costs.total
    given = (
        ("owned GPUs", "amortized", parts.owned),
        ("reserved GPUs", "amortized", parts.reserved),
        ("GPUs rented by the hour", "amortized", parts.rented),
        ("bought, or waiting, until those start", "avoidable", parts.starting),
        ("energy", "avoidable", parts.energy),
        ("APIs", "avoidable", parts.api),
    )
    rows = [
        (name, kind, number(usd), percent(usd / whole) if whole > 0.0 else NONE, _year(usd))
        for name, kind, usd in given
        if usd
    ]
    rows.append(("all of it", "", number(whole), "", _year(whole)))
    mean = plan.usd_per_hour.mean
    if abs(mean - whole) > _SAME_SHARE * abs(whole):
        rows.append(("all of it, mean of the scenarios", "", number(mean), "", _year(mean)))
    all_api = plan.all_api_usd_per_hour
    if math.isfinite(all_api):
        saved = saved_usd_per_hour(plan)
        whose = "all of what may leave, from APIs" if must_stay(plan) else "everything from APIs"
        rows.append((whose, "", number(all_api), "", _year(all_api)))
        word = "saved" if saved >= 0.0 else "paid more"
        part = percent(abs(saved) / all_api) if all_api > 0.0 else NONE
        rows.append((word, "", number(abs(saved)), part, _year(abs(saved))))
    return Table("What it costs", columns, rows)


def _year(usd_per_hour: float) -> str:
    usd = usd_per_hour * HOURS_PER_YEAR
    return f"{usd:,.0f}" if math.isfinite(usd) and abs(usd) >= 100.0 else number(usd)


def sizings(plan: Plan) -> Table:
    """Other ways to size, on the same hours, the cheapest first."""
    columns = (
        left("sizing"),
        Column("GPUs owned"),
        *_SPREAD,
        Column("against the plan"),
        left("replicas", 3),
    )
    mean = plan.usd_per_hour.mean
    rows = [
        (
            SIZINGS.get(sizing.name, plain(sizing.name)),
            amount_of(sizing.gpus),
            *_spread(sizing.usd_per_hour),
            against(sizing.usd_per_hour.mean, mean) if sizing.name != "plan" else "",
            replicas_of(sizing.replicas),
        )
        for sizing in sorted(plan.sizings, key=lambda sizing: sizing.usd_per_hour.mean)
    ]
    return Table("Other ways to size, USD per hour on the same hours", columns, rows)


def what_if(outcomes: Sequence[Outcome]) -> Table:
    """What would be best if something else held."""
    columns = (
        left("if"),
        Column("GPUs to own"),
        *_SPREAD,
        Column("of all-API money still paid", 1),
        left("replicas", 3),
        left("note", 4, aside=True),
    )
    rows = [
        (
            plain(outcome.name),
            amount_of(outcome.gpus),
            *_spread(outcome.usd_per_hour),
            percent(outcome.api_share),
            replicas_of(outcome.replicas),
            plain(outcome.note) if outcome.note != outcome.name else "",
        )
        for outcome in outcomes
    ]
    return Table("What if: the best plan then, USD per hour", columns, rows, "No what-if was asked for.")


_SPREAD = (
    Column("mean"),
    Column("10th percentile", 2),
    Column("median", 6),
    Column("90th percentile", 2),
    Column("worst tenth", 5),
)


def _spread(spread: Spread) -> tuple[str, ...]:
    return tuple(number(usd) for usd in (spread.mean, spread.p10, spread.p50, spread.p90, spread.cvar))


def against(usd: float, base_usd: float) -> str:
    """By how much something differs from what it is compared with.

    >>> against(11.0, 10.0), against(9.0, 10.0), against(10.0, 10.0), against(1.0, 0.0), against(530.0, 10.0)
    ('+10 %', '−10 %', 'the same', '-', '53.0 ×')
    """
    if not base_usd > 0.0 or not math.isfinite(usd):
        return NONE
    share = usd / base_usd - 1.0
    if abs(share) < 5e-4:
        return "the same"
    if share >= _MANY_TIMES:
        return f"{number(usd / base_usd)} ×"
    return f"{'+' if share > 0.0 else '−'}{percent(abs(share))}"
