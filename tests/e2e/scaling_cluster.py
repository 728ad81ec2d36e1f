"""Run by test_scaling_up: a controller, gates and Ray Serve; prints step by step. Replicas of one pool are all but the
engine, those of the other, which is empty at first, are whole.
"""

from __future__ import annotations

import asyncio
import functools
import json
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
from tests.e2e.stack import ROOT, free_port
from tests.support.live_fleets import VLLM, config_of, rented

SLOW_S = 6.0  # longer than Serve waits by itself
WHOLE = VLLM | {
    "path": str(ROOT / "serving" / "tiny_model"),
    "args": {
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 512,
        "max_num_seqs": 32,
        "kv_cache_memory_bytes": 67108864,
    },
    "env": {"HF_HUB_OFFLINE": "1"},
}
KEY = {"authorization": "Bearer token"}
EASY = {"model": "small", "max_tokens": 20, "messages": [{"role": "user", "content": "classify: I want my money back"}]}


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
    deadline_s = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline_s, what
        await asyncio.sleep(0.2)
        if meanwhile is not None:
            await meanwhile()
    print(f"step: {what}", flush=True)


def names_at_serve() -> set[str]:
    return set(serve.status().applications)


async def classified(session: aiohttp.ClientSession, url: str) -> str:
    async with session.post(f"{url}/v1/chat/completions", json=EASY, headers=KEY) as response:
        return str(json.loads((await response.json())["choices"][0]["message"]["content"])["intent"])


async def main() -> None:
    config = config_of("enforce", rented(most=2), rented("empty", least=0, most=1, engine=WHOLE), every_s=1.0)
    config = config.model_copy(update={"controller": ControllerSpec(port=free_port())})
    base = control.url(config)
    gate, other = (GateServer(config, pool, "token") for pool in config.pools)
    runs = (Controller(config, "token", True).run(), gate.run("127.0.0.1"), other.run("127.0.0.1"))
    tasks = [asyncio.create_task(run) for run in runs]
    deployments.DrainedReplica = Light  # type: ignore[misc]
    options = {"num_cpus": 3, "include_dashboard": False, "log_to_driver": False, "configure_logging": False}
    await asyncio.to_thread(ray.init, namespace="baseload", **options)
    await asyncio.to_thread(serve.start, proxy_location="Disabled")
    await asyncio.to_thread(deploy, config, config.pools[0], "token")
    await until(lambda: gate.state.pool.healthy == 1, "one replica answers")
    [first] = gate.state.urls().values()
    deployments.DrainedReplica = DrainedReplica  # type: ignore[misc]
    await asyncio.to_thread(deploy, config, config.pools[1], "token")
    await until(lambda: other.state.is_surveyed, "an empty pool has a gate")
    assert names_at_serve() == {"own"} and other.report().replicas == 0
    await asyncio.to_thread(set_replicas, config, "token", "empty", 1)
    scaler = Scaler(scaled_pools(config)[:1], functools.partial(set_replicas, config, "token"))
    lines = {"own": [Wanted(0.05, 5.0, 5.0, 1.0, ELSEWHERE)] * 4}
    async with aiohttp.ClientSession() as session:

        async def burst() -> None:
            await control.post(session, base, "market", MarketRequest("g", 0.0, {}, {}, lines), "token", Published)
            await scaler.keep(session, base, "token")

        async def ask(url: str) -> str:
            async with session.post(f"{url}/v1/chat/completions", headers=KEY) as response:
                assert response.status == 200
                return await response.text()

        async with session.get(f"{base}/commitment", headers=KEY) as response:
            print((await response.json())["mode"], flush=True)
        await until(lambda: gate.state.pool.healthy == 2, "a second replica answers", burst)
        urls = list(gate.state.urls().values())
        assert first in urls and scaler.set_to == {"own": 2}
        await until(lambda: other.state.pool.healthy == 1, "the empty pool has its first")
        assert await classified(session, *other.state.urls().values()) == "refund"
        await asyncio.to_thread(set_replicas, config, "token", "empty", 0)
        asked = [asyncio.create_task(ask(url)) for url in urls]
        await asyncio.sleep(0.5)
        await asyncio.to_thread(set_replicas, config, "token", "own", 1)
        await until(lambda: gate.state.pool.healthy == 1, "its gate gives nothing to one that is to go")
        assert not any(task.done() for task in asked)
        assert len(set(await asyncio.gather(*asked))) == 2
        print("step: both have finished what they had", flush=True)
        await until(lambda: not other.state.urls(), "the empty pool is empty again")
        states = serve.status().applications["empty"].deployments["empty"].replica_states
        assert names_at_serve() == {"own", "empty"} and set(states) <= {"STOPPING"}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.to_thread(serve.shutdown)
    ray.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
