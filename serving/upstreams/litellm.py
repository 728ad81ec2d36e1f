"""litellm as transport only: its retries, fallbacks, caching, callbacks and router are off.

Imported late and only where cluster.yaml has a provider of kind litellm: ``import litellm`` takes seconds and 170 MB.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # the bundled map: no download at import

import httpx  # what litellm speaks through; not a dependency of its own
import litellm

from scheduler.config import ClusterConfig
from serving.routes import Route
from serving.sse import DONE
from serving.upstreams import Reply, UpstreamError

litellm.telemetry = False
litellm.suppress_debug_info = True
litellm.num_retries = 0
litellm.turn_off_message_logging = True
litellm.callbacks = []

_CALLS = {
    "/v1/chat/completions": litellm.acompletion,
    "/v1/completions": litellm.atext_completion,
    "/v1/embeddings": litellm.aembedding,
}


_PASSED = frozenset(
    [
        "model",
        "messages",
        "prompt",
        "input",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "n",
        "temperature",
        "top_p",
        "stop",
        "seed",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "logprobs",
        "top_logprobs",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "reasoning_effort",
        "user",
        "encoding_format",
        "dimensions",
        "suffix",
        "echo",
        "best_of",
        "service_tier",
        "web_search_options",
    ]
)


class LitellmReply:
    """litellm's answer, stream or error as a ``Reply``."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes = b"", stream: Any = None) -> None:
        self.status, self.headers = status, headers
        self._body, self._stream = body, stream

    async def read(self) -> bytes:
        """The whole body."""
        return self._body

    async def chunks(self) -> AsyncIterator[bytes]:
        """Each of litellm's chunks as one server-sent event, then [DONE]."""
        try:
            async for chunk in self._stream:
                text = chunk.model_dump_json(exclude_none=True).encode()
                for event in (text,) if getattr(chunk, "usage", None) is None else _usage_apart(text):
                    yield b"data: " + event + b"\n\n"
        except Exception as error:  # litellm raises its own and its providers' exceptions
            raise UpstreamError(f"broke off: {type(error).__name__}") from error
        yield DONE

    def close(self) -> None:
        """Drop the stream; its connection is closed with it."""
        self._stream = None


class LitellmUpstream:
    """Any of litellm's providers."""

    def __init__(self, config: ClusterConfig) -> None:
        self._params: dict[str, dict[str, Any]] = {}
        for provider in config.providers:
            if provider.kind == "litellm":
                for served in provider.models:
                    self._params[f"{provider.name}/{served.model}"] = provider.litellm_params
        # One client for the OpenAI family, which litellm would otherwise make anew for some calls and never close; and
        # a redirect must not carry a request to a place that nobody has checked.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=4.0)
        self._client = httpx.AsyncClient(timeout=None, follow_redirects=False, limits=limits)  # noqa: S113 - see post
        litellm.aclient_session = self._client

    async def post(self, base_url: str, path: str, body: bytes, route: Route, left_s: float) -> Reply:
        """Call litellm once. Raises UpstreamError where the provider cannot be reached."""
        # litellm takes addresses, keys and other providers from the same arguments as the request itself: of a client's
        # body only what OpenAI's API names may reach it.
        asked: dict[str, Any] = msgspec.json.decode(body)
        fields = {name: value for name, value in asked.items() if name in _PASSED}
        fields |= self._params.get(route.offer_id, {})
        if base_url:
            fields["api_base"] = base_url
        if route.api_key:
            fields["api_key"] = route.api_key
        try:
            answer = await _CALLS[path](**fields, timeout=left_s, num_retries=0, max_retries=0, fallbacks=None)
        except Exception as error:  # see above
            return _refused(error)
        if fields.get("stream"):
            return LitellmReply(200, {}, stream=answer)
        return LitellmReply(200, {}, answer.model_dump_json(exclude_none=True).encode())

    async def close(self) -> None:
        """Close our client, and those that litellm keeps itself."""
        await self._client.aclose()
        await litellm.close_litellm_async_clients()


def _usage_apart(text: bytes) -> list[bytes]:
    """A chunk with usage as OpenAI sends it: what it says, if anything, and an event of its own for the usage."""
    fields: dict[str, Any] = msgspec.json.decode(text)
    usage, choices = fields.pop("usage"), fields.get("choices", [])
    says = any(choice.get("finish_reason") or choice.get("delta") or choice.get("text") for choice in choices)
    last = msgspec.json.encode({**fields, "choices": [], "usage": usage})
    return [msgspec.json.encode(fields), last] if says else [last]


def _refused(error: Exception) -> LitellmReply:
    """The provider's status where there is one; a connection that failed raises instead."""
    if isinstance(error, litellm.APIConnectionError | litellm.Timeout) or (
        isinstance(error, litellm.InternalServerError) and "Connection error" in str(error)
    ):
        raise UpstreamError(f"cannot connect: {type(error).__name__}", begun=False) from error
    status = int(getattr(error, "status_code", 500) or 500)
    headers = getattr(error, "litellm_response_headers", None) or {}
    body = msgspec.json.encode(
        {"error": {"message": str(error)[:2000], "type": type(error).__name__, "param": None, "code": None}}
    )
    return LitellmReply(status, {key.lower(): value for key, value in dict(headers).items()}, body)
