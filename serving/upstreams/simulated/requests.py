"""The requests that the simulated provider reads, and the errors it answers with."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

AtLeastOne = Annotated[int, Meta(ge=1)]
_Read = TypeVar("_Read")


class ApiError(Exception):
    """An error answer in OpenAI's shape.

    ``retry_after_s`` becomes a ``Retry-After`` header in whole seconds, rounded up, and ``retry-after-ms`` beside it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.param, self.code = status, kind, param, code
        self.retry_after_s = retry_after_s

    def body(self) -> bytes:
        """The JSON document, with a message that says it is simulated."""
        error = {"message": f"[simulated] {self}", "type": self.kind, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})


class Part(Struct):
    """One part of a message's content; parts that are not text count a flat number of tokens."""

    type: str = "text"
    text: str | None = None


class Message(Struct):
    """One message of a conversation."""

    role: str
    content: str | list[Part] | None = None


class Function(Struct):
    """A function a tool offers; ``parameters`` is a JSON schema."""

    name: str
    parameters: dict[str, Any] | None = None


class Tool(Struct):
    """A tool the model may call."""

    function: Function
    type: Literal["function"] = "function"


class NamedFunction(Struct):
    """The function that ``tool_choice`` insists on."""

    name: str


class NamedTool(Struct):
    """``tool_choice`` as an object."""

    function: NamedFunction


class JsonSchema(Struct):
    """The schema an answer has to satisfy."""

    schema: dict[str, Any] | None = None


class ResponseFormat(Struct):
    """The form an answer has to take."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None


class StreamOptions(Struct):
    """What a stream carries besides its tokens."""

    include_usage: bool | None = None


class ChatRequest(Struct):
    """The fields of POST /v1/chat/completions that change the answer; all others are accepted and ignored."""

    model: str
    messages: Annotated[list[Message], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: AtLeastOne | None = None
    max_completion_tokens: AtLeastOne | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None


class CompletionRequest(Struct):
    """The fields of POST /v1/completions that change the answer."""

    model: str
    prompt: str | list[str | int | list[int]] = ""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: AtLeastOne | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None


class EmbeddingRequest(Struct):
    """The fields of POST /v1/embeddings that change the answer."""

    model: str
    input: str | Annotated[list[str | int | list[int]], Meta(min_length=1, max_length=32_768)]
    dimensions: AtLeastOne | None = None
    encoding_format: Literal["float", "base64"] | None = None


def read(body: bytes, kind: type[_Read]) -> _Read:
    """The request in ``body``. Raises ApiError 400 for what is not JSON or not such a request."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(error) from error


def bad_request(error: Exception) -> ApiError:
    """The 400 for a document that could not be read, naming the field at fault where it is known."""
    at = re.search(r"at `\$\.?(.*?)`$", str(error))
    return ApiError(400, f"cannot read the request: {error}", param=at[1] if at else None)
