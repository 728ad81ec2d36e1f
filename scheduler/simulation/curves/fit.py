"""Fits the physics of serving to measurements, and predicts configurations that were not measured.

First the constants of ``physics`` by robust least squares on logarithms, all rows together. Then what is left, log(measured
/ physics), as a sum of effects of ever narrower groups (backend, its version, model, hardware, GPUs), each linear in a few
features of the load and drawn to zero with a standard deviation of ``EFFECT_SD``: a linear mixed model (Henderson 1975), so
that a group with many rows goes its own way and one that was never seen keeps to the physics. Rows far off are given less
weight (Huber 1964).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from scipy.linalg import solve
from scipy.optimize import least_squares

from scheduler.simulation.curves import facts, physics
from scheduler.simulation.curves.rows import Configuration, Row

EFFECT_SD = 0.15
# Standard deviation of one measurement and the residual beyond which it counts less, in logarithms.
_TTFT_NOISE, _TTFT_FAR = 0.1, 0.3
_TPOT_NOISE, _TPOT_FAR = 0.045, 0.08
_ROUNDS = 5
# No correction beyond these, in logarithms: far outside the measurements a slope says nothing.
_TTFT_MOST, _TPOT_MOST = 3.0, 2.0


class Fit(msgspec.Struct, frozen=True):
    """Plain data. ``constants``: those of ``physics.PRIOR``. ``ttft``, ``tpot``: effects by group, one number per feature."""

    constants: dict[str, float]
    ttft: dict[str, tuple[float, ...]]
    tpot: dict[str, tuple[float, ...]]
    rows: int


def fit(rows: Sequence[Row]) -> Fit:
    """Constants and effects from ``rows``; ValueError from none or from times not above zero. Takes seconds."""
    if not rows or not all(0.0 < seconds < np.inf for row in rows for seconds in row[1:]):
        raise ValueError("a fit needs at least one row, and a TTFT and a TPOT above zero in each")
    configurations = [row.configuration for row in rows]
    ttft, tpot = (np.log([row[i] for row in rows]) for i in (1, 2))
    t = physics.table(configurations)
    constants = _constants(t, ttft, tpot)
    state = physics.simulate(constants, t)
    features = _features(t, state)
    groups = [_groups(c) for c in configurations]
    effects = _Effects(groups, features)
    return Fit(
        constants=constants,
        ttft=effects.solve(ttft - np.log(state.ttft_s), _TTFT_NOISE, _TTFT_FAR),
        tpot=effects.solve(tpot - np.log(state.tpot_s), _TPOT_NOISE, _TPOT_FAR),
        rows=len(rows),
    )


def predict(fitted: Fit, configuration: Configuration) -> tuple[float, float]:
    """Mean TTFT and TPOT in seconds; ValueError for a model, GPU or precision nothing is known about."""
    ttft_s, tpot_s = predict_many(fitted, [configuration])
    return float(ttft_s[0]), float(tpot_s[0])


def predict_many(fitted: Fit, configurations: Sequence[Configuration]) -> tuple[np.ndarray, np.ndarray]:
    """The same for ``[n]`` configurations at once."""
    t = physics.table(configurations)
    state = physics.simulate(fitted.constants, t)
    features = _features(t, state)
    groups = [_groups(c) for c in configurations]
    ttft, tpot = (_apply(effects, groups, features) for effects in (fitted.ttft, fitted.tpot))
    return (
        state.ttft_s * np.exp(np.clip(ttft, -_TTFT_MOST, _TTFT_MOST)),
        state.tpot_s * np.exp(np.clip(tpot, -_TPOT_MOST, _TPOT_MOST)),
    )


def _constants(t: physics.Table, ttft: np.ndarray, tpot: np.ndarray) -> dict[str, float]:
    """The constants that fit best; each is held to its prior by a tenth of the logarithm it is off."""
    names = list(physics.PRIOR)
    prior = np.log([physics.PRIOR[name] for name in names])

    def residuals(logs: np.ndarray) -> np.ndarray:
        state = physics.simulate(dict(zip(names, np.exp(logs), strict=True)), t)
        # TTFT scatters twice as much; a queue that is there or not is worth no more than any other miss.
        ttft_off = 0.5 * np.clip(np.log(state.ttft_s) - ttft, -3.0, 3.0)
        return np.concatenate([ttft_off, np.log(state.tpot_s) - tpot, 0.1 * (logs - prior)])

    found = least_squares(residuals, prior, loss="soft_l1", f_scale=0.15, max_nfev=40)
    return dict(zip(names, map(float, np.exp(found.x)), strict=True))


def _groups(c: Configuration) -> list[str]:
    """Names of the groups whose effects apply, from the widest to the narrowest."""
    served = c.engine[:-1]
    keys: list[tuple[str, ...]] = [
        ("all",),
        ("backend", c.backend),
        ("version", c.backend, c.version),
        ("model", c.backend, facts.family(c.model)),
        ("served", *served),
        ("release", *served, c.version),
        ("engine", *c.engine),
    ]
    return ["|".join(key) for key in keys]


def _features(t: physics.Table, state: physics.State) -> np.ndarray:
    """What an effect may depend on: logarithms of the load, about zero and of a size of one, ``[n, features]``."""
    load, prompt, answer = (
        np.log(column / middle)
        for column, middle in ((t.concurrency, 24.0), (t.input_tokens, 2000.0), (t.output_tokens, 1000.0))
    )
    gpus = np.log(t.gpus / 3.0)
    interference = np.log1p(state.running / t.output_tokens * state.prefill_s / state.step_s)
    queue = 0.5 * np.log1p(state.waiting_s / (state.ttft_s - state.waiting_s))
    columns = [np.ones_like(load), load, load**2 / 2.0, load**3 / 10.0, prompt, answer, gpus]
    columns += [load * prompt / 2.0, load * answer / 2.0, load * gpus / 2.0, interference, queue]
    return np.column_stack(columns)


def _apply(effects: Mapping[str, tuple[float, ...]], groups: list[list[str]], features: np.ndarray) -> np.ndarray:
    """Sum of the effects of each row's groups; a group that is not known has none."""
    nothing = (0.0,) * features.shape[1]
    total = np.array([np.sum([effects.get(name, nothing) for name in names], axis=0) for names in groups])
    return np.einsum("ij,ij->i", total, features)


class _Effects:
    """Solves for the effects of all groups at once, in the space of rows: the covariance of two rows is the product of
    their features times the number of groups they share."""

    def __init__(self, groups: list[list[str]], features: np.ndarray) -> None:
        self._features = features
        self._levels = [np.unique(list(names), return_inverse=True) for names in zip(*groups, strict=True)]
        shared = sum((code[:, None] == code[None, :]).astype(float) for _, code in self._levels)
        self._covariance = EFFECT_SD**2 * (features @ features.T) * shared

    def solve(self, left: np.ndarray, noise: float, far: float) -> dict[str, tuple[float, ...]]:
        """Effects by group for what is ``left``, in logarithms."""
        weight = np.ones(len(left))
        for _ in range(_ROUNDS):
            dual = solve(self._covariance + np.diag(noise**2 / weight), left, assume_a="pos")
            off = np.abs(left - self._covariance @ dual)
            weight = np.minimum(1.0, far / np.maximum(off, 1e-9))
        pulls = EFFECT_SD**2 * dual[:, None] * self._features
        effects: dict[str, tuple[float, ...]] = {}
        for names, code in self._levels:
            total = np.zeros((len(names), pulls.shape[1]))
            np.add.at(total, code, pulls)
            effects |= {str(name): tuple(map(float, row)) for name, row in zip(names, total, strict=True)}
        return effects
