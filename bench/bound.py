"""How long the clairvoyant bound takes, by requests and deadline classes: seconds, and how near proof and greedy are."""

from __future__ import annotations

import time

import numpy as np

from scheduler.simulation.bound.bound import BoundPools, BoundRequests, clairvoyant
from scheduler.simulation.bound.lp import staircase
from scheduler.simulation.bound.pool import pool_bound, split

_SIZES = (28_000, 600_000)
_TTFT_S = (2.0, 5.0, 15.0)
_REPLICAS = 12.0
_LOAD = 1.2
_SEED = 7


def site(count: int, classes: int, pools: int, shared: float) -> tuple[BoundRequests, BoundPools]:
    """Requests in waves, worth 0.2 to 3 times the mean, a tenth of that in energy; a share may use any pool."""
    rng = np.random.default_rng(_SEED)
    prefill_s, decode_s = 0.15 * rng.exponential(1.0, count), 0.25 * rng.exponential(1.0, count)
    span_s = (prefill_s + decode_s).sum() / (_LOAD * _REPLICAS * pools)
    phase = rng.uniform(0.0, 1.0, count)
    arrival_s = np.sort(span_s * (phase + 0.03 * np.sin(phase * 2.0 * np.pi * 4.0)))
    usd = (prefill_s + decode_s) * rng.choice([0.2, 0.5, 1.0, 3.0], count) * rng.lognormal(0.0, 0.3, count) * 1e-3
    eligible = np.arange(pools) == rng.integers(0, pools, count)[:, None]
    eligible |= (rng.random(count) < shared)[:, None]
    by_pool = np.ones((1, pools))
    requests = BoundRequests(
        arrival_s=arrival_s - arrival_s[0],
        ttft_s=rng.choice(_TTFT_S[:classes], count),
        late_s=np.full(count, 60.0),
        usd_elsewhere=usd,
        energy_usd=0.1 * usd[:, None] * by_pool,
        prefill_work_s=prefill_s[:, None] * by_pool,
        decode_work_s=decode_s[:, None] * by_pool,
        decode_s=(1.0 + 40.0 * decode_s)[:, None] * by_pool,
        eligible=eligible,
    )
    return requests, BoundPools.fixed(np.full(pools, _REPLICAS), 0.0)


def run() -> dict[str, dict[str, float]]:
    """{"28000 requests, 1 classes": {"wall_s": ..., "kreq_per_s": ..., "gap_ppm": ..., "saved_pct": ...}, ...}.

    ``gap_ppm``: proof less greedy, in millionths. The last rows are requests that may choose between three pools, and
    the staircase program of HiGHS on the same work.
    """
    clairvoyant(*site(100, 1, 1, 0.0), 0.01)  # compile
    results = {}
    for count in _SIZES:
        for classes in (1, len(_TTFT_S)):
            requests, pools = site(count, classes, 1, 0.0)
            began = time.perf_counter()
            bound = pool_bound(requests.on_pool(0, np.arange(count)), pools.capacity[0], 0.01)
            took_s = time.perf_counter() - began
            gap = bound.usd_saved_certificate / bound.usd_saved_primal - 1.0
            results[f"{count} requests, {classes} classes"] = {
                "wall_s": took_s,
                "kreq_per_s": count / took_s / 1e3,
                "gap_ppm": gap * 1e6,
                "saved_pct": 100.0 * bound.usd_saved / float(requests.usd_elsewhere.sum()),
            }
        requests, pools = site(count, len(_TTFT_S), 3, 0.3)
        began = time.perf_counter()
        joint = clairvoyant(requests, pools, 0.01)
        took_s = time.perf_counter() - began
        results[f"{count} requests, 3 shared pools"] = {
            "wall_s": took_s,
            "kreq_per_s": count / took_s / 1e3,
            "saved_pct": 100.0 * joint.usd_saved / joint.usd_all_api,
        }
    requests, pools = site(_SIZES[0], 1, 1, 0.0)
    work = requests.on_pool(0, np.arange(_SIZES[0]))
    work = work._replace(decode_work_s=np.zeros(_SIZES[0]))
    pieces, delta_s, _, _ = split(work)
    began = time.perf_counter()
    staircase(pieces, delta_s, pools.capacity[0])
    results[f"{_SIZES[0]} requests, HiGHS"] = {"wall_s": time.perf_counter() - began}
    return results
