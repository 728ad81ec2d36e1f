"""Public traces of requests as columns: read once as a stream, spooled to temporary files, mapped into memory.

    with open_trace("requests.csv.gz") as trace:
        trace.arrival_s, trace.input_tokens, trace.output_tokens, ...

Which formats are known, and what is taken from them: docs/simulation-inputs.md. However long the trace, reading needs
memory for one block and disk for its columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scheduler.simulation.spool import Spool, by_arrival
from scheduler.simulation.trace_formats import FORMATS, CsvFile, MooncakeFile, Options, TraceError
from scheduler.simulation.trace_formats.block import Block
from scheduler.simulation.trace_formats.csv_file import first_line, opened, recognised

__all__ = ["Trace", "TraceError", "cut", "open_trace", "trace_of"]

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Requests by ascending arrival, which starts at 0. All arrays are read-only and have one row per request.

    ``arrival_s`` f8, ``input_tokens``, ``output_tokens`` and ``reusable_prefix_tokens`` i4, ``client`` i4 (0 where the source
    names none), ``session`` i8 (-1: none). ``prefix_blocks`` (i8, flat) with ``prefix_offsets`` (i8, one more than requests)
    lists each prompt's block ids from its start; both are None where the source has none. ``dropped`` counts rows that
    were left out as failures of the source. A trace from a file owns its temporary files: use it in a ``with``.
    """

    name: str
    arrival_s: NDArray[np.float64]
    input_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    client: NDArray[np.int32]
    session: NDArray[np.int64]
    reusable_prefix_tokens: NDArray[np.int32]
    prefix_offsets: NDArray[np.int64] | None = None
    prefix_blocks: NDArray[np.int64] | None = None
    has_clients: bool = False
    has_sessions: bool = False
    dropped: int = 0
    directory: TemporaryDirectory[str] | None = None

    @property
    def requests(self) -> int:
        """Number of requests."""
        return len(self.arrival_s)

    @property
    def span_s(self) -> float:
        """Seconds after which the trace may begin again: the last arrival and one mean gap; 1 s if all come at once."""
        last_s = float(self.arrival_s[-1])
        return last_s * self.requests / (self.requests - 1) if last_s > 0.0 else 1.0

    def close(self) -> None:
        """Remove the temporary files. The arrays must not be used after that."""
        if self.directory is not None:
            self.directory.cleanup()

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class _File(Protocol):
    @property
    def ordered(self) -> bool: ...
    def blocks(self, stream: IO[bytes]) -> Iterator[Block]: ...
    def line_of(self, row: int) -> int: ...


def open_trace(
    path: str | Path,
    *,
    sort: bool = False,
    options: Options | None = None,
    progress: Progress | None = None,
    directory: str | Path | None = None,
) -> Trace:
    """Read a trace, CSV or JSON lines, plain or gzip, of whatever family its first line shows. Raises TraceError.

    Arrivals that go back are refused with their line unless ``sort``, which needs 16 bytes of memory per request.
    ``options``: how sessions without a common clock arrive. ``progress`` hears the share of the file read, 0 to 1.
    ``directory``: where the temporary files lie, if not in the usual place.
    """
    path = Path(path)
    file = _recognised(path, options or Options())
    owned = TemporaryDirectory(prefix="trace-", dir=directory)
    spool = Spool(Path(owned.name))
    try:
        dropped = _spooled(path, file, spool, sort or not file.ordered, progress)
        columns = spool.columns()
        if sort or not file.ordered:
            by_order = Path(owned.name) / "sorted"
            by_order.mkdir()
            columns = by_arrival(columns, by_order)
        return _trace(path.name, columns, dropped, owned)
    except BaseException:
        spool.close()
        owned.cleanup()
        raise


