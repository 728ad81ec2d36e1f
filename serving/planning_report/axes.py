"""Axes of money: numbers short enough to stand beside the axis, whatever their order of magnitude."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from serving.report.words import number

# From which largest value on, the unit's size in USD, its name.
_UNITS = (
    (1e12, 1e12, "trillion USD"),
    (1e9, 1e9, "billion USD"),
    (1e6, 1e6, "million USD"),
    (2e4, 1e3, "thousand USD"),
    (1e-2, 1.0, "USD"),
    (1e-5, 1e-3, "thousandths of a USD"),
    (1e-8, 1e-6, "millionths of a USD"),
    (0.0, 1e-9, "billionths of a USD"),
)


def unit_of(values: Sequence[float]) -> tuple[float, str]:
    """Size in USD and name of the unit in which the largest of these has few digits.

    >>> unit_of([3.0, -45_000.0]), unit_of([0.0]), unit_of([4.4e-5])
    ((1000.0, 'thousand USD'), (1.0, 'USD'), (0.001, 'thousandths of a USD'))
    """
    most = max((abs(value) for value in values), default=0.0)
    if most == 0.0:
        return 1.0, "USD"
    return next((size, name) for least, size, name in _UNITS if most >= least)


def in_units(axis: Any, values: Sequence[float]) -> str:
    """Write the numbers at an axis of USD in the unit that suits ``values``, and return its name."""
    size, name = unit_of(values)
    axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value / size)))
    return name


def from_zero(axes: Axes, values: Sequence[float]) -> str:
    """A linear axis of USD that begins at zero, or below for what is below; returns the unit of its numbers."""
    low, high = min((0.0, *values)), max((0.0, *values))
    margin = 0.06 * (high - low) or 1.0
    axes.set_ylim(low - margin if low < 0.0 else 0.0, high + margin)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    return in_units(axes.yaxis, values)


def _tick(value: float) -> str:
    if abs(value) >= 1e-4:
        return f"{value:,.10g}".replace("-", "−")
    # Zero, as far as sums of steps can be.
    return "0" if abs(value) < 1e-12 else number(value)
