"""How many requests come in each hour of the week, for a trace of which the calendar is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scheduler.planning.seen import HOUR_S, WEEK_H, hour_of_week
from scheduler.simulation.scenario import Window

# Less of an hour of the week than this (in hours) says nothing of it: the rest of the trace would be a guess as well.
_SEEN_H_MIN = 0.5


def requests_by_hour(
    arrival_s: NDArray[np.float64], window: Window, begins_s: float | None, requests: float
) -> tuple[float, ...]:
    """Requests per hour in each hour of the week, 168 from Monday 00:00 UTC; () where the trace does not tell them all.

    ``arrival_s`` ascends on the clock of the trace, of which second 0 was at ``begins_s`` (Unix seconds; None: not known).
    Those in ``window`` stand for ``requests`` in all. No hour is guessed from others: drift would take it for certain.
    """
    if begins_s is None:
        return ()
    first, last = np.searchsorted(arrival_s, (window.start_s, window.end_s))
    start_s, end_s = begins_s + window.start_s, begins_s + window.end_s
    whole_s = HOUR_S * np.arange(start_s // HOUR_S + 1.0, np.ceil(end_s / HOUR_S))
    edges_s = np.concatenate([[start_s], whole_s, [end_s]])
    seen_h = np.bincount(hour_of_week(0.5 * (edges_s[1:] + edges_s[:-1])), np.diff(edges_s) / HOUR_S, WEEK_H)
    if first == last or seen_h.min() < _SEEN_H_MIN:
        return ()
    count = np.bincount(hour_of_week(begins_s + arrival_s[first:last]), minlength=WEEK_H)
    return tuple((count / seen_h * (requests / float(last - first))).tolist())
