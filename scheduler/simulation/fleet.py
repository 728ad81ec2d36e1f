"""Replicas of a simulated site between their bounds: started, drained, taken away, and what they cost meanwhile.

A replica serves nothing until it has started. One that is to go gets nothing new and ends once it has answered what it has;
one that is taken away (spot) does the same for its two minutes of notice, and then what is left fails and walks on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from pricing.holding import Holding, holdings
from scheduler.core.fleet import Action, PoolFleet, reference_curves, speed
from scheduler.simulation.site import Site, SitePool
from scheduler.simulation.sources import SimulatedPool

NOTICE_S = 120.0
_LOOK_S = 1.0


def scaled_alone(site: Site) -> Site:
    """The site where pools that are not ours to start and stop keep all their replicas: the commitment clock only advises."""
    ours = {pool.name for pool in site.config.pools if pool.engine.kind == "vllm"}
    pools = (p if p.name in ours else replace(p, replicas_min=p.replicas_max) for p in site.pools)
    return replace(site, pools=tuple(pools))


class Scaled(Protocol):
    """What a fleet asks of the world around it."""

    @property
    def pools(self) -> Mapping[str, SimulatedPool]:
        """By name."""

    def at(self, when_s: float, what: Callable[..., None], *arguments: Any) -> None:
        """``what(*arguments, now_s)`` shall happen at ``when_s``."""

    def ready(self, name: str, replica_id: str, now_s: float) -> None:
        """An engine answers for the first time."""

    def lose(self, name: str, replica_id: str, now_s: float) -> None:
        """An engine is gone at once: what it had fails."""


@dataclass(slots=True)
class PoolRun:
    """What became of one pool's replicas. ``usd_rent`` and ``usd_standby`` (idle power) are for all that existed, whether or
    not they served: fixed from the view of a request, avoidable from that of the commitment.
    """

    spec: SitePool
    serving: dict[str, float] = field(default_factory=dict)  # replica: since when it answers, or from when it will
    draining: set[str] = field(default_factory=set)
    avoid_until_s: float = 0.0
    launches: int = 0
    stops: int = 0
    refused: int = 0
    interruptions: int = 0
    replica_s: float = 0.0
    usd_rent: float = 0.0
    usd_standby: float = 0.0


class Fleet:
    """``replicas``: how many each pool has at first, its lower bound where nothing is said. Deterministic for a seed."""

    def __init__(
        self, site: Site, seed: int = 0, replicas: Mapping[str, int] | None = None, avoid_s: float = 900.0
    ) -> None:
        self.site, self._avoid_s = site, avoid_s
        self._rng = np.random.default_rng([seed, 13])
        self._first = dict(replicas or {})
        self._config = {pool.name: pool for pool in site.config.pools}
        self.runs = {spec.name: PoolRun(spec) for spec in site.pools}
        self._world: Scaled | None = None
        zones = {place.name: place.zone for place in site.config.sites}
        alike = {name: (pool.model, zones[pool.site]) for name, pool in self._config.items()}
        self.references = reference_curves({spec.name: spec.curve for spec in site.pools}, alike)

    @property
    def world(self) -> Scaled:
        """The world it has begun in."""
        assert self._world is not None  # noqa: S101 - nothing calls it before it began
        return self._world

    def begin(self, world: Scaled, now_s: float) -> None:
        """At the very start, before the first request: the world has all replicas, of which some are not there yet."""
        self._world = world
        for name, run in self.runs.items():
            pool, spec = world.pools[name], run.spec
            kept = self._first.get(name, spec.replicas_min)
            for replica_id in list(pool.engines)[kept:]:
                pool.stop(replica_id, now_s)
            run.serving = dict.fromkeys(pool.engines, now_s)
            for replica_id in run.serving:
                self._fate(run, replica_id, now_s)

    def apply(self, actions: Iterable[Action], now_s: float) -> None:
        """What a plan says."""
        for action in actions:
            for _ in range(abs(action.change)):
                if action.change > 0:
                    self.launch(action.pool, now_s)
                else:
                    self.stop(action.pool, now_s)

    def launch(self, name: str, now_s: float) -> bool:
        """One more replica; False where capacity is not to be had."""
        run, pool = self.runs[name], self.world.pools[name]
        rental = self._config[name].rental
        if rental is not None and self._rng.random() >= rental.availability:
            run.refused += 1
            run.avoid_until_s = now_s + self._avoid_s
            return False
        ready_s = now_s + run.spec.start_s
        replica_id = pool.start(now_s, ready_s)
        run.launches += 1
        run.serving[replica_id] = ready_s
        self._tell_gate(run)
        self.world.at(ready_s, self._ready, run, replica_id)
        self._fate(run, replica_id, now_s)
        return True

    def _ready(self, run: PoolRun, replica_id: str, now_s: float) -> None:
        if replica_id in run.serving:
            self.world.pools[run.spec.name].ready_s.pop(replica_id, None)
            self.world.ready(run.spec.name, replica_id, now_s)

    def stop(self, name: str, now_s: float) -> None:
        """One replica less: one that has not started yet, else the one with the least to finish."""
        run, engines = self.runs[name], self.world.pools[name].engines
        chosen = min(run.serving, key=lambda r: (run.serving[r] <= now_s, engines[r].running, r), default=None)
        if chosen is not None:
            run.stops += 1
            self._drain(run, chosen, now_s)

    def _drain(self, run: PoolRun, replica_id: str, now_s: float) -> None:
        del run.serving[replica_id]
        run.draining.add(replica_id)
        self._tell_gate(run)
        self._drained(run, replica_id, now_s)

    def _drained(self, run: PoolRun, replica_id: str, now_s: float) -> None:
        pool = self.world.pools[run.spec.name]
        if replica_id not in run.draining:
            return
        if not pool.engines[replica_id].idle:
            self.world.at(now_s + _LOOK_S, self._drained, run, replica_id)
            return
        run.draining.discard(replica_id)
        pool.stop(replica_id, now_s)
        self._tell_gate(run)

    def _tell_gate(self, run: PoolRun) -> None:
        """The gate knows those that may get something new; what it gave the others stays counted until they are done."""
        self.world.pools[run.spec.name].gate.set_replicas(run.serving)

    # --- spot -----------------------------------------------------------------------------------------------------

    def _fate(self, run: PoolRun, replica_id: str, now_s: float) -> None:
        """When it will be taken away, if it is not stopped before."""
        if run.spec.interruptions_per_hour > 0.0:
            life_s = self._rng.exponential(3600.0 / run.spec.interruptions_per_hour)
            self.world.at(now_s + life_s, self._noticed, run, replica_id)

    def _noticed(self, run: PoolRun, replica_id: str, now_s: float) -> None:
        if replica_id not in self.world.pools[run.spec.name].engines:
            return
        run.interruptions += 1
        run.avoid_until_s = now_s + self._avoid_s
        self.world.at(now_s + NOTICE_S, self._taken, run, replica_id)
        if replica_id in run.serving:
            self._drain(run, replica_id, now_s)

    def _taken(self, run: PoolRun, replica_id: str, now_s: float) -> None:
        if replica_id in self.world.pools[run.spec.name].engines:
            run.draining.discard(replica_id)
            self.world.lose(run.spec.name, replica_id, now_s)
            self._tell_gate(run)

    # --- money ----------------------------------------------------------------------------------------------------

    def count(self, now_s: float) -> None:
        """Bring the bills up to date, at the prices of this moment; to be called now and then, and at the end."""
        prices = self._prices(now_s)
        for name, run in self.runs.items():
            pool = self.world.pools[name]
            pool.count(now_s)
            hours = (pool.replica_s - run.replica_s) / 3600.0
            run.replica_s = pool.replica_s
            run.usd_rent += hours * prices[name].rent  # as billed: interruptions and starts are played, not paid twice
            run.usd_standby += hours * prices[name].standby

    def usd_held(self, now_s: float) -> dict[str, float]:
        """What replicas have cost since the beginning because they were there, rent and idle power, by pool."""
        self.count(now_s)
        return {name: run.usd_rent + run.usd_standby for name, run in self.runs.items()}

    def _prices(self, now_s: float) -> dict[str, Holding]:
        return holdings(self.site.config, self.site.priced(now_s))

    def pools(self, now_s: float) -> dict[str, PoolFleet]:
        """As the commitment clock sees them."""
        prices = self._prices(now_s)
        return {
            name: PoolFleet(
                name=name,
                offer_id=run.spec.offer_ids[0],
                replicas_min=run.spec.replicas_min,
                replicas_max=run.spec.replicas_max,
                ready_s=tuple(sorted(run.serving.values())),
                start_s=run.spec.start_s,
                held_usd_per_hour=prices[name].held,
                speed=speed(run.spec.curve, self.references[name]),
                domain=self._config[name].site,
                avoid_until_s=run.avoid_until_s,
            )
            for name, run in self.runs.items()
        }
