"""BurstGPT (HPMLL/BurstGPT, CC BY 4.0): releases 1 to 2, the later ones with ``Session ID`` and ``Elapsed time``.

``Timestamp`` is in seconds. Rows with no response tokens are failures in the source: nobody knows how long their answer
would have been, so they are left out and counted. ``API log`` rows have no session.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scheduler.simulation.trace_formats.block import Block, Ints
from scheduler.simulation.trace_formats.csv_file import Columns, CsvFormat, Options
from scheduler.simulation.trace_formats.normalised import whole


class Numbers:
    """Numbers for names, in the order in which the names first appear; -1 for no name."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def of(self, names: pa.Array) -> Ints:
        """One int64 per row."""
        encoded = pc.dictionary_encode(names)
        known = [self._numbers.setdefault(name, len(self._numbers)) for name in encoded.dictionary.to_pylist()]
        table = np.array([*known, -1], np.int64)
        return table[pc.fill_null(encoded.indices, len(known)).to_numpy(zero_copy_only=False)]


def _reader(options: Options) -> Callable[[Columns], Block]:
    sessions = Numbers()

    def block(columns: Columns) -> Block:
        output_tokens = whole(columns["Response tokens"])
        return Block(
            arrival_s=columns["Timestamp"].to_numpy(),
            input_tokens=whole(columns["Request tokens"]),
            output_tokens=output_tokens,
            session=sessions.of(columns["Session ID"]) if "Session ID" in columns else None,
            kept=output_tokens > 0,
        )

    return block


BURSTGPT = CsvFormat(
    name="BurstGPT",
    columns={"Timestamp": "seconds", "Model": "text", "Request tokens": "count", "Response tokens": "count"},
    optional={"Session ID": "text"},
    reader=_reader,
)
