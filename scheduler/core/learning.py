"""What is learnt while serving: how wrong the service curve is, how much of an objective to plan with, how long answers are.

All of it is bounded, starts from what the site file says, and is plain arithmetic: the simulator learns like the gateway.
"""

from __future__ import annotations

from collections import OrderedDict

# Weight of one observation; some thirty of them make a new opinion.
_WEIGHT = 0.03
_RATIO_MIN, _RATIO_MAX = 0.2, 5.0
# Adaptive conformal inference (Gibbs and Candes 2021): each miss takes a step down, each hit a small one up, so that in
# the long run this share of the requests that waited here misses its objective, whatever the prediction is worth.
_MISS_TARGET = 0.003
_MARGIN_STEP = 0.02
_MARGIN_MIN = 0.5


class Calibration:
    """``ratio``: seconds needed over seconds predicted by the curve. ``margin``: share of an objective to plan with."""

    __slots__ = ("_actual_s", "_margin_max", "_predicted_s", "margin", "ratio")

    def __init__(self, margin_max: float, prior_s: float = 1.0) -> None:
        self.ratio, self.margin, self._margin_max = 1.0, margin_max, margin_max
        # Sums that fade; the prior says that the curve is right until that many seconds of work were seen.
        self._actual_s = self._predicted_s = prior_s

    def took(self, predicted_s: float, actual_s: float) -> None:
        """An engine needed ``actual_s`` to the first token where the curve says ``predicted_s``."""
        if predicted_s <= 0.0:
            return
        fade = 1.0 - _WEIGHT
        self._actual_s = self._actual_s * fade + actual_s
        self._predicted_s = self._predicted_s * fade + predicted_s
        self.ratio = min(_RATIO_MAX, max(_RATIO_MIN, self._actual_s / self._predicted_s))

    def judged(self, missed: bool) -> None:
        """A request that was served here met or missed its TTFT objective."""
        step = _MARGIN_STEP * (_MISS_TARGET - 1.0 if missed else _MISS_TARGET)
        self.margin = min(self._margin_max, max(_MARGIN_MIN, self.margin + step))


class OutputLengths:
    """Mean output tokens by tenant and template, shrunk towards the tenant's mean, and that towards ``guess``."""

    _PRIOR = 8.0  # observations that the level above counts for
    _MEMORY = 0.98
    _KEYS_MAX = 4096

    def __init__(self, guess: float) -> None:
        self._guess = guess
        self._seen: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def expected(self, tenant: str, template: str) -> float:
        """Expected output tokens of the next answer."""
        whole = self._shrunk((tenant, ""), self._guess)
        return self._shrunk((tenant, template), whole) if template else whole

    def _shrunk(self, key: tuple[str, str], prior: float) -> float:
        count, total = self._seen.get(key, (0.0, 0.0))
        return (total + self._PRIOR * prior) / (count + self._PRIOR)

    def observe(self, tenant: str, template: str, output_tokens: int) -> None:
        """An answer had ``output_tokens``. The least recently used keys are forgotten beyond a bound."""
        for key in {(tenant, ""), (tenant, template)}:
            count, total = self._seen.get(key, (0.0, 0.0))
            self._seen[key] = (count * self._MEMORY + 1.0, total * self._MEMORY + output_tokens)
            self._seen.move_to_end(key)
        while len(self._seen) > self._KEYS_MAX:
            self._seen.popitem(last=False)
