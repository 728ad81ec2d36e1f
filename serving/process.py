"""Entry point of the serving processes: ``python -m serving.process ROLE --config FILE``. Started by the supervisor.

Roles: controller; gate NAME; gateway; ledger; meter; pools; prices; simulated NAME. Each runs until SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any

import msgspec
import uvloop

from scheduler.config import ClusterConfig, ConfigError, load
from scheduler.config.supply import Price
from serving import control, logs

log = logging.getLogger("baseload.process")

_PR_SET_PDEATHSIG = 1


def main(argv: list[str] | None = None) -> int:
    """Run one role. Exit status 0 after SIGTERM, 2 for a configuration that cannot be used, 1 for any other failure."""
    parser = argparse.ArgumentParser(prog="serving.process", description=__doc__)
    parser.add_argument(
        "role", choices=("controller", "gate", "gateway", "ledger", "meter", "pools", "prices", "simulated")
    )
    parser.add_argument("name", nargs="?", default="")
    parser.add_argument("--config", default="cluster.yaml")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--simulated", default="{}", help="JSON: where the simulated providers listen")
    parser.add_argument("--fresh", action="store_true", help="everything is being started together")
    options = parser.parse_args(argv)
    logs.configure()
    die_with_parent()
    try:
        config = load(options.config)
        if control.TOKEN_ENV not in os.environ and not config.controller.host.startswith("127."):
            raise ValueError(f"set {control.TOKEN_ENV} to one value for all processes of this site")
        _run(options, config)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except Exception:
        log.exception("%s has failed", options.role)
        return 1
    return 0


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the supervisor dies, however it dies: no process is left behind."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # It may have died before that; whoever inherits orphans here need not be process 1.
    if os.environ.get("BASELOAD_SUPERVISED", str(os.getppid())) != str(os.getppid()):
        raise SystemExit(0)


def _run(options: argparse.Namespace, config: ClusterConfig) -> None:
    role, name = options.role, options.name
    if role == "gateway":
        from serving.gateway_process import serve

        uvloop.run(serve(config, options.host, options.port, msgspec.json.decode(options.simulated)))
    elif role == "controller":
        from serving.controller import Controller

        uvloop.run(_until_told(Controller(config, control.token(), options.fresh).run()))
    elif role == "gate":
        from serving.gate.server import GateServer

        pool = next(pool for pool in config.pools if pool.name == name)
        uvloop.run(_until_told(GateServer(config, pool, control.token()).run(options.host)))
    elif role == "prices":
        from serving.prices_process import run as poll_for_ever

        uvloop.run(_until_told(poll_for_ever(config)))
    elif role == "ledger":
        from serving.ledger.loader import run as load_for_ever

        asyncio.run(_until_told(load_for_ever(config)))
    elif role == "meter":
        from serving.meter_process import go_on_as_meter, settings_of

        go_on_as_meter(settings_of(config, control.token()))
    elif role == "pools":
        from serving.pools_process import run

        asyncio.run(run(config))
    else:
        _simulated(config, name, options.host, options.port)


def _simulated(config: ClusterConfig, name: str, host: str, port: int) -> None:
    """One provider of kind simulated, as cluster.yaml describes it; its listed prices are what it reports."""
    from serving.upstreams.simulated import Settings, serve

    provider = next(provider for provider in config.providers if provider.name == name)
    simulated = provider.simulated
    price = provider.models[0].price
    if simulated is None or not isinstance(price, Price):
        raise ValueError(f"provider {name!r} is not simulated, or has no price of its own")
    settings = Settings(
        name=name,
        models=tuple(served.upstream for served in provider.models),
        ttft_s=simulated.ttft_s,
        tokens_per_s=simulated.tokens_per_s,
        concurrency_max=simulated.concurrency_max,
        requests_per_min_max=simulated.requests_per_min_max,
        seed=simulated.seed,
        usd_per_mtok_input=price.input,
        usd_per_mtok_cached=price.input if price.cached is None else price.cached,
        usd_per_mtok_output=price.output,
    )
    serve(host, port, settings)


async def _until_told(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` until it ends or SIGTERM/SIGINT comes."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


if __name__ == "__main__":
    raise SystemExit(main())
