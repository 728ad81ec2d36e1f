"""What a number of owned and reserved replicas of one unit costs over scenarios: first what is committed, then the hours.

    cost = owned + reserved + mean over instants and bins of [all API + energy of what must stay - best(working)]

Of owned replicas a binomial number works; its mean is taken, not a draw. ``hourly`` has ``best``. Independent of other units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binom

from scheduler.planning import document
from scheduler.planning.hourly import Counts, UnitMoney, enough, hours, missing, rented, served
from scheduler.planning.scenarios import Instant, Scenario
from scheduler.planning.surface import Floats, Surface

__all__ = ["Parts", "UnitMoney", "costs", "parts"]

_NEVER = 1e-12
_HIGH = 0.95
_RARE = 1e-3  # of the time: what is rented in less of it an API may take


class Parts(NamedTuple):
    """Where the money goes, mean over scenarios. ``short_usd_per_hour`` is a weight, no bill: it is not in ``costs``.

    ``rented`` and ``home_usd_per_hour`` [bin], each bin as if the whole time were like it: replicas rented, and what all
    replicas save net of energy. ``rented_max``: the most at once, but for a thousandth of the time; enough for the highest
    load of the trace where growth is what one scenario in twenty exceeds.
    """

    costs: document.Costs
    short_usd_per_hour: float
    rented: Floats
    home_usd_per_hour: Floats
    rented_max: int


def costs(surface: Surface, money: UnitMoney, scenarios: Sequence[Scenario], owned: Counts, reserved: Counts) -> Floats:
    """USD per hour [scenario, owned, reserved] for every pair of the numbers in ``owned`` and ``reserved`` (whole, >= 0).

    Raises ValueError where more than none is asked of what is not to be had, and for scenarios of other time bins.
    """
    found = _committed(money, scenarios, owned, reserved)
    works = _working(money, owned)
    most = int(owned.max()) + int(reserved.max())
    for row, scenario in enumerate(scenarios):
        _same_bins(surface, scenario)
        by_hour = np.zeros(most + 1)
        for instant in scenario.instants:
            replicas = np.arange(min(most, enough(surface, money, instant)) + 1)
            usd = _spent(surface, money, instant, replicas) @ scenario.weight / len(scenario.instants)
            by_hour += np.pad(usd, (0, most + 1 - len(usd)), mode="edge")
        for column, count in enumerate(reserved):
            found[row, :, column] += works @ by_hour[count : count + works.shape[1]]
    return found


def parts(surface: Surface, money: UnitMoney, scenarios: Sequence[Scenario], owned: int, reserved: int) -> Parts:
    """The same for one choice, taken apart: its costs and its shortage add up to the mean of ``costs``."""
    works = _working(money, np.array([owned]))[0]
    likely = np.flatnonzero(works > _NEVER)
    replicas, works = reserved + likely, works[likely]
    instants = [(1.0 / len(s.instants) / len(scenarios), s.weight, at) for s in scenarios for at in s.instants]
    rent_usd = energy_usd = api_usd = short_usd = 0.0
    renting, home_usd = np.zeros(len(surface.load)), np.zeros(len(surface.load))
    often = np.zeros(1)  # share of the time in which so many are rented
    for part, weight, instant in instants:
        at_work = hours(surface, money, instant, replicas)
        offered_usd = instant.api_price * instant.growth * surface.all_api_usd_per_hour
        must_usd = instant.power_price * instant.growth * surface.must_energy_usd_per_hour
        for chance, extra in rented(at_work, money, replicas):
            share = chance * part
            at = replicas[:, None] + extra
            saved_usd, drawn_usd = (works @ usd for usd in served(surface, money, instant, at))
            if extra.any():
                rent_usd += share * float(weight @ (works @ extra)) * at_work.rent_usd_per_hour
            energy_usd += share * float(weight @ (must_usd + drawn_usd))
            api_usd += share * float(weight @ (offered_usd - saved_usd))
            lacking = works @ missing(surface, money, instant, at)
            short_usd += share * float(weight @ lacking) * money.short_usd_per_hour
            renting += share * (works @ extra)
            home_usd += share * (saved_usd - drawn_usd)
            times = np.bincount(extra.ravel(), (share * works[:, None] * weight).ravel())
            often = np.pad(often, (0, max(0, len(times) - len(often))))
            often[: len(times)] += times
    most = int(np.argmax(np.cumsum(often) >= (1.0 - _RARE) * often.sum()))
    if most:  # room for the highest load of the trace as well, even if days like that came up seldom
        growths = [instant.growth for _, _, instant in instants]
        high, all_work = Instant(float(np.quantile(growths, _HIGH)), 1.0, 1.0), np.array([owned + reserved])
        (_, extra), *_ = rented(hours(surface, money, high, all_work), money, all_work)
        most = max(most, int(extra.max()))
    none = np.zeros(1, np.int64)
    owned_usd = float(_committed(money, scenarios, np.array([owned]), none).mean())
    reserved_usd = float(_committed(money, scenarios, none, np.array([reserved])).mean())
    bill = document.Costs(owned=owned_usd, reserved=reserved_usd, rented=rent_usd, energy=energy_usd, api=api_usd)
    return Parts(bill, short_usd, renting, home_usd, most)


def _same_bins(surface: Surface, scenario: Scenario) -> None:
    if len(scenario.weight) != len(surface.load):
        raise ValueError(f"a scenario of {len(scenario.weight)} time bins for a surface of {len(surface.load)}")


def _committed(money: UnitMoney, scenarios: Sequence[Scenario], owned: Counts, reserved: Counts) -> Floats:
    """USD per hour [scenario, owned, reserved] whatever happens; idle power at its price over the horizon."""
    powers = [np.mean([instant.power_price for instant in scenario.instants]) for scenario in scenarios]
    idle_usd = money.idle_usd_per_hour * (np.array(powers) - 1.0)[:, None, None]
    found = np.zeros((len(scenarios), len(owned), len(reserved)))
    kinds = (
        ("owned", money.owned_usd_per_hour, owned[None, :, None]),
        ("reserved", money.reserved_usd_per_hour, reserved[None, None, :]),
    )
    for name, usd_per_hour, counts in kinds:
        if usd_per_hour is None and counts.any():
            raise ValueError(f"replicas of this unit cannot be {name}")
        found += counts * ((usd_per_hour or 0.0) + idle_usd)
    return found


def _working(money: UnitMoney, owned: Counts) -> Floats:
    """Chance [owned, working] that so many of the owned replicas work."""
    works = np.arange(int(owned.max()) + 1)
    return np.asarray(binom.pmf(works[None, :], owned[:, None], money.owned_availability), np.float64)


def _spent(surface: Surface, money: UnitMoney, instant: Instant, replicas: Counts) -> Floats:
    """USD per hour [replicas, bin] beside what is committed."""
    of = hours(surface, money, instant, replicas)
    kept = money.rented_availability * of.best + (1.0 - money.rented_availability) * of.alone
    usd = instant.api_price * surface.all_api_usd_per_hour + instant.power_price * surface.must_energy_usd_per_hour
    return np.asarray(instant.growth * usd - kept[: len(replicas)], np.float64)
