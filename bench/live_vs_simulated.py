"""The simulator against the real stack: the same requests twice live, on the embedded model, and once simulated.

``python -m bench.live_vs_simulated [--trace FILE] [--json]``: starts ``baseload serve`` with real vLLM, calibrates its curve,
starts it again with that curve, and replays. A figure of the simulator is within the bar if it is off by at most a tenth of
the mean of the live runs, or by at most what those differ from each other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from bench.replayed import API_JITTER, WARM_S, Run, Served, compared, simulated, synthetic
from scheduler.config import ClusterConfig, load
from scheduler.core.supply import ServiceCurve, Usage
from serving.replay.plan import Given, Plan, make
from serving.replay.play import play
from tests.e2e.stack import KEY, ROOT, Stack, embedded, free_port, running

LOAD = 1.2
SLOTS = 4  # few: the load generator and the gateway share the machine with the engine
JUDGED_S = 90.0
_PAUSE_S = 15.0
_TRACE = ROOT.parent / "shared" / "data" / "traces" / "servegen_mlarge_week1_sampled.csv.gz"
_MIX = """
version: 1
profiles:
  - {name: chat, share: 85, tenant: demo, service_class: interactive, difficulty: 0.0}
  - {name: private, share: 15, tenant: demo, service_class: interactive, difficulty: 0.0, labels: [restricted]}
"""


def site_text(directory: Path, curve: dict[str, float] | None, provider_port: int) -> str:
    """The embedded site with a few slots, a provider that behaves as its curve says, and the calibrated curve."""
    site = yaml.safe_load(embedded(directory, provider_port))
    pool, provider = site["pools"][0], site["providers"][0]
    pool["engine"]["args"]["max_num_seqs"] = pool["curve"]["seqs_max"] = SLOTS
    pool["curve"] |= curve or {}
    provider["simulated"] |= {"port": provider_port, "ttft_s": 0.3, "tokens_per_s": 80}
    provider["models"][0]["curve"] = {"prefill_tokens_per_s": 1e6, "itl_base_s": 0.0125, "ttft_base_s": 0.3}
    return yaml.safe_dump(site)


def calibrated(stack: Stack, seconds_per_step: float) -> dict[str, Any]:
    """What ``baseload calibrate`` finds."""
    command = [
        sys.executable,
        "-m",
        "serving.cli",
        "calibrate",
        "tiny",
        "--config",
        str(stack.directory / "cluster.yaml"),
    ]
    command += ["--url", stack.url, "--seconds-per-step", str(seconds_per_step), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise RuntimeError(f"calibrate ended with {done.returncode}: {done.stderr[-2000:]} {done.stdout[-2000:]}")
    return dict(json.loads(done.stdout))


def planned(trace: Path, directory: Path, config: ClusterConfig, url: str, curve: ServiceCurve) -> Plan:
    """Two minutes of the trace, fitted to a context of 512 tokens, so fast that they are ``LOAD`` of the pool's work."""
    mix = directory / "mix.yaml"
    mix.write_text(_MIX)
    given = Given(
        trace, directory / "cluster.yaml", url, KEY, mix, seconds=3600.0, input_scale=0.1, output_scale=0.2,
        input_tokens_max=300, output_tokens_max=120, seed=1,
    )  # fmt: skip
    plan = make(given, config, os.environ)
    work_s = sum(curve.work_s(Usage(r.input_tokens, 0, r.output_tokens)) for r in plan.requests)
    speed = LOAD * given.seconds / work_s
    return make(replace(given, seconds=speed * (WARM_S + JUDGED_S), speed=speed), config, os.environ)


@contextmanager
def _others(stack: Stack) -> Iterator[list[float]]:
    """Cores that are busy with what is not ours, in the mean over the time inside."""
    found: list[float] = []
    before, began_s = _cpu_s(stack), time.monotonic()
    yield found
    whole, ours = (after - b for after, b in zip(_cpu_s(stack), before, strict=True))
    found.append(max(0.0, whole - ours) / (time.monotonic() - began_s))


def _cpu_s(stack: Stack) -> tuple[float, float]:
    """CPU seconds since boot of everything, and of the stack with this program."""
    times = psutil.cpu_times()
    ours = 0.0
    for process in (psutil.Process(), *psutil.Process(stack.process.pid).children(recursive=True)):
        used = process.cpu_times()
        ours += used.user + used.system
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice, ours


def live(plan: Plan, stack: Stack) -> Run:
    """Play the plan against the stack."""
    with _others(stack) as others:
        played = asyncio.run(play(plan, stack.url, lambda: lambda done: None))
    served = tuple(
        Served(row.planned_s, row.source == "api", row.ttft_s, row.tpot_s)
        for row in played.rows
        if row.served and row.ttft_s is not None
    )
    return Run(served, len(played.rows) - len(served), others[0])


def run(trace: Path | None = None, seconds_per_step: float = 4.0, say: Any = None) -> dict[str, dict[str, float]]:
    """All of it, in about seven minutes."""
    tell = say or (lambda text: None)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (first := directory / "first").mkdir()
        with running(first, site_text(first, None, free_port())) as stack, _others(stack) as others:
            found = calibrated(stack, seconds_per_step)
        tell(f"calibrated: {found['curve']}; other work took {others[0]:.2f} cores; {found['warnings']}")
        source = trace or (_TRACE if _TRACE.exists() else synthetic(directory / "trace.csv"))
        (second := directory / "second").mkdir()
        port = free_port()
        with running(second, site_text(second, found["curve"], port)) as stack:
            replace(stack, provider_port=port).provider(jitter=API_JITTER)
            config = load(second / "cluster.yaml")
            plan = planned(source, second, config, stack.url, ServiceCurve(**found["curve"]))
            tell(f"{source.name}: {len(plan.requests)} requests in {plan.seconds:.0f} s")
            model = simulated(plan, config)
            tell(f"simulated: {model.figures()}, {model.failed} failed")
            runs = []
            for number in (1, 2):
                runs.append(live(plan, stack))
                tell(f"live {number}: {runs[-1].failed} failed, other work took {runs[-1].others_cpu:.2f} cores")
                time.sleep(_PAUSE_S)
    return compared(runs[0], runs[1], model)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.live_vs_simulated", description=__doc__)
    parser.add_argument("--trace", type=Path, help="default: ServeGen m-large of ../shared/data, else a synthetic one")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(arguments)
    rows = run(options.trace, say=lambda text: print(text, file=sys.stderr, flush=True))
    if options.json:
        print(json.dumps(rows))
        return
    print("| | live 1 | live 2 | simulated | difference | live spread | within |\n|---|---:|---:|---:|---:|---:|---|")
    for name, row in rows.items():
        *values, off, spread, within = row.values()
        cells = " | ".join(f"{value:.1f}" for value in values)
        print(f"| {name} | {cells} | {off:+.1f} % | {spread:.1f} % | {'yes' if within else 'no'} |")


if __name__ == "__main__":
    main()
