"""The most that one pool can save: greedy, its price, and the proof by that price, for requests with two parts and an SLO.

Three relaxations are made, each of which can only raise the bound: work is fluid and may be interrupted; prefill and decode
of a request may be taken apart while the price is sought (the proof puts them together again); and decode deadlines are
rounded up to a few classes for that search (the proof takes them as they are).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from scheduler.simulation.bound.dual import Work, allow_late, capacity_usd, certificate_usd, surplus_usd
from scheduler.simulation.bound.edf import CLASSES_MAX, Pieces, Steps, place, round_up


@dataclass(frozen=True, slots=True)
class PoolBound:
    """No schedule of a pool saves more.

    ``usd_saved``: with the allowance of late requests; ``usd_saved_on_time``: without any. ``usd_saved_primal``: what the
    greedy saves with prefill and decode taken apart, and ``usd_saved_certificate``: the proof of that, equal up to
    rounding. ``accepted``: share of each request's work that the greedy serves on time. ``price``: USD per
    replica-second. ``late_requests``: indices of the requests for which being late is worth most.
    ``late_gain_usd``: what each request adds to the bound when it may be late.
    """

    usd_saved: float
    usd_saved_on_time: float
    usd_saved_primal: float
    usd_saved_certificate: float
    accepted: np.ndarray
    price: Steps
    late_requests: np.ndarray
    late_gain_usd: np.ndarray


def constant(replicas: float, from_s: float) -> Steps:
    """A capacity in replica-seconds per second that holds from ``from_s`` (no later than the first arrival) for ever."""
    return Steps(np.array([from_s]), np.array([float(replicas)]))


def late_requests_max(requests: int, allowance: float) -> int:
    """How many of ``requests`` may miss their SLO: the whole number at or below ``allowance`` (a fraction) of them."""
    return math.floor(requests * allowance * (1.0 + 1e-12))


def pool_bound(work: Work, capacity: Steps, allowance: float) -> PoolBound:
    """The bound for one pool, where at most ``allowance`` (a fraction) of the requests may be late.

    Requests that are ``forced`` come first. Where they alone overfill the pool, as much of them as fits on time is taken
    as given and the rest is left out, so that the bound still holds for the others. A forced request that can never be on
    time is left out as well.
    """
    pieces, delta_s, owner, prefills = split(work)
    placed = place(pieces, delta_s, capacity)
    prefill_s = np.bincount(owner[:prefills], placed.work_s[:prefills], len(work.arrival_s))
    decode_s = np.bincount(owner[prefills:], placed.work_s[prefills:], len(work.arrival_s))
    total_s = work.prefill_work_s + work.decode_work_s
    idle = work.on_time & (total_s <= 0.0) & (work.forced | (work.usd_saved > 0.0))
    accepted = np.where(idle, 1.0, (prefill_s + decode_s) / np.where(total_s > 0.0, total_s, 1.0))
    # What costs no time is saved without a price.
    idle_usd = float(work.usd_saved[idle & ~work.forced].sum())
    free = np.isfinite(pieces.density)
    relaxed_usd = idle_usd + float(np.dot(placed.work_s[free], pieces.density[free]))
    on_time_usd, gain_usd = surplus_usd(work, placed.price, prefill_s, decode_s)
    saved_usd = capacity_usd(capacity, placed.price) + float(on_time_usd.sum())
    late = allow_late(gain_usd, late_requests_max(len(total_s), allowance))
    return PoolBound(
        usd_saved=saved_usd + float(gain_usd[late].sum()),
        usd_saved_on_time=saved_usd,
        usd_saved_primal=relaxed_usd,
        usd_saved_certificate=idle_usd + certificate_usd(pieces, delta_s, capacity, placed),
        accepted=accepted,
        price=placed.price,
        late_requests=late,
        late_gain_usd=gain_usd,
    )


def split(work: Work) -> tuple[Pieces, np.ndarray, np.ndarray, int]:
    """Prefill and decode as pieces of equal density; classes of deadlines (seconds); whose piece; how many are prefill.

    Pieces of prefill come before those of decode. What is not worth serving here, or never on time, has none.
    """
    total_s = work.prefill_work_s + work.decode_work_s
    wanted = work.on_time & (total_s > 0.0) & (work.forced | (work.usd_saved > 0.0))
    prefill = np.flatnonzero(wanted & (work.prefill_work_s > 0.0))
    decode = np.flatnonzero(wanted & (work.decode_work_s > 0.0))
    first_s = round_up(work.ttft_s[prefill], CLASSES_MAX // 2)
    done_s = round_up((work.ttft_s + work.decode_s)[decode], CLASSES_MAX // 2)
    delta_s, classes = np.unique(np.concatenate((first_s, done_s)), return_inverse=True)
    owner = np.concatenate((prefill, decode))
    density = np.where(work.forced[owner], np.inf, work.usd_saved[owner] / total_s[owner])
    work_s = np.concatenate((work.prefill_work_s[prefill], work.decode_work_s[decode]))
    return Pieces(work.arrival_s[owner], classes, work_s, density), delta_s, owner, len(prefill)
