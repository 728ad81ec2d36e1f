"""The merit order: a bar for each supply, as wide as it can serve and as high as its next token costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from scheduler.planning.document import Supply
from serving.planning_report.axes import in_units
from serving.planning_report.stack import KINDS, STYLES, WORDS
from serving.report.drawing import legend_above, scale
from serving.report.words import number, short

STEPS_MAX = 24
# Of all that is known: a bar without a known limit is so wide, and none is thinner than the other.
_UNLIMITED_SHARE, _THINNEST_SHARE = 0.1, 0.025
_MARK: dict[str, Any] = {"color": "#000000", "linewidth": 2.0, "linestyle": "solid"}


class Step(NamedTuple):
    """A bar from ``left`` on, ``width`` wide, in tokens per second as drawn."""

    supply: Supply
    left: float
    width: float


def steps_of(supplies: Sequence[Supply]) -> list[Step]:
    """Bars side by side in the order given."""
    known = sum(supply.capacity_tokens_per_s or 0.0 for supply in supplies) or 1.0
    found, at = [], 0.0
    for supply in supplies:
        capacity = supply.capacity_tokens_per_s
        width = _UNLIMITED_SHARE * known if capacity is None else max(capacity, _THINNEST_SHARE * known)
        found.append(Step(supply, at, width))
        at += width
    return found


def height_in(supplies: Sequence[Supply]) -> float:
    """How high the drawing is."""
    return max(3.3, 0.9 + 0.165 * len(supplies))


def draw_merit(canvas: Canvas, supplies: Sequence[Supply]) -> None:
    """Bars of the avoidable cost, a thick line for the amortized, and the names beside their numbers."""
    whole_in, steps = height_in(supplies), steps_of(supplies)
    axes = canvas.subplots()
    canvas.subplots_adjust(left=0.075, right=0.68, top=1 - 0.5 / whole_in, bottom=0.45 / whole_in)
    tops = [max(s.avoidable_usd_per_mtok, s.amortized_usd_per_mtok or 0.0) for s in supplies]
    is_log = scale(axes, [*(s.avoidable_usd_per_mtok for s in supplies), *(1.12 * top for top in tops)])
    lowest = axes.get_ylim()[0]
    unit = in_units(axes.yaxis, tops)
    for place, (step, top) in enumerate(zip(steps, tops, strict=True), 1):
        supply = step.supply
        style = dict(STYLES[supply.kind])
        if supply.capacity_tokens_per_s is None:
            style["linestyle"] = (0, (3, 2))
        height = max(supply.avoidable_usd_per_mtok, lowest) - lowest
        axes.bar(step.left, height, step.width, bottom=lowest, align="edge", **style)
        if supply.amortized_usd_per_mtok is not None:
            level = max(supply.amortized_usd_per_mtok, lowest)
            axes.plot([step.left, step.left + step.width], [level, level], solid_capstyle="butt", **_MARK)
        axes.annotate(
            str(place), (step.left + step.width / 2.0, max(top, lowest)), (0, 3), textcoords="offset points",
            ha="center", va="bottom", fontsize=7.5,
        )  # fmt: skip
        axes.text(
            1.03, 1.0 - (place - 0.5) / max(len(steps), 10), _key(place, supply),
            transform=axes.transAxes, va="center", ha="left", fontsize=8,
        )  # fmt: skip
    axes.set_xlim(0.0, steps[-1].left + steps[-1].width)
    axes.set_xticks([])
    axes.set_ylabel(f"{unit} per Mtok, logarithmic" if is_log else f"{unit} per Mtok")
    _ruler(axes, supplies)
    kinds = [kind for kind in KINDS if any(supply.kind == kind for supply in supplies)]
    entries: list[tuple[Any, str]] = [(Patch(**STYLES[kind]), f"{WORDS[kind]}, avoidable") for kind in kinds]
    if any(supply.amortized_usd_per_mtok is not None for supply in supplies):
        entries.append((Line2D([], [], **_MARK), "amortized"))
    legend_above(canvas, entries)


def _key(place: int, supply: Supply) -> str:
    is_api = supply.kind == "api"
    return f"{place}  {short(supply.name, 34 if is_api else 24)}{'' if is_api else f', {supply.kind}'}"


def _ruler(axes: Axes, supplies: Sequence[Supply]) -> None:
    """How wide so many tokens per second are, below the bars."""
    known = sum(supply.capacity_tokens_per_s or 0.0 for supply in supplies)
    if known <= 0.0:
        axes.set_xlabel("no limit is known")
        return
    length = round_below(known / 5.0)
    transform = axes.get_xaxis_transform()
    axes.plot(
        [0.0, length], [-0.04, -0.04], transform=transform, color="#000000", linewidth=1.4, clip_on=False, marker="|",
        markersize=6,
    )  # fmt: skip
    text = f"{number(length)} tokens/s; a dashed bar has no known limit"
    axes.text(0.0, -0.07, text, transform=transform, va="top", ha="left", fontsize=8)


def round_below(value: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is not above.

    >>> [round_below(value) for value in (7.0, 23.0, 100.0, 0.3)]
    [5.0, 20.0, 100.0, 0.2]
    """
    power = 10.0 ** int(f"{value:e}".partition("e")[2])
    # Powers of ten that are no whole numbers are rounded themselves.
    return float(f"{max((m for m in (1.0, 2.0, 5.0) if m * power <= value * (1 + 1e-9)), default=1.0) * power:.3g}")
