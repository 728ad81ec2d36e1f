"""A replica that may be told to go while it serves: it says so, finishes what it has, and ends then."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from serving import control
from serving.control import Announcement
from serving.gate.wire import ReplicaInfo
from serving.pools import ReplicaSettings, VllmReplica

log = logging.getLogger("baseload.pool")

# A gate hears within a quarter of a second that the replica goes; what it gave until then is on its way here.
_SETTLE_S = 1.0
_LOOK_S = 0.1


class DrainedReplica(VllmReplica):
    """Serve chooses which replica goes, and calls ``__del__`` of that one: the only place where it hears of it.

    Serve's own draining counts requests that came through Serve, of which there are none. Answers that take longer than
    ``drain_s`` break off, as with an engine that dies: before their first byte, ``next_attempt`` takes them elsewhere.
    """

    async def __init__(self, settings: ReplicaSettings, drain_s: float) -> None:  # type: ignore[misc]  # as its base
        """As ``VllmReplica``."""
        self._drain_s, self._inflight, self._url = drain_s, 0, ""
        await super().__init__(settings)

    async def _build(self) -> Any:
        app = await super()._build()

        async def counted(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
                await app(scope, receive, send)
                return
            self._inflight += 1
            try:
                await app(scope, receive, send)
            finally:
                self._inflight -= 1

        return counted

    async def _announce(self, url: str) -> None:
        self._url = url
        await super()._announce(url)

    async def __del__(self) -> None:
        """Serve's hook for a replica that goes."""
        await self._drain()
        await super().__del__()

    async def _drain(self) -> None:
        """Until nothing is left to answer. Gates stop scraping a replica that they no longer know; it serves on."""
        import aiohttp

        if not self._url or self._engine.errored:
            return
        self._tasks.pop().cancel()  # the announcements: the server goes on
        began_s, settings = time.monotonic(), self._settings
        message = Announcement(settings.pool, ReplicaInfo(self._id, self._url), leaves=True)
        async with aiohttp.ClientSession() as session:
            await control.post(session, settings.controller, "replicas", message, settings.token, dict)
        while (took_s := time.monotonic() - began_s) < self._drain_s and not self._engine.errored:
            if not self._inflight and took_s >= _SETTLE_S:
                break
            await asyncio.sleep(_LOOK_S)
        log.info("replica leaves", extra={"replica": self._id, "unfinished": self._inflight, "took_s": took_s})
