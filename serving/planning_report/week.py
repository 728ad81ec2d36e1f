"""The week of a pool as a map of hours: how many replicas should run, and what APIs take beside them.

Numbers in the cells carry the meaning; shades and hatches only repeat it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch, Rectangle

from scheduler.planning.document import Week
from serving.planning_report.supply_findings import day_of
from serving.report.drawing import HATCHES, legend_above

_HOURS, _DAYS = 24, 7
_SHADES = ("#FFFFFF", "#F0F0F0", "#E2E2E2", "#D3D3D3", "#C4C4C4", "#B5B5B5")
_ROW_IN, _TOP_IN, _BOTTOM_IN = 0.33, 0.5, 0.42
# Less than this many replicas is nothing that a reader should plan for.
_SOME = 0.05


def rows_of(week: Week) -> list[tuple[str, int]]:
    """Lines of the map: their name, and the hour of the week that each begins with. Days that are alike share one."""
    starts = [day * _HOURS for day in range(_DAYS) if (day + 1) * _HOURS <= len(week.load)]
    days = {_day(week, start) for start in starts}
    if len(days) == 1 and len(starts) > 1:
        return [("every day", 0)]
    names = [day_of(week, start) for start in starts]
    return [(name[:3] if week.from_monday else name, start) for name, start in zip(names, starts, strict=True)]


def _day(week: Week, start: int) -> tuple[object, ...]:
    part = slice(start, start + _HOURS)
    return (week.load[part], week.rented[part], week.api[part], week.replicas[part])


def height_in(week: Week) -> float:
    """How high the drawing is."""
    return _TOP_IN + _BOTTOM_IN + _ROW_IN * max(1, len(rows_of(week)))


def draw_week(canvas: Canvas, week: Week) -> None:
    """A cell for each hour."""
    rows, whole_in = rows_of(week), height_in(week)
    axes = canvas.subplots()
    canvas.subplots_adjust(left=0.075, right=0.99, top=1 - _TOP_IN / whole_in, bottom=_BOTTOM_IN / whole_in)
    peak = max((load for load in week.load if math.isfinite(load)), default=0.0)
    alike: dict[tuple[int, bool], list[Rectangle]] = {}
    for y, (_, start) in enumerate(rows):
        for hour in range(_HOURS):
            look = _look(week, start + hour, peak)
            alike.setdefault(look, []).append(Rectangle((hour, y), 1, 1))
            _numbers(axes, hour, y, week, start + hour, look)
    for (level, is_rented), cells in alike.items():
        hatch = HATCHES[1] if is_rented else None
        style: dict[str, Any] = {"facecolor": _SHADES[level], "edgecolor": "#000000", "linewidth": 0.4, "hatch": hatch}
        axes.add_collection(PatchCollection(cells, **style), autolim=False)
    axes.set_xlim(0, _HOURS)
    axes.set_ylim(len(rows), 0)
    axes.set_xticks(np.arange(_HOURS) + 0.5, [str(hour) for hour in range(_HOURS)])
    axes.set_yticks(np.arange(len(rows)) + 0.5, [name for name, _ in rows])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_xlabel("hour of the day, " + ("UTC" if week.from_monday else "counted from the beginning of the trace"))
    legend_above(
        canvas,
        [
            (Patch(facecolor=_SHADES[0], edgecolor="#000000", linewidth=0.6), "little load"),
            (Patch(facecolor=_SHADES[-1], edgecolor="#000000", linewidth=0.6), "the highest"),
            (Patch(facecolor="#FFFFFF", edgecolor="#000000", hatch=HATCHES[1], linewidth=0.6), "some rented"),
            (Rectangle((0, 0), 0, 0, alpha=0.0), "number: replicas to run;  +: bought from APIs, in replicas"),
        ],
    )


def _look(week: Week, place: int, peak: float) -> tuple[int, bool]:
    """How dark an hour is, and whether it is hatched."""
    load, level = week.load[place], 0
    if peak > 0.0 and math.isfinite(load):
        level = min(len(_SHADES) - 1, int(len(_SHADES) * max(0.0, load) / peak))
    return level, week.rented[place] > _SOME


def _numbers(axes: Axes, x: int, y: int, week: Week, place: int, look: tuple[int, bool]) -> None:
    level, is_rented = look
    has_api = week.api[place] > _SOME
    style: dict[str, Any] = {"ha": "center", "va": "center"}
    if is_rented:  # no number is to be read through a hatch
        style["bbox"] = {"facecolor": _SHADES[level], "edgecolor": "none", "pad": 0.6}
    axes.text(x + 0.5, y + (0.33 if has_api else 0.5), compact(week.replicas[place]), fontsize=8, **style)
    if has_api:
        axes.text(x + 0.5, y + 0.74, f"+{compact(week.api[place])}", fontsize=6, **style)


def compact(value: float) -> str:
    """A number in a cell: four characters or so.

    >>> [compact(value) for value in (3, 0.25, 9.96, 412.3, 1234, 56_789, 2.5e6, 4e15)]
    ['3', '0.2', '10', '412', '1.2k', '57k', '2.5M', '?']
    """
    if not math.isfinite(value) or value >= 1e15:
        return "?"
    for size, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f}{name}" if value < 9.95 * size else f"{value / size:.0f}{name}"
    return f"{value:.0f}" if value >= 9.95 or value == int(value) else f"{value:.1f}"
