"""The append-only price history: every change of every price, in order, as JSON lines that the simulator can replay.

    prices-00000001.jsonl      {"seq":1,"change":{...}}  or  {"seq":2,"clock_s":-3600.0,"at_s":...}

Nothing is ever rewritten. What cannot be written (a full disk) waits in memory, bounded, and is written later. A line that
a crash has torn is skipped by readers and never glued to the next one. A clock that was set leaves a ``clock`` line; readers
shift what came before it, so that replayed time never goes back: the newest clock is taken to be right.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from pricing.book import Change

log = logging.getLogger("baseload.prices")

SEGMENT_BYTES_MAX = 16 * 1024 * 1024
WAITING_MAX = 100_000
_LINE_BYTES_MAX = 16 * 1024 * 1024
# A wall clock further than this from where the monotonic one says it should be has been set.
_CLOCK_S_MAX = 60.0


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line: a change, or by how many seconds the clock was set at ``at_s``."""

    seq: int
    change: Change | None = None
    clock_s: float = 0.0
    at_s: float = 0.0


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode


class History:
    """Writer of one directory. ``append`` never raises; ``waiting`` counts the lines that are not on disk yet."""

    def __init__(self, directory: str | Path, segment_bytes_max: int = SEGMENT_BYTES_MAX) -> None:
        self._directory, self._segment_bytes_max = Path(directory), segment_bytes_max
        self._waiting: deque[bytes] = deque()
        self._seq = 0
        self._last_s = 0.0  # wall and monotonic time of the last line: where the wall clock should be now
        self._last_monotonic_s: float | None = None
        self._torn = False
        self.problem = ""
        self.lost = 0
        newest = _newest(self._directory)
        if newest is not None:
            self._seq = newest.seq
            self._last_s = newest.change.at_s if newest.change is not None else newest.at_s

    @property
    def waiting(self) -> int:
        """Lines that are not on disk yet."""
        return len(self._waiting)

    def append(self, changes: Iterable[Change], now_s: float, monotonic_s: float) -> None:
        """Record ``changes`` that happened at ``now_s``, then try to write all that waits."""
        self._mind_the_clock(now_s, monotonic_s)
        for change in changes:
            self._seq += 1
            self._wait(_encode(Line(self._seq, change)) + b"\n")
        self.flush()

    def _mind_the_clock(self, now_s: float, monotonic_s: float) -> None:
        last_s, before = self._last_s, self._last_monotonic_s
        expected_s = last_s + (monotonic_s - before if before is not None else 0.0)
        set_by_s = now_s - expected_s
        # Across a restart only a step back can be told from time that has passed.
        if last_s and (set_by_s < -_CLOCK_S_MAX or (before is not None and set_by_s > _CLOCK_S_MAX)):
            self._seq += 1
            self._wait(_encode(Line(self._seq, clock_s=set_by_s, at_s=now_s)) + b"\n")
        self._last_s, self._last_monotonic_s = now_s, monotonic_s

    def _wait(self, line: bytes) -> None:
        if len(self._waiting) >= WAITING_MAX and not self.flush():
            self.lost += 1
            return
        self._waiting.append(line)

    def flush(self) -> bool:
        """Write what waits. False where the disk takes nothing; ``problem`` says why."""
        try:
            while self._waiting:
                self._write(self._some())
        except OSError as error:
            if not self.problem:
                log.error("the price history cannot be written", extra={"error": str(error)})
            self.problem = f"{error.strerror or error}; {len(self._waiting)} changes wait in memory"
            return False
        self.problem = f"{self.lost} changes were lost while it could not be written" if self.lost else ""
        return True

    def _some(self) -> list[bytes]:
        lines: list[bytes] = []
        size = 0
        for line in self._waiting:
            if lines and size + len(line) > 1024 * 1024:
                break
            lines.append(line)
            size += len(line)
        return lines

    def _write(self, lines: list[bytes]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._segment()
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            if self._torn or _ends_torn(path):
                os.write(descriptor, b"\n")
                self._torn = False
            data = b"".join(lines)
            self._torn = True  # until all of it is there
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
            self._torn = False
        finally:
            os.close(descriptor)
        for _ in lines:
            self._waiting.popleft()

    def _segment(self) -> Path:
        known = segments(self._directory)
        if not known:
            return self._directory / _name(1)
        last = known[-1]
        full = last.stat().st_size >= self._segment_bytes_max
        return self._directory / _name(_number(last) + 1) if full else last


def _name(number: int) -> str:
    return f"prices-{number:08d}.jsonl"


def _number(path: Path) -> int:
    return int(path.stem.partition("-")[2])


def _ends_torn(path: Path) -> bool:
    with path.open("rb") as handle, contextlib.suppress(OSError):
        handle.seek(-1, os.SEEK_END)
        return handle.read(1) != b"\n"
    return False


def segments(directory: str | Path) -> list[Path]:
    """The files of a history, oldest first."""
    found = (path for path in Path(directory).glob("prices-*.jsonl") if path.stem.partition("-")[2].isdecimal())
    return sorted(found, key=_number)


def read(directory: str | Path) -> Iterator[Line]:
    """Every readable line in order, each once: what was written twice after a failed write counts once."""
    last = 0
    for line in lines(directory):
        if line.seq > last:
            last = line.seq
            yield line


def lines(directory: str | Path) -> Iterator[Line]:
    """Every readable line as it stands, of a directory's segments or of one file."""
    for path in [Path(directory)] if Path(directory).is_file() else segments(directory):
        yield from _lines(path)


def _lines(path: Path) -> Iterator[Line]:
    bad = 0
    with path.open("rb") as handle:
        while line := handle.readline(_LINE_BYTES_MAX):
            if not line.strip():
                continue
            try:
                yield _decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                bad += 1
    if bad:
        log.warning("lines of the price history cannot be read", extra={"file": path.name, "lines": bad})


def _newest(directory: Path) -> Line | None:
    """The last line of the last segment that holds anything readable."""
    for path in reversed(segments(directory)):
        newest = max(_lines(path), key=lambda line: line.seq, default=None)
        if newest is not None:
            return newest
    return None


def replay(directory: str | Path, start_s: float = 0.0, end_s: float = float("inf")) -> Iterator[Change]:
    """Changes from ``start_s`` up to ``end_s`` in order, their times repaired where the clock was set."""
    shifts_s = [0.0]  # of what lies after the last clock line, before it, and so on
    for set_by_s in reversed([line.clock_s for line in read(directory) if line.change is None]):
        shifts_s.append(shifts_s[-1] + set_by_s)
    last_s, shift_s = 0.0, shifts_s.pop()
    for line in read(directory):
        change = line.change
        if change is None:
            shift_s = shifts_s.pop() if shifts_s else 0.0
            continue
        last_s = max(last_s, change.at_s + shift_s)
        if last_s >= end_s:
            return
        if last_s >= start_s:
            yield change if last_s == change.at_s else _moved(change, last_s - change.at_s)


def _moved(change: Change, by_s: float) -> Change:
    observed_s = None if change.observed_s is None else change.observed_s + by_s
    return msgspec.structs.replace(change, at_s=change.at_s + by_s, observed_s=observed_s)
