"""How much of a replica the fluid may count: what the real policy saves in the simulator, as replicas of the fluid model.

Both see the same windows of the trace. The fluid saves as much with ``usable * n`` replicas as the policy does with ``n``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from scheduler.planning import recourse, scenarios
from scheduler.planning.model import Choice, Model
from scheduler.planning.played import Played, Sample
from scheduler.planning.surface import Surface

# By unit and bin.
Rented = Mapping[str, np.ndarray]

USABLE_MIN = 0.3
_WAIT_SHARE_MAX = 0.05  # more would be luck of the windows that were played
_STEPS = 40
# Of what everything would cost at APIs: nearer to nothing or everything than this, a difference says nothing.
_TOLD = 1e-4


def weights_of(edges_s: np.ndarray, sample: Sample) -> np.ndarray:
    """Share of all time that ``sample`` has each bin stand for."""
    weight = np.zeros(len(edges_s) - 1)
    for window, share in zip(sample.windows, sample.shares, strict=True):
        from_s, until_s = window.start_s + sample.warm_s, window.end_s
        inside_s = np.maximum(0.0, np.minimum(until_s, edges_s[1:]) - np.maximum(from_s, edges_s[:-1]))
        weight += share * inside_s / inside_s.sum()
    return weight


def rented_of(model: Model, sample: Sample, choice: Choice) -> tuple[list[dict[str, int]], Rented, float]:
    """Replicas that ``choice`` rents as the trace is: by window of ``sample``, by unit and bin, and USD per hour of all time.

    A window rents the same number from its beginning to its end.
    """
    as_is = scenarios.expected(model.spec, model.edges_s - model.edges_s[0])
    today = replace(as_is, instants=(scenarios.Instant(1.0, 1.0, 1.0),))
    by_window: list[dict[str, int]] = [{} for _ in sample.windows]
    by_bin, usd = dict[str, np.ndarray](), 0.0
    rows = zip(model.units, model.surfaces, choice.owned, choice.reserved, strict=True)
    for unit, surface, owned, reserved in rows:
        found = recourse.parts(surface, model.money(unit), [today], owned, reserved)
        usd += found.costs.rented
        by_bin[unit.name] = np.zeros(len(surface.load))
        for window, counts in zip(sample.windows, by_window, strict=True):
            inside = (model.edges_s[1:] > window.start_s) & (model.edges_s[:-1] < window.end_s)
            if count := round(float(found.rented[inside].mean())):
                counts[unit.name] = count
                by_bin[unit.name][inside] = count
    return by_window, by_bin, usd


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
        at = _matching(surface, weight, count, share, _usable_max(model, unit.name))
        if at is not None:
            found[unit.name] = at
    return found


def _usable_max(model: Model, name: str) -> float:
    """Above 1 by what may wait for a later bin than that in which it came: its objective, as a part of the bin."""
    bin_s = float(model.edges_s[1] - model.edges_s[0])
    return 1.0 + min(_WAIT_SHARE_MAX, model.waits_s.get(name, 0.0) / bin_s)


def _matching(surface: Surface, weight: np.ndarray, count: np.ndarray, share: float, most: float) -> float | None:
    """The part of ``count`` replicas [bin] with which the fluid saves ``share``; None where it cannot be told."""
    everything = float(weight @ surface.all_api_usd_per_hour)

    def saved(usable: float) -> float:
        return float(weight @ surface.saved(count * usable)) / everything

    if everything <= 0.0 or saved(1.1) - saved(0.9) < _TOLD:  # a fifth of so many does not matter
        return None
    low, high = USABLE_MIN, most
    if share >= saved(high):
        return high
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if saved(middle) < share else (low, middle)
    return 0.5 * (low + high)


def merged(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of several calibrations of each unit."""
    names = {name for one in found for name in one}
    return {name: float(np.mean([one[name] for one in found if name in one])) for name in names}
