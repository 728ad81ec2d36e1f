"""The meter's process: samples its node every few seconds and tells the controller, which answers with the replicas.

One a node: an actor where Ray places pools (``serving.pools_process``), a supervised role where pools are URLs. Without the
controller it goes on counting, so that the next report holds all that was drawn meanwhile; joules count from its start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

import msgspec

from pricing.meter import profiles
from pricing.meter.attribution import Replica
from pricing.meter.host import Host, HostSource
from pricing.meter.meter import Meter
from pricing.meter.nvml import Nvml
from pricing.meter.profiles import PowerProfile
from serving import control, logs
from serving.clock import now_s
from serving.control import MeterReplica
from serving.gate.wire import ReplicaInfo

if TYPE_CHECKING:
    from scheduler.config import ClusterConfig

log = logging.getLogger("baseload.meter")

_LOCATE_S = 60.0
_SETTINGS_ENV = "BASELOAD_METER"


class MeterSettings(msgspec.Struct, frozen=True):
    """What a meter needs of cluster.yaml. ``local``: URL replicas that may run on the meter's own machine."""

    controller: str
    token: str
    every_s: float
    profiles: dict[str, PowerProfile]
    local: tuple[MeterReplica, ...] = ()


def settings_of(config: ClusterConfig, token: str) -> MeterSettings:
    """Settings of every node's meter; ``local`` is for the one on the machine of the gates alone."""
    pools = {pool.name: profiles.of_pool(pool) for pool in config.pools}
    local = tuple(
        MeterReplica(pool.name, ReplicaInfo(f"{pool.name}-{i}", url))
        for pool in config.pools
        for i, url in enumerate(getattr(pool.engine, "urls", ()))
        if _is_loopback(url)
    )
    known = {name: profile for name, profile in pools.items() if profile is not None}
    return MeterSettings(control.url(config), token, config.prices.meter_every_s, known, local)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host == "localhost" or host == "::1" or host.startswith("127.")


class Locator:
    """Which of the announced replicas are on this node, and with what root process; URLs are found by who listens there."""

    def __init__(self, node: str, local: Sequence[MeterReplica], host: HostSource) -> None:
        self._node, self._local, self._host = node, local, host
        self._listeners: dict[int, int] = {}
        self._looked_s = float("-inf")

    def here(self, announced: Sequence[MeterReplica], now_s: float) -> list[Replica]:
        """Replicas of this node. A URL of this machine is here once a process is seen to listen on its port."""
        if self._local and now_s - self._looked_s >= _LOCATE_S:
            self._listeners, self._looked_s = self._host.listeners(), now_s
        found = [
            Replica(one.replica.id, one.pool, one.replica.gpus, one.replica.pid)
            for one in announced
            if one.replica.node == self._node
        ]
        names = {replica.id for replica in found}
        for one in self._local:
            pid = self._listeners.get(urlsplit(one.replica.url).port or 80, 0)
            if pid and one.replica.id not in names:
                found.append(Replica(one.replica.id, one.pool, (), pid))
        return found


async def run(settings: MeterSettings, node: str, nvml: Nvml | None = None, host: HostSource | None = None) -> None:
    """Sample and report for ever. Misses are not made up for: the next sample holds what they would have."""
    nvml, host = nvml or Nvml(), host or Host()
    meter, locator = Meter(nvml, host, settings.profiles, node), Locator(node, settings.local, host)
    announced: list[MeterReplica] = []
    problem = ""
    try:
        while True:
            started_s = time.monotonic()
            now = now_s()
            report = meter.sample(now, locator.here(announced, now))
            if report.problem != problem:
                problem = report.problem
                log.warning("meter", extra={"node": node, "problem": problem or "none any more"})
            answer = await asyncio.to_thread(
                control.tell, settings.controller, "meters", report, settings.token, list[MeterReplica]
            )
            announced = announced if answer is None else answer
            await asyncio.sleep(max(0.0, settings.every_s - (time.monotonic() - started_s)))
    finally:
        nvml.close()


def go_on_as_meter(settings: MeterSettings) -> NoReturn:
    """Become ``python -m serving.meter_process``: the libraries that read cluster.yaml stay behind (half of the memory).

    Process id, logs and the promise to die with the supervisor (prctl(2)) outlast it.
    """
    os.environ[_SETTINGS_ENV] = msgspec.json.encode(settings).decode()
    os.execv(sys.executable, [sys.executable, "-m", "serving.meter_process"])  # noqa: S606 - a list, and no shell


def main() -> None:
    """Run with the settings handed down until SIGTERM or SIGINT."""
    logs.configure()
    settings = msgspec.json.decode(os.environ[_SETTINGS_ENV], type=MeterSettings)

    async def until_told() -> None:
        task = asyncio.ensure_future(run(settings, socket.gethostname()))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(until_told())


class MeterActor:
    """The loop as a Ray actor. It is started by the constructor, which is all that Ray calls again after a restart."""

    def __init__(self, settings: MeterSettings, node: str) -> None:
        self._settings, self._node = settings, node
        threading.Thread(target=self._run, daemon=True, name="meter").start()

    def _run(self) -> None:
        try:
            asyncio.run(run(self._settings, self._node))
        except BaseException:
            log.exception("the meter has failed")
            os._exit(1)  # Ray then starts the actor anew; a thread alone would die unseen

    def pid(self) -> int:
        """Its process; answers once the actor is up."""
        return os.getpid()


if __name__ == "__main__":
    main()
