"""Drawings of money: cost against owned GPUs, one assumption moved at a time, net present value over the years."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from scheduler.planning.document import Npv, OwnedCost, Sensitivity
from serving.planning_report.axes import from_zero, in_units
from serving.planning_report.findings import ends
from serving.planning_report.outcome import amount_of, money, span
from serving.report.drawing import FILLS, HATCHES, legend_above, scale, spread
from serving.report.words import short

TORNADO_MAX = 16
_GRID: dict[str, Any] = {"color": "#DDDDDD", "linewidth": 0.5}
_BAND: dict[str, Any] = {"facecolor": FILLS[1], "edgecolor": "#0072B2", "hatch": HATCHES[1], "linewidth": 0.0}
_MEAN: dict[str, Any] = {"color": "#000000", "linewidth": 1.5}
_WORST: dict[str, Any] = {"color": "#D55E00", "linewidth": 1.2, "linestyle": (0, (5, 2))}
_LOW: dict[str, Any] = {"facecolor": "#FFFFFF", "edgecolor": "#000000", "hatch": HATCHES[3], "linewidth": 0.7}
_HIGH: dict[str, Any] = {"facecolor": FILLS[5], "edgecolor": "#000000", "linewidth": 0.7}
_LEADER: dict[str, Any] = {"color": "#000000", "linewidth": 0.6, "clip_on": False}
_PLAN = "plan"


class Mark(NamedTuple):
    """A sizing on the curve of cost against GPUs; ``name`` is that of every sizing which is the same."""

    name: str
    gpus: float
    usd_per_hour: float


def draw_owned(canvas: Canvas, costs: Sequence[OwnedCost], marks: Sequence[Mark], height_in: float) -> None:
    """The mean with the band that eight of ten scenarios lie in, and every sizing with its name above."""
    axes = canvas.subplots()
    canvas.subplots_adjust(left=0.085, right=0.975, top=1 - 0.8 / height_in, bottom=0.45 / height_in)
    costs = sorted(costs, key=lambda cost: cost.gpus)
    at = [cost.gpus for cost in costs]
    low, high = [c.usd_per_hour.p10 for c in costs], [c.usd_per_hour.p90 for c in costs]
    worst = [c.usd_per_hour.cvar for c in costs]
    axes.fill_between(at, low, high, **_BAND)
    axes.plot(at, worst, **_WORST)
    axes.plot(at, [c.usd_per_hour.mean for c in costs], marker="o" if len(at) == 1 else "", **_MEAN)
    values = [*low, *high, *worst, *(mark.usd_per_hour for mark in marks)]
    is_log = scale(axes, values)
    unit = in_units(axes.yaxis, values) if is_log else from_zero(axes, values)
    ends_at = [*at, *(mark.gpus for mark in marks)]
    room = 0.03 * (max(ends_at) - min(ends_at)) or 1.0
    axes.set_xlim(max(0.0, min(ends_at) - room), max(ends_at) + room)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.set_xlabel("GPUs owned")
    axes.set_ylabel(f"{unit} per hour{', logarithmic' if is_log else ''}")
    axes.grid(True, **_GRID)
    axes.set_axisbelow(True)
    _flags(axes, marks)
    legend_above(
        canvas,
        [
            (Line2D([], [], **_MEAN), "mean"),
            (Patch(**{**_BAND, "linewidth": 0.7}), "10th to 90th percentile of the scenarios"),
            (Line2D([], [], **_WORST), "mean of the worst tenth"),
        ],
    )


def _flags(axes: Axes, marks: Sequence[Mark]) -> None:
    """The names of the marks above the axes, moved apart, each with a thin line down to its point."""
    marks = sorted(marks, key=lambda mark: (mark.gpus, mark.usd_per_hour))
    to_axes = axes.transData + axes.transAxes.inverted()
    at = [float(to_axes.transform((mark.gpus, mark.usd_per_hour))[0]) for mark in marks]
    margin = 0.06
    places = spread([min(1.0, max(0.0, (x - margin) / (1.0 - 2.0 * margin))) for x in at], 0.175)
    for mark, place in zip(marks, places, strict=True):
        x = margin + (1.0 - 2.0 * margin) * place
        data_x = axes.transData.inverted().transform(axes.transAxes.transform((x, 0.0)))[0]
        axes.plot([data_x, mark.gpus], [1.02, 0.98], transform=axes.get_xaxis_transform(), **_LEADER)
        top = axes.transData.inverted().transform(axes.transAxes.transform((0.0, 0.98)))[1]
        axes.plot([mark.gpus, mark.gpus], [top, mark.usd_per_hour], linestyle=(0, (1, 1.5)), **_LEADER)
        is_plan = mark.name.startswith("this plan")
        axes.plot(
            mark.gpus, mark.usd_per_hour, marker="D" if is_plan else "o", markersize=7 if is_plan else 5,
            markerfacecolor="#000000" if is_plan else "#FFFFFF", markeredgecolor="#000000", clip_on=False, zorder=5,
        )  # fmt: skip
        axes.text(
            x, 1.03, f"{mark.name}\n{amount_of(mark.gpus)}: {money(mark.usd_per_hour)}", transform=axes.transAxes,
            ha="center", va="bottom", fontsize=7.5, fontweight="bold" if is_plan else "normal",
        )  # fmt: skip


def draw_tornado(canvas: Canvas, found: Sequence[Sensitivity], base_usd: float, height_in: float) -> None:
    """A row for each assumption: the cost at its low and at its high value, and what would be best to own then."""
    axes = canvas.subplots()
    canvas.subplots_adjust(left=0.27, right=0.83, top=1 - 0.5 / height_in, bottom=0.5 / height_in)
    values = [usd for one in found for usd in (one.usd_per_hour_low, one.usd_per_hour_high)]
    low, high = min([base_usd, *values]), max([base_usd, *values])
    room = 0.24 * (high - low) or abs(base_usd) * 0.2 or 1.0
    for y, one in enumerate(found):
        texts = ends(one)
        is_apart = (one.usd_per_hour_low - base_usd) * (one.usd_per_hour_high - base_usd) < 0.0
        for side, usd, style in ((0, one.usd_per_hour_low, _LOW), (1, one.usd_per_hour_high, _HIGH)):
            # Where both ends lie on the same side, one bar would hide the other.
            middle, height = (y, 0.62) if is_apart else (y - 0.17 + 0.34 * side, 0.32)
            axes.barh(middle, usd - base_usd, left=base_usd, height=height, **style)
            is_right = usd > base_usd or (usd == base_usd and side == 1)
            axes.annotate(
                texts[side], (usd, middle), (4 if is_right else -4, 0), textcoords="offset points", va="center",
                ha="left" if is_right else "right", fontsize=7.5,
            )  # fmt: skip
        is_same = one.gpus_low == one.gpus_high
        text = amount_of(one.gpus_low) + (" at both" if is_same else f" → {amount_of(one.gpus_high)}")
        axes.text(1.03, y, text, transform=axes.get_yaxis_transform(), va="center", ha="left", fontsize=8)
    axes.text(
        1.03, -0.85, "best to own, GPUs", transform=axes.get_yaxis_transform(), va="center", ha="left", fontsize=8
    )
    axes.axvline(base_usd, color="#000000", linewidth=1.2)
    labels = [f"{short(one.assumption, 36)}\n{short(one.unit, 36)}".strip() for one in found]
    axes.set_yticks(range(len(found)), labels, fontsize=8)
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    unit = in_units(axes.xaxis, [low, high])
    axes.set_xlim(low - room, high + room)
    axes.set_xlabel(f"{unit} per hour")
    axes.grid(True, axis="x", **_GRID)
    axes.set_axisbelow(True)
    line = Line2D([], [], color="#000000", linewidth=1.2)
    legend_above(
        canvas,
        [
            (Patch(**_LOW), "at the low value"),
            (Patch(**_HIGH), "at the high value"),
            (line, f"the plan: {money(base_usd)}"),
        ],
    )


def draw_npv(canvas: Canvas, npv: Npv, height_in: float) -> None:
    """Each year's cash in today's money as a bar, their sum so far as a line, and where that crosses zero."""
    axes = canvas.subplots()
    canvas.subplots_adjust(left=0.1, right=0.975, top=1 - 0.5 / height_in, bottom=0.45 / height_in)
    at = [year.at_years for year in npv.years]
    gaps = [b - a for a, b in pairwise(at) if b > a]
    width = 0.6 * min(gaps, default=1.0)
    for year in npv.years:
        axes.bar(year.at_years, year.present_usd, width, **(_HIGH if year.present_usd >= 0.0 else _LOW))
    axes.plot(at, [year.cumulated_usd for year in npv.years], marker="o", markersize=5, **_MEAN)
    axes.axhline(0.0, color="#000000", linewidth=0.8)
    unit = from_zero(axes, [usd for year in npv.years for usd in (year.present_usd, year.cumulated_usd)])
    entries: list[tuple[Any, str]] = [
        (Patch(**_HIGH), "saved in the year"),
        (Patch(**_LOW), "paid"),
        (Line2D([], [], marker="o", markersize=5, **_MEAN), "sum so far"),
    ]
    if npv.breakeven_years is not None:
        style: dict[str, Any] = {"color": "#000000", "linestyle": (0, (1, 2)), "linewidth": 1.2}
        axes.axvline(npv.breakeven_years, **style)
        entries.append((Line2D([], [], **style), f"paid back after {span(npv.breakeven_years)}"))
    axes.set_xlim(min(at) - width, max(at) + width)
    axes.set_xticks(at[:: max(1, -(-len(at) // 12))], [f"{year:g}" for year in at[:: max(1, -(-len(at) // 12))]])
    axes.set_xlabel("years")
    axes.set_ylabel(f"{unit} of today")
    axes.grid(True, axis="y", **_GRID)
    axes.set_axisbelow(True)
    legend_above(canvas, entries)
