"""The process that deploys pools on Ray Serve and holds them: on one machine it brings up Ray, else it joins RAY_ADDRESS."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import signal
import time
from typing import Any

import aiohttp
import msgspec

from scheduler.config import ClusterConfig
from scheduler.config.supply import Pool, RayServeLlmEngine, VllmEngine
from serving import control
from serving.control import Announcement
from serving.gate.wire import ReplicaInfo
from serving.meter_process import MeterActor, MeterSettings, settings_of
from serving.pools import ReplicaSettings, VllmReplica, environment
from serving.routes import model_path

log = logging.getLogger("baseload.pools")

_HEALTH_PERIOD_S = 2.0
_HEALTH_TIMEOUT_S = 10.0
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
        wanted = {"GPU": pool.engine.gpus_per_replica, "CPU": pool.engine.cpus_per_replica}
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


def deploy(config: ClusterConfig, pool: Pool, token: str) -> str | None:
    """Deploy one pool; returns the URL to announce for pools that ``ray.serve.llm`` serves through Serve's proxy."""
    from ray import serve

    if isinstance(pool.engine, VllmEngine):
        app: Any = _vllm_app(config, pool, pool.engine, token)
        serve.run(app, name=pool.name, route_prefix=None)
        return None
    if isinstance(pool.engine, RayServeLlmEngine):
        serve.run(_llm_app(pool.engine), name=pool.name, route_prefix=f"/{pool.name}")
        address = serve.context._get_global_client().http_config
        return f"http://127.0.0.1:{address.port}/{pool.name}"
    return None


def _vllm_app(config: ClusterConfig, pool: Pool, engine: VllmEngine, token: str) -> Any:
    from ray import serve

    loopback = config.controller.host.startswith("127.")
    if not loopback:
        import ray

        host = ray.util.get_node_ip_address()
    settings = ReplicaSettings(
        pool=pool.name,
        model=pool.model,
        path=model_path(config, engine.path),
        args=engine.args,
        adapters=[(adapter.model, model_path(config, adapter.path)) for adapter in engine.adapters],
        host="127.0.0.1" if loopback else host,
        controller=control.url(config),
        token=token,
    )
    options = {
        "num_cpus": engine.cpus_per_replica,
        "num_gpus": engine.gpus_per_replica,
        "runtime_env": {"env_vars": environment(engine.env, config.air_gapped)},
    }
    deployment = serve.deployment(
        name=pool.name,
        num_replicas=pool.replicas.min,
        max_ongoing_requests=100_000,  # not on the request path; the gate is what bounds a pool
        ray_actor_options=options,
        health_check_period_s=_HEALTH_PERIOD_S,
        health_check_timeout_s=_HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=5.0,
    )(VllmReplica)
    return deployment.bind(settings)


def _llm_app(engine: RayServeLlmEngine) -> Any:
    from ray.serve.llm import LLMConfig, build_openai_app

    # Its ingress only relays: reserving whole CPUs for it would keep the engine of a small machine from being placed.
    ingress = {"num_replicas": 1, "ray_actor_options": {"num_cpus": 0}}
    return build_openai_app({"llm_configs": [LLMConfig(**engine.llm_config)], "ingress_deployment_config": ingress})


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
                try:
                    await asyncio.wait_for(stop.wait(), _ANNOUNCE_S)
                except TimeoutError:
                    continue
    finally:
        await asyncio.to_thread(serve.shutdown)
        await asyncio.to_thread(ray.shutdown)
