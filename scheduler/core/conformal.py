"""Quantiles that hold in the long run whatever the forecast is worth: adaptive conformal inference.

Each score (how far the truth lay beyond the forecast) is compared with the margin given for it; a miss makes the next
margins wider, a hit a little narrower, so that the share of misses goes to the target for any sequence (Gibbs and Candes,
"Adaptive Conformal Inference Under Distribution Shift", 2021).
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque

_SCORES_MAX = 500
_STEP = 0.02


class Conformal:
    """``margin``: at least this share ``coverage`` of the scores is to lie at or below it. Infinite until it can be known."""

    def __init__(self, coverage: float, scores_max: int = _SCORES_MAX) -> None:
        self._target = 1.0 - coverage
        self._level = self._target  # the share of misses that the margin is made for; adapts, may leave [0, 1]
        self._scores: deque[float] = deque(maxlen=scores_max)
        self._sorted: list[float] = []

    @property
    def margin(self) -> float:
        """The quantile of the scores seen."""
        n = len(self._sorted)
        rank = math.ceil((1.0 - self._level) * (n + 1))  # the rank that holds for exchangeable scores of finite number
        if rank > n:
            return math.inf if n < 1.0 / self._target - 1.0 else self._sorted[-1] + self._beyond()
        return self._sorted[max(rank, 1) - 1]

    def _beyond(self) -> float:
        """Further than anything seen, while misses go on: without that they would never end under a drift."""
        return max(0.0, -self._level) / _STEP * (abs(self._sorted[-1]) + 1e-9)

    def observe(self, score: float) -> None:
        """The score that came of the forecast that the last margin stood for."""
        missed = score > self.margin
        self._level += _STEP * (self._target - (1.0 if missed else 0.0))
        # Bounded, so that a long quiet time is no debt of misses to come.
        self._level = min(1.0, max(-0.5, self._level))
        if len(self._scores) == self._scores.maxlen:
            self._sorted.remove(self._scores[0])
        self._scores.append(score)
        insort(self._sorted, score)
