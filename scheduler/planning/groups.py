"""The requests of a plan as the mixed-integer program sees them: groups of like requests, and slices of like hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.planning.capacity import Problem
from scheduler.planning.requests import PoolRequests, Requests
from scheduler.planning.sizes import BUCKETS, bucket_of
from scheduler.planning.technologies import Technology
from scheduler.planning.units import Placement

SLICES = 32


@dataclass(frozen=True, slots=True, eq=False)
class Grouped:
    """The program, and which pool, profile and bucket each of its groups is."""

    problem: Problem
    of: tuple[tuple[str, int, int], ...]
    technologies: tuple[Technology, ...]

    def placements(self, share: np.ndarray) -> dict[str, Placement]:
        """Where a solution (``share`` [group, technology, slice]) puts each profile and bucket: to whom most of it goes.

        What it buys from APIs goes, if it comes home after all, where a replica-second of it is cheapest.
        """
        hours, rate = self.problem.hours, self.problem.rate
        flow = np.einsum("gts,gs,s->gt", share, rate, hours)
        price = _usd_per_hour(self.technologies)
        work = self.problem.work_s
        found: dict[str, dict[tuple[int, int], int]] = {}
        for group, (pool, profile, bucket) in enumerate(self.of):
            own = [i for i, technology in enumerate(self.technologies) if technology.pool == pool]
            usd = np.where(np.isfinite(work[group, own]), work[group, own] * price[own], np.inf)
            best = int(np.argmax(flow[group, own])) if flow[group, own].any() else int(np.argmin(usd))
            found.setdefault(pool, {})[profile, bucket] = best
        return dict(found)


def _usd_per_hour(technologies: Sequence[Technology]) -> np.ndarray:
    """The cheapest way to have a replica for all hours."""
    ways = [(t.owned_usd_per_hour, t.reserved_usd_per_hour, t.rented_usd_per_hour) for t in technologies]
    return np.array([min(usd for usd in of if usd is not None) for of in ways])


def grouped(
    requests: Requests, technologies: Sequence[Technology], edges_s: np.ndarray, usable: float = 1.0
) -> Grouped:
    """Groups by pool, profile and size bucket, over at most ``SLICES`` slices of bins with about the same load.

    ``edges_s``: of the bins, all of one length. Within a group every request is the mean one.
    """
    slice_of, hours = _slices(requests, edges_s)
    count, labels = len(hours), list[tuple[str, int, int]]()
    columns: list[tuple[np.ndarray, np.ndarray, np.ndarray, float]] = []
    names = [technology.name for technology in technologies]
    seconds = hours * (edges_s[-1] - edges_s[0])
    for pool in requests.pools:
        place = [names.index(technology.name) for technology in pool.technologies]
        key = pool.profile.astype(np.int64) * BUCKETS + bucket_of(pool.input_tokens)
        slices = slice_of[np.clip(np.searchsorted(edges_s, pool.at_s, side="right") - 1, 0, len(slice_of) - 1)]
        for group in np.unique(key):
            rows = np.flatnonzero(key == group)
            rate = np.bincount(slices[rows], minlength=count) * pool.stands_for / seconds
            work, energy = np.full(len(names), np.inf), np.zeros(len(names))
            fits = np.isfinite(pool.work_s[:, rows])
            work[place] = _mean(pool.work_s[:, rows], fits)
            energy[place] = np.nan_to_num(
                _mean(pool.energy_usd[:, rows], fits), posinf=0.0
            )  # none where there is no work
            elsewhere = pool.elsewhere_usd[None, rows]
            columns.append((rate, work, energy, float(_mean(elsewhere, np.isfinite(elsewhere))[0])))
            labels.append((pool.pool, int(group) // BUCKETS, int(group) % BUCKETS))
    rate, work, energy = (np.array([column[i] for column in columns]) for i in range(3))
    prices = (
        np.array([np.inf if (usd := getattr(t, f"{way}_usd_per_hour")) is None else usd for t in technologies])
        for way in ("owned", "reserved", "rented")
    )
    owned, reserved, rented = prices
    problem = Problem(
        hours=hours, rate=rate, work_s=work, energy_usd=energy, elsewhere_usd=np.array([column[3] for column in columns]),
        owned_usd_per_hour=owned, reserved_usd_per_hour=reserved, rented_usd_per_hour=rented,
        replicas_max=np.array([technology.replicas_max for technology in technologies]), usable=usable,
    )  # fmt: skip
    return Grouped(problem, tuple(labels), tuple(technologies))


def _mean(values: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Means over the second axis of those that are ``some``; infinite where less than half are.

    A few books that fit nowhere else must not bind all of their like, and a few that fit must not speak for the rest.
    """
    mean = np.where(some, values, 0.0).sum(axis=1, dtype=float) / np.maximum(1, some.sum(axis=1))
    return np.where(some.mean(axis=1) >= 0.5, mean, np.inf)


def _slices(requests: Requests, edges_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of the slice of each bin, and share of time of each slice: bins in order of their load, the highest apart."""
    load = np.zeros(len(edges_s) - 1)
    for pool in requests.pools:
        load += load_of(pool, edges_s)
    order = np.argsort(-load, kind="stable")
    # Finer where the load is high: there it decides how much is owned for few hours.
    share = (np.arange(len(load)) + 0.5) / len(load)
    number = np.minimum((SLICES * share**0.7).astype(int), SLICES - 1)
    _, number = np.unique(number, return_inverse=True)
    slice_of = np.empty(len(load), int)
    slice_of[order] = number
    return slice_of, np.bincount(number) / len(load)


def load_of(pool: PoolRequests, edges_s: np.ndarray) -> np.ndarray:
    """Replicas of the pool's first technology that can serve each request, busy in each bin."""
    first = np.argmax(np.isfinite(pool.work_s), axis=0)
    work = pool.work_s[first, np.arange(len(pool))]
    busy, _ = np.histogram(pool.at_s, edges_s, weights=np.where(np.isfinite(work), work, 0.0))
    return np.asarray(busy * pool.stands_for / np.diff(edges_s))
