"""Loading, on SQLite and PostgreSQL alike: every complete line counts once, and the living are told from the dead."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.ledger.journal import Journal
from serving.ledger.loading import LoadReport
from serving.ledger.records import QuoteLine
from serving.ledger.samples import AT_S, begin, end
from serving.ledger.store import Store

WriteLines = Callable[..., Path]
NOTHING_NEW = LoadReport()


def status(store: Store, request_id: str) -> str:
    decision = store.decision(request_id)
    assert decision is not None
    return str(decision["status"])


def usd(store: Store) -> float:
    return sum(store.spent_usd(0.0).values())


def test_begin_and_end_become_one_row_with_the_whole_decision(
    store: Store, journal_dir: Path, write_lines: WriteLines
) -> None:
    write_lines(journal_dir, begin("a"), end("a"))
    assert store.load(journal_dir) == LoadReport(rows_begun=1, rows_ended=1)
    decision: Any = store.decision("a")
    assert decision["status"] == "complete"
    assert (decision["at_s"], decision["ended_s"], decision["hour_s"]) == (AT_S, AT_S + 1.9, 1_749_999_600)
    assert decision["zones"] == ["eu-de", "eu-fr"]
    assert (decision["output_tokens_estimate"], decision["output_tokens"]) == (260, 301)
    assert [quote["offer_id"] for quote in decision["merit_order"]] == ["pool-a", "spot-b", "provider-c"]
    assert decision["merit_order"][0]["terms"] == {"energy": 0.000021, "scarcity": 0.00003, "waiting": 0.00001}
    assert decision["rejected"] == [{"offer_id": "provider-d", "reason": "zone"}]
    assert [attempt["ttft_s"] for attempt in decision["attempts"]] == [0.21]
    json.dumps(decision)


def test_loading_again_changes_nothing(store: Store, journal_dir: Path, write_lines: WriteLines) -> None:
    write_lines(journal_dir, begin("a"), end("a"), begin("b"))
    store.load(journal_dir)
    before = store.decision("a"), store.decision("b"), usd(store)
    assert store.load(journal_dir) == NOTHING_NEW
    assert (store.decision("a"), store.decision("b"), usd(store)) == before


@pytest.mark.parametrize("batch_bytes", [1, 100, 5_000])
def test_the_size_of_a_batch_makes_no_difference(
    store: Store, journal_dir: Path, write_lines: WriteLines, batch_bytes: int
) -> None:
    records = [make(str(number)) for number in range(20) for make in (begin, end)]
    write_lines(journal_dir, *records)
    assert store.load(journal_dir, batch_bytes=batch_bytes) == LoadReport(rows_begun=20, rows_ended=20)
    assert usd(store) == pytest.approx(20 * 0.000024)


def test_an_end_may_come_before_its_begin(store: Store, journal_dir: Path, write_lines: WriteLines) -> None:
    write_lines(journal_dir, end("a", at_s=AT_S + 7_200))
    store.load(journal_dir)
    assert status(store, "a") == "complete"
    write_lines(journal_dir, begin("a"), number=2)
    assert store.load(journal_dir) == LoadReport(rows_begun=1)
    decision: Any = store.decision("a")
    assert (decision["status"], decision["tenant"], decision["at_s"]) == ("complete", "research", AT_S)
    assert len(decision["merit_order"]) == 3


def test_the_first_begin_and_the_first_end_of_an_id_count(
    store: Store, journal_dir: Path, write_lines: WriteLines
) -> None:
    twice = [begin("a"), begin("a", tenant="other", merit_order=[]), end("a"), end("a", status="failed")]
    write_lines(journal_dir, *twice)
    write_lines(journal_dir, *reversed(twice), writer="gateway-1")
    assert store.load(journal_dir) == LoadReport(rows_begun=1, rows_ended=1)
    decision: Any = store.decision("a")
    assert (decision["tenant"], decision["status"], len(decision["merit_order"])) == ("research", "complete", 3)


def test_a_request_is_open_while_its_writer_lives_and_interrupted_after(store: Store, journal_dir: Path) -> None:
    with Journal(journal_dir, "gateway-0") as journal:
        journal.append(begin("a"))
        assert store.load(journal_dir) == LoadReport(rows_begun=1)
        assert status(store, "a") == "open"
    assert store.load(journal_dir) == LoadReport(rows_interrupted=1)
    assert status(store, "a") == "interrupted"


def test_an_interrupted_request_keeps_the_cash_of_its_first_quote_and_not_its_preferences(
    store: Store, journal_dir: Path, write_lines: WriteLines
) -> None:
    api_first = QuoteLine("api", 0.5, {"tokens": 0.02, "wrong_answer": 0.48})
    write_lines(
        journal_dir,
        begin("local first"),
        begin("api first", merit_order=[api_first]),
        begin("no terms", merit_order=[QuoteLine("api", 0.03)]),
        begin("no offer", merit_order=[]),
    )
    assert store.load(journal_dir).rows_interrupted == 4
    for name, usd_avoidable in (("local first", 0.000021), ("api first", 0.02), ("no terms", 0.03), ("no offer", 0.0)):
        decision: Any = store.decision(name)
        assert decision["usd_avoidable"] == usd_avoidable


def test_an_end_that_appears_later_wins_over_interrupted(
    store: Store, journal_dir: Path, write_lines: WriteLines
) -> None:
    write_lines(journal_dir, begin("a"))
    store.load(journal_dir)
    write_lines(journal_dir, end("a"), number=2)
    assert store.load(journal_dir) == LoadReport(rows_ended=1)
    assert status(store, "a") == "complete"
    assert usd(store) == 0.000024


def test_a_restarted_writer_does_not_keep_the_requests_of_its_former_life_open(
    store: Store, journal_dir: Path, write_lines: WriteLines
) -> None:
    write_lines(journal_dir, begin("old"))
    with Journal(journal_dir, "gateway-0") as journal:
        journal.append(begin("new"))
        assert store.load(journal_dir) == LoadReport(rows_begun=2, rows_interrupted=1)
        assert (status(store, "old"), status(store, "new")) == ("interrupted", "open")


def test_requests_of_other_directories_are_not_judged(store: Store, tmp_path: Path, write_lines: WriteLines) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    write_lines(there, begin("b"), writer="gateway-1")
    with Journal(here, "gateway-0") as journal:
        journal.append(begin("a"))
        store.load(here)
        store.load(there)
        assert (status(store, "a"), status(store, "b")) == ("open", "interrupted")


def test_bad_lines_are_counted_and_skipped(store: Store, journal_dir: Path, write_lines: WriteLines) -> None:
    bad = [
        b"\n",
        b"no json\n",
        b"\x00\x00\xff\n",
        b"carriage\rreturn\n",
        b"[1,2]\n",
        b'{"kind":"middle"}\n',
        b"[" * 50_000 + b"\n",
        b'{"kind":"end","v":2,"id":"b","at_s":1,"writer":"w","status":"failed","http_status":500}\n',
        b'{"kind":"end","v":1,"id":"b","at_s":1e300,"writer":"w","status":"failed","http_status":500}\n',
        b'{"kind":"end","v":1,"id":"b","at_s":1,"writer":"\xff\xfe","status":"failed","http_status":500}\n',
        b'{"kind":"end","v":1,"id":"b","at_s":1,"writer":"w","status":"failed","http_status":99999999999999999999}\n',
        b'{"kind":"end","v":1,"id":"' + b"b" * 300 + b'","at_s":1,"writer":"w","status":"failed","http_status":1}\n',
    ]
    write_lines(journal_dir, begin("a"), *bad, end("a"))
    assert store.load(journal_dir) == LoadReport(rows_begun=1, rows_ended=1, lines_bad=len(bad))
    assert store.load(journal_dir) == NOTHING_NEW


def test_a_torn_last_line_of_a_dead_writer_is_counted_once(
    store: Store, journal_dir: Path, write_lines: WriteLines
) -> None:
    write_lines(journal_dir, begin("a"), b'{"kind":"end","v":1,"id":"a"')
    assert store.load(journal_dir) == LoadReport(rows_begun=1, rows_interrupted=1, torn=1)
    assert store.load(journal_dir) == NOTHING_NEW


def test_the_unfinished_line_of_a_live_writer_is_left_for_later(store: Store, journal_dir: Path) -> None:
    with Journal(journal_dir, "gateway-0") as journal:
        journal.append(begin("a"))
        (path,) = journal_dir.glob("*.jsonl")
        whole = path.read_bytes()
        path.write_bytes(whole[:-40])
        assert store.load(journal_dir) == NOTHING_NEW
        path.write_bytes(whole)
        assert store.load(journal_dir) == LoadReport(rows_begun=1)


def test_names_that_a_database_cannot_hold_are_kept_readable(
    store: Store, journal_dir: Path, write_lines: WriteLines
) -> None:
    write_lines(journal_dir, begin("a", tenant="nul \0 and 'quote' 😀", zones=["\0"]), end("a", reason="\0"))
    assert store.load(journal_dir) == LoadReport(rows_begun=1, rows_ended=1)
    decision: Any = store.decision("a")
    assert (decision["tenant"], decision["zones"]) == ("nul � and 'quote' 😀", ["�"])
