"""Plans judged on what they have not seen: plan on the first part of a trace, play the second with every number of replicas.

``python -m bench.plans [--case N …]``: owned and avoidable USD per hour of the plan in the unseen part, of the best number of
replicas of each pool there (exhaustive, same policy, compiled kernel), and of sizing for mean, 95th percentile and peak.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scheduler.config import load
from scheduler.planning import rates
from scheduler.planning.planner import Asked, Found, find, stage_of
from scheduler.planning.played import BID_EVERY_S, Played, Sample, Stage, sample_of
from scheduler.planning.requests import requests_of
from scheduler.planning.surface import load_of
from scheduler.planning.units import units_of
from scheduler.simulation.kernel import KernelSettings
from scheduler.simulation.mix import load_mix, resolve
from scheduler.simulation.scenario import Scenario, Window, scenario_of, shift_s_max
from scheduler.simulation.traces import Trace, cut, open_trace
from serving.settings import core_policy

ROOT = Path(__file__).resolve().parent.parent
_TRACES = ROOT.parent / "shared" / "data" / "traces"
_SITE = ROOT / "examples" / "h100-fleet.yaml"
_MIX, _RATES_MIX = ROOT / "examples" / "mix-heterogeneous.yaml", ROOT / "examples" / "mix-rates.yaml"
_JUDGED_REQUESTS = 2_000_000
_STEPS = 13
_SETTINGS = KernelSettings(gateways=4, bid_every_s=BID_EVERY_S)
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Case:
    """A trace, where its seen part ends (share of its span), and how much load it is of the example's fleet.

    Cut and then laid over itself, part by part; ``scaled_first``: as a whole, so that copies mix what came early and late.
    """

    name: str
    file: str
    seen: float
    load_factor: float
    scaled_first: bool = False


class Part(NamedTuple):
    """A window of a scenario."""

    scenario: Scenario
    window: Window


CASES = (
    Case("ServeGen week, days 1-4 -> 5-7", "servegen_mlarge_week1_sampled.csv.gz", 4 / 7, 1.0),
    Case("ServeGen small, days 1-4 -> 5-7", "servegen_msmall_week1_sampled.csv.gz", 4 / 7, 1.0),
    Case("10-minute rates, days 1-4 -> 5-7", "servegen_rate_10min.csv.gz", 4 / 7, 1.0),
    Case("Azure code, first half -> second", "azure_2023_code.csv.gz", 0.5, 0.7),
    Case("Mooncake, first half -> second", "mooncake_conversation.csv.gz", 0.5, 0.7),
    Case("Azure code, laid over itself, then halved", "azure_2023_code.csv.gz", 0.5, 0.7, scaled_first=True),
    Case("Mooncake, laid over itself, then halved", "mooncake_conversation.csv.gz", 0.5, 0.7, scaled_first=True),
)


def parts_of(case: Case, site: Path = _SITE, seed: int = 0) -> tuple[Part, Part]:
    """The case's seen and unseen part on the example's fleet, both in as many copies."""
    config, path = load(site), _TRACES / case.file
    is_rates = "rate" in case.file
    mix = load_mix(_RATES_MIX if is_rates else _MIX)
    profiles, policy = resolve(mix, config), core_policy(config)
    trace = rates.drawn(rates.read(path), mix, seed)[0] if is_rates else open_trace(path)

    def of(part: Trace) -> Scenario:
        made = scenario_of(
            config, profiles, "given" if is_rates else mix.assign_by, part, case.load_factor, policy, seed
        )
        return replace(made, shift_s_max=shift_s_max(part.span_s))

    split_s = case.seen * trace.span_s
    if case.scaled_first:
        whole = of(trace)
        return Part(whole, Window(0.0, split_s)), Part(whole, Window(split_s, trace.span_s))
    seen, unseen = (of(cut(trace, *ends)) for ends in ((0.0, split_s), (split_s, trace.span_s)))
    unseen = replace(unseen, copies=seen.copies)
    return Part(seen, Window(0.0, seen.trace.span_s)), Part(unseen, Window(0.0, unseen.trace.span_s))


def judged(found: Found, part: Part) -> dict[str, tuple[dict[str, int], float, Played]]:
    """By way of sizing: replicas, USD per hour of the unseen part, and what was played."""
    config, model = found.asked.config, found.model
    assert model is not None
    of, unseen = part
    stage, edges_s = stage_of(found, of), np.linspace(unseen.start_s, unseen.end_s, len(model.edges_s))
    units, _ = units_of(requests_of(of, config, found.technologies, unseen), model.placements)
    load = np.sum([load_of(unit, edges_s) for unit in units], axis=0)
    sample = sample_of(of, unseen, load, edges_s, _JUDGED_REQUESTS)
    sizes = {sizing.name: sizing.replicas for sizing in found.sizings}
    curves = _exhaustive(stage, sample, {u.name: float(load_of(u, edges_s).max()) for u in units}, found)
    best = {name: min(curve, key=lambda n: curve[n]) for name, curve in curves.items()}
    ways = {"plan": found.replicas, "best": best, "mean": sizes["mean"], "p95": sizes["p95"], "peak": sizes["peak"]}
    results = {}
    for name, replicas in ways.items():
        played = stage.kernel(replicas, sample, _SETTINGS)
        results[name] = (replicas, _owned(found, replicas) + played.usd_per_hour, played)
    return results


def _exhaustive(stage: Stage, sample: Sample, peaks: dict[str, float], found: Found) -> dict[str, dict[int, float]]:
    """USD per hour of each unit by its number of replicas: coarse steps up to above its peak, then all around the best.

    Units do not touch each other, so that one run serves a number of replicas of every unit.
    """
    curves: dict[str, dict[int, float]] = {name: {} for name in peaks}
    grids = {name: sorted({round(x) for x in np.linspace(0, 1.3 * peak + 1, _STEPS)}) for name, peak in peaks.items()}
    for _ in range(2):
        for step in range(max(map(len, grids.values()))):
            replicas = {name: grid[min(step, len(grid) - 1)] for name, grid in grids.items()}
            played = stage.kernel(replicas, sample, _SETTINGS)
            for name, count in replicas.items():
                usd = played.api_usd_per_hour.get(name, 0.0) + played.energy_usd_per_hour.get(name, 0.0)
                curves[name][count] = _owned(found, {name: count}) + usd
        best = {name: min(curve, key=lambda n: curve[n]) for name, curve in curves.items()}
        grids = {name: _between(sorted(curves[name]), at) for name, at in best.items()}
    return curves


def _between(tried: Sequence[int], best: int) -> list[int]:
    """All whole numbers between the neighbours of the best, at most a dozen of them."""
    at = tried.index(best)
    low, high = tried[max(0, at - 1)], tried[min(len(tried) - 1, at + 1)]
    return sorted({round(x) for x in np.linspace(low, high, min(13, high - low + 1))})


def _owned(found: Found, replicas: dict[str, int]) -> float:
    return sum(replicas.get(t.name, 0) * (t.owned_usd_per_hour or 0.0) for t in found.technologies)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.plans", description=__doc__)
    parser.add_argument("--case", type=int, action="append", help=f"0 to {len(CASES) - 1}; default: all")
    options = parser.parse_args(arguments)
    print("| case | plan | best | plan over best | mean | p95 | peak | burst, SLO of the plan | seconds to plan |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for case in [CASES[i] for i in options.case or range(len(CASES))]:
        seen, unseen = parts_of(case)
        began_s = time.monotonic()
        found = find(Asked(load(_SITE), *seen), lambda what, share: None)
        took_s = time.monotonic() - began_s
        results = judged(found, unseen)
        usd = {name: result[1] for name, result in results.items()}
        of_plan = results["plan"][2]
        cells = [f"{usd[name]:.2f}" for name in ("plan", "best")] + [f"{100 * (usd['plan'] / usd['best'] - 1):+.1f} %"]
        cells += [f"{usd[name]:.2f}" for name in ("mean", "p95", "peak")]
        cells += [f"{100 * of_plan.burst_share:.2f} %, {100 * of_plan.slo_attainment:.2f} %", f"{took_s:.0f}"]
        print(f"| {case.name} | " + " | ".join(cells) + " |", flush=True)
        print(
            {name: result[0] for name, result in results.items()}, found.model and found.model.usable, file=sys.stderr
        )


if __name__ == "__main__":
    main()
