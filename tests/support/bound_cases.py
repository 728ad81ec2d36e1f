"""Small random problems for the clairvoyant bound, and an exact answer to them by explicit flows."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from scipy.optimize import linprog

from scheduler.simulation.bound.dual import Work
from scheduler.simulation.bound.edf import Pieces, Steps

DELTAS_S = (0.5, 2.0, 7.0)
SEEDS = st.integers(0, 2**32 - 1)


def pieces(
    seed: int, count: int = 14, kinds: int = 3, ties: bool = True, forced: float = 0.0
) -> tuple[Pieces, np.ndarray]:
    """Work that arrives in bursts, worth between 0.1 and 10 USD per replica-second; some at the same instant."""
    rng = np.random.default_rng(seed)
    arrival_s = rng.choice([0.0, 3.0, 3.5, 12.0], count) + rng.uniform(0.0, 2.0, count)
    if ties:
        arrival_s = np.round(arrival_s * 2.0) / 2.0
    density = rng.choice([0.1, 1.0, 10.0], count) * rng.uniform(0.5, 1.0, count)
    density[rng.random(count) < forced] = np.inf
    made = Pieces(arrival_s, rng.integers(0, kinds, count), rng.exponential(0.7, count), density)
    return made, np.array(DELTAS_S[:kinds])


def capacity(seed: int, steps: int = 1) -> Steps:
    """Between none and three replicas, that may change."""
    rng = np.random.default_rng(seed + 1)
    return Steps(np.concatenate(([0.0], np.sort(rng.uniform(0.0, 15.0, steps - 1)))), rng.uniform(0.0, 3.0, steps))


def flow_usd(made: Pieces, delta_s: np.ndarray, capacity: Steps) -> float:
    """What the pieces can save at most: one variable per piece and stretch of time between any two instants (HiGHS)."""
    deadline_s = made.arrival_s + delta_s[made.deadline_class]
    instants = np.unique(np.concatenate((made.arrival_s, deadline_s, capacity.at_s)))
    inside = (instants[None, :-1] >= made.arrival_s[:, None]) & (instants[None, 1:] <= deadline_s[:, None] + 1e-12)
    piece, stretch = np.nonzero(inside)
    forced = np.isinf(made.density)
    # Forced work is worth so much that it comes first, and that is taken off again.
    worth = np.where(forced, 1000.0, made.density)
    by_piece = (np.arange(len(deadline_s))[:, None] == piece[None, :]).astype(float)
    by_stretch = (np.arange(len(instants) - 1)[:, None] == stretch[None, :]).astype(float)
    result = linprog(
        -worth[piece],
        A_ub=np.vstack((by_piece, by_stretch)),
        b_ub=np.concatenate((made.work_s, np.diff(capacity.integral(instants)))),
        method="highs",
    )
    assert result.status == 0, result.message
    return float(np.dot(np.where(forced, 0.0, worth)[piece], result.x))


def work(seed: int, count: int = 25, forced: float = 0.0) -> Work:
    """Requests with prefill, decode, two limits of the first token, and some that can never be on time."""
    rng = np.random.default_rng(seed)
    return Work(
        arrival_s=rng.uniform(0.0, 10.0, count),
        ttft_s=rng.choice([0.5, 2.0], count),
        decode_s=rng.uniform(0.5, 9.0, count),
        late_s=np.full(count, 15.0),
        prefill_work_s=rng.exponential(0.2, count),
        decode_work_s=rng.exponential(0.5, count) * (rng.random(count) < 0.9),
        usd_saved=rng.normal(1.0, 1.0, count),
        forced=rng.random(count) < forced,
        on_time=rng.random(count) < 0.9,
    )
