"""Which supply carries how much of a load-duration curve, and how each kind of supply is named and drawn."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from scheduler.planning.document import LoadDuration
from serving.report.drawing import FILLS, HATCHES
from serving.report.words import short
from serving.simulation_report.bars import API

KINDS = ("owned", "reserved", "rented", "api")
WORDS = {"owned": "owned", "reserved": "reserved", "rented": "rented by the hour", "api": "APIs"}
STYLES: dict[str, dict[str, Any]] = {
    "owned": {"facecolor": FILLS[1], "edgecolor": "#000000", "linewidth": 0.7},
    "reserved": {"facecolor": FILLS[3], "edgecolor": "#000000", "hatch": HATCHES[2], "linewidth": 0.7},
    "rented": {"facecolor": FILLS[6], "edgecolor": "#000000", "hatch": HATCHES[4], "linewidth": 0.7},
    "api": API,
}
_SOURCES = {"owned": "owning", "reserved": "reserving", "rented": "renting", "api": "APIs"}


class Layer(NamedTuple):
    """What one kind of supply carries at each point of the curve: replicas from ``low`` to ``high``."""

    kind: str
    low: np.ndarray
    high: np.ndarray


def source(name: str, cells_max: int = 30) -> str:
    """What a line of a screening curve stands for.

    >>> source("rented"), source("rent H100")
    ('renting', 'rent H100')
    """
    return _SOURCES.get(name) or short(name, cells_max)


def layers(duration: LoadDuration) -> tuple[np.ndarray, tuple[Layer, ...]]:
    """Shares of time, and the layers below the falling curve: first what is owned, last what APIs take.

    Where the curve passes a capacity there is a point of its own, so that straight lines between the points are exact.
    Before its first point the curve is level.
    """
    at, load = np.asarray(duration.load.x, float), np.asarray(duration.load.y, float)
    if len(at) and at[0] > 0.0:
        at, load = np.append(0.0, at), np.append(load[0], load)
    edges = np.cumsum([0.0, duration.owned, duration.reserved, duration.rented, np.inf])
    passed = edges[(edges > load.min(initial=np.inf)) & (edges < load.max(initial=-np.inf))]
    if len(passed):
        at, load = np.append(at, np.interp(passed, load[::-1], at[::-1])), np.append(load, passed)
    order = np.lexsort((-load, at))
    at, load = at[order], load[order]
    return at, tuple(
        Layer(kind, np.minimum(load, low), np.minimum(load, high))
        for kind, low, high in zip(KINDS, edges[:-1], edges[1:], strict=True)
    )


def carried(duration: LoadDuration) -> dict[str, float]:
    """Share of the work of a pool by kind of supply; empty where there is no work."""
    at, found = layers(duration)
    areas = {layer.kind: float(np.trapezoid(layer.high - layer.low, at)) for layer in found}
    whole = sum(areas.values())
    return {kind: area / whole for kind, area in areas.items()} if whole > 0.0 else {}
