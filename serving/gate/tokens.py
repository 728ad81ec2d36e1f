"""Tokens of a pool's engines as one counter that never goes back, from counters of engines that come, go and restart.

The gate counts differences of each engine's own counters: the first sight of an engine is where its count begins (it may
have served others for weeks), an engine that does not answer for a while goes on from what was last seen of it, and one that
has restarted begins anew. What an engine served between its last answer and its restart is lost.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from serving.gate.wire import EngineStats


class Tokens(NamedTuple):
    """Prompt, generated and cached prompt tokens."""

    prompt: float = 0.0
    generation: float = 0.0
    cached: float = 0.0


class TokenCounter:
    """``total`` rises by what engines count while this gate knows them."""

    def __init__(self) -> None:
        self.total = Tokens()
        self._last: dict[str, Tokens] = {}

    def heard(self, engine: str, stats: EngineStats) -> None:
        """An engine's own counters; a page that held none says nothing of them."""
        if not stats.counts_tokens:
            return
        now = Tokens(stats.prompt_tokens, stats.generation_tokens, stats.cached_tokens)
        last = self._last.get(engine, now)
        self._last[engine] = now
        risen = zip(self.total, now, last, strict=True)
        self.total = Tokens(*(total + max(0.0, new - old) for total, new, old in risen))

    def keep(self, engines: Collection[str]) -> None:
        """Forget all engines but these; what they have counted stays."""
        self._last = {engine: last for engine, last in self._last.items() if engine in engines}
