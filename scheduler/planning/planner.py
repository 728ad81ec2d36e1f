"""``plan``: from a scenario to a ``Plan``, step by step; what is there when it is interrupted is a partial plan.

1. price every request at home and away         ``requests``
2. mixed-integer program over types of GPU      ``groups``, ``capacity``
3. fluid search over scenarios                  ``model``
4. the real policy in the compiled kernel       ``played``, ``calibration``; search again with what a replica really does
5. the chosen plan in the exact engine
6. sensitivity, sizings, what everything means  ``alternatives``, ``outlook``, ``meaning``
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import numpy as np

from scheduler.config import ClusterConfig
from scheduler.planning import alternatives, calibration, document
from scheduler.planning.capacity import Infeasible, solve
from scheduler.planning.groups import grouped
from scheduler.planning.model import Choice, Model, edges_of, model_of
from scheduler.planning.played import BID_EVERY_S, Played, Sample, Stage, sample_of
from scheduler.planning.requests import Requests, homes_of, requests_of, waits_s_of
from scheduler.planning.technologies import PlanError, Technology, technologies_of
from scheduler.simulation.kernel import KernelSettings
from scheduler.simulation.scenario import EPOCH_S, Scenario, Window
from scheduler.simulation.world import Settings

_T = TypeVar("_T")

PLAYED_REQUESTS = 1_200_000
EXACT_REQUESTS = 12_000
_ROUNDS_MAX = 3
_GATEWAYS = 4
_SETTLED = 0.02
# Around the fluid's answer: what the simulator is asked for as well.
_AROUND = (0.85, 1.0, 1.15)


class Say(Protocol):
    """Hears what goes on, and how much of everything is done (0 to 1)."""

    def __call__(self, what: str, share: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What is planned for: ``window`` of ``scenario``, the trace with its copies and the original profiles."""

    config: ClusterConfig
    scenario: Scenario
    window: Window
    seed: int = 0
    played_requests: int = PLAYED_REQUESTS
    exact_requests: int = EXACT_REQUESTS


@dataclass(slots=True)
class Found:
    """What has been found so far; None or empty: not reached."""

    asked: Asked
    technologies: tuple[Technology, ...] = ()
    requests: Requests | None = None
    model: Model | None = None
    choice: Choice | None = None
    program_usd_per_hour: float | None = None
    sample: Sample | None = None
    finalists: list[document.Finalist] = field(default_factory=list)
    played: Played | None = None
    sizings: tuple[document.Sizing, ...] = ()
    owned_costs: tuple[document.OwnedCost, ...] = ()
    sensitivity: tuple[document.Sensitivity, ...] = ()
    warnings: list[str] = field(default_factory=list)
    partial: bool = False

    @property
    def replicas(self) -> dict[str, int]:
        """Owned and reserved replicas of the choice, by unit."""
        if self.model is None or self.choice is None:
            return {}
        had = zip(self.choice.owned, self.choice.reserved, strict=True)
        return {unit.name: sum(counts) for unit, counts in zip(self.model.units, had, strict=True)}


def find(asked: Asked, say: Say) -> Found:
    """All steps. Stopped by Ctrl-C after the first search it returns what there is, as partial; before that it raises it.

    Raises PlanError (a ValueError) for what cannot be planned.
    """
    found = Found(asked)
    steps: list[tuple[str, float, Callable[[Found, Say], None]]] = [
        ("pricing requests", 0.0, _price), ("choosing types of GPU", 0.12, _program), ("searching", 0.15, _search),
        ("playing finalists", 0.22, _play), ("exact engine", 0.75, _exact), ("alternatives", 0.85, _alternatives),
    ]  # fmt: skip
    for index, (what, begins, step) in enumerate(steps):
        ends = steps[index + 1][1] if index + 1 < len(steps) else 1.0
        say(what, begins)
        try:
            step(found, lambda text, share, begins=begins, ends=ends: say(text, begins + share * (ends - begins)))
        except KeyboardInterrupt:
            if found.choice is None:
                raise
            found.partial = True
            found.warnings.append(f"stopped while {what}: what comes after that is missing here")
            break
    return found


def _price(found: Found, say: Say) -> None:
    asked = found.asked
    found.technologies = technologies_of(asked.config, EPOCH_S)
    found.requests = requests_of(
        asked.scenario, asked.config, found.technologies, asked.window, lambda share: say("pricing requests", share)
    )

    stranded, count = found.requests.stranded, found.requests.count
    if stranded:
        found.warnings.append(
            f"{stranded:,.0f} of {count:,.0f} requests may not leave, and no pool can serve them within their objective or "
            "context; they are in no figure of this plan"
        )


def _program(found: Found, say: Say) -> None:
    requests = _there(found.requests)
    edges_s = edges_of(requests)
    grouping = grouped(requests, found.technologies, edges_s)
    try:
        solved = solve(grouping.problem)
    except Infeasible as error:
        raise PlanError(f"no plan can hold what must stay at home: {error}") from error
    found.program_usd_per_hour = solved.usd_per_hour
    placements = grouping.placements(solved.share)
    waits_s = waits_s_of(homes_of(found.asked.config, found.asked.scenario.profiles, found.technologies))
    found.model = model_of(found.asked.config.planning, requests, placements, found.asked.seed, waits_s)


