"""Append-only journal of the request path: one ``write`` per record, so that a killed process loses nothing.

The kernel has every record when ``append`` returns; the disk has it within a second (a power cut loses at most that).
A full or failing disk does not fail requests: lines wait in a bounded backlog and are written, in order, once it heals.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import deque
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from serving.ledger.errors import LedgerFull
from serving.ledger.records import Record, decode
from serving.ledger.segments import WRITER_PATTERN, publish_incarnation, release_lock, take_lock

_DRAIN_ROWS = 64  # an append writes at most so many waiting rows, which bounds its time


class Journal:
    """Writer of one process. ``append`` may be called from any thread; nothing is awaited.

    ``rows_max`` bounds the backlog; ``segment_bytes_max`` the size of a file (a longer record gets one of its own).
    """

    def __init__(
        self,
        directory: Path | str,
        writer_id: str,
        segment_bytes_max: int = 64 * 2**20,
        rows_max: int = 10_000,
        flush_every_s: float = 1.0,
    ) -> None:
        """Raises ``ValueError`` for a writer id that cannot be part of a file name."""
        if not WRITER_PATTERN.fullmatch(writer_id):
            raise ValueError(f"writer id {writer_id!r}: up to 100 letters, digits, '.', '_' or '-', first no sign")
        self.directory = Path(directory)
        self.writer_id = writer_id
        self.segment_bytes_max = segment_bytes_max
        self.rows_max = rows_max
        self.flush_every_s = flush_every_s
        self.error: OSError | None = None  # of the last write, while it stands
        self._error_sync: OSError | None = None
        self._encode = msgspec.json.Encoder().encode
        self._backlog: deque[bytes] = deque()
        self._lock = threading.Lock()  # guards the fields below; held for a write, never for a sync
        self._lock_sync = threading.Lock()  # one sync at a time; only its holder closes descriptors
        self._fd = -1
        self._fd_lock = -1
        self._fds_retired: list[int] = []
        self._incarnation = ""
        self._number = 0
        self._size_bytes = 0
        self._mid_line = False
        self._dirty = False
        self._dirty_directory = False
        self._stop = threading.Event()
        self._flusher: threading.Thread | None = None

    def open(self) -> Self:
        """Make the directory, take the writer's lock, start the first file and the flusher.

        Raises ``WriterTaken``, or ``OSError`` if the directory cannot be written.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self._fd_lock = take_lock(self.directory, self.writer_id)
        try:
            started = datetime.now(UTC)
            while list(self.directory.glob(f"{started:%Y%m%dT%H%M%S}-{self.writer_id}-*.jsonl")):
                started += timedelta(seconds=1)  # restarted within a second: names must stay unique
            self._incarnation = f"{started:%Y%m%dT%H%M%S}-{self.writer_id}"
            # Before the first file exists, so that no reader sees a file whose writer seems dead.
            publish_incarnation(self._fd_lock, self._incarnation)
            self._start_segment()
        except OSError:
            release_lock(self.directory, self.writer_id, self._fd_lock)
            self._fd_lock = -1
            raise
        self._mid_line = False
        self._stop.clear()
        self._flusher = threading.Thread(target=self._flush_forever, name="ledger-flush", daemon=True)
        self._flusher.start()
        return self

    def append(self, record: Record) -> None:
        """Write one record, or keep it in the backlog if the disk takes none.

        Raises ``LedgerFull`` if the backlog is full as well or the journal is closed (the record is not kept), and
        ``ValueError`` for a record with an infinite or undefined number.
        """
        line = self._encode(record)
        if b":null" in line:  # how the encoder writes infinity; also a TTFT that is not known, hence the second look
            try:
                decode(line)
            except msgspec.DecodeError as error:
                raise ValueError(f"record {record.id}: {error} (not finite?)") from error
        line += b"\n"
        with self._lock:
            if self._backlog:
                self._drain(_DRAIN_ROWS)
            if self._backlog or self._fd < 0:
                if self._fd < 0 or len(self._backlog) >= self.rows_max:
                    raise LedgerFull(f"{self.directory}: {self.error or 'journal is not open'}")
                self._backlog.append(line)
            elif rest := self._write(line):
                self._backlog.append(rest)

    @property
    def healthy(self) -> bool:
        """Whether every record so far is in a file and the last sync succeeded."""
        return self._fd >= 0 and not self._backlog and self.error is None and self._error_sync is None

    @property
    def rows_waiting(self) -> int:
        """Records in the backlog."""
        return len(self._backlog)

    def flush(self) -> bool:
        """Write what waits and bring it to the disk (fdatasync); True if all of it is there. Never raises."""
        with self._lock_sync:
            while True:
                with self._lock:  # in slices: an append on another thread waits for one slice, not for all
                    progress = self._drain(_DRAIN_ROWS)
                    if not (self._backlog and progress):
                        retired, self._fds_retired = self._fds_retired, []
                        fd, dirty, self._dirty = self._fd, self._dirty, False
                        break
            self._sync(retired, fd if dirty else -1)
        return self.healthy

    def close(self) -> None:
        """Stop the flusher, write and sync the rest, release the lock. Idempotent.

        Raises ``LedgerFull`` if records of the backlog could not be written: they are lost.
        """
        if self._flusher is not None:
            self._stop.set()
            self._flusher.join()
            self._flusher = None
        self.flush()
        with self._lock_sync, self._lock:
            lost = len(self._backlog)
            self._backlog.clear()
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            if self._fd_lock >= 0:
                release_lock(self.directory, self.writer_id, self._fd_lock)
                self._fd_lock = -1
        if lost:
            raise LedgerFull(f"{self.directory}: {lost} records lost: {self.error}")

    def __enter__(self) -> Self:
        return self if self._fd >= 0 else self.open()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _start_segment(self) -> None:
        path = self.directory / f"{self._incarnation}-{self._number + 1}.jsonl"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o640)
        if self._fd >= 0:
            self._fds_retired.append(self._fd)  # synced and closed by the next flush, not on the request path
        self._fd, self._size_bytes, self._number = fd, 0, self._number + 1
        self._dirty_directory = True

    def _write(self, line: bytes) -> bytes:
        """Write ``line``; return what the disk did not take (empty when all is well)."""
        try:
            if self._size_bytes and self._size_bytes + len(line) > self.segment_bytes_max and not self._mid_line:
                self._start_segment()
            while line:
                written = os.write(self._fd, line)
                if not written:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._size_bytes += written
                self._dirty = True
                line = line[written:]
                self._mid_line = bool(line)  # a started line is finished in its own file, before any other
            self.error = None
        except OSError as error:
            self.error = error
        return line

    def _drain(self, rows: int) -> bool:
        """Write up to ``rows`` of the backlog; False as soon as the disk refuses one."""
        backlog = self._backlog
        while backlog and rows:
            if rest := self._write(backlog[0]):
                backlog[0] = rest
                return False
            backlog.popleft()
            rows -= 1
        return True

    def _sync(self, retired: list[int], fd: int) -> None:
        """fdatasync and close ``retired``, fdatasync ``fd`` (-1: none), then the directory if it has a new file."""
        failed: OSError | None = None
        for old in retired:
            try:
                os.fdatasync(old)
            except OSError as error:
                failed = error
            with contextlib.suppress(OSError):
                os.close(old)
        try:
            if fd >= 0:
                os.fdatasync(fd)
            if self._dirty_directory:
                self._dirty_directory = False
                directory_fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    os.fsync(directory_fd)
                finally:
                    os.close(directory_fd)
        except OSError as error:
            failed = error
            self._dirty = True  # ask again in a second
        if failed or fd >= 0:  # with nothing to sync, an earlier failure stands
            self._error_sync = failed

    def _flush_forever(self) -> None:
        while not self._stop.wait(self.flush_every_s):
            if self._dirty or self._backlog or self._fds_retired:
                self.flush()
