"""How the load of minutes differs from that of its time bin: what the commitment clock sees, and a bin's mean hides."""

from __future__ import annotations

import numpy as np

from scheduler.planning.surface import Floats, Rows, Surface


def pulse(requests: Rows, surface: Surface, at_s: Floats, span_s: float) -> Floats:
    """Load [instant] in the ``span_s`` before each of ``at_s``, over what the time bins say of it; 1 where they say none.

    Where each request stands for several, a part of the differences is chance of the drawing; they shrink by that part (its
    variance is that of a Bernoulli sample, Horvitz and Thompson 1952).
    """
    order = np.argsort(requests.at_s, kind="stable")
    # As in bins: who comes at the end of a span belongs to the next one, but for the end of all.
    arrived_s = np.minimum(np.asarray(requests.at_s, np.float64)[order], np.nextafter(surface.edges_s[-1], 0.0))
    work_s = np.asarray(requests.work_s, np.float64)[order]
    work_s = np.where(np.isfinite(work_s), work_s, 0.0)
    since, until = (np.searchsorted(arrived_s, each, side="left") for each in (at_s - span_s, at_s))

    def within(values: Floats) -> Floats:
        sums = np.concatenate([[0.0], np.cumsum(values)])
        return np.asarray(sums[until] - sums[since])

    sums_s = np.concatenate([[0.0], np.cumsum(surface.load * np.diff(surface.edges_s))])
    expected_s = np.interp(at_s, surface.edges_s, sums_s) - np.interp(at_s - span_s, surface.edges_s, sums_s)
    times = requests.stands_for
    off_s = times * within(work_s) - expected_s
    by_chance, whole = times * (times - 1.0) * float(within(work_s**2).sum()), float(off_s @ off_s)
    real = max(0.0, 1.0 - by_chance / whole) if whole > 0.0 else 0.0
    some = expected_s > 0.0
    relative = np.where(some, off_s / np.where(some, expected_s, 1.0), 0.0)
    return np.asarray(np.maximum(0.0, 1.0 + np.sqrt(real) * relative))
