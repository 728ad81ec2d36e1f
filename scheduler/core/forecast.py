"""How much load there will be: level times season for minutes, Holt-Winters for hours, and how far to trust it.

Every model is judged on the forecasts it gave; what is used is the one with the smallest error, and the seasonal naive one
("as a week ago") where none beats it. Around it lie adaptive conformal quantiles. Plain arithmetic on equal steps of time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from scheduler.core.conformal import Conformal

_HOUR_S, _DAY_S, _WEEK_S = 3600.0, 86_400.0, 604_800.0
_HOURS = 168
NAIVE = "seasonal-naive"
# Forecasts that a model must have given before it is compared, and weight of one in the comparison.
_JUDGED_MIN = 10
_ERROR_WEIGHT = 0.02
_SCALE_MIN = 0.1


class Model(Protocol):
    """A forecaster of one series; steps come in order and without gaps."""

    def observe(self, load: float, at_s: float) -> None:
        """The mean load of the step that began at ``at_s``."""

    def at(self, when_s: float) -> float:
        """The load expected in the step that begins at ``when_s``, after the last one observed."""


class SeasonalNaive:
    """As a week ago; as a day ago while less is known, and as just now before that. What others have to beat."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._seen: deque[float] = deque(maxlen=max(1, round(_WEEK_S / step_s)))
        self._last_s = 0.0

    def observe(self, load: float, at_s: float) -> None:
        """As ``Model``."""
        self._seen.append(load)
        self._last_s = at_s

    def at(self, when_s: float) -> float:
        """As ``Model``."""
        if not self._seen:
            return 0.0
        ahead = round((when_s - self._last_s) / self._step_s)
        for season_s in (_WEEK_S, _DAY_S):
            season = max(1, round(season_s / self._step_s))
            back = -ahead % season  # steps before the last one, at the same place in the season
            if back < len(self._seen) and season <= len(self._seen):
                return self._seen[-1 - back]
        return self._seen[-1]


class LevelSeason:
    """An EWMA of minutes times a profile by hour of the week (UTC), shrunk to 1 while little of it was seen."""

    _PRIOR_STEPS_H = 0.5  # hours of observations that the flat profile counts for
    _WEIGHT = 0.3  # of a new hour against the same hour of earlier weeks

    def __init__(self, step_s: float, level_s: float = 180.0) -> None:
        self._keep = math.exp(-step_s / level_s)
        self._prior = self._PRIOR_STEPS_H * _HOUR_S / step_s
        self._sums = [0.0] * _HOURS
        self._counts = [0.0] * _HOURS
        self._weight, self._level = 0.0, 0.0
        self._hour = -1

    def observe(self, load: float, at_s: float) -> None:
        """As ``Model``."""
        hour = int(at_s % _WEEK_S / _HOUR_S)
        if hour != self._hour:  # a new hour: what earlier weeks said of it counts for less
            self._hour = hour
            self._sums[hour] *= 1.0 - self._WEIGHT
            self._counts[hour] *= 1.0 - self._WEIGHT
        self._sums[hour] += load
        self._counts[hour] += 1.0
        factor = self._season(at_s)
        self._weight = self._keep * self._weight + 1.0 - self._keep
        self._level = self._keep * self._level + (1.0 - self._keep) * (load / factor if factor > 0.0 else load)

    def at(self, when_s: float) -> float:
        """As ``Model``."""
        return self._level / self._weight * self._season(when_s) if self._weight else 0.0

    def _season(self, at_s: float) -> float:
        """Relative to the mean hour, between the middles of two hours in proportion."""
        counts = sum(self._counts)
        mean = sum(self._sums) / counts if counts else 0.0
        if mean <= 0.0:
            return 1.0
        place = at_s % _WEEK_S / _HOUR_S - 0.5
        low, share = math.floor(place), place - math.floor(place)
        return self._hourly(low % _HOURS, mean) * (1.0 - share) + self._hourly((low + 1) % _HOURS, mean) * share

    def _hourly(self, hour: int, mean: float) -> float:
        # An hour that was never seen is as the mean of those that were.
        return (self._sums[hour] / mean + self._prior) / (self._counts[hour] + self._prior)


