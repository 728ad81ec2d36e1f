"""Server-sent events on their way through: bytes are relayed as they come; only usage and the end are looked at."""

from __future__ import annotations

from typing import Any

import msgspec

from scheduler.core.supply import Usage
from serving.upstreams import UpstreamError

_decode = msgspec.json.decode
_encode = msgspec.json.encode

DONE = b"data: [DONE]\n\n"
_TOKENS_MAX = 2**40  # a source that claims more is not believed
_EVENT_BYTES_MAX = 8 * 1024 * 1024


class CacheWrites(msgspec.Struct):
    """litellm's ``cache_creation_token_details``."""

    ephemeral_1h_input_tokens: int | None = None


class PromptDetails(msgspec.Struct):
    """OpenAI's ``prompt_tokens_details``.

    Cache writes are ``cache_write_tokens`` with OpenAI and OpenRouter, ``cache_creation_tokens`` with litellm, which
    may send the same count under both names; ``web_search_requests`` is litellm's.
    """

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_creation_tokens: int | None = None
    cache_creation_token_details: CacheWrites | None = None
    web_search_requests: int | None = None


class CompletionDetails(msgspec.Struct):
    """OpenAI's ``completion_tokens_details``."""

    reasoning_tokens: int | None = None


class ServerToolUse(msgspec.Struct):
    """Anthropic's ``server_tool_use``, which OpenRouter and litellm send too."""

    web_search_requests: int | None = None


_NO_PROMPT_DETAILS = PromptDetails()


class UsageBlock(msgspec.Struct):
    """OpenAI's ``usage``; anything else in it is ignored here and relayed untouched.

    ``cache_creation_input_tokens``: Anthropic's name, which litellm keeps; part of ``prompt_tokens`` as litellm counts.
    """

    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    total_tokens: Any = None  # only compared
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None
    cache_creation_input_tokens: int | None = None
    server_tool_use: ServerToolUse | None = None

    def usage(self, searches_asked: int = 0) -> Usage:
        """As the core's type, with impossible values (negative, more cached than read) cut to possible ones.

        ``searches_asked`` counts where the source does not say how often it searched. Reasoning is part of the
        completion as OpenAI counts; xAI counts it beside, and its ``total_tokens`` shows it.
        """
        read, written = _tokens(self.prompt_tokens, _TOKENS_MAX), _tokens(self.completion_tokens, _TOKENS_MAX)
        prompt, completion = self.prompt_tokens_details or _NO_PROMPT_DETAILS, self.completion_tokens_details
        cached = _tokens(prompt.cached_tokens, read)
        created = prompt.cache_write_tokens or prompt.cache_creation_tokens or self.cache_creation_input_tokens
        created, kept = _tokens(created, read - cached), 0
        if created and prompt.cache_creation_token_details is not None:
            kept = _tokens(prompt.cache_creation_token_details.ephemeral_1h_input_tokens, created)
        reasoning = _tokens(completion.reasoning_tokens, _TOKENS_MAX) if completion else 0
        if reasoning and self.total_tokens == read + written + reasoning:
            written += reasoning
        searches = self.server_tool_use.web_search_requests if self.server_tool_use else None
        if searches is None:
            searches = prompt.web_search_requests
        searches = searches_asked if searches is None else _tokens(searches, _TOKENS_MAX)
        return Usage(read, cached, written, created - kept, kept, min(reasoning, written), searches)


def _tokens(count: int | None, most: int) -> int:
    return min(most, max(0, count or 0))


class Answer(msgspec.Struct):
    """What is read of a plain answer."""

    usage: UsageBlock | None = None


_answer = msgspec.json.Decoder(Answer).decode


def usage_of(body: bytes, searches_asked: int = 0) -> Usage | None:
    """The usage of a plain answer, or None where it has none (or is not JSON); see ``UsageBlock.usage``."""
    try:
        block = _answer(body).usage
    except (msgspec.DecodeError, RecursionError):
        return None
    return block.usage(searches_asked) if block else None


class _Event(msgspec.Struct):
    usage: UsageBlock | None = None
    choices: list[msgspec.Raw] | None = None
    error: Any = None  # an object, or a text


_event = msgspec.json.Decoder(_Event).decode


class StreamReader:
    """Cuts a stream into whole events, remembers the usage, and holds back the end.

    ``feed`` returns the bytes to relay now. After the last chunk: ``done`` (the source said [DONE]), ``error`` (it sent
    an error event), ``usage``, and ``usage_event`` (the final usage event, decoded, for the gateway to complete).
    """

    def __init__(self, searches_asked: int = 0) -> None:
        self._searches_asked = searches_asked
        self.usage: Usage | None = None
        self.usage_event: dict[str, Any] | None = None
        self.done = False
        self.error = ""
        self.events = 0
        self._rest = b""

    def feed(self, chunk: bytes) -> bytes:
        """Take a chunk; raises UpstreamError for an event beyond all reason (8 MiB)."""
        data = self._rest + chunk if self._rest else chunk
        at, at_crlf = data.rfind(b"\n\n"), data.rfind(b"\r\n\r\n")
        if at < 0 and at_crlf < 0:
            if len(data) > _EVENT_BYTES_MAX:
                raise UpstreamError("an event of the stream is larger than 8 MiB")
            self._rest = data
            return b""
        cut = at + 2 if at_crlf < 0 else max(at + 2, at_crlf + 4)
        self._rest = data[cut:]  # raw: its next line end may be cut in two
        whole = data[:cut] if self._rest else data
        if at_crlf >= 0:
            whole = whole.replace(b"\r\n", b"\n")
        if b'"usage"' in whole or b"[DONE]" in whole or b'"error"' in whole:
            return b"".join(out for event in whole.split(b"\n\n") if event and (out := self._look(event)))
        self.events += whole.startswith(b"data:") + whole.count(b"\ndata:")
        return whole

    def _look(self, event: bytes) -> bytes:
        """One event that may matter: the end, the usage event and an error are held back, all else is relayed."""
        payload = event.removeprefix(b"data:").strip()
        if payload == b"[DONE]":
            self.done = True
            return b""
        try:
            read = _event(payload)
        except (msgspec.DecodeError, RecursionError):
            return event + b"\n\n"
        if read.error is not None and not read.choices:
            self.error = "the source ended the stream with an error"
            return b""
        if read.usage is not None:
            self.usage = read.usage.usage(self._searches_asked)
            if not read.choices:
                self.usage_event = _decode(payload)
                return b""
        self.events += 1
        return event + b"\n\n"


def usage_with_cost(event: dict[str, Any], usd: float, about: dict[str, Any]) -> bytes:
    """The final usage event with what the answer really cost (``usage.cost``, USD) and where it ran."""
    event["usage"]["cost"] = usd
    event["baseload"] = about
    return b"data: " + _encode(event) + b"\n\n"


def error_event(body: bytes) -> bytes:
    """An honest end for a stream that broke after its first byte."""
    return b"data: " + body + b"\n\n"
