"""Small sites and traces to plan with: an example's site, and a few hours of which the second half is busy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from scheduler.config import ClusterConfig, load
from scheduler.core.market import Policy
from scheduler.planning.planner import Asked
from scheduler.simulation.mix import default_mix, resolve
from scheduler.simulation.scenario import Scenario, Window, scenario_of
from scheduler.simulation.traces import Trace, trace_of

ROOT = Path(__file__).resolve().parents[3]
SPAN_S = 4 * 3600.0


def site(directory: Path, **planning: object) -> ClusterConfig:
    """examples/h100-site.yaml with a section ``planning``."""
    text = yaml.safe_load((ROOT / "examples" / "h100-site.yaml").read_text())
    text["planning"] = {"scenarios": 8, **planning}
    path = directory / "cluster.yaml"
    path.write_text(yaml.safe_dump(text))
    return load(path)


def hours(requests: int = 4000, span_s: float = SPAN_S, seed: int = 0) -> Trace:
    """Requests over a span, three times as many a second in its second half as in its first."""
    rng = np.random.default_rng(seed)
    late = rng.random(requests) < 0.75
    at_s = np.sort(np.where(late, 0.5 + 0.5 * rng.random(requests), 0.5 * rng.random(requests)) * span_s)
    inputs = np.clip(rng.lognormal(6.5, 1.0, requests), 8, 20_000).astype(int)
    outputs = np.clip(rng.lognormal(4.5, 0.8, requests), 1, 2_000).astype(int)
    return trace_of("hours", at_s, inputs, outputs)


def scenario(config: ClusterConfig, trace: Trace, load_factor: float = 1.0) -> Scenario:
    """The trace at this load of the site's pools, each tenant in equal shares."""
    mix = default_mix(config)
    made = scenario_of(config, resolve(mix, config), mix.assign_by, trace, load_factor, Policy())
    return replace(made, shift_s_max=300.0)


def asked(directory: Path, **planning: object) -> Asked:
    """A plan that takes a second or two."""
    config = site(directory, **planning)
    made = scenario(config, hours())
    return Asked(config, made, Window(0.0, SPAN_S), played_requests=20_000, exact_requests=300)
