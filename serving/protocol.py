"""OpenAI's protocol as far as the gateway reads it: the few fields that decide, everything else passed through as bytes.

ProtocolError(status, message, code, param)      an OpenAI-shaped error; ``body()`` is what the client gets
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

_encode = msgspec.json.Encoder().encode

# Bytes of JSON text per token when nothing better is known: the usual figure for English with BPE tokenizers.
BYTES_PER_TOKEN = 4

PositiveInt = Annotated[int, Meta(ge=1)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]


class ProtocolError(Exception):
    """The request cannot be served as it stands. ``status`` is the HTTP status, ``code`` OpenAI's machine name."""

    def __init__(
        self, status: int, message: str, code: str = "", param: str | None = None, retry_after_s: float = 0.0
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after_s = retry_after_s

    def body(self) -> bytes:
        """``{"error": {...}}`` as OpenAI shapes it."""
        return error_body(self.message, _TYPES.get(self.status, "api_error"), self.code, self.param)


_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    431: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}


def error_body(message: str, kind: str, code: str = "", param: str | None = None) -> bytes:
    """An OpenAI error document."""
    return _encode({"error": {"message": message, "type": kind, "param": param, "code": code or None}})


class _Part(Struct):
    type: str
    text: str = ""


class Message(Struct):
    """One chat message; only what triage and the needs read."""

    role: Annotated[str, Meta(min_length=1, max_length=64)]
    content: str | list[_Part] | None = None


class StreamOptions(Struct):
    """``include_usage``: the client wants the final usage event."""

    include_usage: bool | None = None


class Body(Struct):
    """Fields that chat, completions and embeddings share. ``metadata.tags`` carry labels, as litellm's clients send."""

    model: Name
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None


class ChatBody(Body):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=10_000)] = msgspec.field(default_factory=list)
    tools: list[dict[str, Any]] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    reasoning_effort: str | None = None
    web_search_options: dict[str, Any] | None = None
    plugins: Any = None  # OpenRouter's; other servers may mean something else by the name


class CompletionBody(Body):
    """``POST /v1/completions``."""

    best_of: Annotated[int, Meta(ge=1, le=128)] | None = None
    prompt: str | list[str | int | list[int]] = ""
    logprobs: int | None = None


class EmbeddingBody(Body):
    """``POST /v1/embeddings``."""

    input: str | list[str | int | list[int]] = ""


class Parsed(Struct, frozen=True):
    """A request body read once: what decides, and its fields as raw bytes for the rewrite."""

    body: Body
    fields: dict[str, Raw]
    needs: frozenset[str]
    text: str
    turns: int
    input_tokens: int
    reasoning_effort: str
    choices: int = 1
    searches: int = 0

    @property
    def stream(self) -> bool:
        """The client wants server-sent events."""
        return bool(self.body.stream)

    @property
    def output_tokens_asked(self) -> int | None:
        """``max_completion_tokens`` or ``max_tokens``, whichever is given."""
        return self.body.max_completion_tokens or self.body.max_tokens

    def rewritten(self, model: str, service_tier: str = "") -> bytes:
        """The body for a source: its own name of the model; on streams the usage event is always asked for.

        The service tier is the offer's: a client that asked for another would be billed otherwise than quoted. '' is
        the standard tier and sends no field (unknown servers may refuse it), so the source's own default holds: at
        OpenAI what the project is set to.
        """
        fields = dict(self.fields)
        fields["model"] = Raw(_encode(model))
        fields.pop("service_tier", None)
        if service_tier:
            fields["service_tier"] = Raw(_encode(service_tier))
        if self.stream:
            fields["stream_options"] = self._stream_options()
        return _encode(fields)

    def _stream_options(self) -> Raw:
        """The client's own options (some sources know more of them), with the usage event asked for."""
        if self.body.stream_options is None:
            return _WITH_USAGE
        options: dict[str, Any] = msgspec.json.decode(self.fields["stream_options"])
        return Raw(_encode({**options, "include_usage": True}))


