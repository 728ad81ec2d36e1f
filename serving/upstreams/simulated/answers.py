"""Answers of the simulated provider: what is said in each choice, and the bytes that carry it."""

from __future__ import annotations

from itertools import accumulate
from typing import Any, NamedTuple

import msgspec

from serving.upstreams.simulated.requests import ApiError, ChatRequest, CompletionRequest, NamedTool, Tool
from serving.upstreams.simulated.settings import Settings
from serving.upstreams.simulated.text import Example, Token, alternatives, filler, token_count, tokens_of

PART_TOKENS = 85  # an image or a sound, whatever its size
CHOICES_MAX = 128


class Choice(NamedTuple):
    """One choice of an answer: its tokens, why it ended, and the tool it calls ("" for none)."""

    tokens: list[Token]
    finish: str
    tool: str = ""


class Prompt(NamedTuple):
    """A prompt as counted: the text that decides the filler and the cache, and its size in tokens."""

    key: bytes
    tokens: int


def chat_prompt(request: ChatRequest) -> Prompt:
    """All contents, kept apart by role; only the contents count as tokens."""
    key, tokens = bytearray(), 0
    for message in request.messages:
        key += b"\x1e%b\x1f" % message.role.encode()
        parts = [message.content] if isinstance(message.content, str) else [p.text for p in message.content or ()]
        for part in parts:
            text = (part or "").encode()
            key += text
            tokens += PART_TOKENS if part is None else token_count(text)
    return Prompt(bytes(key), max(1, tokens))


def plain_prompts(prompt: str | list[str | int | list[int]]) -> list[Prompt]:
    """The one or many texts, or lists of token numbers, of a completion or embedding request."""
    if isinstance(prompt, str):
        return [Prompt(prompt.encode(), max(1, token_count(prompt.encode())))]
    numbers = [item for item in prompt if isinstance(item, int)]
    if numbers:
        if len(numbers) != len(prompt):
            raise ApiError(400, "token numbers and texts cannot be mixed in one list")
        return [Prompt(msgspec.json.encode(numbers), len(numbers))]
    found: list[Prompt] = []
    for item in prompt:
        if isinstance(item, str):
            found += plain_prompts(item)
        elif isinstance(item, list):
            found.append(Prompt(msgspec.json.encode(item), max(1, len(item))))
    return found


