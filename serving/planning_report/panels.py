"""Drawings with a panel for each pool: the load-duration curve with what carries it, and the screening curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from scheduler.planning.document import LoadDuration, Screening
from serving.planning_report.axes import from_zero
from serving.planning_report.stack import KINDS, STYLES, WORDS, layers, source
from serving.report.drawing import WIDTH_IN, label_ends, legend_above, line_style, scale
from serving.report.words import percent, short

# So many panels a drawing: it has to fit on one printed page.
PANELS_MAX = 6
_LEGEND_IN, _TITLE_IN, _BOTTOM_IN, _LEFT_IN = 0.2, 0.42, 0.5, 0.66
# Width of a character of a label, and how many times the cheapest source is still drawn.
_CELL_IN, _FAR = 0.068, 2.5
_CAPACITY: dict[str, Any] = {"color": "#000000", "linewidth": 1.2, "linestyle": (0, (5, 2))}


def height_in(panels: int) -> float:
    """How high a drawing of so many panels is."""
    return _rows(panels) * _row_in(panels)


def height_with_legend_in(panels: int) -> float:
    """The same with a legend above."""
    return _LEGEND_IN + height_in(panels)


def _columns(panels: int) -> int:
    return 1 if panels == 1 else 2


def _rows(panels: int) -> int:
    return -(-panels // _columns(panels))


def _row_in(panels: int) -> float:
    return 3.1 if panels == 1 else 2.55 if panels <= 2 else 2.15


def _grid(canvas: Canvas, names: Sequence[str], right_in: float) -> list[Axes]:
    """A panel for each name, ``right_in`` inches left free at the right of each."""
    whole_in, columns = float(canvas.get_size_inches()[1]), _columns(len(names))
    width_in, row_in = WIDTH_IN / columns, _row_in(len(names))
    found = []
    for place, name in enumerate(names):
        row, column = divmod(place, columns)
        bottom_in = (_rows(len(names)) - row - 1) * row_in + _BOTTOM_IN
        axes = canvas.add_axes(
            (
                (column * width_in + _LEFT_IN) / WIDTH_IN,
                bottom_in / whole_in,
                (width_in - _LEFT_IN - right_in) / WIDTH_IN,
                (row_in - _BOTTOM_IN - _TITLE_IN) / whole_in,
            )
        )
        axes.text(0.0, 1.03, name, transform=axes.transAxes, va="bottom", ha="left", fontweight="bold")
        axes.grid(True, axis="both", color="#DDDDDD", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.set_xlim(0.0, 100.0)
        axes.set_xlabel("share of time, %")
        found.append(axes)
    return found


def draw_load(have: Mapping[str, str], canvas: Canvas, durations: Sequence[LoadDuration]) -> None:
    """Load over the share of time in which it is exceeded, cut into what is owned, reserved, rented and bought.

    ``have``: by pool, what there is to carry it.
    """
    used = set()
    names = [short(duration.pool, 40) for duration in durations]
    for axes, duration in zip(_grid(canvas, names, 0.2), durations, strict=True):
        at, found = layers(duration)
        for layer in found:
            if (layer.high > layer.low).any():
                used.add(layer.kind)
                axes.fill_between(100.0 * at, layer.low, layer.high, **{**STYLES[layer.kind], "linewidth": 0.0})
                axes.plot(100.0 * at, layer.high, color="#000000", linewidth=0.5)
        axes.plot(100.0 * at, found[-1].high, color="#000000", linewidth=1.4)
        base = duration.owned + duration.reserved
        if base > 0.0:
            axes.axhline(base, **_CAPACITY)
        scale(axes, [max([base, *duration.load.y])])
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_ylabel("load, in replicas")
        axes.text(
            1.0, 1.03, have.get(duration.pool, ""), transform=axes.transAxes, va="bottom", ha="right", fontsize=7.5
        )
    entries: list[tuple[Any, str]] = [(Patch(**STYLES[kind]), WORDS[kind]) for kind in KINDS if kind in used]
    if any(duration.owned + duration.reserved > 0.0 for duration in durations):
        entries.append((Line2D([], [], **_CAPACITY), "what owned and reserved ones can carry"))
    legend_above(canvas, entries)


def draw_screening(canvas: Canvas, screenings: Sequence[Screening]) -> None:
    """Cost of one more replica over the share of time in which it is used, a line for each source."""
    names = [short(one.pool, 40) for one in screenings]
    cells_max = 34 if len(screenings) == 1 else 20
    cells = max((len(source(name, cells_max)) for one in screenings for name, _ in one.lines), default=0)
    for axes, one in zip(_grid(canvas, names, 0.35 + _CELL_IN * (cells + 2)), screenings, strict=True):
        top = _top(one)
        unit = from_zero(axes, [top])
        ends = []
        for place, (name, curve) in enumerate(one.lines):
            style: dict[str, Any] = line_style(KINDS.index(name) if name in KINDS else place)
            axes.plot(100.0 * np.asarray(curve.x, float), curve.y, **style)
            if curve.y:
                beyond = " ↑" if curve.y[-1] > 1.06 * top else ""
                ends.append((curve.y[-1], source(name, cells_max) + beyond, style["color"]))
        label_ends(axes, ends)
        _mark(axes, [share for share, _ in one.crossings if 0.0 < share < 1.0])
        axes.set_ylabel(f"{unit} per hour")


def _mark(axes: Axes, crossings: Sequence[float]) -> None:
    """A dotted line where the cheapest source changes, with its share beside it, each lower than the one before."""
    for place, share in enumerate(sorted(crossings)):
        axes.axvline(100.0 * share, color="#000000", linestyle=(0, (1, 2)), linewidth=0.9)
        is_left = share < 0.85
        axes.annotate(
            percent(share), (100.0 * share, 0.93 - 0.13 * (place % 4)), (3 if is_left else -3, 0),
            xycoords=axes.get_xaxis_transform(), textcoords="offset points", va="center",
            ha="left" if is_left else "right", fontsize=7.5, bbox={"facecolor": "#FFFFFF", "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip


def _top(screening: Screening) -> float:
    """USD per hour up to which lines are drawn: what costs far more than the cheapest at full use leaves at the top."""
    ends = sorted(curve.y[-1] for _, curve in screening.lines if curve.y)
    starts = [curve.y[0] for _, curve in screening.lines if curve.y]
    if not ends:
        return 0.0
    return max([*starts, min(ends[-1], _FAR * ends[0]) if ends[0] > 0.0 else ends[-1]])