_WITH_USAGE = Raw(b'{"include_usage":true}')
_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decoders: dict[str, Any] = {
    "chat": msgspec.json.Decoder(ChatBody).decode,
    "completions": msgspec.json.Decoder(CompletionBody).decode,
    "embeddings": msgspec.json.Decoder(EmbeddingBody).decode,
}
_REQUIRED = {"chat": "messages", "completions": "prompt", "embeddings": "input"}


def parse(endpoint: str, raw: bytes) -> Parsed:
    """Read a body of ``endpoint`` (chat, completions, embeddings). Raises ProtocolError 400 naming what is wrong."""
    try:
        if not raw.isascii():
            raw.decode()  # fields that nobody here reads pass through unseen, but never what is not UTF-8
        fields = _fields(raw)
        body = _decoders[endpoint](raw)
    except msgspec.ValidationError as error:
        raise ProtocolError(400, f"invalid request: {error}", "invalid_value", _param(str(error))) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(400, f"the body is not valid JSON: {error}", "invalid_json") from None
    required = _REQUIRED[endpoint]
    if required not in fields:
        raise ProtocolError(400, f"missing required field {required!r}", "missing_field", required)
    if endpoint == "chat":
        return _chat(body, fields)
    value = body.prompt if endpoint == "completions" else body.input
    if not value:
        raise ProtocolError(400, f"{required!r} is empty", "invalid_value", required)
    if endpoint == "embeddings" and body.stream:
        raise ProtocolError(400, "embeddings cannot be streamed", "invalid_value", "stream")
    if not isinstance(value, str) and len({type(item) for item in value}) > 1:
        raise ProtocolError(400, f"{required!r} mixes strings, tokens and lists", "invalid_value", required)
    text = value if isinstance(value, str) else value[-1] if isinstance(value[-1], str) else ""
    needs = frozenset({endpoint, "logprobs"} if getattr(body, "logprobs", None) else {endpoint})
    tokens = len(value) if isinstance(value[0], int) else max(1, len(bytes(fields[required])) // BYTES_PER_TOKEN)
    prompts = len(value) if isinstance(value, list) and not isinstance(value[0], int) else 1
    choices = prompts * max(body.n or 1, getattr(body, "best_of", None) or 1)
    return Parsed(body, fields, needs, text, 1, tokens, "", choices)


def _chat(body: ChatBody, fields: dict[str, Raw]) -> Parsed:
    needs = {"chat"}
    if body.tools:
        needs.add("tools")
    if body.response_format and body.response_format.get("type") not in (None, "text"):
        needs.add("response_format")
    if body.logprobs:
        needs.add("logprobs")
    searches = int(body.web_search_options is not None or _searches(body))
    if searches:
        needs.add("search")
    text = ""
    for message in body.messages:
        content = message.content
        if isinstance(content, str):
            text = content if message.role == "user" else text
        elif content:
            for part in content:
                if part.type == "text":
                    text = part.text if message.role == "user" else text
                elif part.type.startswith("image"):
                    needs.add("images")
                elif part.type.startswith("input_audio"):
                    needs.add("audio")
    size = len(bytes(fields["messages"])) + (len(bytes(fields["tools"])) if body.tools else 0)
    tokens = max(1, size // BYTES_PER_TOKEN)
    effort, turns = body.reasoning_effort or "", len(body.messages)
    return Parsed(body, fields, frozenset(needs), text, turns, tokens, effort, body.n or 1, searches)


def _searches(body: ChatBody) -> bool:
    """A search that the provider runs and bills: a tool of a type of its own, or OpenRouter's ``web`` plugin.

    ``tool_search*`` looks through the request's own tools and costs tokens only.
    """
    for tool in body.tools or ():
        kind = tool.get("type")
        if isinstance(kind, str) and kind != "function" and "search" in kind and not kind.startswith("tool_search"):
            return True
    plugins = body.plugins if isinstance(body.plugins, list) else ()
    return any(isinstance(p, dict) and p.get("id") == "web" and p.get("enabled") is not False for p in plugins)


def _param(message: str) -> str | None:
    """The field that msgspec's message names: ``Expected `int`, got `str` - at `$.max_tokens` `` -> max_tokens."""
    _, _, path = message.partition("`$.")
    return path.partition("`")[0] or None
