"""Gate and gateways over real sockets: slots survive lost connections, restarts and clients that give up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from scheduler.config import ClusterConfig
from serving.gate.client import GateBounce, GateClient
from serving.gate.server import GateServer
from serving.gate.wire import Enter
from tests.support.sites import CURVE, pool, site

TOKEN = "token-of-this-run"


async def until(ready: Callable[[], bool]) -> None:
    """Wait for ``ready``, at most ten seconds."""
    async with asyncio.timeout(10):
        while not ready():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def serving(app: web.Application, port: int = 0) -> AsyncIterator[int]:
    """``app`` on a port; at the end every connection is dropped at once."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


class Engine:
    """A server that answers as vLLM's metrics do; ``alive`` and ``queued`` can be changed."""

    def __init__(self) -> None:
        self.alive, self.queued, self.url = True, 0, ""

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        return app

    async def _metrics(self, request: web.Request) -> web.Response:
        if not self.alive:
            return web.Response(status=503)
        return web.Response(text=f'vllm:num_requests_waiting{{engine="0"}} {self.queued}\n')


class Place:
    """One engine, one gate that can be restarted on its port, any number of gateways."""

    def __init__(self, stack: AsyncExitStack, slots: int, waiting_max: int) -> None:
        self._stack, self._slots, self._waiting_max = stack, slots, waiting_max
        self.engine, self.port = Engine(), 0
        self._running: AsyncExitStack | None = None

    async def start_gate(self) -> None:
        row = pool("own", curve=CURVE | {"seqs_max": self._slots}, gate={"waiting_max": self._waiting_max})
        row["engine"]["urls"] = [self.engine.url]
        config = ClusterConfig.model_validate(site(pools=[row]))
        self.gate = GateServer(config, config.pools[0], TOKEN)
        self._running = AsyncExitStack()
        self.port = await self._running.enter_async_context(serving(self.gate.app(), self.port))
        session = await self._running.enter_async_context(aiohttp.ClientSession())
        for loop in (self.gate._tick(), self.gate._poll(session)):
            self._running.push_async_callback(ended, asyncio.create_task(loop))
        await until(lambda: self.gate.state.pool.slots == self._slots)

    async def stop_gate(self) -> None:
        if self._running is not None:
            running, self._running = self._running, None
            await running.aclose()

    async def gateway(self, name: str, token: str = TOKEN) -> GateClient:
        client = GateClient(name, lambda: f"http://127.0.0.1:{self.port}", token)
        client.start()
        self._stack.push_async_callback(client.close)
        return client

    def counts(self, running: int, waiting: int) -> Callable[[], bool]:
        return lambda: (self.gate.state.pool.running, self.gate.state.pool.waiting) == (running, waiting)


async def ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def run(test: Callable[[Place], Coroutine[Any, Any, None]], slots: int = 1, waiting_max: int = 8) -> None:
    async def around() -> None:
        async with AsyncExitStack() as stack:
            place = Place(stack, slots, waiting_max)
            port = await stack.enter_async_context(serving(place.engine.app()))
            place.engine.url = f"http://127.0.0.1:{port}"
            stack.push_async_callback(place.stop_gate)
            await place.start_gate()
            await test(place)

    asyncio.run(around())


def ticket(ticket_id: str, within_s: float = 30.0) -> Enter:
    return Enter(ticket_id, 0.1, 0.01, within_s)


def test_a_granted_ticket_names_an_engine_and_gives_its_slot_back() -> None:
    async def test(place: Place) -> None:
        gateway = await place.gateway("g")
        grant = await gateway.enter(ticket("1"))
        assert (grant.replica, grant.url) == ("own-0", place.engine.url)
        assert place.counts(1, 0)()
        await gateway.leave("1")
        await until(place.counts(0, 0))

    run(test)


def test_a_ticket_is_held_until_a_slot_frees() -> None:
    async def test(place: Place) -> None:
        gateway, other = await place.gateway("g"), await place.gateway("h")
        await gateway.enter(ticket("1"))
        waiting = asyncio.create_task(other.enter(ticket("2")))
        await until(place.counts(1, 1))
        assert not waiting.done()
        await gateway.leave("1")
        assert (await waiting).url == place.engine.url
        assert place.counts(1, 0)()

    run(test)


