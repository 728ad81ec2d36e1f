"""Mooncake's JSON lines (kvcache-ai/Mooncake, Apache-2.0): ``timestamp`` in milliseconds, lengths and prefix block hashes.

``reusable_prefix_tokens`` is derived as if a cache kept every block for ever: 512 times the number of leading blocks seen
before, no more than the input. That remembers the distinct blocks of the file, which is the one thing here that grows.
Fields that Mooncake does not have are refused: traces that look alike count their time in other units.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated

import msgspec
import numpy as np

from scheduler.simulation.trace_formats.block import COUNT_MAX, PREFIX_BLOCK_TOKENS, Block, TraceError

_BLOCK_LINES = 8_192
_LINE_BYTES_MAX = 16 * 1024 * 1024

Count = Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]
BlockId = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    timestamp: Annotated[float, msgspec.Meta(ge=0, le=1e15)]
    input_length: Count
    output_length: Count
    hash_ids: list[BlockId] = []


_decode = msgspec.json.Decoder(_Line).decode


class MooncakeFile:
    """One file of JSON lines."""

    ordered = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[int] = []  # of the newest block
        self._rows_before = 0

    def blocks(self, stream: IO[bytes]) -> Iterator[Block]:
        """All requests in blocks. Raises TraceError with the line of the first thing that is wrong."""
        seen: set[int] = set()
        rows: list[_Line] = []
        self._lines = []
        number = 0
        while line := stream.readline(_LINE_BYTES_MAX + 1):
            number += 1
            if len(line) > _LINE_BYTES_MAX:
                raise TraceError(self._path, number, f"longer than {_LINE_BYTES_MAX} bytes")
            if not line.strip():
                continue
            try:
                rows.append(_decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:  # a ValidationError is a DecodeError
                raise TraceError(self._path, number, str(error)) from error
            self._lines.append(number)
            if len(rows) == _BLOCK_LINES:
                yield _block(rows, seen)
                self._rows_before += len(rows)
                rows, self._lines = [], []
        if rows:
            yield _block(rows, seen)

    def line_of(self, row: int) -> int:
        """Line of request ``row`` (from 0), which must be in the newest block."""
        return self._lines[row - self._rows_before]


def _block(rows: list[_Line], seen: set[int]) -> Block:
    reusable = np.empty(len(rows), np.int32)
    for i, row in enumerate(rows):
        leading = next((n for n, block in enumerate(row.hash_ids) if block not in seen), len(row.hash_ids))
        seen.update(row.hash_ids)
        reusable[i] = min(leading * PREFIX_BLOCK_TOKENS, row.input_length)
    return Block(
        arrival_s=np.array([row.timestamp for row in rows], np.float64) / 1000.0,
        input_tokens=np.array([row.input_length for row in rows], np.int32),
        output_tokens=np.array([row.output_length for row in rows], np.int32),
        reusable_prefix_tokens=reusable,
        prefix_lengths=np.array([len(row.hash_ids) for row in rows], np.int64),
        prefix_blocks=np.array([block for row in rows for block in row.hash_ids], np.int64),
    )
