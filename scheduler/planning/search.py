"""How many replicas to own and to reserve, over all units at once: mean + risk_weight * CVaR of the sum, whole numbers.

Units share nothing but the scenarios: means add up, the mean of the worst share (CVaR) does not. One unit after the other
takes its best choice, given the others; then what is left to beat it is bounded and looked through. CVaR is the largest mean
over weights of at most 1 / (share * scenarios) each (Rockafellar and Uryasev 2000), so any such weights give a bound from
below that splits into units: choices that exceed it by more than the gap cannot be in a better plan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scheduler.planning import document

Floats = NDArray[np.float64]

_ROUNDING = 1e-12
_VISITS_MAX = 200_000
_ROUNDS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class UnitCosts:
    """What is to choose from in one unit: ``usd_per_hour`` [scenario, owned, reserved], as ``recourse.costs`` gives it."""

    owned: NDArray[np.int64]
    reserved: NDArray[np.int64]
    usd_per_hour: Floats

    @property
    def flat(self) -> Floats:
        """USD per hour [scenario, choice]."""
        return self.usd_per_hour.reshape(len(self.usd_per_hour), -1)

    def at(self, choice: int) -> tuple[int, int]:
        """Owned and reserved replicas of a choice."""
        row, column = divmod(choice, len(self.reserved))
        return int(self.owned[row]), int(self.reserved[column])


class Best(NamedTuple):
    """What was found. ``usd_per_hour`` [scenario] of all units together; no choice has an objective below ``bound``."""

    owned: tuple[int, ...]
    reserved: tuple[int, ...]
    usd_per_hour: Floats
    objective: float
    bound: float


def cvar(usd: Floats, share: float) -> Floats:
    """Mean of the largest ``share`` of the values along the first axis; a value that is only in part in it counts in part.

    >>> float(cvar(np.array([4.0, 1.0, 3.0, 2.0]), 0.5)), float(cvar(np.array([4.0, 1.0, 3.0, 2.0]), 0.375))
    (3.5, 3.6666666666666665)
    """
    weights = _tail(len(usd), share)
    count = int(np.count_nonzero(weights))
    worst = -np.sort(np.partition(-usd, count - 1, axis=0)[:count], axis=0)
    return np.asarray(np.tensordot(weights[:count], worst, axes=1), np.float64)


def _tail(count: int, share: float) -> Floats:
    """Weights of the largest, the second largest and so on; 1 in all. Raises ValueError for a share outside of (0, 1]."""
    if not 0.0 < share <= 1.0:
        raise ValueError(f"a share is above 0 and at most 1, not {share}")
    left = share * count - np.arange(count)
    # Rounding may leave a sliver of one more value.
    weights = np.where(left > _ROUNDING * count, np.minimum(1.0, left), 0.0)
    return np.asarray(weights / weights.sum(), np.float64)


def objective(usd: Floats, risk_weight: float, cvar_share: float) -> Floats:
    """What is minimised, of costs with scenarios along the first axis."""
    mean = np.asarray(usd.mean(axis=0), np.float64)
    return mean + risk_weight * cvar(usd, cvar_share) if risk_weight else mean


def summary(usd: Floats, cvar_share: float = 0.1) -> document.Spread:
    """USD per hour [scenario] as the plan shows it."""
    p10, p50, p90 = (float(value) for value in np.quantile(usd, (0.1, 0.5, 0.9)))
    return document.Spread(mean=float(usd.mean()), p10=p10, p50=p50, p90=p90, cvar=float(cvar(usd, cvar_share)))


def search(units: Sequence[UnitCosts], risk_weight: float, cvar_share: float, visits_max: int = _VISITS_MAX) -> Best:
    """The best choice of every unit.

    ``bound`` is the objective itself unless ``visits_max`` partial choices were too few for a proof. Raises ValueError
    without units, or where they do not have the same scenarios.
    """
    if not units or len({len(unit.usd_per_hour) for unit in units}) != 1:
        raise ValueError("units to choose for are needed, all with the same scenarios")
    tables = [unit.flat for unit in units]
    chosen = _descended(tables, risk_weight, cvar_share)
    proof = _Proof(tables, risk_weight, cvar_share, chosen, visits_max)
    proof.run()
    pairs = [unit.at(choice) for unit, choice in zip(units, proof.chosen, strict=True)]
    return Best(
        owned=tuple(owned for owned, _ in pairs),
        reserved=tuple(reserved for _, reserved in pairs),
        usd_per_hour=_total(tables, proof.chosen),
        objective=proof.least,
        bound=proof.bound,
    )


def _total(tables: Sequence[Floats], chosen: Sequence[int]) -> Floats:
    return np.asarray(sum(table[:, choice] for table, choice in zip(tables, chosen, strict=True)), np.float64)


def _descended(tables: Sequence[Floats], risk_weight: float, cvar_share: float) -> list[int]:
    """From the best means on, one unit after the other takes what is best given the rest, until nobody gains."""
    chosen = [int(np.argmin(table.mean(axis=0))) for table in tables]
    least = float(objective(_total(tables, chosen), risk_weight, cvar_share))
    for _ in range(_ROUNDS_MAX):
        before = least
        for unit, table in enumerate(tables):
            others = _total(tables, chosen) - table[:, chosen[unit]]
            found = objective(others[:, None] + table, risk_weight, cvar_share)
            best = int(np.argmin(found))
            if found[best] < least - _ROUNDING * abs(least):
                chosen[unit], least = best, float(found[best])
        if least == before:
            break
    return chosen


class _Proof:
    """Looks through what may still be better than ``chosen``; replaces it where it is."""

    def __init__(
        self, tables: Sequence[Floats], risk_weight: float, cvar_share: float, chosen: list[int], visits_max: int
    ) -> None:
        self._tables, self._risk_weight, self._cvar_share = tables, risk_weight, cvar_share
        self.chosen = chosen
        total = _total(tables, chosen)
        self.least = float(objective(total, risk_weight, cvar_share))
        # The weights at which the bound touches the objective of what was found.
        weights = np.full(len(total), 1.0 / len(total))
        weights[np.argsort(-total, kind="stable")] += risk_weight * _tail(len(total), cvar_share)
        self._scores = [weights @ table for table in tables]
        lows = [float(score.min()) for score in self._scores]
        self._below = [math.fsum(lows[unit:]) for unit in range(len(lows) + 1)]
        self._visits_left = visits_max
        self.bound = min(self.least, self._below[0])

    def run(self) -> None:
        """Depth first, the most promising first. Sets ``bound`` to what is proven."""
        if self._walk(0, 0.0, np.zeros(len(self._tables[0])), []):
            self.bound = self.least

    def _walk(self, unit: int, score: float, total: Floats, picked: list[int]) -> bool:
        """Whether everything below was looked at or cannot be better."""
        scores = score + self._scores[unit] + self._below[unit + 1]
        order = np.argsort(scores, kind="stable")
        order = order[scores[order] < self.least - _ROUNDING * abs(self.least)]
        self._visits_left -= len(order)
        if self._visits_left < 0:
            return False
        if unit == len(self._tables) - 1:
            self._take(order, total, picked)
            return True
        for choice in order:
            if scores[choice] >= self.least - _ROUNDING * abs(self.least):
                break
            reached = score + float(self._scores[unit][choice])
            if not self._walk(unit + 1, reached, total + self._tables[unit][:, choice], [*picked, int(choice)]):
                return False
        return True

    def _take(self, order: NDArray[np.int64], total: Floats, picked: list[int]) -> None:
        """The last unit: all that is left of it at once."""
        if len(order):
            found = objective(total[:, None] + self._tables[-1][:, order], self._risk_weight, self._cvar_share)
            best = int(np.argmin(found))
            if found[best] < self.least - _ROUNDING * abs(self.least):
                self.least, self.chosen = float(found[best]), [*picked, int(order[best])]
