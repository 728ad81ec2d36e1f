"""What the mixed-integer program of ``capacity`` is asked, and what it answers: arrays only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


class Infeasible(ValueError):
    """Groups that have to stay fit nowhere: ``groups`` are their numbers."""

    def __init__(self, groups: tuple[int, ...], names: tuple[str, ...]) -> None:
        called = ", ".join(names[group] if names else str(group) for group in groups)
        super().__init__(f"have to stay, and fit into nothing that is to be had: {called}")
        self.groups = groups


@dataclass(frozen=True, slots=True)
class Problem:
    """G groups, T technologies, S slices. Raises ValueError where shapes do not agree or a figure makes no sense.

    ``hours`` [S]: lengths of the slices, in any unit (only shares count). ``rate`` [G, S]: requests per second. ``work_s``
    [G, T]: replica-seconds per request at the SLO (inf: cannot serve it; see ``throughput``). ``energy_usd`` [G, T] and
    ``elsewhere_usd`` [G]: USD per request, the latter at the cheapest API (inf: has to stay). Prices [T]: USD per replica
    and hour (inf: not to be had). ``replicas_max`` [T]: of all kinds together. ``usable``: share of a replica's time that
    may be planned. ``names``: of the groups, for errors.
    """

    hours: np.ndarray
    rate: np.ndarray
    work_s: np.ndarray
    energy_usd: np.ndarray
    elsewhere_usd: np.ndarray
    owned_usd_per_hour: np.ndarray
    reserved_usd_per_hour: np.ndarray
    rented_usd_per_hour: np.ndarray
    replicas_max: np.ndarray
    usable: float = 1.0
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        groups, kinds = self.work_s.shape
        by_kind = (self.owned_usd_per_hour, self.reserved_usd_per_hour, self.rented_usd_per_hour, self.replicas_max)
        agree = self.rate.shape == (groups, len(self.hours)) and self.energy_usd.shape == (groups, kinds)
        agree &= self.elsewhere_usd.shape == (groups,) and all(array.shape == (kinds,) for array in by_kind)
        if not agree or (self.names and len(self.names) != groups):
            raise ValueError("the arrays have to agree in groups, technologies and slices")
        if not all((array >= 0.0).all() for array in (self.hours, self.rate, *by_kind)) or not self.hours.sum() > 0.0:
            raise ValueError("hours, rates, prices and limits have to be at least zero, and some hours above it")
        if not (self.work_s > 0.0).all() or not 0.0 < self.usable <= 1.0:
            raise ValueError("work and the usable share of time have to be above zero, and the latter at most 1")
        if np.isnan(self.energy_usd).any() or np.isnan(self.elsewhere_usd).any():
            raise ValueError("costs per request have to be numbers")


@dataclass(frozen=True, slots=True)
class Capacity:
    """Replicas to have, ``owned`` and ``reserved`` [T] in whole ones and ``rented`` [T, S], and where requests go.

    ``share`` [G, T, S] and ``api_share`` [G, S] of the requests add up to 1; both are 0 where a group asks for nothing. No
    plan costs less than ``usd_per_hour * (1 - gap)``; ``is_optimal``: the gap that was asked for was reached in time.
    """

    owned: np.ndarray
    reserved: np.ndarray
    rented: np.ndarray
    share: np.ndarray
    api_share: np.ndarray
    usd_per_hour: float
    gap: float
    is_optimal: bool
