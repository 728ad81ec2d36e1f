"""How much of a replica the fluid may count, and what renting one comes to: what the real policy does, told to the search.

Simulator and fluid see the same windows of the trace: the fluid saves as much with ``usable * n`` replicas as the policy does
with ``n``. The commitment clock is rehearsed on the fluid: what it spends more than the search is laid on the rent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from scheduler.config.demand import CommitmentSpec
from scheduler.planning import recourse
from scheduler.planning.hourly import UnitMoney
from scheduler.planning.model import OVERHEAD_MAX, Choice, Model
from scheduler.planning.played import Played, Sample
from scheduler.planning.rehearsal import Rehearsed, rehearse
from scheduler.planning.scenarios import today
from scheduler.planning.surface import Surface
from scheduler.planning.units import Unit
from scheduler.simulation.scenario import Window

# By unit and bin.
Rented = Mapping[str, np.ndarray]

USABLE_MIN = 0.3
_FEWER = (0.6, 0.8, 1.0)
USABLE_MAX = 1.0  # more would be luck of stretches that begin with nothing to do
_STEPS = 30
# Of what everything would cost at APIs: nearer to nothing or everything than this, a difference says nothing.
_TOLD = 1e-4


def weights_of(edges_s: np.ndarray, sample: Sample) -> np.ndarray:
    """Share of all time that ``sample`` has each bin stand for."""
    weight = np.zeros(len(edges_s) - 1)
    for window, share in zip(sample.windows, sample.shares, strict=True):
        inside_s = _inside_s(edges_s, window, sample.warm_s)
        weight += share * inside_s / inside_s.sum()
    return weight


def _inside_s(edges_s: np.ndarray, window: Window, warm_s: float) -> np.ndarray:
    """Seconds of each bin that are judged in ``window``."""
    from_s, until_s = window.start_s + warm_s, window.end_s
    return np.maximum(0.0, np.minimum(until_s, edges_s[1:]) - np.maximum(from_s, edges_s[:-1]))


def rehearsals_of(model: Model, choice: Choice, spec: CommitmentSpec) -> dict[str, Rehearsed]:
    """What the commitment clock would rent on top of ``choice``, by unit, as the trace is, and as far as it may."""
    rows = zip(model.units, choice.owned, choice.reserved, model.parts(choice), strict=True)
    return {
        unit.name: _rehearsed(model, at, owned + reserved, spec, of.rented_max)
        for at, (unit, owned, reserved, of) in enumerate(rows)
    }


def _rehearsed(model: Model, at: int, count: int, spec: CommitmentSpec, most: int | None = None) -> Rehearsed:
    unit, surface = model.units[at], model.surfaces[at]
    start_s = unit.technology.start_s
    return rehearse(surface, model.listed(unit), count, spec.policy(), spec.every_s, start_s, model.seed, unit, most)


def rented_of(model: Model, sample: Sample, rehearsals: Mapping[str, Rehearsed]) -> tuple[list[dict[str, int]], Rented]:
    """Rented replicas that answer: by window of ``sample``, and by unit and bin.

    A window has the same number from its beginning to its end; a bin that two of them share has their mean.
    """
    by_window: list[dict[str, int]] = [{} for _ in sample.windows]
    by_bin = {unit.name: np.zeros(len(model.edges_s) - 1) for unit in model.units}
    inside_s = [_inside_s(model.edges_s, window, sample.warm_s) for window in sample.windows]
    judged_s = np.maximum(np.sum(inside_s, axis=0), 1e-9)
    for name, rehearsed in rehearsals.items():
        for window, counts, seconds in zip(sample.windows, by_window, inside_s, strict=True):
            if count := round(rehearsed.between(window.start_s + sample.warm_s, window.end_s)):
                counts[name] = count
                by_bin[name] += count * seconds / judged_s
    return by_window, by_bin


def overheads_of(model: Model, choice: Choice, spec: CommitmentSpec) -> dict[str, float]:
    """By unit, how much dearer renting comes than it is listed.

    At these, the search, which knows what is to come, expects the cost of the clock, which does not: in sum over ``choice``
    and somewhat fewer, since at one number alone little may be rented. Units for which it is no dearer keep what they have.
    """
    as_is = today(model.edges_s)
    found = dict(model.overheads)
    for at, (unit, surface) in enumerate(zip(model.units, model.surfaces, strict=True)):
        listed, had = model.listed(unit), choice.owned[at] + choice.reserved[at]
        if listed.rented_usd_per_hour is None:
            continue
        counts = sorted({round(part * had) for part in _FEWER})
        rehearsals = {count: _rehearsed(model, at, count, spec) for count in counts}
        weight = as_is.weight
        everything = float(weight @ (surface.all_api_usd_per_hour + surface.must_energy_usd_per_hour))
        clock_usd = sum(
            of.rent_usd_per_hour(listed, weight)
            + of.short_usd_per_hour(surface, listed, count, weight)
            + everything
            - of.saved_usd_per_hour(surface, listed, count, weight)
            for count, of in rehearsals.items()
        )

        def searched_usd(
            overhead: float, unit: Unit = unit, surface: Surface = surface, counts: Sequence[int] = counts
        ) -> float:
            money = replace(replace(model, overheads={unit.name: overhead}).money(unit), owned_availability=1.0)
            made = [recourse.parts(surface, money, [as_is], *_as_had(money, count)) for count in counts]
            return sum(of.costs.rented + of.costs.energy + of.costs.api + of.short_usd_per_hour for of in made)

        if clock_usd > searched_usd(1.0):
            found[unit.name] = _rising(searched_usd, clock_usd, 1.0, OVERHEAD_MAX)
    return found


def _as_had(money: UnitMoney, count: int) -> tuple[int, int]:
    """Owned and reserved, whichever can be had: what they cost is not asked here."""
    return (0, count) if money.owned_usd_per_hour is None else (count, 0)


def _rising(of: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """Where ``of``, which does not fall, comes to ``wanted``; an end of the range where it does nowhere."""
    if wanted >= of(high):
        return high
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if of(middle) < wanted else (low, middle)
    return 0.5 * (low + high)


def searched_usd_per_hour(model: Model, weight: np.ndarray, replicas: Mapping[str, int], rented: Rented) -> float:
    """API and energy that the fluid expects in bins of these weights, prices and load as they are."""
    total = 0.0
    for unit, surface in zip(model.units, model.surfaces, strict=True):
        count = replicas.get(unit.name, 0) + rented.get(unit.name, 0.0)
        saved = surface.saved(count * model.money(unit).usable)
        total += float(weight @ (surface.all_api_usd_per_hour + surface.must_energy_usd_per_hour - saved))
    return total + float(weight @ model.bought_by_bin)


def usable_of(
    model: Model, weight: np.ndarray, replicas: Mapping[str, int], rented: Rented, played: Played, bought: Played
) -> dict[str, float]:
    """By unit. ``played``: with ``replicas`` and ``rented``, ``bought``: the same windows without any.

    Units that tell nothing keep what they have.
    """
    found = dict(model.usable)
    refused = {pool.pool: pool.refused_share for pool in model.requests.pools}
    for unit, surface in zip(model.units, model.surfaces, strict=True):
        count = replicas.get(unit.name, 0) + rented.get(unit.name, np.zeros(len(surface.load)))
        everything = bought.api_usd_per_hour.get(unit.name, 0.0)
        if not count.any() or everything <= 0.0:
            continue
        must_usd = float(weight @ surface.must_energy_usd_per_hour)
        spent = played.api_usd_per_hour.get(unit.name, 0.0) + played.energy_usd_per_hour.get(unit.name, 0.0) - must_usd
        # As shares: the fluid may see a part of the requests. What the policy would rather buy is not for it to save.
        share = (everything - spent) / (everything * (1.0 - refused[unit.technology.pool]))
        at = _matching(surface, weight, count, share)
        if at is not None:
            found[unit.name] = at
    return found


def _matching(surface: Surface, weight: np.ndarray, count: np.ndarray, share: float) -> float | None:
    """The part of ``count`` replicas [bin] with which the fluid saves ``share``; None where it cannot be told."""
    everything = float(weight @ surface.all_api_usd_per_hour)

    def saved(usable: float) -> float:
        return float(weight @ surface.saved(count * usable)) / everything

    if everything <= 0.0 or saved(1.1) - saved(0.9) < _TOLD:  # a fifth of so many does not matter
        return None
    return _rising(saved, share, USABLE_MIN, USABLE_MAX)


def merged(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of several calibrations of each unit."""
    names = {name for one in found for name in one}
    return {name: float(np.mean([one[name] for one in found if name in one])) for name in names}
