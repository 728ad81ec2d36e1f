"""Names of journal files, and the lock that tells a live writer from a dead one.

A writer's files are ``<yyyymmddThhmmss>-<writer>-<n>.jsonl``: the UTC time at which that process opened its journal,
and a counter. The part before the counter names the *incarnation*: a restarted writer keeps its id but is another one.
``<writer>.lock`` holds the incarnation's name, under ``flock(LOCK_EX)`` for as long as the process lives. The kernel
drops that lock on any death, ``kill -9`` included. (On NFS this needs Linux 2.6.12 or later at both ends.)
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from pathlib import Path
from typing import NamedTuple

from serving.ledger.errors import JournalError, JournalMissing, WriterTaken

WRITER_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SEGMENT_PATTERN = re.compile(r"(?P<incarnation>\d{8}T\d{6}-(?P<writer>.+))-(?P<number>\d+)\.jsonl")


class Segment(NamedTuple):
    """One journal file. Sorts by the age of its incarnation, then by counter."""

    incarnation: str
    number: int
    writer: str
    path: Path


def list_segments(directory: Path) -> list[Segment]:
    """Journal files in ``directory``, oldest first; other files are none of ours. Raises ``JournalMissing``."""
    try:
        names = os.listdir(directory)  # noqa: PTH208 - names are all that is needed
    except OSError as error:
        raise JournalMissing(f"journal directory {directory}: {error.strerror}") from error
    matches = (_SEGMENT_PATTERN.fullmatch(name) for name in names)
    return sorted(
        Segment(match["incarnation"], int(match["number"]), match["writer"], directory / match.string)
        for match in matches
        if match
    )


def lock_path(directory: Path, writer: str) -> Path:
    """Lock file of ``writer``."""
    return directory / f"{writer}.lock"


def take_lock(directory: Path, writer: str, wait_s_max: float = 1.0) -> int:
    """Take the writer's lock and return its descriptor.

    Retries for ``wait_s_max`` because a reader that asks for liveness holds the lock for some microseconds.
    Raises ``WriterTaken`` while another process holds it, ``OSError`` if the file cannot be made.
    """
    path = lock_path(directory, writer)
    deadline_s = time.monotonic() + wait_s_max
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if _lock(fd, fcntl.LOCK_EX) and _is_at(fd, path):
            return fd
        os.close(fd)
        if time.monotonic() >= deadline_s:
            raise WriterTaken(f"{path} is held: a live process already writes as {writer!r}")
        time.sleep(0.005)


def publish_incarnation(lock_fd: int, incarnation: str) -> None:
    """Write the incarnation's name into the held lock file. Raises ``OSError``."""
    os.ftruncate(lock_fd, 0)
    os.pwrite(lock_fd, incarnation.encode(), 0)


def release_lock(directory: Path, writer: str, lock_fd: int) -> None:
    """Remove the lock file while it is still held (so nobody else's is removed), then let go."""
    lock_path(directory, writer).unlink(missing_ok=True)
    os.close(lock_fd)


def is_live(directory: Path, segment: Segment) -> bool:
    """Whether the process that wrote ``segment`` still holds its lock. Never waits, and never makes a writer wait.

    Raises ``JournalError`` for a lock file that may not be read.
    """
    try:
        fd = os.open(lock_path(directory, segment.writer), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise JournalError(f"{lock_path(directory, segment.writer)}: {error.strerror}") from error
    try:
        if _lock(fd, fcntl.LOCK_SH):
            return False
        # An empty file belongs to a writer about to write its name: when in doubt, it lives.
        return os.pread(fd, 4096, 0).decode(errors="replace") in ("", segment.incarnation)
    finally:
        os.close(fd)


def remove_stale_lock(directory: Path, writer: str) -> None:
    """Remove the lock file that a killed writer left behind; leaves a held one alone."""
    path = lock_path(directory, writer)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if _lock(fd, fcntl.LOCK_EX) and _is_at(fd, path):
            path.unlink(missing_ok=True)
    finally:
        os.close(fd)


def _lock(fd: int, operation: int) -> bool:
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(fd: int, path: Path) -> bool:
    """Whether ``path`` still is the locked file: its former holder may have removed it in between."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
