"""The service curve of a pool from timed requests: TTFT against prompt length, ITL against running sequences. Pure.

    TTFT(n) = ttft_base_s + n / prefill_tokens_per_s          one request at a time, n prompt tokens
    ITL(B)  = itl_base_s + itl_per_seq_s * B                  B sequences decoding on one replica

The first by Theil-Sen (Sen 1968) on the medians of each length, so that a few stalls do not tilt it; the second by least
squares on relative errors with neither coefficient below zero, since timings err in proportion to what they time.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from pricing.meter.slope import non_negative

# Below this part of the longest TTFT, or this many standard errors, what the prompt adds is lost in the rest.
_PROMPT_SHARE_MIN = 0.05
_STANDARD_ERRORS_MIN = 3.0
R2_MIN = 0.9
_ROUNDS = 20
FLAT_MAX = 0.05
BEND_MIN = 0.05


class PrefillPoint(NamedTuple):
    """Median prompt tokens and median TTFT (seconds) of ``requests`` requests of about one length."""

    tokens: float
    ttft_s: float
    requests: int


class DecodePoint(NamedTuple):
    """Sequences decoding on one replica and the ITL in seconds, both of the median of ``requests`` requests."""

    running: float
    itl_s: float
    requests: int


class PrefillFit(msgspec.Struct, frozen=True):
    """``prefill_tokens_per_s`` is None where TTFT does not rise with the prompt enough to tell."""

    ttft_base_s: float
    prefill_tokens_per_s: float | None
    r2: float
    lengths: int
    requests: int


class DecodeFit(msgspec.Struct, frozen=True):
    """``residuals``: measured over fitted less one, by step, in the order given.

    ``flat``: ITL hardly varies, so that ``r2`` says nothing. ``bend``: how the measured curve leaves the line, if it does.
    """

    itl_base_s: float
    itl_per_seq_s: float
    r2: float
    steps: int
    requests: int
    residuals: tuple[float, ...]
    flat: bool = False
    bend: Literal["", "up", "down"] = ""

    @property
    def poor(self) -> bool:
        """A straight line is not what was measured."""
        return self.r2 < R2_MIN and not self.flat

    def itl_s(self, running: float) -> float:
        """Seconds between two tokens of one sequence among ``running``."""
        return self.itl_base_s + self.itl_per_seq_s * running


def fit_prefill(points: Sequence[PrefillPoint]) -> PrefillFit | None:
    """Base and rate of TTFT; None from fewer than three lengths."""
    chosen = [point for point in points if point.tokens > 0 and point.ttft_s > 0]
    if len({point.tokens for point in chosen}) < 3:
        return None
    tokens, ttft_s = (np.array(column, float) for column in list(zip(*chosen, strict=True))[:2])
    pairs = [(i, j) for i, j in combinations(range(len(tokens)), 2) if tokens[i] != tokens[j]]
    slope = float(np.median([(ttft_s[j] - ttft_s[i]) / (tokens[j] - tokens[i]) for i, j in pairs]))
    requests = sum(point.requests for point in chosen)
    if not _rises(slope, tokens, ttft_s):
        return PrefillFit(float(np.median(ttft_s)), None, 0.0, len(chosen), requests)
    base_s = max(0.0, float(np.median(ttft_s - slope * tokens)))
    r2 = _r2(ttft_s, base_s + slope * tokens, np.ones(len(tokens)))
    return PrefillFit(base_s, 1.0 / slope, r2, len(chosen), requests)


def _rises(slope: float, tokens: np.ndarray, ttft_s: np.ndarray) -> bool:
    """The prompt's part of TTFT stands out, in size and against the scatter of the medians around their line."""
    if slope <= 0.0 or slope * np.ptp(tokens) < _PROMPT_SHARE_MIN * float(ttft_s.max()):
        return False
    residual = ttft_s - slope * tokens
    residual = residual - residual.mean()
    spread = tokens - tokens.mean()
    error = float(np.sqrt(residual @ residual / (len(tokens) - 2) / (spread @ spread)))
    return slope >= _STANDARD_ERRORS_MIN * error


