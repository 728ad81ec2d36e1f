"""The writer: one line per record, one live journal per writer id."""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.ledger.errors import LedgerFull, WriterTaken
from serving.ledger.journal import Journal
from serving.ledger.records import Begin, End, QuoteLine, decode
from serving.ledger.samples import begin, end
from serving.ledger.segments import is_live, list_segments

IdsIn = Callable[[Path], list[tuple[str, str]]]
NEVER_S = 3600.0


def lazy(directory: Path, **options: int) -> Journal:
    return Journal(directory, "gateway-0", flush_every_s=NEVER_S, **options).open()


def test_a_record_is_in_its_file_by_the_time_append_returns(journal_dir: Path, ids_in: IdsIn) -> None:
    with Journal(journal_dir, "gateway-0") as journal:
        journal.append(begin("a"))
        journal.append(end("a"))
        assert ids_in(journal_dir) == [("begin", "a"), ("end", "a")]
        assert journal.healthy


def test_a_record_reads_back_as_it_was_written(journal_dir: Path) -> None:
    with Journal(journal_dir, "gateway-0") as journal:
        journal.append(begin("a", session='quote " and \n line feed'))
        journal.append(end("a", ttft_s=None))
    (path,) = journal_dir.glob("*.jsonl")
    first, second = path.read_bytes().splitlines()
    assert decode(first) == begin("a", session='quote " and \n line feed')
    assert decode(second) == end("a", ttft_s=None)


def test_a_line_names_its_version_and_kind_first(journal_dir: Path) -> None:
    with Journal(journal_dir, "gateway-0") as journal:
        journal.append(begin("a"))
    (path,) = journal_dir.glob("*.jsonl")
    assert path.read_bytes().startswith(b'{"kind":"begin","v":1,"id":"a"')


def test_an_unknown_end_status_is_refused_where_it_is_made() -> None:
    with pytest.raises(ValueError, match="'lost' is none of"):
        End(id="a", at_s=1.0, writer="w", status="lost", http_status=200)  # type: ignore[arg-type]


def test_files_are_named_by_start_writer_and_counter_and_stay_below_the_limit(journal_dir: Path, ids_in: IdsIn) -> None:
    with Journal(journal_dir, "gw.eu-1", segment_bytes_max=3_000) as journal:
        for number in range(30):
            journal.append(begin(str(number)))
    segments = list_segments(journal_dir)
    assert [segment.number for segment in segments] == list(range(1, len(segments) + 1))
    assert len(segments) > 5
    for segment in segments:
        assert re.fullmatch(r"\d{8}T\d{6}-gw\.eu-1-\d+\.jsonl", segment.path.name)
        assert segment.path.stat().st_size <= 3_000
    assert ids_in(journal_dir) == [("begin", str(number)) for number in range(30)]


def test_a_record_longer_than_a_file_may_be_gets_a_file_of_its_own(journal_dir: Path, ids_in: IdsIn) -> None:
    with Journal(journal_dir, "gateway-0", segment_bytes_max=900) as journal:
        for name in ("a", "b" * 2_000, "c"):
            journal.append(begin(name))
    assert [name for _, name in ids_in(journal_dir)] == ["a", "b" * 2_000, "c"]
    assert len(list_segments(journal_dir)) == 3


def test_the_flusher_syncs_new_records_and_files_without_being_asked(
    journal_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    done = threading.Event()
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        real(fd)
        synced.append(fd)
        if len(synced) >= 2:
            done.set()

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    with Journal(journal_dir, "gateway-0", segment_bytes_max=900, flush_every_s=0.01) as journal:
        journal.append(begin("a"))
        journal.append(begin("b"))  # a second file: the first is synced and closed by the flusher too
        assert done.wait(60)


def test_threads_may_append_at_once(journal_dir: Path, ids_in: IdsIn) -> None:
    def write(name: str) -> None:
        for number in range(300):
            journal.append(begin(f"{name}-{number}"))

    with Journal(journal_dir, "gateway-0", segment_bytes_max=20_000, flush_every_s=0.001) as journal:
        threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    names = [name for _, name in ids_in(journal_dir)]
    assert sorted(names) == sorted(f"{name}-{number}" for name in "abc" for number in range(300))


@pytest.mark.parametrize("number", [math.inf, math.nan])
def test_a_number_that_json_cannot_hold_is_refused(journal_dir: Path, number: float) -> None:
    with Journal(journal_dir, "gateway-0") as journal:
        with pytest.raises(ValueError, match=r"record a: .*merit_order\[0\]\.usd"):
            journal.append(begin("a", merit_order=[QuoteLine("pool", number)]))
        assert not next(journal_dir.glob("*.jsonl")).read_bytes()


def test_a_writer_id_is_used_by_one_live_journal_only(journal_dir: Path) -> None:
    with Journal(journal_dir, "gateway-0"):
        with pytest.raises(WriterTaken, match=r"gateway-0\.lock is held"):
            Journal(journal_dir, "gateway-0").open()
        Journal(journal_dir, "gateway-1").open().close()
    Journal(journal_dir, "gateway-0").open().close()
    assert not list(journal_dir.glob("*.lock"))


def test_a_writer_that_restarts_within_a_second_is_told_from_the_one_before(journal_dir: Path) -> None:
    lazy(journal_dir).close()
    with lazy(journal_dir):
        old, new = list_segments(journal_dir)
        assert old.incarnation != new.incarnation
        assert not is_live(journal_dir, old)
        assert is_live(journal_dir, new)


def test_a_closed_journal_takes_no_records_and_can_be_closed_again(journal_dir: Path) -> None:
    journal = lazy(journal_dir)
    journal.close()
    journal.close()
    assert not journal.healthy
    with pytest.raises(LedgerFull, match="not open"):
        journal.append(begin("a"))


def test_a_directory_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        Journal(tmp_path / "file", "gateway-0").open()


@pytest.mark.parametrize("writer", ["", "a/b", "-a", "a b", "x" * 101])
def test_a_writer_id_that_cannot_be_part_of_a_file_name_is_refused(tmp_path: Path, writer: str) -> None:
    with pytest.raises(ValueError, match="writer id"):
        Journal(tmp_path, writer)


def test_begin_and_end_need_no_optional_field() -> None:
    Begin(id="a", at_s=1.0, writer="w", tenant="t", service_class="c", model_requested="m")
    End(id="a", at_s=1.0, writer="w", status="unserved", http_status=503)
