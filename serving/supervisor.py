"""One machine: starts the serving processes in order, restarts those that die, stops them in reverse.

In a cluster the same processes are placed and restarted by Ray or Kubernetes instead; none of them knows the difference.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from scheduler.config import ClusterConfig
from serving import control
from serving.pools_process import needs_ray

_STOP_S_MAX = 25.0
_BACKOFF_S_MIN = 0.1
_BACKOFF_S_MAX = 5.0
_STABLE_S = 10.0
_LOG_BYTES_MAX = 20 * 1024 * 1024

Say = Callable[[str], None]


@dataclass(slots=True)
class Child:
    """A process to keep alive."""

    name: str
    args: list[str]
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    last_error: str = ""
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class Supervisor:
    """Keeps the children of one ``baseload serve`` alive. ``logs``: directory of their logs, None for standard error."""

    def __init__(self, config: ClusterConfig, path: str, host: str, port: int, logs: Path | None, say: Say) -> None:
        self._config, self._say, self._logs = config, say, logs
        self._stopping = False
        os.environ["BASELOAD_SUPERVISED"] = str(os.getpid())
        control.token()
        urls: dict[str, str] = {}
        simulated: list[Child] = []
        for provider in config.providers:
            if provider.simulated is not None:
                chosen = provider.simulated.port or _free_port()
                urls[provider.name] = f"http://127.0.0.1:{chosen}"
                simulated.append(Child(provider.name, ["simulated", provider.name, "--port", str(chosen)]))
        gateway = ["gateway", "--host", host, "--port", str(port), "--simulated", msgspec.json.encode(urls).decode()]
        self.children = [
            Child("controller", ["controller", "--fresh"]),
            # Where Ray places pools, it places a meter beside them on every node.
            *([Child("meter", ["meter"])] if config.pools and not needs_ray(config) else []),
            Child("ledger", ["ledger"]),
            *([Child("prices", ["prices"])] if config.feeds else []),
            *(Child(f"gate-{pool.name}", ["gate", pool.name]) for pool in config.pools),
            *simulated,
            *([Child("pools", ["pools"])] if needs_ray(config) else []),
            Child("gateway", gateway),
        ]
        for child in self.children:
            child.args += ["--config", path]

    async def run(self, stop: asyncio.Event) -> None:
        """Keep all children alive until ``stop`` is set, then stop them, last started first."""
        try:
            for child in self.children:
                child.task = asyncio.create_task(self._keep(child))
            await stop.wait()
        finally:
            self._stopping = True
            for child in reversed(self.children):
                await self._stop(child)

    async def _keep(self, child: Child) -> None:
        pause_s = _BACKOFF_S_MIN
        while not self._stopping:
            started_s = time.monotonic()
            try:
                with self._log(child) as log:
                    child.process = await asyncio.create_subprocess_exec(
                        sys.executable,
                        "-m",
                        "serving.process",
                        *child.args,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                    status = await child.process.wait()
            except OSError as error:  # a full disk, no process to be had: it will pass, or a person reads this
                self._say(f"{child.name} cannot start: {error}")
                await asyncio.sleep(_BACKOFF_S_MAX)
                continue
            if self._stopping:
                return
            # A controller that comes back must not assume that nobody holds leases.
            child.args = [arg for arg in child.args if arg != "--fresh"]
            child.restarts += 1
            child.last_error = f"exit status {status}"
            self._say(f"{child.name} ended ({child.last_error}); restarting")
            await _kill_group(child.process, signal.SIGKILL)
            pause_s = _BACKOFF_S_MIN if time.monotonic() - started_s > _STABLE_S else min(_BACKOFF_S_MAX, pause_s * 2)
            await asyncio.sleep(pause_s)

    @contextlib.contextmanager
    def _log(self, child: Child):  # type: ignore[no-untyped-def]  # an int or an open file
        if self._logs is None:
            yield sys.stderr
            return
        self._logs.mkdir(parents=True, exist_ok=True)
        path = self._logs / f"{child.name}.log"
        if path.exists() and path.stat().st_size > _LOG_BYTES_MAX:
            path.replace(path.with_suffix(".log.1"))
        with path.open("ab") as handle:
            yield handle

    async def _stop(self, child: Child) -> None:
        process = child.process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _STOP_S_MAX)
            except TimeoutError:
                self._say(f"{child.name} does not stop; killing it")
            await _kill_group(process, signal.SIGKILL)
        if child.task is not None:
            child.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await child.task


async def _kill_group(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Whatever a child has left behind; each child leads a session, and so a group, of its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
