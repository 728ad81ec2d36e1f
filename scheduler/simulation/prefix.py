"""Prefix caches of a pool's engines, as one: which leading blocks of a prompt have been computed here and are still kept.

One cache for all engines of a pool assumes that requests find the engine that has their prefix. It holds what their KV caches
hold together; least recently used blocks go first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

BLOCK_TOKENS = 512  # of the block ids in Mooncake's traces


class PrefixCache:
    """Blocks by id, up to ``tokens_max`` tokens."""

    __slots__ = ("_blocks", "_blocks_max")

    def __init__(self, tokens_max: int) -> None:
        self._blocks: OrderedDict[Hashable, None] = OrderedDict()
        self._blocks_max = tokens_max // BLOCK_TOKENS

    def hit_tokens(self, blocks: Sequence[Hashable], input_tokens: int) -> int:
        """Tokens of a prompt that need not be computed; its last token always is."""
        hit = 0
        for block in blocks:
            if block not in self._blocks:
                break
            self._blocks.move_to_end(block)
            hit += BLOCK_TOKENS
        return min(hit, input_tokens - 1) if hit else 0

    def add(self, blocks: Sequence[Hashable]) -> None:
        """A prompt has been computed here."""
        for block in blocks:
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._blocks_max:
            self._blocks.popitem(last=False)

    def __len__(self) -> int:
        return len(self._blocks)


def session_blocks(session: str, input_tokens: int) -> tuple[Hashable, ...]:
    """Blocks of a conversation whose every prompt begins with all of the one before it."""
    return tuple((session, i) for i in range(input_tokens // BLOCK_TOKENS))