def cut(trace: Trace, from_s: float, until_s: float) -> Trace:
    """Requests of ``trace`` from one instant up to another, on a clock that begins there. Lives no longer than ``trace``.

    Raises ValueError where nothing lies between them. Prefix blocks are left out.
    """
    first, last = np.searchsorted(trace.arrival_s, (from_s, until_s))
    if first == last:
        raise ValueError(f"{trace.name}: no request between {from_s:g} s and {until_s:g} s")
    names = ("input_tokens", "output_tokens", "client", "session", "reusable_prefix_tokens")
    columns = {name: getattr(trace, name)[first:last] for name in names}
    arrival_s = trace.arrival_s[first:last]
    return replace(
        trace, arrival_s=arrival_s - arrival_s[0], **columns, prefix_offsets=None, prefix_blocks=None, dropped=0,
        directory=None,
    )  # fmt: skip


def trace_of(
    name: str, arrival_s: ArrayLike, input_tokens: ArrayLike, output_tokens: ArrayLike, **optional: Any
) -> Trace:
    """A trace of arrays that are there already, by ascending arrival. ``optional``: columns of ``Trace``."""
    columns = {"arrival_s": np.asarray(arrival_s, np.float64)}
    columns |= {
        "input_tokens": np.asarray(input_tokens, np.int32),
        "output_tokens": np.asarray(output_tokens, np.int32),
    }
    dtypes = {"client": np.int32, "reusable_prefix_tokens": np.int32}
    columns |= {key: np.asarray(column, dtypes.get(key, np.int64)) for key, column in optional.items()}
    arrival = columns["arrival_s"]
    if not len(arrival) or not np.isfinite(arrival).all() or (np.diff(arrival) < 0.0).any():
        raise ValueError(f"{name}: arrivals must be there, finite and ascending")
    return _trace(name, columns | {"arrival_s": arrival - arrival[0]}, 0, None)


def _recognised(path: Path, options: Options) -> _File:
    line = first_line(path)
    if not line.strip():
        raise TraceError(path, 0, "the file or its first line is empty")
    if line.lstrip().startswith("{"):
        return MooncakeFile(path)
    return CsvFile(path, line, recognised(path, line, FORMATS), options)


def _spooled(path: Path, file: _File, spool: Spool, any_order: bool, progress: Progress | None) -> int:
    """Append every block of ``file``; returns the number of rows dropped."""
    size, rows, dropped, last_s = max(1, path.stat().st_size), 0, 0, -np.inf
    with opened(path) as (stream, position):
        for block in file.blocks(stream):
            block_rows = len(block.arrival_s)
            if not block_rows:
                continue
            if not any_order:
                back = np.flatnonzero(np.diff(block.arrival_s, prepend=last_s) < 0.0)
                if len(back):
                    row = int(back[0])
                    above_s = float(block.arrival_s[row - 1]) if row else last_s
                    text = f"arrives {above_s - float(block.arrival_s[row]):.6g} s before the request above it"
                    raise TraceError(path, file.line_of(rows + row), f"{text} (sort=True accepts that)")
                last_s = float(block.arrival_s[-1])
            rows += block_rows
            dropped += block_rows - int(block.kept.sum()) if block.kept is not None else 0
            spool.append(block)
            if progress is not None:
                progress(min(1.0, position() / size))
    if rows == dropped:
        raise TraceError(path, 0, "no requests" if not rows else f"no requests but {dropped} failed ones")
    return dropped


def _trace(name: str, columns: dict[str, NDArray[Any]], dropped: int, owned: TemporaryDirectory[str] | None) -> Trace:
    rows = len(columns["arrival_s"])
    return Trace(
        name=name,
        arrival_s=columns["arrival_s"],
        input_tokens=columns["input_tokens"],
        output_tokens=columns["output_tokens"],
        # What the source does not say costs no memory: one value, seen as often as there are requests.
        client=columns.get("client", np.broadcast_to(np.int32(0), rows)),
        session=columns.get("session", np.broadcast_to(np.int64(-1), rows)),
        reusable_prefix_tokens=columns.get("reusable_prefix_tokens", np.broadcast_to(np.int32(0), rows)),
        prefix_offsets=columns.get("prefix_offsets"),
        prefix_blocks=columns.get("prefix_blocks"),
        has_clients="client" in columns,
        has_sessions="session" in columns,
        dropped=dropped,
        directory=owned,
    )
