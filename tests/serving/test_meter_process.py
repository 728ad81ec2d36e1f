"""The meter's loop against a controller's double: it reports, is told who runs where, and outlives the controller."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import yaml
from aiohttp import web

from pricing.meter.double import DoubleBoard, DoubleHost, DoubleLibrary
from pricing.meter.host import Process
from pricing.meter.nvml import Nvml, uuids
from pricing.meter.profiles import PowerProfile
from pricing.meter.readings import MeterReport
from scheduler.config import ClusterConfig, ConfigError, load
from serving import meter_process
from serving.control import MeterReplica
from serving.gate.wire import ReplicaInfo
from serving.meter_process import Locator, MeterSettings, settings_of
from tests.support import sites

TOKEN = "token-of-the-tests"
ROOT = Path(__file__).resolve().parents[2]


class Controller:
    """Takes meter reports and answers with ``replicas``; ``status`` and ``body`` make it answer otherwise."""

    def __init__(self) -> None:
        self.reports: list[MeterReport] = []
        self.replicas: list[MeterReplica] = []
        self.status, self.body = 200, b""
        self.url, self._runner = "", None

    async def __aenter__(self) -> Controller:
        app = web.Application()
        app.router.add_post("/meters", self._take)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", int(self.url.rpartition(":")[2] or 0), reuse_address=True)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        self.reports.append(msgspec.json.decode(await request.read(), type=MeterReport))
        return web.Response(status=self.status, body=self.body or msgspec.json.encode(self.replicas))

    async def heard(self, count: int) -> MeterReport:
        """Wait for ``count`` further reports; the last of them."""
        wanted = len(self.reports) + count
        while len(self.reports) < wanted:
            await asyncio.sleep(0.005)
        return self.reports[-1]


def settings(url: str, *local: MeterReplica) -> MeterSettings:
    return MeterSettings(url, TOKEN, 0.02, {"tiny": PowerProfile(3.0, 11.0, 1.0)}, local)


def metering(
    test: Callable[[Controller, DoubleLibrary, asyncio.Task[None]], Awaitable[None]], *local: MeterReplica
) -> None:
    """Run ``test`` beside a loop on node-1, which has one board and no RAPL."""

    async def main() -> None:
        async with Controller() as controller:
            library = DoubleLibrary([DoubleBoard("GPU-a", watts=200.0)])
            host = DoubleHost(table={40: Process(1, 0.0, 0.0)}, ports={8000: 40})
            loop = asyncio.create_task(
                meter_process.run(settings(controller.url, *local), "node-1", Nvml(library), host)
            )
            try:
                await test(controller, library, loop)
            finally:
                loop.cancel()
                await asyncio.gather(loop, return_exceptions=True)

    run(main())


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


def test_the_meter_reports_what_its_node_draws_and_learns_who_is_on_it() -> None:
    async def test(controller: Controller, library: DoubleLibrary, loop: asyncio.Task[None]) -> None:
        first = await controller.heard(1)
        assert (first.node, [gpu.joules for gpu in first.gpus], first.replicas) == ("node-1", [0.0], ())
        controller.replicas = [
            MeterReplica("big", ReplicaInfo("r1", "http://a", "node-1", 7, ("GPU-a",))),
            MeterReplica("big", ReplicaInfo("r2", "http://b", "node-2", 7, ("GPU-a",))),
        ]
        library.run(0.01)
        report = await controller.heard(3)
        assert [(one.replica, one.pool) for one in report.replicas] == [("r1", "big")]
        assert report.started_s == first.started_s < report.at_s

    metering(test)


@pytest.mark.parametrize(
    ("status", "body"), [(500, b""), (401, b""), (200, b"not json"), (200, b'[{"pool": 3}]'), (200, b"{}")]
)
def test_a_controller_that_answers_nonsense_is_heard_no_further_and_reported_to_all_the_same(
    status: int, body: bytes
) -> None:
    async def test(controller: Controller, library: DoubleLibrary, loop: asyncio.Task[None]) -> None:
        controller.replicas = [MeterReplica("big", ReplicaInfo("r1", "u", "node-1", 7, ("GPU-a",)))]
        await controller.heard(2)
        controller.status, controller.body = status, body
        report = await controller.heard(3)
        assert [one.replica for one in report.replicas] == ["r1"]
        assert not loop.done()

    metering(test)


def test_while_the_controller_is_away_the_meter_counts_on() -> None:
    async def test(controller: Controller, library: DoubleLibrary, loop: asyncio.Task[None]) -> None:
        controller.replicas = [MeterReplica("big", ReplicaInfo("r1", "u", "node-1", 7, ("GPU-a",)))]
        before = await controller.heard(3)
        await controller.__aexit__()
        for _ in range(20):
            library.run(0.01)
            await asyncio.sleep(0.01)
        assert not loop.done()
        await controller.__aenter__()
        after = await controller.heard(2)
        assert after.started_s == before.started_s
        assert after.gpus[0].joules - before.gpus[0].joules == pytest.approx(40.0, rel=0.1)
        assert [one.replica for one in after.replicas] == ["r1"]

    metering(test)


def test_a_server_on_this_machine_is_known_by_the_port_it_listens_on() -> None:
    async def test(controller: Controller, library: DoubleLibrary, loop: asyncio.Task[None]) -> None:
        library.boards[0].processes = {40: 5}
        report = await controller.heard(3)
        assert [(one.replica, one.how) for one in report.replicas] == [("own-0", "NVML energy counter")]

    local = MeterReplica("own", ReplicaInfo("own-0", "http://127.0.0.1:8000"))
    metering(test, local, MeterReplica("own", ReplicaInfo("own-1", "http://127.0.0.1:8001")))


def test_listeners_are_looked_for_once_a_minute_and_only_where_urls_are_local() -> None:
    class Counting(DoubleHost):
        looked = 0

        def listeners(self) -> dict[int, int]:
            self.looked += 1
            return {8000: 40}

    host = Counting()
    Locator("n", (), host).here((), 0.0)
    assert host.looked == 0
    locator = Locator("n", [MeterReplica("p", ReplicaInfo("p-0", "http://localhost:8000"))], host)
    for at_s in range(0, 130, 5):
        assert [replica.pid for replica in locator.here((), float(at_s))] == [40]
    assert host.looked == 3


def test_this_machine_finds_who_listens_on_a_port() -> None:
    from pricing.meter.host import Host

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert Host().listeners().get(listener.getsockname()[1]) == os.getpid()


def config(directory: Path, **sections: Any) -> tuple[ClusterConfig, Path]:
    path = directory / "cluster.yaml"
    path.write_text(yaml.safe_dump(sites.site(**sections)))
    return load(str(path)), path


def test_settings_are_the_pools_power_and_the_urls_of_this_machine(tmp_path: Path) -> None:
    hardware = {"gpu": "g", "purchase_price_usd": 1, "amortization_years": 4, "idle_watts": 70, "tdp_watts": 700}
    engine = {"kind": "url", "urls": ["http://127.0.0.1:8000", "http://elsewhere.test:8000", "http://localhost:8001"]}
    pools = [sites.pool("one", hardware=hardware, engine=engine), sites.pool("two")]
    made = settings_of(config(tmp_path, pools=pools, prices={"meter_every_s": 7.0})[0], TOKEN)
    assert made.every_s == 7.0
    assert made.profiles == {"one": PowerProfile(70.0, 700.0)}
    assert [(one.pool, one.replica.id) for one in made.local] == [("one", "one-0"), ("one", "one-2")]
    assert msgspec.json.decode(msgspec.json.encode(made), type=MeterSettings) == made


@pytest.mark.parametrize(("every_s", "taken"), [(15.0, True), (15.5, False), (60.0, False)])
def test_a_meter_reports_several_times_in_a_window_of_power(tmp_path: Path, every_s: float, taken: bool) -> None:
    if taken:
        assert config(tmp_path, prices={"meter_every_s": every_s})[0].prices.meter_every_s == every_s
    else:
        with pytest.raises(ConfigError, match="meter_every_s"):
            config(tmp_path, prices={"meter_every_s": every_s})


def test_gpus_are_announced_by_uuid_and_by_number_where_no_driver_answers() -> None:
    library = DoubleLibrary([DoubleBoard("GPU-a"), DoubleBoard("GPU-b")])
    assert uuids([1, "0", "MIG-x", 9], library) == ("GPU-b", "GPU-a", "MIG-x", "9")
    library.driver = 9
    assert uuids([1, "GPU-z"], library) == ("1", "GPU-z")
    assert uuids([], library) == ()


def test_the_role_meters_this_machine_until_it_is_told_to_stop(tmp_path: Path) -> None:
    async def main() -> None:
        async with Controller() as controller:
            port = int(controller.url.rpartition(":")[2])
            _, path = config(tmp_path, controller={"port": port}, prices={"meter_every_s": 0.5})
            environment = {**os.environ, "BASELOAD_CONTROL_TOKEN": TOKEN, "BASELOAD_SUPERVISED": str(os.getpid())}
            process = subprocess.Popen(
                [sys.executable, "-m", "serving.process", "meter", "--config", str(path)], cwd=ROOT, env=environment
            )
            try:
                report = await controller.heard(2)
                assert report.node == socket.gethostname()
                assert report.host.memory_total_bytes == psutil.virtual_memory().total
                assert bool(report.gpus) != bool(report.problem)
            finally:
                process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(process.wait, 20) == 0

    run(main())
