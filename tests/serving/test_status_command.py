"""``baseload status``: what is now, what the ledger says beside the plan, verdicts, and an exit status for scripts."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import yaml
from running_gateway import KEY, ROOT, Running, Site, free_port, provider_yaml, serving, simulated
from running_provider import running as provider_running
from typer.testing import CliRunner, Result

from scheduler.config import load
from scheduler.planning.drift import Finding, Verdict
from serving.cli import app
from serving.ledger.records import Record
from serving.ledger.samples import begin, end
from serving.status_report import live
from serving.status_report.sentences import overall, sentence
from tests.support.sites import site

EXPECTED: dict[str, Any] = {
    "plan_made_at": "2026-11-22T08:00:00Z", "usd_per_hour": 9.5, "usd_api_per_hour": 0.3, "usd_energy_per_hour": 0.001,
    "requests_per_hour": 100.0, "burst_share": 0.3, "slo_attainment": 0.99, "input_tokens_mean": 800.0,
    "output_tokens_mean": 150.0, "api_usd_per_mtok": 10.0, "trace_hours": 12.0,
}  # fmt: skip
Run = Callable[..., Result]


def site_file(directory: Path, expected: dict[str, Any] | None = None, **sections: Any) -> Path:
    """A small site whose ledger lies in ``directory``; nothing of it runs."""
    policy = {"expected": expected} if expected is not None else {}
    ledger = {"journal": str(directory / "journal"), "url": f"sqlite:///{directory}/ledger.db"}
    document = site(policy=policy, ledger=ledger, controller={"port": free_port()}, **sections)
    path = directory / "cluster.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def requests_of(hours: int, per_hour: float, usd_per_mtok: float = 10.0, seed: int = 1) -> Iterator[Record]:
    """Streams of the last hours: three of ten bought, nearly all in time, with lengths as expected."""
    rng = np.random.default_rng(seed)
    now_s = time.time()
    for i in range(rng.poisson(hours * per_hour)):
        at_s = now_s - float(rng.uniform(0.0, hours)) * 3600.0
        is_api = rng.random() < 0.3
        tokens = (round(800 * rng.uniform(0.5, 1.5)), round(150 * rng.uniform(0.5, 1.5)))
        usd = sum(tokens) * usd_per_mtok * 1e-6 if is_api else 1e-5
        yield begin(f"r{seed}-{i}", at_s=at_s)
        offer = {"offer_id": "cloud/large", "source": "api"} if is_api else {"offer_id": "own/small", "source": "base"}
        late = rng.random() > 0.993
        yield end(
            f"r{seed}-{i}", at_s=at_s + 3.0, input_tokens=tokens[0], output_tokens=tokens[1], usd_avoidable=usd,
            ttft_s=9.0 if late else 0.3, duration_s=(9.0 if late else 0.3) + 0.014 * tokens[1], attempts=[], **offer,
        )  # fmt: skip


def journal(directory: Path, records: Iterator[Record]) -> None:
    (directory / "journal").mkdir()
    path = directory / "journal" / "20250615T150640-gateway-0-1.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in records))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command on the site file of the test, where no gateway runs."""
    for name in ("BASELOAD_LEDGER_URL", "BASELOAD_URL", "BASELOAD_CONTROL_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    url = f"http://127.0.0.1:{free_port()}"
    words = ["status", "--config", str(tmp_path / "cluster.yaml"), "--url", url]
    return lambda *more: CliRunner().invoke(app, [*words, *(str(word) for word in more)], prog_name="baseload")


def test_a_plan_that_fits_says_so_and_exits_with_0(run: Run, tmp_path: Path) -> None:
    site_file(tmp_path, EXPECTED)
    journal(tmp_path, requests_of(12, 100.0))
    result = run()
    assert result.exit_code == 0, result.output
    assert "Nothing is known of this moment: no gateway answers at http://127.0.0.1:" in result.stdout
    for words in (
        "Load fits: ",
        "Token lengths fit: ",
        "API prices fit: ",
        "Service curves fit: ",
        "Objectives are met: ",
    ):
        assert words in result.stdout
    assert result.stdout.endswith("The plan of 2026-11-22T08:00:00Z fits.\n")


def test_figures_stand_beside_those_of_the_plan_as_data(run: Run, tmp_path: Path) -> None:
    site_file(tmp_path, EXPECTED)
    records = list(requests_of(12, 100.0))
    journal(tmp_path, iter(records))
    told = json.loads(run("--json").stdout)
    ends = [record for record in records if hasattr(record, "status")]
    figures = {row["name"]: row for row in told["figures"]}
    apis = [record for record in ends if record.source == "api"]
    usd = sum(record.usd_avoidable for record in apis)
    assert figures["requests"]["actual"] == pytest.approx(len(ends) / told["hours"])
    assert figures["API money"]["actual"] == pytest.approx(usd / told["hours"])
    assert figures["bought from APIs"]["actual"] == pytest.approx(len(apis) / len(ends))
    assert figures["input tokens"]["actual"] == pytest.approx(sum(r.input_tokens for r in ends) / len(ends))
    assert figures["API price"]["actual"] == pytest.approx(10.0)
    assert figures["API price"]["difference"] == pytest.approx(0.0, abs=1e-9)
    assert figures["all, with hardware and rent"]["actual"] is None
    assert (told["verdict"], told["plan_made_at"], told["live"]["market_version"]) == (
        "fits",
        EXPECTED["plan_made_at"],
        None,
    )
    assert [finding["about"] for finding in told["findings"]] == ["load", "tokens", "prices", "curve", "slo"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"requests_per_hour": 50.0}, "Load has drifted: "),
        ({"output_tokens_mean": 80.0}, "Token lengths have drifted: "),
        (
            {"api_usd_per_mtok": 6.0},
            "API prices have drifted: $10.0 for a million tokens, 67 % more than the plan's $6.00",
        ),
    ],
)
def test_drift_is_named_and_exits_with_1(run: Run, tmp_path: Path, change: dict[str, float], words: str) -> None:
    site_file(tmp_path, EXPECTED | change)
    journal(tmp_path, requests_of(12, 100.0))
    result = run()
    assert result.exit_code == 1
    assert words in result.stdout
    assert result.stdout.count(" drifted: ") == 1
    assert "The plan of 2026-11-22T08:00:00Z no longer fits: run `baseload plan` again." in result.stdout


