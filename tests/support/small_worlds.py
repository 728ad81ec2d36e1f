"""Small simulated sites: a site file as a dictionary, a trace made on the spot, and one run of one policy over both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scheduler.config import ClusterConfig
from scheduler.core.market import Policy
from scheduler.simulation.attempts import Journey
from scheduler.simulation.mix import Mix, Profile, resolve
from scheduler.simulation.policies import Rule, rule
from scheduler.simulation.scenario import EPOCH_S, Scenario, Window
from scheduler.simulation.site import site_of
from scheduler.simulation.tally import Tally
from scheduler.simulation.traces import Trace, trace_of
from scheduler.simulation.workload import Workload
from scheduler.simulation.world import Settings, World
from tests.support.sites import pool, provider, site

SAME = {"low": 0.97, "medium": 0.97, "high": 0.97}
# An H100 with a model of 8B, and an API (docs/service-curves.md).
H100 = {
    "prefill_tokens_per_s": 44_500, "itl_base_s": 0.0062, "itl_per_seq_s": 0.000081, "seqs_max": 256,
    "ttft_base_s": 0.045, "kv_tokens": 434_000,
}  # fmt: skip
API = {"prefill_tokens_per_s": 60_000, "itl_base_s": 0.012, "ttft_base_s": 0.35}
CLASSES = (
    {"name": "interactive", "ttft_s_max": 5.0, "usd_per_ttft_miss": 0.02, "usd_per_s_waiting": 1e-6},
    {"name": "batch", "ttft_s_max": 20.0, "usd_per_ttft_miss": 0.005, "usd_per_s_waiting": 0.0},
)


def own(name: str = "own", replicas: int = 1, **fields: Any) -> dict[str, Any]:
    """A pool of H100; ``chunk_tokens`` is vLLM's max_num_batched_tokens."""
    args = {"max_num_batched_tokens": fields.pop("chunk_tokens", 1024)}
    engine = {"kind": "vllm", "path": "/srv/models/small", "args": args}
    values: dict[str, Any] = {"curve": H100, "engine": engine, "replicas": {"min": replicas, "max": replicas}} | fields
    values = {"gate": {"waiting_max": 8192, "hold_s_max": 60}} | values
    return pool(name, **values)


def config(**sections: Any) -> ClusterConfig:
    """``tests.support.sites.site`` with quality alike everywhere, long contexts and deadlines that end nothing."""
    names = {p["model"] for p in sections["pools"]} | {m["model"] for p in sections["providers"] for m in p["models"]}
    classes = [{"deadline_s": 3e5, "usd_max": 1e6, **row} for row in sections.pop("service_classes", CLASSES)]
    document = site(
        models=[{"name": name, "context_tokens": 1 << 30, "quality": SAME} for name in sorted(names)],
        service_classes=classes,
        policy={"bounds": {"total_s_max": 1e6}, "price_ttl_s": 1e9},
        **sections,
    )
    document["tenants"][0]["service_classes"] = [row["name"] for row in classes]
    return ClusterConfig.model_validate(document)


def apis(**usd_per_mtok: float) -> list[dict[str, Any]]:
    """One provider for each model, input and output at that price; its latency is that of ``API``."""
    return [
        provider(name, model=name, price={"input": usd, "output": 4.0 * usd}, curve=API)
        for name, usd in usd_per_mtok.items()
    ]


@dataclass
class Played:
    """A finished run: its tally, the world, and every journey by the number of its request."""

    tally: Tally
    world: World
    journeys: dict[int, Journey] = field(default_factory=dict)

    def by_request(self, name: str) -> np.ndarray:
        """A column of the tally (``ttft_s``, ``api_usd``) by the request's number."""
        found = np.full(self.tally.requests, np.nan)
        found[self.tally.number] = getattr(self.tally, name)
        return found


class WatchedWorld(World):
    """A world that remembers its journeys."""

    seen: dict[int, Journey]

    def ended(self, journey: Journey, now_s: float) -> None:
        self.seen[int(journey.id)] = journey
        super().ended(journey, now_s)


def scenario(
    of: ClusterConfig,
    trace: Trace,
    profiles: tuple[dict[str, Any], ...] = (),
    policy: Policy | None = None,
    seed: int = 0,
) -> Scenario:
    """All of ``trace`` is judged; ``profiles`` as in a mix file, by default one of the tenant's first class and any model."""
    rows = [
        {"name": f"p{i}", "share": 1.0, "tenant": "t", "needs": ["chat"], **row}
        for i, row in enumerate(profiles or ({},))
    ]
    found: tuple[Profile, ...] = resolve(Mix.model_validate({"version": 1, "profiles": rows}), of)
    window = Window(0.0, trace.span_s)
    return Scenario(
        site_of(of, found, EPOCH_S),
        found,
        "request",
        trace,
        1.0,
        1.0,
        seed,
        Window(0.0, 0.0),
        window,
        policy or Policy(),
    )


def play(
    of: Scenario,
    by: Rule | str,
    settings: Settings | None = None,
    batch_requests: int = 50_000,
    kind: type[World] = WatchedWorld,
) -> Played:
    """One run. A rule that is tuned has to be given with its threshold."""
    chosen = rule(by) if isinstance(by, str) else by
    world = kind(of.site, of.profiles, chosen, of.policy, settings or Settings(), 0.0, of.judged.span_s)
    seen: dict[int, Journey] = {}
    if isinstance(world, WatchedWorld):
        world.seen = seen
    return Played(world.play(Workload(of.trace, of.profiles, of.seed, batch_requests=batch_requests)), world, seen)


def poisson(rng: np.random.Generator, per_s: float, inputs: np.ndarray, outputs: np.ndarray | int = 1) -> Trace:
    """Requests of these sizes that come one by one at random; the first at 0."""
    gaps_s = rng.exponential(1.0 / per_s, len(inputs))
    return trace_of("poisson", np.cumsum(gaps_s), inputs, np.broadcast_to(outputs, inputs.shape))
