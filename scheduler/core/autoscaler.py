"""``hpa``: how many replicas a Kubernetes HorizontalPodAutoscaler would ask for, as a rule to compare with.

By its public documentation ("Horizontal Pod Autoscaling", kubernetes.io), in short:

    desired = ceil(replicas * utilization / target)       nothing changes while the ratio is within 1 +- tolerance

Replicas without a figure yet are left out of the mean. Going up they then count as idle, going down as being at the target,
and the direction must not turn by that. Down, the highest number recommended in the last ``stabilization_s`` counts. Up, at
most twice as many or four more in each period of 15 s, whichever is more (its default behaviour).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

SYNC_S = 15.0
_UP_RATIO, _UP_REPLICAS = 2.0, 4


class HpaPool(NamedTuple):
    """``replicas`` were asked for, of which ``ready`` answer with a mean ``utilization`` (1: full)."""

    replicas: int
    ready: int
    utilization: float
    replicas_min: int
    replicas_max: int


@dataclass(frozen=True, slots=True)
class HpaMemory:
    """What was recommended lately: (when, how many), oldest first, by pool."""

    recommended: Mapping[str, tuple[tuple[float, int], ...]] = field(default_factory=dict)


def hpa(
    pools: Mapping[str, HpaPool],
    target: float,
    now_s: float,
    memory: HpaMemory,
    tolerance: float = 0.1,
    stabilization_s: float = 300.0,
) -> tuple[dict[str, int], HpaMemory]:
    """Desired replicas by pool, and the memory for the next call. To be called every ``SYNC_S``.

    ``target``: the mean utilization that is aimed at. Raises ValueError where that is not above zero.
    """
    if not target > 0.0:
        raise ValueError(f"a target utilization of {target:g} cannot be aimed at")
    desired, kept = {}, {}
    for name, pool in pools.items():
        recommended = _bounded(_recommended(pool, target, tolerance), pool)
        before = memory.recommended.get(name, ((now_s, pool.replicas),))
        lately = (*((at_s, n) for at_s, n in before if at_s > now_s - stabilization_s), (now_s, recommended))
        if recommended < pool.replicas:
            recommended = min(pool.replicas, max(n for _, n in lately))
        most = max(math.floor(pool.replicas * _UP_RATIO), pool.replicas + _UP_REPLICAS)
        desired[name] = _bounded(min(recommended, most), pool)
        kept[name] = lately
    return desired, HpaMemory(kept)


def _bounded(replicas: int, pool: HpaPool) -> int:
    return min(pool.replicas_max, max(pool.replicas_min, replicas))


def _recommended(pool: HpaPool, target: float, tolerance: float) -> int:
    if not pool.ready:
        return pool.replicas  # nothing is measured, so nothing is changed
    ratio, counted = pool.utilization / target, pool.ready
    if ratio > 1.0 and pool.replicas > pool.ready:
        ratio, counted = ratio * pool.ready / pool.replicas, pool.replicas
        if ratio < 1.0:  # with the idle ones it would go down: the direction must not turn
            return pool.replicas
    elif pool.replicas > pool.ready:
        # Going down, those without a figure count as being at the target.
        ratio, counted = (ratio * pool.ready + pool.replicas - pool.ready) / pool.replicas, pool.replicas
    if abs(ratio - 1.0) <= tolerance:
        return pool.replicas
    return math.ceil(ratio * counted - 1e-9)
