"""The fluid model of a plan: units with their surfaces and prices, searched over scenarios. Everything but the simulator.

Assumptions are moved by ``Levers``, without reading the trace again: that is what sensitivity and what-if cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from scheduler.config.planning import PlanningSpec
from scheduler.planning import days, recourse, scenarios
from scheduler.planning.hourly import UnitMoney
from scheduler.planning.recourse import Parts
from scheduler.planning.requests import Requests
from scheduler.planning.scenarios import Instant, Scenario
from scheduler.planning.search import UnitCosts, objective, search
from scheduler.planning.surface import Surface, load_of, surface_of
from scheduler.planning.units import Placement, Unit, units_of

BINS_MAX = 1008
BIN_S_MIN = 5.0
LEVELS = 129
# Before the simulator has said what a replica does: engines wait for requests that are not there yet.
USABLE = 0.95
_GRID_MAX = 160
_HEADROOM = 1.15
_WORST_USD_RATIO = 5.0
# Times the listed rent: so much dearer renting may come (``calibration``).
OVERHEAD_MAX = 10.0


@dataclass(frozen=True, slots=True)
class Levers:
    """By how much things differ from what is assumed: factors; ``owned_availability`` None: as assumed."""

    growth: float = 1.0
    api_price: float = 1.0
    power_price: float = 1.0
    hardware_price: float = 1.0
    rent_price: float = 1.0
    owned_availability: float | None = None
    usable: float = 1.0


AS_ASSUMED = Levers()


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What to have of each unit, in their order, and what all of it costs: USD per hour [scenario], ``bought_usd_per_hour``
    (requests that no pool may serve) included. ``objective``: with the weight of risk."""

    owned: tuple[int, ...]
    reserved: tuple[int, ...]
    usd_per_hour: np.ndarray
    objective: float


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """``usable`` by unit: how much of a replica the fluid may count. ``bought_usd_per_hour``: what never comes home.

    ``bought_by_bin``: the same by time bin. ``level_sd``: as ``days``. ``overheads`` by unit: how much dearer renting comes
    than listed (``calibration``).
    """

    spec: PlanningSpec
    requests: Requests
    placements: Mapping[str, Placement]
    edges_s: np.ndarray
    units: tuple[Unit, ...]
    surfaces: tuple[Surface, ...]
    bought_usd_per_hour: float
    seed: int
    usable: Mapping[str, float] = field(default_factory=dict)
    drawn: tuple[Scenario, ...] = ()
    bought_by_bin: np.ndarray = field(default_factory=lambda: np.zeros(1))
    level_sd: float = 0.0
    overheads: Mapping[str, float] = field(default_factory=dict)

    def bought_by(self, drawn: Sequence[Scenario]) -> np.ndarray:
        """USD per hour [scenario] of what never comes home: with more requests and other prices it is more or less."""
        factors = [np.mean([instant.growth * instant.api_price for instant in s.instants]) for s in drawn]
        return self.bought_usd_per_hour * np.array(factors)

    def all_api_usd_per_hour(self, levers: Levers = AS_ASSUMED) -> np.ndarray:
        """USD per hour [scenario] if everything that may leave were bought from APIs, and nothing were owned or rented."""
        drawn = self.scenarios(levers)
        usd = self.bought_by(drawn)
        for surface in self.surfaces:
            for row, scenario in enumerate(drawn):
                factor = np.mean([instant.growth * instant.api_price for instant in scenario.instants])
                usd[row] += factor * float(scenario.weight @ surface.all_api_usd_per_hour)
        return usd

    def money(self, unit: Unit, levers: Levers = AS_ASSUMED) -> UnitMoney:
        """Prices of a unit's technology."""
        t, spec = unit.technology, self.spec
        idle_usd = t.idle_usd_per_hour
        rent = levers.rent_price * self.overheads.get(unit.name, 1.0)
        return UnitMoney(
            owned_usd_per_hour=_moved(t.owned_usd_per_hour, idle_usd, levers.hardware_price),
            reserved_usd_per_hour=_moved(t.reserved_usd_per_hour, idle_usd, levers.rent_price),
            rented_usd_per_hour=_moved(t.rented_usd_per_hour, idle_usd, rent),
            idle_usd_per_hour=idle_usd,
            owned_availability=levers.owned_availability or spec.replica_availability,
            rented_availability=t.rented_availability,
            rented_start_s=min(t.start_s, 1800.0),
            usable=self.usable.get(unit.name, USABLE) * levers.usable,
            short_usd_per_hour=self._short_usd_per_hour(unit),
        )

    def listed(self, unit: Unit) -> UnitMoney:
        """The same with rents as they are listed."""
        return replace(self, overheads={}).money(unit)

    def _short_usd_per_hour(self, unit: Unit) -> float:
        """What a replica that is missing for work that must stay counts as: more than any other use of one is worth."""
        may = np.isfinite(unit.elsewhere_usd)
        dearest = float(np.max(unit.elsewhere_usd[may] / unit.work_s[may], initial=0.0)) * 3600.0
        t = unit.technology
        # Its start on top, which is at most as long again as what it works.
        rent_usd = 2.0 * OVERHEAD_MAX * t.rented_usd_per_hour if t.rented_usd_per_hour is not None else None
        ways = [usd for usd in (t.owned_usd_per_hour, t.reserved_usd_per_hour, rent_usd) if usd is not None]
        return _WORST_USD_RATIO * max(dearest, *ways)

    def scenarios(self, levers: Levers = AS_ASSUMED) -> tuple[Scenario, ...]:
        """Those that were drawn, with ``levers`` on each of them."""
        if levers.growth == levers.api_price == levers.power_price == 1.0:
            return self.drawn
        factors = np.array([levers.growth, levers.api_price, levers.power_price])
        return tuple(
            replace(s, instants=tuple(Instant(*(np.array(i) * factors).tolist()) for i in s.instants))
            for s in self.drawn
        )

    def under(self, spec: PlanningSpec, count: int | None = None) -> Model:
        """The same requests under other assumptions of the years to come; ``count`` scenarios."""
        offsets_s = self.edges_s - self.edges_s[0]
        drawn = scenarios.draw(spec, offsets_s, self.seed, count, level_sd=self.level_sd)
        return replace(self, spec=spec, drawn=drawn)

    def tables(self, levers: Levers = AS_ASSUMED, around: Choice | None = None) -> list[UnitCosts]:
        """Costs of every number of replicas of each unit; where that are many, in steps, or all near those of ``around``."""
        drawn = self.scenarios(levers)
        found = []
        for index, (unit, surface) in enumerate(zip(self.units, self.surfaces, strict=True)):
            money = self.money(unit, levers)
            most = self._most(surface, money, unit, drawn)
            near = None if around is None else (around.owned[index], around.reserved[index])
            owned = _grid(most, near and near[0]) if money.owned_usd_per_hour is not None else np.zeros(1, np.int64)
            reserved = (
                _grid(most, near and near[1]) if money.reserved_usd_per_hour is not None else np.zeros(1, np.int64)
            )
            found.append(UnitCosts(owned, reserved, recourse.costs(surface, money, drawn, owned, reserved)))
        return found

    def _most(self, surface: Surface, money: UnitMoney, unit: Unit, drawn: Sequence[Scenario]) -> int:
        growth = max(instant.growth for scenario in drawn for instant in scenario.instants)
        most = math.ceil(float(surface.load.max()) * growth / money.usable / money.owned_availability * _HEADROOM) + 1
        return min(most, unit.technology.replicas_max)

    def best(self, levers: Levers = AS_ASSUMED) -> Choice:
        """The cheapest choice, mean and risk together."""
        tables = self.tables(levers)
        found = self._searched(tables, levers)
        if any(len(unit.owned) > 1 and np.diff(unit.owned).max() > 1 for unit in tables):
            found = self._searched(self.tables(levers, found), levers)
        return found

    def _searched(self, tables: Sequence[UnitCosts], levers: Levers) -> Choice:
        best = search(tables, self.spec.risk_weight, self.spec.cvar_share)
        usd = best.usd_per_hour + self.bought_by(self.scenarios(levers))
        return Choice(
            best.owned, best.reserved, usd, float(objective(usd, self.spec.risk_weight, self.spec.cvar_share))
        )

    def of(self, owned: Sequence[int], reserved: Sequence[int] | None = None, levers: Levers = AS_ASSUMED) -> Choice:
        """What a given choice costs."""
        reserved = tuple(reserved) if reserved is not None else (0,) * len(self.units)
        drawn = self.scenarios(levers)
        usd = self.bought_by(drawn)
        for unit, surface, own, held in zip(self.units, self.surfaces, owned, reserved, strict=True):
            money = self.money(unit, levers)
            usd = usd + recourse.costs(surface, money, drawn, np.array([own]), np.array([held]))[:, 0, 0]
        return Choice(tuple(owned), reserved, usd, float(objective(usd, self.spec.risk_weight, self.spec.cvar_share)))

    def parts(self, choice: Choice, levers: Levers = AS_ASSUMED) -> list[Parts]:
        """Where the money of a choice goes, by unit."""
        rows = zip(self.units, self.surfaces, choice.owned, choice.reserved, strict=True)
        drawn = self.scenarios(levers)
        return [recourse.parts(s, self.money(u, levers), drawn, own, held) for u, s, own, held in rows]


