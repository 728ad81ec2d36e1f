"""How fast the simulator is: requests per second of the exact engine and of the compiled kernel, and what bounds the former.

The loads are made on the spot, with the sizes of code, chat and long documents on the site of ``examples/h100-site.yaml``.
Solving bid prices is measured apart: it is the same code in both. Of the kernel's runs the quickest counts: they do the same.
"""

from __future__ import annotations

import cProfile
import math
import pstats
import time
from pathlib import Path

import numpy as np

from scheduler.config import load
from scheduler.core.market import Policy
from scheduler.simulation.kernel import KernelSettings, play
from scheduler.simulation.mix import load_mix, resolve
from scheduler.simulation.policies import rule
from scheduler.simulation.scenario import Scenario, scenario_of
from scheduler.simulation.traces import Trace, trace_of
from scheduler.simulation.workload import Batch
from scheduler.simulation.world import Settings, World

_EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
# Mean input and output tokens, about those of the Azure code, ServeGen chat and Mooncake conversation traces.
_SIZES = {"code": (2000.0, 28.0), "chat": (600.0, 260.0), "long": (12_000.0, 340.0)}
_RULES = (("bid-price", math.nan), ("overflow-queue", 0.5), ("static-price", 2e-3))
_REQUESTS, _REQUESTS_EXACT = 600_000, 10_000
_LOADS, _REPEATS = (0.8, 1.2, 2.0), 3
_LOAD, _SEED, _TOP = 1.2, 3, 12


def trace(name: str, count: int) -> Trace:
    """Requests whose rate goes up and down by half within an hour, with long-tailed sizes; only its shape matters."""
    rng = np.random.default_rng(_SEED)
    phase = rng.uniform(0.0, 1.0, count)
    at_s = np.sort(count / 100.0 * (phase + 0.05 * np.sin(phase * 2.0 * np.pi)))
    inputs, outputs = (np.maximum(1, mean * rng.lognormal(-0.32, 0.8, count)).astype(np.int32) for mean in _SIZES[name])
    return trace_of(name, at_s - at_s[0], inputs, outputs)


def case(name: str, count: int, load_factor: float = _LOAD) -> Scenario:
    """``count`` requests or so of that kind at that many times what the site can do; all of them are tuned on or judged."""
    config = load(_EXAMPLES / "h100-site.yaml")
    mix = load_mix(_EXAMPLES / "mix-heterogeneous.yaml")
    made = trace(name, count)
    return scenario_of(config, resolve(mix, config), mix.assign_by, made, load_factor, Policy(), _SEED, count)


def run() -> dict[str, dict[str, float]]:
    """{"kernel, code at 1.2, bid-price": {"kreq_per_s": ..., "solve_ms": ..., "solves": ...}, "exact, ...": {...}, ...}.

    CPU seconds, of one core. ``solve_ms`` is one solution of all bid curves. The rows "exact spends on ..." are shares of the
    exact engine's time in the functions that take most of it, under the profiler.
    """
    results = {}
    play(case("code", 1000), "bid-price")  # compile
    for name in _SIZES:
        for load_factor in _LOADS:
            of = case(name, _REQUESTS, load_factor)
            batches = list(of.batches(of.judged))
            for by, threshold in _RULES:
                runs = [_kernel(of, by, threshold, batches) for _ in range(_REPEATS)]
                results[f"kernel, {name} at {load_factor}, {by}"] = max(runs, key=lambda run: run["kreq_per_s"])
    for name in _SIZES:
        results[f"exact, {name}, bid-price"] = {"kreq_per_s": _exact(case(name, _REQUESTS_EXACT)) / 1e3}
    return results | _profile(case("code", _REQUESTS_EXACT))


def _kernel(of: Scenario, by: str, threshold: float, batches: list[Batch]) -> dict[str, float]:
    began = time.process_time()
    tally = play(of, by, threshold, settings=KernelSettings(gateways=4), batches=batches, watch=time.process_time)
    took_s = time.process_time() - began - tally.solve_s
    return {
        "kreq_per_s": sum(map(len, batches)) / took_s / 1e3,
        "solve_ms": 1e3 * tally.solve_s / max(1, tally.solves),
        "solves": float(tally.solves),
    }


def _exact(of: Scenario) -> float:
    """Requests per CPU second of the exact engine, bid prices included."""
    batches = list(of.batches(of.judged))
    world = _world(of)
    began = time.process_time()
    tally = world.play(batches)
    return tally.requests / (time.process_time() - began)


def _world(of: Scenario) -> World:
    by = rule("bid-price")
    return World(of.site, of.profiles, by, of.policy, Settings(gateways=4), of.judged.start_s, of.judged.span_s)


def _profile(of: Scenario) -> dict[str, dict[str, float]]:
    batches, world, profiler = list(of.batches(of.judged)), _world(of), cProfile.Profile()
    profiler.runcall(world.play, batches)
    rows = pstats.Stats(profiler).stats.items()  # type: ignore[attr-defined]
    total_s = sum(row[2] for _, row in rows)
    top = sorted(rows, key=lambda item: -item[1][2])[:_TOP]
    return {
        f"exact spends on {Path(path).stem}.{function}"[:60]: {
            "own_pct": 100.0 * row[2] / total_s,
            "calls": float(row[1]),
        }
        for (path, _, function), row in top
    }
