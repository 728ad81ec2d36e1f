"""A plan knows the calendar of its trace: from the ledger, from dates in a file, or from ``--begins``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click.testing
import msgspec
import numpy as np
import pytest
import yaml
from running_gateway import free_port
from typer.testing import CliRunner

from scheduler.config import load
from scheduler.planning.document import Plan
from scheduler.planning.planner import Asked
from scheduler.planning.technologies import PlanError
from serving.cli import app
from serving.ledger.records import Record
from serving.ledger.samples import begin, end
from tests.scheduler.planning.worlds import site

HEADER = "arrival_s,input_tokens,output_tokens\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
NOW_S = 1_750_761_000.0  # 2025-06-24 10:30 UTC, a Tuesday
HOUR_S = 3600.0
Ask = Callable[..., float | None]


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., click.testing.Result]:
    """``baseload plan`` of a file with this text, in this process."""
    site(tmp_path)

    def ran(text: str, *options: str) -> click.testing.Result:
        path = tmp_path / "trace.csv"
        path.write_text(text)
        words = ("plan", "--config", tmp_path / "cluster.yaml", "--trace", path, "--out", tmp_path / "o", *options)
        return CliRunner().invoke(app, [str(word) for word in words])

    return ran


@pytest.fixture
def begins(run: Callable[..., click.testing.Result], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """What is asked of the planner; it is not run."""
    given: list[Asked] = []

    def found(asked: Asked, say: object) -> None:
        given.append(asked)
        raise PlanError("asked")

    monkeypatch.setattr("scheduler.planning.planner.find", found)

    def ask(text: str, *options: str) -> float | None:
        ran = run(text, *options)
        assert (ran.exit_code, ran.stderr) == (2, "baseload: asked\n")
        return given.pop().begins_s

    return ask


PLAIN = HEADER + "".join(f"{at_s},100,10\n" for at_s in range(5, 3605, 40))


def test_of_a_file_without_dates_nothing_is_known_but_what_is_said(begins: Ask) -> None:
    assert begins(PLAIN) is None
    assert begins(PLAIN, "--begins", "2026-11-16T00:00Z") == at("2026-11-16")
    assert begins(PLAIN, "--begins", "2026-11-16T02:00") == at("2026-11-16T02:00")
    assert begins(PLAIN, "--begins", "2026-11-16T00:00-05:30") == at("2026-11-16T05:30")
    assert begins(PLAIN, "--begins", "2026-11-16") == at("2026-11-16")


def test_a_part_of_a_trace_begins_with_its_own_first_request(begins: Ask) -> None:
    """The request at 605 s is the sixteenth, 600 s after the first."""
    assert begins(PLAIN, "--begins", "2026-11-16T00:00Z", "--from", "590") == at("2026-11-16T00:10")
    assert begins(PLAIN, "--begins", "2026-11-16T00:00Z", "--until", "30m") == at("2026-11-16")
    assert begins(PLAIN, "--from", "590") is None


def test_rates_begin_where_it_is_said(begins: Ask, tmp_path: Path) -> None:
    text = "window_start_s,rate_rps\n" + "".join(f"{600 * i},1\n" for i in range(12))
    mix = tmp_path / "mix.yaml"
    mix.write_text(
        "version: 1\nprofiles:\n  - {name: all, share: 1, tenant: support, model_class: all, model: answers, "
        "input_tokens: {median: 500, p95: 2000}, output_tokens: {median: 80, p95: 300}}\n"
    )
    assert begins(text, "--mix", str(mix)) is None
    assert begins(text, "--mix", str(mix), "--begins", "2026-11-16T00:00Z") == at("2026-11-16")


@pytest.mark.parametrize("zone", ["", "+00:00"])
def test_dates_in_a_file_are_taken_unless_told_otherwise(zone: str, begins: Ask) -> None:
    text = AZURE + "".join(f"2023-11-16 18:{15 + i}:46.6805900{zone},100,10\n" for i in range(20))
    assert begins(text) == pytest.approx(at("2023-11-16T18:15:46.680590"))
    assert begins(text, "--from", "10m") == pytest.approx(at("2023-11-16T18:25:46.680590"))
    assert begins(text, "--begins", "2026-11-16") == at("2026-11-16")


def test_which_date_of_a_file_out_of_order_is_the_first_is_not_guessed(begins: Ask) -> None:
    text = AZURE + "".join(f"2023-11-16 18:{45 - i}:00,100,10\n" for i in range(20))
    assert begins(text, "--sort") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("soon", "'soon' is no date and time such as 2026-11-16T00:00Z\n"),
        ("1763251200.0", "'1763251200.0' is no date and time such as 2026-11-16T00:00Z\n"),
        ("2026-13-01", "2026-11-16T00:00Z (month must be in 1..12)\n"),
        ("2026-11-16T25:00Z", "2026-11-16T00:00Z (hour must be in 0..23)\n"),
    ],
)
def test_what_is_no_date_is_told_in_one_line(
    text: str, reason: str, run: Callable[..., click.testing.Result], tmp_path: Path
) -> None:
    ran = run(PLAIN, "--begins", text)
    assert (ran.exit_code, ran.stderr.startswith("baseload: --begins: ")) == (2, True)
    assert ran.stderr.endswith(reason)
    assert ran.stderr.count("\n") == 1


def test_a_ledger_is_not_told_when_it_began(run: Callable[..., click.testing.Result]) -> None:
    ran = run(PLAIN, "--begins", "2026-11-16", "--trace", "ledger")
    assert (ran.exit_code, ran.stderr) == (2, "baseload: --begins: a ledger knows when its requests came\n")


def arrivals_s() -> np.ndarray:
    """Ten days up to now: an hour has 6 to 18 requests by the time of day, half of that on a weekend."""
    rng, found = np.random.default_rng(5), []
    for start_s in np.arange(NOW_S - 240.5 * HOUR_S, NOW_S, HOUR_S):
        moment = datetime.fromtimestamp(start_s, UTC)
        rate = (12.0 - 6.0 * np.cos(2.0 * np.pi * moment.hour / 24.0)) * (0.5 if moment.weekday() >= 5 else 1.0)
        found.append(start_s + HOUR_S * rng.random(rng.poisson(rate)))
    at_s = np.sort(np.concatenate(found))
    return at_s[at_s < NOW_S - 5.0]


def records(at_s: np.ndarray, name: str) -> Iterator[Record]:
    """Requests that the pool has answered."""
    for i, arrived_s in enumerate(at_s.tolist()):
        asked = {"tenant": "support", "model_requested": "answers", "zones": ["on-prem", "us-cloud"], "labels": []}
        yield begin(f"{name}-{i}", at_s=arrived_s, rejected=[], **asked)
        yield end(f"{name}-{i}", at_s=arrived_s + 1.9, offer_id="llama-8b/llama-8b", model="llama-8b", attempts=[])


def journal(directory: Path, number: int, lines: Iterator[Record]) -> None:
    directory.mkdir(exist_ok=True)
    path = directory / f"20250615T150640-gateway-{number}-1.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


def test_a_plan_of_the_ledger_fits_it_by_the_hour_of_the_week_and_twice_the_load_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site(tmp_path)
    path = tmp_path / "cluster.yaml"
    text: dict[str, Any] = yaml.safe_load(path.read_text())
    text["ledger"] = {"journal": str(tmp_path / "journal"), "url": f"sqlite:///{tmp_path}/ledger.db"}
    text["controller"] = {"port": free_port()}
    path.write_text(yaml.safe_dump(text))
    for module in ("status", "spans"):
        monkeypatch.setattr(f"serving.commands.{module}.time", SimpleNamespace(time=lambda: NOW_S))

    def baseload(*words: str | Path) -> click.testing.Result:
        return CliRunner().invoke(app, [str(word) for word in words])

    at_s, url = arrivals_s(), f"http://127.0.0.1:{free_port()}"
    status = ("status", "--config", tmp_path / "o" / "cluster.yaml", "--url", url, "--since")
    journal(tmp_path / "journal", 0, records(at_s, "first"))
    assert baseload("status", "--config", path, "--url", url).exit_code == 3  # it loads the ledger
    planned = baseload("plan", "--config", path, "--trace", "ledger", "--out", tmp_path / "o")
    assert planned.exit_code == 0, planned.output

    plan = msgspec.json.decode((tmp_path / "o" / "plan.json").read_bytes(), type=Plan)
    assert all(week.from_monday for week in plan.weeks)
    expected = load(tmp_path / "o" / "cluster.yaml").policy.expected
    assert expected is not None
    by_hour = np.array(expected.requests_by_hour_of_week).reshape(7, 24)
    assert by_hour.mean() == pytest.approx(expected.requests_per_hour, rel=0.1)
    assert by_hour[5:].sum() / 2 < 0.7 * by_hour[:5].sum() / 5
    assert by_hour[:5, 10:14].mean() > 1.8 * by_hour[:5, 0:3].mean()
    assert ">Mon<" in (tmp_path / "o" / "report.html").read_text()

    for since in ("24h", "3d", "7d"):
        fits = baseload(*status, since)
        assert "Load fits: " in fits.stdout, fits.output
        assert "; the same hours of the week." in fits.stdout
    journal(tmp_path / "journal", 1, records(at_s[at_s > NOW_S - 24.0 * HOUR_S], "once more"))
    doubled = baseload(*status, "24h")
    assert doubled.exit_code == 1
    assert "Load has drifted: " in doubled.stdout
