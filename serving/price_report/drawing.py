"""Lines of prices over time, with their names at their ends and marks for what happened to them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, num2date
from matplotlib.ticker import FuncFormatter
from rich.cells import cell_len

from serving.price_report.history import Mark, Series
from serving.report.drawing import WIDTH_IN, label_ends, line_style, scale
from serving.report.words import number, short

LINES_MAX = 24
_DAY_S = 86_400.0
_CELL_PT = 5.1


def steps(axes: Axes, lines: Sequence[Series], until_s: float, now_s: float) -> None:
    """Draw each series as a step line that ends at ``until_s``: a cross where its price was lost, its name and value now."""
    ends: list[tuple[float, str, str]] = []
    for place, line in enumerate(lines):
        points = [*line.points, (max(until_s, line.points[-1][0]), line.points[-1][1])]
        days = [at_s / _DAY_S for at_s, _ in points]
        values = [float("nan") if value is None else value for _, value in points]
        style = line_style(place)
        axes.plot(days, values, drawstyle="steps-post", **style)  # type: ignore[arg-type]
        pairs = pairwise(points)
        lost = [(b[0] / _DAY_S, a[1]) for a, b in pairs if a[1] is not None and b[1] is None]
        if lost:
            axes.plot(*zip(*lost, strict=True), "x", color=str(style["color"]), markersize=6)
        last = next((value for _, value in reversed(points) if value is not None), None)
        if last is not None:
            if points[-1][1] is not None:
                axes.plot(days[-1], last, "o", color=str(style["color"]), markersize=3, clip_on=False)
            ends.append((last, end_label(line, now_s), str(style["color"])))
    scale(axes, [value for line in lines for _, value in line.points if value is not None])
    time_axis(axes)
    label_ends(axes, ends)


def end_label(line: Series, now_s: float) -> str:
    """What stands at the end of a line: its name and its value at ``now_s``."""
    now = next((value for at_s, value in reversed(line.points) if at_s <= now_s), None)
    return f"{short(line.name)}  {number(now) if now is not None else 'no price now'}"


def room_right(lines: Sequence[Series], now_s: float) -> float:
    """Where the axes end, as a share of the width, so that every line's name fits beside them."""
    cells = max((cell_len(end_label(line, now_s)) for line in lines), default=0)
    return 1.0 - min(0.36, (cells * _CELL_PT + 26.0) / (WIDTH_IN * 72.0))


def time_axis(axes: Axes) -> None:
    """Days, or hours within a day, UTC; the first of January names its year."""

    def text(days: float, _: int | None = None) -> str:
        moment = num2date(days, UTC)
        if (moment.hour, moment.minute) != (0, 0):
            return f"{moment:%H:%M}"
        return f"{moment.day} {moment:%b}" + (f" {moment.year}" if moment.month == moment.day == 1 else "")

    axes.xaxis.set_major_locator(AutoDateLocator(tz=UTC, maxticks=9))
    axes.xaxis.set_major_formatter(FuncFormatter(text))
    axes.grid(True, axis="both", color="#DDDDDD", linewidth=0.5)
    axes.set_axisbelow(True)


def marks(axes: Axes, groups: Sequence[Sequence[Mark]]) -> None:
    """A dotted line and a number at the top for each group of marks."""
    for place, group in enumerate(groups, 1):
        day = group[0].at_s / _DAY_S
        axes.axvline(day, color="#000000", linestyle=(0, (1, 3)), linewidth=0.8)
        axes.text(day, 1.01, str(place), transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=7.5)


def grouped(found: Sequence[Mark], start_s: float, until_s: float, groups_max: int = 30) -> list[list[Mark]]:
    """Marks from ``start_s`` to ``until_s`` in order, those too close together for numbers of their own in one group."""
    apart_s = (until_s - start_s) / groups_max
    groups: list[list[Mark]] = []
    for mark in sorted((mark for mark in found if start_s <= mark.at_s <= until_s), key=lambda mark: mark.at_s):
        if groups and mark.at_s - groups[-1][0].at_s < apart_s:
            groups[-1].append(mark)
        else:
            groups.append([mark])
    return groups
