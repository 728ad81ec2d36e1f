"""The simulated provider as an ASGI application: OpenAI's endpoints, and control over how they behave."""

from __future__ import annotations

import hmac
import os
from contextlib import nullcontext
from typing import Any

import msgspec

from serving.upstreams.simulated.connection import ClientGone, Connection, Receive, Scope, Send
from serving.upstreams.simulated.pacing import Chance
from serving.upstreams.simulated.requests import ApiError, bad_request, read
from serving.upstreams.simulated.settings import Counters, Settings, merged, public_view
from serving.upstreams.simulated.work import Broken, Work


class SimulatedProvider:
    """One provider: its settings, what it counted, and its endpoints.

    Outages strike everything under /v1; /healthz and /simulated/* always answer.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = merged(settings, {})
        self.counters = Counters()
        self._work = Work(self.counters, settings.seed)
        self._nonce, self._serial = os.urandom(4).hex(), 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            raise RuntimeError("the simulated provider speaks HTTP only")
        self._serial += 1
        serial = f"{self._nonce}{self._serial:06x}"
        connection = Connection(scope, receive, send, f"req-simulated-{serial}")
        method, path = scope["method"], scope["path"]
        try:
            if not path.startswith("/v1/"):
                await connection.answer(msgspec.json.encode(await self._control(method, path, connection)))
            elif method == "POST":
                await self._counted(path, connection, serial)
            else:
                await self._offer(method, path, connection, serial)
        except ApiError as error:
            await connection.answer_error(error)
        except (ClientGone, Broken):
            pass

    async def _control(self, method: str, path: str, connection: Connection) -> dict[str, Any]:
        """/healthz and /simulated/*, which show and change the provider."""
        match method, path:
            case "GET", "/healthz":
                return {"status": "ok", "simulated": True, "name": self.settings.name}
            case "GET", "/simulated/settings":
                return public_view(self.settings)
            case "PUT", "/simulated/settings":
                self._change(read(await connection.body(), dict[str, Any]))
                return public_view(self.settings)
            case "GET", "/simulated/counters":
                return {"simulated": True, **msgspec.to_builtins(self.counters)}
            case "POST", "/simulated/reset-counters":
                self.counters.reset()
                return {"simulated": True, **msgspec.to_builtins(self.counters)}
        raise _no_endpoint(method, path)

    def _change(self, changes: dict[str, Any]) -> None:
        """Applies changed settings to the requests that come from now on. Raises ApiError 400."""
        if changes.pop("simulated", True) is not True:  # GET shows it, and what GET shows may be sent back
            raise ApiError(400, "a simulated provider cannot be made a real one", param="simulated")
        try:
            settings = merged(self.settings, changes)
        except msgspec.ValidationError as error:
            raise bad_request(error) from error
        if settings.seed != self.settings.seed:
            self._work.chance = Chance(settings.seed)
        self.settings = settings

    async def _counted(self, path: str, connection: Connection, serial: str) -> None:
        """A POST under /v1 with its outcome counted; listing models is not work and counts nowhere."""
        counters = self.counters
        counters.requests += 1
        try:
            await self._offer("POST", path, connection, serial)
            counters.completed += 1
        except ApiError as error:
            counters.rejected_429 += error.status == 429
            counters.rejected_4xx += 400 <= error.status < 500 and error.status != 429
            counters.failed_5xx += error.status >= 500
            raise
        except ClientGone:
            counters.cancelled += 1
        except Broken as broken:
            counters.refused += broken.before_answer
            counters.cut += not broken.before_answer

    async def _offer(self, method: str, path: str, connection: Connection, serial: str) -> None:
        """Everything under /v1. Raises ApiError, Broken and ClientGone."""
        settings = self.settings
        if settings.outage == "refuse":
            await connection.break_off(flush=False)
            raise Broken(before_answer=True)
        body = await connection.body()
        if settings.outage == "hang":
            with self.counters.serving() if method == "POST" else nullcontext():
                await connection.until_gone()
            raise ClientGone
        if settings.outage:
            raise ApiError(int(settings.outage), f"outage {settings.outage}", "server_error", code="outage")
        sent_key = connection.header(b"authorization").removeprefix(b"Bearer ")
        if settings.api_key and not hmac.compare_digest(sent_key, settings.api_key.encode()):
            raise ApiError(401, "incorrect API key", code="invalid_api_key")
        match method, path:
            case "POST", "/v1/chat/completions":
                await self._work.chat(body, connection, serial, settings)
            case "POST", "/v1/completions":
                await self._work.completion(body, connection, serial, settings)
            case "POST", "/v1/embeddings":
                await self._work.embeddings(body, connection, serial, settings)
            case "GET", "/v1/models":
                listed = {"object": "list", "simulated": True, "data": [_model(name) for name in settings.models]}
                await connection.answer(msgspec.json.encode(listed))
            case "GET", _ if path.removeprefix("/v1/models/") in settings.models:
                await connection.answer(msgspec.json.encode(_model(path.removeprefix("/v1/models/"))))
            case _:
                raise _no_endpoint(method, path)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "simulated"}


def _no_endpoint(method: str, path: str) -> ApiError:
    return ApiError(404, f"no such endpoint or model: {method} {path}", code="not_found")
