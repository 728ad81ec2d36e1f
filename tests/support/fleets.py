"""Fleets for tests of the commitment clock: pools, outlooks of fluid demand, and a loop that does what plans say."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

from scheduler.core.commitment import commit
from scheduler.core.fleet import Action, CommitmentPolicy, Memory, Outlook, PoolFleet
from scheduler.core.forecast import Ahead
from scheduler.core.market import Market
from scheduler.core.worth import NOTHING, Look, Worth
from tests.support.markets import offer

NOW_S = 10_000.0
GROUP = "small@home"
POLICY = CommitmentPolicy(hold_s=600.0, down_after_s=300.0, usable_share=1.0)


def fleet(name: str = "a", replicas: int = 1, **fields: Any) -> PoolFleet:
    """A pool at 1.2 USD per replica-hour whose replicas have been there for ever."""
    values: dict[str, Any] = {
        "offer_id": f"{name}/small",
        "replicas_min": 1,
        "replicas_max": 8,
        "ready_s": (0.0,) * replicas,
        "start_s": 120.0,
        "held_usd_per_hour": 1.2,
    }
    return PoolFleet(name=name, **(values | fields))


def market(*pools: PoolFleet, **models: str) -> Market:
    """Every pool offers ``small`` at home, or what ``models`` says."""
    offers = tuple(offer(p.offer_id, model=models.get(p.name, "small"), expires_s=math.inf) for p in pools)
    return Market(1, NOW_S, offers)


def worth(usd_per_s: Sequence[float], span_s: float = 1.0) -> Worth:
    """Demand for as many whole replicas as there are rates, the first worth most."""
    return Worth(
        tuple(span_s * n for n in range(len(usd_per_s) + 1)),
        tuple(accumulate((span_s * u for u in usd_per_s), initial=0.0)),
    )


def outlook(
    usd_per_s: Sequence[float], served: float, span_s: float = 60.0, low: float = 0.0, high: float = 1.0
) -> Outlook:
    """Fluid demand of which ``served`` replicas take the best; the forecast is ``low`` to ``high`` times as much."""
    offered, load = worth(usd_per_s), float(len(usd_per_s))
    rest = [
        (x, offered.at(x) - offered.at(served)) for x in (served, *range(math.floor(served) + 1, len(usd_per_s) + 1))
    ]
    burst = NOTHING
    if served < load:
        burst = Worth(tuple((x - served) * span_s for x, _ in rest), tuple(usd * span_s for _, usd in rest))
    ahead = Ahead((low * load,), (load,), (high * load,), span_s, "told", 0.0)
    return Outlook(Look(offered, burst, load, span_s), ahead)


@dataclass
class Loop:
    """Fluid demand, plans every ``every_s``, and the bill: API, running costs (starts included) and what was done."""

    pools: dict[str, PoolFleet]
    policy: CommitmentPolicy = POLICY
    every_s: float = 60.0
    low: float = 0.0
    high: float = 1.0
    now_s: float = NOW_S
    memory: Mapping[str, Memory] = field(default_factory=dict)
    usd_burst: float = 0.0
    usd_held: float = 0.0
    done: list[tuple[float, Action]] = field(default_factory=list)
    told: Callable[[Sequence[float], float], Outlook] | None = None

    @property
    def ready(self) -> float:
        """Replica-seconds a second of those that answer."""
        return sum(sum(r <= self.now_s for r in p.ready_s) * p.speed for p in self.pools.values())

    def step(self, usd_per_s: Sequence[float]) -> tuple[Action, ...]:
        """``every_s`` of demand for as many replicas as there are rates, then a plan, which is carried out."""
        served, span_s = self.ready * self.policy.usable_share, self.every_s
        demand = worth(usd_per_s)
        self.usd_burst += span_s * (demand.usd[-1] - demand.at(served))
        self.usd_held += sum(p.count * p.held_usd(span_s) for p in self.pools.values())
        self.now_s += span_s
        seen = self.told(usd_per_s, served) if self.told else outlook(usd_per_s, served, span_s, self.low, self.high)
        plan = commit({GROUP: seen}, self.pools, market(*self.pools.values()), self.policy, self.now_s, self.memory)
        self.memory = plan.memory
        for action in plan.actions:
            self.carry_out(action)
        return plan.actions

    def carry_out(self, action: Action) -> None:
        """What a fleet does: starts take their time, the newest of those that answer goes first."""
        pool = self.pools[action.pool]
        ready_s = sorted([*pool.ready_s, *[self.now_s + pool.start_s] * action.change])
        if action.change < 0:
            ready_s = ready_s[: action.change]
        self.pools[action.pool] = replace(pool, ready_s=tuple(ready_s))
        self.done.append((self.now_s, action))
