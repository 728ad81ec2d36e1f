"""The load itself: prompts that no cache has seen, one after the other for prefill, in closed loops for decode."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from pricing.meter.curve import DecodePoint, PrefillPoint, Span, decode_point
from serving.calibration import plan as planning
from serving.calibration.ask import Answer, CalibrationError, Gateway
from serving.calibration.plan import Bounds, Plan

_WORDS = [
    "river",
    "stone",
    "cloud",
    "paper",
    "window",
    "garden",
    "bridge",
    "winter",
    "copper",
    "letter",
    "market",
    "signal",
    "engine",
    "harbor",
    "forest",
    "candle",
    "silver",
    "meadow",
    "barrel",
    "anchor",
    "violin",
    "pepper",
    "saddle",
    "lantern",
    "orchard",
    "thunder",
    "blanket",
    "compass",
    "feather",
    "granite",
]
_PAUSE_S = 0.2
_FAILURES_MAX = 20
_WARM_SHARE, _WARM_S_MAX = 0.2, 2.0

Progress = Callable[[str], None]
Between = Callable[[int], Awaitable[None]]


@dataclass(slots=True)
class Tally:
    """What was sent and what became of it."""

    requests: int = 0
    elsewhere: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    bursts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """One stretch of steady load: what ran from ``start_s`` to ``end_s`` and the tokens served meanwhile."""

    name: str
    start_s: float
    end_s: float
    input_tokens: int
    output_tokens: int


class Load:
    """Drives one pool through one gateway. Results grow in place, so that a run that is cut short keeps them.

    ``between`` is awaited before every step, none of ours in flight, with how many were at a time in the step before; what
    it raises ends the run.
    """

    between: Between | None = None

    def __init__(self, gateway: Gateway, plan: Plan, bounds: Bounds, progress: Progress, seed: int) -> None:
        self._gateway, self._plan, self._bounds, self._progress = gateway, plan, bounds, progress
        self._chance = random.Random(seed)  # noqa: S311 - words of prompts, no secrets
        self._tokens_per_word, self._tokens_around = 1.5, 0.0
        self.tally = Tally()
        self.prefill: dict[int, list[Answer]] = {}
        self.decode: list[tuple[int, DecodePoint]] = []
        self.steps: list[Step] = []
        self.output_tokens = 0
        self.clients = 1

    def points(self) -> list[PrefillPoint]:
        """Medians of every prompt length."""
        return [
            PrefillPoint(
                statistics.median(answer.input_tokens - answer.cached_tokens for answer in answers),
                statistics.median(answer.ttft_s for answer in answers),
                len(answers),
            )
            for answers in self.prefill.values()
            if answers
        ]

    def body(self, prompt_tokens: int, output_tokens: int) -> dict[str, Any]:
        """A request of about ``prompt_tokens`` whose answer is exactly ``output_tokens`` long where the engine obeys."""
        count = max(1, round((prompt_tokens - self._tokens_around) / self._tokens_per_word))
        words = " ".join(self._chance.choices(_WORDS, k=count))
        text = f"{self._chance.getrandbits(32):08x} {words}"  # differs from its first token on
        said: dict[str, Any] = {"messages": [{"role": "user", "content": text}]}
        if self._plan.path == "/v1/completions":
            said = {"prompt": text}
        fixed = {"max_tokens": output_tokens, "min_tokens": output_tokens, "ignore_eos": True, "temperature": 0}
        return {"model": self._plan.pool.model, **said, **fixed}

    async def warm_up(self) -> None:
        """Learn how many tokens a word is and how fast a lone sequence decodes. Raises CalibrationError if none is served."""
        seen: list[tuple[int, Answer]] = []
        for words in (8, 32, 8, 32):
            self._tokens_per_word, self._tokens_around = 1.0, 0.0
            seen.append((words, await self._served(words, min(32, self._plan.output_tokens_max))))
        (few, short), (many, long) = seen[-2:]
        per_word = (long.input_tokens - short.input_tokens) / (many - few)
        if per_word <= 0.0:
            raise CalibrationError("the pool counts no more tokens in a longer prompt: its usage cannot be believed")
        self._tokens_per_word = per_word
        self._tokens_around = short.input_tokens - few * per_word
        itl_s = [Span(a.first_s, a.last_s, a.output_tokens).itl_s for _, a in seen if a.output_tokens > 1]
        self.output_tokens = self._plan.output_tokens(statistics.median(itl_s) if itl_s else 0.01)

    async def _served(self, prompt_tokens: int, output_tokens: int) -> Answer:
        for _ in range(3):
            answer = await self._ask(prompt_tokens, output_tokens)
            if answer is not None:
                return answer
        told = [*self.tally.failed, *(f"{offer} answered" for offer in self.tally.elsewhere)]
        raise CalibrationError(f"the pool does not serve: {told[0] if told else 'no answer'}")

    async def _ask(self, prompt_tokens: int, output_tokens: int) -> Answer | None:
        """One request; None where another source gave the answer or nobody did, which is counted."""
        timeout_s = self._bounds.spend(asyncio.get_running_loop().time(), prompt_tokens + output_tokens)
        self.tally.requests += 1
        body = self.body(prompt_tokens, output_tokens)
        answer = await self._gateway.stream(self._plan.path, body, timeout_s)
        if answer.problem:
            self.tally.failed[answer.problem] += 1
            if self.tally.failed.total() > _FAILURES_MAX + self.tally.requests // 10:
                raise planning.Exhausted(f"too many requests fail ({answer.problem})")
            await asyncio.sleep(_PAUSE_S)
            return None
        self.tally.usd += answer.usd
        if answer.offer != self._plan.offer:
            self.tally.elsewhere[answer.offer] += 1
            if self.tally.elsewhere.total() > _FAILURES_MAX + self.tally.requests // 2:
                raise planning.Exhausted(f"{answer.offer} answers most requests")
            return None
        self.tally.input_tokens += answer.input_tokens
        self.tally.output_tokens += answer.output_tokens
        return answer

    async def run_prefill(self) -> None:
        """Single requests of every length in turn, so that a slow minute hits all of them alike."""
        plan, clock = self._plan, asyncio.get_running_loop().time
        start_s, before = clock(), (self.tally.input_tokens, self.tally.output_tokens)
        until_s = start_s + plan.seconds_per_step * len(plan.lengths)
        self.prefill = {length: [] for length in plan.lengths}
        refused: set[int] = set()
        try:
            for round_ in range(planning.ROUNDS_MAX):
                await self._pause()
                for length in plan.lengths:
                    if length in refused or (round_ >= planning.ROUNDS_MIN and clock() >= until_s):
                        continue
                    self._progress(f"prompts of {length:,} tokens")
                    answer = await self._ask(length, 1)
                    if answer is not None:
                        self.prefill[length].append(answer)
                    elif round_ == 0:
                        refused.add(length)  # longer than the engine takes, most likely: the others will do
        finally:
            self._note("prefill", start_s, before)

    async def run_decode(self) -> None:
        """Closed loops at every level; a step ends when its time is over and every client was timed once."""
        for level in self._plan.levels:
            await self._pause()
            self.clients = level
            clock = asyncio.get_running_loop().time
            start_s, before = clock(), (self.tally.input_tokens, self.tally.output_tokens)
            warm_s = start_s + min(_WARM_S_MAX, _WARM_SHARE * self._plan.seconds_per_step)
            until_s = start_s + self._plan.seconds_per_step
            answers: list[Answer] = []
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(level):
                        group.create_task(self._client(answers, warm_s, until_s, level))
            except ExceptionGroup as several:
                if isinstance(first := several.exceptions[0], planning.Exhausted):
                    raise first from None
                raise
            finally:
                self._note(f"{level} at a time", start_s, before)
                self._close(level, answers, warm_s)

    async def _pause(self) -> None:
        if self.between is not None:
            await self.between(self.clients)

    async def _client(self, answers: list[Answer], warm_s: float, until_s: float, level: int) -> None:
        clock, timed = asyncio.get_running_loop().time, 0
        while clock() < until_s or not timed:
            counts = clock() >= warm_s
            answer = await self._ask(planning.DECODE_PROMPT_TOKENS, self.output_tokens)
            if answer is not None:
                answers.append(answer)
            timed += counts
            self._progress(f"{level} at a time")

    def _close(self, level: int, answers: list[Answer], warm_s: float) -> None:
        spans = [Span(a.first_s, a.last_s, a.output_tokens) for a in answers]
        warm = [a.asked_s >= warm_s for a in answers]
        steady = [counts and a.steady for a, counts in zip(answers, warm, strict=True)]
        self.tally.bursts += sum(warm) - sum(steady)
        point = decode_point(spans, steady if any(steady) else warm, self._plan.replicas)
        if point is not None:
            self.decode.append((level, point))

    def _note(self, name: str, start_s: float, before: tuple[int, int]) -> None:
        end_s, tally = asyncio.get_running_loop().time(), self.tally
        self.steps.append(Step(name, start_s, end_s, tally.input_tokens - before[0], tally.output_tokens - before[1]))
