"""What a price of capacity proves: no schedule saves more than the capacity costs at it, plus every request's surplus.

Weak duality. Let lambda(t) >= 0 be any price in USD per replica-second. A request served in [a, d] pays at least its work
times the least lambda in that window, all requests together pay at most the integral of capacity times lambda, so

    saved  <=  integral of capacity * lambda dt  +  sum over requests max(0, value - work * min_[a, d] lambda)

A good price makes this tight; a bad one only makes it useless, never wrong. Hence prices may come from anywhere.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scheduler.simulation.bound.edf import Pieces, Placed, Steps


class LeastPrice:
    """Least price in any window: a sparse table, O(log n) per price step to build and O(1) per window to ask."""

    def __init__(self, price: Steps) -> None:
        """``price`` is zero before its first step, and its last level holds for ever."""
        self._at_s = np.concatenate(([-np.inf], price.at_s))
        table = [np.concatenate(([0.0], price.level))]
        width = 1
        while 2 * width <= len(table[0]):
            table.append(np.minimum(table[-1][:-width], table[-1][width:]))
            width *= 2
        self._table = table

    def between(self, from_s: np.ndarray, until_s: np.ndarray) -> np.ndarray:
        """Least price in each ``[from_s, until_s)``; the price of the instant where the window is empty. USD/replica-s."""
        first = np.searchsorted(self._at_s, from_s, "right") - 1
        last = np.maximum(first, np.searchsorted(self._at_s, until_s, "left") - 1)
        level = np.frexp((last - first + 1).astype(np.float64))[1] - 1
        least = np.empty(len(first))
        for i, row in enumerate(self._table):
            here = level == i
            least[here] = np.minimum(row[first[here]], row[last[here] + 1 - (1 << i)])
        return least


class Work(NamedTuple):
    """Requests that may be served by one pool, arrays of equal length.

    ``arrival_s``; prefill takes ``prefill_work_s`` replica-seconds and has to be done ``ttft_s`` after the arrival, decode
    ``decode_work_s`` by ``decode_s`` after that; a late request has to be done ``late_s`` after its arrival. ``usd_saved``
    is what serving it here saves. ``forced`` may be served nowhere else. ``on_time`` is False where even an idle pool
    misses the limit.
    """

    arrival_s: np.ndarray
    ttft_s: np.ndarray
    decode_s: np.ndarray
    late_s: np.ndarray
    prefill_work_s: np.ndarray
    decode_work_s: np.ndarray
    usd_saved: np.ndarray
    forced: np.ndarray
    on_time: np.ndarray


def capacity_usd(capacity: Steps, price: Steps) -> float:
    """What all capacity costs at ``price`` (USD), up to the last step of the price, where it has to be zero."""
    return float(np.dot(price.level[:-1], np.diff(capacity.integral(price.at_s)))) if len(price.at_s) > 1 else 0.0


def certificate_usd(pieces: Pieces, delta_s: np.ndarray, capacity: Steps, placed: Placed) -> float:
    """The bound of ``placed.price`` on what the pieces can save (USD): at the optimum, what the placed work saves.

    Of what must be placed, the part that was placed is taken as given.
    """
    deadline_s = pieces.arrival_s + delta_s[pieces.deadline_class]
    least = LeastPrice(placed.price).between(pieces.arrival_s, deadline_s)
    free = np.isfinite(pieces.density)
    surplus = pieces.work_s[free] * np.maximum(0.0, pieces.density[free] - least[free])
    return capacity_usd(capacity, placed.price) + float(surplus.sum() - np.dot(placed.work_s[~free], least[~free]))


def surplus_usd(
    work: Work, price: Steps, prefill_work_s: np.ndarray, decode_work_s: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What each request adds to the bound when it is on time, and how much more it adds when it may be late (USD).

    Of forced requests the given replica-seconds count, and they pay whatever they must: their surplus is negative.
    """
    least = LeastPrice(price)
    prefill_s = np.where(work.forced, prefill_work_s, work.prefill_work_s)
    decode_s = np.where(work.forced, decode_work_s, work.decode_work_s)
    cost_usd = prefill_s * least.between(work.arrival_s, work.arrival_s + work.ttft_s)
    cost_usd += decode_s * least.between(work.arrival_s, work.arrival_s + (work.ttft_s + work.decode_s))
    late_usd = (prefill_s + decode_s) * least.between(work.arrival_s, work.arrival_s + work.late_s)
    on_time = np.where(work.forced, -cost_usd, np.maximum(0.0, work.usd_saved - cost_usd) * work.on_time)
    late = np.where(work.forced, -late_usd, np.maximum(0.0, work.usd_saved - late_usd))
    return on_time, late - on_time


def allow_late(gain_usd: np.ndarray, requests: int) -> np.ndarray:
    """Indices of the ``requests`` largest gains among those above zero, the largest first."""
    positive = np.flatnonzero(gain_usd > 0.0)
    return positive[np.argsort(-gain_usd[positive], kind="stable")][:requests]