def fit_decode(points: Sequence[DecodePoint]) -> DecodeFit | None:
    """The line through the steps, each error counted in parts of its ITL; None from fewer than three loads."""
    chosen = [point for point in points if point.running > 0 and point.itl_s > 0]
    if len({point.running for point in chosen}) < 3:
        return None
    running, itl_s = (np.array(column, float) for column in list(zip(*chosen, strict=True))[:2])
    weight = np.ones(len(running))
    for _ in range(
        _ROUNDS
    ):  # parts of the fitted ITL: of the measured one, steps that came out too fast would count most
        columns = np.column_stack([np.ones(len(running)), running]) * weight[:, None]
        (base_s, per_seq_s), _ = non_negative(columns, itl_s * weight)
        fitted_s = base_s + per_seq_s * running
        weight = 1.0 / fitted_s
    residuals = itl_s / fitted_s - 1.0
    return DecodeFit(
        itl_base_s=float(base_s),
        itl_per_seq_s=float(per_seq_s),
        r2=_r2(itl_s, fitted_s, weight**2),
        steps=len(chosen),
        requests=sum(point.requests for point in chosen),
        residuals=tuple(map(float, residuals)),
        flat=bool(itl_s.max() <= itl_s.min() * (1.0 + FLAT_MAX)),
        bend=_bend(residuals[np.argsort(running)]),
    )


def _bend(residuals: np.ndarray) -> Literal["", "up", "down"]:
    """Both ends above the line and the middle below it: the curve bends up; the other way round: down."""
    if len(residuals) < 4:
        return ""
    ends, middle = (residuals[0] + residuals[-1]) / 2.0, residuals[1:-1].mean()
    if abs(ends - middle) < BEND_MIN:
        return ""
    return "up" if ends > middle else "down"


def _r2(measured: np.ndarray, fitted: np.ndarray, weight: np.ndarray) -> float:
    """Share of the (weighted) variance that the line explains; 0 where nothing varies."""
    off = measured - np.average(measured, weights=weight)
    variance, left = float(weight @ off**2), float(weight @ (measured - fitted) ** 2)
    return 1.0 - left / variance if variance > 1e-18 * float(weight @ measured**2) else 0.0


class Span(NamedTuple):
    """One answer while it decoded: instants of its first and last token in seconds, and its output tokens."""

    first_s: float
    last_s: float
    tokens: int

    @property
    def itl_s(self) -> float:
        """Chunks are not tokens: seconds by the count of the usage."""
        return (self.last_s - self.first_s) / (self.tokens - 1)


def company(spans: Sequence[Span]) -> list[float]:
    """How many of ``spans`` were open, itself included, in the mean over the time of each."""
    if not spans:
        return []
    edges = sorted([(span.first_s, 1) for span in spans] + [(span.last_s, -1) for span in spans])
    at_s = np.array([edge[0] for edge in edges])
    count = np.cumsum([edge[1] for edge in edges])
    area = np.concatenate([[0.0], np.cumsum(count[:-1] * np.diff(at_s))])
    first, last = (np.interp([span[i] for span in spans], at_s, area) for i in (0, 1))
    length_s = np.array([span.last_s - span.first_s for span in spans])
    return [float(x) for x in (last - first) / np.where(length_s > 0.0, length_s, np.inf)]


def decode_point(spans: Sequence[Span], measured: Sequence[bool], replicas: int = 1) -> DecodePoint | None:
    """A step of ``spans`` spread evenly over ``replicas``. All of them are load; those ``measured`` are timed as well."""
    timed = [
        (beside / max(1, replicas), span.itl_s)
        for span, beside, counts in zip(spans, company(spans), measured, strict=True)
        if counts and span.tokens > 1 and span.last_s > span.first_s
    ]
    if not timed:
        return None
    running, itl_s = np.median(np.array(timed), axis=0)
    return DecodePoint(float(running), float(itl_s), len(timed))
