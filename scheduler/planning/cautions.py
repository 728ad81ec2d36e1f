"""What has to be said beside a plan, from what it came to: limits that it met, and what its trace cannot tell."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scheduler.planning.costs import Costs
from scheduler.planning.model import Choice, Model
from scheduler.planning.shortage import holds

_HOUR_S = 3600.0
_LATE = 0.05  # of all costs
_GROWN = 1.5  # times today's load: from there on much of what is planned stands idle at first


def cautions(model: Model, choice: Choice, costs: Costs) -> tuple[str, ...]:
    """Warnings of a plan, in sentences."""
    return tuple(_cautions(model, choice, costs))


def _cautions(model: Model, choice: Choice, costs: Costs) -> Iterator[str]:
    span_s = float(model.edges_s[-1] - model.edges_s[0])
    if span_s < _HOUR_S:
        yield f"the trace spans only {span_s:,.0f} s: nothing is known of hours and days"
    for unit, owned, reserved in zip(model.units, choice.owned, choice.reserved, strict=True):
        most = unit.technology.replicas_max
        if max(owned, reserved) >= most:
            yield f"{unit.name}: {most:,} replicas is planning's limit (replicas_max); more might be better"
    growth = float(np.mean([instant.growth for scenario in model.drawn for instant in scenario.instants]))
    if growth > _GROWN:
        years = min(1.0, model.spec.horizon_years / 4.0)
        yield (
            f"sized for the mean of the horizon, {growth:.1f} times today's load; --horizon {years:g} says what is needed "
            "first"
        )
    if costs.starting > _LATE * costs.total:
        yield (
            f"{costs.starting:.4g} USD per hour of the costs are what is bought, or waits, until rented replicas have "
            "started; no cloud bills that"
        )
    if not holds(model, choice):
        yield (
            "in some scenarios a part of what must stay at home finds no room, even if no replica fails; it is not in the "
            "costs, since no bill comes of it"
        )
