"""Copies of one ascending series of arrivals, turned round on its span and merged, window by window.

Each copy is two segments: what lies before the end of the span after the turn, and what comes round to its start. A segment
is a range of the series and a shift, so a window of all copies is a few searches; nothing is ever copied as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_OFFSETS = 0
_HALVINGS_MAX = 60  # then a window is down to one instant, and all that arrive then come together

Window = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]  # arrival_s, copy, index in the series


class Superposition:
    """``copies`` of ``arrival_s`` (seconds, ascending from 0, all below ``span_s``); the first one is not turned.

    Copy k of m is turned by k/m of ``shift_s_max`` (None: the span), up to a quarter of that distance less or more.
    """

    def __init__(
        self, arrival_s: NDArray[np.float64], span_s: float, copies: int, seed: int, shift_s_max: float | None = None
    ) -> None:
        shift_s_max = span_s if shift_s_max is None else min(shift_s_max, span_s)
        if not shift_s_max > 0.0:
            raise ValueError(f"shift_s_max must be above 0, not {shift_s_max}")
        jitter = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_OFFSETS,))).random(copies)
        offsets_s = shift_s_max * (np.arange(copies) + 0.5 * (jitter - 0.5)) / copies
        offsets_s[0] = 0.0
        self._arrival_s = arrival_s
        count = len(arrival_s)
        self._shift_s = np.concatenate([offsets_s, offsets_s - span_s])
        self._copy = np.tile(np.arange(copies), 2)
        self._first = np.zeros(2 * copies, np.int64)
        self._last = np.full(2 * copies, count, np.int64)
        split = self._before(np.full(2 * copies, span_s))[:copies]
        self._last[:copies] = split
        self._first[copies:] = split

    def counts(self, start_s: float, end_s: float) -> NDArray[np.int64]:
        """Requests of each copy from ``start_s`` up to ``end_s``."""
        rows = self._until(end_s) - self._until(start_s)
        return np.bincount(self._copy, rows).astype(np.int64)

    def windows(self, start_s: float, end_s: float, rows: int) -> Iterator[Window]:
        """All requests from ``start_s`` up to ``end_s``, merged, in windows of about ``rows``.

        Ties are in the order of the copies, and in one copy in the order of the series. A window is larger than twice
        ``rows`` only where that many arrive at one instant.
        """
        at = self._until(start_s)
        total = int((self._until(end_s) - at).sum())
        width_s = (end_s - start_s) * min(1.0, rows / max(1, total))
        while (start_s := max(start_s, self._next_s(at))) < end_s:  # no window begins with a pause, or is empty
            stop_s, until = self._cut(start_s, min(end_s, start_s + width_s), at, 2 * rows)
            taken = int((until - at).sum())
            yield self._merged(at, until)
            width_s = (stop_s - start_s) * min(4.0, max(0.25, rows / taken))
            start_s, at = stop_s, until

    def _next_s(self, at: NDArray[np.int64]) -> float:
        """When the first of the rows from ``at`` on arrives; infinity if there are none."""
        left = at < self._last
        return float(np.min(self._arrival_s[at[left]] + self._shift_s[left], initial=np.inf))

    def _cut(
        self, start_s: float, stop_s: float, at: NDArray[np.int64], rows_max: int
    ) -> tuple[float, NDArray[np.int64]]:
        """An instant after ``start_s`` up to ``stop_s`` before which no more than ``rows_max`` arrive, if there is one."""
        if stop_s <= start_s:
            stop_s = np.nextafter(start_s, np.inf)
        until = self._until(stop_s)
        for _ in range(_HALVINGS_MAX):
            middle_s = start_s + (stop_s - start_s) / 2.0
            if int((until - at).sum()) <= rows_max or not start_s < middle_s < stop_s:
                break
            stop_s, until = middle_s, self._until(middle_s)
        return float(stop_s), until

    def _merged(self, at: NDArray[np.int64], until: NDArray[np.int64]) -> Window:
        rows = until - at
        before = np.cumsum(rows) - rows
        index = np.arange(int(rows.sum())) + np.repeat(at - before, rows)
        # Coming round may leave a rounding error below the start.
        arrival_s = np.maximum(self._arrival_s[index] + np.repeat(self._shift_s, rows), 0.0)
        order = np.argsort(arrival_s, kind="stable")  # merges: the rows are ascending runs
        return arrival_s[order], np.repeat(self._copy, rows)[order], index[order]

    def _until(self, end_s: float) -> NDArray[np.int64]:
        """For each segment, the end of the rows that arrive before ``end_s``."""
        if end_s <= 0.0:  # what rounds to just below the start arrives at the start
            return self._first.copy()
        return np.clip(self._before(np.full(len(self._shift_s), end_s)), self._first, self._last)

    def _before(self, end_s: NDArray[np.float64]) -> NDArray[np.int64]:
        """For each segment, how many of the whole series arrive before ``end_s`` by its shift.

        The search subtracts where the arrival adds, which may round differently: the last few rows are decided by the sum.
        """
        arrival_s, shift_s = self._arrival_s, self._shift_s
        count = len(arrival_s)
        until = np.searchsorted(arrival_s, end_s - shift_s, side="left").astype(np.int64)
        while True:
            more = (until < count) & (arrival_s[np.minimum(until, count - 1)] + shift_s < end_s)
            less = (until > 0) & (arrival_s[np.maximum(until - 1, 0)] + shift_s >= end_s)
            if not (more.any() or less.any()):
                return until
            until += more
            until -= less & ~more
