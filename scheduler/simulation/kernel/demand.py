"""New bid curves from the demand that the kernel has kept: ``scheduler.core.bids.BidBook.solve`` on arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scheduler.core import bids
from scheduler.core.capacity import BidCurve, Level, room_s
from scheduler.core.market import Policy
from scheduler.core.value import cushioned, value_curve
from scheduler.simulation.kernel.state import DEMAND_MAX, State

Floats = NDArray[np.float64]


def solve(s: State, policy: Policy, demand_error: float, now_s: float) -> None:
    """New curves for every line of every pool, from the demand of the last ``policy.horizon_s``."""
    for row, pool in enumerate(s.pools):
        curves = _curves(s, row, policy, demand_error, now_s) if pool["demand_kept"] and pool["healthy"] else None
        for k, line in enumerate(range(pool["line_first"], pool["line_end"])):
            curve = curves[k] if curves is not None else None
            s.lines[line]["points"] = len(curve.usd) if curve is not None else 0
            if curve is not None:
                s.lines[line]["step_s"] = curve.wait_s[1] - curve.wait_s[0]
                s.bid_usd[line, : len(curve.usd)] = curve.usd


def _curves(s: State, row: int, policy: Policy, demand_error: float, now_s: float) -> list[BidCurve | None]:
    pool = s.pools[row]
    demand = newest(s.demand[row], int(pool["demand_head"]) - 1, int(pool["demand_kept"]))
    was_full = len(demand) == DEMAND_MAX
    demand = demand[np.searchsorted(demand[:, 0], now_s - policy.horizon_s, "left") :]
    pool["demand_kept"] = len(demand)
    if not len(demand):
        return [None] * int(pool["line_end"] - pool["line_first"])
    span_s = min(now_s - pool["since_s"], policy.horizon_s)
    if was_full and len(demand) == DEMAND_MAX:
        span_s = min(span_s, now_s - demand[0, 0])
    windows = newest(s.windows[row], int(pool["window_head"]), int(pool["window_kept"]))
    first = min(int(np.searchsorted(windows[:, 0], now_s - policy.horizon_s, "left")), len(windows) - 1)
    pool["window_kept"] = len(windows) - first
    burst = burst_of(windows[first:-1], demand)
    levels, ratio = levels_of(s, row), float(pool["work_ratio"]) * demand_error
    added = ratio / float(pool["healthy"])
    return [_curve(demand, levels, k, span_s, added, burst, policy.ttft_margin) for k in range(len(levels))]


def newest(ring: Floats, last: int, count: int) -> Floats:
    """The ``count`` rows of a ring up to row ``last``, the oldest first."""
    return ring[np.arange(last - count + 1, last + 1) % len(ring)]


def levels_of(s: State, row: int) -> list[Level]:
    """``PoolGate.levels``: the lines of a pool as ``advance`` left them, without their curves."""
    lines = s.lines[s.pools[row]["line_first"] : s.pools[row]["line_end"]]
    return [Level(float(one["ttft_s_max"]), float(one["wait_s"]), None, float(one["load"])) for one in lines]


def burst_of(windows: Floats, demand: Floats) -> float:
    """How many requests come at once: the index of dispersion of ``BidBook``."""
    whole = windows[windows[:, 1] > 0.0]
    if len(whole) < bids._WINDOWS_MIN or not np.any(demand[:, 2] > 0.0):
        return 1.0
    span_s, work_s = whole[:, 1], whole[:, 2]
    per_s = work_s.sum() / span_s.sum()
    work, weight = demand[:, 2], demand[:, 4]
    mean_s = float(weight @ work / weight.sum())
    # A sampled request stands for others that are not all of its size: what that adds to the spread is no burst.
    one_s = float(weight @ (mean_s**2 + weight * (work - mean_s) ** 2) / (weight @ work))
    usual = float(per_s * span_s.sum() * one_s)
    spread = float(((work_s - per_s * span_s) ** 2).sum())
    return min(bids._BURST_MAX, max(1.0, spread / usual)) if usual > 0.0 else 1.0


def _curve(
    demand: Floats, levels: list[Level], level: int, span_s: float, added: float, burst: float, margin: float
) -> BidCurve | None:
    own = demand
    if level < len(levels) - 1:
        own = demand[demand[:, 3] <= levels[level].ttft_s_max]
    if len(own) < 2 or span_s <= 0.0:
        return None
    seen = np.cumsum(own[:, 4])
    total = float(seen[-1])
    if len(own) > bids.SAMPLES_MAX or total != len(own):  # evenly by weight: each stands for as many as the others
        picks = min(len(own), bids.SAMPLES_MAX)
        at = np.arange(picks)
        own = own[np.searchsorted(seen, total * (at + at * bids._GOLDEN % 1.0) / picks, "left")]
    usd, added_s = own[:, 1].tolist(), (own[:, 2] * added).tolist()
    return cushioned(value_curve(usd, added_s, span_s / total, room_s(levels, level, margin), burst), usd, added_s)
