"""The writer on a disk that is full, slow or failing: records wait, in order, and none is lost unsaid."""

from __future__ import annotations

import errno
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.ledger.errors import LedgerFull
from serving.ledger.journal import Journal
from serving.ledger.samples import begin, end

IdsIn = Callable[[Path], list[tuple[str, str]]]
NEVER_S = 3600.0


class Disk:
    """Stands in for ``os.write`` on one journal: takes ``room`` bytes in pieces of ``piece``, then has no space."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, journal: Journal, room: float, piece: int = 2**20) -> None:
        self.room, self.piece, self.calls = room, piece, 0
        real = os.write

        def write(fd: int, data: bytes) -> int:
            if fd != journal._fd:
                return real(fd, data)
            self.calls += 1
            size = int(min(len(data), self.room, self.piece))
            if not size:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.room -= size
            return real(fd, data[:size])

        monkeypatch.setattr(os, "write", write)


def lazy(directory: Path, **options: int) -> Journal:
    return Journal(directory, "gateway-0", flush_every_s=NEVER_S, **options).open()


def test_every_append_is_one_write(journal_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with lazy(journal_dir) as journal:
        disk = Disk(monkeypatch, journal, math.inf)
        for number in range(10):
            journal.append(begin(str(number)))
        assert disk.calls == 10


def test_a_write_that_takes_only_a_part_is_continued(
    journal_dir: Path, ids_in: IdsIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lazy(journal_dir, segment_bytes_max=1_000) as journal:
        Disk(monkeypatch, journal, math.inf, piece=7)
        for number in range(5):
            journal.append(begin(str(number)))
        assert journal.healthy
    assert ids_in(journal_dir) == [("begin", str(number)) for number in range(5)]


@pytest.mark.parametrize("room", [0, 1, 500, 1_000, 1_400])
def test_a_full_disk_delays_records_but_neither_loses_nor_reorders_them(
    journal_dir: Path, ids_in: IdsIn, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    with lazy(journal_dir, segment_bytes_max=1_500) as journal:
        disk = Disk(monkeypatch, journal, room)
        for number in range(100):
            journal.append(begin(str(number)))
        assert not journal.healthy
        assert not journal.flush()
        assert journal.rows_waiting >= 97
        disk.room = math.inf
        journal.append(end("0"))  # writes a slice of the backlog, and keeps its turn
        assert journal.flush()
        assert journal.rows_waiting == 0
    assert ids_in(journal_dir) == [*(("begin", str(number)) for number in range(100)), ("end", "0")]


def test_a_full_backlog_refuses_the_record_and_keeps_the_others(
    journal_dir: Path, ids_in: IdsIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lazy(journal_dir, rows_max=3) as journal:
        disk = Disk(monkeypatch, journal, 0)
        for number in range(3):
            journal.append(begin(str(number)))
        with pytest.raises(LedgerFull, match="No space left"):
            journal.append(begin("refused"))
        disk.room = math.inf
    assert ids_in(journal_dir) == [("begin", str(number)) for number in range(3)]


def test_a_new_file_that_cannot_be_made_is_retried(
    journal_dir: Path, ids_in: IdsIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lazy(journal_dir, segment_bytes_max=900) as journal:
        journal.append(begin("a"))
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", _fails_with(errno.EMFILE))
            journal.append(begin("b"))
        assert journal.rows_waiting == 1
        journal.append(begin("c"))
        assert journal.healthy
    assert [name for _, name in ids_in(journal_dir)] == ["a", "b", "c"]


def test_closing_on_a_full_disk_tells_how_many_records_are_lost_and_frees_the_writer_id(
    journal_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = lazy(journal_dir)
    Disk(monkeypatch, journal, 0)
    journal.append(begin("a"))
    with pytest.raises(LedgerFull, match=r"1 records lost: .*No space left"):
        journal.close()
    lazy(journal_dir).close()


def test_a_failed_sync_shows_until_one_succeeds(journal_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with lazy(journal_dir) as journal:
        journal.append(begin("a"))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", _fails_with(errno.EIO))
            assert not journal.flush()
        assert not journal.healthy
        assert journal.flush()


FILE_SIZE_LIMIT = """
import resource, signal, sys
from serving.ledger.journal import Journal
from serving.ledger.samples import begin
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, resource.RLIM_INFINITY))
journal = Journal(sys.argv[1], "gateway-0", flush_every_s=3600).open()
for number in range(20):
    journal.append(begin(str(number)))
assert not journal.healthy and journal.rows_waiting > 10
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert journal.flush()
journal.close()
"""


def test_the_kernels_own_refusal_in_the_middle_of_a_line_is_survived(journal_dir: Path, ids_in: IdsIn) -> None:
    subprocess.run([sys.executable, "-c", FILE_SIZE_LIMIT, str(journal_dir)], check=True)
    assert ids_in(journal_dir) == [("begin", str(number)) for number in range(20)]


def _fails_with(code: int) -> Callable[..., int]:
    def fail(*args: object) -> int:
        raise OSError(code, os.strerror(code))

    return fail
