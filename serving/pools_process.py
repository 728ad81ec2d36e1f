"""The process that deploys pools on Ray Serve and holds them: on one machine it brings up Ray, else it joins RAY_ADDRESS."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import os
import signal
import time
from typing import Any

import aiohttp
import msgspec

from scheduler.config import ClusterConfig
from scheduler.config.supply import Pool, VllmEngine
from serving import control
from serving.control import Announcement
from serving.deployments import Scaler, deploy, scaled_pools, set_replicas
from serving.gate.wire import ReplicaInfo
from serving.meter_process import MeterActor, MeterSettings, settings_of

log = logging.getLogger("baseload.pools")

_ANNOUNCE_S = 1.0
_NODES_S = 10.0


class PoolError(RuntimeError):
    """A pool cannot be placed on what is there; the text says what is missing."""


def needs_ray(config: ClusterConfig) -> bool:
    """Some pool is ours to run."""
    return any(pool.engine.kind != "url" for pool in config.pools)


def start_ray(config: ClusterConfig) -> None:
    """Join the cluster of RAY_ADDRESS, or start Ray on this machine without dashboard and usage reports."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAYLLM_ENABLE_REQUEST_PROMPT_LOGS", "0")
    import ray
    from ray import serve

    joined = "RAY_ADDRESS" in os.environ
    options: dict[str, Any] = {"namespace": "baseload", "log_to_driver": True, "configure_logging": False}
    if not joined:
        options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    ray.init(**options)
    resources = ray.cluster_resources()
    for pool in config.pools:
        _check_fits(pool, resources, joined)
    proxied = any(pool.engine.kind == "ray-serve-llm" for pool in config.pools)
    http = {"host": "127.0.0.1", "port": 0 if not proxied else _proxy_port()}
    serve.start(proxy_location="HeadOnly" if proxied else "Disabled", http_options=http)


def _check_fits(pool: Pool, resources: dict[str, float], joined: bool) -> None:
    if isinstance(pool.engine, VllmEngine) and not joined:
        wanted = {"GPU": pool.engine.gpus_per_replica, "CPU": pool.engine.cpus_per_replica, **pool.engine.resources}
        for what, each in wanted.items():
            have = resources.get(what, 0.0)
            if each * pool.replicas.min > have:
                raise PoolError(
                    f"pools.{pool.name}: {pool.replicas.min} replica(s) of {each:g} {what} do not fit: "
                    f"Ray sees {have:g} {what} here"
                )


def _proxy_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Meters:
    """One meter on every node of the cluster, for as long as the node is there."""

    def __init__(self, settings: MeterSettings) -> None:
        self._settings = settings
        self._actors: dict[str, Any] = {}
        self._answers: dict[str, Any] = {}
        self._problem = ""

    def keep(self) -> None:
        """Place them as far as that is possible now: pools go on without meters, and the next call tries again."""
        try:
            self.place()
        except Exception as error:  # whatever Ray raises: power is worth less than the pools
            problem = f"{type(error).__name__}: {error}"[:500]
            if problem != self._problem:
                log.warning("meters cannot be placed", extra={"problem": problem})
            self._problem = problem
        else:
            self._problem = ""

    def place(self) -> None:
        """Start meters on nodes that have come, forget those of nodes that have gone. Ray restarts those that die."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = ray.get_runtime_context().get_node_id()
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        for node in self._actors.keys() - alive:
            self._answers.pop(node, None)
            ray.kill(self._actors.pop(node))
        self._forget_dead()
        for node in alive - self._actors.keys():
            # A URL of this machine means another machine elsewhere.
            settings = self._settings if node == here else msgspec.structs.replace(self._settings, local=())
            actor = ray.remote(MeterActor).options(
                name=meter_name(self._settings, node),
                num_cpus=0,
                max_restarts=-1,
                get_if_exists=True,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            )
            self._actors[node] = actor.remote(settings, node)
            log.info("meter placed", extra={"node": node})

    def _forget_dead(self) -> None:
        """Drop meters that Ray does not restart (their constructor failed), so that they are placed again."""
        import ray
        from ray.exceptions import ActorUnavailableError, RayError

        for node, actor in list(self._actors.items()):
            answer = self._answers.get(node)
            if answer is not None:
                ready, _ = ray.wait([answer], timeout=0)
                if not ready:
                    continue
                try:
                    ray.get(answer)
                except ActorUnavailableError:
                    pass  # it is being restarted
                except RayError as error:
                    del self._actors[node], self._answers[node]
                    log.warning("meter is dead", extra={"node": node, "problem": str(error)[:500]})
                    continue
            self._answers[node] = actor.pid.remote()


def meter_name(settings: MeterSettings, node: str) -> str:
    """A site's own: another site on the same cluster of Ray has meters of its own, which tell its own controller."""
    site = hashlib.sha256(settings.controller.encode()).hexdigest()[:12]
    return f"meter-{site}-{node}"


async def run(config: ClusterConfig) -> None:
    """Deploy every pool that is ours and hold them until SIGTERM or SIGINT, then take them down."""
    token = control.token()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    import ray
    from ray import serve

    await asyncio.to_thread(start_ray, config)
    announced: dict[str, str] = {}
    meters, looked_s = Meters(settings_of(config, token)), float("-inf")
    scaler = Scaler(scaled_pools(config), functools.partial(set_replicas, config, token))
    try:
        for pool in config.pools:
            log.info("deploying", extra={"pool": pool.name})
            url = await asyncio.to_thread(deploy, config, pool, token)
            if url is not None:
                announced[pool.name] = url
        log.info("pools are up", extra={"pools": [pool.name for pool in config.pools]})
        async with aiohttp.ClientSession() as session:
            while not stop.is_set():
                if time.monotonic() - looked_s >= _NODES_S:
                    looked_s = time.monotonic()
                    await asyncio.to_thread(meters.keep)
                for name, url in announced.items():
                    message = Announcement(name, ReplicaInfo(name, url))
                    await control.post(session, control.url(config), "replicas", message, token, dict)
                await scaler.keep(session, control.url(config), token)
                try:
                    await asyncio.wait_for(stop.wait(), _ANNOUNCE_S)
                except TimeoutError:
                    continue
    finally:
        await asyncio.to_thread(serve.shutdown)
        await asyncio.to_thread(ray.shutdown)
