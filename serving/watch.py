"""Whether the client is still there: its going away cancels the task that serves it, and with it the work upstream."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from serving.asgi import DISCONNECT, OnDisconnect
from serving.intake import Receive

Scope = Mapping[str, Any]


class Watch:
    """Cancels ``task`` when the client goes away: by the server's extension, else by a task that waits in ``receive``."""

    __slots__ = ("_extension", "_task", "_watcher", "client_gone")

    def __init__(self, task: asyncio.Task[Any], scope: Scope, receive: Receive) -> None:
        self._task, self.client_gone = task, False
        self._watcher: asyncio.Task[None] | None = None
        self._extension: OnDisconnect | None = (scope.get("extensions") or {}).get(DISCONNECT)
        if self._extension is not None:
            self._extension.call = self._cancel
        else:
            self._watcher = asyncio.get_running_loop().create_task(self._wait(receive))

    def stop(self) -> None:
        """The answer is complete; nobody needs to watch."""
        if self._extension is not None:
            self._extension.call = None
        elif self._watcher is not None:
            self._watcher.cancel()

    def _cancel(self) -> None:
        self.client_gone = True
        self._task.cancel()

    async def _wait(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._cancel()