class HoltWinters:
    """Level, damped trend and additive season of one day (Holt 1957, Winters 1960; damping: Gardner and McKenzie 1985)."""

    def __init__(
        self, step_s: float, season_s: float = _DAY_S, alpha: float = 0.3, beta: float = 0.02, gamma: float = 0.2,
        damping: float = 0.95,
    ) -> None:  # fmt: skip
        self._step_s, self._length = step_s, max(1, round(season_s / step_s))
        self._alpha, self._beta, self._gamma, self._damping = alpha, beta, gamma, damping
        self._first: list[float] = []
        self._season: list[float] = []
        self._level = self._trend = 0.0
        self._last_s = 0.0
        self._next = 0

    def observe(self, load: float, at_s: float) -> None:
        """As ``Model``."""
        self._last_s = at_s
        if not self._season:
            self._first.append(load)
            self._level = sum(self._first) / len(self._first)
            if len(self._first) == self._length:
                self._season = [value - self._level for value in self._first]
                self._first = []
            return
        place, before = self._next, self._level
        self._level = self._alpha * (load - self._season[place]) + (1.0 - self._alpha) * (before + self._damped())
        self._trend = self._beta * (self._level - before) + (1.0 - self._beta) * self._damped()
        self._season[place] = self._gamma * (load - self._level) + (1.0 - self._gamma) * self._season[place]
        self._next = (place + 1) % self._length

    def _damped(self) -> float:
        return self._damping * self._trend

    def at(self, when_s: float) -> float:
        """As ``Model``; never below zero."""
        ahead = max(1, round((when_s - self._last_s) / self._step_s))
        if not self._season:
            return max(0.0, self._level)
        trend = self._trend * self._damping * (1.0 - self._damping**ahead) / (1.0 - self._damping)
        return max(0.0, self._level + trend + self._season[(self._next + ahead - 1) % self._length])


@dataclass(frozen=True, slots=True)
class Ahead:
    """Load by step of ``step_s`` from now on. Of the actual loads a given share lies above ``low``, and below ``high``.

    ``skill``: 1 - error of ``model`` / error of the seasonal naive one; 0 where that is what is used.
    """

    low: tuple[float, ...]
    expected: tuple[float, ...]
    high: tuple[float, ...]
    step_s: float
    model: str
    skill: float


class Forecaster:
    """Models of one series, judged at a lead of ``lead_s``, and the quantiles around the best of them."""

    def __init__(
        self, step_s: float, lead_s: float, models: Mapping[str, Model] | None = None, coverage: float = 0.9
    ) -> None:
        self.step_s = step_s
        self._lead = max(1, round(lead_s / step_s))
        made = {"level": LevelSeason(step_s)} if models is None else models
        self._models: dict[str, Model] = {NAIVE: SeasonalNaive(step_s), **made}
        self._errors = dict.fromkeys(self._models, 0.0)
        self._judged = 0
        self._given: deque[tuple[float, dict[str, float], str]] = deque(maxlen=self._lead)
        self._low, self._high = Conformal(coverage), Conformal(coverage)
        self._last_s: float | None = None
        self._typical = 0.0

    @property
    def model(self) -> str:
        """The one in use: until there is something to judge by, the first that is not naive."""
        if self._judged < _JUDGED_MIN:
            return next((name for name in self._models if name != NAIVE), NAIVE)
        return min(self._errors, key=lambda name: (self._errors[name], name != NAIVE))

    @property
    def skill(self) -> float:
        """As ``Ahead.skill``."""
        naive = self._errors[NAIVE]
        return 1.0 - self._errors[self.model] / naive if self._judged >= _JUDGED_MIN and naive > 0.0 else 0.0

    def observe(self, load: float, at_s: float) -> None:
        """The mean load of the step that began at ``at_s``; a gap since the last one counts as more of the same."""
        while self._last_s is not None and at_s - self._last_s > 1.5 * self.step_s:
            self._step(load, max(self._last_s + self.step_s, at_s - _WEEK_S))
        self._step(load, at_s)

    def _scale(self, expected: float) -> float:
        """What errors are relative to: the forecast, but not next to nothing at night."""
        return max(expected, _SCALE_MIN * self._typical, 1e-12)

    def _step(self, load: float, at_s: float) -> None:
        self._typical += (load - self._typical) * (_ERROR_WEIGHT if self._typical else 1.0)
        if len(self._given) == self._lead:
            _, said, used = self._given.popleft()
            weight = max(_ERROR_WEIGHT, 1.0 / (self._judged + 1))
            for name, expected in said.items():
                self._errors[name] += weight * (abs(load - expected) - self._errors[name])
            self._judged += 1
            scale = self._scale(said[used])
            self._high.observe((load - said[used]) / scale)
            self._low.observe((said[used] - load) / scale)
        for model in self._models.values():
            model.observe(load, at_s)
        self._last_s = at_s
        when_s = at_s + self._lead * self.step_s
        self._given.append((when_s, {name: model.at(when_s) for name, model in self._models.items()}, self.model))

    def ahead(self, steps: int) -> Ahead | None:
        """The next ``steps`` steps after the last one; None before the first. Up to the lead and beyond it, one spread."""
        if self._last_s is None:
            return None
        model = self._models[self.model]
        expected = tuple(max(0.0, model.at(self._last_s + (i + 1) * self.step_s)) for i in range(steps))
        above, below = self._high.margin, self._low.margin
        # Right after a jump every error has one sign: that says how wrong the past was, not that this forecast is.
        high = tuple(load + max(0.0, above) * self._scale(load) for load in expected)
        low = tuple(max(0.0, load - max(0.0, below) * self._scale(load)) for load in expected)
        return Ahead(low, expected, high, self.step_s, self.model, self.skill)
