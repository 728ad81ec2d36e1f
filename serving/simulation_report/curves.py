"""Drawings over time: money, load and bid prices, each bin as a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from serving.report.drawing import legend_above, scale
from serving.report.words import number
from serving.simulation_report.bars import API, ENERGY
from serving.simulation_report.timeline import Bins, Spend, Work

LOCAL: dict[str, Any] = {"facecolor": "#CFE3F2", "edgecolor": "#000000", "linewidth": 0.7}
UNSERVED: dict[str, Any] = {"facecolor": "#000000", "edgecolor": "#000000", "linewidth": 0.7}
_PRICE: dict[str, Any] = {"color": "#0072B2", "linewidth": 1.4}
_DUAL: dict[str, Any] = {"color": "#000000", "linewidth": 1.0, "linestyle": (0, (2, 1.5))}
_PEAK_RATIO = 2.5
_CAPACITY: dict[str, Any] = {"color": "#000000", "linewidth": 1.2, "linestyle": (0, (5, 2))}


def draw_spend(canvas: Canvas, panels: Sequence[tuple[str, Spend]], bins: Bins, height_in: float) -> None:
    """A panel for each policy on the same scale: energy below, APIs above."""
    axes = _panels(canvas, len(panels), bins, height_in)
    highest = max(float((found.api + found.energy).max()) for _, found in panels)
    for panel, (name, found) in zip(axes, panels, strict=True):
        _stack(panel, bins, ((found.energy, ENERGY), (found.api, API)))
        scale(panel, [highest])
        panel.set_ylabel("USD per hour")
        panel.text(0.005, 1.02, name, transform=panel.transAxes, va="bottom", ha="left", fontweight="bold")
    legend_above(canvas, [(Patch(**ENERGY), "energy"), (Patch(**API), "APIs")])


def draw_work(canvas: Canvas, found: Work, capacity: float, bins: Bins, height_in: float) -> None:
    """Local work by who took it, and what all pools together can do."""
    (axes,) = _panels(canvas, 1, bins, height_in)
    layers = [(found.local, LOCAL), (found.burst, API)]
    entries: list[tuple[Any, str]] = [(Patch(**LOCAL), "served here"), (Patch(**API), "burst to APIs")]
    if found.unserved.any():
        layers.append((found.unserved, UNSERVED))
        entries.append((Patch(**UNSERVED), "not served"))
    _stack(axes, bins, layers)
    axes.axhline(capacity, **_CAPACITY)
    scale(axes, [capacity, float((found.local + found.burst + found.unserved).max())])
    axes.set_ylabel("work, in busy replicas")
    legend_above(canvas, [*entries, (Line2D([], [], **_CAPACITY), "capacity of the pools")])


def draw_bids(
    canvas: Canvas, panels: Sequence[tuple[str, np.ndarray | None, np.ndarray | None]], bins: Bins, height_in: float
) -> None:
    """A panel for each pool: the policy's price, and the clairvoyant's."""
    axes = _panels(canvas, len(panels), bins, height_in)
    for panel, (name, price, dual) in zip(axes, panels, strict=True):
        lines = [(line, style) for line, style in ((dual, _DUAL), (price, _PRICE)) if line is not None]
        for line, style in lines:
            panel.stairs(line, bins.edges, baseline=None, **style)
        values = np.concatenate([np.zeros(1), *(line[np.isfinite(line)] for line, _ in lines)])
        peak, usual = float(values.max()), float(np.quantile(values, 0.95))
        top = 1.6 * usual if peak > _PEAK_RATIO * usual > 0.0 else peak  # one spike would flatten everything else
        panel.set_ylim(min(0.0, float(values.min())), 1.06 * top or 1.0)
        panel.set_ylabel("USD per replica-s")
        panel.yaxis.set_major_locator(MaxNLocator(5))
        title = f"{name}, with a peak of {number(peak)} beyond the figure" if top < peak else name
        panel.text(0.005, 1.02, title, transform=panel.transAxes, va="bottom", ha="left", fontweight="bold")
    legend_above(
        canvas, [(Line2D([], [], **_PRICE), "bid price"), (Line2D([], [], **_DUAL), "the clairvoyant's price")]
    )


def _stack(axes: Axes, bins: Bins, layers: Sequence[tuple[np.ndarray, dict[str, Any]]]) -> None:
    base = np.zeros(bins.size)
    for values, style in layers:
        if values.any():
            axes.stairs(base + values, bins.edges, baseline=base, fill=True, **{**style, "linewidth": 0.0})
            axes.stairs(base + values, bins.edges, baseline=None, color="#000000", linewidth=0.6)
        base = base + values


def _panels(canvas: Canvas, count: int, bins: Bins, height_in: float) -> Sequence[Axes]:
    axes = canvas.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    gap = 0.34 if count > 1 else 0.0
    canvas.subplots_adjust(left=0.085, right=0.985, top=1 - 0.55 / height_in, bottom=0.45 / height_in, hspace=gap)
    axes[0].set_xlim(float(bins.edges[0]), float(bins.edges[-1]))
    for panel in axes:
        panel.grid(True, axis="both", color="#DDDDDD", linewidth=0.5)
        panel.set_axisbelow(True)
    axes[-1].set_xlabel(f"{bins.unit} since the trace began")
    return list(axes)