def test_a_full_queue_and_a_wait_that_ends_both_bounce() -> None:
    async def test(place: Place) -> None:
        gateway = await place.gateway("g")
        await gateway.enter(ticket("1"))
        with pytest.raises(GateBounce, match="too late"):
            await gateway.enter(ticket("2", within_s=0.0))
        place.gate.state.pool.service_s_mean = 0.01  # a short wait is promised, and the slot is kept
        waiting = asyncio.create_task(gateway.enter(ticket("3", within_s=0.3)))
        await until(place.counts(1, 1))
        with pytest.raises(GateBounce, match="queue is full"):
            await gateway.enter(ticket("4"))
        with pytest.raises(GateBounce, match="waited too long"):
            await waiting
        assert place.counts(1, 0)()

    run(test, waiting_max=1)


def test_a_request_that_is_cancelled_while_it_waits_gives_its_place_back() -> None:
    async def test(place: Place) -> None:
        gateway = await place.gateway("g")
        await gateway.enter(ticket("1"))
        waiting = asyncio.create_task(gateway.enter(ticket("2")))
        await until(place.counts(1, 1))
        await ended(waiting)
        await until(place.counts(1, 0))
        await gateway.leave("1")
        await until(place.counts(0, 0))

    run(test)


def test_a_gateway_whose_connection_breaks_frees_its_slot_for_another_gateways_waiter() -> None:
    async def test(place: Place) -> None:
        dying, other = await place.gateway("dying"), await place.gateway("other")
        await dying.enter(ticket("1"))
        waiting = asyncio.create_task(other.enter(ticket("2")))
        await until(place.counts(1, 1))
        await dying.close()
        await waiting
        await until(place.counts(1, 0))

    run(test)


def test_after_a_restart_of_the_gate_held_slots_are_counted_again_and_waiters_ask_again() -> None:
    async def test(place: Place) -> None:
        gateway = await place.gateway("g")
        await gateway.enter(ticket("1"))
        waiting = asyncio.create_task(gateway.enter(ticket("2")))
        await until(place.counts(1, 1))
        await place.stop_gate()
        await place.start_gate()
        await until(place.counts(1, 1))
        assert not waiting.done()
        await gateway.leave("1")
        assert (await waiting).replica == "own-0"
        await gateway.leave("2")
        await until(place.counts(0, 0))

    run(test)


def test_a_ticket_that_is_asked_for_while_the_gate_is_away_is_granted_when_it_is_back() -> None:
    async def test(place: Place) -> None:
        gateway = await place.gateway("g")
        await gateway.enter(ticket("1"))
        await gateway.leave("1")
        await place.stop_gate()
        waiting = asyncio.create_task(gateway.enter(ticket("2")))
        await place.start_gate()
        assert (await waiting).url == place.engine.url

    run(test)


def test_a_gate_that_does_not_answer_bounces_and_a_wrong_token_never_comes_in() -> None:
    async def test(place: Place) -> None:
        stranger = await place.gateway("stranger", token="wrong")
        with pytest.raises(GateBounce, match="does not answer"):
            await stranger.enter(ticket("1", within_s=0.1))
        assert place.counts(0, 0)()

    run(test)


def test_an_engine_that_stops_answering_sends_its_waiters_elsewhere_and_comes_back() -> None:
    async def test(place: Place) -> None:
        gateway = await place.gateway("g")
        await gateway.enter(ticket("1"))
        waiting = asyncio.create_task(gateway.enter(ticket("2")))
        await until(place.counts(1, 1))
        place.engine.alive = False
        with pytest.raises(GateBounce, match="no healthy replica"):
            await waiting
        await gateway.leave("1")
        place.engine.alive = True
        await until(lambda: place.gate.state.pool.healthy == 1)
        await gateway.enter(ticket("3"))

    run(test)


def test_an_engine_that_queues_by_itself_gets_nothing_until_its_queue_is_empty() -> None:
    async def test(place: Place) -> None:
        gateway = await place.gateway("g")
        place.engine.queued = 3
        await until(lambda: place.gate.state.stats().waiting == 3)
        waiting = asyncio.create_task(gateway.enter(ticket("1")))
        await until(place.counts(0, 1))
        place.engine.queued = 0
        await waiting

    run(test, slots=4)


def test_a_replica_that_refused_the_connection_is_left_alone_until_it_answers_again() -> None:
    async def test(place: Place) -> None:
        gateway = await place.gateway("g")
        await gateway.enter(ticket("1"))
        place.engine.alive = False
        await gateway.leave("1", unreachable=True)
        await until(lambda: (place.gate.state.pool.running, place.gate.state.pool.healthy) == (0, 0))
        with pytest.raises(GateBounce, match="no healthy replica"):
            await gateway.enter(ticket("2"))

    run(test)
