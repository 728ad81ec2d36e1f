"""Who decides how many replicas a simulated site has: the commitment clock, or a HorizontalPodAutoscaler. On virtual time.

fleet = Fleet(site)
clock = CommitmentClock(fleet, CommitmentPolicy())
World(..., Settings(calls=((from_s, clock.begin),)))       clock.saw(journey, now_s) as every request ends
"""

from __future__ import annotations

import math
from typing import Protocol

from scheduler.core.autoscaler import SYNC_S, HpaMemory, HpaPool, hpa
from scheduler.core.commitment import commit, substitutes
from scheduler.core.fleet import Action, AdviceLog, CommitmentPolicy, FleetPlan, Memory, Outlook
from scheduler.core.forecast import Forecaster
from scheduler.core.market import Market
from scheduler.core.worth import Offered, displaced_by
from scheduler.simulation.attempts import Journey
from scheduler.simulation.fleet import Fleet, Scaled

_HORIZON_S = 300.0


class Controller(Protocol):
    """What a clock reads of the world's controller."""

    @property
    def market(self) -> Market:
        """The newest."""


class PricedWorld(Scaled, Protocol):
    """A world with a market."""

    @property
    def controller(self) -> Controller:
        """Whose market it is."""


class CommitmentClock:
    """``commit`` every ``every_s``; with ``enforce`` off it only keeps the log of what it would have done."""

    def __init__(
        self, fleet: Fleet, policy: CommitmentPolicy, every_s: float = 60.0, enforce: bool = True, coverage: float = 0.9
    ) -> None:
        self.fleet, self._policy, self._every_s = fleet, policy, every_s
        self._enforce, self._coverage = enforce, coverage
        self.log = AdviceLog(policy.hold_s)
        self._memory: dict[str, Memory] = {}
        self._offered: dict[str, Offered] = {}
        self._forecasters: dict[str, Forecaster] = {}
        self._offers: dict[str, frozenset[str]] = {}
        self._pools: dict[str, str] = {}  # the first of each group, whose replica-seconds count
        self._steps = 1

    def begin(self, world: PricedWorld, now_s: float) -> None:
        """At the very start; goes on by itself."""
        self.fleet.begin(world, now_s)
        pools = self.fleet.pools(now_s)
        specs = {spec.name: spec for spec in self.fleet.site.pools}
        for group, names in substitutes(pools, world.controller.market, now_s).items():
            lead_s = max(specs[name].start_s for name in names) + self._policy.hold_s
            self._steps = max(self._steps, math.ceil(lead_s / self._every_s))
            self._offers[group] = frozenset(offer_id for name in names for offer_id in specs[name].offer_ids)
            self._pools[group] = names[0]
            self._offered[group] = Offered(_HORIZON_S, self._policy.usd_unserved, now_s)
            self._forecasters[group] = Forecaster(self._every_s, lead_s, coverage=self._coverage)
        world.at(now_s + self._every_s, self._tick, world)

    def saw(self, journey: Journey, now_s: float) -> None:
        """A request is over: what it would have cost elsewhere, and whether it was served there."""
        for group, offers in self._offers.items():
            demand = displaced_by(journey.decision, offers, self.fleet.references[self._pools[group]])
            if demand is not None:
                last = journey.outcomes[-1] if journey.outcomes else None
                served_here = last is not None and last.status == "complete" and last.offer_id in offers
                self._offered[group].add(demand, not served_here)

    def _tick(self, world: PricedWorld, now_s: float) -> None:
        fleet, market, forecast = self.fleet, world.controller.market, {}
        fleet.count(now_s)
        up = {offer.id for offer in market.offers if offer.healthy}
        for group, offered in self._offered.items():
            look, forecaster = offered.look(now_s), self._forecasters[group]
            # While all of a group is down nobody asks what it would cost: that is no lack of demand.
            if look is not None and up & self._offers[group]:
                forecaster.observe(look.load, now_s - look.span_s)
                ahead = forecaster.ahead(self._steps)
                if ahead is not None:
                    forecast[group] = Outlook(look, ahead)
        plan = commit(forecast, fleet.pools(now_s), market, self._policy, now_s, self._memory)
        self._memory |= plan.memory
        if self._enforce:
            fleet.apply(plan.actions, now_s)
        self.log.add(plan, self._enforce, now_s)
        world.at(now_s + self._every_s, self._tick, world)


class HpaClock:
    """``hpa`` every 15 s, on the share of slots or KV cache in use, whichever is more; who waits counts as a slot more."""

    def __init__(self, fleet: Fleet, target: float) -> None:
        self.fleet, self._target = fleet, target
        self._memory = HpaMemory()
        self.log = AdviceLog(0.0)

    def begin(self, world: Scaled, now_s: float) -> None:
        """At the very start; goes on by itself."""
        self.fleet.begin(world, now_s)
        world.at(now_s + SYNC_S, self._tick, world)

    def saw(self, journey: Journey, now_s: float) -> None:
        """It asks what engines do, not what requests are worth."""

    def _tick(self, world: Scaled, now_s: float) -> None:
        fleet = self.fleet
        fleet.count(now_s)
        pools = {name: _seen(fleet, name, now_s) for name in fleet.runs}
        desired, self._memory = hpa(pools, self._target, now_s, self._memory)
        actions = tuple(
            Action(name, desired[name] - pool.replicas, f"utilization {pool.utilization:.2f}", 0.0)
            for name, pool in pools.items()
            if desired[name] != pool.replicas
        )
        fleet.apply(actions, now_s)
        self.log.add(FleetPlan(actions, {}), True, now_s)
        world.at(now_s + SYNC_S, self._tick, world)


def _seen(fleet: Fleet, name: str, now_s: float) -> HpaPool:
    run, gate = fleet.runs[name], fleet.world.pools[name].gate
    lanes = [lane for lane in gate.lanes.values() if lane.healthy]
    slots, kv_tokens = sum(lane.slots for lane in lanes), sum(lane.kv_tokens for lane in lanes)
    held = sum(len(lane.held) for lane in lanes) + gate.waiting
    kv_held = sum(lane.kv_held for lane in lanes)
    return HpaPool(
        replicas=len(run.serving),
        ready=len(lanes),
        utilization=max(held / slots if slots else 0.0, kv_held / kv_tokens if kv_tokens else 0.0),
        replicas_min=run.spec.replicas_min,
        replicas_max=run.spec.replicas_max,
    )
