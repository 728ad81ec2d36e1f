"""The gateway's process: composition of view, gates, transports and ledger around the ASGI application."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import secrets
import signal
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import aiohttp
import msgspec

from pricing.report import PriceReport
from scheduler.config import ClusterConfig
from serving import asgi, control
from serving.access import Access
from serving.accounting import Accountant
from serving.clock import now_s
from serving.control import MarketRequest
from serving.dispatcher import Services
from serving.gate.client import GateClient
from serving.gateway import Gateway
from serving.intake import Reader
from serving.learned import Learned
from serving.ledger.journal import Journal
from serving.routes import Route, routes
from serving.settings import core_policy
from serving.status import Status
from serving.tickets import Wants
from serving.upstreams import Transport
from serving.upstreams.http import HttpUpstream
from serving.view import Published, View

log = logging.getLogger("baseload.gateway")

_MARKET_S = 0.5
_PRICES_S = 2.0
_GC_ALLOCATIONS = 50_000


def load_function(path: str) -> Any:
    """The function that ``module:name`` means (triage and other extension points)."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def transports(table: dict[str, Route], config: ClusterConfig) -> dict[str, Transport]:
    """The transports that these routes need; litellm is only imported where a provider uses it."""
    result: dict[str, Transport] = {"http": HttpUpstream()}
    if any(route.transport == "litellm" for route in table.values()):
        from serving.upstreams.litellm import LitellmUpstream

        result["litellm"] = LitellmUpstream(config)
    return result


def only_ours(published: Published, table: Mapping[str, Route]) -> Published:
    """The market without offers whose zone or address this gateway does not know the same way.

    While a changed cluster.yaml is rolled out the controller may already speak of another place than this process.
    """
    offers = tuple(
        offer for offer in published.market.offers if offer.id in table and table[offer.id].zone == offer.zone
    )
    if len(offers) == len(published.market.offers):
        return published
    return msgspec.structs.replace(published, market=replace(published.market, offers=offers))


async def follow_prices(view: View, config: ClusterConfig, token: str) -> None:
    """Ask the controller now and then for the price board as people see it; nothing on a request's path reads it."""
    base = control.url(config)
    async with aiohttp.ClientSession() as session:
        while True:
            report = await control.post(session, base, "report", None, token, PriceReport)
            view.prices = report if report is not None else view.prices
            await asyncio.sleep(_PRICES_S if report is not None else _MARKET_S)


async def follow_market(
    view: View,
    wants: Wants,
    table: Mapping[str, Route],
    config: ClusterConfig,
    gateway: str,
    started_s: float,
    token: str,
) -> None:
    """Ask the controller for the market, for ever; while it is away, the last market stands."""
    base = control.url(config)
    async with aiohttp.ClientSession() as session:
        while True:
            request = MarketRequest(gateway, started_s, view.spent_usd(), view.held_usd(), wants.take())
            published = await control.post(session, base, "market", request, token, Published)
            if published is not None:
                view.publish(only_ours(published, table))
            await asyncio.sleep(_MARKET_S if view.market.version else 0.05)


async def serve(config: ClusterConfig, host: str, port: int, simulated_urls: dict[str, str]) -> None:
    """Run one gateway until SIGTERM or SIGINT."""
    token = control.token()
    gateway_id = f"gateway-{secrets.token_hex(6)}"
    started_s = now_s()
    policy = core_policy(config)
    view = View(policy, config.policy.retry_share_max, now_s)
    table = routes(config, token, simulated_urls)
    access = Access(config)
    listener = asgi.listen(host, port)
    journal = Journal(
        config.ledger.journal, gateway_id, segment_bytes_max=int(config.ledger.segment_mib_max * 2**20)
    ).open()
    loop = asyncio.get_running_loop()
    accountant = Accountant(journal, view, gateway_id, loop.call_soon)
    gates = {pool.name: GateClient(gateway_id, partial(_gate_address, view, pool.name), token) for pool in config.pools}
    sources = transports(table, config)
    learned, wants = Learned(), Wants()
    services = Services(view, table, sources, gates, accountant, policy, learned, wants, now_s)
    reader = Reader(config, access, load_function(config.policy.triage), learned, now_s)
    budgeted = frozenset(tenant.name for tenant in config.tenants if tenant.budget is not None)
    may_be_empty = frozenset(pool.name for pool in config.pools if not pool.replicas.min)
    app = Gateway(config, access, reader, services, Status(view, accountant, budgeted, may_be_empty))
    server = asgi.server(app, config.policy.bounds)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, partial(setattr, server, "should_exit", True))
    followers = [
        loop.create_task(follow_market(view, wants, table, config, gateway_id, started_s, token)),
        loop.create_task(follow_prices(view, config, token)),
    ]
    for gate in gates.values():
        gate.start()
    _calm_garbage_collector()
    log.info("gateway ready", extra={"url": f"http://{host}:{port}", "gateway": gateway_id, "pid": os.getpid()})
    try:
        await server.serve(sockets=[listener])
    finally:
        for follower in followers:
            follower.cancel()
        for gate in gates.values():
            await gate.close()
        for source in sources.values():
            await source.close()
        journal.close()


def _gate_address(view: View, pool: str) -> str | None:
    return view.gates.get(pool)


def _calm_garbage_collector() -> None:
    """What start-up made stays for ever, and requests free by reference count: scanning either is 8 % of the CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_ALLOCATIONS, 20, 50)
