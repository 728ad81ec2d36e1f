"""A model of one continuous-batching engine (vLLM-like): steps of prefill with decoding, decode-only phases by jumps.

A step decodes one token of each running sequence and computes up to ``chunk_tokens`` of the prompts that wait, in order:

    step_s = max(itl_base_s, prompt_tokens / prefill_tokens_per_s) + itl_per_seq_s * running

since the weights are read once a step, whether for prompts or for decoding (a roofline; Sarathi-Serve, OSDI 2024, measures
that decoding rides along). Between steps with prompts nothing changes but counts, so time jumps to the next end of an answer.
A step is never shorter than the work in it (prompts over the prefill rate, and the slope for each token that is decoded; an
answer's first token comes with its prompt), so throughput cannot exceed capacity.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush

from scheduler.core.supply import ServiceCurve

CHUNK_TOKENS = 8192
# Of a step: clocks of this century resolve a quarter of a microsecond, which is about a ten-thousandth of a step.
_EPSILON = 1e-3
_CLOCK_S = 2.5e-7
_STEP_S_MIN = 1e-6  # a step that takes no time would never end


@dataclass(slots=True)
class _Prompt:
    ticket: str
    left: int  # tokens that are not computed yet
    output_tokens: int


class Engine:
    """State of one engine. ``next_s`` is when something happens next (inf: never, unless something is submitted)."""

    __slots__ = (
        "_anchor_s", "_base_s", "_chunk", "_chunk_tokens", "_epsilon", "_finishing", "_in_step", "_per_seq_s", "_per_token_s",
        "_prompts", "_steps", "busy_s", "decoded_tokens", "next_s", "prefilled_tokens",
    )  # fmt: skip

    def __init__(self, curve: ServiceCurve, chunk_tokens: int = CHUNK_TOKENS) -> None:
        self._base_s, self._per_seq_s = max(curve.itl_base_s, _STEP_S_MIN), curve.itl_per_seq_s
        self._epsilon = max(_EPSILON, 2.0 * _CLOCK_S / (self._base_s + self._per_seq_s))
        self._per_token_s, self._chunk_tokens = 1.0 / curve.prefill_tokens_per_s, chunk_tokens
        self._prompts: deque[_Prompt] = deque()
        self._finishing: list[tuple[float, str]] = []  # heap: (step at which the answer ends, ticket)
        self._steps = 0.0  # steps done; fractional inside a decode-only phase
        self._anchor_s = 0.0
        self._in_step = False
        self._chunk = 0
        self.next_s = math.inf
        self.busy_s = self.decoded_tokens = self.prefilled_tokens = 0.0

    @property
    def running(self) -> int:
        """Sequences that decode."""
        return len(self._finishing)

    @property
    def idle(self) -> bool:
        """Nothing to do."""
        return not self._finishing and not self._prompts

    def submit(self, ticket: str, prompt_tokens: int, output_tokens: int, now_s: float) -> None:
        """A request arrives; its prompt joins the next step that begins."""
        self._prompts.append(_Prompt(ticket, max(1, prompt_tokens), max(1, output_tokens)))
        if self._in_step or len(self._prompts) > 1:
            return
        if self._finishing:  # the step that runs now ends first
            step_s = self._base_s + self._per_seq_s * len(self._finishing)
            self._advance(now_s, step_s)
            begins_s = now_s + (math.ceil(self._steps - self._epsilon) - self._steps) * step_s
            if begins_s > now_s + self._epsilon * step_s or self._finishing[0][0] <= self._steps + self._epsilon:
                # An answer that ends just now leaves first.
                self.next_s = max(now_s, min(self.next_s, begins_s))
                return
            self._steps = float(round(self._steps))
        self._begin_step(now_s)

    def _advance(self, now_s: float, step_s: float) -> None:
        """Count the decode-only steps since the anchor."""
        took_s = now_s - self._anchor_s
        if took_s > 0.0:
            self._steps += took_s / step_s
            self.busy_s += took_s
            self.decoded_tokens += took_s / step_s * len(self._finishing)
        self._anchor_s = now_s

    def _begin_step(self, now_s: float) -> None:
        chunk = 0
        for prompt in self._prompts:
            chunk += prompt.left
            if chunk >= self._chunk_tokens:
                chunk = self._chunk_tokens
                break
        self._chunk, self._in_step, self._anchor_s = chunk, True, now_s
        self.next_s = now_s + max(self._base_s, chunk * self._per_token_s) + self._per_seq_s * len(self._finishing)

    def proceed(self, now_s: float) -> tuple[list[str], list[str]]:
        """What happens at ``next_s``: tickets with their first token now, and tickets whose answer ends now."""
        first: list[str] = []
        done: list[str] = []
        running = len(self._finishing)
        if self._in_step:
            self._in_step = False
            self.busy_s += now_s - self._anchor_s
            self.decoded_tokens += running
            self.prefilled_tokens += self._chunk
            self._steps = float(round(self._steps)) + 1.0
            self._end_chunk(first, done)
            self._anchor_s = now_s
        else:
            self._advance(now_s, self._base_s + self._per_seq_s * running)
        while self._finishing and self._finishing[0][0] <= self._steps + self._epsilon:
            done.append(heappop(self._finishing)[1])
        if self._prompts:
            self._begin_step(now_s)
        elif self._finishing:
            step_s = self._base_s + self._per_seq_s * len(self._finishing)
            self.next_s = now_s + max(0.0, self._finishing[0][0] - self._steps) * step_s
        else:
            self.next_s = math.inf
        return first, done

    def _end_chunk(self, first: list[str], done: list[str]) -> None:
        left = self._chunk
        while left > 0:
            prompt = self._prompts[0]
            if prompt.left > left:
                prompt.left -= left
                break
            left -= prompt.left
            self._prompts.popleft()
            first.append(prompt.ticket)
            self.decoded_tokens += 1
            if prompt.output_tokens <= 1:
                done.append(prompt.ticket)
            else:
                heappush(self._finishing, (self._steps + prompt.output_tokens - 1, prompt.ticket))

    def drop_all(self) -> list[str]:
        """The engine is gone: every ticket that it had."""
        lost = [prompt.ticket for prompt in self._prompts] + [ticket for _, ticket in self._finishing]
        self._prompts.clear()
        self._finishing.clear()
        self._in_step, self.next_s = False, math.inf
        return lost
