"""What else could be had, in the fluid model: sizings of the spreadsheet, every number of GPUs, and moved assumptions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from scheduler.planning import document
from scheduler.planning.model import Choice, Levers, Model
from scheduler.planning.screening import newsvendor
from scheduler.planning.search import UnitCosts, summary
from scheduler.planning.sensitivity import Consequence, Moved, tornado
from scheduler.planning.shortage import billed, holds, is_rounding, shortage, without_failures
from scheduler.planning.surface import Floats

_POINTS = 48
# Enough to tell by how much an assumption moves the mean.
_SCENARIOS = 25


def sizings(model: Model, choice: Choice) -> tuple[document.Sizing, ...]:
    """The plan beside what people do without one: own for the mean load, its 95th percentile, its peak,
    by the newsvendor's formula, nothing, as now.

    Sizings in which what must stay finds no room are left out: nobody could bill what they cost.
    """
    loads = [surface.load for surface in model.surfaces]
    share = np.diff(model.edges_s) / (model.edges_s[-1] - model.edges_s[0])
    counts: dict[str, Sequence[int]] = {
        "mean": [math.ceil(float(share @ load)) for load in loads],
        "p95": [math.ceil(float(np.quantile(load, 0.95))) for load in loads],
        "peak": [math.ceil(float(load.max())) for load in loads],
        "newsvendor": [_newsvendor(model, at) for at in range(len(loads))],
        "now": [unit.technology.replicas_now for unit in model.units],
    }
    if not any(surface.must.any() for surface in model.surfaces):  # what must stay cannot be bought
        counts["none"] = [0] * len(loads)
    found = [_sizing("plan", model, choice)]
    for name, owned in counts.items():
        held = [min(n, unit.technology.replicas_max) for n, unit in zip(owned, model.units, strict=True)]
        if all(
            n == 0 or unit.technology.owned_usd_per_hour is not None for n, unit in zip(held, model.units, strict=True)
        ):
            other = model.of(held)
            found += [_sizing(name, model, other)] if holds(model, other) else []
    return tuple(found)


def _newsvendor(model: Model, at: int) -> int:
    """By the closed form, against the API's mean price or the rent: as if the load to come were that of the trace."""
    unit, surface, money = model.units[at], model.surfaces[at], model.money(model.units[at])
    hour_s = 3600.0 * money.usable
    dearer = min(unit.api_usd_per_work_s * hour_s, money.rent_usd_per_hour() + unit.energy_usd_per_work_s * hour_s)
    owned_usd = math.inf if money.owned_usd_per_hour is None else money.owned_usd_per_hour
    load = surface.load / money.usable
    return math.ceil(newsvendor(load, surface.hours, owned_usd, dearer, unit.energy_usd_per_work_s * hour_s))


def _sizing(name: str, model: Model, choice: Choice) -> document.Sizing:
    had = [sum(counts) for counts in zip(choice.owned, choice.reserved, strict=True)]
    return document.Sizing(
        name=name, gpus=gpus_of(model, choice.owned), usd_per_hour=summary(billed(model, choice), model.spec.cvar_share),
        replicas={unit.name: count for unit, count in zip(model.units, had, strict=True)},
    )  # fmt: skip


def gpus_of(model: Model, owned: Sequence[int]) -> float:
    """GPUs of so many owned replicas of each unit."""
    return sum(n * unit.technology.gpus_per_replica for n, unit in zip(owned, model.units, strict=True))


def owned_costs(model: Model) -> tuple[document.OwnedCost, ...]:
    """Cost against GPUs owned in all, from none to more than ever pay: each step buys where a GPU saves most.

    What is reserved and rented beside them is the best for each. Where what must stay finds no room there is no cost.
    """
    tables = model.tables()
    at = [0] * len(tables)
    best = [_over_reserved(table) for table in tables]
    short = [_short(model, index, table) for index, table in enumerate(tables)]
    gpus = [unit.technology.gpus_per_replica for unit in model.units]
    path = [tuple(at)]
    while True:
        gains = [_gain(best[u], tables[u], at[u], gpus[u]) for u in range(len(at))]
        if max(gains) == -math.inf:
            break
        at[int(np.argmax(gains))] += 1
        path.append(tuple(at))
    chosen = sorted({round(x) for x in np.linspace(0, len(path) - 1, _POINTS)})
    found = []
    for index in chosen:
        usd = model.bought_by(model.drawn)
        for u, place in enumerate(path[index]):
            usd = usd + best[u][:, place] - short[u].weighed[:, place]
        if not all(is_rounding(short[u].always[:, place], usd) for u, place in enumerate(path[index])):
            continue
        owned = [int(tables[u].owned[place]) for u, place in enumerate(path[index])]
        found.append(document.OwnedCost(gpus=gpus_of(model, owned), usd_per_hour=summary(usd, model.spec.cvar_share)))
    return tuple(found)


