"""The exact greedy: which work one pool serves when the future is known, the most valuable first.

Work is fluid and may be interrupted. Piece j arrives at a_j, has w_j replica-seconds, and one of K distances Delta to its
deadline. A set of pieces is feasible on a pool with C(s, t) replica-seconds between s and t iff for every class k and all
t >= s + Delta_k (earliest deadline first; the interval form of Hall's condition)

    sum over classes j <= k of work arriving in [s, t - Delta_j]  <=  C(s, t)

With A_j the accepted work of class j by arrival, G_k(t) = C(0, t) - sum_{j<=k} A_j(t - Delta_j) and
H_k(s) = C(0, s) - sum_{j<=k} A_j(s-), the room for a piece of class m that arrives at a is the least, over k >= m, of
min_{t >= a + Delta_m} G_k(t) - max_{s <= a} H_k(s). Pairs with t - s < Delta_k ask for less than a smaller k does, so the
two sides can be searched apart. Feasible work is a polymatroid (capacity that a set of windows covers), where taking
pieces by falling USD per replica-second, each as far as it fits, is optimal.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from scheduler.simulation.bound.tree import add, grow, least_from, least_until, where_least

CLASSES_MAX = 12


class Steps(NamedTuple):
    """A level that changes at ascending ``at_s``: ``level[i]`` holds on ``[at_s[i], at_s[i + 1])``, the last one for ever.

    Before ``at_s[0]`` the level is zero.
    """

    at_s: np.ndarray
    level: np.ndarray

    def integral(self, until_s: np.ndarray) -> np.ndarray:
        """Level times seconds from ``at_s[0]`` to each instant (level-seconds)."""
        whole = np.concatenate(([0.0], np.cumsum(np.diff(self.at_s) * self.level[:-1])))
        last = np.clip(np.searchsorted(self.at_s, until_s, "right") - 1, 0, None)
        return whole[last] + self.level[last] * np.maximum(0.0, until_s - self.at_s[last])


class Pieces(NamedTuple):
    """Work to place, arrays of equal length: seconds, replica-seconds, USD per replica-second.

    ``density`` is infinite where the work has to be placed before any other; what is not worth placing is left out.
    """

    arrival_s: np.ndarray
    deadline_class: np.ndarray
    work_s: np.ndarray
    density: np.ndarray


class Placed(NamedTuple):
    """``work_s`` of each piece that is served, and the price of capacity that this leads to (USD per replica-second)."""

    work_s: np.ndarray
    price: Steps


def round_up(delta_s: np.ndarray, classes: int) -> np.ndarray:
    """Each distance to a deadline, rounded up to one of ``classes`` values at most; exact while there are no more.

    Values in geometric progression from the smallest to the largest; a later deadline only relaxes the problem.
    """
    distinct = np.unique(delta_s)
    if len(distinct) <= classes:
        return delta_s
    lowest = max(float(distinct[0]), float(distinct[-1]) * 1e-4)
    grid = np.geomspace(lowest, float(distinct[-1]), classes)
    grid[-1] = distinct[-1]
    # Drawn down to the largest distance below each value, so that a class is no longer than its longest member.
    grid = np.unique(distinct[np.searchsorted(distinct, grid, "right") - 1])
    return grid[np.searchsorted(grid, delta_s, "left")]


def place(pieces: Pieces, delta_s: np.ndarray, capacity: Steps) -> Placed:
    """Serve the most valuable feasible work. ``delta_s``: ascending distances to the deadline, by class.

    The price is the density of the first piece that had to be cut in a stretch of time that is full; where only work that
    must be placed fills it, the highest finite density. O(K n log n) time, O(K n) memory.
    """
    count = len(pieces.arrival_s)
    if not count:
        return Placed(np.zeros(0), Steps(np.zeros(1), np.zeros(1)))
    deadline_s = pieces.arrival_s + delta_s[pieces.deadline_class]
    arrivals, arrival_at = np.unique(pieces.arrival_s, return_inverse=True)
    deadlines, deadline_at = np.unique(deadline_s, return_inverse=True)
    instants = np.unique(np.concatenate((arrivals, deadlines)))
    finite = np.isfinite(pieces.density)
    highest = float(pieces.density[finite].max()) if finite.any() else 0.0
    order = np.argsort(-pieces.density, kind="stable")
    # Counted from the first arrival: smaller numbers, smaller rounding.
    base = float(capacity.integral(arrivals[:1])[0])
    work_s, price = _place(
        order,
        arrival_at,
        deadline_at,
        pieces.deadline_class.astype(np.int64),
        pieces.work_s,
        np.where(finite, pieces.density, highest),
        capacity.integral(arrivals) - base,
        capacity.integral(deadlines) - base,
        np.searchsorted(instants, arrivals),
        np.searchsorted(instants, deadlines),
        len(instants),
        len(delta_s),
    )
    changes = np.concatenate(([True], price[1:] != price[:-1]))
    return Placed(work_s, Steps(instants[changes], price[changes]))


@njit(cache=True)
def _unpriced(after: np.ndarray, instant: int) -> int:
    """The first instant at or after ``instant`` whose stretch has no price yet; shortens the way for the next call."""
    root = instant
    while after[root] != root:
        root = after[root]
    while after[instant] != root:
        after[instant], instant = root, after[instant]
    return root


@njit(cache=True)
def _place(
    order: np.ndarray,
    arrival_at: np.ndarray,
    deadline_at: np.ndarray,
    classes: np.ndarray,
    work_s: np.ndarray,
    density: np.ndarray,
    room_arrivals: np.ndarray,
    room_deadlines: np.ndarray,
    arrival_instant: np.ndarray,
    deadline_instant: np.ndarray,
    instants: int,
    k_max: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The greedy on indices: see the module. Returns served work by piece, and a price by stretch between instants."""
    ends = grow(room_deadlines, k_max)  # G_k
    starts = grow(-room_arrivals, k_max)  # -H_k: one kind of tree serves both
    served = np.zeros(len(work_s))
    price = np.zeros(instants)
    after = np.arange(instants + 1)
    room_end, room_start = np.empty(k_max), np.empty(k_max)
    for j in order:
        start, end, m, work = arrival_at[j], deadline_at[j], classes[j], work_s[j]
        # A window that is priced throughout lies in full stretches: nothing more fits.
        if work <= 0.0 or _unpriced(after, arrival_instant[start]) >= max(
            deadline_instant[end], arrival_instant[start] + 1
        ):
            continue
        least_from(ends, end, m, room_end)
        least_until(starts, start, m, room_start)
        tight, room = m, np.inf
        for k in range(m, k_max):
            if room_end[k] + room_start[k] < room:
                tight, room = k, room_end[k] + room_start[k]
        took = min(work, max(0.0, room))
        if took < work:
            begin = arrival_instant[where_least(starts, tight, 0, start + 1)]
            until = deadline_instant[where_least(ends, tight, end, len(room_deadlines))]
            at = _unpriced(after, begin)
            while at < until:
                price[at] = density[j]
                after[at] = at + 1
                at = _unpriced(after, at)
        if took > 0.0:
            served[j] = took
            add(ends, end, m, -took)
            add(starts, start + 1, m, took)
    return served, price