def chat_choices(request: ChatRequest, prompt: Prompt, settings: Settings) -> list[Choice]:
    """What each of the ``n`` choices says: a tool call, a JSON document, or filler."""
    limit = request.max_completion_tokens or request.max_tokens
    wanted = min(limit or settings.output_tokens, settings.output_tokens)
    tool = _tool_to_call(request)
    if tool is not None:
        arguments = Example(tool.function.parameters or {"type": "object"}).value()
        choice = _within(tokens_of(_json(arguments)), limit, "tool_calls", tool.function.name)
        return [choice] * (request.n or 1)
    form = request.response_format
    if form is not None and form.type == "json_schema" and form.json_schema and form.json_schema.schema:
        document = tokens_of(_json(Example(form.json_schema.schema).value()))
        return [_within(document, limit, "stop")] * (request.n or 1)
    choices = []
    for k in range(request.n or 1):
        words = filler(prompt.key, wanted, settings.seed + k)
        if form is not None and form.type != "text":
            answer = {"simulated": True, "text": "".join(text for text, _ in words[: max(1, wanted // 2)])}
            choices.append(_within(tokens_of(_json(answer)), limit, "stop"))
        else:
            choices.append(Choice(words, "length" if limit and limit < settings.output_tokens else "stop"))
    return choices


def completion_choices(request: CompletionRequest, prompts: list[Prompt], settings: Settings) -> list[Choice]:
    """``n`` choices for each prompt, in the order of the prompts."""
    count = request.n or 1
    if len(prompts) * count > CHOICES_MAX:
        raise ApiError(400, f"more than {CHOICES_MAX} choices in one request", param="n")
    wanted = min(request.max_tokens or settings.output_tokens, settings.output_tokens)
    finish = "length" if wanted < settings.output_tokens else "stop"
    return [Choice(filler(p.key, wanted, settings.seed + k), finish) for p in prompts for k in range(count)]


def _tool_to_call(request: ChatRequest) -> Tool | None:
    """The tool that the request insists on, or that its last message asks for by saying "use the tool"."""
    tools, wish = request.tools or [], request.tool_choice
    if isinstance(wish, NamedTool):
        for tool in tools:
            if tool.function.name == wish.function.name:
                return tool
        raise ApiError(400, f"tool_choice names {wish.function.name!r}, which is not in tools", param="tool_choice")
    if wish == "required":
        if not tools:
            raise ApiError(400, "tool_choice is 'required' and there are no tools", param="tool_choice")
        return tools[0]
    last = request.messages[-1]
    if not tools or wish == "none" or last.role != "user":
        return None
    said = last.content if isinstance(last.content, str) else " ".join(p.text or "" for p in last.content or ())
    if "use the tool" not in said.lower():
        return None
    return next((tool for tool in tools if tool.function.name in said), tools[0])


def _within(tokens: list[Token], limit: int | None, finish: str, tool: str = "") -> Choice:
    """A document cut off where ``max_tokens`` says, as a model's would be."""
    if limit is not None and limit < len(tokens):
        return Choice(tokens[:limit], "length", tool)
    return Choice(tokens, finish, tool)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


class Frames:
    """The wire form of one answer: server-sent events token by token, or one document.

    What is the same in all events of a choice is encoded once, so that an event costs one join of bytes.
    """

    def __init__(
        self,
        serial: str,
        created_s: int,
        model: str,
        choices: list[Choice],
        *,
        chat: bool,
        logprobs: int | None,
        usage_asked: bool,
    ) -> None:
        self.choices = choices
        self._chat, self._logprobs = chat, logprobs
        self._serial = serial
        answer_id = f"{'chatcmpl' if chat else 'cmpl'}-simulated-{serial}"
        self._common: dict[str, Any] = {"id": answer_id, "object": "", "created": created_s, "model": model}
        self._common["system_fingerprint"] = "simulated"
        self._object = "chat.completion" if chat else "text_completion"
        head = {**self._common, "object": "chat.completion.chunk" if chat else "text_completion"}
        self._head = b"data: " + msgspec.json.encode(head)[:-1] + b',"choices":['
        self._tail = b',"usage":null}\n\n' if usage_asked else b"}\n\n"
        self._before, self._after = zip(*(self._around(k, c) for k, c in enumerate(choices)), strict=True)
        self._offsets = [0] * len(choices)

    def _around(self, k: int, choice: Choice) -> tuple[bytes, bytes]:
        """The bytes before and after each token of a choice, up to its logprobs."""
        start = self._head + b'{"index":%d,' % k
        if not self._chat:
            return start + b'"text":', b',"logprobs":'
        if choice.tool:
            return start + b'"delta":{"tool_calls":[{"index":0,"function":{"arguments":', b'}}]},"logprobs":'
        return start + b'"delta":{"content":', b'},"logprobs":'

    def _event(self, k: int, delta: bytes, finish: bytes) -> bytes:
        middle = b'"delta":' + delta if self._chat else b'"text":""'
        return b'%b{"index":%d,%b,"logprobs":null,"finish_reason":%b}]%b' % (self._head, k, middle, finish, self._tail)

    def opening(self, k: int) -> bytes:
        """The event that names the role, and the tool if one is called; completions have none."""
        if not self._chat:
            return b""
        delta: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
        if self.choices[k].tool:
            delta = {"role": "assistant", "content": None, "tool_calls": [{"index": 0, **self._call(k, "")}]}
        return self._event(k, msgspec.json.encode(delta), b"null")

    def token(self, k: int, i: int) -> bytes:
        """The event of token ``i`` of choice ``k``."""
        choice = self.choices[k]
        logprobs = b"null"
        if self._logprobs is not None and not choice.tool:
            logprobs = msgspec.json.encode(self._logprobs_of(choice.tokens[i : i + 1], i, self._offsets[k]))
            self._offsets[k] += len(choice.tokens[i][0])
        return b"".join(
            (self._before[k], choice.tokens[i][1], self._after[k], logprobs, b',"finish_reason":null}]', self._tail)
        )

    def closing(self, k: int) -> bytes:
        """The event that says why the choice ended."""
        return self._event(k, b"{}", msgspec.json.encode(self.choices[k].finish))

    def usage(self, usage: dict[str, Any]) -> bytes:
        """The event without choices that carries the usage."""
        return self._head + b'],"usage":' + msgspec.json.encode(usage) + b"}\n\n"

    def whole(self, usage: dict[str, Any]) -> bytes:
        """The answer as one document."""
        choices = []
        for k, choice in enumerate(self.choices):
            text = "".join(token for token, _ in choice.tokens)
            said: dict[str, Any] = {"text": text}
            if self._chat:
                message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
                if choice.tool:
                    message |= {"content": None, "tool_calls": [self._call(k, text)]}
                said = {"message": message}
            asked = self._logprobs is not None and not choice.tool
            logprobs = self._logprobs_of(choice.tokens, 0, 0) if asked else None
            choices.append({"index": k, **said, "logprobs": logprobs, "finish_reason": choice.finish})
        return msgspec.json.encode({**self._common, "object": self._object, "choices": choices, "usage": usage})

    def _call(self, k: int, arguments: str) -> dict[str, Any]:
        call_id = f"call_simulated_{self._serial}_{k}"
        return {"id": call_id, "type": "function", "function": {"name": self.choices[k].tool, "arguments": arguments}}

    def _logprobs_of(self, tokens: list[Token], first: int, offset: int) -> dict[str, Any]:
        """Log-probabilities of ``tokens``, the first of which is token ``first`` and starts at character ``offset``."""
        count = self._logprobs or 0
        ranked = [alternatives(text, first + i, max(1, count)) for i, (text, _) in enumerate(tokens)]
        if self._chat:
            content = [
                {**_ranked_token(*likely[0]), "top_logprobs": [_ranked_token(*other) for other in likely[:count]]}
                for likely in ranked
            ]
            return {"content": content, "refusal": None}
        return {
            "tokens": [likely[0][0] for likely in ranked],
            "token_logprobs": [likely[0][1] for likely in ranked],
            "top_logprobs": [dict(likely[:count]) for likely in ranked] if count else None,
            "text_offset": list(accumulate((len(text) for text, _ in tokens[:-1]), initial=offset)),
        }


def _ranked_token(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}
