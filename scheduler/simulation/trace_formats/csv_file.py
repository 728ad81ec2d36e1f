"""CSV files of any family, plain or gzip, in blocks through pyarrow; what is wrong is found again line by line.

pyarrow reads fast and says little about errors. So the vectorised checks only say *that* a block is wrong, and then the
file is read once more with the ``csv`` module to say where and why.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv

from scheduler.simulation.trace_formats.block import COUNT_MAX, Block, TraceError

# count: a whole number from 0; seconds: a number; instant: a date and time; text: anything; ids: whole numbers and spaces.
Kind = Literal["count", "seconds", "instant", "text", "ids"]
Columns = Mapping[str, Any]  # pyarrow arrays, by column

_TYPES = {
    "count": pa.int64(),
    "seconds": pa.float64(),
    "instant": pa.string(),
    "text": pa.string(),
    "ids": pa.string(),
}
_BLOCK_BYTES = 4 * 1024 * 1024
_HEADER_BYTES_MAX = 64 * 1024
_WHOLE = re.compile(r"[+-]?\d+")


@dataclass(frozen=True, slots=True)
class Options:
    """Where a family needs more than the file holds: agentic sessions have no common clock (see ``agentic``)."""

    seed: int = 0
    sessions_per_hour: float = 12.0


@dataclass(frozen=True, slots=True)
class CsvFormat:
    """A family of CSV files: its columns, and what makes blocks of them.

    ``reader`` is called once per file, so that what it returns may remember. It may raise pa.ArrowInvalid.
    ``ordered`` is False where arrivals do not ascend by nature and are always sorted.
    """

    name: str
    columns: Mapping[str, Kind]
    reader: Callable[[Options], Callable[[Columns], Block]]
    optional: Mapping[str, Kind] = field(default_factory=dict)
    ordered: bool = True


@contextmanager
def opened(path: Path) -> Iterator[tuple[IO[bytes], Callable[[], int]]]:
    """The bytes of ``path``, unpacked if it is gzip, and how many of the file's own bytes have been read so far.

    Raises TraceError for what cannot be read or unpacked, also out of the block below the ``with``.
    """
    try:
        with path.open("rb") as raw:
            stream: IO[bytes] = raw
            if raw.peek(2)[:2] == b"\x1f\x8b":
                stream = cast(IO[bytes], gzip.GzipFile(fileobj=raw))
            yield stream, lambda: path.stat().st_size if raw.closed else raw.tell()
    except EOFError as error:
        raise TraceError(path, 0, "the gzip file is cut off before its end") from error
    except (OSError, zlib.error) as error:  # a BadGzipFile is an OSError
        raise TraceError(path, 0, f"cannot be read: {error}") from error


def first_line(path: Path) -> str:
    """The first line without its end, empty for an empty file."""
    with opened(path) as (stream, _):
        line = stream.readline(_HEADER_BYTES_MAX)
    try:
        return line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise TraceError(path, 1, "neither CSV nor JSON lines in UTF-8") from error


def recognised(path: Path, line: str, formats: tuple[CsvFormat, ...]) -> CsvFormat:
    """The family whose columns the header ``line`` has. Raises TraceError naming what is missing."""
    header = next(csv.reader([line]), [])
    for name in header:
        if header.count(name) > 1:
            raise TraceError(path, 1, f"the column {name!r} is there twice")
    for candidate in formats:
        if candidate.columns.keys() <= set(header):
            return candidate
    nearest = max(formats, key=lambda candidate: len(candidate.columns.keys() & set(header)))
    missing = [name for name in nearest.columns if name not in header]
    if len(missing) == len(nearest.columns):
        known = "; ".join(f"{candidate.name}: {','.join(candidate.columns)}" for candidate in formats)
        raise TraceError(path, 1, f"not a trace of requests that is known here (known headers: {known})")
    raise TraceError(path, 1, f"looks like {nearest.name}, but the column {missing[0]!r} is missing")


class CsvFile:
    """One CSV file of a known family."""

    def __init__(self, path: Path, header_line: str, csv_format: CsvFormat, options: Options) -> None:
        self._path, self._format, self._options = path, csv_format, options
        self._header = next(csv.reader([header_line]))
        wanted = {**csv_format.columns, **csv_format.optional}
        self._kinds: dict[str, Kind] = {name: wanted[name] for name in self._header if name in wanted}

    @property
    def ordered(self) -> bool:
        """Whether arrivals ascend by nature."""
        return self._format.ordered

    def blocks(self, stream: IO[bytes]) -> Iterator[Block]:
        """All requests in blocks. Raises TraceError with the line of the first thing that is wrong."""
        block_of = self._format.reader(self._options)
        try:
            reader = pa_csv.open_csv(
                stream,
                read_options=pa_csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
                parse_options=pa_csv.ParseOptions(newlines_in_values=False),
                convert_options=pa_csv.ConvertOptions(
                    column_types={name: _TYPES[kind] for name, kind in self._kinds.items()},
                    include_columns=list(self._kinds),
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
            for batch in reader:
                columns = {name: batch.column(name) for name in self._kinds}
                if not all(_sound(columns[name], kind) for name, kind in self._kinds.items()):
                    raise pa.ArrowInvalid("a value is missing, negative or too large")
                yield block_of(columns)
        except pa.ArrowInvalid as error:
            text = str(error)
            if "straddl" in text:  # how Arrow says that a line does not fit into a block
                text = f"a line is longer than {_BLOCK_BYTES:,} bytes"
            raise self._explained(text) from error

    def line_of(self, row: int) -> int:
        """Line of request ``row`` (from 0)."""
        return next((line for i, (line, _) in enumerate(self._rows()) if i == row), 0)

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        with opened(self._path) as (stream, _):
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
            rows = csv.reader(text)
            next(rows, None)
            yield from ((rows.line_num, row) for row in rows if row)

    def _explained(self, otherwise: str) -> TraceError:
        cells = [(self._header.index(name), name, kind) for name, kind in self._kinds.items()]
        with suppress(csv.Error):
            for line, row in self._rows():
                if len(row) != len(self._header):
                    return TraceError(self._path, line, f"{len(row)} fields, but the header has {len(self._header)}")
                for i, name, kind in cells:
                    if reason := _why(kind, row[i].strip()):
                        return TraceError(self._path, line, f"{name}: {reason}")
        return TraceError(self._path, 0, otherwise)


def _sound(column: Any, kind: Kind) -> bool:
    if kind in ("text", "ids"):
        return True
    if column.null_count:
        return False
    if kind == "count":
        bounds = pc.min_max(column).as_py()
        return bounds["min"] is None or (bounds["min"] >= 0 and bounds["max"] <= COUNT_MAX)
    return kind != "seconds" or bool(np.isfinite(column.to_numpy(zero_copy_only=False)).all())


def _why(kind: Kind, cell: str) -> str:
    """What is wrong with one cell, or nothing."""
    if kind == "text" or (kind == "ids" and not cell):
        return ""
    if not cell:
        return "no value"
    if kind == "seconds":
        try:
            return "" if np.isfinite(float(cell)) else f"{cell!r} is not a finite number"
        except ValueError:
            return f"{cell!r} is not a number"
    if kind == "instant":
        try:
            datetime.fromisoformat(cell)
        except ValueError:
            return f"{cell!r} is not a date and time"
        return ""
    for part in cell.split(" ") if kind == "ids" else [cell]:
        if not _WHOLE.fullmatch(part):
            return f"{part!r} is not a whole number"
        if int(part) < 0:
            return f"{part} is negative"
        if kind == "count" and int(part) > COUNT_MAX:
            return f"{part} is above {COUNT_MAX}"
    return ""
