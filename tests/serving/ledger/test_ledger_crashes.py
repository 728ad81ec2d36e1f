"""Death at any moment, of writers and loaders, real processes included: nothing is lost or counted twice."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from serving.ledger import loading
from serving.ledger.journal import Journal
from serving.ledger.loading import LoadReport
from serving.ledger.samples import begin, end
from serving.ledger.schema import requests
from serving.ledger.store import Store

WriteLines = Callable[..., Path]


def usd(store: Store) -> float:
    return sum(store.spent_usd(0.0).values())


def test_a_load_that_dies_between_two_batches_goes_on_where_it_was(
    store: Store, journal_dir: Path, write_lines: WriteLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(journal_dir, *(make(str(number)) for number in range(10) for make in (begin, end)))
    real, calls = loading._apply, []

    def dies(*arguments: Any) -> LoadReport:
        report = real(*arguments)  # the rows are there, the offset is not yet
        calls.append(report)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return report

    with monkeypatch.context() as patch:
        patch.setattr(loading, "_apply", dies)
        with pytest.raises(KeyboardInterrupt):
            store.load(journal_dir, batch_bytes=1_000)
    loaded = sum(report.rows_begun + report.rows_ended for report in calls[:3])
    report = store.load(journal_dir)
    assert report.rows_begun + report.rows_ended == 20 - loaded
    assert usd(store) == pytest.approx(10 * 0.000024)


LOADER = """
import sys
from serving.ledger.loading import LoadReport
from serving.ledger.store import Store
store, total = Store(sys.argv[1]), LoadReport()
store.create_schema()
print("ready", flush=True)
for _ in sys.stdin:  # one load per line
    total = total.plus(store.load(sys.argv[2], batch_bytes=20_000))
    print("loaded", flush=True)
print(*total)
"""


def test_two_processes_that_load_one_growing_journal_count_every_line_once(url: str, journal_dir: Path) -> None:
    loaders = [
        subprocess.Popen(
            [sys.executable, "-c", LOADER, url, str(journal_dir)], stdin=-1, stdout=-1, text=True, bufsize=1
        )
        for _ in range(2)  # both create the schema of the same empty database, too
    ]
    with Journal(journal_dir, "gateway-0", segment_bytes_max=100_000) as journal:
        for loader in loaders:
            assert loader.stdout and loader.stdout.readline() == "ready\n"
        for number in range(1_000):
            if number % 100 == 50:
                for loader in loaders:
                    assert loader.stdin
                    loader.stdin.write("load\n")
            journal.append(begin(f"r{number}"))
            if number % 10:
                journal.append(end(f"r{number}"))
    reports = [[int(word) for word in loader.communicate("load\n")[0].split()[-5:]] for loader in loaders]
    assert [sum(counts) for counts in zip(*reports, strict=True)] == [1_000, 900, 100, 0, 0]
    with closing(Store(url)) as store:
        assert usd(store) == pytest.approx(900 * 0.000024 + 100 * 0.000021)


WRITER = """
import sys
from serving.ledger.journal import Journal
from serving.ledger.samples import begin, end
journal, number = Journal(sys.argv[1], "gateway-0", segment_bytes_max=50_000).open(), 0
while True:
    journal.append(begin(f"r{number}"))
    if number % 3:
        journal.append(end(f"r{number}"))
    print(f"{number:500}", flush=True)  # long, so that the pipe holds few: the writer keeps pace with its reader
    number += 1
"""


def test_a_writer_killed_in_full_flight_loses_nothing_it_has_appended(store: Store, journal_dir: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(journal_dir)], stdout=-1, text=True)
    assert writer.stdout
    while int(writer.stdout.readline()) < 300:
        pass
    store.load(journal_dir)
    with store.reading() as connection:
        assert connection.execute(select(requests.c.status).where(requests.c.id == "r0")).scalar() == "open"
    while int(writer.stdout.readline()) < 900:
        pass
    writer.kill()
    appended = 901 + sum(line.endswith("\n") for line in writer.communicate()[0].splitlines(keepends=True))
    report = store.load(journal_dir)
    assert report.lines_bad == 0
    assert report.torn <= 1
    with store.reading() as connection:
        states = {row.id: row.status for row in connection.execute(select(requests.c.id, requests.c.status))}
    for number in range(appended):
        assert states[f"r{number}"] == ("complete" if number % 3 else "interrupted")
    assert (journal_dir / "gateway-0.lock").exists()
    store.load(journal_dir, remove_loaded=True)
    assert not list(journal_dir.iterdir())
