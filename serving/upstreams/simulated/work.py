"""The work of the simulated provider: completions and embeddings, admitted, paced, and broken off where asked."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from serving.upstreams.simulated.answers import (
    Choice,
    Frames,
    Prompt,
    chat_choices,
    chat_prompt,
    completion_choices,
    plain_prompts,
)
from serving.upstreams.simulated.connection import EVENT_STREAM_TYPE, JSON_TYPE, Connection
from serving.upstreams.simulated.pacing import WRITE_GAP_MIN_S, WRITE_TOKENS_MAX, Admission, Chance, Schedule
from serving.upstreams.simulated.requests import ApiError, ChatRequest, CompletionRequest, EmbeddingRequest, read
from serving.upstreams.simulated.settings import Counters, Settings
from serving.upstreams.simulated.text import PromptCache, as_base64, embedding

INPUTS_MAX = 2048


class Broken(Exception):
    """The connection was broken on purpose, before the answer or in the middle of it."""

    def __init__(self, *, before_answer: bool) -> None:
        super().__init__()
        self.before_answer = before_answer


class Work:
    """What outlives a single request: places taken, chance, and the prompts that were seen."""

    def __init__(self, counters: Counters, seed: int) -> None:
        self.chance = Chance(seed)
        self._counters = counters
        self._admission = Admission()
        self._cache = PromptCache()

    async def chat(self, body: bytes, connection: Connection, serial: str, settings: Settings) -> None:
        """POST /v1/chat/completions. Raises ApiError, Broken and ClientGone."""
        request = read(body, ChatRequest)
        with self._admitted(request.model, serial, settings) as schedule:
            prompt = chat_prompt(request)
            choices = chat_choices(request, prompt, settings)
            logprobs = (request.top_logprobs or 0) if request.logprobs else None
            await self._complete(request, [prompt], choices, logprobs, connection, serial, settings, schedule)

    async def completion(self, body: bytes, connection: Connection, serial: str, settings: Settings) -> None:
        """POST /v1/completions. Raises ApiError, Broken and ClientGone."""
        request = read(body, CompletionRequest)
        with self._admitted(request.model, serial, settings) as schedule:
            prompts = plain_prompts(request.prompt)
            choices = completion_choices(request, prompts, settings)
            await self._complete(request, prompts, choices, request.logprobs, connection, serial, settings, schedule)

    async def embeddings(self, body: bytes, connection: Connection, serial: str, settings: Settings) -> None:
        """POST /v1/embeddings: vectors after the time to the first token. Raises ApiError and ClientGone."""
        if not settings.embedding_dimensions:
            raise ApiError(404, "this provider offers no embeddings", code="not_found")
        request = read(body, EmbeddingRequest)
        with self._admitted(request.model, serial, settings) as schedule:
            dimensions = request.dimensions or settings.embedding_dimensions
            if dimensions > settings.embedding_dimensions:
                message = f"at most {settings.embedding_dimensions} dimensions"
                raise ApiError(400, message, param="dimensions")
            prompts = plain_prompts(request.input)
            if len(prompts) > INPUTS_MAX:
                raise ApiError(400, f"at most {INPUTS_MAX} inputs", param="input")
            self._admission.expect_end(serial, schedule.first_s)
            await connection.sleep_until(schedule.first_s)
            vectors: list[Sequence[float] | str] = [embedding(p.key, dimensions, settings.seed) for p in prompts]
            if request.encoding_format == "base64":
                vectors = [as_base64(vector) for vector in vectors if not isinstance(vector, str)]
            data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
            usage = _usage(sum(p.tokens for p in prompts), 0, 0, settings)
            del usage["completion_tokens"], usage["prompt_tokens_details"]
            answer = {"object": "list", "simulated": True, "model": request.model, "data": data, "usage": usage}
            await connection.answer(msgspec.json.encode(answer))

    @contextmanager
    def _admitted(self, model: str, serial: str, settings: Settings) -> Iterator[Schedule]:
        """A place for a request while it is served, with the times at which its tokens are due."""
        if model not in settings.models:
            raise ApiError(404, f"the model {model!r} does not exist", param="model", code="model_not_found")
        now_s = time.monotonic()
        self._admission.admit(serial, settings, now_s)
        try:
            with self._counters.serving():
                if self.chance.fails(settings):
                    raise ApiError(500, "an error drawn by chance", "server_error", code="internal_error")
                yield self.chance.schedule(settings, now_s)
        finally:
            self._admission.leave(serial)

    async def _complete(
        self,
        request: ChatRequest | CompletionRequest,
        prompts: list[Prompt],
        choices: list[Choice],
        logprobs: int | None,
        connection: Connection,
        serial: str,
        settings: Settings,
        schedule: Schedule,
    ) -> None:
        """Sends the choices as a stream or as one document."""
        options = request.stream_options
        usage_asked = bool(request.stream and options and options.include_usage)
        chat = isinstance(request, ChatRequest)
        frames = Frames(
            serial, int(time.time()), request.model, choices, chat=chat, logprobs=logprobs, usage_asked=usage_asked
        )
        cached = 0
        if settings.prompt_cache:
            cached = sum(min(p.tokens, self._cache.lookup_and_store(p.key)) for p in prompts)
        usage = _usage(sum(p.tokens for p in prompts), cached, sum(len(c.tokens) for c in choices), settings)
        longest = max(len(choice.tokens) for choice in choices)
        end = min(longest, settings.cut_after_tokens or longest)
        self._admission.expect_end(serial, schedule.due_s(end - 1))
        if not request.stream:
            await self._send_whole(connection, frames.whole(usage), choices, schedule, end, cut=end < longest)
            return
        await self._send_tokens(connection, frames, schedule, end)
        if end < longest:
            await connection.break_off(flush=True)
            raise Broken(before_answer=False)
        last = [frames.closing(k) for k in range(len(choices))]
        if usage_asked:
            last.append(frames.usage(usage))
        await connection.write(b"".join((*last, b"data: [DONE]\n\n")), more=False)

    async def _send_tokens(self, connection: Connection, frames: Frames, schedule: Schedule, end: int) -> None:
        """Sends the first ``end`` tokens of each choice as they fall due; the headers come with the first one."""
        choices, sent, wake_s = frames.choices, 0, schedule.first_s
        while sent < end:
            await connection.sleep_until(wake_s)
            now_s = time.monotonic()
            due = schedule.due_count(sent, min(end, sent + WRITE_TOKENS_MAX), now_s)
            if due > sent:
                events = []
                if not sent:
                    await connection.start(200, EVENT_STREAM_TYPE, (b"cache-control", b"no-cache"))
                    events = [frames.opening(k) for k in range(len(choices))]
                before = len(events)
                for i in range(sent, due):
                    events += [frames.token(k, i) for k, choice in enumerate(choices) if i < len(choice.tokens)]
                await connection.write(b"".join(events))
                self._counters.tokens_out += len(events) - before
                sent = due
            wake_s = max(schedule.due_s(sent), now_s + WRITE_GAP_MIN_S)

    async def _send_whole(
        self, connection: Connection, payload: bytes, choices: list[Choice], schedule: Schedule, end: int, *, cut: bool
    ) -> None:
        """Sends one document once its last token is due, or half of it if it is to be cut."""
        made = 0
        try:
            await connection.sleep_until(schedule.due_s(end - 1))
            made = end
        finally:
            made = made or schedule.due_count(0, end, time.monotonic())
            self._counters.tokens_out += sum(min(made, len(choice.tokens)) for choice in choices)
        if not cut:
            await connection.answer(payload)
            return
        await connection.start(200, JSON_TYPE, (b"content-length", b"%d" % len(payload)))
        await connection.write(payload[: len(payload) // 2])
        await connection.break_off(flush=True)
        raise Broken(before_answer=False)


def _usage(prompt_tokens: int, cached_tokens: int, completion_tokens: int, settings: Settings) -> dict[str, Any]:
    """The usage object, with its cost in USD if the provider is priced."""
    usage: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }
    if settings.priced:
        usage["cost"] = (
            (prompt_tokens - cached_tokens) * settings.usd_per_mtok_input
            + cached_tokens * settings.usd_per_mtok_cached
            + completion_tokens * settings.usd_per_mtok_output
        ) / 1e6
    return usage
