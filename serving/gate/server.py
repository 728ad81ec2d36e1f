"""The gate's process: gateways by WebSocket, engines by their counters, the controller by a report.

It needs none of the others to go on: without the controller it keeps the replicas it knows, and gateways that reconnect
tell it what they hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Literal

import aiohttp
import msgspec
from aiohttp import web

from scheduler.config import ClusterConfig
from scheduler.config.supply import Pool
from scheduler.core.lanes import GateSettings
from scheduler.core.supply import Usage
from serving import control
from serving.clock import now_s
from serving.gate import engine_stats, wire
from serving.gate.state import GateState, Messages
from serving.gate.wire import Began, EngineStats, Enter, GateAnswer, GateReport, Hello, Leave
from serving.settings import core_policy, ttft_limits

log = logging.getLogger("baseload.gate")

_TICK_S = 0.05
_POLL_S = 0.5
_REPORT_S = 0.25
_SCRAPE_S_MAX = 2.0
# How long a gate that has just started holds requests while it has not heard of any engine.
_SURVEY_S_MAX = 2.0
# An engine that works hard may be late with its counters: only so many times in a row it counts as gone.
_LATE_MAX = 3
_LATE: Literal["late"] = "late"
_MESSAGE_BYTES_MAX = 1024 * 1024
_TYPICAL = Usage(256, 0, 128)


class GateServer:
    """One pool's gate as a server."""

    def __init__(self, config: ClusterConfig, pool: Pool, token: str) -> None:
        self._pool, self._token = pool, token
        curve = pool.curve
        guess_s = curve.ttft_base_s + _TYPICAL.input_tokens / curve.prefill_tokens_per_s
        guess_s += _TYPICAL.output_tokens * (curve.itl_base_s + curve.itl_per_seq_s * curve.seqs_max)
        settings = GateSettings(
            slots=curve.seqs_max,
            waiting_max=pool.gate.waiting_max,
            service_s_guess=guess_s,
            kv_tokens=curve.kv_tokens,
            ttft_base_s=curve.ttft_base_s,
            step_base_s=curve.itl_base_s,
            step_per_seq_s=curve.itl_per_seq_s,
            ttft_s_max=ttft_limits(config),
        )
        self.state = GateState(settings, core_policy(config), pool.gate.hold_s_max, pool.gate.holds)
        self._sockets: dict[str, web.WebSocketResponse] = {}
        self._controller_url = control.url(config)
        self._url = ""
        self._late: dict[str, int] = {}
        self._static = {f"{pool.name}-{i}": u for i, u in enumerate(getattr(pool.engine, "urls", ()))}
        self.state.set_replicas(self._static, now_s())

    def app(self) -> web.Application:
        """Routes: the gateways' WebSocket and a health check."""
        app = web.Application(client_max_size=_MESSAGE_BYTES_MAX)
        app.router.add_get("/gateway", self._gateway)
        app.router.add_get("/healthz", self._health)
        return app

    async def run(self, host: str) -> None:
        """Serve until cancelled."""
        runner = web.AppRunner(self.app(), access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, host, 0)
        await site.start()
        self._url = f"http://{host}:{runner.addresses[0][1]}"
        log.info("gate ready", extra={"pool": self._pool.name, "url": self._url})
        try:
            async with asyncio.TaskGroup() as group, aiohttp.ClientSession() as session:
                group.create_task(self._tick())
                group.create_task(self._poll(session))
                await self._report(session)
        finally:
            await runner.cleanup()

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"pool": self._pool.name, "running": self.state.pool.running, "waiting": self.state.pool.waiting}
        )

    async def _gateway(self, request: web.Request) -> web.StreamResponse:
        if not control.authorized(request.headers.get("authorization", ""), self._token):
            return web.Response(status=401)
        socket = web.WebSocketResponse(heartbeat=10.0, max_msg_size=_MESSAGE_BYTES_MAX, compress=False)
        await socket.prepare(request)
        owner = ""
        try:
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.TEXT and message.type is not aiohttp.WSMsgType.BINARY:
                    break
                try:
                    received = wire.decode_to_gate(message.data)
                except msgspec.DecodeError as error:
                    log.warning("message refused", extra={"error": str(error)})
                    break
                if isinstance(received, Hello):
                    owner = received.gateway
                    self._sockets[owner] = socket
                    await self._send(self.state.hello(owner, received.held, now_s()))
                elif isinstance(received, Enter):
                    await self._send(self.state.enter(owner, received, now_s()))
                elif isinstance(received, Began):
                    await self._send(self.state.began(received.id, now_s()))
                elif isinstance(received, Leave):
                    await self._send(self.state.leave(received.id, now_s(), received.unreachable))
        finally:
            if self._sockets.get(owner) is socket:
                del self._sockets[owner]
                await self._send(self.state.gone(owner, now_s()))
        return socket

    async def _send(self, messages: Messages) -> None:
        for owner, message in messages:
            socket = self._sockets.get(owner)
            if socket is not None and not socket.closed:
                with contextlib.suppress(ConnectionError):
                    await socket.send_bytes(wire.encode(message))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            await self._send(self.state.tick(now_s()))

    async def _poll(self, session: aiohttp.ClientSession) -> None:
        """Ask every engine for its counters; one that does not answer gets no more requests."""
        started_s = now_s()
        while True:
            engines = self.state.urls()
            unbegun = {replica_id: self.state.unbegun(replica_id) for replica_id in engines}
            results = await asyncio.gather(*(self._scrape(session, url) for url in engines.values()))
            for replica_id, stats in zip(engines, results, strict=True):
                late = self._late[replica_id] = self._late.get(replica_id, 0) + 1 if stats is _LATE else 0
                if not 0 < late < _LATE_MAX:
                    known = stats if isinstance(stats, EngineStats) else None
                    await self._send(self.state.heard(replica_id, known, now_s(), unbegun[replica_id]))
            self._late = {replica_id: late for replica_id, late in self._late.items() if replica_id in engines}
            if engines or now_s() - started_s > _SURVEY_S_MAX:
                await self._send(self.state.surveyed(now_s()))
            await asyncio.sleep(_POLL_S if engines else _TICK_S)

    async def _scrape(self, session: aiohttp.ClientSession, url: str) -> EngineStats | Literal["late"] | None:
        try:
            async with session.get(f"{url}/metrics", timeout=aiohttp.ClientTimeout(total=_SCRAPE_S_MAX)) as response:
                if response.status >= 500:
                    return None
                # A server without counters (404) is alive; its queue is then known from the gate alone.
                return engine_stats.parse(await response.text()) if response.status == 200 else EngineStats()
        except TimeoutError:
            return _LATE
        except (aiohttp.ClientError, OSError, UnicodeDecodeError):
            return None

    async def _report(self, session: aiohttp.ClientSession) -> None:
        while True:
            report = self.report()
            answer = await control.post(session, self._controller_url, "gates", report, self._token, GateAnswer)
            if answer is not None:
                await self._send(self.hear(answer))
            await asyncio.sleep(_REPORT_S)

    def report(self) -> GateReport:
        """Exact state, as of now."""
        state, now = self.state, now_s()
        return GateReport(
            pool=self._pool.name,
            url=self._url,
            surveyed=state.is_surveyed,
            replicas=state.pool.healthy,
            slots=state.pool.slots,
            running=state.pool.running,
            waiting=state.pool.waiting,
            service_s_mean=state.pool.service_s_mean,
            engine=state.stats(),
            levels=state.levels(now),
            ratio=state.pool.calibration.work.value,
            admitted_per_s=state.admitted_per_s(now),
            slots_bound=state.pool.calibration.slots_bound,
            gated=state.holds,
            bids_at_s=state.bids_at_s,
        )

    def hear(self, answer: GateAnswer) -> Messages:
        """What the controller says: who is there, and bid curves where there are newer ones."""
        if answer.bids is not None:
            self.state.set_bids(answer.bids)
        replicas = self._static | {replica.id: replica.url for replica in answer.replicas}
        return self.state.set_replicas(replicas, now_s())
