"""The loader's own part: it sums only once it is told from when, removes what is loaded, and keeps what it cannot read."""

from __future__ import annotations

from pathlib import Path

from serving.ledger.journal import Journal
from serving.ledger.loader import Loader
from serving.ledger.samples import begin, end


def written(directory: Path, name: str, tail: bytes = b"") -> None:
    with Journal(directory, name) as journal:
        journal.append(begin(name))
        journal.append(end(name))
    if tail:
        (path,) = directory.glob(f"*-{name}-*.jsonl")
        path.write_bytes(path.read_bytes() + tail)


def test_nothing_is_said_to_be_spent_before_it_is_known_from_when_to_sum(tmp_path: Path) -> None:
    written(tmp_path / "journal", "w")
    loader = Loader(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "journal")
    loader.load()
    assert loader.spent is None
    tenant = begin("w").tenant
    assert loader.sum_from({tenant: 0.0})
    assert not loader.sum_from({tenant: 0.0})
    loader.load()
    assert loader.spent is not None
    assert [(spent.tenant, spent.usd) for spent in loader.spent] == [(tenant, end("w").usd_avoidable)]


def test_loaded_journals_of_the_dead_are_removed_but_unreadable_lines_are_kept(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    loader = Loader(f"sqlite:///{tmp_path}/ledger.db", directory)
    loader.load()  # no directory yet is no fault
    written(directory, "a")
    loader.load()
    assert list(directory.glob("*.jsonl")) == []
    written(directory, "b", b'{"kind":"begin","v":2}\n')
    for _ in range(2):
        loader.load()
        assert len(list(directory.glob("*.jsonl"))) == 1
