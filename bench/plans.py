"""Plans judged on what they have not seen: plan on the first part of a trace, play the second with every number of replicas.

``python -m bench.plans [--case N …]``: owned and avoidable USD per hour of the plan in the unseen part, of the best number of
replicas of each pool there (exhaustive, same policy, compiled kernel), and of sizing for mean, 95th percentile and peak.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scheduler.config import ClusterConfig, load
from scheduler.planning import rates
from scheduler.planning.calibration import rented_of, weights_of
from scheduler.planning.found import there
from scheduler.planning.model import LEVELS
from scheduler.planning.planner import Asked, Found, find, stage_of
from scheduler.planning.played import BID_EVERY_S, Played, sample_of
from scheduler.planning.rehearsal import Rehearsed, rehearse
from scheduler.planning.requests import requests_of
from scheduler.planning.surface import load_of, surface_of
from scheduler.planning.units import units_of
from scheduler.simulation.kernel import KernelSettings
from scheduler.simulation.mix import load_mix, resolve
from scheduler.simulation.scenario import Scenario, Window, scenario_of, shift_s_max
from scheduler.simulation.trace_formats.csv_file import first_line
from scheduler.simulation.traces import Trace, cut, open_trace
from serving.settings import core_policy

ROOT = Path(__file__).resolve().parent.parent
_TRACES = ROOT.parent / "shared" / "data" / "traces"
_SITE = ROOT / "examples" / "h100-fleet.yaml"
_MIX, _RATES_MIX = ROOT / "examples" / "mix-heterogeneous.yaml", ROOT / "examples" / "mix-rates.yaml"
_JUDGED_REQUESTS, _WINDOWS, _PIECES = 24_000_000, 48, 12
# Numbers of replicas that the fluid puts within this part of its best are played.
_NEAR, _PLAYED_MAX = 0.12, 10
_SETTINGS = KernelSettings(gateways=4, bid_every_s=BID_EVERY_S)
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Case:
    """A trace, where its seen part ends (share of its span), and how much load it is of the example's fleet.

    Cut and then laid over itself, part by part; ``scaled_first``: as a whole, so that copies mix what came early and late.
    ``later``: the unseen part is this file, and all of ``file`` is seen.
    """

    name: str
    file: str | Path
    seen: float
    load_factor: float
    scaled_first: bool = False
    later: Path | None = None


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


def parts_of(case: Case, config: ClusterConfig, seed: int = 0) -> tuple[Part, Part]:
    """The case's seen and unseen part on the example's fleet, both in as many copies."""
    path = _TRACES / case.file
    is_rates = rates.is_rates(first_line(path))
    mix = load_mix(_RATES_MIX if is_rates else _MIX)
    profiles, policy = resolve(mix, config), core_policy(config)
    assign_by = "given" if is_rates else mix.assign_by

    def of(part: Trace) -> Scenario:
        made = scenario_of(config, profiles, assign_by, part, case.load_factor, policy, seed)
        return replace(made, shift_s_max=shift_s_max(part.span_s))

    def opened(path: Path) -> tuple[Trace, float]:
        return rates.drawn(rates.read(path), mix, seed)[:2] if is_rates else (open_trace(path), 1.0)

    trace, stands_for = opened(path)
    split_s = case.seen * trace.span_s
    if case.later is not None:
        later, later_stands_for = opened(_TRACES / case.later)
        seen, unseen = of(trace), of(later)
        unseen = replace(unseen, copies=seen.copies * later_stands_for / stands_for)
    elif case.scaled_first:
        whole = of(trace)
        return Part(whole, Window(0.0, split_s)), Part(whole, Window(split_s, trace.span_s))
    else:
        seen, unseen = (of(cut(trace, *ends)) for ends in ((0.0, split_s), (split_s, trace.span_s)))
        unseen = replace(unseen, copies=seen.copies)
    return Part(seen, Window(0.0, seen.trace.span_s)), Part(unseen, Window(0.0, unseen.trace.span_s))


class Judge:
    """What numbers of replicas cost in the unseen part: USD per hour, owned, rented, energy and APIs.

    All of the part is reckoned in the fluid, with the commitment clock rehearsed; what the kernel says more (or less) than
    the fluid of the stretches that it plays is added (difference estimator: Särndal, Swensson and Wretman 1992, chapter 6).
    """

    def __init__(self, found: Found, part: Part, requests_max: int = _JUDGED_REQUESTS) -> None:
        config, model, (of, unseen) = found.asked.config, there(found.model), part
        edges_s = np.linspace(unseen.start_s, unseen.end_s, len(model.edges_s))
        units, _ = units_of(requests_of(of, config, found.technologies, unseen), model.placements)
        surfaces = [
            surface_of(unit, edges_s, np.linspace(0.0, 1.0000001, LEVELS) * load_of(unit, edges_s).max())
            for unit in units
        ]
        # Prices and what of a replica counts are those of the plan; its rents as they are listed.
        self.model = replace(model, units=units, surfaces=tuple(surfaces), edges_s=edges_s, overheads={})
        self.peaks = {unit.name: float(surface.load.max()) for unit, surface in zip(units, surfaces, strict=True)}
        self._of = {unit.name: (unit, surface) for unit, surface in zip(units, surfaces, strict=True)}
        self._found, self._stage = found, stage_of(found, of)
        load = np.sum([surface.load for surface in surfaces], axis=0)
        self._sample = sample_of(of, unseen, load, edges_s, requests_max, _WINDOWS, _PIECES)
        self._weight = weights_of(edges_s, self._sample)
        self._rehearsals: dict[tuple[str, int], Rehearsed] = {}

    def costs(self, replicas: Mapping[str, int]) -> tuple[dict[str, float], Played]:
        """By unit, as units do not touch each other; and what was played."""
        rehearsals = {name: self._rehearsed(name, replicas[name]) for name in self.peaks}
        by_window, by_bin = rented_of(self.model, self._sample, rehearsals)
        played = self._stage.kernel(replicas, self._sample, _SETTINGS, by_window)
        usd = {}
        for unit, surface in zip(self.model.units, self.model.surfaces, strict=True):
            name, usable = unit.name, self.model.listed(unit).usable
            everything = surface.all_api_usd_per_hour + surface.must_energy_usd_per_hour
            in_sample = float(self._weight @ (everything - surface.saved((replicas[name] + by_bin[name]) * usable)))
            spent = played.api_usd_per_hour.get(name, 0.0) + played.energy_usd_per_hour.get(name, 0.0)
            usd[name] = self._fluid(name, replicas[name]) + spent - in_sample
        return usd, played

    def _fluid(self, name: str, owned: int) -> float:
        """USD per hour of one unit, all of the unseen part in the fluid."""
        unit, surface = self._of[name]
        money, rehearsed = self.model.listed(unit), self._rehearsed(name, owned)
        everything = float(np.mean(surface.all_api_usd_per_hour + surface.must_energy_usd_per_hour))
        saved = rehearsed.saved_usd_per_hour(surface, money, owned)
        return owned * (money.owned_usd_per_hour or 0.0) + rehearsed.rent_usd_per_hour(money) + everything - saved

    def _rehearsed(self, name: str, owned: int) -> Rehearsed:
        if (name, owned) not in self._rehearsals:
            unit, surface = self._of[name]
            spec, money = self._found.asked.config.policy.commitment, self.model.listed(unit)
            made = rehearse(surface, money, owned, spec.policy(), spec.every_s, unit.technology.start_s, requests=unit)
            self._rehearsals[name, owned] = made
        return self._rehearsals[name, owned]

    def best(self) -> dict[str, int]:
        """Exhaustive: every number of replicas up to above each unit's peak in the fluid, all that come near played.

        One run serves a number of replicas of every unit.
        """
        grids = {name: self._near(name) for name in self.peaks}
        curves: dict[str, dict[int, float]] = {name: {} for name in self.peaks}
        for step in range(max(map(len, grids.values()))):
            replicas = {name: grid[min(step, len(grid) - 1)] for name, grid in grids.items()}
            usd, _ = self.costs(replicas)
            for name, count in replicas.items():
                curves[name][count] = usd[name]
        return {name: min(curve, key=lambda n: curve[n]) for name, curve in curves.items()}

    def _near(self, name: str) -> list[int]:
        """Those that may be the best, by what the fluid says; and the plan's own."""
        usd = {n: self._fluid(name, n) for n in range(math.ceil(1.3 * self.peaks[name]) + 2)}
        ranked = sorted(usd, key=lambda n: usd[n])
        near = [n for n in ranked if usd[n] <= (1.0 + _NEAR) * usd[ranked[0]]][:_PLAYED_MAX]
        ours = self._found.replicas.get(name, 0)
        return near if ours in near else [*near, ours]  # nothing that the plan does better shall be missed