def model_of(spec: PlanningSpec, requests: Requests, placements: Mapping[str, Placement], seed: int) -> Model:
    """Units, surfaces and scenarios of the requests."""
    units, stray_usd = units_of(requests, placements)
    edges_s = edges_of(requests)
    surfaces = []
    for unit in units:
        peak = float(load_of(unit, edges_s).max())
        # Finer at the bottom: small numbers of replicas are whole ones.
        levels = np.linspace(0.0, 1.0, LEVELS) * peak * 1.0000001
        surfaces.append(surface_of(unit, edges_s, levels))
    offsets_s = edges_s - edges_s[0]
    loads = [unit.technology.gpus_per_replica * s.load for unit, s in zip(units, surfaces, strict=True)]
    sd = days.level_sd(days.blocks_of(offsets_s), loads, spec.day_half_life) if spec.level_sd is None else spec.level_sd
    drawn = scenarios.draw(spec, offsets_s, seed, level_sd=sd)
    bought = requests.homeless_usd_per_hour + stray_usd / requests.hours
    usd, _ = np.histogram(requests.homeless_at_s, edges_s, weights=requests.homeless_usd.astype(float))
    by_bin = usd * requests.stands_for / (np.diff(edges_s) / 3600.0) + stray_usd / requests.hours
    return Model(spec, requests, placements, edges_s, units, tuple(surfaces), bought, seed, {}, drawn, by_bin, sd)


def edges_of(requests: Requests) -> np.ndarray:
    """Edges of time bins: ten minutes in a week, and no shorter than what a backlog lasts."""
    window = requests.window
    bins = int(np.clip(window.span_s / 600.0, 60, BINS_MAX))
    bins = max(1, min(bins, int(window.span_s / BIN_S_MIN)))
    return np.linspace(window.start_s, window.end_s, bins + 1)


def _moved(usd_per_hour: float | None, idle_usd: float, factor: float) -> float | None:
    """The price with the factor on all but the power in it."""
    return None if usd_per_hour is None else max(0.0, usd_per_hour - idle_usd) * factor + idle_usd


def _grid(most: int, near: int | None) -> np.ndarray:
    """Numbers of replicas to try from 0 to ``most``: all, or steps, or all within a step of ``near``."""
    step = max(1, -(-most // _GRID_MAX))
    if step == 1:
        return np.arange(most + 1)
    if near is None:
        return np.unique(np.append(np.arange(0, most, step), most))
    return np.unique(np.clip(np.append(np.arange(near - step, near + step + 1), 0), 0, most))
