"""Every figure of the page, with its finding and its alternative text.

A figure without data has no drawing: its finding says why. What is a table only has a finding all the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar
from xml.etree.ElementTree import Element

from matplotlib.figure import Figure as Canvas

from scheduler.planning.document import Plan, PoolPlan, Spread
from serving.planning_report import background, findings, merit, money, panels, supply_findings, tables, week
from serving.planning_report.money import Mark
from serving.planning_report.outcome import SIZINGS, gpus_owned
from serving.report.drawing import svg
from serving.report.page import Figure
from serving.report.tables import Table
from serving.report.words import listed, plain, short

_POOLS_MAX = 24
_OWNED_IN = 3.9
_NPV_IN = 3.2

T = TypeVar("T")


def _paged(
    name: str, alt: str, parts: Sequence[T], size: int, height_in: Callable[[int], float],
    draw: Callable[[Canvas, Sequence[T]], None],
) -> list[Element]:  # fmt: skip
    """Drawings of so many parts each, so that none is higher than a page."""
    found = []
    for place, start in enumerate(range(0, len(parts), size), 1):
        page = parts[start : start + size]
        own = name if place == 1 else f"{name}-{place}"
        found.append(svg(own, alt, height_in(len(page)), partial(_drawn, draw, page)))
    return found


def _drawn(draw: Callable[[Canvas, T], None], what: T, canvas: Canvas) -> None:
    draw(canvas, what)


def _figure(name: str, title: str, finding: str, drawings: Sequence[Element], *behind: Table) -> Figure:
    first = drawings[0] if drawings else None
    return Figure(name, title, finding, first, tuple(table for table in behind if table.rows), tuple(drawings[1:]))


def _not_drawn(names: Sequence[str], drawn_max: int) -> str:
    rest = names[drawn_max:]
    return f" Not drawn: {listed(rest)}." if rest else ""


def owned(plan: Plan) -> Figure:
    """Cost against the number of GPUs to own."""
    finding = findings.of_owned(plan)
    costs = [cost for cost in plan.owned_costs if _is_known(cost.usd_per_hour)]
    drawings = []
    if costs:
        alt = f"A line with a band, and marks on it. {finding}"
        drawings = [
            svg("owned", alt, _OWNED_IN, lambda canvas: money.draw_owned(canvas, costs, marks(plan), _OWNED_IN))
        ]
    return _figure("owned", "How many GPUs to own", finding, drawings, tables.sizings(plan))


def _is_known(spread: Spread) -> bool:
    """Whether it is a cost at all: what has to stay here and does not fit costs more than any money."""
    return all(math.isfinite(usd) for usd in (spread.mean, spread.p10, spread.p50, spread.p90, spread.cvar))


def marks(plan: Plan) -> list[Mark]:
    """The sizings to mark; those that are the same have one mark with all their names."""
    found = {"plan": (gpus_owned(plan), plan.usd_per_hour.mean)}
    found.update({one.name: (one.gpus, one.usd_per_hour.mean) for one in plan.sizings if one.name != "plan"})
    names: dict[tuple[float, float], list[str]] = {}
    for name, place in found.items():
        if math.isfinite(place[1]):
            names.setdefault(place, []).append(name)
    return [Mark(_mark_name(same), *place) for place, same in names.items()]


def _mark_name(same: Sequence[str]) -> str:
    if len(same) == 1:
        return _FLAGS.get(same[0]) or short(same[0], 20)
    return ", ".join("this plan" if name == "plan" else short(name, 12) for name in same)


_FLAGS = {
    **SIZINGS, "mean": "for the mean", "p95": "for the 95th perc.", "peak": "for the peak", "newsvendor": "newsvendor",
    "now": "as now",
}  # fmt: skip


def load(plan: Plan) -> Figure:
    """Load-duration curves with what carries them."""
    finding = supply_findings.of_load(plan)
    drawn = plan.load_duration[:_POOLS_MAX]
    have = {pool.name: _have(pool) for pool in plan.pools}
    alt = f"Stacked areas below a falling curve, a panel for each pool. {finding}"
    drawings = _paged(
        "load", alt, drawn, panels.PANELS_MAX, panels.height_with_legend_in, partial(panels.draw_load, have)
    )
    finding += _not_drawn([one.pool for one in plan.load_duration], _POOLS_MAX)
    return _figure("load", "Load-duration curve, and who carries it", finding, drawings)


def _have(pool: PoolPlan) -> str:
    parts = (("own", pool.owned), ("reserve", pool.reserved), ("rent up to", pool.rented_max))
    return ", ".join(f"{word} {n:,}" for word, n in parts if n) or "own nothing"


def screening(plan: Plan) -> Figure:
    """Screening curves."""
    finding = supply_findings.of_screening(plan)
    drawn = plan.screening[:_POOLS_MAX]
    alt = f"Lines, a panel for each pool. {finding}"
    drawings = _paged("screening", alt, drawn, panels.PANELS_MAX, panels.height_in, panels.draw_screening)
    finding += _not_drawn([one.pool for one in plan.screening], _POOLS_MAX)
    return _figure(
        "screening", "Screening curves: what one more replica costs, by how much it is used", finding, drawings
    )


def weeks(plan: Plan) -> list[Figure]:
    """A map for each pool; the last finding names the pools that have none."""
    if not plan.weeks:
        return [
            Figure("week", "The week, hour by hour", supply_findings.missing(plan, "No pool has any load."), None, ())
        ]
    found = []
    for place, one in enumerate(plan.weeks[:_POOLS_MAX]):
        name = "week" if not place else f"week-{place + 1}"
        finding = supply_findings.of_week(one)
        alt = f"A table of days and hours. {finding}"
        drawing = svg(name, alt, week.height_in(one), partial(_drawn, week.draw_week, one))
        found.append(Figure(name, f"The week of {short(one.pool, 40)}, hour by hour", finding, drawing, ()))
    rest = _not_drawn([one.pool for one in plan.weeks], _POOLS_MAX)
    return [*found[:-1], found[-1]._replace(finding=found[-1].finding + rest)]


def merit_order(plan: Plan) -> Figure:
    """What the next token costs, supply by supply."""
    finding = supply_findings.of_merit(plan)
    steps = background.by_merit(plan)
    drawn = steps[: merit.STEPS_MAX]
    drawings = []
    if drawn:
        alt = f"Bars, the cheapest first. {finding}"
        drawings = [svg("merit", alt, merit.height_in(drawn), lambda canvas: merit.draw_merit(canvas, drawn))]
    finding += _not_drawn([step.name for step in steps], merit.STEPS_MAX)
    return _figure("merit", "Merit order", finding, drawings, background.merit_order(plan))


def tornado(plan: Plan) -> Figure:
    """What each assumption does to the cost."""
    finding = findings.of_tornado(plan)
    found = findings.by_swing(plan)
    drawn = found[: money.TORNADO_MAX]
    drawings = []
    if drawn:
        height_in = 1.15 + 0.4 * len(drawn)
        alt = f"Bars to both sides of the cost of the plan, the longest first. {finding}"
        base = plan.usd_per_hour.mean
        drawings = [svg("tornado", alt, height_in, lambda canvas: money.draw_tornado(canvas, drawn, base, height_in))]
    finding += _not_drawn([plain(one.assumption) for one in found], money.TORNADO_MAX)
    return _figure("tornado", "Which assumptions matter", finding, drawings)


def npv(plan: Plan) -> Figure:
    """What owning is worth over its life."""
    finding = findings.of_npv(plan)
    drawings = []
    if (known := plan.npv) is not None and known.years:
        alt = f"Bars by year, and a line of their sum. {finding}"
        drawings = [svg("npv", alt, _NPV_IN, lambda canvas: money.draw_npv(canvas, known, _NPV_IN))]
    return _figure("npv", "What owning is worth over its life", finding, drawings)


def energy(plan: Plan) -> Figure:
    """Energy and carbon of a year."""
    return _figure("energy", "Energy and carbon", supply_findings.of_energy(plan), (), background.energy(plan))


def finalists(plan: Plan) -> Figure:
    """What was searched beside what was played."""
    finding = findings.of_finalists(plan)
    return _figure("finalists", "Played by the real policy", finding, (), background.finalists(plan))


def switches(plan: Plan) -> Figure:
    """Models here and elsewhere, and new workloads."""
    behind = [background.switches(plan), *([background.workloads(plan)] if plan.workloads else [])]
    return _figure("switches", "When to switch models", findings.of_switches(plan), (), *behind)


def what_if(plan: Plan) -> Figure:
    """What-ifs beside the plan."""
    return _figure("what-if", "What if", findings.of_what_if(plan), (), tables.what_if(plan.what_if))


def assumptions(plan: Plan) -> Figure:
    """Everything that is taken for granted."""
    finding = findings.of_assumptions(plan)
    return _figure("assumptions", "Assumptions", finding, (), background.assumptions(plan))


def all_of(plan: Plan) -> list[Figure]:
    """Every figure, in the page's order."""
    return [
        owned(plan),
        load(plan),
        screening(plan),
        *weeks(plan),
        merit_order(plan),
        tornado(plan),
        npv(plan),
        energy(plan),
        finalists(plan),
        switches(plan),
        what_if(plan),
        assumptions(plan),
    ]
