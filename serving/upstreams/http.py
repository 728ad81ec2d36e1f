"""OpenAI-compatible HTTP: pool replicas and raw pass-through providers, over one pooled client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import aiohttp

from serving.routes import Route
from serving.upstreams import UpstreamError

_BODY_BYTES_MAX = 64 * 1024 * 1024
_CONNECT_S_MAX = 3.0
_CONNECTIONS_MAX = 4096
# Below the 5 s after which uvicorn (and so vLLM) closes an idle connection: a request never meets that closing.
_IDLE_S_MAX = 4.0


class HttpReply:
    """An aiohttp response as a ``Reply``."""

    __slots__ = ("_response", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status: int = response.status
        self.headers: Mapping[str, str] = response.headers

    async def read(self) -> bytes:
        """The whole body; UpstreamError where it breaks off or is larger than 64 MiB."""
        length = self._response.content_length
        if length is not None and length > _BODY_BYTES_MAX:
            raise UpstreamError(f"the answer is larger than {_BODY_BYTES_MAX} bytes")
        try:
            if length is not None and "content-encoding" not in self.headers:  # else it may inflate without bound
                return await self._response.read()
            parts, size = [], 0
            async for chunk in self._response.content.iter_any():
                size += len(chunk)
                if size > _BODY_BYTES_MAX:
                    raise UpstreamError(f"the answer is larger than {_BODY_BYTES_MAX} bytes")
                parts.append(chunk)
            return b"".join(parts)
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamError(f"broke off: {type(error).__name__}") from error

    async def chunks(self) -> AsyncIterator[bytes]:
        """Bytes as they arrive."""
        try:
            read = self._response.content.readany
            while chunk := await read():
                yield chunk
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamError(f"broke off: {type(error).__name__}") from error

    def close(self) -> None:
        """Close the connection unless the answer was read to its end (then it goes back to the pool)."""
        self._response.close()


class HttpUpstream:
    """POSTs to any OpenAI-compatible server. No retries and no timeouts but for the connect: the dispatcher owns both."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS_MAX, keepalive_timeout=_IDLE_S_MAX),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S_MAX),
            auto_decompress=True,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
        )

    async def post(self, base_url: str, path: str, body: bytes, route: Route, left_s: float) -> HttpReply:
        """Send ``body``; return once the head of the answer is there. Raises UpstreamError."""
        headers = {"content-type": "application/json"}
        if route.api_key:
            headers["authorization"] = "Bearer " + route.api_key
        try:
            response = await self._session.post(base_url + path, data=body, headers=headers, allow_redirects=False)
        except aiohttp.ClientConnectorError as error:
            raise UpstreamError(f"cannot connect: {error.os_error.strerror or error.os_error}", begun=False) from error
        except aiohttp.ServerTimeoutError as error:
            raise UpstreamError("cannot connect in time", begun=False) from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamError(f"broke off: {type(error).__name__}") from error
        return HttpReply(response)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()
