"""A controller with fake replicas, gates and gateways around it, told of each other by hand, second by second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from scheduler.config import ClusterConfig
from serving.control import Announcement, Desired, MarketRequest, Scaled, Wanted
from serving.controller import Controller
from serving.gate.wire import EngineStats, GateReport, ReplicaInfo
from serving.view import Published
from tests.support.sites import pool, provider, site

NOW_S = 1_000_000.0
START_S, HOLD_S = 30.0, 120.0
USD_PER_S = 0.001  # of a replica: 3.6 USD an hour of rent, no idle power
VLLM = {"kind": "vllm", "path": "weights"}


class Clock:
    """For ``serving.controller.now_s``."""

    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


def rented(name: str = "own", least: int = 1, most: int = 4, **fields: Any) -> dict[str, Any]:
    """A pool of vLLM on rented hardware."""
    values = {
        "engine": VLLM,
        "replicas": {"min": least, "max": most},
        "start_s": START_S,
        "hardware": None,
        "rental": {"gpu": "g", "usd_per_hour": 3600.0 * USD_PER_S},
    }
    return pool(name, **(values | fields))


def config_of(mode: str, *pools: dict[str, Any], every_s: float = 10.0, **policy: Any) -> ClusterConfig:
    """The pools, and an API for the same model."""
    commitment = {"mode": mode, "every_s": every_s, "hold_s": HOLD_S, "down_after_s": 30.0, **policy}
    providers = [provider("cloud", model="small")]
    return ClusterConfig.model_validate(
        site(pools=list(pools) or [rented()], providers=providers, policy={"commitment": commitment})
    )


def line(end: str, work_s: float = 0.5, usd_per_s: float = 0.01, weight: float = 1.0) -> Wanted:
    """A request that displaces ten times what a replica costs meanwhile."""
    return Wanted(work_s * usd_per_s, work_s, 5.0, weight, end)


class LiveTown:
    """``there``: how many replicas of each pool have announced themselves and answer their gate."""

    def __init__(self, clock: Clock, config: ClusterConfig, **there: int) -> None:
        self.clock, self.config, self.there = clock, config, {pool.name: 1 for pool in config.pools} | there
        self.set_to: dict[str, int] = {}  # what whoever deploys pools has set; it is not there until it is given one
        self.controller = Controller(config, "token", True)
        self.answers: list[dict[str, int]] = []

    def restart(self) -> None:
        """The controller, not the rest."""
        self.controller = Controller(self.config, "token", False)

    def seconds(self, count: int, wanted: Mapping[str, Sequence[Wanted]] | None = None) -> None:
        """So many seconds, each with these lines of a gateway."""
        for _ in range(count):
            self.clock.now_s += 1.0
            self._report()
            body = msgspec.json.encode(MarketRequest("g", NOW_S, {}, {}, dict(wanted or {})))
            self.published = msgspec.json.decode(msgspec.json.encode(self.controller._market(body)), type=Published)
            self.controller.clear_once()
            if self.set_to:
                self.follow()

    def follow(self) -> None:
        """As ``Scaler``, whose replicas come and go at once unless a test holds them back."""
        answer = self.controller._scale(msgspec.json.encode(Scaled(dict(self.set_to))))
        desired = msgspec.json.decode(msgspec.json.encode(answer), type=Desired).replicas
        self.answers.append(desired)
        self.set_to |= desired

    def arrive(self) -> None:
        """Everything that was asked for is there."""
        self.there |= self.set_to

    def _report(self) -> None:
        for name, replicas in self.there.items():
            for i in range(replicas):
                message = Announcement(name, ReplicaInfo(f"{name}-{i}", f"http://{name}-{i}"))
                self.controller._replica(msgspec.json.encode(message))
            report = GateReport(
                name, f"http://gate-{name}", True, replicas, 8 * replicas, 0, 0, 1.0, EngineStats(),
                levels=((5.0, 0.0, 0.0),) if replicas else (),
            )  # fmt: skip
            self.controller._gate(msgspec.json.encode(report))

    @property
    def report(self) -> dict[str, Any]:
        """What people see."""
        return self.controller._commitment.report(self.clock())

    def desired(self, name: str = "own") -> int:
        """As gateways are told."""
        return self.published.fleet.desired[name]
