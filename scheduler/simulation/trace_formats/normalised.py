"""The plain form: ``arrival_s,input_tokens,output_tokens``, and optionally client, reusable prefix and prefix blocks.

Public traces kept beside this repository have it; anything can be brought into it with a few lines of any language.
``prefix_blocks`` lists the ids of the blocks of a prompt from its start, divided by spaces; equal ids are equal content.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scheduler.simulation.trace_formats.block import Block, Ints
from scheduler.simulation.trace_formats.csv_file import Columns, CsvFormat, Options


def whole(column: pa.Array) -> Ints:
    """A column of counts as 32-bit integers (their range was checked before)."""
    return column.to_numpy().astype(np.int32)


def ragged(column: pa.Array) -> tuple[Ints, Ints]:
    """Space-separated ids of each row as lengths and flat ids, int64. Raises pa.ArrowInvalid for what is no id."""
    lists = pc.split_pattern(column, " ")
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    blocks = pc.cast(pc.list_flatten(lists), pa.int64()).to_numpy(zero_copy_only=False)
    if len(blocks) and blocks.min() < 0:
        raise pa.ArrowInvalid("an id is negative")
    return lengths, blocks


def _reader(options: Options) -> Callable[[Columns], Block]:
    def block(columns: Columns) -> Block:
        client, reusable = columns.get("client"), columns.get("reusable_prefix_tokens")
        lengths, blocks = ragged(columns["prefix_blocks"]) if "prefix_blocks" in columns else (None, None)
        return Block(
            arrival_s=columns["arrival_s"].to_numpy(),
            input_tokens=whole(columns["input_tokens"]),
            output_tokens=whole(columns["output_tokens"]),
            client=whole(client) if client is not None else None,
            reusable_prefix_tokens=whole(reusable) if reusable is not None else None,
            prefix_lengths=lengths,
            prefix_blocks=blocks,
        )

    return block


NORMALISED = CsvFormat(
    name="a normalised trace",
    columns={"arrival_s": "seconds", "input_tokens": "count", "output_tokens": "count"},
    optional={"client": "count", "reusable_prefix_tokens": "count", "prefix_blocks": "ids"},
    reader=_reader,
)
