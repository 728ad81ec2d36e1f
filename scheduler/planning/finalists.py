"""Plans against the real policy: what it saves in the kernel calibrates the search; the exact engine has the last word."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from scheduler.planning import calibration, document
from scheduler.planning.found import Found, Say, there
from scheduler.planning.model import Model
from scheduler.planning.played import BID_EVERY_S, Played, Sample, Stage, sample_of
from scheduler.planning.requests import homes_of
from scheduler.simulation.kernel import KernelSettings
from scheduler.simulation.scenario import Scenario, Window
from scheduler.simulation.world import Settings

_ROUNDS_MAX = 3
_GATEWAYS = 4
_SETTLED = 0.02
_PIECES = 8  # of a trace that is played whole: what is rented changes between them
_DOUBT = 0.05  # of the whole cost
# Around the fluid's answer: what the simulator is asked for as well.
_AROUND = (0.85, 1.0, 1.15)


def play(found: Found, say: Say) -> None:
    """Kernel and fluid in turn until they agree on what to own."""
    model, asked = there(found.model), found.asked
    load = np.sum([surface.load for surface in model.surfaces], axis=0)
    can_rent = any(unit.technology.rented_usd_per_hour is not None for unit in model.units)
    found.sample = sample = sample_of(
        asked.scenario, asked.window, load, model.edges_s, asked.played_requests, pieces=_PIECES if can_rent else 1
    )
    paced = [p.service_class.name for p in asked.scenario.profiles if p.service_class.tpot_s_max < math.inf]
    if paced:  # the kernel judges no pace; the exact engine does
        found.warnings.append(
            f"{paced[0]} has a tpot_s_max: only a short stretch was played, and what a replica does was not calibrated"
        )
        for _ in range(_ROUNDS_MAX):
            _search_again(found)
        return
    stage, weight = stage_of(found), calibration.weights_of(model.edges_s, sample)
    settings = KernelSettings(gateways=_GATEWAYS, seed=asked.seed, bid_every_s=BID_EVERY_S)
    bought = stage.kernel({}, sample, settings)
    clock = asked.config.policy.commitment
    for round_ in range(_ROUNDS_MAX):
        middle, told = found.replicas, []
        rehearsals = calibration.rehearsals_of(model, there(found.choice), clock)
        by_window, rented = calibration.rented_of(model, sample, rehearsals)
        for number, factor in enumerate(_AROUND):
            say("playing finalists", (round_ + (1 + number) / len(_AROUND)) / _ROUNDS_MAX)
            replicas = _scaled(found, middle, factor)
            played = stage.kernel(replicas, sample, settings, by_window)
            told.append(calibration.usable_of(model, weight, replicas, rented, played, bought))
            found.finalists.append(_finalist(model, weight, replicas, rented, played, "kernel"))
        found.model = replace(model, usable=calibration.merged(told))
        model = _search_again(found)
        if all(abs(found.replicas[name] - count) <= _SETTLED * count for name, count in middle.items()):
            break
    rehearsals = calibration.rehearsals_of(model, there(found.choice), clock)
    by_window, rented = calibration.rented_of(model, sample, rehearsals)
    found.rent_usd_per_hour = {
        unit.name: rehearsals[unit.name].rent_usd_per_hour(model.listed(unit)) for unit in model.units
    }
    found.played = stage.kernel(found.replicas, sample, settings, by_window)
    found.finalists = [one for one in found.finalists if one.replicas != found.replicas]
    found.finalists.append(_finalist(model, weight, found.replicas, rented, found.played, "kernel", is_chosen=True))
    found.warnings += _doubts(found)


def _search_again(found: Found) -> Model:
    """With rents as dear as the clock makes them around the choice."""
    model, clock = there(found.model), found.asked.config.policy.commitment
    found.model = model = replace(model, overheads=calibration.overheads_of(model, there(found.choice), clock))
    found.choice = model.best()
    return model


def _scaled(found: Found, replicas: Mapping[str, int], factor: float) -> dict[str, int]:
    """So many times as many, whole numbers, one at least where there are any, and no more than can be had."""
    most = {technology.name: technology.replicas_max for technology in found.technologies}
    return {name: min(most[name], max(1, round(n * factor))) if n else 0 for name, n in replicas.items()}


def _doubts(found: Found) -> list[str]:
    """What the simulator holds against the plan."""
    spec, played, one = found.asked.config.planning, there(found.played), found.finalists[-1]
    doubts = []
    if played.slo_attainment < spec.slo_attainment_min:
        doubts.append(
            f"objectives are met by {played.slo_attainment:.1%} of requests in the simulator, below the "
            f"{spec.slo_attainment_min:.1%} asked for (planning.slo_attainment_min)"
        )
    whole_usd = float(there(found.choice).usd_per_hour.mean())
    # Less than searched is no doubt: in a short stretch a backlog need not be worked off.
    if one.played_usd_per_hour - one.searched_usd_per_hour > _DOUBT * whole_usd:
        doubts.append(
            f"in the simulator the policy pays {one.played_usd_per_hour:.4g} USD per hour for APIs and energy, the search "
            f"expected {one.searched_usd_per_hour:.4g}: believe the former"
        )
    return doubts


def stage_of(found: Found, scenario: Scenario | None = None) -> Stage:
    """The scenario that was planned for (or another one) with every technology in it."""
    asked, model = found.asked, there(found.model)
    scenario = scenario or asked.scenario
    profiles = homes_of(asked.config, scenario.profiles, found.technologies)
    return Stage(scenario, asked.config, profiles, found.technologies, model.placements)


def _finalist(
    model: Model,
    weight: np.ndarray,
    replicas: Mapping[str, int],
    rented: calibration.Rented,
    played: Played,
    engine: str,
    *,
    is_chosen: bool = False,
) -> document.Finalist:
    return document.Finalist(
        replicas=dict(replicas), engine="exact" if engine == "exact" else "kernel", hours=played.hours,
        requests=played.requests, searched_usd_per_hour=calibration.searched_usd_per_hour(model, weight, replicas, rented),
        played_usd_per_hour=played.usd_per_hour, burst_share=played.burst_share, slo_attainment=played.slo_attainment,
        is_chosen=is_chosen,
    )  # fmt: skip


def exact(found: Found, say: Say) -> None:
    """The chosen plan in the engine that calls the live functions, over a short stretch of the sample."""
    model, asked, sample = there(found.model), found.asked, there(found.sample)
    short = _shortened(asked.scenario, sample, asked.exact_requests)
    rehearsals = calibration.rehearsals_of(model, there(found.choice), asked.config.policy.commitment)
    (extra,), rented = calibration.rented_of(model, short, rehearsals)
    replicas = {name: count + extra.get(name, 0) for name, count in found.replicas.items()}
    if not any(replicas.values()):
        return
    tally = stage_of(found).exact(replicas, short, Settings(gateways=_GATEWAYS, seed=asked.seed))
    hours = short.windows[0].span_s / 3600.0
    weight = calibration.weights_of(model.edges_s, short)
    played = Played(
        hours, tally.requests, {"": tally.usd_api / hours}, {"": tally.usd_energy / hours}, 1.0 - tally.local_share,
        tally.slo_attainment,
    )  # fmt: skip
    found.finalists.append(_finalist(model, weight, found.replicas, rented, played, "exact", is_chosen=True))


def _shortened(scenario: Scenario, sample: Sample, requests_max: int) -> Sample:
    """The beginning of the busiest window of ``sample``, with about so many requests."""
    busiest = max(sample.windows, key=lambda window: scenario.requests_expected(window) / window.span_s)
    share = min(1.0, requests_max / max(1, scenario.requests_expected(busiest)))
    return Sample((Window(busiest.start_s, busiest.start_s + share * busiest.span_s),), (1.0,), 0.0)
