"""``baseload plan`` as people run it: files in, files out, and one clear line for whatever is wrong."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click.testing
import msgspec
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from scheduler.config import load
from scheduler.planning import what_if, workloads
from scheduler.planning.document import Plan
from scheduler.planning.planner import Found, find
from scheduler.planning.technologies import PlanError
from serving.cli import app
from serving.commands.plan_input import rooted
from serving.commands.stopping import Terminated
from tests.scheduler.planning.worlds import ROOT, asked, site

HEADER = "arrival_s,input_tokens,output_tokens\n"
CLOUD = [{"pool": "llama-8b", "zone": "on-prem", "rental": {"gpu": "H100", "usd_per_hour": 0.01}}]


def baseload(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving", "plan", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=250, check=False)


def trace(directory: Path, requests: int = 1500, span_s: float = 7200.0) -> Path:
    rng = np.random.default_rng(3)
    at_s = np.sort(rng.random(requests) ** 0.6 * span_s)
    rows = (f"{at:.3f},{rng.integers(50, 4000)},{rng.integers(5, 400)}\n" for at in at_s)
    path = directory / "requests.csv"
    path.write_text(HEADER + "".join(rows))
    return path


def given(directory: Path) -> tuple[str | Path, ...]:
    site(directory)
    return "--config", directory / "cluster.yaml"


def test_it_writes_a_plan_a_report_and_a_site_file_that_can_be_run(tmp_path: Path) -> None:
    out = tmp_path / "plan"
    rates = ("--load-factor", "1.5", "--what-if", "api_price=-30%/yr", "--what-if", "h100=2")
    done = baseload(*given(tmp_path), "--trace", trace(tmp_path), "--out", out, *rates)
    assert done.returncode == 0, done.stderr
    plan = msgspec.json.decode((out / "plan.json").read_bytes(), type=Plan)
    assert not plan.partial
    assert [outcome.name for outcome in plan.what_if] == ["api_price=-30%/yr", "h100=2"]
    written = load(out / "cluster.yaml")
    (pool,) = written.pools
    assert (pool.replicas.min, pool.replicas.max) == (plan.pools[0].owned, plan.pools[0].owned)
    assert written.policy.expected is not None
    assert written.policy.expected.usd_per_hour == pytest.approx(plan.expected.usd_per_hour, rel=1e-4)  # type: ignore[union-attr]
    assert (out / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert "Own " in done.stdout
    assert "no --mix" in done.stdout


def test_weights_beside_the_site_file_are_found_from_where_the_plan_is_written(tmp_path: Path) -> None:
    site(tmp_path)
    path = tmp_path / "cluster.yaml"
    text = yaml.safe_load(path.read_text())
    text["pools"][0]["engine"]["path"] = "weights/mine"
    (tmp_path / "weights" / "mine").mkdir(parents=True)
    path.write_text(yaml.safe_dump(text))
    more = ("--workload", "mail=1500,300,400", "--load-factor", "1.5")
    done = baseload("--config", path, "--trace", trace(tmp_path, 400), "--out", tmp_path / "deep" / "o", *more)
    assert done.returncode == 0, done.stderr
    written = load(tmp_path / "deep" / "o" / "cluster.yaml")
    assert written.pools[0].engine.path == str(tmp_path / "weights" / "mine")  # type: ignore[union-attr]
    plan = msgspec.json.decode((tmp_path / "deep" / "o" / "plan.json").read_bytes(), type=Plan)
    assert [one.name for one in plan.workloads] == ["mail"]
    assert "Make or buy" in done.stdout


def test_it_prints_the_plan_as_json_on_request(tmp_path: Path) -> None:
    done = baseload(*given(tmp_path), "--trace", trace(tmp_path, 400), "--out", tmp_path / "o", "--json")
    assert done.returncode == 0, done.stderr
    plan = msgspec.json.decode(done.stdout, type=Plan)
    assert plan == msgspec.json.decode((tmp_path / "o" / "plan.json").read_bytes(), type=Plan)


def test_it_plans_from_mere_rates_with_lengths_of_the_mix(tmp_path: Path) -> None:
    rates = tmp_path / "rates.csv"
    windows = (f"{600 * i},{2.0 + (i % 12) / 2}\n" for i in range(72) if i != 30)
    rates.write_text("window_start_s,rate_rps\n" + "".join(windows))
    mix = tmp_path / "mix.yaml"
    mix.write_text(
        "version: 1\nprofiles:\n  - {name: all, share: 1, tenant: support, model_class: all, model: answers, "
        "input_tokens: {median: 500, p95: 2000}, output_tokens: {median: 80, p95: 300}}\n"
    )
    done = baseload(*given(tmp_path), "--trace", rates, "--mix", mix, "--out", tmp_path / "o")
    assert done.returncode == 0, done.stderr
    plan = msgspec.json.decode((tmp_path / "o" / "plan.json").read_bytes(), type=Plan)
    assert plan.trace.kind == "rates"
    assert plan.trace.requests_per_s_mean * plan.trace.span_s == pytest.approx(71 * 600 * 4.75, rel=0.05)
    assert any("1 windows of 600 s are missing" in warning for warning in plan.warnings)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (HEADER + "0,10,10\n", "one request is no load"),
        (HEADER + "0,10,10\n5,-3,10\n", "line 3"),
        (HEADER + "0,10,10\n5,10,10\n3,10,10\n", "--sort"),
        (HEADER + "0,0,0\n5,0,0\n", "no request has a token"),
        (HEADER, "no request"),
        ("", "empty"),
        ("window_start_s,rate_rps\n0,0\n600,0\n", "all rates are 0"),
        ("window_start_s,rate_rps\n0,1\n0,2\n", "is there twice"),
        ("window_start_s,rate_rps\n0,1\n600,-2\n", "negative"),
    ],
)
def test_a_trace_that_is_no_load_is_told_in_one_line_and_nothing_is_written(
    text: str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    done = baseload(*given(tmp_path), "--trace", path, "--out", tmp_path / "o")
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "o" / "plan.json").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--growth", "-2"), "--growth"),
        (("--horizon", "0"), "--horizon"),
        (("--until", "soon"), "--until"),
        (("--from", "1h", "--until", "30m"), "nothing lies between"),
        (("--what-if", "moon=full"), "--what-if"),
        (("--load-factor", "-1"), "--load-factor"),
        (("--mix", "nowhere.yaml"), "nowhere.yaml"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(options: tuple[str, ...], reason: str, tmp_path: Path) -> None:
    done = baseload(*given(tmp_path), "--trace", trace(tmp_path, 50), "--out", tmp_path / "o", *options)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_a_pool_without_a_price_is_named(tmp_path: Path) -> None:
    site(tmp_path)
    path = tmp_path / "cluster.yaml"
    text = yaml.safe_load(path.read_text())
    del text["pools"][0]["hardware"]
    path.write_text(yaml.safe_dump(text))
    done = baseload("--config", path, "--trace", trace(tmp_path, 50), "--out", tmp_path / "o")
    assert done.returncode == 2
    assert "llama-8b: neither hardware" in done.stderr


def test_an_out_that_is_a_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "o").write_text("mine")
    done = baseload(*given(tmp_path), "--trace", trace(tmp_path, 50), "--out", tmp_path / "o")
    assert done.returncode == 2
    assert "is no folder" in done.stderr
    assert (tmp_path / "o").read_text() == "mine"


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return find(asked(tmp_path_factory.mktemp("planned"), cloud=CLOUD), lambda what, share: None)


def at_once(directory: Path, *options: str | Path) -> click.testing.Result:
    """In this process. What is found is given, where the test says so."""
    site(directory, cloud=CLOUD)
    given_ = ("plan", "--config", directory / "cluster.yaml", "--trace", trace(directory, 50), "--out", directory / "o")
    return CliRunner().invoke(app, [str(one) for one in (*given_, *options)])


@pytest.fixture
def found_at_once(planned: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.planning.planner.find", lambda asked, say: replace(planned, warnings=["first"]))


def plan_in(directory: Path) -> Plan:
    return msgspec.json.decode((directory / "o" / "plan.json").read_bytes(), type=Plan)


@pytest.mark.usefixtures("found_at_once")
def test_the_operator_is_told_what_the_written_file_cannot_do(tmp_path: Path) -> None:
    """Rent is so cheap here that nothing is owned."""
    ran, told = at_once(tmp_path), "one rented replica stays all the time"
    assert ran.exit_code == 0, ran.stderr
    assert any(told in warning for warning in plan_in(tmp_path).warnings)
    assert told in " ".join(ran.stdout.split())
    assert told in (tmp_path / "o" / "report.html").read_text()
    (pool,) = load(tmp_path / "o" / "cluster.yaml").pools
    assert pool.rental is not None
    assert (pool.rental.usd_per_hour, pool.hardware) == (0.01, None)
    assert load(tmp_path / "o" / "cluster.yaml").policy.commitment.mode == "enforce"


@pytest.mark.usefixtures("found_at_once")
@pytest.mark.parametrize(
    ("what", "function", "outcomes", "answers"),
    [("what-ifs", "what_if.answer", 1, 2), ("workloads", "workloads.answered", 0, 1)],
)
@pytest.mark.parametrize("is_swallowed", [False, True])
def test_control_c_in_the_questions_keeps_the_plan_and_what_was_answered(
    what: str,
    function: str,
    outcomes: int,
    answers: int,
    is_swallowed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Any] = []
    known = {"what_if.answer": what_if.answer, "workloads.answered": workloads.answered}[function]

    def interrupted(*asked_for: Any) -> Any:
        calls.append(asked_for)
        answer: Any = known(*asked_for)  # type: ignore[operator]
        if len(calls) == 2 - is_swallowed:
            with contextlib.suppress(KeyboardInterrupt) if is_swallowed else contextlib.nullcontext():
                os.kill(os.getpid(), signal.SIGINT)
        return answer

    monkeypatch.setattr(f"scheduler.planning.{function}", interrupted)
    more = ("--what-if", "load=-10%", "--what-if", "load=+10%")
    ran = at_once(tmp_path, "--workload", "a=1500,300,40", "--workload", "b=1500,300,80", *more)
    assert ran.exit_code == 130, ran.output
    plan = plan_in(tmp_path)
    assert plan.partial
    assert (len(plan.what_if), len(plan.workloads)) == (outcomes, answers)
    assert any(warning.startswith(f"stopped in {what}: ") for warning in plan.warnings)
    assert "first" in plan.warnings
    assert plan.expected is not None
    assert load(tmp_path / "o" / "cluster.yaml").policy.expected is not None
    assert "before anything was found" not in ran.stderr


@pytest.mark.parametrize(("number", "told"), [(signal.SIGINT, " before anything was found"), (signal.SIGTERM, "")])
@pytest.mark.parametrize("is_swallowed", [False, True])
def test_a_signal_while_it_plans_leaves_nothing_and_says_one_line(
    number: signal.Signals, told: str, is_swallowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))

    def stopped(given: Any, say: Any) -> None:
        opened.extend(path.name for path in scratch.iterdir())
        with contextlib.suppress(KeyboardInterrupt, Terminated) if is_swallowed else contextlib.nullcontext():
            os.kill(os.getpid(), number)
        say("next", 0.5)

    monkeypatch.setattr("scheduler.planning.planner.find", stopped)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        ran = at_once(tmp_path)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (ran.exit_code, ran.stdout) == (128 + number, "")
    assert ran.stderr == f"baseload: stopped{told}; nothing was written\n"
    assert [name.partition("-")[0] for name in opened] == ["trace"]
    assert list(scratch.iterdir()) == []
    assert list((tmp_path / "o").iterdir()) == []


def test_control_c_while_what_was_found_is_put_together_does_not_say_that_nothing_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found_at_once: None
) -> None:
    monkeypatch.setattr("scheduler.planning.compose.plan_of", lambda *given: os.kill(os.getpid(), signal.SIGINT))
    ran = at_once(tmp_path)
    assert (ran.exit_code, ran.stderr) == (130, "baseload: stopped; nothing was written\n")


@pytest.mark.usefixtures("found_at_once")
def test_a_question_that_turns_out_to_have_no_answer_is_a_warning_and_the_rest_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = what_if.answer

    def refused(question: what_if.Question, *more: Any) -> Any:
        if question.name == "h100=2":
            raise PlanError("--what-if h100=2: nobody knows")
        return known(question, *more)

    monkeypatch.setattr("scheduler.planning.what_if.answer", refused)
    ran = at_once(tmp_path, "--what-if", "h100=2", "--what-if", "load=+10%", "--workload", "book=9000000,9000000,1")
    assert ran.exit_code == 0, ran.stderr
    plan = plan_in(tmp_path)
    assert not plan.partial
    assert [outcome.name for outcome in plan.what_if] == ["load=+10%"]
    assert plan.workloads == ()
    assert any("--what-if h100=2: nobody knows" in warning for warning in plan.warnings)
    assert any("18,000,000 tokens are more than any context" in warning for warning in plan.warnings)


@pytest.mark.parametrize("text", ["b200=4", "00=4", "llama-8b=2000", "tariff=nowhere.yaml"])
def test_a_what_if_that_cannot_be_answered_is_told_before_anything_is_planned(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.planning.planner.find", lambda *given: pytest.fail("it has planned"))
    ran = at_once(tmp_path, "--what-if", text)
    assert ran.exit_code == 2
    assert text.removeprefix("tariff=") in ran.stderr


def test_the_site_file_is_not_written_over(tmp_path: Path) -> None:
    site(tmp_path, cloud=CLOUD)
    path = tmp_path / "cluster.yaml"
    (tmp_path / "link").symlink_to(tmp_path)
    before = path.read_bytes()
    for out in (tmp_path, tmp_path / "link"):
        ran = at_once(tmp_path, "--out", out)
        assert ran.exit_code == 2
        assert "would be written over" in ran.stderr
        assert ran.stderr.count("\n") == 1
    assert path.read_bytes() == before
    assert not (tmp_path / "plan.json").exists()


def test_a_ledger_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    broken, old = tmp_path / "broken.db", tmp_path / "old.db"
    broken.write_text("no database " * 500)
    with contextlib.closing(sqlite3.connect(old)) as connection:
        connection.execute("CREATE TABLE requests (id TEXT, at_s REAL)")
        connection.execute("INSERT INTO requests VALUES ('a', 1.0), ('b', 900.0)")
        connection.commit()
    for path in (broken, old):
        ran = at_once(tmp_path, "--trace", f"sqlite:///{path}")
        assert ran.exit_code == 2, ran.output
        assert ran.stderr.startswith("baseload: ")
        assert path.name in ran.stderr
        assert ran.stderr.count("\n") == 1


def test_adapters_and_price_lists_beside_the_site_file_are_found_from_elsewhere(tmp_path: Path) -> None:
    site(tmp_path)
    path = tmp_path / "cluster.yaml"
    document = yaml.safe_load(path.read_text())
    adapters = [{"model": "gpt-4o-mini", "path": "tuned"}, {"model": "gpt-4.1", "path": "hub/tuned"}]
    document["pools"][0]["engine"]["adapters"] = adapters
    static = {"kind": "static", "every_s": 60}
    lists = [("beside", {"file": "list.yaml"}), ("elsewhere", {"file": "list.yaml", "directory": "prices"})]
    document["feeds"] = [{"name": name, **static, "options": options} for name, options in lists]
    path.write_text(yaml.safe_dump(document))
    (tmp_path / "tuned").mkdir()
    (tmp_path / "list.yaml").write_text("")
    found = yaml.safe_load(rooted(path.read_text(), load(path)))
    assert [one["path"] for one in found["pools"][0]["engine"]["adapters"]] == [str(tmp_path / "tuned"), "hub/tuned"]
    assert found["pools"][0]["engine"]["path"] == "/srv/models/llama-8b"
    assert [feed["options"] for feed in found["feeds"]] == [
        {"file": "list.yaml", "directory": str(tmp_path)},
        lists[1][1],
    ]
