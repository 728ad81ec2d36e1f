"""Joules of one board from what its sensors say: pure functions from one sample to the next.

A board's total-energy counter is preferred to its power reading: the power sensors of A100 and H100 look about a quarter
of the time, so that sampled power misses what happens between (Yang et al., "Part-time power measurements: nvidia-smi's
lack of attention", SC 2024). The counter is millijoules since the driver was loaded; differences are taken, and only of two
samples that follow each other, so that whatever goes wrong costs one interval.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pricing.meter.readings import Label

GAP_S_MAX = 30.0
COUNTER = "NVML energy counter"
POWER = "integrated power"
MODEL = "modelled from the board's profile"
UNKNOWN = "nothing to count"
# The counter moves in steps of up to a tenth of a second; a short interval may hold one step more.
_STEP_S = 0.2
# A counter that has not moved for this long while power is drawn stands still.
_STUCK_S = 1.0
_WORSE: tuple[Label, ...] = ("measured", "calibrated", "modelled")


class Sample(NamedTuple):
    """Sensors of one board at ``at_s`` (seconds of a clock that does not jump); None where one cannot be read."""

    at_s: float
    energy_mj: int | None
    watts: float | None
    watts_modelled: float | None = None


class Count(NamedTuple):
    """Joules since the first sample. ``watts``: mean of the last interval; ``label`` and ``method`` are that interval's.

    ``bridged``: intervals in which the counter was reset or implausible and power was integrated instead. ``missed_s``:
    seconds of which nothing is known, and which are in no sum. ``moved_s``: when the counter last moved (or began);
    ``ahead_joules``: counted since then by other means, for which the counter owes its next move.
    """

    joules: float
    watts: float
    label: Label
    method: str
    last: Sample
    bridged: int = 0
    missed_s: float = 0.0
    moved_s: float = 0.0
    ahead_joules: float = 0.0

    @property
    def how(self) -> str:
        """Where the joules come from, and what is missing of them."""
        bridged = f", {self.bridged} intervals bridged by integrated power" if self.bridged else ""
        missed = f", {self.missed_s:.0f} s not counted" if self.missed_s else ""
        return f"{self.method}{bridged}{missed}"


def start(now: Sample, watts_max: float) -> Count:
    """The first sample of a board: no interval yet, so no joules."""
    now = _plausible(now, watts_max)
    label, method = _means(now)
    return Count(0.0, _instant_watts(now), label, method, now, moved_s=now.at_s)


def advance(before: Count, now: Sample, watts_max: float, gap_s_max: float = GAP_S_MAX) -> Count:
    """Count the interval up to ``now``; joules never fall, and never grow by more than ``watts_max`` allows.

    By the counter's difference where that is plausible, else by the trapezoid of power, else by the profile; the latter
    two not over more than ``gap_s_max``. A sample that is not later than the last one is dropped.
    """
    last, dt_s = before.last, now.at_s - before.last.at_s
    if dt_s <= 0.0:
        return before
    now = _plausible(now, watts_max)
    label, method = _means(now)
    counted = _counter_joules(before, now, dt_s, watts_max)
    stands = last.energy_mj is not None and now.energy_mj == last.energy_mj
    after = before._replace(label=label, method=method, last=now)
    if not stands:
        after = after._replace(moved_s=now.at_s, ahead_joules=0.0)
    if counted is not None:
        return after._replace(joules=before.joules + counted, watts=counted / dt_s, label="measured", method=COUNTER)
    if last.watts is not None and now.watts is not None and dt_s <= gap_s_max:
        joules = (last.watts + now.watts) / 2.0 * dt_s
        return after._replace(
            joules=before.joules + joules,
            watts=joules / dt_s,
            bridged=before.bridged + (now.energy_mj is not None and last.energy_mj is not None),
            ahead_joules=before.ahead_joules + joules if stands else 0.0,
        )
    if method == MODEL and now.watts_modelled is not None and dt_s <= gap_s_max:
        return after._replace(joules=before.joules + now.watts_modelled * dt_s, watts=now.watts_modelled)
    return after._replace(watts=_instant_watts(now), missed_s=before.missed_s + dt_s)


def _plausible(now: Sample, watts_max: float) -> Sample:
    return now if now.watts is None or 0.0 <= now.watts <= watts_max else now._replace(watts=None)


def _counter_joules(before: Count, now: Sample, dt_s: float, watts_max: float) -> float | None:
    """The counter's difference, or None: absent, reset, gone mad, or standing still while power is drawn."""
    last = before.last
    if last.energy_mj is None or now.energy_mj is None:
        return None
    joules = (now.energy_mj - last.energy_mj) / 1000.0
    if not 0.0 <= joules <= watts_max * (dt_s + _STEP_S):
        return None
    if joules == 0.0:
        return None if now.at_s - before.moved_s >= _STUCK_S and now.watts else 0.0
    return max(0.0, joules - before.ahead_joules)


def _means(now: Sample) -> tuple[Label, str]:
    """By what the newest sample can be counted."""
    if now.energy_mj is not None:
        return "measured", COUNTER
    if now.watts is not None:
        return "measured", POWER
    return "modelled", UNKNOWN if now.watts_modelled is None else MODEL


def _instant_watts(now: Sample) -> float:
    watts = now.watts if now.watts is not None else now.watts_modelled
    return 0.0 if watts is None else watts


def worst(labels: Iterable[Label]) -> Label:
    """A sum is as firm as its weakest part.

    >>> worst(["measured", "modelled"]), worst([])
    ('modelled', 'measured')
    """
    return max(labels, key=_WORSE.index, default="measured")