def test_engines_that_are_slower_than_their_curve_are_drift(run: Run, tmp_path: Path) -> None:
    path = site_file(tmp_path, EXPECTED)
    path.write_text(path.read_text().replace("itl_base_s: 0.01", "itl_base_s: 0.002"), encoding="utf-8")
    journal(tmp_path, requests_of(12, 100.0))
    result = run()
    assert result.exit_code == 1
    assert "A service curve no longer fits: streams of own take 0.0141 s a token" in result.stdout


def test_without_a_plan_there_is_nothing_to_tell_and_the_figures_are_shown_all_the_same(
    run: Run, tmp_path: Path
) -> None:
    site_file(tmp_path)
    journal(tmp_path, requests_of(3, 20.0))
    result = run("--since", "2h")
    assert result.exit_code == 3
    assert "no section policy.expected" in result.stdout
    assert "requests" in result.stdout


def test_an_empty_ledger_is_no_error_and_is_not_made_by_looking(run: Run, tmp_path: Path) -> None:
    site_file(tmp_path, EXPECTED)
    result = run()
    assert (result.exit_code, result.stderr) == (3, "")
    assert "The ledger holds no requests of this span" in result.stdout
    assert not (tmp_path / "ledger.db").exists()
    assert json.loads(run("--json").stdout)["verdict"] == "unknown"


def test_few_requests_are_too_few_to_tell(run: Run, tmp_path: Path) -> None:
    site_file(tmp_path, EXPECTED)
    journal(tmp_path, requests_of(1, 30.0))
    result = run()
    assert result.exit_code == 3
    assert "Load cannot be told: too few to tell: " in result.stdout
    assert result.stdout.endswith("cannot be told yet.\n")