def _over_reserved(table: UnitCosts, usd_per_hour: Floats | None = None) -> Floats:
    """USD per hour [scenario, owned] with the number of reserved ones that is best in the mean; of the table's by default."""
    best = np.argmin(table.usd_per_hour.mean(axis=0), axis=1)
    usd = table.usd_per_hour if usd_per_hour is None else usd_per_hour
    return np.asarray(usd[:, np.arange(len(table.owned)), best], np.float64)


class _Short(NamedTuple):
    """USD per hour [scenario, owned] for what must stay: in the table, and what of it is there while no replica fails."""

    weighed: Floats
    always: Floats


def _short(model: Model, index: int, table: UnitCosts) -> _Short:
    surface, money = model.surfaces[index], model.money(model.units[index])
    return _Short(
        *(
            _over_reserved(table, shortage(surface, of, model.drawn, table.owned, table.reserved))
            for of in (money, without_failures(money))
        )
    )


def _gain(usd: np.ndarray, table: UnitCosts, at: int, gpus: float) -> float:
    """USD per hour and GPU that the next step saves in the mean."""
    if at + 1 >= len(table.owned):
        return -math.inf
    step = float(table.owned[at + 1] - table.owned[at]) * gpus
    return float(usd[:, at].mean() - usd[:, at + 1].mean()) / step


def sensitivity(model: Model, choice: Choice) -> tuple[document.Sensitivity, ...]:
    """Every assumption moved alone: what the plan then costs, and how many GPUs would have been best."""
    # Of scenarios in the order of what the plan costs in them every fourth or so: they stand for all.
    step = max(1, len(model.drawn) // _SCENARIOS)
    order = np.argsort(choice.usd_per_hour, kind="stable")[step // 2 :: step]
    few, spec = replace(model, drawn=tuple(model.drawn[at] for at in np.sort(order))), model.spec
    apart_usd = float(billed(model, choice).mean() - billed(few, few.of(choice.owned, choice.reserved)).mean())

    def at(make: Callable[[float], Levers]) -> Callable[[float], Consequence]:
        def consequence(value: float) -> Consequence:
            levers = make(value)
            unchanged = few.of(choice.owned, choice.reserved, levers)
            usd = float(billed(few, unchanged, levers).mean()) + apart_usd
            return Consequence(usd, gpus_of(few, few.best(levers).owned))

        return consequence

    twice = 2.0 * spec.horizon_years  # two standard deviations, but enough to see something
    load = _around(max(0.2, twice * spec.growth_per_year.sd))
    api = _around(max(0.3, twice * spec.api_price_per_year.sd))
    power = _around(max(0.5, twice * spec.power_price_per_year.sd))
    ranges = [
        ("load", "of what is planned", *load, lambda x: Levers(growth=x)),
        ("API prices", "of today's", *api, lambda x: Levers(api_price=x)),
        ("price of power", "of today's", *power, lambda x: Levers(power_price=x)),
        ("price of hardware", "of what is assumed", *_around(0.25), lambda x: Levers(hardware_price=x)),
        ("rent", "of what is assumed", *_around(0.3), lambda x: Levers(rent_price=x)),
        ("work that a replica does", "of what was simulated", *_around(0.15), lambda x: Levers(usable=x)),
        ("availability of owned replicas", "share of the time", 0.97, 1.0, lambda x: Levers(owned_availability=x)),
    ]
    moved = [Moved(name, unit, low, high, at(make)) for name, unit, low, high, make in ranges if _matters(name, model)]
    return tornado(moved)


def _around(part: float) -> tuple[float, float]:
    return max(0.1, 1.0 - part), 1.0 + part


def _matters(name: str, model: Model) -> bool:
    """Rent is nobody's assumption where nothing can be rented."""
    return name != "rent" or any(
        t.reserved_usd_per_hour is not None or t.rented_usd_per_hour is not None
        for t in (unit.technology for unit in model.units)
    )
