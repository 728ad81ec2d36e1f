"""What every reader hands on: columns of some thousand requests, and the error that names file, line and reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Tokens of one prefix block in Mooncake's traces (kvcache-ai/Mooncake, FAST25-release).
PREFIX_BLOCK_TOKENS = 512
# Token counts and client numbers are kept in 32 bits.
COUNT_MAX = 2**31 - 1

Floats = NDArray[np.float64]
Ints = NDArray[np.integer[Any]]


class TraceError(ValueError):
    """A trace cannot be used. ``line`` counts from 1 with the header, and is 0 where the whole file is meant."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        self.path, self.line, self.reason = path, line, reason
        super().__init__(f"{path}, line {line}: {reason}" if line else f"{path}: {reason}")


@dataclass(frozen=True, slots=True)
class Block:
    """Requests in the order of the file; all arrays have one row per request unless said otherwise.

    ``arrival_s`` is on the file's own clock. ``client``, ``session`` (-1: none) and ``reusable_prefix_tokens`` are None where
    the file does not say. ``prefix_lengths`` counts the blocks of each request in the flat ``prefix_blocks``.
    ``kept`` is False for rows that were no requests served (failures); they have a place in the order and no more.
    """

    arrival_s: Floats
    input_tokens: Ints
    output_tokens: Ints
    client: Ints | None = None
    session: Ints | None = None
    reusable_prefix_tokens: Ints | None = None
    prefix_lengths: Ints | None = None
    prefix_blocks: Ints | None = None
    kept: NDArray[np.bool_] | None = None
