"""``baseload serve``: one machine, from cluster.yaml to a ready endpoint, with progress that a person can follow."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path

import aiohttp

from scheduler.config import ClusterConfig
from serving.supervisor import Supervisor

_POLL_S = 0.5
_SAY_EVERY_S = 10.0


def say(text: str) -> None:
    """A line for the person at the terminal."""
    print(text, file=sys.stderr, flush=True)


def run(config: ClusterConfig, path: str, host: str, port: int, logs: Path | None) -> int:
    """Serve until SIGINT or SIGTERM. Exit status 0, or 1 where the address cannot be used."""
    from serving.asgi import listen

    try:
        listen(host, port).close()
        listen(config.controller.host, config.controller.port).close()
    except OSError as error:
        say(f"baseload: {error}")
        return 1
    return asyncio.run(_run(config, path, host, port, logs))


async def _run(config: ClusterConfig, path: str, host: str, port: int, logs: Path | None) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    supervisor = Supervisor(config, path, host, port, logs, say)
    say(f"Baseload is starting: {len(config.pools)} pool(s), {len(config.providers)} provider(s)")
    if logs is not None:
        say(f"Logs of the processes: {logs}/")
    announcer = asyncio.create_task(_announce(host, port))
    await supervisor.run(stop)
    announcer.cancel()
    say("Baseload has stopped.")
    return 0


async def _announce(host: str, port: int) -> None:
    """Say what is still missing until the gateway is ready, then how to use it."""
    shown_host = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound
    base = f"http://{f'[{shown_host}]' if ':' in shown_host else shown_host}:{port}"
    started_s, said_s, said = time.monotonic(), 0.0, ""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0)) as session:
        while True:
            waiting_for = "the gateway is starting"
            try:
                async with session.get(f"{base}/readyz") as response:
                    answer = await response.json()
                    if response.status == 200:
                        break
                    waiting_for = "; ".join(answer["problems"])
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
                pass
            now_s = time.monotonic()
            if waiting_for != said or now_s - said_s > _SAY_EVERY_S:
                say(f"  {now_s - started_s:5.1f} s  {waiting_for}")
                said, said_s = waiting_for, now_s
            await asyncio.sleep(_POLL_S)
    say(f"Baseload is ready after {time.monotonic() - started_s:.0f} s: {base}/v1  (Ctrl-C stops it)")
    say(
        "Try it:\n"
        f"  curl {base}/v1/chat/completions -H 'authorization: Bearer local-demo' -H 'content-type: application/json' \\\n"
        '    -i -d \'{"model": "auto", "messages": [{"role": "user", "content": "classify: my parcel has not arrived"}]}\''
        if host in ("127.0.0.1", "::1", "localhost")
        else f"Ask {base}/v1 with a key of one of your tenants."
    )
