"""Columns of any length in temporary files: appended block by block, then mapped into memory and read where needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from scheduler.simulation.trace_formats.block import Block

_CHUNK_ROWS = 1 << 18

_DTYPES: dict[str, np.dtype[Any]] = {
    "arrival_s": np.dtype(np.float64),
    "input_tokens": np.dtype(np.int32),
    "output_tokens": np.dtype(np.int32),
    "client": np.dtype(np.int32),
    "session": np.dtype(np.int64),
    "reusable_prefix_tokens": np.dtype(np.int32),
    "prefix_lengths": np.dtype(np.int64),
    "prefix_blocks": np.dtype(np.int64),
}

Columns = dict[str, NDArray[Any]]


class Spool:
    """Files of one trace in ``directory``, which belongs to the caller. Arrivals are counted from the first one appended."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, IO[bytes]] = {}
        self._first_s: float | None = None

    def append(self, block: Block) -> None:
        """Write the rows of ``block`` that are kept."""
        for name, dtype in _DTYPES.items():
            column = getattr(block, name)
            if column is None:
                continue
            if block.kept is not None:
                column = column[block.kept]
            if name == "arrival_s" and len(column):
                if self._first_s is None:
                    self._first_s = float(column[0])
                column = column - self._first_s
            self._file(name).write(np.ascontiguousarray(column, dtype).data)

    def columns(self) -> Columns:
        """Everything appended, mapped read-only; ``prefix_offsets`` (one more than rows) replaces ``prefix_lengths``."""
        self.close()
        mapped = {name: self._mapped(name, dtype) for name, dtype in _DTYPES.items() if self._path(name).exists()}
        lengths = mapped.pop("prefix_lengths", None)
        if lengths is not None:
            with self._path("prefix_offsets").open("wb") as file:
                file.write(np.zeros(1, np.int64).data)
                last = 0
                for rows in _chunks(len(lengths)):
                    offsets = last + np.cumsum(lengths[rows])
                    last = int(offsets[-1])
                    file.write(offsets.data)
            mapped["prefix_offsets"] = self._mapped("prefix_offsets", np.dtype(np.int64))
        return mapped

    def close(self) -> None:
        """Write out what is buffered."""
        for file in self._files.values():
            file.close()

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.bin"

    def _file(self, name: str) -> IO[bytes]:
        if name not in self._files:
            self._files[name] = self._path(name).open("wb")
        return self._files[name]

    def _mapped(self, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        path = self._path(name)
        if not path.stat().st_size:  # nothing can be mapped then
            return np.empty(0, dtype)
        return np.memmap(path, dtype, mode="r")


def by_arrival(columns: Columns, directory: Path) -> Columns:
    """The same requests in the order of arrival, ties in the order of the file, in a new spool in ``directory``.

    Holds the order itself in memory: 16 bytes a request for a moment, 8 after that.
    """
    order = np.argsort(columns["arrival_s"], kind="stable")
    spool = Spool(directory)
    plain = [name for name in columns if not name.startswith("prefix_")]
    for rows in _chunks(len(order)):
        index = order[rows]
        taken: Columns = {name: columns[name][index] for name in plain}
        if "prefix_offsets" in columns:
            offsets, blocks = gather(columns["prefix_offsets"], columns["prefix_blocks"], index)
            taken |= {"prefix_lengths": np.diff(offsets), "prefix_blocks": blocks}
        spool.append(Block(**taken))
    return spool.columns()


def gather(
    offsets: NDArray[np.int64], values: NDArray[np.int64], index: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows ``index`` of ragged data: new offsets (one more than rows) and the values in that order."""
    starts = offsets[index]
    lengths = offsets[index + 1] - starts
    taken = np.zeros(len(index) + 1, np.int64)
    np.cumsum(lengths, out=taken[1:])
    return taken, values[np.arange(taken[-1]) + np.repeat(starts - taken[:-1], lengths)]


def _chunks(rows: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK_ROWS) for start in range(0, rows, _CHUNK_ROWS))