def _search(found: Found, say: Say) -> None:
    found.choice = _there(found.model).best()


def _play(found: Found, say: Say) -> None:
    """Kernel and fluid in turn until they agree on what to own."""
    model, asked = _there(found.model), found.asked
    stage = stage_of(found)
    load = np.sum([surface.load for surface in model.surfaces], axis=0)
    found.sample = sample = sample_of(asked.scenario, asked.window, load, model.edges_s, asked.played_requests)
    weight = calibration.weights_of(model.edges_s, sample)
    settings = KernelSettings(gateways=_GATEWAYS, seed=asked.seed, bid_every_s=BID_EVERY_S)
    bought = stage.kernel({}, sample, settings)
    for round_ in range(_ROUNDS_MAX):
        middle, told = found.replicas, []
        for number, factor in enumerate(_AROUND):
            say("playing finalists", (round_ + (1 + number) / len(_AROUND)) / _ROUNDS_MAX)
            replicas = {name: max(1, round(count * factor)) if count else 0 for name, count in middle.items()}
            played = stage.kernel(replicas, sample, settings)
            told.append(calibration.usable_of(model, weight, replicas, played, bought))
            found.finalists.append(_finalist(model, weight, replicas, played, "kernel"))
        found.model = model = replace(model, usable=calibration.merged(told))
        found.choice = model.best()
        if all(abs(found.replicas[name] - count) <= _SETTLED * count for name, count in middle.items()):
            break
    found.played = stage.kernel(found.replicas, sample, settings)
    found.finalists = [one for one in found.finalists if one.replicas != found.replicas]
    found.finalists.append(_finalist(model, weight, found.replicas, found.played, "kernel", is_chosen=True))
    if found.played.slo_attainment < asked.config.planning.slo_attainment_min:
        found.warnings.append(
            f"objectives are met by {found.played.slo_attainment:.1%} of requests in the simulator, "
            f"below the {asked.config.planning.slo_attainment_min:.1%} asked for (planning.slo_attainment_min)"
        )


def stage_of(found: Found, scenario: Scenario | None = None) -> Stage:
    """The scenario that was planned for (or another one) with every technology in it."""
    asked, model = found.asked, _there(found.model)
    scenario = scenario or asked.scenario
    profiles = homes_of(asked.config, scenario.profiles, found.technologies)
    return Stage(scenario, asked.config, profiles, found.technologies, model.placements)


def _finalist(
    model: Model,
    weight: np.ndarray,
    replicas: Mapping[str, int],
    played: Played,
    engine: str,
    *,
    is_chosen: bool = False,
) -> document.Finalist:
    return document.Finalist(
        replicas=dict(replicas), engine="exact" if engine == "exact" else "kernel", hours=played.hours,
        requests=played.requests, searched_usd_per_hour=calibration.searched_usd_per_hour(model, weight, replicas),
        played_usd_per_hour=played.usd_per_hour, burst_share=played.burst_share, slo_attainment=played.slo_attainment,
        is_chosen=is_chosen,
    )  # fmt: skip


def _exact(found: Found, say: Say) -> None:
    """The chosen plan in the engine that calls the live functions, over a short stretch of the sample."""
    model, asked, sample = _there(found.model), found.asked, _there(found.sample)
    if not any(found.replicas.values()):
        return
    short = _shortened(asked.scenario, sample, asked.exact_requests)
    tally = stage_of(found).exact(found.replicas, short, Settings(gateways=_GATEWAYS, seed=asked.seed))
    hours = short.windows[0].span_s / 3600.0
    weight = calibration.weights_of(model.edges_s, short)
    played = Played(
        hours, tally.requests, {"": tally.usd_api / hours}, {"": tally.usd_energy / hours}, 1.0 - tally.local_share,
        tally.slo_attainment,
    )  # fmt: skip
    found.finalists.append(_finalist(model, weight, found.replicas, played, "exact", is_chosen=True))


def _shortened(scenario: Scenario, sample: Sample, requests_max: int) -> Sample:
    """The beginning of the busiest window of ``sample``, with about so many requests."""
    busiest = max(sample.windows, key=lambda window: scenario.requests_expected(window) / window.span_s)
    share = min(1.0, requests_max / max(1, scenario.requests_expected(busiest)))
    return Sample((Window(busiest.start_s, busiest.start_s + share * busiest.span_s),), (1.0,), 0.0)


def remade(found: Found, config: ClusterConfig) -> Model:
    """The model of the same trace under another site file (another tariff), with what the simulator has told of replicas."""
    technologies = technologies_of(config, EPOCH_S)
    requests = requests_of(found.asked.scenario, config, technologies, found.asked.window)
    model = _there(found.model)
    made = model_of(config.planning, requests, model.placements, model.seed, model.waits_s)
    return replace(made, usable=model.usable)


def _alternatives(found: Found, say: Say) -> None:
    model, choice = _there(found.model), _there(found.choice)
    found.sizings = alternatives.sizings(model, choice)
    say("alternatives", 0.3)
    found.owned_costs = alternatives.owned_costs(model)
    say("alternatives", 0.6)
    found.sensitivity = alternatives.sensitivity(model, choice)


def _there(value: _T | None) -> _T:
    if value is None:
        raise RuntimeError("a step was taken before the one that it needs")
    return value
