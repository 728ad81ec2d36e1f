"""Pools as deployments on Ray Serve: how they are made, and how the number of their replicas is changed while they serve.

Serve deploys nothing without a replica, but takes an application down to none: a pool that is empty at first has its
application made with the first replica.

``serve.run`` of a changed number would be a new version of the code, of which every replica is replaced (Serve draws the
version anew each time). So applications that are scaled are run with ``external_scaler_enabled``: then Serve's controller
takes a number alone, and replicas that are there stay as they are.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from scheduler.config import ClusterConfig
from scheduler.config.supply import Pool, RayServeLlmEngine, VllmEngine
from serving import control
from serving.control import Desired, Scaled
from serving.draining import DrainedReplica
from serving.pools import ReplicaSettings, VllmReplica, environment
from serving.routes import model_path

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger("baseload.pools")

_HEALTH_PERIOD_S = 2.0
_HEALTH_TIMEOUT_S = 10.0
_STOP_S = 5.0
# A replica that is to go finishes what it has, up to this; an engine that hangs keeps its GPU as long.
_DRAIN_S_MAX = 60.0
_ASK_S = 2.0
_SERVE_S_MAX = 10.0


def scaled_pools(config: ClusterConfig) -> list[Pool]:
    """Pools that are scaled: ``enforce``, an engine that is ours to start and stop, and bounds that leave a choice."""
    if config.policy.commitment.mode != "enforce":
        return []
    return [p for p in config.pools if isinstance(p.engine, VllmEngine) and p.replicas.min < p.replicas.max]


def deploy(config: ClusterConfig, pool: Pool, token: str) -> str | None:
    """Deploy one pool with as many replicas as it has at least, and wait for them; returns the URL to announce for pools that
    ``ray.serve.llm`` serves through Serve's proxy.
    """
    from ray import serve

    if isinstance(pool.engine, VllmEngine):
        if pool.replicas.min:
            _run(config, pool, pool.engine, token, pool.replicas.min, wait=True)
        else:  # what a process before this one may have left there has another token
            serve.delete(pool.name, _blocking=False)
        return None
    if isinstance(pool.engine, RayServeLlmEngine):
        serve.run(_llm_app(pool.engine), name=pool.name, route_prefix=f"/{pool.name}")
        address = serve.context._get_global_client().http_config
        return f"http://127.0.0.1:{address.port}/{pool.name}"
    return None


def _run(config: ClusterConfig, pool: Pool, engine: VllmEngine, token: str, replicas: int, wait: bool) -> None:
    from ray import serve

    is_scaled = pool in scaled_pools(config)
    app = _vllm_app(config, pool, engine, token, replicas, is_scaled)
    target = serve.RunTarget(app, pool.name, route_prefix=None, external_scaler_enabled=is_scaled)
    serve.run_many([target], wait_for_applications_running=wait)


def _vllm_app(config: ClusterConfig, pool: Pool, engine: VllmEngine, token: str, replicas: int, is_scaled: bool) -> Any:
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
        "resources": dict(engine.resources),
        "runtime_env": {"env_vars": environment(engine.env, config.air_gapped)},
    }
    deploying = serve.deployment(
        name=pool.name,
        num_replicas=replicas,
        max_ongoing_requests=100_000,  # not on the request path; the gate is what bounds a pool
        ray_actor_options=options,
        health_check_period_s=_HEALTH_PERIOD_S,
        health_check_timeout_s=_HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=_DRAIN_S_MAX + _STOP_S if is_scaled else _STOP_S,
    )
    return (
        deploying(DrainedReplica).bind(settings, _DRAIN_S_MAX) if is_scaled else deploying(VllmReplica).bind(settings)
    )


def _llm_app(engine: RayServeLlmEngine) -> Any:
    from ray.serve.llm import LLMConfig, build_openai_app

    # Its ingress only relays: reserving whole CPUs for it would keep the engine of a small machine from being placed.
    ingress = {"num_replicas": 1, "ray_actor_options": {"num_cpus": 0}}
    return build_openai_app({"llm_configs": [LLMConfig(**engine.llm_config)], "ingress_deployment_config": ingress})


def set_replicas(config: ClusterConfig, token: str, name: str, replicas: int) -> None:
    """Tell Serve's controller how many replicas a pool shall have; nobody waits until it has started or stopped them.

    Which one goes is Serve's choice: one that has not started, else the newest on the emptiest node. It says so and
    finishes what it has (``serving.draining``). Serve's REST API for external scalers calls the same, but belongs to the
    dashboard, which does not run here. Raises whatever Ray raises.
    """
    import ray
    from ray import serve
    from ray.serve._private.common import DeploymentID

    controller = serve.context._get_global_client()._controller
    deployment = DeploymentID(name=name, app_name=name)
    try:
        ray.get(controller.update_deployment_replicas.remote(deployment, replicas), timeout=_SERVE_S_MAX)
    except ValueError:  # there is no such application: the pool has been empty until now
        pool = next(pool for pool in scaled_pools(config) if pool.name == name)
        if replicas and isinstance(pool.engine, VllmEngine):
            _run(config, pool, pool.engine, token, replicas, wait=False)


class Scaler:
    """Asks the controller how many replicas pools should have, and sets them; without an answer nothing changes.

    ``apply(pool, replicas)`` may block and raise. ``set_to`` is what each pool was last set to.
    """

    def __init__(self, pools: Iterable[Pool], apply: Callable[[str, int], None]) -> None:
        self._bounds = {pool.name: (pool.replicas.min, pool.replicas.max) for pool in pools}
        self.set_to = {name: least for name, (least, _) in self._bounds.items()}
        self._apply, self._asked_s = apply, float("-inf")

    async def keep(self, session: aiohttp.ClientSession, base: str, token: str) -> None:
        """Called every second or so; asks every other time. A controller that is away is asked again."""
        if not self._bounds or time.monotonic() - self._asked_s < _ASK_S:
            return
        self._asked_s = time.monotonic()
        answer = await control.post(session, base, "scale", Scaled(dict(self.set_to)), token, Desired)
        if answer is not None:
            await asyncio.to_thread(self.follow, answer.replicas)

    def follow(self, desired: Mapping[str, int]) -> None:
        """Set what differs. What is out of bounds, or of no pool that is scaled, is left alone."""
        for name, replicas in desired.items():
            least, most = self._bounds.get(name, (1, 0))
            if not least <= replicas <= most or replicas == self.set_to[name]:
                continue
            try:
                self._apply(name, replicas)
            except Exception as error:  # whatever Ray raises: the pool serves on, and the next answer tries again
                log.warning("a pool cannot be scaled", extra={"pool": name, "problem": str(error)[:500]})
                continue
            log.info("a pool is scaled", extra={"pool": name, "replicas": replicas, "before": self.set_to[name]})
            self.set_to[name] = replicas