def judged(found: Found, part: Part) -> dict[str, tuple[dict[str, int], float, Played]]:
    """By way of sizing: replicas, USD per hour of the unseen part, and what was played."""
    judge = Judge(found, part)
    sizes = {sizing.name: sizing.replicas for sizing in found.sizings}
    ways = {"plan": found.replicas, "best": judge.best()} | {name: sizes[name] for name in ("mean", "p95", "peak")}
    results = {}
    for name, replicas in ways.items():
        usd, played = judge.costs(replicas)
        results[name] = (dict(replicas), sum(usd.values()), played)
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.plans", description=__doc__)
    parser.add_argument("--case", type=int, action="append", help=f"0 to {len(CASES) - 1}; default: all")
    parser.add_argument("--seen", type=Path, help="a trace, or rates by class, of your own to plan on; with --unseen")
    parser.add_argument("--unseen", type=Path, help="a later one to judge on, laid over itself as often as the first")
    parser.add_argument(
        "--load-factor", type=float, default=1.0, help="of the example's fleet, for --seen (default: 1)"
    )
    parser.add_argument("--no-cloud", action="store_true", help="nothing can be rented: APIs alone take the peaks")
    options = parser.parse_args(arguments)
    if (options.seen is None) != (options.unseen is None):
        parser.error("--seen and --unseen come together")
    cases = [CASES[i] for i in options.case or range(len(CASES))]
    if options.seen is not None:
        name = f"{options.seen.name} -> {options.unseen.name}"
        cases = [Case(name, options.seen.absolute(), 1.0, options.load_factor, later=options.unseen.absolute())]
    config = load(_SITE)
    if options.no_cloud:
        planning = config.planning.model_copy(update={"cloud": ()})
        config = config.model_copy(update={"planning": planning})
    print("| case | plan | best | plan over best | mean | p95 | peak | burst, SLO of the plan | seconds to plan |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for case in cases:
        seen, unseen = parts_of(case, config)
        began_s = time.monotonic()
        found = find(Asked(config, *seen), lambda what, share: None)
        took_s = time.monotonic() - began_s
        results = judged(found, unseen)
        usd = {name: result[1] for name, result in results.items()}
        of_plan = results["plan"][2]
        cells = [f"{usd[name]:.2f}" for name in ("plan", "best")] + [f"{100 * (usd['plan'] / usd['best'] - 1):+.1f} %"]
        cells += [f"{usd[name]:.2f}" for name in ("mean", "p95", "peak")]
        cells += [f"{100 * of_plan.burst_share:.2f} %, {100 * of_plan.slo_attainment:.2f} %", f"{took_s:.0f}"]
        print(f"| {case.name} | " + " | ".join(cells) + " |", flush=True)
        replicas = {name: result[0] for name, result in results.items()}
        model = there(found.model)
        print(replicas, model.usable, model.overheads, f"{model.level_sd:.3f}", file=sys.stderr)


if __name__ == "__main__":
    main()
