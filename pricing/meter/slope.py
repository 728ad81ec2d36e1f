"""Joules per token from a pool's own power and token counters: the slope that dispatch pays for, idle power apart.

Over windows of replica-seconds S, input tokens I and output tokens O:  joules = idle_watts * S + a * I + b * O, all three not
below zero. Non-negative least squares (Lawson and Hanson 1974, chapter 23); with three columns every active set can be
tried. Dividing a window's joules by its tokens instead would charge idle power to whoever comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from pricing.meter.readings import Label

# Joules of a window that a coefficient may be wrong by (one standard error, as a part of what tokens draw in the mean).
_ERROR_SHARE_MAX = 0.15
_CONDITION_MAX = 1e10
WINDOWS_MIN = 20
R2_MIN = 0.8
VARIATION_MIN = 0.25
ERROR_MAX = 0.2


class PowerWindow(NamedTuple):
    """What a pool drew and served over ``seconds``, by ``replicas`` replicas.

    ``input_tokens`` are those computed; ``cached_tokens`` came from the prefix cache beside them and drew nothing.
    """

    seconds: float
    joules: float
    input_tokens: float
    output_tokens: float
    replicas: int = 1
    cached_tokens: float = 0.0


class EnergyFit(msgspec.Struct, frozen=True):
    """Slope and idle power of one replica, from ``windows`` windows up to ``at_s``.

    ``method``: input and output apart, or together in the configured ratio where their mix does not vary enough to tell them
    apart. ``r2``: share of the variance of power that is explained. ``variation``: how far the power that goes with tokens
    varies, as a part of its highest (95th percentile less 5th). ``error``: its relative standard error at the mean load.
    """

    idle_watts: float
    joules_per_input_token: float
    joules_per_output_token: float
    r2: float
    windows: int
    label: Label
    at_s: float
    method: Literal["apart", "ratio"] = "apart"
    variation: float = 0.0
    error: float = 0.0


def trustworthy(fit: EnergyFit) -> bool:
    """Good enough to replace what cluster.yaml says: measured, over enough windows of differing load, which it explains."""
    return (
        fit.label != "modelled"
        and fit.windows >= WINDOWS_MIN
        and fit.r2 >= R2_MIN
        and fit.variation >= VARIATION_MIN
        and fit.error <= ERROR_MAX
        and fit.joules_per_output_token > 0.0
    )


def fit(
    windows: Sequence[PowerWindow], configured: tuple[float, float], at_s: float, label: Label = "measured"
) -> EnergyFit | None:
    """Slope and idle power of one replica; None from fewer than four windows, or where nothing was served.

    ``configured``: joules per input and per output token of cluster.yaml; only their ratio is used, and only where the
    windows cannot tell input from output.
    """
    table = np.array([(w.seconds * max(1, w.replicas), w.joules, w.input_tokens, w.output_tokens) for w in windows])
    if len(table) < 4 or not np.isfinite(table).all() or (table[:, 0] <= 0.0).any() or not table[:, 2:].any():
        return None
    seconds, joules, tokens = table[:, 0], table[:, 1], table[:, 2:]
    mix = np.eye(2)
    solved = _solve(seconds, joules, tokens)
    method: Literal["apart", "ratio"] = "apart"
    if not _tells_apart(solved, tokens):
        if sum(configured) <= 0.0:
            return None
        method, mix = "ratio", np.array([configured])
        solved = _solve(seconds, joules, tokens @ mix.T)
    per_token = solved.coefficients[1:] @ mix
    drawn_watts, watts = tokens @ per_token / seconds, joules / seconds
    high, low = np.percentile(drawn_watts, [95, 5])
    variance = float(seconds @ (watts - np.average(watts, weights=seconds)) ** 2)
    return EnergyFit(
        idle_watts=float(solved.coefficients[0]),
        joules_per_input_token=float(per_token[0]),
        joules_per_output_token=float(per_token[1]),
        r2=1.0 - float(solved.residual @ solved.residual) / variance if variance > 0.0 else 0.0,
        windows=len(table),
        label=label,
        at_s=at_s,
        method=method,
        variation=float((high - low) / high) if high > 0.0 else 0.0,
        error=_relative_error(solved, (tokens @ mix.T).mean(axis=0)),
    )


class _Solved(NamedTuple):
    """Coefficients (idle watts first), weighted residuals, and the covariance of the slopes, None where it has none."""

    coefficients: np.ndarray
    residual: np.ndarray
    covariance: np.ndarray | None


def _solve(seconds: np.ndarray, joules: np.ndarray, tokens: np.ndarray) -> _Solved:
    """In watts, each window weighted by its length."""
    weight = 1.0 / np.sqrt(seconds)
    columns = np.column_stack([seconds, tokens]) * weight[:, None]
    coefficients, residual = non_negative(columns, joules * weight)
    return _Solved(coefficients, residual, _covariance(columns, residual))


def non_negative(columns: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares with no coefficient below zero: the best of all supports whose plain solution is feasible.

    Returns coefficients and residuals.
    """
    count = columns.shape[1]
    scale = np.linalg.norm(columns, axis=0)
    scaled = columns / np.where(scale > 0.0, scale, 1.0)
    best, best_residual = np.zeros(count), target
    for size in range(1, count + 1):
        for support in combinations(range(count), size):
            chosen = scaled[:, support]
            solved = np.linalg.lstsq(chosen, target, rcond=None)[0]
            residual = target - chosen @ solved
            if (solved >= 0.0).all() and residual @ residual < best_residual @ best_residual:
                best, best_residual = np.zeros(count), residual
                best[list(support)] = solved
    return best / np.where(scale > 0.0, scale, 1.0), best_residual


def _covariance(columns: np.ndarray, residual: np.ndarray) -> np.ndarray | None:
    """Of the coefficients behind the first, were they free; None where the columns hang together (X'X is singular)."""
    scale = np.linalg.norm(columns, axis=0)
    freedom = len(columns) - columns.shape[1]
    if freedom <= 0 or not scale.all():
        return None
    gram = (columns / scale).T @ (columns / scale)
    if np.linalg.cond(gram) > _CONDITION_MAX:
        return None
    covariance: np.ndarray = np.linalg.inv(gram) / np.outer(scale, scale) * float(residual @ residual) / freedom
    return covariance[1:, 1:]


def _tells_apart(solved: _Solved, tokens: np.ndarray) -> bool:
    """Input and output vary apart from each other enough that neither slope may be mostly the other's."""
    if solved.covariance is None:
        return False
    mean = tokens.mean(axis=0)
    drawn = float(mean @ solved.coefficients[1:])
    return drawn > 0.0 and float((np.sqrt(np.diag(solved.covariance)) * mean).max()) <= _ERROR_SHARE_MAX * drawn


def _relative_error(solved: _Solved, mean: np.ndarray) -> float:
    drawn = float(mean @ solved.coefficients[1:])
    if solved.covariance is None or drawn <= 0.0:
        return float("inf")
    return float(np.sqrt(mean @ solved.covariance @ mean)) / drawn
