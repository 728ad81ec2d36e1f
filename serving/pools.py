"""Local pools: vLLM's async engine as a Ray Serve deployment, the same code on a GPU and on the CPU build.

Ray Serve places, health-checks, replaces and scales the replicas. Tokens do not travel through Serve's proxy or handles
(0.3 ms and more per item): each replica serves vLLM's own OpenAI application on a port of its node, announces it to the
controller, and answers to the run's control token alone. Why: docs/decisions/0003-tokens-bypass-serve.md.
"""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from contextlib import AsyncExitStack
from typing import Any

import msgspec

from serving import control
from serving.control import Announcement
from serving.gate.wire import ReplicaInfo

log = logging.getLogger("baseload.pool")

_ANNOUNCE_S = 1.0


class ReplicaSettings(msgspec.Struct, frozen=True):
    """What a replica needs of cluster.yaml; ``args`` are vLLM's engine arguments, ``adapters`` (name, path)."""

    pool: str
    model: str
    path: str
    args: dict[str, Any]
    adapters: list[tuple[str, str]]
    host: str
    controller: str
    token: str


class VllmReplica:
    """One engine inside a Serve replica."""

    async def __init__(self, settings: ReplicaSettings) -> None:  # type: ignore[misc]  # Serve awaits constructors
        """Build the engine and serve it; Serve counts the replica as up once this returns."""
        self._settings = settings
        self._id = f"{settings.pool}-{uuid.uuid4().hex[:8]}"
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[Any]] = []
        app = await self._build()
        await self._serve(app)

    async def _build(self) -> Any:
        """vLLM's engine and its OpenAI application around it."""
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client_from_engine_args
        from vllm.entrypoints.launchers.app import build_app
        from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        args = make_arg_parser(FlexibleArgumentParser()).parse_args(cli_args(self._settings))
        validate_parsed_serve_args(args)
        self._engine = await self._stack.enter_async_context(
            build_async_engine_client_from_engine_args(AsyncEngineArgs.from_cli_args(args))
        )
        tasks = await self._engine.get_supported_tasks()
        app = build_app(args, tasks, self._engine.model_config)
        await init_app_state(self._engine, app.state, args, tasks)
        return app

    async def _serve(self, app: Any) -> None:
        import uvicorn

        from serving.asgi import Server, listen

        listener = listen(self._settings.host, 0)
        url = f"http://{self._settings.host}:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            guarded(app, self._settings.token),
            access_log=False,
            log_level="warning",
            lifespan="off",
            timeout_keep_alive=5,
        )
        self._server = Server(config)
        self._tasks.append(asyncio.create_task(self._server.serve(sockets=[listener])))
        self._tasks.append(asyncio.create_task(self._announce(url)))
        log.info("replica ready", extra={"replica": self._id, "url": url})

    async def _announce(self, url: str) -> None:
        """Tell the controller, for ever; an engine that has died stops answering at once instead of failing requests."""
        import aiohttp

        settings = self._settings
        message = Announcement(settings.pool, placed(ReplicaInfo(self._id, url)))
        async with aiohttp.ClientSession() as session:
            while not self._engine.errored:
                await control.post(session, settings.controller, "replicas", message, settings.token, dict)
                await asyncio.sleep(_ANNOUNCE_S)
        self._server.should_exit = True

    async def check_health(self) -> None:
        """Serve calls this every few seconds; raising has the replica replaced."""
        await self._engine.check_health()
        for task in self._tasks:
            if task.done():
                raise RuntimeError("the replica's server has ended")

    async def __call__(self) -> str:
        """Serve's own ingress is not used; this tells whoever asks which replica it is."""
        return self._id

    async def __del__(self) -> None:
        """Serve's hook for a replica that goes: the engine's processes end with it."""
        for task in self._tasks:
            task.cancel()
        await self._stack.aclose()


def placed(info: ReplicaInfo) -> ReplicaInfo:
    """``info`` with what a meter needs to find this replica: its node, its root process, its GPUs."""
    import ray

    from pricing.meter.nvml import uuids

    node = ray.get_runtime_context().get_node_id()
    return msgspec.structs.replace(info, node=node, pid=os.getpid(), gpus=uuids(ray.get_gpu_ids()))


def guarded(app: Any, token: str) -> Any:
    """``app`` for holders of the token only; vLLM's own ``--api-key`` leaves ``/invocations`` and others open."""

    async def call(scope: Any, receive: Any, send: Any) -> None:
        header = dict(scope.get("headers") or ()).get(b"authorization", b"").decode("latin-1")
        if scope["type"] == "http" and scope["path"] not in ("/health", "/metrics"):
            if not control.authorized(header, token):
                await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
                await send({"type": "http.response.body", "body": b""})
                return
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        await app(scope, receive, send)

    return call


def cli_args(settings: ReplicaSettings) -> list[str]:
    """Engine settings as the arguments of ``vllm serve``, so that every engine argument has vLLM's own meaning.

    >>> cli_args(ReplicaSettings("p", "m", "/w", {"dtype": "float32", "enforce_eager": True}, [], "h", "c", "t"))
    ['--model', '/w', '--served-model-name', 'm', '--api-key', 't', '--dtype', 'float32', '--enforce-eager']
    """
    args = ["--model", settings.path, "--served-model-name", settings.model, "--api-key", settings.token]
    for name, value in settings.args.items():
        flag = "--" + str(name).replace("_", "-")
        if value is True:
            args.append(flag)
        elif value is False:
            args.append("--no-" + flag[2:])
        elif isinstance(value, dict):
            args += [flag, msgspec.json.encode(value).decode()]
        else:
            args += [flag, *(str(item) for item in (value if isinstance(value, list) else [value]))]
    if settings.adapters:
        args += ["--enable-lora", "--lora-modules", *(f"{name}={path}" for name, path in settings.adapters)]
    return args


def environment(env: dict[str, str], air_gapped: bool = False) -> dict[str, str]:
    """Variables of a replica's process; cluster.yaml may override each, but not that an air-gapped site asks no hub."""
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"} if air_gapped else {}
    return {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": threads} | env | offline
