"""What the commitment clock reads and says: pools as it sees them, what is expected of demand, and the plan.

Units: USD, seconds, replicas; instants are Unix seconds. What is fixed, such as hardware that was bought, is not in here:
a commitment is judged by what it changes, which is idle power and rent.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from scheduler.core.forecast import Ahead
from scheduler.core.shortage import Shortage
from scheduler.core.supply import ServiceCurve, Usage
from scheduler.core.worth import Look

_SECONDS_PER_HOUR = 3600.0
Case = Literal["low", "expected", "high"]
_TYPICAL = Usage(1000, 0, 250)
# A mean from three quantiles, the 10th, 50th and 90th percentile (Swanson's rule; Hurst, Brown and Swanson 2000).
_SWANSON: tuple[tuple[Case, float], ...] = (("low", 0.3), ("expected", 0.4), ("high", 0.3))


@dataclass(frozen=True, slots=True)
class CommitmentPolicy:
    """The operator's settings of this clock.

    ``hold_s``: how long a replica that was started stays at least, and so what it has to pay for. ``down_share``: it goes
    when it is worth less than this share of its cost, for ``down_after_s``. ``usable_share``: replica-seconds that a replica
    does in a second with room for bursts. ``usd_unserved``: a request that nobody else may serve. ``spread_ratio``: how much
    dearer a pool in another failure domain may be. ``swap_ratio``: how much dearer a replica must be to be replaced.
    """

    hold_s: float = 600.0
    down_after_s: float = 300.0
    down_share: float = 0.8
    usable_share: float = 0.9
    usd_unserved: float = 0.01
    spread_ratio: float = 1.15
    swap_ratio: float = 1.25


@dataclass(frozen=True, slots=True)
class PoolFleet:
    """A pool's replicas. ``ready_s``: since when each answers, or from when it will (above now: still starting).

    ``held_usd_per_hour``: what one more costs while it is there, idle power and effective rent (``pricing.spot``).
    ``launch_usd``: what a start costs besides that. ``speed``: replica-seconds of its group's work that one does in a second.
    ``avoid_until_s``: until then capacity is not to be had, or likely to be taken away again.
    """

    name: str
    offer_id: str
    replicas_min: int
    replicas_max: int
    ready_s: tuple[float, ...]
    start_s: float
    held_usd_per_hour: float
    launch_usd: float = 0.0
    speed: float = 1.0
    domain: str = ""
    avoid_until_s: float = -math.inf

    @property
    def count(self) -> int:
        """Replicas that answer or are starting."""
        return len(self.ready_s)

    def held_usd(self, seconds: float) -> float:
        """What one replica costs in that time; power that is paid for taking it is no reason to hold anything."""
        return max(0.0, self.held_usd_per_hour) * seconds / _SECONDS_PER_HOUR

    def start_usd(self) -> float:
        """What a start costs: the time in which it serves nothing yet."""
        return self.launch_usd + self.held_usd(self.start_s)

    def settled(self, hold_s: float, now_s: float) -> int:
        """Replicas that have been there for their minimum hold."""
        return sum(1 for ready_s in self.ready_s if ready_s <= now_s - hold_s)

    def starting(self, now_s: float) -> int:
        """Replicas that do not answer yet."""
        return sum(1 for ready_s in self.ready_s if ready_s > now_s)


def reference_curves(curves: Mapping[str, ServiceCurve], alike: Mapping[str, Hashable]) -> dict[str, ServiceCurve]:
    """By pool, in whose replica-seconds its work is counted: those of the first pool that serves the same (``alike``)."""
    firsts: dict[Hashable, ServiceCurve] = {}
    for name, curve in curves.items():
        firsts.setdefault(alike[name], curve)
    return {name: firsts[alike[name]] for name in curves}


def speed(curve: ServiceCurve, reference: ServiceCurve) -> float:
    """As ``PoolFleet.speed``: the reference's replica-seconds of a typical request that are done in one of ``curve``'s."""
    return reference.work_s(_TYPICAL) / curve.work_s(_TYPICAL)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known and expected of the demand for a group of pools."""

    look: Look
    ahead: Ahead

    def worth_usd(self, from_work: float, to_work: float, begin_s: float, end_s: float, case: Case) -> float:
        """What capacity between two levels (replica-seconds a second) saves from ``begin_s`` to ``end_s`` from now."""
        offered, step_s = self.look.offered, self.ahead.step_s
        loads: Sequence[float] = getattr(self.ahead, case)
        usd = 0.0
        for i, load in enumerate(loads):
            last = i == len(loads) - 1
            low_s, high_s = max(begin_s, i * step_s), end_s if last else min(end_s, (i + 1) * step_s)
            if high_s > low_s and offered.total_s > 0.0:
                usd += (high_s - low_s) * offered.between(from_work, to_work, load / offered.total_s)
        return usd

    def mean_usd(self, from_work: float, to_work: float, seconds: float) -> float:
        """The mean of that over the next ``seconds``; inf while nobody knows how high the load may go."""
        if math.inf in self.ahead.high:
            return math.inf
        return sum(share * self.worth_usd(from_work, to_work, 0.0, seconds, case) for case, share in _SWANSON)


class Action(NamedTuple):
    """``change`` replicas more or less in ``pool``; ``usd`` is the money that justifies it, ``reason`` says how."""

    pool: str
    change: int
    reason: str
    usd: float


class Replacing(NamedTuple):
    """A replica of ``pool`` goes once the group has more than ``replicas`` that answer."""

    pool: str
    replicas: int


@dataclass(frozen=True, slots=True)
class Memory:
    """What a group's next plan has to know of the ones before."""

    shortage: Shortage = field(default_factory=Shortage)
    idle_since_s: float = math.inf
    replacing: Replacing | None = None


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """What to do now, and what to hand to the next ``commit``, by group."""

    actions: tuple[Action, ...]
    memory: Mapping[str, Memory]


@dataclass(slots=True)
class Advice:
    """A piece of advice, given ``times`` times between ``first_s`` and ``last_s``; ``usd`` and ``reason`` are the last."""

    pool: str
    change: int
    reason: str
    usd: float
    applied: bool
    first_s: float
    last_s: float
    times: int = 1


class AdviceLog:
    """What plans said, bounded: advice that nobody follows is given again and again, and is one line."""

    def __init__(self, repeats_s: float, lines_max: int = 1000) -> None:
        self._repeats_s = repeats_s
        self._lines: deque[Advice] = deque(maxlen=lines_max)
        self._latest: dict[tuple[str, bool], Advice] = {}  # by pool, and whether up or down

    def add(self, plan: FleetPlan, applied: bool, now_s: float) -> None:
        """The plan of this moment."""
        for pool, change, reason, usd in plan.actions:
            latest = self._latest.get((pool, change > 0))
            if latest is not None and not applied and not latest.applied and now_s - latest.last_s <= self._repeats_s:
                latest.reason, latest.usd, latest.last_s, latest.times = reason, usd, now_s, latest.times + 1
                continue
            line = Advice(pool, change, reason, usd, applied, now_s, now_s)
            self._lines.append(line)
            self._latest[pool, change > 0] = line

    def rows(self) -> list[dict[str, Any]]:
        """Plain data, oldest first."""
        return [{name: getattr(line, name) for name in Advice.__dataclass_fields__} for line in self._lines]
