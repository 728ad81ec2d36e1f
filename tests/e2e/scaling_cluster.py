"""Run by test_scaling_up: a controller, a gate and Ray Serve, whose replicas are all but the engine; prints step by step."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import ray
from ray import serve

from scheduler.config.cluster import ControllerSpec
from serving import control, deployments
from serving.control import ELSEWHERE, MarketRequest, Wanted
from serving.controller import Controller
from serving.deployments import Scaler, deploy, scaled_pools, set_replicas
from serving.draining import DrainedReplica
from serving.gate.server import GateServer
from serving.pools import VllmReplica
from serving.view import Published
from tests.e2e.stack import free_port
from tests.support.live_fleets import config_of, rented

SLOW_S = 6.0  # longer than Serve waits by itself


class Engine:
    errored = False

    async def check_health(self) -> None:
        """It is well."""


class Bare(VllmReplica):
    """An application that takes its time instead of vLLM's."""

    async def _build(self) -> Any:
        self._engine = Engine()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"].startswith("/v1/"):
                await asyncio.sleep(SLOW_S)
            status = 200 if scope["path"].startswith("/v1/") else 404
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": str(os.getpid()).encode()})

        return app


class Light(DrainedReplica, Bare):
    """What is deployed here."""


async def until(
    condition: Callable[[], bool], what: str, meanwhile: Callable[[], Awaitable[None]] | None = None
) -> None:
    deadline_s = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline_s, what
        await asyncio.sleep(0.2)
        if meanwhile is not None:
            await meanwhile()
    print(f"step: {what}", flush=True)


async def main() -> None:
    config = config_of("enforce", rented(most=2), every_s=1.0)
    config = config.model_copy(update={"controller": ControllerSpec(port=free_port())})
    base, key = control.url(config), {"authorization": "Bearer token"}
    gate = GateServer(config, config.pools[0], "token")
    tasks = [asyncio.create_task(Controller(config, "token", True).run()), asyncio.create_task(gate.run("127.0.0.1"))]
    deployments.DrainedReplica = Light  # type: ignore[misc]
    options = {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False, "configure_logging": False}
    await asyncio.to_thread(ray.init, namespace="baseload", **options)
    await asyncio.to_thread(serve.start, proxy_location="Disabled")
    await asyncio.to_thread(deploy, config, config.pools[0], "token")
    await until(lambda: gate.state.pool.healthy == 1, "one replica answers")
    [first] = gate.state.urls().values()
    scaler = Scaler(scaled_pools(config))
    lines = {"own": [Wanted(0.05, 5.0, 5.0, 1.0, ELSEWHERE)] * 4}
    async with aiohttp.ClientSession() as session:

        async def burst() -> None:
            await control.post(session, base, "market", MarketRequest("g", 0.0, {}, {}, lines), "token", Published)
            await scaler.keep(session, base, "token")

        async def ask(url: str) -> str:
            async with session.post(f"{url}/v1/chat/completions", headers=key) as response:
                assert response.status == 200
                return await response.text()

        async with session.get(f"{base}/commitment", headers=key) as response:
            print((await response.json())["mode"], flush=True)
        await until(lambda: gate.state.pool.healthy == 2, "a second replica answers", burst)
        urls = list(gate.state.urls().values())
        assert first in urls and scaler.set_to == {"own": 2}
        asked = [asyncio.create_task(ask(url)) for url in urls]
        await asyncio.sleep(0.5)
        await asyncio.to_thread(set_replicas, "own", 1)
        await until(lambda: gate.state.pool.healthy == 1, "its gate gives nothing to one that is to go")
        assert not any(task.done() for task in asked)
        assert len(set(await asyncio.gather(*asked))) == 2
        print("step: both have finished what they had", flush=True)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.to_thread(serve.shutdown)
    ray.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