def test_budgets_show_what_is_left_of_them(run: Run, tmp_path: Path) -> None:
    tenants = site()["tenants"]
    site_file(tmp_path, tenants=[{**tenants[0], "budget": {"usd": 5.0, "per": "month"}}])
    now_s = time.time()
    journal(tmp_path, iter([begin("a", at_s=now_s - 1, tenant="t"), end("a", at_s=now_s, usd_avoidable=1.25)]))
    assert json.loads(run("--json").stdout)["budgets"] == [
        {"tenant": "t", "per": "month", "usd": 5.0, "spent_usd": 1.25}
    ]
    assert "3.75" in run().stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "nowhere.yaml"], "cannot be read"),
        (["--since", "3 moons"], "'3 moons' is no span"),
        (["--ledger-url", "postgresql://me:secret@127.0.0.1:1/db"], "me:***@127.0.0.1:1/db"),
        (["--ledger-url", "nonsense"], "database URL 'nonsense'"),
    ],
)
def test_what_cannot_be_used_exits_with_2(run: Run, tmp_path: Path, words: list[str], message: str) -> None:
    site_file(tmp_path, EXPECTED)
    result = run(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "secret" not in result.output


def test_help_has_an_example_and_costs_no_heavy_import() -> None:
    assert (
        "Example: baseload status --config cluster.yaml --since 7d"
        in CliRunner().invoke(app, ["status", "--help"]).stdout
    )
    code = "import sys, serving.cli; assert not {'sqlalchemy', 'scipy', 'numpy', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"status": "ready"}', b"\xff", b'{"pools": 3, "market_version": "x"}']
)
def test_whatever_answers_there_the_state_is_a_line(
    body: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(live, "_get", lambda *_: body)
    monkeypatch.setenv("BASELOAD_CONTROL_TOKEN", "token")
    told = live.look("http://127.0.0.1:1", load(site_file(tmp_path)))
    assert live.sentence(told)
    assert told.market_version is None


def finding(verdict: Verdict, difference: float, **fields: Any) -> Finding:
    return Finding("load", verdict, 1200.0, 1200.0 * (1.0 + difference), difference, 0.04, **fields)


def test_sentences_say_how_far_off_and_how_sure() -> None:
    assert sentence(finding("fits", 0.03, note="1 whole week")) == (
        "Load fits: 1,236 requests an hour, 3.0 % more than the plan's 1,200, give or take 4.0 %; 1 whole week."
    )
    assert sentence(finding("drift", -0.5)).startswith(
        "Load has drifted: 600 requests an hour, 50 % less than the plan's 1,200"
    )
    assert "as planned, give or take 4.0 %" in sentence(finding("fits", 0.0))
    assert sentence(Finding("slo", "unknown", note="too few")) == "Objectives cannot be told: too few."
    slow = Finding("curve", "drift", 1.0, 1.6, 0.6, 0.0, "own", "gate")
    assert "own needs 1.60 × the time of its curve, as its gate has learnt" in sentence(slow)
    assert overall([finding("fits", 0.0), finding("unknown", 0.0)], "today") == (
        "The plan of today fits, as far as 1 of 2 questions can be answered."
    )
    assert math.isfinite(len(sentence(finding("unknown", math.nan))))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    where = provider_yaml("east", "east", 1, simulated(free_port()))
    with provider_running() as own, serving(tmp_path_factory.mktemp("status"), Site(own.url, [where])) as gateway:
        yield gateway


def test_a_running_gateway_shows_its_market_and_what_it_has_served(running: Running, run: Run, tmp_path: Path) -> None:
    for i in range(6):
        assert running.chat(f"hello {i}", model=("small", "frontier")[i % 2]).status == 200
    config = str(running.directory / "cluster.yaml")
    words = [
        sys.executable,
        "-m",
        "serving",
        "status",
        "--config",
        config,
        "--url",
        running.url,
        "--since",
        "1h",
        "--json",
    ]
    shown = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert shown.returncode == 3, shown.stderr  # no plan
    told = json.loads(shown.stdout)
    assert told["live"]["ready"]
    assert told["live"]["market_version"] >= 1
    assert told["live"]["up"] == ["east/frontier", "local/small"]
    (pool,) = told["live"]["pools"]
    assert (pool["pool"], pool["replicas"], pool["slots"], pool["waiting"]) == ("local", 1, 8, 0)
    assert pool["bid_usd_per_replica_hour"] >= 0.0
    assert pool["work_ratio"] > 0.0
    assert {row["name"]: row["actual"] for row in told["figures"]}["bought from APIs"] == 0.5
    assert [row["tenant"] for row in told["budgets"]] == ["poor"]
    text = run("--config", config, "--url", running.url).stdout
    assert "Market version " in text
    assert "2 offers up" in text
    assert KEY not in text
