"""The shipped policy against the clairvoyant bound, on public traces: the grid, and what happens when things go wrong.

    python -m bench.policies grid --requests 600000      every trace, load, number of gateways and age of snapshots
    python -m bench.policies beside --requests 600000    one cell a trace, load and site, beside the tuned overflow rules
    python -m bench.policies robust --requests 60000     what is wrong or gone, one thing at a time

Needs ../shared/data/traces. Prints Markdown, a row as soon as it is known.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from bench.disturbances import DISTURBANCES, disturbed
from scheduler.config import load
from scheduler.simulation import kernel
from scheduler.simulation.kernel import KernelSettings, KernelTally
from scheduler.simulation.mix import load_mix, resolve
from scheduler.simulation.policies import rule
from scheduler.simulation.regret import Judged, bound_of, judged, savings_captured
from scheduler.simulation.scenario import Scenario, scenario_of
from scheduler.simulation.tally import Tally
from scheduler.simulation.traces import open_trace
from scheduler.simulation.tuning import play, tuned
from scheduler.simulation.world import Settings
from serving.settings import core_policy

TRACES = Path("../shared/data/traces")
NAMES = ("azure_2023_code", "mooncake_conversation", "servegen_mlarge_week1_sampled")
SITES = ("h100-site", "h100-fleet")
LOADS = (0.8, 1.2, 2.0)
GATEWAYS = (1, 4, 16)
AGES_S = (0.25, 1.0, 3.0)
USUAL = Settings(gateways=4, snapshot_age_s=1.0)


def scenarios(options: argparse.Namespace) -> Iterator[tuple[str, str, Scenario]]:
    """Site, trace and scenario of every combination that was asked for."""
    for site in options.sites:
        config = load(f"examples/{site}.yaml")
        mix = load_mix(f"examples/mix-{options.mix}.yaml")
        profiles = resolve(mix, config)
        for name in options.traces:
            with open_trace(TRACES / f"{name}.csv.gz") as trace:
                for factor in options.loads:
                    yield site, name, scenario_of(
                        config, profiles, mix.assign_by, trace, factor, core_policy(config), options.seed, options.requests
                    )  # fmt: skip


def row(prices: Judged, tally: Tally | KernelTally) -> str:
    """Captured, API spend over the clairvoyant's, USD above the bound, SLO; the bound may be late as often as the run was."""
    bound = bound_of(prices, 1.0 - tally.slo_attainment)
    ratio = f"{tally.usd_api / bound.usd_api:.2f}" if bound.usd_api > 0.01 * bound.usd_all_api else "-"
    captured = f"{100 * savings_captured(tally, bound):.2f} %"
    regret = f"{tally.usd_total - bound.usd_total:.2f}"
    return f"{captured} | {ratio} | {regret} | {100 * tally.slo_attainment:.2f} %"


def grid(options: argparse.Namespace) -> None:
    """Every gateway count and snapshot age, the shipped policy; by the compiled kernel unless ``--exact``."""
    print("| site | trace | load | gateways | snapshot s | captured | API / clairvoyant | regret USD | SLO |")
    print("|---|---|---|---|---|---|---|---|---|")
    for site, name, scenario in scenarios(options):
        prices, batches = judged(scenario), list(scenario.batches(scenario.judged))
        for gateways in GATEWAYS:
            for age_s in AGES_S:
                if options.exact:
                    settings = Settings(gateways=gateways, snapshot_age_s=age_s, seed=options.seed)
                    tally: Tally | KernelTally = play(scenario, rule("bid-price"), settings, scenario.judged, batches)
                else:
                    compiled = KernelSettings(gateways=gateways, snapshot_age_s=age_s, seed=options.seed)
                    tally = kernel.play(scenario, "bid-price", settings=compiled, batches=batches)
                cell = f"{site} | {name} | {scenario.load_factor} | {gateways} | {age_s}"
                print(f"| {cell} | {row(prices, tally)} |", flush=True)


def beside(options: argparse.Namespace) -> None:
    """The shipped policy and overflow rules, tuned by the exact engine; played by the compiled kernel unless ``--exact``."""
    print("| site | trace | load | requests | policy | captured | API / clairvoyant | regret USD | SLO | API USD |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for site, name, scenario in scenarios(options):
        prices, batches = judged(scenario), list(scenario.batches(scenario.judged))
        for policy in options.policies:
            chosen = tuned(policy, scenario, USUAL, prices)
            if options.exact:
                tally: Tally | KernelTally = play(scenario, chosen, USUAL, scenario.judged, batches)
            else:
                compiled = KernelSettings(
                    gateways=USUAL.gateways, snapshot_age_s=USUAL.snapshot_age_s, seed=options.seed
                )
                tally = kernel.play(scenario, policy, chosen.threshold, settings=compiled, batches=batches)
            cell = f"{site} | {name} | {scenario.load_factor} | {len(prices)} | {policy}"
            print(f"| {cell} | {row(prices, tally)} | {tally.usd_api:.2f} |", flush=True)


def robust(options: argparse.Namespace) -> None:
    """What is wrong or gone, one thing at a time. Oscillation: how much local load swings from bucket to bucket."""
    print("| site | trace | disturbance | captured | API / clairvoyant | regret USD | SLO | swing of local load |")
    print("|---|---|---|---|---|---|---|---|")
    for site, name, scenario in scenarios(options):
        prices = judged(scenario)
        for disturbance in DISTURBANCES:
            told, settings, batches = disturbed(disturbance, scenario, prices)
            tally = play(scenario, rule("bid-price"), settings, scenario.judged, batches)
            print(f"| {site} | {name} | {disturbance} | {row(told, tally)} | {swing(tally):.2f} |", flush=True)


def swing(tally: Tally) -> float:
    """Mean change of the locally served share from one bucket to the next, in points."""
    served = tally.series[:, 3] / tally.series[:, 5].clip(min=1.0)
    return float(100.0 * abs(served[1:] - served[:-1]).mean())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.policies", description=__doc__)
    parser.add_argument("what", choices=("grid", "beside", "robust"))
    parser.add_argument("--requests", type=int, default=40_000)
    parser.add_argument("--sites", nargs="+", default=SITES)
    parser.add_argument("--traces", nargs="+", default=NAMES)
    parser.add_argument("--loads", nargs="+", type=float, default=LOADS)
    parser.add_argument("--mix", default="heterogeneous")
    parser.add_argument("--policies", nargs="+", default=("bid-price", "overflow-queue", "overflow-kv"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--exact", action="store_true", help="by the exact engine, not the compiled one")
    options = parser.parse_args()
    {"grid": grid, "beside": beside, "robust": robust}[options.what](options)


if __name__ == "__main__":
    main()
