"""``plan``: from a scenario to a ``Plan``, step by step; what is there when it is interrupted is a partial plan.

1. price every request at home and away         ``requests``
2. mixed-integer program over types of GPU      ``groups``, ``capacity``
3. fluid search over scenarios                  ``model``, ``consolidation``
4. the real policy in the compiled kernel       ``finalists``, ``calibration``; search again with what a replica really does
5. the chosen plan in the exact engine
6. sensitivity, sizings, what everything means  ``alternatives``, ``outlook``, ``meaning``
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from scheduler.config import ClusterConfig
from scheduler.planning import alternatives
from scheduler.planning.capacity import Infeasible, solve
from scheduler.planning.consolidation import consolidated
from scheduler.planning.finalists import exact, play, stage_of
from scheduler.planning.found import Asked, Found, Say, there
from scheduler.planning.groups import grouped
from scheduler.planning.model import Model, edges_of, model_of
from scheduler.planning.requests import requests_of
from scheduler.planning.technologies import PlanError, technologies_of
from scheduler.simulation.scenario import EPOCH_S

__all__ = ["Asked", "Found", "Say", "find", "remade", "stage_of"]


def find(asked: Asked, say: Say) -> Found:
    """All steps. Stopped by Ctrl-C after the first search it returns what there is, as partial; before that it raises it.

    Raises PlanError (a ValueError) for what cannot be planned.
    """
    found = Found(asked)
    steps: list[tuple[str, float, Callable[[Found, Say], None]]] = [
        ("pricing requests", 0.0, _price), ("choosing types of GPU", 0.12, _program), ("searching", 0.15, _search),
        ("playing finalists", 0.22, play), ("exact engine", 0.75, exact), ("alternatives", 0.85, _alternatives),
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
    requests = there(found.requests)
    edges_s = edges_of(requests)
    grouping = grouped(requests, found.technologies, edges_s)
    try:
        solved = solve(grouping.problem)
    except Infeasible as error:
        raise PlanError(f"no plan can hold what must stay at home: {error}") from error
    found.program_usd_per_hour = solved.usd_per_hour
    placements = grouping.placements(solved.share)
    found.model = model_of(found.asked.config.planning, requests, placements, found.asked.seed)


def _search(found: Found, say: Say) -> None:
    model = there(found.model)
    found.choice = model.best()
    found.model, found.choice = consolidated(model, found.choice, lambda: say("choosing types of GPU", 0.5))


def remade(found: Found, config: ClusterConfig) -> Model:
    """The model of the same trace under another site file (another tariff), with what the simulator has told of replicas."""
    technologies = technologies_of(config, EPOCH_S)
    requests = requests_of(found.asked.scenario, config, technologies, found.asked.window)
    model = there(found.model)
    made = model_of(config.planning, requests, model.placements, model.seed)
    return replace(made, usable=model.usable, overheads=model.overheads, level_sd=model.level_sd, drawn=model.drawn)


def _alternatives(found: Found, say: Say) -> None:
    model, choice = there(found.model), there(found.choice)
    found.sizings = alternatives.sizings(model, choice)
    say("alternatives", 0.3)
    found.owned_costs = alternatives.owned_costs(model)
    say("alternatives", 0.6)
    found.sensitivity = alternatives.sensitivity(model, choice)
