"""Energy and carbon of a plan with the trace as it is: joules of what is served at home, and idle power of what is had."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from pricing.board import Board
from pricing.onprem import HOURS_PER_YEAR
from scheduler.config import ClusterConfig
from scheduler.planning import document, recourse
from scheduler.planning.found import Found
from scheduler.planning.model import Choice, Model
from scheduler.planning.scenarios import today
from scheduler.planning.surface import Floats, bins_of
from scheduler.planning.technologies import expanded
from scheduler.planning.units import Unit, placed
from scheduler.simulation.scenario import EPOCH_S
from scheduler.simulation.site import site_of

_WORK_S_MIN = 1e-12

Until = Callable[[float], tuple[Board, float]]


class Home(NamedTuple):
    """What one unit serves at home and draws for that, each bin as if the whole time were like it.

    ``watts`` [bin] at the boards above idle power, ``idle_watts`` [bin] of everything that is had, ``tokens_per_s`` [bin].
    """

    watts: Floats
    idle_watts: Floats
    tokens_per_s: Floats


class Power(NamedTuple):
    """Of one pool by bin: USD per kWh as the meter of its site counts it, and grams of CO2 in it (nan: not known)."""

    usd_per_kwh: Floats
    grams_per_kwh: Floats


def energy_use(found: Found, model: Model, choice: Choice) -> document.EnergyUse:
    """A year of the plan at today's load and prices, each pool with the PUE and the tariff of its site.

    ``joules_per_token`` is with idle power and PUE, over the tokens that are served at home (0 where none are).
    """
    asked = found.asked
    config = expanded(asked.config)
    site = site_of(config, asked.scenario.profiles, EPOCH_S)
    weight = today(model.edges_s).weight
    powers = _powers(model, site.priced_until)
    kw = usd_per_hour = grams_per_hour = tokens_per_s = 0.0
    for index, home in enumerate(homes(model, choice)):
        name = model.units[index].name
        pool_kw = (home.watts + home.idle_watts) / 1e3 * _pue(config, name)
        kw += float(weight @ pool_kw)
        usd_per_hour += float(weight @ (pool_kw * powers[name].usd_per_kwh))
        grams = np.where(pool_kw > 0.0, pool_kw * powers[name].grams_per_kwh, 0.0)
        grams_per_hour += float(weight @ grams)
        tokens_per_s += float(weight @ home.tokens_per_s)
    is_known = bool(np.isfinite(grams_per_hour)) and kw > 0.0
    return document.EnergyUse(
        kwh_per_year=kw * HOURS_PER_YEAR, usd_per_year=usd_per_hour * HOURS_PER_YEAR,
        kg_co2_per_year=grams_per_hour * HOURS_PER_YEAR / 1e3 if is_known else None,
        joules_per_token=kw * 1e3 / tokens_per_s if tokens_per_s > 0.0 else 0.0,
        grams_co2_per_kwh=grams_per_hour / kw if is_known else None,
    )  # fmt: skip


def homes(model: Model, choice: Choice) -> Iterator[Home]:
    """What each unit serves at home with the trace as it is: the most worth first, as far as what is had goes."""
    as_is = today(model.edges_s)
    rows = zip(model.units, model.surfaces, choice.owned, choice.reserved, strict=True)
    for index, (unit, surface, owned, reserved) in enumerate(rows):
        money = model.money(unit)
        rented = recourse.parts(surface, money, [as_is], owned, reserved).rented
        works = money.usable * (owned * money.owned_availability + reserved + rented)
        joules, tokens = _drawn(model, index)
        share, bins = _served(unit, model.edges_s, works)
        per_s = unit.stands_for / np.diff(model.edges_s)
        size = len(surface.load)
        yield Home(
            np.bincount(bins, share * joules, size) * per_s,
            (owned + reserved + rented) * unit.technology.idle_watts,
            np.bincount(bins, share * tokens, size) * per_s,
        )


def _drawn(model: Model, index: int) -> tuple[Floats, Floats]:
    """Joules at the board and tokens of every request of a unit, in its order."""
    t = model.units[index].technology
    pool = next(pool for pool in model.requests.pools if pool.pool == t.pool)
    place = [one.name for one in pool.technologies].index(t.name)
    chosen = placed(pool, model.placements.get(pool.pool, {}))
    rows = (chosen == place) & np.isfinite(pool.work_s[place])
    inputs, outputs = pool.input_tokens[rows].astype(float), pool.output_tokens[rows].astype(float)
    return inputs * t.joules_per_input_token + outputs * t.joules_per_output_token, inputs + outputs


def _served(unit: Unit, edges_s: Floats, works: Floats) -> tuple[Floats, np.ndarray]:
    """Share of each request that is served by so many replicas [bin], as ``surface`` fills them, and its bin."""
    bins = bins_of(unit.at_s, edges_s)
    work_s = np.maximum(np.asarray(unit.work_s, np.float64), _WORK_S_MIN)
    worth = (np.asarray(unit.elsewhere_usd, np.float64) - unit.energy_usd) / work_s
    order = np.flatnonzero(worth > 0.0)
    order = order[np.lexsort((-worth[order], bins[order]))]
    cumulated = np.concatenate([[0.0], np.cumsum(work_s[order])])
    begins = cumulated[np.searchsorted(bins[order], np.arange(len(works)))]
    room_s = works * np.diff(edges_s) / unit.stands_for
    left_s = room_s[bins[order]] - (cumulated[:-1] - begins[bins[order]])
    share = np.zeros(len(unit.at_s))
    share[order] = np.clip(left_s / work_s[order], 0.0, 1.0)
    return share, bins


def _pue(config: ClusterConfig, name: str) -> float:
    pool = next(pool for pool in config.pools if pool.name == name)
    return next(site.electricity.pue for site in config.sites if site.name == pool.site)


def _powers(model: Model, priced_until: Until) -> dict[str, Power]:
    """Of each unit's pool, the price of power and the carbon in it at the middle of every bin."""
    middles_s = 0.5 * (model.edges_s[1:] + model.edges_s[:-1])
    names = [unit.name for unit in model.units]
    usd, grams = (np.zeros((len(names), len(middles_s))) for _ in range(2))
    priced, until_s = priced_until(EPOCH_S + float(middles_s[0]))
    for column, at_s in enumerate(EPOCH_S + middles_s):
        if at_s >= until_s:
            priced, until_s = priced_until(float(at_s))
        for row, name in enumerate(names):
            pool = priced.pools[name]
            usd[row, column] = pool.tariff.usd_per_kwh
            grams[row, column] = np.nan if pool.grams_co2_per_kwh is None else pool.grams_co2_per_kwh
    return {name: Power(usd[row], grams[row]) for row, name in enumerate(names)}
