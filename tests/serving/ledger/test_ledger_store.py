"""The store, on SQLite and PostgreSQL alike: pruning, spending, errors that name what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from serving.ledger.errors import JournalMissing, LedgerError, StoreError
from serving.ledger.journal import Journal
from serving.ledger.loading import LoadReport
from serving.ledger.records import QuoteLine
from serving.ledger.samples import AT_S, begin, end
from serving.ledger.store import Store

WriteLines = Callable[..., Path]


def status(store: Store, request_id: str) -> str:
    decision = store.decision(request_id)
    assert decision is not None
    return str(decision["status"])


def test_an_unknown_request_is_none(store: Store) -> None:
    assert store.decision("nobody") is None


def test_loaded_files_of_dead_writers_can_be_removed(store: Store, journal_dir: Path, write_lines: WriteLines) -> None:
    write_lines(journal_dir, begin("a"), b"torn", writer="gateway-1")
    write_lines(journal_dir, writer="empty")
    (journal_dir / "gateway-1.lock").touch()  # as a killed writer leaves it
    with Journal(journal_dir, "gateway-0") as journal:
        journal.append(begin("b"))
        store.load(journal_dir, remove_loaded=True)
        assert [path.name for path in journal_dir.glob("*.lock")] == ["gateway-0.lock"]
        assert len(list(journal_dir.glob("*.jsonl"))) == 1
    store.load(journal_dir, remove_loaded=True)
    assert not list(journal_dir.iterdir())
    assert (status(store, "a"), status(store, "b")) == ("interrupted", "interrupted")


def test_a_new_file_under_the_name_of_a_removed_one_is_loaded_from_its_start(
    store: Store, journal_dir: Path, write_lines: WriteLines
) -> None:
    for name in ("a", "b"):
        write_lines(journal_dir, begin(name), end(name))
        assert store.load(journal_dir, remove_loaded=True) == LoadReport(rows_begun=1, rows_ended=1)


def test_spending_is_known_by_tenant_and_writer_with_open_and_interrupted_at_their_estimate(
    store: Store, journal_dir: Path, write_lines: WriteLines
) -> None:
    quote = [QuoteLine("api", 0.25, {"tokens": 0.25})]
    write_lines(
        journal_dir,
        begin("too old", at_s=AT_S - 10),
        end("too old", usd_avoidable=9.0),
        begin("spent"),
        end("spent", usd_avoidable=0.5),
        begin("gone", merit_order=quote),
        begin("other tenant", tenant="ops"),
        end("other tenant", usd_avoidable=2.0, status="failed"),
    )
    with Journal(journal_dir, "gateway-1") as journal:
        journal.append(begin("running", writer="gateway-1", merit_order=quote))
        store.load(journal_dir)
        assert store.spent_usd(AT_S) == {
            ("research", "gateway-0"): 0.75,
            ("ops", "gateway-0"): 2.0,
            ("research", "gateway-1"): 0.25,
        }


def test_a_missing_journal_directory_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(JournalMissing, match="nowhere: No such file"):
        store.load(tmp_path / "nowhere")


def test_a_database_without_tables_is_told_with_its_name(url: str, journal_dir: Path) -> None:
    store = Store(url)
    if store.dialect == "sqlite":
        Path(str(store.engine.url.database)).parent.mkdir()
    with closing(store), pytest.raises(StoreError, match=f"{store.dialect}.*journal_files"):
        store.load(journal_dir)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("no url", "Could not parse"),
        ("mysql://user:secret@host/name", r"mysql://user:\*\*\*@host/name: the ledger knows"),
        ("postgresql://user:secret@127.0.0.1:1/name", r"user:\*\*\*@127.0.0.1:1/name: .*refused"),
        ("sqlite:////dev/null/ledger.db", "/dev/null"),
    ],
)
def test_a_database_that_cannot_be_used_is_named_without_its_password(url: str, message: str) -> None:
    with pytest.raises(LedgerError, match=message) as caught, closing(Store(url)) as store:
        store.create_schema()
    assert "secret" not in str(caught.value)
