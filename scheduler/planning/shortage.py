"""What has to stay and finds no room: a weight in the search, no bill. Here it is taken out of what is shown as money."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import binom

from scheduler.planning.hourly import Counts, UnitMoney, enough, hours, missing, rented
from scheduler.planning.model import AS_ASSUMED, Choice, Levers, Model
from scheduler.planning.scenarios import Scenario
from scheduler.planning.surface import Floats, Surface

# Of what a choice costs: a shortage that counts as less is rounding.
_ROUNDING_SHARE = 1e-6


def shortage(
    surface: Surface, money: UnitMoney, scenarios: Sequence[Scenario], owned: Counts, reserved: Counts
) -> Floats:
    """USD per hour [scenario, owned, reserved] that ``recourse.costs`` counts for work that has to stay and finds no room."""
    found = np.zeros((len(scenarios), len(owned), len(reserved)))
    if not surface.must.any():
        return found
    most = int(owned.max()) + int(reserved.max())
    works = binom.pmf(np.arange(int(owned.max()) + 1)[None, :], owned[:, None], money.owned_availability)
    for row, scenario in enumerate(scenarios):
        lacking = np.zeros(most + 1)
        for instant in scenario.instants:
            # With more replicas than are of use nothing is missing.
            counts = np.arange(min(most, enough(surface, money, instant)) + 1)
            for chance, extra in rented(hours(surface, money, instant, counts), money, counts):
                short = missing(surface, money, instant, counts[:, None] + extra) @ scenario.weight
                lacking[: len(counts)] += chance / len(scenario.instants) * short
        for column, count in enumerate(reserved):
            found[row, :, column] = works @ lacking[count : count + works.shape[1]]
    return found * money.short_usd_per_hour


def short_usd_per_hour(model: Model, choice: Choice, levers: Levers = AS_ASSUMED) -> Floats:
    """What a choice is short of, in USD per hour [scenario] as ``Choice.usd_per_hour`` counts it."""
    drawn = model.scenarios(levers)
    usd = np.zeros(len(drawn))
    for unit, surface, owned, reserved in zip(model.units, model.surfaces, choice.owned, choice.reserved, strict=True):
        money = model.money(unit, levers)
        usd += shortage(surface, money, drawn, np.array([owned]), np.array([reserved]))[:, 0, 0]
    return usd


def billed(model: Model, choice: Choice, levers: Levers = AS_ASSUMED) -> Floats:
    """USD per hour [scenario] that would be paid: ``choice`` is one of these ``levers``."""
    return np.asarray(choice.usd_per_hour - short_usd_per_hour(model, choice, levers), np.float64)


def holds(model: Model, choice: Choice) -> bool:
    """Whether what must stay finds room in every scenario while no replica fails."""
    short_usd = short_usd_per_hour(model, choice, Levers(owned_availability=1.0))
    return is_rounding(short_usd, choice.usd_per_hour)


def is_rounding(short_usd_per_hour: Floats, usd_per_hour: Floats) -> bool:
    """Whether a shortage is none beside these costs, both by scenario."""
    return bool(short_usd_per_hour.mean() <= _ROUNDING_SHARE * abs(usd_per_hour.mean()))


def without_failures(money: UnitMoney) -> UnitMoney:
    """The same with owned replicas that always work."""
    return replace(money, owned_availability=1.0)
