"""Which types of GPU to have and how many of each: a mixed-integer program over groups of requests and slices of time.

A group is requests that are alike (a pool, a class of prices, a bucket of sizes), a technology is a candidate on a type of
GPU, a slice is a part of the time with about the same load. With shares x and y of the requests of group g in slice s,

    min  sum_t price_t * had_t  +  sum_s hours_s * (sum_t rent_t * rented_ts
                                 + 3600 * sum_g rate_gs * (sum_t energy_gt * x_gts + elsewhere_g * y_gs))
    s.t. sum_t x_gts + y_gs = 1,       sum_g rate_gs * work_gt * x_gts <= usable * (had_t + rented_ts),
         had_t + rented_ts <= replicas_max_t,       had_t whole,       y_gs = 0 where g has to stay

Mélange (arXiv:2404.14527) picks GPU types by bucket of sizes like this; time, APIs and ways to pay are added.
What is owned and what is reserved does the same work, so that of each technology only the cheaper of the two is had.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array

from scheduler.planning.capacity_problem import Capacity, Infeasible, Problem

__all__ = ["Capacity", "Infeasible", "Problem", "solve"]

_NOISE = 1e-9  # what is smaller is rounding
_LEFT_OVER = 1e-6  # share of a group that the solver may lose without saying so
_SCALED_USD = 1e3  # the whole bill as the solver sees it


def solve(problem: Problem, *, gap: float = 1e-4, time_s_max: float = 60.0, whole_rented: bool = False) -> Capacity:
    """The cheapest plan, to within ``gap`` (a fraction of its cost), or the best one found in ``time_s_max``.

    Where none was found in that time: the one without whole numbers, rounded up (which takes a little longer).
    ``whole_rented``: no parts of replicas are rented. Raises Infeasible.
    """
    program = _Program(problem, whole_rented)
    if not len(program.usd):
        return program.plan(_Answer(np.zeros(0), 0.0, True))
    found = program.minimise(program.usd, program.upper, gap=gap, time_s_max=time_s_max)
    if found.x is None:
        left_over = program.left_over()
        if left_over:
            raise Infeasible(left_over, problem.names)
        found = program.rounded_up()
    return program.plan(found)


class _Answer(NamedTuple):
    """Values of the columns (None: none were found), the least that the cost can be, and whether the gap was reached."""

    x: np.ndarray | None
    bound: float
    is_optimal: bool


class _Program:
    """Columns: shares by group, technology and slice; shares of APIs; replicas had; replicas rented by slice.

    Flows that can never pay have no column (an API asks no more than the energy), nor has what could carry no flow.
    """

    def __init__(self, problem: Problem, whole_rented: bool) -> None:
        self.problem, self.whole_rented = problem, whole_rented
        self.hours = problem.hours / problem.hours.sum()
        self.most = np.floor(problem.replicas_max)
        self.had_usd = np.minimum(problem.owned_usd_per_hour, problem.reserved_usd_per_hour)
        rent_usd = problem.rented_usd_per_hour
        # Where renting by the hour is the cheapest way to have a replica all the time, nobody commits.
        may_have, may_rent = np.isfinite(self.had_usd) & (self.had_usd <= rent_usd), np.isfinite(rent_usd)
        serves = np.isfinite(problem.work_s) & (problem.energy_usd < problem.elsewhere_usd[:, None])
        serves &= (may_have | may_rent) & (self.most >= 1.0)
        self.api = np.nonzero(problem.rate > 0.0)
        self.flow = np.nonzero(serves[:, :, None] & (problem.rate > 0.0)[:, None, :])
        group, kind, at = self.flow
        self.load = problem.rate[group, at] * problem.work_s[group, kind] / problem.usable
        self.peak = np.zeros((len(self.most), len(self.hours)))  # replicas for all that could go there
        np.add.at(self.peak, (kind, at), self.load)
        self.had = np.flatnonzero(may_have & self.peak.any(axis=1))
        self.rented = np.nonzero(may_rent[:, None] & (self.peak > 0.0))
        counts = [len(self.load), len(self.api[0]), len(self.had), len(self.rented[0])]
        self.flows, self.apis, self.hads, self.rents = np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])
        self.stays = np.isinf(problem.elsewhere_usd)[self.api[0]]
        self.usd, self.scale = self._costs()
        self.upper = self._upper()

    def _costs(self) -> tuple[np.ndarray, float]:
        """Cost of each column, scaled, and USD per hour of one scaled unit.

        The solver's tolerances are absolute; scaled, a bill of a cent gets the same care as one of a million.
        """
        problem, (group, kind, at), asking = self.problem, self.flow, self.api[0]
        asked = 3600.0 * self.hours * problem.rate  # requests of each slice, per hour of all the time
        api_usd = asked[self.api] * np.where(self.stays, 0.0, problem.elsewhere_usd[asking])
        rented_kind, rented_at = self.rented
        usd = np.concatenate(
            (
                asked[group, at] * problem.energy_usd[group, kind],
                api_usd,
                self.had_usd[self.had],
                self.hours[rented_at] * problem.rented_usd_per_hour[rented_kind],
            )
        )
        replica_usd = np.minimum(self.had_usd, problem.rented_usd_per_hour)
        least_usd = float(replica_usd[np.isfinite(replica_usd)].min(initial=np.inf))
        scale = max(float(api_usd.sum()), least_usd if np.isfinite(least_usd) else 0.0) / _SCALED_USD or 1.0
        return usd / scale, scale

    def _upper(self) -> np.ndarray:
        """Most of each column: more replicas than all that could go there can use are never had."""
        peak = np.ceil(self.peak)
        had = np.minimum(self.most, peak.max(axis=1, initial=0.0))[self.had]
        rented = np.minimum(self.most[:, None], peak)[self.rented]
        return np.concatenate((np.ones(len(self.flows)), np.where(self.stays, 0.0, 1.0), had, rented))

    def _rows(self) -> LinearConstraint:
        """All requests go somewhere; work fits into what is there; no more is there than may be."""
        (group, kind, at), asking = self.flow, len(self.apis)
        requests = np.zeros(self.problem.rate.shape, np.int64)
        requests[self.api] = np.arange(asking)
        work = asking + np.arange(self.peak.size).reshape(self.peak.shape)
        room, cells = work + self.peak.size, len(self.hours)
        had = np.repeat(self.hads, cells)
        entries = (
            (requests[group, at], self.flows, 1.0),
            (np.arange(asking), self.apis, 1.0),
            (work[kind, at], self.flows, self.load),
            (work[self.had].ravel(), had, -1.0),
            (work[self.rented], self.rents, -1.0),
            (room[self.had].ravel(), had, 1.0),
            (room[self.rented], self.rents, 1.0),
        )
        rows = np.concatenate([entry[0] for entry in entries])
        columns = np.concatenate([entry[1] for entry in entries])
        values = np.concatenate([np.broadcast_to(entry[2], entry[1].shape) for entry in entries])
        matrix = coo_array((values, (rows, columns)), shape=(asking + 2 * self.peak.size, len(self.usd)))
        upper = np.concatenate((np.ones(asking), np.zeros(self.peak.size), np.repeat(self.most, cells)))
        lower = np.where(np.arange(len(upper)) < asking, 1.0, -np.inf)
        return LinearConstraint(csr_array(matrix), lower, upper)

    def minimise(
        self,
        cost: np.ndarray,
        upper: np.ndarray,
        lower: np.ndarray | None = None,
        *,
        whole: bool = True,
        gap: float = 0.0,
        time_s_max: float = np.inf,
    ) -> _Answer:
        """The least cost, with replicas in whole numbers or (``whole`` False) not."""
        is_whole = np.zeros(len(cost))
        is_whole[self.hads] = whole
        is_whole[self.rents] = whole and self.whole_rented
        options = {"mip_rel_gap": gap}
        if np.isfinite(time_s_max):
            options["time_limit"] = time_s_max
        bounds = Bounds(np.zeros(len(cost)) if lower is None else lower, upper)
        result = milp(cost, integrality=is_whole, bounds=bounds, constraints=self._rows(), options=options)
        bound = result.mip_dual_bound if is_whole.any() else result.fun
        return _Answer(result.x, -np.inf if bound is None else float(bound), result.status == 0)

    def left_over(self) -> tuple[int, ...]:
        """Groups that have to stay and do not fit, where as little as possible is left over."""
        cost, upper = np.zeros(len(self.usd)), self.upper.copy()
        cost[self.apis] = self.stays
        upper[self.apis] = 1.0
        x = self.minimise(cost, upper, whole=False).x
        if x is None:
            raise RuntimeError("the solver found nothing where there is always something")
        groups = self.api[0][self.stays & (x[self.apis] > _LEFT_OVER)]
        return tuple(np.unique(groups).tolist())

    def rounded_up(self) -> _Answer:
        """The best plan without whole numbers, with the next whole numbers above, and the rest arranged anew."""
        relaxed = self.minimise(self.usd, self.upper, whole=False)
        if relaxed.x is None:
            raise RuntimeError("the solver found nothing where there is something")
        lower, upper = np.zeros(len(self.usd)), self.upper.copy()
        lower[self.hads] = upper[self.hads] = np.ceil(relaxed.x[self.hads] - _NOISE)
        if self.whole_rented:
            had = np.zeros(len(self.most))
            had[self.had] = upper[self.hads]
            rented = np.ceil(relaxed.x[self.rents] - _NOISE)
            lower[self.rents] = upper[self.rents] = np.minimum(rented, (self.most - had)[self.rented[0]])
        found = self.minimise(self.usd, upper, lower, whole=False)
        return _Answer(found.x, relaxed.bound, False)

    def plan(self, found: _Answer) -> Capacity:
        """The columns as arrays, without the solver's noise."""
        if found.x is None:
            raise RuntimeError("the solver found nothing where there is something")
        x = np.where(found.x > _NOISE, found.x, 0.0)
        x[self.hads] = np.rint(x[self.hads])
        if self.whole_rented:
            x[self.rents] = np.rint(x[self.rents])
        (groups, kinds), slices = self.problem.work_s.shape, len(self.hours)
        share, api_share = np.zeros((groups, kinds, slices)), np.zeros((groups, slices))
        share[self.flow], api_share[self.api] = x[self.flows], x[self.apis]
        total = share.sum(axis=1) + api_share
        total[total == 0.0] = 1.0
        had, rented = np.zeros(kinds, np.int64), np.zeros((kinds, slices))
        had[self.had] = x[self.hads].astype(np.int64)
        rented[self.rented] = x[self.rents]
        is_owned = self.problem.owned_usd_per_hour <= self.problem.reserved_usd_per_hour
        cost = float(self.usd @ x)
        return Capacity(
            owned=np.where(is_owned, had, 0),
            reserved=np.where(is_owned, 0, had),
            rented=rented,
            share=share / total[:, None, :],
            api_share=api_share / total,
            usd_per_hour=cost * self.scale,
            gap=max(0.0, (cost - found.bound) / abs(cost)) if cost else 0.0,
            is_optimal=found.is_optimal,
        )
