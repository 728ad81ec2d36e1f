"""The fluid bound of one pool as a linear program, solved by HiGHS: an opinion on the greedy that shares no code with it.

Maximise the worth of the served share x of each piece of work, with a staircase of inventories: for every deadline class k,
the backlog B_k of accepted work of the classes up to k, just before the arrivals of t_i, and those arrivals obey

    B_k,i >= B_k,i-1 + arrivals accepted at t_i-1 - C(t_i-1, t_i),    B_k,i >= 0,
    B_k,i + arrivals accepted at t_i <= C(t_i, t_i + Delta_k)

The backlog is taken before the arrivals because one taken after them, as a single inequality, would let work use time from
before it arrived.

For one class this is exact. For several it is a relaxation: class k sees work of a shorter class only as it arrives, though
what arrives a little later may have to be done before it.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array, csr_array, eye_array, hstack, vstack

from scheduler.simulation.bound.edf import Pieces, Steps


def staircase(pieces: Pieces, delta_s: np.ndarray, capacity: Steps) -> tuple[float, np.ndarray]:
    """What the pieces can save at most (USD), and the served share of each; infinite density means that it has to be.

    ``delta_s``: ascending distances to the deadline, by class. Raises ValueError if what has to be served does not fit.
    """
    count, kinds = len(pieces.work_s), len(delta_s)
    instants, at = np.unique(pieces.arrival_s, return_inverse=True)
    points = len(instants)
    done = capacity.integral(instants)
    rows = np.concatenate([k * points + at[pieces.deadline_class <= k] for k in range(kinds)])
    columns = np.concatenate([np.flatnonzero(pieces.deadline_class <= k) for k in range(kinds)])
    accepted = coo_array((pieces.work_s[columns], (rows, columns)), shape=(kinds * points, count))
    cells = kinds * points
    later = np.flatnonzero(np.arange(cells) % points != 0)
    # Rows of the recursion: what was there and came before, less what is left now.
    before = csr_array(accepted)[later - 1]
    ones = np.ones(len(later))
    change = coo_array((ones, (np.arange(len(later)), later - 1)), shape=(len(later), cells))
    change = change - coo_array((ones, (np.arange(len(later)), later)), shape=(len(later), cells))
    most = np.concatenate([capacity.integral(instants + delta) - done for delta in delta_s])
    forced = np.isinf(pieces.density)
    worth_usd = np.where(forced, 0.0, pieces.work_s * np.where(forced, 0.0, pieces.density))
    result = linprog(
        np.concatenate((-worth_usd, np.zeros(cells))),
        A_ub=csr_array(vstack((hstack((before, change)), hstack((accepted, eye_array(cells)))))),
        b_ub=np.concatenate((np.tile(np.diff(done), kinds), most)),
        bounds=np.column_stack((np.append(forced, np.zeros(cells)), np.append(np.ones(count), np.full(cells, np.inf)))),
        method="highs",
    )
    if result.status != 0:
        raise ValueError(f"no solution: {result.message}")
    return -float(result.fun), result.x[:count]
