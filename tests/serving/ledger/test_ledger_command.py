"""``baseload ledger``: what it prints, and how it says what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from serving.commands.ledger import app
from serving.ledger.samples import begin, end

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BASELOAD_LEDGER_URL", raising=False)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words], prog_name="baseload ledger")


@pytest.fixture
def journal(tmp_path: Path, write_lines: Callable[..., Path]) -> Path:
    """The default directory, with two requests of today and an old one."""
    directory = tmp_path / ".baseload" / "journal"
    directory.mkdir(parents=True)
    now_s = time.time()
    today = [begin("r1", at_s=now_s - 60), end("r1", at_s=now_s - 59), begin("r2", at_s=now_s, tenant="[red]\x1b[2J")]
    write_lines(directory, begin("old"), end("old"), *today)
    return directory


def test_the_table_comes_without_any_option(run: Run, journal: Path) -> None:
    result = run()
    assert result.exit_code == 0
    assert "research" in result.stdout
    assert "amortized" in result.stdout
    assert "1 of 2 requests ran on base load; avoidable" in result.stdout
    assert (journal.parent / "ledger.db").exists()


def test_a_name_from_outside_is_neither_markup_nor_a_control_sequence(run: Run, journal: Path) -> None:
    assert "[red]�[2J" in run().stdout


@pytest.mark.parametrize(("by", "key"), [("model", "small-8b"), ("source", "(not served)"), ("hour", ":00Z")])
def test_lines_stand_for_what_by_says(run: Run, journal: Path, by: str, key: str) -> None:
    assert key in run("--by", by).stdout


def test_json_holds_the_totals_and_the_sentence(run: Run, journal: Path) -> None:
    result = json.loads(run("--json", "--by", "source", "--since", "all").stdout)
    assert [(line["key"], line["requests"]) for line in result["totals"]] == [("base", 2), ("", 1)]
    assert result["summary"].startswith("2 of 3 requests")


def test_an_empty_ledger_says_so(run: Run, journal: Path) -> None:
    assert run("--since", "0s").stdout == "No requests.\n"


def test_show_tells_the_whole_decision(run: Run, journal: Path) -> None:
    text = run("show", "r1").stdout
    for word in ("pool-a", "provider-c", "scarcity", "provider-d", "zone", "usd_fixed_share", "0.210 s"):
        assert word in text
    decision = json.loads(run("show", "r1", "--json").stdout)
    assert decision["merit_order"][0]["terms"]["energy"] == 0.000021
    assert decision["attempts"][0]["offer_id"] == "pool-a"


def test_export_writes_both_kinds_of_file(run: Run, journal: Path, tmp_path: Path) -> None:
    assert run("export", "--out", "all.csv").stdout == "3 requests written to all.csv\n"
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 4
    assert run("export", "--format", "parquet", "--out", "all.parquet", "--since", "24h").exit_code == 0
    assert pq.read_table(tmp_path / "all.parquet").num_rows == 2


def test_the_database_comes_from_the_command_before_the_group_before_the_environment(
    run: Run, journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASELOAD_LEDGER_URL", "sqlite:///environment.db")
    run("show", "r1")
    run("--url", "sqlite:///group.db", "show", "r1")
    run("--url", "sqlite:///unused.db", "show", "r1", "--url", "sqlite:///command.db")
    assert {path.name for path in tmp_path.glob("*.db")} == {"environment.db", "group.db", "command.db"}


def test_what_is_loaded_can_be_read_where_no_journal_is(run: Run, journal: Path) -> None:
    run()
    assert "1 of 2 requests" in run("--no-load", "--journal", "nowhere").stdout
    assert run("show", "r1", "--no-load", "--journal", "nowhere").exit_code == 0


def test_unreadable_lines_are_told_on_stderr(run: Run, journal: Path, write_lines: Callable[..., Path]) -> None:
    write_lines(journal, b"rubbish\n", b"torn", number=2)
    assert run("--json").stderr == "warning: 1 unreadable and 1 torn journal lines\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--journal", "nowhere"], "error: journal directory nowhere does not exist"),
        (["--url", "postgresql://me:secret@127.0.0.1:1/db"], "me:***@127.0.0.1:1/db"),
        (["--url", "nonsense"], "error: database URL 'nonsense'"),
        (["--since", "3 moons"], "'3 moons' is no span"),
        (["--by", "moon"], "moon"),
        (["show", "nobody"], "error: no request 'nobody' in sqlite:///.baseload/ledger.db"),
        (["export", "--out", "nowhere/file.csv"], "error: --out nowhere/file.csv: No such file or directory"),
        (["export", "--out", "nowhere/file", "--format", "parquet"], "error: --out nowhere/file: "),
    ],
)
def test_an_error_names_what_is_wrong_and_exits_with_2(run: Run, journal: Path, words: list[str], message: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "secret" not in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("words", [[], ["export"], ["show"]])
def test_every_help_has_an_example(run: Run, words: list[str]) -> None:
    result = run(*words, "--help")
    assert result.exit_code == 0
    assert f"Example: {' '.join(['baseload ledger', *words])}" in result.stdout


def test_the_command_line_starts_without_database_or_arrow() -> None:
    code = "import sys, serving.commands.ledger; assert not {'sqlalchemy', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
