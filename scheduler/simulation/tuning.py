"""Thresholds of the baselines, tuned on the part of the trace that comes before the judged one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from scheduler.simulation.clocks import CommitmentClock, HpaClock
from scheduler.simulation.fleet import Fleet, scaled_alone
from scheduler.simulation.policies import Rule, rule
from scheduler.simulation.regret import Judged
from scheduler.simulation.scenario import EPOCH_S, Scenario, Window
from scheduler.simulation.tally import Tally
from scheduler.simulation.workload import Batch
from scheduler.simulation.world import Settings, World

SLO_MIN = 0.99
# Enough to tell thresholds apart, few enough that eleven policies tune in a minute or two.
TUNING_REQUESTS = 6_000
TUNED = ("overflow-queue", "overflow-kv", "static-price", "quality-threshold", "hpa")


def play(
    scenario: Scenario,
    of: Rule,
    settings: Settings,
    window: Window,
    batches: Iterable[Batch],
    progress: Callable[[int], None] | None = None,
) -> Tally:
    """One run of one rule over the requests of a window; ``progress`` hears of every batch that was played.

    A rule that scales begins with each pool's lower bound of replicas and follows a HorizontalPodAutoscaler, or the
    commitment clock of the site file, from there.
    """
    clock, held = _clock(scenario, of, settings), list[dict[str, float]]()
    if clock is not None:
        calls = (
            (window.start_s, clock.begin),
            (window.end_s, lambda _, now_s: held.append(clock.fleet.usd_held(now_s))),
        )
        settings = replace(settings, calls=(*settings.calls, *calls), ended=clock.saw)
    world = World(scenario.site, scenario.profiles, of, scenario.policy, settings, window.start_s, window.span_s)
    tally = world.play(batches, progress)
    if clock is not None:  # the last answer may have ended before the window does
        tally.usd_held = held[0] if held else clock.fleet.usd_held(EPOCH_S + window.end_s)
    return tally


def _clock(scenario: Scenario, of: Rule, settings: Settings) -> HpaClock | CommitmentClock | None:
    if not of.scales:
        return None
    if of.scales == "hpa":
        return HpaClock(Fleet(scenario.site, settings.seed), of.threshold)
    spec = scenario.site.config.policy.commitment
    return CommitmentClock(Fleet(scaled_alone(scenario.site), settings.seed), spec.policy(), spec.every_s)


def tuned(
    name: str,
    scenario: Scenario,
    settings: Settings,
    prices: Judged,
    progress: Callable[[str], None] | None = None,
) -> Rule:
    """The rule with the threshold that was cheapest on the tuning part at an SLO attainment of ``SLO_MIN``.

    Where none attains it, the one that attains most. Rules without a threshold come back as they are.
    """
    if name not in TUNED:
        return rule(name)
    window, batches = _sample(scenario)
    candidates = rule(name).thresholds or _shadow_prices(prices)
    runs = []
    for threshold in candidates:
        tally = play(scenario, rule(name, threshold), settings, window, batches)
        runs.append((tally, threshold))
        if progress is not None:
            progress(f"{name} {threshold:.3g}")
    good = [(tally.usd_total, threshold) for tally, threshold in runs if tally.slo_attainment >= SLO_MIN]
    if good:
        return rule(name, min(good)[1])
    return rule(name, max((tally.slo_attainment, -tally.usd_total, threshold) for tally, threshold in runs)[2])


def _sample(scenario: Scenario) -> tuple[Window, list[Batch]]:
    """The last requests before the judged part: nearest to it in time."""
    whole = scenario.tuning
    expected = max(1, scenario.requests_expected(whole))
    start_s = whole.end_s - whole.span_s * min(1.0, TUNING_REQUESTS / expected)
    window = Window(start_s, whole.end_s)
    return window, list(scenario.batches(window))


def _shadow_prices(prices: Judged) -> tuple[float, ...]:
    """Candidates for a constant price on work: quantiles of what a second of work displaces."""
    requests = prices.requests
    work_s = (requests.prefill_work_s + requests.decode_work_s).max(axis=1)
    worth = requests.usd_elsewhere - np.where(requests.eligible, requests.energy_usd, 0.0).max(axis=1)
    usable = np.isfinite(worth) & (work_s > 0.0)
    if not usable.any():
        return (0.0,)
    density = worth[usable] / work_s[usable]
    return (0.0, *(float(q) for q in np.unique(np.quantile(density, np.linspace(0.02, 0.9, 12)))))
