"""An engine with a known service curve: continuous batching by sleeping, one process of steps for all sequences.

A prompt is computed alone and takes ``prompt tokens / prefill_tokens_per_s``; then every running sequence gets its token
each ``itl_base_s + itl_per_seq_s * running``. Streams as vLLM does: the role with the first token, the usage at the end.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class Engine:
    """Settings and state; ``up`` False: it answers nobody. ``tokens_per_word``: how its tokenizer counts.

    ``steps_s``: how long its steps really took, by sequences running: on a busy machine more than what is set.
    """

    prefill_tokens_per_s: float = 20_000.0
    itl_base_s: float = 0.006
    itl_per_seq_s: float = 0.002
    tokens_per_word: int = 2
    tokens_around: int = 7
    up: bool = True
    url: str = ""
    prompts: list[str] = field(default_factory=list)
    made_for_others: int = 0
    generated: int = 0
    steps_s: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    _arrived: list[tuple[int, asyncio.Queue[int], int]] = field(default_factory=list)

    @property
    def was_calm(self) -> bool:
        """Whether its steps took what they should, stalls and all."""
        set_s = {n: self.itl_base_s + self.itl_per_seq_s * n for n in self.steps_s}
        return all(sum(took) < 1.3 * len(took) * set_s[n] for n, took in self.steps_s.items() if len(took) > 20)

    async def run(self) -> None:
        """Steps for ever, each due at an instant of its own, so that a late timer does not slow the next."""
        clock = asyncio.get_running_loop().time
        due_s, running = clock(), list[tuple[asyncio.Queue[int], int, int]]()
        while True:
            began_s = 0.0
            if self._arrived:
                tokens, queue, wanted = self._arrived.pop(0)
                due_s = max(due_s, clock() - 0.005) + tokens / self.prefill_tokens_per_s
                fresh = [(queue, 0, wanted)]
            elif running:
                due_s = max(due_s, clock() - 0.005) + self.itl_base_s + self.itl_per_seq_s * len(running)
                fresh, running = running, []
                began_s = clock()
            else:
                await asyncio.sleep(0.0005)
                continue
            await asyncio.sleep(max(0.0, due_s - clock()))
            if began_s:
                self.steps_s[len(fresh)].append(clock() - began_s)
            for queue, made, wanted in fresh:
                queue.put_nowait(made + 1)
                self.generated += 1
                if made + 1 < wanted:
                    running.append((queue, made + 1, wanted))

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        text = body["messages"][0]["content"]
        self.prompts.append(text)
        tokens = self.tokens_around + self.tokens_per_word * len(text.split())
        queue: asyncio.Queue[int] = asyncio.Queue()
        assert body["min_tokens"] == body["max_tokens"] and body["ignore_eos"] and body["stream"]
        self._arrived.append((tokens, queue, body["max_tokens"]))
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        made = 0
        while made < body["max_tokens"]:
            made = await queue.get()
            if made == 1:
                await _send(response, [{"delta": {"role": "assistant", "content": ""}}])
            if made % 2 or made == body["max_tokens"]:  # two tokens a chunk: chunks are not tokens
                finish = "length" if made == body["max_tokens"] else None
                await _send(response, [{"delta": {"content": ""}, "finish_reason": finish}])
        await _send(response, [], {"prompt_tokens": tokens, "completion_tokens": made})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def metrics(self, request: web.Request) -> web.Response:
        if not self.up:
            raise web.HTTPServiceUnavailable
        return web.Response(text=f"vllm:generation_tokens_total {self.generated + self.made_for_others}\n")


async def _send(response: web.StreamResponse, choices: list[object], usage: object = None) -> None:
    event = {
        "id": "x",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "m",
        "choices": choices,
        "usage": usage,
    }
    await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")


@contextmanager
def batching() -> Iterator[Engine]:
    """An engine on a free port, in a thread of its own."""
    engine, loop, started = Engine(), asyncio.new_event_loop(), threading.Event()

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", engine.chat)
        app.router.add_get("/metrics", engine.metrics)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        engine.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        started.set()
        try:
            await engine.run()
        finally:
            await runner.cleanup()

    async def until_cancelled() -> None:
        with suppress(asyncio.CancelledError):
            await serve()

    task = loop.create_task(until_cancelled())
    thread = threading.Thread(target=loop.run_until_complete, args=(task,))
    thread.start()
    try:
        assert started.wait(10)
        yield engine
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)
        loop.close()
    assert not thread.is_alive()
