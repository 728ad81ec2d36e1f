"""The six figures of the page, each with its finding and its alternative text."""

from __future__ import annotations

import numpy as np

from scheduler.simulation.simulate import Result
from scheduler.simulation.tuning import SLO_MIN
from serving.report.drawing import svg
from serving.report.page import Figure
from serving.report.words import short
from serving.simulation_report import bars, curves, findings, tables, timeline
from serving.simulation_report.outcome import REFERENCES, best_overflow, ranked, shown
from serving.simulation_report.timeline import Bins

_PANELS_MAX = 8


def all_of(result: Result) -> list[Figure]:
    """Every figure, in the page's order."""
    bins = timeline.bins_of(result)
    return [
        _costs(result),
        _spend(result, bins),
        _work(result, bins),
        _bids(result, bins),
        _classes(result),
        _regret(result),
    ]


def _costs(result: Result) -> Figure:
    overflow = best_overflow(result)
    compared = {shown(result).name, overflow.name} if overflow is not None else {*result.policies} - {*REFERENCES}
    rows = [bars.CostRow(p.name, p.tally.usd_api, p.tally.usd_energy, p.name not in compared) for p in ranked(result)]
    bound_usd = result.bound.usd_total
    finding = findings.of_costs(result, any(row.usd > bars.cut_at(rows, bound_usd) for row in rows))
    height_in = 1.1 + 0.29 * len(rows)
    drawing = svg(
        "costs",
        f"Stacked bars, one a policy. {finding}",
        height_in,
        lambda canvas: bars.draw_costs(canvas, rows, bound_usd, height_in),
    )
    return Figure("costs", "What each policy pays", finding, drawing, ())


def _spend(result: Result, bins: Bins) -> Figure:
    policies = [shown(result)]
    overflow = best_overflow(result)
    if overflow is not None and overflow is not policies[0]:
        policies.append(overflow)
    panels = [(policy.name, timeline.spend(policy, bins)) for policy in policies]
    finding = findings.of_spend(panels, bins)
    height_in = 1.0 + 1.65 * len(panels)
    drawing = svg(
        "spend",
        f"Stacked areas over time. {finding}",
        height_in,
        lambda canvas: curves.draw_spend(canvas, panels, bins, height_in),
    )
    return Figure("spend", "Money over time", finding, drawing, ())


def _work(result: Result, bins: Bins) -> Figure:
    policy = shown(result)
    found = timeline.work(policy, result, bins)
    capacity = sum(result.scenario.site.capacity.values())
    finding = findings.of_work(found, capacity, policy.name)
    drawing = svg(
        "load",
        f"Stacked areas over time. {finding}",
        2.9,
        lambda canvas: curves.draw_work(canvas, found, capacity, bins, 2.9),
    )
    return Figure("load", f"Load over time, here and at APIs ({policy.name})", finding, drawing, ())


def _bids(result: Result, bins: Bins) -> Figure:
    policy = shown(result)
    panels: list[tuple[str, np.ndarray | None, np.ndarray | None]] = []
    for pool, price in zip(result.scenario.site.pools[:_PANELS_MAX], result.bound.prices, strict=False):
        panels.append((short(pool.name), timeline.bids(policy, pool.name, bins), timeline.dual(price, bins)))
    finding = findings.of_bids(panels)
    height_in = 1.0 + 1.6 * len(panels)
    drawing = svg(
        "bids",
        f"Step lines over time, a panel for each pool. {finding}",
        height_in,
        lambda canvas: curves.draw_bids(canvas, panels, bins, height_in),
    )
    return Figure("bids", "What a second of each pool is worth", finding, drawing, ())


def _classes(result: Result) -> Figure:
    names = tables.class_names(result)
    rows = [
        (policy.name, {name: met / of for name, (met, of) in policy.tally.by_class.items() if of})
        for policy in ranked(result)
    ]
    finding = findings.of_classes(result)
    height_in = 1.1 + 0.29 * len(rows)
    drawing = svg(
        "classes",
        f"Marks on a line for each policy. {finding}",
        height_in,
        lambda canvas: bars.draw_classes(canvas, rows, names, SLO_MIN, height_in),
    )
    behind = (tables.classes(result),) if len(names) > bars.FIGURES_MAX else ()
    return Figure("classes", "Requests in time", finding, drawing, behind)


def _regret(result: Result) -> Figure:
    title, regret = "Where the rest of the money goes", result.regret
    finding = findings.of_regret(regret)
    if regret is None:
        return Figure("regret", title, finding, None, ())
    start, end = (tables.BOUND, result.bound.usd_total), shown(result).name
    steps = findings.regret_parts(regret)
    drawing = svg(
        "regret", f"A cascade of bars. {finding}", 2.0, lambda canvas: bars.draw_regret(canvas, start, steps, end, 2.0)
    )
    return Figure("regret", title, finding, drawing, ())
