"""The commitment clock, live: how many replicas pools should have, and why, every ``policy.commitment.every_s``.

Gateways tell how requests ended, replicas and gates who is there, the board what a replica costs. ``advisory`` keeps a record
of what would be done; ``enforce`` also tells whoever deploys the pools. Soft state, in the controller's loop: a plan takes
milliseconds. Why: docs/decisions/0011-commitment-live.md.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pricing.board import Board
from scheduler.config import ClusterConfig
from scheduler.core.commitment import commit
from scheduler.core.fleet import Action, AdviceLog, CommitmentPolicy, FleetPlan, Memory, Outlook, PoolFleet
from scheduler.core.forecast import Forecaster
from scheduler.core.market import Market
from scheduler.core.tickets import pool_of
from scheduler.core.worth import Offered
from serving.bidding import DEMAND_MAX, demand_of
from serving.control import ELSEWHERE, HERE, Desired, Scaled, Wanted
from serving.fleet import LiveFleet
from serving.view import NO_FLEET, ActionCount, FleetState

log = logging.getLogger("baseload.controller")

_HORIZON_S = 300.0
# Requests kept of that horizon: a plan every second shall not look at more of them than one a minute.
_SAMPLES_MAX, _WINDOW_SAMPLES = 2048, (16, 256)


@dataclass(slots=True)
class _Group:
    """Pools of one model in one zone. ``asked``: requests for it were decided; ``told``: some were told to have ended."""

    offered: Offered
    forecaster: Forecaster
    steps: int
    asked: bool = False
    told: bool = False


class Commitment:
    """The clock of one controller. ``state`` is what gateways show in their metrics."""

    def __init__(self, config: ClusterConfig, now_s: float) -> None:
        spec = config.policy.commitment
        self.mode, self._every_s = spec.mode, spec.every_s
        self._policy = spec.policy()
        self._fleet = LiveFleet(config)
        self._groups: dict[str, _Group] = {}
        for group in dict.fromkeys(self._fleet.groups.values()):
            start_s = max(pool.start_s for pool in config.pools if self._fleet.groups[pool.name] == group)
            self._groups[group] = _group(self._policy, self._every_s, start_s + self._policy.hold_s, now_s)
        self._memory: dict[str, Memory] = {}
        self._log = AdviceLog(self._policy.hold_s)
        self._counts: Counter[tuple[str, str, bool]] = Counter()
        self._next_s, self._ran_at_s, self._took_s = now_s + self._every_s, 0.0, 0.0
        self._pools: dict[str, PoolFleet] = {}
        self.state: FleetState = NO_FLEET

    def heard(self, wanted: Mapping[str, Sequence[Wanted]]) -> None:
        """A gateway's report. What is no sensible figure, or of no pool of ours, is left out."""
        if self.mode == "off":
            return
        for pool in wanted.keys() & self._fleet.groups.keys():
            group = self._groups[self._fleet.groups[pool]]
            group.asked = group.asked or any(not one.end for one in wanted[pool])
            for one in [one for one in wanted[pool] if one.end in (HERE, ELSEWHERE)][:DEMAND_MAX]:
                demand = demand_of(one)
                if demand is not None:
                    group.told = True
                    work_s = demand.work_s * self._fleet.speeds[pool]
                    group.offered.add(demand._replace(work_s=work_s), one.end == ELSEWHERE)

    def scaled(self, told: Scaled, now_s: float) -> Desired:
        """Whoever deploys pools asks how many replicas they should have; nobody is told anything but in ``enforce``."""
        return Desired(self._fleet.scaled(told.replicas, now_s) if self.mode == "enforce" else {})

    def keep(
        self,
        market: Market,
        board: Board,
        announced: Mapping[str, Collection[str]],
        living: Mapping[str, int],
        now_s: float,
    ) -> None:
        """Called at every clearing; a plan is made when it is time for one."""
        if self.mode == "off":
            return
        try:
            self._fleet.observe(announced, living, now_s)
            if now_s >= self._next_s:
                self._next_s = now_s + self._every_s
                began_s = time.perf_counter()
                self._plan(market, board, now_s)
                self._ran_at_s, self._took_s = now_s, time.perf_counter() - began_s
        except Exception:  # prices and health must not stop for a plan: replicas stay as they are
            log.exception("replicas could not be planned")

    def _plan(self, market: Market, board: Board, now_s: float) -> None:
        pools = self._fleet.pools(board, now_s)
        forecast = self._forecast(market, now_s)
        plan = commit(forecast, pools, market, self._policy, now_s, self._memory)
        self._memory |= plan.memory
        done = tuple(action for action in plan.actions if self._fleet.is_scaled(action.pool, now_s))
        for action in done:
            self._fleet.change(action.pool, action.change)
        self._note(done, True, now_s)
        self._note(tuple(action for action in plan.actions if action not in done), False, now_s)
        desired = {name: pool.count for name, pool in pools.items()}
        for action in plan.actions:
            desired[action.pool] += action.change
        self._pools = pools
        self.state = FleetState(desired, tuple(ActionCount(*key, times) for key, times in self._counts.items()))

    def _forecast(self, market: Market, now_s: float) -> dict[str, Outlook]:
        up = {self._fleet.groups.get(pool_of(offer.id)) for offer in market.offers if offer.healthy}
        forecast = {}
        for name, group in self._groups.items():
            look = group.offered.look(now_s)
            # While all of a group is down nobody asks what it would cost, and gateways of before do not tell how requests
            # end: neither is a lack of demand.
            if look is None or name not in up or (group.asked and not group.told):
                continue
            group.forecaster.observe(look.load, now_s - look.span_s)
            ahead = group.forecaster.ahead(group.steps)
            if ahead is not None:
                forecast[name] = Outlook(look, ahead)
        return forecast

    def _note(self, actions: tuple[Action, ...], applied: bool, now_s: float) -> None:
        if not actions:
            return
        self._log.add(FleetPlan(actions, {}), applied, now_s)
        for line in self._log.rows():
            if line["first_s"] == now_s and line["applied"] == applied:
                pool, change = line["pool"], line["change"]
                self._counts[pool, "up" if change > 0 else "down", applied] += 1
                fields = {name: line[name] for name in ("pool", "change", "reason", "usd", "applied")}
                log.info("replicas change" if applied else "replicas should change", extra=fields)

    def report(self, now_s: float) -> dict[str, Any]:
        """For people: the mode, pools as they were last seen, and every piece of advice, oldest first."""
        pools = []
        for name, pool in self._pools.items():
            answering, starting = self._fleet.replicas(name)
            row = {"pool": name, "replicas": answering, "starting": starting, "desired": self.state.desired[name]}
            bounds = {"min": pool.replicas_min, "max": pool.replicas_max}
            row |= bounds | {"held_usd_per_hour": pool.held_usd_per_hour, "note": self._fleet.note(name, now_s)}
            pools.append(row)
        ran = {"at_s": self._ran_at_s, "took_s": self._took_s}
        return {"mode": self.mode, **ran, "pools": pools, "advice": self._log.rows()}


def _group(policy: CommitmentPolicy, every_s: float, lead_s: float, now_s: float) -> _Group:
    least, most = _WINDOW_SAMPLES
    samples_max = min(most, max(least, round(_SAMPLES_MAX * every_s / _HORIZON_S)))
    offered = Offered(_HORIZON_S, policy.usd_unserved, now_s, samples_max)
    return _Group(offered, Forecaster(every_s, lead_s), max(1, math.ceil(lead_s / every_s)))
