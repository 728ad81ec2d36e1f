"""``baseload replay`` against a running gateway whose sources are simulated: what is sent, when, and what is told of it."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running_gateway import KEY, KEY_HOME, ROOT, Running, Site, free_port, provider_yaml, serving, simulated, wait_until
from running_provider import QUICK, Provider, running
from typer.testing import CliRunner, Result

from scheduler.config import load
from scheduler.ports import Features
from scheduler.quality.triage import heuristic
from serving.cli import app
from serving.replay import words
from serving.replay.errors import ReplayError
from serving.replay.keys import keys_of
from serving.replay.plan import Given, Plan, make
from serving.replay.play import Played, Row
from serving.replay.report import burst_share, lines, spread, warnings

BASELOAD = [sys.executable, "-c", "from serving.cli import main; main()"]
MIX = """
version: 1
profiles:
  - {name: ours, share: 2, tenant: team, model: small, zones: [on-prem]}
  - {name: bought, share: 1, tenant: team, service_class: hasty, model: frontier}
"""
REQUESTS = 40


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Provider]]:
    """A gateway with a simulated pool and a simulated provider."""
    port = free_port()
    with running(**QUICK) as pool:
        providers = [provider_yaml("east", "east", 1, simulated(port))]
        with serving(tmp_path_factory.mktemp("replay"), Site(pool.url, providers)) as gateway:
            yield gateway, pool


def trace(directory: Path, requests: int = REQUESTS, gap_s: float = 0.02, tokens: tuple[int, int] = (100, 6)) -> Path:
    path = directory / "trace.csv"
    rows = [f"{i * gap_s:.4f},{tokens[0]},{tokens[1]}" for i in range(requests)]
    path.write_text("\n".join(["arrival_s,input_tokens,output_tokens", *rows]) + "\n")
    return path


def command(gateway: Running, path: Path, *options: str, mix: str = MIX) -> list[str]:
    (path.parent / "mix.yaml").write_text(mix)
    given = ["--trace", str(path), "--mix", str(path.parent / "mix.yaml"), "--url", gateway.url, "--key", KEY]
    return ["replay", *given, "--config", str(gateway.directory / "cluster.yaml"), *options]


def replayed(gateway: Running, path: Path, *options: str, mix: str = MIX) -> Result:
    """The command in this process: starting an interpreter takes longer than the replay."""
    return CliRunner().invoke(app, command(gateway, path, *options, mix=mix))


def test_every_request_is_answered_and_has_a_row(place: tuple[Running, Provider], tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    done = replayed(place[0], trace(tmp_path), "--json", "--out", str(out))
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["requests_sent"] == found["requests_served"] == REQUESTS and found["partial"] is None
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["number"]) for row in rows] == list(range(REQUESTS))
    assert tuple(rows[0]) == Row._fields
    assert {row["status"] for row in rows} == {"200"} and {row["problem"] for row in rows} == {""}
    assert {(row["profile"], row["source"], row["service_class"]) for row in rows} == {
        ("ours", "base", "interactive"),
        ("bought", "api", "hasty"),
    }
    assert all(float(row["planned_s"]) == pytest.approx(0.02 * i, abs=1e-6) for i, row in enumerate(rows))
    assert all(float(row["sent_s"]) >= float(row["planned_s"]) - 1e-3 for row in rows)
    assert all(0 < float(row["ttft_s"]) <= float(row["e2e_s"]) for row in rows)
    assert {row["output_tokens"] for row in rows} == {"6"}
    assert all(90 <= int(row["input_tokens"]) <= 110 for row in rows)
    bought = [row for row in rows if row["source"] == "api"]
    assert found["burst_share"] == pytest.approx(len(bought) / REQUESTS)
    assert found["usd"] == pytest.approx(sum(float(row["usd"]) for row in rows))
    assert float(bought[0]["usd"]) == pytest.approx((int(bought[0]["input_tokens"]) + 6) * 1e-6)
    assert sum(line["requests"] for line in found["lines"]) == REQUESTS
    ids = {record.id for record in place[0].begun()}
    assert {row["decision_id"] for row in rows} <= ids, "a row can be looked up in the ledger"


def test_a_person_gets_a_table_and_is_told_before_what_will_be_sent(
    place: tuple[Running, Provider], tmp_path: Path
) -> None:
    done = replayed(place[0], trace(tmp_path, 12))
    assert done.exit_code == 0, done.stderr
    assert "Replaying 12 requests" in done.stderr and "Ctrl-C" in done.stderr
    assert "12 of 12 requests sent" in done.stdout and "TTFT p50" in done.stdout
    assert "hasty" in done.stdout and "interactive" in done.stdout and "all" in done.stdout


def test_a_source_that_is_out_shows_as_failures_by_reason(place: tuple[Running, Provider], tmp_path: Path) -> None:
    gateway, pool = place
    assert pool.change(outage="503").status == 200
    try:
        done = replayed(gateway, trace(tmp_path, 6), "--json")
    finally:
        assert pool.change(outage="").status == 200
        gateway.all_sources_stand_ready()
    found = json.loads(done.stdout)
    assert found["requests_failed"] > 0
    assert sum(found["problems"].values()) == found["requests_failed"]
    assert all("HTTP 503" in problem for problem in found["problems"])
    assert any(line["source"] == "none" for line in found["lines"])


def test_ctrl_c_ends_it_with_what_was_seen_marked_partial(place: tuple[Running, Provider], tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    line = command(place[0], trace(tmp_path, 2000, 0.05), "--json", "--out", str(out), "--seconds", "90")
    before = len(place[0].begun())
    process = subprocess.Popen([*BASELOAD, *line], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    wait_until(lambda: len(place[0].begun()) > before + 5, 30, "some requests")
    process.send_signal(signal.SIGINT)
    found = json.loads(process.communicate(timeout=20)[0])
    assert process.returncode == 130
    assert found["partial"] == "interrupted" and 0 < found["requests_served"] < 2000
    assert len(out.read_text().splitlines()) == found["requests_sent"] + 1
    wait_until(lambda: place[0].metrics()["baseload_inflight_requests"] == 0, what="nothing left behind")


def test_no_more_is_sent_once_the_answers_have_cost_enough(place: tuple[Running, Provider], tmp_path: Path) -> None:
    mix = MIX.replace("share: 2", "share: 0.000001")
    done = replayed(place[0], trace(tmp_path, 200, 0.02), "--json", "--usd-max", "0.0005", mix=mix)
    found = json.loads(done.stdout)
    assert "--usd-max" in found["partial"]
    assert 0.0005 <= found["usd"] < 0.002 and found["requests_sent"] < 40


def test_time_to_first_token_counts_from_the_planned_start_even_while_others_hold_the_places(
    place: tuple[Running, Provider], tmp_path: Path
) -> None:
    gateway, pool = place
    assert pool.change(ttft_s=0.2).status == 200
    try:
        mix = MIX.replace("share: 1,", "share: 0.000001,")
        out = tmp_path / "rows.csv"
        done = replayed(gateway, trace(tmp_path, 5, 0.0), "--concurrency-max", "1", "--out", str(out), mix=mix)
    finally:
        assert pool.change(**QUICK).status == 200
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["ttft_s"]) > 0.2 * (i + 1) for i, row in enumerate(rows)] == [True] * 5
    assert "left" in done.stdout and "late or more" in done.stdout


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (("--url", "http://127.0.0.1:9"), 3, "is `baseload serve` running?"),
        (("--url", "ftp://127.0.0.1"), 2, "not an address of a gateway"),
        (("--trace", "missing.csv"), 2, "missing.csv"),
        (("--config", "missing.yaml"), 2, "missing.yaml"),
        (("--key", "nobody's"), 2, "BASELOAD_KEY_TEAM"),
        (("--out", "missing/rows.csv"), 2, "missing/rows.csv"),
        (("--concurrency-max", "100000"), 2, "above 4,096"),
        (("--scale-input", "100000", "--scale-output", "100000"), 2, "take fewer --seconds, or scale or cut"),
        (("--seconds", "100", "--speed", "0.001"), 2, "at most 24 are"),
        (("--start-s", "5000"), 2, "nothing lies between"),
    ],
)
def test_what_stands_in_the_way_is_named_before_anything_is_sent(
    place: tuple[Running, Provider], tmp_path: Path, options: tuple[str, ...], status: int, said: str
) -> None:
    before = len(place[0].begun())
    done = replayed(place[0], trace(tmp_path), *options)
    assert done.exit_code == status and not done.stdout
    assert said in done.stderr.replace("\n", " ")
    assert len(place[0].begun()) == before


def test_a_trace_out_of_order_is_named_once_and_without_an_option_that_is_not_here(
    place: tuple[Running, Provider], tmp_path: Path
) -> None:
    path = trace(tmp_path)
    path.write_text("arrival_s,input_tokens,output_tokens\n5,9,9\n1,9,9\n")
    done = replayed(place[0], path)
    assert done.exit_code == 2
    assert done.stderr == f"baseload: --trace {path}, line 3: arrives 4 s before the request above it\n"


def test_rows_of_an_earlier_replay_stay_where_nothing_could_be_sent(
    place: tuple[Running, Provider], tmp_path: Path
) -> None:
    kept, fresh = tmp_path / "kept.csv", tmp_path / "fresh.csv"
    kept.write_text("earlier\n")
    for out in (kept, fresh):
        done = replayed(place[0], trace(tmp_path), "--url", "http://127.0.0.1:9", "--out", str(out))
        assert done.exit_code == 3
    assert kept.read_text() == "earlier\n"
    assert not fresh.exists()


def test_a_mix_that_the_site_does_not_know_is_refused_with_its_path(
    place: tuple[Running, Provider], tmp_path: Path
) -> None:
    done = replayed(place[0], trace(tmp_path), mix=MIX.replace("model: small", "model: large"))
    assert done.exit_code == 2 and "profiles[0].model" in done.stderr
    done = replayed(place[0], trace(tmp_path), mix=MIX.replace("model: small", "model: small, needs: [embeddings]"))
    assert done.exit_code == 2 and "profile ours needs embeddings" in done.stderr


def planned(gateway: Running, path: Path, **options: Any) -> Plan:
    config = load(gateway.directory / "cluster.yaml")
    (path.parent / "mix.yaml").write_text(MIX)
    given = Given(path, gateway.directory / "cluster.yaml", gateway.url, KEY, mix=path.parent / "mix.yaml", **options)
    return make(given, config, {})


def test_the_plan_is_the_same_for_the_same_seed_and_lengths_are_scaled_then_cut(
    place: tuple[Running, Provider], tmp_path: Path
) -> None:
    path = trace(tmp_path, tokens=(1000, 90))
    options: dict[str, Any] = {"input_scale": 0.5, "output_scale": 0.01, "input_tokens_max": 400, "speed": 2.0}
    plan = planned(place[0], path, seed=3, **options)
    assert plan == planned(place[0], path, seed=3, **options)
    assert plan.requests != planned(place[0], path, seed=4, **options).requests
    assert {(r.input_tokens, r.output_tokens) for r in plan.requests} == {(400, 1)}
    assert [r.at_s for r in plan.requests] == pytest.approx([0.01 * i for i in range(REQUESTS)])


def test_too_many_requests_are_refused_before_they_are_made(place: tuple[Running, Provider], tmp_path: Path) -> None:
    path = trace(tmp_path, 100_001, 0.0001)
    with pytest.raises(ReplayError, match="at most 100,000"):
        planned(place[0], path)


def test_each_tenant_speaks_with_a_key_of_its_own(place: tuple[Running, Provider]) -> None:
    config = load(place[0].directory / "cluster.yaml")
    assert keys_of(config, {"team"}, KEY, {}) == {"team": KEY}
    with pytest.raises(ReplayError, match="home \\(BASELOAD_KEY_HOME\\)"):
        keys_of(config, {"team", "home"}, KEY, {})
    environment = {"BASELOAD_KEY_HOME": KEY_HOME, "BASELOAD_KEY_TEAM": "an old one"}
    assert keys_of(config, {"team", "home"}, KEY, environment) == {"team": KEY, "home": KEY_HOME}


@given(st.integers(0, 99), st.integers(0, 10**6), st.integers(1, 60_000), st.floats(0.0, 1.0))
def test_a_prompt_has_about_the_wanted_tokens_and_is_the_same_each_time(
    seed: int, number: int, tokens: int, difficulty: float
) -> None:
    text = words.prompt(seed, number, tokens, difficulty)
    assert text == words.prompt(seed, number, tokens, difficulty)
    framed = len(json.dumps([{"role": "user", "content": text}]).encode()) // 4  # as gateways count
    assert abs(framed - tokens) <= max(12, 0.05 * tokens)


def test_no_two_prompts_begin_alike() -> None:
    seen = {words.prompt(1, number, 2000, 0.25)[:60] for number in range(2000)}
    assert len(seen) == 2000


@pytest.mark.parametrize("difficulty", [0.0, 0.15, 0.25, 0.4, 0.7, 0.85])
def test_built_in_triage_reads_the_difficulty_from_the_prompt(difficulty: float) -> None:
    for tokens in (20, 3000):
        text = words.prompt(2, 7, tokens, difficulty)
        assert heuristic(Features(text, tokens, 1, "", False)) == pytest.approx(difficulty)


def row(number: int, ttft_s: float | None, source: str = "base", problem: str = "", sent_s: float = 0.0) -> Row:
    whole = (12, 6, 6) if not problem else (0, 6, 0)
    return Row(
        number, 0.0, sent_s, "team", "interactive", "ours", "small", source, f"{source}/x", "id", 200, problem,
        12, *whole, ttft_s, 0.01 if ttft_s else None, ttft_s, 0.5,
    )  # fmt: skip


def test_figures_leave_failures_out_of_times_and_out_of_the_burst_share() -> None:
    rows = [row(i, 0.1 * i) for i in range(1, 4)]
    rows += [row(4, 0.9, "api"), row(5, 0.7, "api", "broke off"), row(6, None, "", "HTTP 503: full", sent_s=0.4)]
    found = {line.source: line for line in lines(rows)}
    assert (found["base"].requests, found["api"].requests, found["none"].requests) == (3, 1, 2)
    assert found["base"].ttft_s.p50 == pytest.approx(0.2) and found["none"].ttft_s.p50 is None
    assert burst_share(rows) == pytest.approx(0.25)
    assert sum(line.share for line in found.values()) == pytest.approx(1.0)
    plan = Plan((), (), 1.0, 1, 0, 1.0)
    told = warnings(Played(plan, rows, partial="interrupted"))
    assert told[0].startswith("PARTIAL: interrupted")
    assert any("1 request(s) failed: HTTP 503: full" in text for text in told)
    assert any("late or more" in text for text in told)
    assert spread([]).p99 is None and spread([None, 3.0]).p99 == 3.0
