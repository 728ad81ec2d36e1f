"""What would be rented, hour by hour: ``commit`` itself on the fluid, step by step, knowing nothing of what is to come.

The search rents what is best in each time bin (``hourly``). The clock that will run waits until a shortage has paid for a
replica, which then takes its time to start and stays for its minimum hold; here it shows what that makes of it.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from scheduler.core.commitment import commit
from scheduler.core.fleet import CommitmentPolicy, Memory, Outlook, PoolFleet
from scheduler.core.forecast import Forecaster
from scheduler.core.market import Market
from scheduler.core.supply import Offer, Quality, Rate, ServiceCurve
from scheduler.core.worth import Look, Worth
from scheduler.planning.hourly import UnitMoney
from scheduler.planning.pulse import pulse
from scheduler.planning.surface import Rows, Surface, position

_SECONDS_PER_HOUR = 3600.0
_EVERY_S_MIN, _TICKS_MAX = 30.0, 20_000
_SEEN_S = 300.0  # as live: what replicas are worth is judged by the demand of so long
_REFUSED_S = 900.0  # that capacity which was not to be had is not asked for again
_OWNED, _CLOUD = "owned", "cloud"
_GROUP = "model@zone"


@dataclass(frozen=True, slots=True, eq=False)
class Rehearsed:
    """Of one unit, by step of time, which begins at ``at_s`` [step] in time bin ``bins`` [step]; none is longer than its bin.

    ``working`` [step]: rented replicas that answer, ``held`` [step]: those that are paid for. ``times`` [step]: load over
    that of the bin. Of owned replicas ``usable`` (``calibration``) has what minutes differ by; what rented ones add to them
    is reckoned step by step.
    """

    at_s: np.ndarray
    bins: np.ndarray
    working: np.ndarray
    held: np.ndarray
    times: np.ndarray

    def between(self, begin_s: float, end_s: float) -> float:
        """Rented replicas that answer, mean over a time."""
        inside = (self.at_s >= begin_s) & (self.at_s < end_s)
        nearest = np.array([int(np.argmin(np.abs(self.at_s - begin_s)))])
        return float(self.working[inside if inside.any() else nearest].mean())

    def _mean(self, values: np.ndarray, weight: np.ndarray | None) -> float:
        """Of ``values`` [step]; ``weight`` [bin]: shares of the time that bins stand for (None: as long as they are)."""
        if weight is None:
            return float(values.mean())
        steps = np.bincount(self.bins, minlength=len(weight))
        return float((weight / np.maximum(1, steps))[self.bins] @ values)

    def rent_usd_per_hour(self, money: UnitMoney, weight: np.ndarray | None = None) -> float:
        """What they cost, mean over the trace; starts are paid for."""
        return self._mean(self.held, weight) * (money.rented_usd_per_hour or 0.0)

    def saved_usd_per_hour(
        self, surface: Surface, money: UnitMoney, owned: int, weight: np.ndarray | None = None
    ) -> float:
        """What ``owned`` and rented replicas save together, net of energy, mean over the trace, at prices of today."""
        net = surface.api_saved_usd_per_hour - surface.energy_usd_per_hour

        def saved(replicas: np.ndarray, times: np.ndarray) -> np.ndarray:
            capacity = replicas * money.usable / np.where(times > 0.0, times, 1.0)
            below, share = position(surface.levels, capacity)
            return np.asarray(times * (net[self.bins, below] * (1.0 - share) + net[self.bins, below + 1] * share))

        alone, even = np.full(len(self.bins), float(owned)), np.ones(len(self.bins))
        added = saved(alone + self.working, self.times) - saved(alone, self.times)
        return self._mean(saved(alone, even) + added, weight)

    def short_usd_per_hour(
        self, surface: Surface, money: UnitMoney, owned: int, weight: np.ndarray | None = None
    ) -> float:
        """What the work that has to stay and finds no room counts as."""
        must, alone = surface.must[self.bins], owned * money.usable
        most = self.times * must - alone
        added = np.maximum(0.0, most - self.working * money.usable) - np.maximum(0.0, most)
        return self._mean(np.maximum(0.0, must - alone) + added, weight) * money.short_usd_per_hour


def rehearse(
    surface: Surface,
    money: UnitMoney,
    owned: int,
    policy: CommitmentPolicy,
    every_s: float,
    start_s: float,
    seed: int = 0,
    requests: Rows | None = None,
    most: int | None = None,
) -> Rehearsed:
    """The unit's trace with ``owned`` replicas at work all the time, and a cloud to rent more from (none: nothing is).

    ``start_s``: from asking for a replica to its first answer. ``requests``: those behind the surface, whose ups and downs
    from minute to minute the clock sees as well (none: bins are all there is). ``most``: so many may be rented at once. The
    clock looks every ``every_s``, less often where that would take long: at least half a minute apart, and twenty thousand
    times at most.
    """
    edges_s = surface.edges_s
    every_s = max(every_s, _EVERY_S_MIN, float(edges_s[-1] - edges_s[0]) / _TICKS_MAX)
    step_s = min(every_s, float(np.diff(edges_s).min()))
    at_s = edges_s[0] + step_s * np.arange(max(1, round((edges_s[-1] - edges_s[0]) / step_s)))
    bins = np.searchsorted(edges_s, np.minimum(at_s + 0.5 * step_s, edges_s[-1] - 1e-9), side="right") - 1
    working, held = np.zeros(len(at_s)), np.zeros(len(at_s))
    if money.rented_usd_per_hour is None:
        return Rehearsed(at_s, bins, working, held, np.ones(len(at_s)))
    times = pulse(requests, surface, at_s + step_s, step_s) if requests is not None else np.ones(len(at_s))
    clock = _Clock(surface, money, owned, policy, every_s, start_s, seed, most)
    ticks_s = edges_s[0] + every_s * np.arange(1, math.ceil((edges_s[-1] - edges_s[0]) / every_s) + 2)
    pulses = pulse(requests, surface, ticks_s, every_s) if requests is not None else np.ones(len(ticks_s))
    ticked = 0
    for step, now_s in enumerate(at_s.tolist()):
        if step and now_s >= edges_s[0] + every_s * (clock.ticks + 1) - 1e-6:
            clock.tick(bins[ticked:step], now_s, float(pulses[clock.ticks]))
            ticked = step
        held[step] = len(clock.ready_s)
        working[step] = sum(1 for ready_s in clock.ready_s if ready_s <= now_s)
    return Rehearsed(at_s, bins, working, held, times)


class _Clock:
    """One group: the owned replicas, and a cloud beside them. ``ready_s``: since, or from, when each rented one answers."""

    def __init__(
        self, surface: Surface, money: UnitMoney, owned: int, policy: CommitmentPolicy, every_s: float, start_s: float,
        seed: int, most: int | None,
    ) -> None:  # fmt: skip
        self._money, self._policy, self._every_s, self._start_s = money, policy, every_s, start_s
        self._usd, self._levels = _usd_per_s(surface, money), surface.levels
        self._rng = np.random.default_rng([seed, 17])
        lead_s = start_s + policy.hold_s
        self._forecaster = Forecaster(every_s, lead_s)
        self._steps = math.ceil(lead_s / every_s)
        self._memory: dict[str, Memory] = {}
        self._pulses: deque[float] = deque(maxlen=max(1, round(_SEEN_S / every_s)))
        self._owned = _pool(_OWNED, (owned, owned), (-math.inf,) * owned, 0.0, 0.0)
        enough = math.ceil(float(surface.levels[-1]) / money.usable) + 1
        self._most = enough if most is None else most
        self._avoid_s = -math.inf
        self._last: tuple[int, Worth] | None = None
        self.ready_s: list[float] = []
        self.ticks = 0

    def tick(self, bins: np.ndarray, now_s: float, times: float) -> None:
        """A span of the clock has passed, in which the load was that of these time ``bins``, so many ``times``."""
        span_s, of_bin = self._every_s, self._worth(bins)
        self._pulses.append(times)
        worth, offered = _scaled(of_bin, times), _scaled(of_bin, sum(self._pulses) / len(self._pulses))
        self.ticks += 1
        at_work = self._owned.count + sum(1 for ready_s in self.ready_s if ready_s <= now_s - span_s)
        burst = _beyond(worth, at_work * self._money.usable, span_s)
        self._forecaster.observe(worth.total_s, now_s - span_s)
        ahead = self._forecaster.ahead(self._steps)
        forecast = {_GROUP: Outlook(Look(offered, burst, worth.total_s, span_s), ahead)} if ahead is not None else {}
        rent_usd = self._money.rented_usd_per_hour or 0.0
        cloud = _pool(_CLOUD, (0, self._most), tuple(self.ready_s), self._start_s, rent_usd, self._avoid_s)
        plan = commit(forecast, {_OWNED: self._owned, _CLOUD: cloud}, _MARKET, self._policy, now_s, self._memory)
        self._memory |= plan.memory
        for action in plan.actions:
            for _ in range(abs(action.change)):
                self._change(action.change > 0, now_s)

    def _worth(self, bins: np.ndarray) -> Worth:
        """Their mean; of a long bin that of the span before."""
        first = int(bins[0])
        if self._last is not None and self._last[0] == first == int(bins[-1]):
            return self._last[1]
        usd = self._usd[bins].mean(axis=0) if bins[-1] != first else self._usd[first]
        best = int(np.argmax(usd >= usd[-1] * (1.0 - 1e-9))) + 1 if usd[-1] > 0.0 else 1
        worth = Worth(tuple(self._levels[:best].tolist()), tuple(usd[:best].tolist()))
        self._last = (first, worth) if bins[-1] == first else None
        return worth

    def _change(self, is_more: bool, now_s: float) -> None:
        if not is_more:
            self.ready_s.pop()
        elif self._rng.random() < self._money.rented_availability:
            self.ready_s.append(now_s + self._start_s)
        else:
            self._avoid_s = now_s + _REFUSED_S


def _pool(
    name: str, bounds: tuple[int, int], ready_s: tuple[float, ...], start_s: float, usd_per_hour: float,
    avoid_until_s: float = -math.inf,
) -> PoolFleet:  # fmt: skip
    return PoolFleet(name, name, *bounds, ready_s, start_s, usd_per_hour, domain=name, avoid_until_s=avoid_until_s)


def _offer(name: str) -> Offer:
    curve, quality = ServiceCurve(1.0, 1.0, 0.0, 1), Quality(1.0, 1.0, 1.0)
    return Offer(name, "base", "model", "zone", Rate(0.0, 0.0, 0.0), curve, quality, frozenset(), 0, 0.0, math.inf)


# ``commit`` asks it only who can stand in for whom.
_MARKET = Market(0, 0.0, (_offer(_OWNED), _offer(_CLOUD)))


def _usd_per_s(surface: Surface, money: UnitMoney) -> np.ndarray:
    """What working replicas are worth [bin, level]. What must stay comes first, at what it counts for in the search."""
    net = surface.api_saved_usd_per_hour - surface.energy_usd_per_hour
    must = money.short_usd_per_hour * np.minimum(surface.levels, surface.must[:, None])
    return np.asarray((net + must) / _SECONDS_PER_HOUR)


def _scaled(worth: Worth, times: float) -> Worth:
    """That of ``times`` as many of the same requests."""
    if times == 1.0:
        return worth
    return Worth(tuple(times * each for each in worth.work_s), tuple(times * each for each in worth.usd))


def _beyond(worth: Worth, work_s: float, span_s: float) -> Worth:
    """What is left for others when the best ``work_s`` are served, over ``span_s``."""
    if work_s >= worth.total_s:
        return Worth()
    usd = worth.at(work_s)
    rest = [(at_s, of) for at_s, of in zip(worth.work_s, worth.usd, strict=True) if at_s > work_s]
    work, money = [0.0], [0.0]
    for at_s, of in rest:
        work.append((at_s - work_s) * span_s)
        money.append((of - usd) * span_s)
    return Worth(tuple(work), tuple(money))
