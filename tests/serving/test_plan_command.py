"""``baseload plan`` as people run it: files in, files out, and one clear line for whatever is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml

from scheduler.config import load
from scheduler.planning.document import Plan
from tests.scheduler.planning.worlds import ROOT, site

HEADER = "arrival_s,input_tokens,output_tokens\n"


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
    workload = ("--workload", "mail=1500,300,400")
    done = baseload("--config", path, "--trace", trace(tmp_path, 200), "--out", tmp_path / "deep" / "o", *workload)
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
