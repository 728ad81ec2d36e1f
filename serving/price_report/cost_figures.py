"""Figures of costs at one moment: the stack of a GPU-hour, and the merit order on each basis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from pricing.report import BASES, LocalCost, PriceReport
from serving.price_report.tables import parts_of
from serving.report.drawing import FILLS, HATCHES, legend_above, scale
from serving.report.words import number, short

_MARKERS = {
    "avoidable": ("D", "#009E73"),
    "usage": ("^", "#0072B2"),
    "allocation": ("s", "#D55E00"),
    "standard": ("|", "#000000"),
    "bought": ("o", "#000000"),
    "rate": ("o", "#FFFFFF"),
}


# What is bought is avoidable as well, and dispatch reads it beside our own avoidable cost.
_COLUMNS = {"bought": "avoidable", "rate": "avoidable"}
_PARTS_MAX = 7


class MeritRow(NamedTuple):
    """Blended USD/Mtok of one offer by basis. ``rate``: of ours, but no basis is known, only what dispatch pays."""

    name: str
    usd: dict[str, float]


def merit_rows(report: PriceReport) -> list[MeritRow]:
    """Pools of ours on every basis that is known and all other offers, by the price that dispatch reads."""
    rows = []
    for cost in report.local:
        usd = {str(name): cost.bases[name].blended for name in BASES if name in cost.bases}
        if cost.standard_usd_per_mtok is not None:
            usd["standard"] = cost.standard_usd_per_mtok.blended
        if usd:
            rows.append(MeritRow(cost.pool, usd))
    ours = {row.name for row in rows}
    for offer in report.offers:
        if offer.offer.partition("/")[0] not in ours:  # a pool's models and adapters cost what the pool does
            basis = "bought" if offer.kind == "api" else "rate"
            rows.append(MeritRow(offer.offer, {basis: offer.usd_per_mtok.blended}))
    return sorted(rows, key=lambda row: (row.usd.get("avoidable", min(row.usd.values())), row.name))


def draw_merit_order(canvas: Canvas, rows: Sequence[MeritRow], height_in: float) -> None:
    """A line for each offer, the cheapest at the top, with a point for each basis and the figures at the right."""
    axes = canvas.subplots()
    canvas.subplots_adjust(left=0.25, right=0.64, top=1 - 0.5 / height_in, bottom=0.5 / height_in)
    is_log = scale(axes, [usd for row in rows for usd in row.usd.values()], "x")
    lowest = axes.get_xlim()[0]
    found = [basis for basis in _MARKERS if any(basis in row.usd for row in rows)]
    headings = list(dict.fromkeys(_COLUMNS.get(basis, basis) for basis in found))
    for y, row in enumerate(rows):
        at = {basis: max(usd, lowest) if is_log else usd for basis, usd in row.usd.items()}
        axes.plot([min(at.values()), max(at.values())], [y, y], color="#888888", linewidth=0.8, zorder=1)
        for basis, usd in row.usd.items():
            axes.plot(at[basis], y, clip_on=False, **_marker(basis))
            _figure(axes, headings.index(_COLUMNS.get(basis, basis)), y, number(usd))
    for place, heading in enumerate(headings):
        _figure(axes, place, -0.9, heading)
    axes.set_yticks(range(len(rows)), [short(row.name) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(True, axis="x", color="#DDDDDD", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_xlabel("blended USD/Mtok, logarithmic" if is_log else "blended USD/Mtok")
    legend_above(canvas, [(Line2D([], [], **_marker(basis)), basis) for basis in found])


def _marker(basis: str) -> dict[str, Any]:
    shape, fill = _MARKERS[basis]
    size, edge = (13, 2.0) if shape == "|" else (6, 0.8)
    style = {"marker": shape, "markersize": size, "markerfacecolor": fill, "markeredgecolor": "#000000"}
    return {**style, "markeredgewidth": edge, "linestyle": "none"}


def _figure(axes: Axes, place: int, y: float, text: str) -> None:
    axes.text(1.16 + 0.22 * place, y, text, transform=axes.get_yaxis_transform(), va="center", ha="right", fontsize=8)


def draw_stack(canvas: Canvas, local: Sequence[LocalCost], height_in: float) -> None:
    """A bar for each pool, its parts told apart by hatches; what is below zero lies to the left."""
    axes = canvas.subplots()
    canvas.subplots_adjust(left=0.25, right=0.9, top=1 - 0.5 / height_in, bottom=0.5 / height_in)
    legend: list[tuple[Any, str]] = []
    names = parts_of(local)
    parts = [(name, [cost.usd_per_gpu_hour.get(name, 0.0) for cost in local]) for name in names[:_PARTS_MAX]]
    if len(names) > _PARTS_MAX:
        rest = names[_PARTS_MAX:]
        parts.append(("all other", [sum(cost.usd_per_gpu_hour.get(name, 0.0) for name in rest) for cost in local]))
    ends = {True: [0.0] * len(local), False: [0.0] * len(local)}
    for place, (part, widths) in enumerate(parts):
        starts = [ends[width >= 0][y] for y, width in enumerate(widths)]
        bars = axes.barh(
            range(len(local)), widths, left=starts, height=0.66, linewidth=0.7,
            color=FILLS[place % len(FILLS)], edgecolor="#000000", hatch=HATCHES[place % len(HATCHES)],
        )  # fmt: skip
        legend.append((bars, short(part, 16)))
        for y, width in enumerate(widths):
            ends[width >= 0][y] += width
    low, high = min(ends[False]), max(ends[True])
    axes.set_xlim(low * 1.05, high * 1.02 if high > 0 else 1.0)
    for y, cost in enumerate(local):
        axes.annotate(
            number(sum(cost.usd_per_gpu_hour.values())),
            (ends[True][y], y),
            (4, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(local)), [short(cost.pool) for cost in local])
    axes.set_ylim(len(local) - 0.4, -0.6)
    axes.set_xlabel("USD per GPU-hour")
    axes.grid(True, axis="x", color="#DDDDDD", linewidth=0.5)
    axes.set_axisbelow(True)
    if parts:
        legend_above(canvas, legend)
