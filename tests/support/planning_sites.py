"""The fleet of examples/h100-fleet.yaml with candidates, and small traces of it, for tests of what a plan reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from scheduler.config import ClusterConfig
from scheduler.core.market import Policy
from scheduler.planning.requests import Requests, requests_of
from scheduler.planning.technologies import technologies_of
from scheduler.simulation.mix import load_mix, resolve
from scheduler.simulation.scenario import EPOCH_S, Scenario, Window, scenario_of
from scheduler.simulation.traces import Trace, trace_of

ROOT = Path(__file__).resolve().parents[2]
ENERGY = {"joules_per_input_token": 0.02, "joules_per_output_token": 0.05, "label": "modelled"}
SMALL_GPU: dict[str, Any] = {
    "name": "small-gpu", "pool": "llama-8b", "zone": "on-prem", "gpus_per_replica": 1, "energy": ENERGY,
    "curve": {
        "prefill_tokens_per_s": 9_000, "itl_base_s": 0.014, "itl_per_seq_s": 0.0003, "seqs_max": 16,
        "ttft_base_s": 0.06, "kv_tokens": 90_000,
    },
    "rental": {
        "gpu": "L40S", "usd_per_hour": 0.9, "availability": 0.8, "restart_share": 0.05,
        "interruptions_per_hour": 0.1, "usd_lost_per_interruption": 1.5,
    },
}  # fmt: skip
BIG_GPU: dict[str, Any] = {
    "name": "big-gpu", "pool": "qwen-32b", "zone": "on-prem", "gpus_per_replica": 1, "energy": ENERGY,
    "reserved_usd_per_hour": 2.5, "replicas_max": 7,
    "curve": {
        "prefill_tokens_per_s": 30_000, "itl_base_s": 0.012, "itl_per_seq_s": 0.0002, "seqs_max": 128,
        "ttft_base_s": 0.06, "kv_tokens": 800_000,
    },
}  # fmt: skip


def document() -> dict[str, Any]:
    """The site file as a dictionary, to be bent."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "h100-fleet.yaml").read_text())
    return found


def fleet(*candidates: dict[str, Any], **planning: Any) -> ClusterConfig:
    """Three pools, and candidates beside them."""
    return ClusterConfig.model_validate(document() | {"planning": {"candidates": list(candidates), **planning}})


def trace(requests: int = 1_500, span_s: float = 7_200.0, seed: int = 0) -> Trace:
    """Requests of all sizes, one in fifty a book of up to 150,000 tokens; three in four in the second half."""
    rng = np.random.default_rng(seed)
    late = rng.random(requests) < 0.75
    at_s = np.sort(np.where(late, 0.5 + 0.5 * rng.random(requests), 0.5 * rng.random(requests)) * span_s)
    inputs = np.clip(rng.lognormal(6.5, 1.3, requests), 1, 30_000)
    inputs = np.where(rng.random(requests) < 0.02, rng.uniform(50_000, 150_000, requests), inputs)
    inputs[7::100] = 131_071  # just what the context of the smallest model takes
    return trace_of(
        "made up", at_s, inputs.astype(int), np.clip(rng.lognormal(4.5, 1.0, requests), 1, 4_000).astype(int)
    )


def scenario(config: ClusterConfig, of: Trace | None = None, copies: float = 1.0, seed: int = 0) -> Scenario:
    """Copies of a trace with the tasks of examples/mix-heterogeneous.yaml."""
    profiles = resolve(load_mix(ROOT / "examples" / "mix-heterogeneous.yaml"), config)
    made = scenario_of(config, profiles, "request", of or trace(), 1.0, Policy(), seed)
    return replace(made, copies=copies, shift_s_max=600.0)


def window(of: Scenario) -> Window:
    """All of its trace."""
    return Window(0.0, of.trace.span_s)


def priced(config: ClusterConfig, of: Scenario | None = None, **options: Any) -> Requests:
    """Every request as a plan sees it."""
    of = of or scenario(config)
    return requests_of(of, config, technologies_of(config, EPOCH_S), window(of), **options)
