"""Azure's traces of LLM inference of 2023 and 2024: ``TIMESTAMP,ContextTokens,GeneratedTokens``.

Azure/AzurePublicDataset, CC BY 4.0. 2023 writes ``2023-11-16 18:15:46.6805900``, 2024 ``2024-05-10 00:00:00.009930+00:00``;
a file holds to one of the two. Instants are read in nanoseconds, so that no digit is lost before the difference is taken.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scheduler.simulation.trace_formats.block import Block
from scheduler.simulation.trace_formats.csv_file import Columns, CsvFormat, Options
from scheduler.simulation.trace_formats.normalised import whole


def _reader(options: Options) -> Callable[[Columns], Block]:
    first_ns: int | None = None
    zone: str | None = None

    def block(columns: Columns) -> Block:
        nonlocal first_ns, zone
        text = columns["TIMESTAMP"]
        if first_ns is None:
            try:
                pc.cast(text[:1], pa.timestamp("ns"))
            except pa.ArrowInvalid:
                zone = "UTC"
        at_ns = pc.cast(text, pa.timestamp("ns", tz=zone)).cast(pa.int64()).to_numpy()
        if first_ns is None and len(at_ns):
            first_ns = int(at_ns[0])
        return Block(
            arrival_s=(at_ns - np.int64(first_ns or 0)) / 1e9,
            input_tokens=whole(columns["ContextTokens"]),
            output_tokens=whole(columns["GeneratedTokens"]),
        )

    return block


AZURE = CsvFormat(
    name="Azure LLM inference",
    columns={"TIMESTAMP": "instant", "ContextTokens": "count", "GeneratedTokens": "count"},
    reader=_reader,
)
