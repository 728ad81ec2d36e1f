"""A gateway's side of a gate: one WebSocket, reconnected for ever; each request awaits its one answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import aiohttp
import msgspec

from serving.gate import wire
from serving.gate.wire import Began, Bounced, Enter, Granted, Hello, Leave

log = logging.getLogger("baseload.gate")

_RECONNECT_S_MIN = 0.05
_RECONNECT_S_MAX = 1.0


class GateBounce(Exception):
    """The gate said no, or could not be asked in time."""

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(reason)
        self.reason, self.retry_after_s = reason, retry_after_s


class Grant(NamedTuple):
    """A slot on a replica, held until ``leave``."""

    replica: str
    url: str


class GateClient:
    """Connection to the gate of one pool. ``address`` is asked at each (re)connect, as the gate may have moved."""

    def __init__(self, gateway: str, address: Callable[[], str | None], token: str) -> None:
        self._gateway, self._address, self._token = gateway, address, token
        self._held: dict[str, str] = {}
        self._pending: dict[str, tuple[Enter, asyncio.Future[Grant], float]] = {}
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._task: asyncio.Task[None] | None = None
        self._posts: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to connect, in the background."""
        self._task = asyncio.create_task(self._connect_for_ever())

    async def close(self) -> None:
        """Disconnect; the gate frees whatever is still held."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def enter(self, message: Enter) -> Grant:
        """Wait for a slot, at most ``start_within_s``. Raises GateBounce. A cancelled wait gives its place back."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Grant] = loop.create_future()
        self._pending[message.id] = (message, future, loop.time())
        try:
            if self._socket is not None:
                await self._post(message)
            # The gate ends a wait by itself; the margin is for a gate that is away.
            async with asyncio.timeout(message.start_within_s + 0.25):
                grant = await future
        except TimeoutError:
            await self._give_back(message.id)
            raise GateBounce("the pool's gate does not answer", 1.0) from None
        except asyncio.CancelledError:
            await self._give_back(message.id)
            raise
        finally:
            self._pending.pop(message.id, None)
        return grant

    def began(self, ticket_id: str) -> None:
        """The first token of a granted request is here. The client's stream does not wait for the gate to be told."""
        if ticket_id in self._held:
            self._soon(self._post(Began(ticket_id)))

    def _soon(self, post: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(post)
        self._posts.add(task)
        task.add_done_callback(self._posts.discard)

    async def leave(self, ticket_id: str, unreachable: bool = False) -> None:
        """Give a granted slot back."""
        if self._held.pop(ticket_id, None) is not None:
            await self._post(Leave(ticket_id, unreachable))

    async def _give_back(self, ticket_id: str) -> None:
        self._held.pop(ticket_id, None)
        await self._post(Leave(ticket_id))

    async def _post(self, message: wire.ToGate) -> None:
        socket = self._socket
        if socket is not None and not socket.closed:
            with contextlib.suppress(ConnectionError):
                await socket.send_bytes(wire.encode(message))

    async def _connect_for_ever(self) -> None:
        pause_s = _RECONNECT_S_MIN
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {self._token}"}) as session:
            while True:
                address = self._address()
                if address is not None:
                    try:
                        async with session.ws_connect(
                            f"{address}/gateway",
                            heartbeat=10.0,
                            compress=0,
                            timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
                        ) as socket:
                            pause_s = _RECONNECT_S_MIN
                            await self._talk(socket)
                    except (aiohttp.ClientError, OSError, TimeoutError):
                        pass
                    finally:
                        self._socket = None
                await asyncio.sleep(pause_s)
                pause_s = min(_RECONNECT_S_MAX, pause_s * 2)

    async def _talk(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        await socket.send_bytes(wire.encode(Hello(self._gateway, self._held)))
        self._socket = socket
        now_s = asyncio.get_running_loop().time()
        for message, _, asked_s in list(self._pending.values()):
            await socket.send_bytes(wire.encode(message.after(now_s - asked_s)))
        async for frame in socket:
            if frame.type is not aiohttp.WSMsgType.BINARY:
                break
            try:
                answer = wire.decode_to_gateway(frame.data)
            except msgspec.DecodeError:
                log.warning("the gate sent something that is no message")
                break
            self._answered(answer)

    def _answered(self, answer: wire.ToGateway) -> None:
        waiting = self._pending.pop(answer.id, None)
        if isinstance(answer, Granted):
            self._held[answer.id] = answer.replica
            if waiting is not None and not waiting[1].done():
                waiting[1].set_result(Grant(answer.replica, answer.url))
            elif answer.id in self._held:
                # Nobody waits for it any more: straight back, or the slot would be lost.
                self._soon(self._give_back(answer.id))
        elif isinstance(answer, Bounced) and waiting is not None and not waiting[1].done():
            waiting[1].set_exception(GateBounce(answer.reason, answer.retry_after_s))
