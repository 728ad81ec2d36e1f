"""The simulator against the real stack: the same requests twice live, on the embedded model, and once simulated.

``python -m bench.live_vs_simulated [--trace FILE] [--json]``: starts ``baseload serve`` with real vLLM, fits its curve to
replays of one part of the trace, starts it again with that curve, and replays a later part. A figure of the simulator is
within the bar if it is off by at most a tenth of the mean of the live runs, or by at most what those differ from each other.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import uvloop
import yaml

from bench.replayed import API_JITTER, TOKENS_MIN, WARM_S, Run, Served, compared, fitted, simulated, synthetic
from scheduler.config import load
from scheduler.core.supply import Usage
from scheduler.simulation.scenario import EPOCH_S
from scheduler.simulation.site import site_of
from serving.replay.plan import Given, Plan, make
from serving.replay.play import Row, play
from tests.e2e.stack import KEY, ROOT, Stack, embedded, free_port, running

LOAD = 1.2
SLOTS = 8
# Deep enough that the engine, and not the gateway and load generator beside it, is what requests wait for. Random weights.
_DEEPER = {
    "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 16, "layer_types": ["full_attention"] * 16,
    "num_attention_heads": 16, "num_key_value_heads": 8,
}  # fmt: skip
JUDGED_S = 150.0
# Seconds and load of what the curve is fitted to: prompts that find an idle engine, and as many sequences as it ever runs.
_FITTED = ((60.0, 0.2), (90.0, LOAD))
# On the clock of the trace, after the part that the curve is fitted to.
_JUDGED_FROM_S = 3600.0
_PAUSE_S = 10.0
_QUIET_CORES, _QUIET_S_MAX = 0.3, 90.0
_TRACE = ROOT.parent / "shared" / "data" / "traces" / "servegen_mlarge_week1_sampled.csv.gz"
_MIX = """
version: 1
profiles:
  - {name: chat, share: 85, tenant: demo, service_class: interactive, difficulty: 0.0}
  - {name: private, share: 15, tenant: demo, service_class: interactive, difficulty: 0.0, labels: [restricted]}
"""


def site_text(directory: Path, curve: dict[str, float], provider_port: int) -> str:
    """The embedded site with a few slots, a provider that behaves as its curve says, and the fitted curve."""
    site = yaml.safe_load(embedded(directory, provider_port))
    pool, provider = site["pools"][0], site["providers"][0]
    pool["engine"]["args"] |= {"max_num_seqs": SLOTS, "load_format": "dummy", "hf_overrides": _DEEPER}
    pool["curve"] |= {"seqs_max": SLOTS, "itl_base_s": 0.012, "itl_per_seq_s": 0.002, "prefill_tokens_per_s": 1300}
    pool["curve"] |= curve
    provider["simulated"] |= {"port": provider_port, "ttft_s": 0.3, "tokens_per_s": 80}
    provider["models"][0]["curve"] = {"prefill_tokens_per_s": 1e6, "itl_base_s": 0.0125, "ttft_base_s": 0.3}
    return yaml.safe_dump(site)


def planned(trace: Path, stack: Stack, from_s: float, seconds: float, load_factor: float) -> Plan:
    """A part of the trace, fitted to 512 tokens of context, so fast that it would hold ``load_factor`` of the slots."""
    mix, site = stack.directory / "mix.yaml", stack.directory / "cluster.yaml"
    mix.write_text(_MIX)
    config = load(site)
    curve = site_of(config, (), EPOCH_S).pools[0].curve
    given = Given(
        trace, site, stack.url, KEY, mix, from_s, 3600.0, input_scale=0.2, output_scale=0.2, input_tokens_max=300,
        output_tokens_max=120, concurrency_max=400, seed=1,
    )  # fmt: skip
    plan = make(given, config, os.environ)
    held_s = sum(curve.service_s(Usage(r.input_tokens, 0, r.output_tokens), curve.seqs_max) for r in plan.requests)
    speed = load_factor * given.seconds * curve.seqs_max / held_s
    return make(replace(given, seconds=speed * seconds, speed=speed), config, os.environ)


@contextmanager
def _others(stack: Stack) -> Iterator[list[float]]:
    """Cores that are busy with what is not ours, in the mean over the time inside."""
    found: list[float] = []
    before, began_s = _cpu_s(stack), time.monotonic()
    yield found
    whole, ours = (after - b for after, b in zip(_cpu_s(stack), before, strict=True))
    found.append(max(0.0, whole - ours) / (time.monotonic() - began_s))


def _quiet(stack: Stack) -> None:
    """Wait until little else runs on this machine, but not for ever."""
    until_s = time.monotonic() + _QUIET_S_MAX
    while time.monotonic() < until_s:
        with _others(stack) as others:
            time.sleep(3.0)
        if others[0] < _QUIET_CORES:
            return


def _cpu_s(stack: Stack) -> tuple[float, float]:
    """CPU seconds since boot of everything, and of the stack with this program."""
    times = psutil.cpu_times()
    ours = 0.0
    for process in (psutil.Process(), *psutil.Process(stack.process.pid).children(recursive=True)):
        used = process.cpu_times()
        ours += used.user + used.system
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice, ours


def live(plan: Plan, stack: Stack) -> tuple[Run, list[Row]]:
    """Play the plan against the stack, when little else runs."""
    _quiet(stack)
    with _others(stack) as others:
        played = uvloop.run(play(plan, stack.url, lambda: lambda done: None))
    if played.interrupted:
        raise KeyboardInterrupt
    served = tuple(
        Served(row.planned_s, row.source == "api", row.ttft_s, row.tpot_s if row.output_tokens >= TOKENS_MIN else None)
        for row in played.rows
        if row.served and row.ttft_s is not None
    )
    return Run(served, len(played.rows) - len(served), others[0]), played.rows


def run(trace: Path | None = None, say: Callable[[str], None] = lambda text: None) -> dict[str, dict[str, float]]:
    """All of it, in about ten minutes."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        source = trace or (_TRACE if _TRACE.exists() else synthetic(directory / "trace.csv"))
        (first := directory / "first").mkdir()
        with running(first, site_text(first, {}, free_port())) as stack:
            parts = [live(planned(source, stack, 0.0, *part), stack) for part in _FITTED]
        curve = fitted(*(rows for _, rows in parts))
        say(
            f"fitted to {sum(len(rows) for _, rows in parts)} requests of {source.name}: {curve}; other work took "
            f"{max(part.others_cpu for part, _ in parts):.2f} cores"
        )
        (second := directory / "second").mkdir()
        port = free_port()
        with running(second, site_text(second, curve, port)) as stack:
            replace(stack, provider_port=port).provider(jitter=API_JITTER)
            plan = planned(source, stack, _JUDGED_FROM_S, WARM_S + JUDGED_S, LOAD)
            runs = []
            for number in (1, 2):
                runs.append(live(plan, stack)[0])
                say(
                    f"live {number}: {len(plan.requests)} requests in {plan.seconds:.0f} s, {runs[-1].failed} failed; other "
                    f"work took {runs[-1].others_cpu:.2f} cores; {100.0 * runs[-1].in_one_piece:.0f} % of the pool's answers "
                    "came in one piece (more than a few: this machine was too busy to measure anything)"
                )
                time.sleep(_PAUSE_S)
            model = simulated(plan, load(second / "cluster.yaml"))
            say(f"simulated: {model.failed} failed")
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
