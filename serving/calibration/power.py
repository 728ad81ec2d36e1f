"""Joules of a pool beside the load that was put on it, from the gateway's counter ``baseload_pool_joules``.

The counter moves when a meter reports, every few seconds, and falls when a meter starts anew; its label says how firm it is.
``baseload_pool_watts`` is no use here, as it is a mean over the
last hour.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from pricing.meter import slope
from pricing.meter.slope import EnergyFit, PowerWindow
from serving.calibration.ask import CalibrationError, Gateway
from serving.calibration.load import Step
from serving.calibration.plan import SECONDS_PER_STEP_MAX

JOULES = "baseload_pool_joules"
WATTS = "baseload_pool_watts"
REPORTS_MIN = 3
_POLL_S = 0.5
_LAG_S = 2.0


class Sample(NamedTuple):
    """The counter at ``at_s``, on the event loop's clock; ``label`` is empty where there was none to read."""

    at_s: float
    joules: float
    label: str = "measured"


class Power(NamedTuple):
    """What is known of the pool's power. ``fit`` is None where ``note`` says why."""

    fit: EnergyFit | None
    note: str
    windows: int = 0


def unusable(gauges: Mapping[tuple[str, str], float], seconds_per_step: float, every_s: float) -> str:
    """Why power cannot be measured here; empty where it can."""
    labels = {label for name, label in gauges if name == JOULES} or {label for name, label in gauges if name == WATTS}
    if "modelled" in labels:
        return "the pool's watts are modelled, not measured: a slope fitted to a model would only give the model back"
    if not any(name == JOULES for name, _ in gauges):
        return f"the gateway's /metrics tell no joules of this pool ({JOULES}): no meter sees it"
    if REPORTS_MIN * every_s > SECONDS_PER_STEP_MAX:
        return f"meters report every {every_s:g} s: too seldom for steps of at most {SECONDS_PER_STEP_MAX:g} s"
    if seconds_per_step < REPORTS_MIN * every_s:
        return (
            f"meters report every {every_s:g} s, so steps must last {REPORTS_MIN * every_s:g} s for power "
            f"(--seconds-per-step {REPORTS_MIN * every_s:g})"
        )
    return ""


async def follow(gateway: Gateway, pool: str, samples: list[Sample]) -> None:
    """Sample the counter until cancelled; only its moves are kept, so that an instant is at most a poll late."""
    clock = asyncio.get_running_loop().time
    while True:
        try:
            gauges = await gateway.gauges(pool)
        except CalibrationError:
            await asyncio.sleep(_POLL_S)  # the counter goes on: a scrape that fails is only one move seen late
            continue
        found = [(value, label) for (name, label), value in gauges.items() if name == JOULES]
        joules, label = found[0] if len(found) == 1 else (0.0, "")
        if not samples or samples[-1][1:] != (joules, label):
            samples.append(Sample(clock(), joules, label))
        await asyncio.sleep(_POLL_S)


def windows(samples: Sequence[Sample], steps: Sequence[Step], every_s: float, replicas: int) -> list[PowerWindow]:
    """One window a step, between the first and the last move of the counter that lie wholly in it.

    A report tells of the seconds before it: the first one after a step's start still holds what was before. A step is left
    out where the counter fell, was away, was modelled or changed its label: its joules are then not of one and the same kind.
    """
    found = []
    for step in steps:
        inside = [s for s in samples if step.start_s + every_s + _LAG_S <= s.at_s <= step.end_s + _LAG_S / 2.0]
        labels = {s.label for s in inside}
        if len(inside) < 2 or len(labels) > 1 or labels & {"", "modelled"}:
            continue
        if any(later.joules < earlier.joules for earlier, later in pairwise(inside)):
            continue
        seconds = inside[-1].at_s - inside[0].at_s
        share = seconds / (step.end_s - step.start_s)
        joules = inside[-1].joules - inside[0].joules
        found.append(PowerWindow(seconds, joules, step.input_tokens * share, step.output_tokens * share, replicas))
    return found


def measured(found: Sequence[PowerWindow], configured: tuple[float, float]) -> Power:
    """The slope through the windows, if they carry one."""
    fit = slope.fit(found, configured, 0.0)
    if fit is None:
        return Power(None, f"too few steps with power for a slope ({len(found)} of 4)", len(found))
    if fit.r2 < slope.R2_MIN or fit.joules_per_output_token <= 0.0:
        return Power(None, f"power does not go with the tokens served (R² {fit.r2:.2f})", len(found))
    return Power(fit, "", len(found))
