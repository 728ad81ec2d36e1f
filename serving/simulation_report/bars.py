"""Drawings of what a whole run came to: costs by policy, objectives by class, regret."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from serving.report.drawing import legend_above
from serving.report.words import short
from serving.simulation_report.outcome import share, usd

API: dict[str, Any] = {"facecolor": "#F7DFD0", "edgecolor": "#000000", "hatch": "////", "linewidth": 0.7}
ENERGY: dict[str, Any] = {"facecolor": "#0072B2", "edgecolor": "#000000", "linewidth": 0.7}
# So many classes get their figures beside their marks, and so many a line of the legend.
FIGURES_MAX = 4
MARKED_MAX = 8
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_FILLS = ("#000000", "#FFFFFF", "#D55E00", "#56B4E9", "#009E73", "#FFFFFF", "#CC79A7", "#8C5E00")
_GRID: dict[str, Any] = {"color": "#DDDDDD", "linewidth": 0.5}
# A bar that is this much longer than all bars of interest is cut, so that those can be told apart.
_CUT_RATIO = 1.6


class CostRow(NamedTuple):
    """One bar, USD. ``may_be_cut``: it is there for comparison only."""

    name: str
    usd_api: float
    usd_energy: float
    may_be_cut: bool

    @property
    def usd(self) -> float:
        """Both parts."""
        return self.usd_api + self.usd_energy


def cut_at(rows: Sequence[CostRow], bound_usd: float) -> float:
    """USD at which bars are cut; infinite where none has to be."""
    longest = max([bound_usd, *(row.usd for row in rows if not row.may_be_cut)], default=0.0)
    return 1.25 * longest if longest > 0.0 and any(row.usd > _CUT_RATIO * longest for row in rows) else float("inf")


def draw_costs(canvas: Canvas, rows: Sequence[CostRow], bound_usd: float, height_in: float) -> None:
    """Stacked bars, the bound as a line through all of them."""
    axes = _rows(canvas, [row.name for row in rows], height_in, right=0.9)
    end = cut_at(rows, bound_usd)
    for y, row in enumerate(rows):
        energy = min(row.usd_energy, end)
        axes.barh(y, energy, height=0.62, **ENERGY)
        axes.barh(y, min(row.usd, end) - energy, left=energy, height=0.62, **API)
        text = usd(row.usd)
        if row.usd > end:  # a white stroke through the bar, as on paper
            axes.plot([0.965 * end, 0.985 * end], [y + 0.5, y - 0.5], color="#FFFFFF", linewidth=4.0)
        axes.annotate(text, (min(row.usd, end), y), (4, 0), textcoords="offset points", va="center")
    axes.axvline(bound_usd, color="#000000", linestyle=(0, (5, 2)), linewidth=1.3)
    longest = max([bound_usd, *(row.usd for row in rows)])
    axes.set_xlim(0.0, (end if end < float("inf") else longest * 1.04) or 1.0)
    axes.set_xlabel("USD, avoidable")
    line = Line2D([], [], color="#000000", linestyle=(0, (5, 2)), linewidth=1.3)
    legend_above(
        canvas, [(Patch(**ENERGY), "energy"), (Patch(**API), "APIs"), (line, f"clairvoyant bound: {usd(bound_usd)}")]
    )


def draw_classes(
    canvas: Canvas, rows: Sequence[tuple[str, dict[str, float]]], names: Sequence[str], goal: float, height_in: float
) -> None:
    """A row for each policy, a mark for each class, the shares at the right; what is far below the goal lies at the edge."""
    told = names[:FIGURES_MAX]
    axes = _rows(canvas, [name for name, _ in rows], height_in, right=0.97 - 0.11 * len(told))
    low, column = 0.9, 0.11 / (0.77 - 0.11 * len(told))
    apart = 0.5 / max(1, len(names))
    for y, (_, shares) in enumerate(rows):
        for place, name in enumerate(names):
            if name in shares:
                beside = y + apart * (place - (len(names) - 1) / 2.0)
                axes.plot(max(low, shares[name]), beside, clip_on=False, **_marker(place))
        for place, name in enumerate(told):
            _figure(axes, 1.0 + column * (place + 1), y, share(shares[name]) if name in shares else "-")
    for place, name in enumerate(told):
        _figure(axes, 1.0 + column * (place + 1), -0.9, short(name, 12))
    axes.axvline(goal, color="#000000", linestyle=(0, (5, 2)), linewidth=1.0)
    axes.set_xlim(low, 1.0)
    axes.set_xticks([low + 0.02 * i for i in range(6)], [f"{'≤ ' if not i else ''}{90 + 2 * i}" for i in range(6)])
    axes.set_xlabel("requests in time, %")
    line = Line2D([], [], color="#000000", linestyle=(0, (5, 2)), linewidth=1.0)
    entries = [(Line2D([], [], **_marker(place)), short(name, 16)) for place, name in enumerate(names[:MARKED_MAX])]
    legend_above(canvas, [*entries, (line, f"goal: {100 * goal:g} %")])


def _figure(axes: Axes, x: float, y: float, text: str) -> None:
    axes.text(x, y, text, transform=axes.get_yaxis_transform(), va="center", ha="right", fontsize=8)


def draw_regret(
    canvas: Canvas, start: tuple[str, float], steps: Sequence[tuple[str, float]], end: str, height_in: float
) -> None:
    """A cascade from the bound to the shipped policy: each step begins where the one above ends; it may go back."""
    axes = _rows(canvas, [start[0], *(name for name, _ in steps), end], height_in, right=0.9, top_in=0.08)
    at = start[1]
    whole: dict[str, Any] = {"facecolor": "#E4E4E4", "edgecolor": "#000000", "linewidth": 0.7}
    axes.barh(0, at, height=0.62, **whole)
    _beside(axes, at, 0, usd(at))
    highest = at
    for y, (_, part) in enumerate(steps, 1):
        style = API if part >= 0.0 else {**API, "facecolor": "#FFFFFF", "hatch": "|||"}
        axes.barh(y, abs(part), left=min(at, at + part), height=0.62, **style)
        axes.plot([at, at], [y - 0.69, y - 0.31], color="#000000", linewidth=0.8)
        _beside(axes, max(at, at + part), y, f"{'+' if part >= 0 else '−'}{usd(abs(part))}")
        at += part
        axes.plot([at, at], [y + 0.31, y + 0.69], color="#000000", linewidth=0.8)
        highest = max(highest, at)
    axes.barh(len(steps) + 1, at, height=0.62, **whole)
    _beside(axes, at, len(steps) + 1, usd(at))
    axes.set_xlim(0.0, highest * 1.1 or 1.0)
    axes.set_xlabel("USD, avoidable")


def _beside(axes: Axes, x: float, y: int, text: str) -> None:
    axes.annotate(text, (x, y), (4, 0), textcoords="offset points", va="center")


def _rows(canvas: Canvas, names: Sequence[str], height_in: float, right: float, top_in: float = 0.45) -> Axes:
    axes = canvas.subplots()
    canvas.subplots_adjust(left=0.2, right=right, top=1 - top_in / height_in, bottom=0.5 / height_in)
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(True, axis="x", **_GRID)
    axes.set_axisbelow(True)
    return axes


def _marker(place: int) -> dict[str, Any]:
    fill = _FILLS[place % len(_FILLS)]
    return {
        "marker": _MARKERS[place % len(_MARKERS)], "markersize": 6, "markerfacecolor": fill, "markeredgecolor": "#000000",
        "markeredgewidth": 0.9, "linestyle": "none",
    }  # fmt: skip
