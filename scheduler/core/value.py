"""The value of a pool's remaining time, V(x), from a short history of demand: what the bid price is read from.

State x is the wait of a new request in seconds. At each arrival the request may be kept, which earns what it would cost
elsewhere and makes the wait longer by its work over the replicas, or be sent on; between arrivals the wait drains:

    V(x)  = E over the next request (s, w) of max(V'(x), s + V'(x + w/R))
    V'(x) = E over the gap t to the next arrival of V(max(0, x - t)) - gain

(economics, section 1). Solved by Howard's policy iteration on a grid: a policy is valued exactly by one linear system, so
few rounds are enough where relative value iteration needs as many as a queue takes to forget.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scheduler.core.capacity import BidCurve

Floats = NDArray[np.float64]

# On the public traces 192 points, seven times dearer to solve (20 ms), captured no more.
_POINTS_MIN, POINTS_MAX = 32, 64
_ROUNDS_MAX = 25
# Over which share of the longest wait the price rises, and to what of itself: requests alike, and unlike.
_ALIKE, _UNLIKE = (0.7, 0.9), (0.2, 1.0)
_BURST_SHARE_MAX = 0.125  # of the longest wait: what comes at once must leave the grid some steps


def value_curve(
    usd: Sequence[float],
    added_s: Sequence[float],
    gap_s_mean: float,
    wait_s_max: float,
    burst: float = 1.0,
    points: int = 0,
) -> BidCurve | None:
    """V over [0, ``wait_s_max``], or None where nothing can be scarce.

    ``usd``: what each sampled request costs elsewhere above what it costs here (inf: it can go nowhere else).
    ``added_s``: the seconds it adds to the wait. ``gap_s_mean``: seconds between arrivals; ``wait_s_max``: the longest wait
    that is still in time, beyond which nothing is kept. ``burst``: how many requests come at once; each arrival then stands
    for that many of its kind. ``points`` of the grid; by default two to a typical arrival.
    """
    worth, added = np.asarray(usd, float), np.asarray(added_s, float)
    if len(added) and burst > 1.0:
        burst = max(1.0, min(burst, _BURST_SHARE_MAX * wait_s_max / max(float(added.mean()), 1e-9)))
        worth, added, gap_s_mean = worth * burst, added * burst, gap_s_mean * burst
    if not len(worth) or gap_s_mean <= 0.0 or wait_s_max <= 0.0 or not np.any(added > 0.0):
        return None
    if not points:
        points = int(np.clip(2.0 * wait_s_max / max(float(added.mean()), 1e-9), _POINTS_MIN, POINTS_MAX))
    grid = np.linspace(0.0, wait_s_max, points)
    forced = np.isinf(worth)
    worth = np.where(forced, 0.0, worth)
    drain = _drain(grid, gap_s_mean)
    value = np.zeros(points)
    kept: NDArray[np.bool_] | None = None
    below, above_share, fits = _steps(grid, added, forced)
    for _ in range(_ROUNDS_MAX):
        after = drain @ value
        then = after[below] * (1.0 - above_share) + after[np.minimum(below + 1, points - 1)] * above_share
        keeps = fits & ((worth + then >= after[:, None] - 1e-15) | forced)
        if kept is not None and np.array_equal(keeps, kept):
            break
        kept = keeps
        value = _valued(kept, worth, below, above_share, drain)
    # Noise of the solution must not make a longer wait look dearer than a shorter one.
    falling = np.minimum.accumulate(drain @ value)
    return BidCurve(tuple(grid.tolist()), tuple((falling - falling[0]).tolist()))


def cushioned(curve: BidCurve | None, usd: Sequence[float], added_s: Sequence[float]) -> BidCurve | None:
    """The same curve with prices that rise from nothing over the first part of the longest wait.

    V(x) takes arrivals as independent, and so thinks a short line safe from running empty. Real load comes and goes: what is
    turned away at a short line is often missed a minute later, and what was kept too much can still be evicted. Where all
    requests are worth about the same per second, little is lost by keeping one too many, and estimates differ more than
    requests do: there the price rises later, and not to all of itself.
    """
    if curve is None:
        return None
    share, trust = _ALIKE if _alike(np.asarray(usd, float), np.asarray(added_s, float)) else _UNLIKE
    grid, value = np.asarray(curve.wait_s), np.asarray(curve.usd)
    weight = trust * np.minimum(1.0, 0.5 * (grid[1:] + grid[:-1]) / (share * grid[-1]))
    return BidCurve(curve.wait_s, (0.0, *np.cumsum(np.diff(value) * weight).tolist()))


def _alike(worth: Floats, added: Floats) -> bool:
    """Whether nine tenths of the work on offer are worth at most half as much again per second as the first tenth."""
    usable = np.isfinite(worth) & (added > 0.0)
    if not usable.any():
        return True
    density, work = worth[usable] / added[usable], added[usable]
    order = np.argsort(density)
    seen = np.cumsum(work[order]) / work.sum()
    low, high = density[order][np.minimum(np.searchsorted(seen, (0.1, 0.9)), len(order) - 1)]
    return bool(high <= 1.5 * low)


def _steps(
    grid: Floats, added: Floats, forced: NDArray[np.bool_]
) -> tuple[NDArray[np.intp], Floats, NDArray[np.bool_]]:
    """For each point and sample: the grid cell in which the wait lands, its share towards the next, whether it fits."""
    points, step = len(grid), grid[1] - grid[0]
    landed = grid[:, None] + added[None, :]
    fits = (landed <= grid[-1] + 1e-12) | forced[None, :]
    position = np.minimum(landed, grid[-1]) / step
    below = np.minimum(position.astype(np.intp), points - 2)
    return below, position - below, fits


def _drain(grid: Floats, gap_s_mean: float) -> Floats:
    """Matrix D with (D V)(x) = E V(max(0, x - t)) for exponential gaps t, V linear between points: exact."""
    points, step = len(grid), grid[1] - grid[0]
    decay = np.exp(-step / gap_s_mean)
    # Within one cell: E over t in [0, step) of the linear interpolation, and the mass that passes on to the next cell.
    stay = 1.0 - decay
    lower = (gap_s_mean * stay - step * decay) / step  # weight of the lower point, E[t; t < step] / step
    upper = stay - lower
    matrix = np.zeros((points, points))
    powers = decay ** np.arange(points)
    for row in range(points):
        cells = powers[:row]
        matrix[row, row - np.arange(row)] += cells * upper
        matrix[row, row - 1 - np.arange(row)] += cells * lower
        matrix[row, 0] += powers[row]
    return matrix


def _valued(
    kept: NDArray[np.bool_], worth: Floats, below: NDArray[np.intp], above_share: Floats, drain: Floats
) -> Floats:
    """Relative value of a policy: solve V + gain = earned + P D V with V(0) = 0."""
    points, samples = kept.shape
    weight = 1.0 / samples
    # Flattened: one count over points x points is faster than adding at pairs of indices.
    landed, up = (np.arange(points)[:, None] * points + below)[kept], above_share[kept]
    moves = np.bincount(landed, weights=1.0 - up, minlength=points * points)
    moves += np.bincount(landed + 1, weights=up, minlength=points * points)[: points * points]
    moves = moves.reshape(points, points) * weight
    moves[np.arange(points), np.arange(points)] += weight * (samples - kept.sum(axis=1))
    earned = (kept @ worth) * weight
    system = np.eye(points) - moves @ drain
    system[:, 0] = 1.0  # the column of V(0) = 0 becomes that of the gain
    solution = np.linalg.solve(system, earned)
    solution[0] = 0.0
    return np.asarray(solution, float)
