"""Which replicas there are, since when, which were asked for and have not come, and how many pools may have.

Soft state: a controller that has restarted takes what it sees for new, so that nothing goes before its minimum hold, and
learns from whoever deploys the pools how many were asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from pricing import onprem
from pricing.board import Board
from pricing.holding import holdings
from scheduler.config import ClusterConfig
from scheduler.config.supply import Pool, UrlEngine, VllmEngine
from scheduler.core.fleet import PoolFleet, reference_curves, speed
from serving.deployments import scaled_pools

log = logging.getLogger("baseload.controller")

# Whoever deploys pools asks every two seconds; while it is silent nothing that is planned would be done.
_SCALER_TTL_S = 20.0
# A replica that has not come after so many times its start is not to be had, and is not asked for again so soon.
_PATIENCE, _START_S_MIN = 3.0, 60.0
_AVOID_S = 900.0


@dataclass(slots=True)
class _Watched:
    """One pool. ``since_s``: by replica, since when it answers; ``missing_since_s``: since when each of the missing is."""

    pool: Pool
    least: int
    most: int
    is_ours: bool
    since_s: dict[str, float] = field(default_factory=dict)
    missing_since_s: list[float] = field(default_factory=list)
    desired: int | None = None
    scaler_heard_s: float = float("-inf")
    avoid_until_s: float = float("-inf")

    def may_have(self, replicas: int) -> int:
        """The nearest number between the bounds of cluster.yaml."""
        return min(self.most, max(self.least, replicas))


class LiveFleet:
    """Pools as the commitment clock has to see them, from what replicas, gates and whoever deploys them have told."""

    def __init__(self, config: ClusterConfig) -> None:
        self._config = config
        ours = {pool.name for pool in scaled_pools(config)}
        self._pools = {pool.name: _watched(pool, pool.name in ours) for pool in config.pools}
        zones = {site.name: site.zone for site in config.sites}
        self.groups = {pool.name: f"{pool.model}@{zones[pool.site]}" for pool in config.pools}
        curves = {pool.name: onprem.service_curve(pool.curve) for pool in config.pools}
        references = reference_curves(curves, self.groups)
        self.speeds = {name: speed(curve, references[name]) for name, curve in curves.items()}

    def observe(self, announced: Mapping[str, Collection[str]], living: Mapping[str, int], now_s: float) -> None:
        """Replicas by id that have announced themselves, and how many answer their gate (all that is known of others)."""
        for name, pool in self._pools.items():
            ids: Collection[str] = announced.get(name, ())
            if not isinstance(pool.pool.engine, VllmEngine):
                ids = [f"#{i}" for i in range(living.get(name, 0))]
            pool.since_s = {replica_id: pool.since_s.get(replica_id, now_s) for replica_id in ids}
            missing = max(0, self._asked_for(pool) - len(pool.since_s))
            # The first asked for come first.
            known = pool.missing_since_s[max(0, len(pool.missing_since_s) - missing) :]
            pool.missing_since_s = [*known, *[now_s] * (missing - len(known))]
            self._give_up(pool, now_s)

    def _asked_for(self, pool: _Watched) -> int:
        return pool.least if pool.desired is None else pool.desired

    def _give_up(self, pool: _Watched, now_s: float) -> None:
        """What cannot be placed or does not start must not count for ever as capacity that is about to come."""
        patience_s = _PATIENCE * max(_START_S_MIN, pool.pool.start_s)
        late = sum(since_s < now_s - patience_s for since_s in pool.missing_since_s)
        if pool.desired is not None and late and pool.desired > pool.least:
            pool.desired = pool.may_have(pool.desired - late)
            pool.missing_since_s = pool.missing_since_s[late:]
            pool.avoid_until_s = now_s + _AVOID_S
            fields = {"pool": pool.pool.name, "late": late, "patience_s": patience_s}
            log.warning("replicas that were asked for have not come", extra=fields)

    def scaled(self, targets: Mapping[str, int], now_s: float) -> dict[str, int]:
        """Whoever deploys pools says what they are set to; the answer is what they should be."""
        for name, replicas in targets.items():
            pool = self._pools.get(name)
            if pool is not None and pool.is_ours:
                pool.scaler_heard_s = now_s
                if pool.desired is None:
                    pool.desired = pool.may_have(replicas)
        return {name: pool.desired for name, pool in self._pools.items() if pool.desired is not None}

    def change(self, name: str, replicas: int) -> None:
        """So many more or less, within the bounds."""
        pool = self._pools[name]
        if pool.desired is not None:
            pool.desired = pool.may_have(pool.desired + replicas)

    def is_scaled(self, name: str, now_s: float) -> bool:
        """Whether what is planned for the pool would be done."""
        pool = self._pools[name]
        return pool.desired is not None and now_s - pool.scaler_heard_s <= _SCALER_TTL_S

    def replicas(self, name: str) -> tuple[int, int]:
        """How many answer, and how many were asked for and do not yet."""
        pool = self._pools[name]
        return len(pool.since_s), len(pool.missing_since_s)

    def pools(self, board: Board, now_s: float) -> dict[str, PoolFleet]:
        """Pools with a price. Beside a pool that is scaled its substitutes that are not stay as they are."""
        prices = holdings(self._config, board)
        scaled = {self.groups[name] for name in self._pools if self.is_scaled(name, now_s)}
        found = {}
        for name, pool in self._pools.items():
            price = prices.get(name)
            if price is None or price.unknown:  # an unknown rent is never a default: this pool rests
                continue
            starting = [max(since_s + pool.pool.start_s, now_s + 1.0) for since_s in pool.missing_since_s]
            ready_s = sorted([*pool.since_s.values(), *starting])
            least, most = pool.least, pool.most
            if self.is_scaled(name, now_s):
                ready_s = ready_s[: pool.desired]  # those that were told to go are on their way
            elif self.groups[name] in scaled:
                least = most = len(ready_s)
            found[name] = PoolFleet(
                name=name,
                offer_id=f"{name}/{pool.pool.model}",
                replicas_min=least,
                replicas_max=most,
                ready_s=tuple(ready_s),
                start_s=pool.pool.start_s,
                held_usd_per_hour=price.held,
                speed=self.speeds[name],
                domain=pool.pool.site,
                avoid_until_s=pool.avoid_until_s,
            )
        return found

    def note(self, name: str, now_s: float) -> str:
        """Why advice for the pool is no more than that; '' where it is followed."""
        pool = self._pools[name]
        if self.is_scaled(name, now_s):
            return ""
        if not isinstance(pool.pool.engine, VllmEngine):
            return f"advice only: an engine of kind {pool.pool.engine.kind} is not ours to start and stop"
        if self._config.policy.commitment.mode != "enforce":
            return "advice only: policy.commitment.mode is not enforce"
        return "advice only: " + ("nobody who scales it is heard" if pool.is_ours else "its bounds leave no choice")


def _watched(pool: Pool, is_ours: bool) -> _Watched:
    """Servers by URL are there already, whatever the bounds say."""
    servers = len(pool.engine.urls) if isinstance(pool.engine, UrlEngine) else 0
    least = min(pool.replicas.min, servers) if servers else pool.replicas.min
    return _Watched(pool, least, max(pool.replicas.max, servers), is_ours)
