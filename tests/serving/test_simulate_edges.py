"""What nobody should hand to ``baseload simulate``, and places where a report can hardly be put."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from click.testing import Result
from rich.console import Console
from typer.main import get_command
from typer.testing import CliRunner

from scheduler.simulation.tuning import TUNED
from serving.cli import app
from serving.report import page, terminal
from serving.report.tables import Column, Table, left

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
HEADING = "arrival_s,input_tokens,output_tokens\n"
BOUGHT = """
version: 1
zones: [cloud]
models: [{name: big, context_tokens: 1000, quality: {low: 0.9, medium: 0.9, high: 0.9}}]
providers:
  - name: far
    kind: simulated
    zone: cloud
    simulated: {}
    models: [{model: big, upstream: big, price: {input: 1, output: 4}, curve: {prefill_tokens_per_s: 1000, itl_base_s: 0.01}}]
service_classes: [{name: interactive}]
tenants: [{name: demo, keys: [{env: DEMO_KEY}], zones: [cloud], service_classes: [interactive]}]
"""


def simulate(trace: Path, *arguments: object) -> Result:
    """all-api on the example site, as JSON."""
    usual = ("--config", EXAMPLES / "h100-site.yaml", "--policy", "all-api", "--json", "--trace", trace)
    return CliRunner().invoke(app, ["simulate", *map(str, (*usual, *arguments))])


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Fifty short requests, a second apart."""
    path = tmp_path / "short.csv"
    path.write_text(HEADING + "".join(f"{at},100,10\n" for at in range(50)))
    return path


def test_a_profile_that_nobody_can_serve_is_named(trace: Path, tmp_path: Path) -> None:
    mix = tmp_path / "mix.yaml"
    stays = "{name: stuck, share: 1, tenant: sales, model: gpt-4.1, zones: [on-prem]}"
    mix.write_text(f"version: 1\nprofiles: [{{name: fine, share: 1, tenant: sales}}, {stays}]\n")
    ran = simulate(trace, "--mix", mix)
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert "profile 'stuck': no pool and no API serves such requests" in ran.stderr


def test_times_that_can_hardly_be_seconds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "micro.csv"
    rows = "".join(f"{at * 1_000_000_000},100,10\n" for at in range(50))
    path.write_text(HEADING + rows)
    ran = simulate(path)
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert "micro.csv: 5e+10 s are to be played, more than a year" in ran.stderr


def test_requests_too_long_for_32_bits_are_no_local_work(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    rows = "".join(f"{at},{2**31 - 1 if at == 0 else 100},{2**31 - 1 if at == 0 else 10}\n" for at in range(50))
    path.write_text(HEADING + rows)
    ran = simulate(path)
    assert json.loads(ran.stdout)["workload"]["load_factor"] < 0.01


@pytest.mark.parametrize("tokens", ["0,0", "0,1"])
def test_a_trace_without_tokens_is_said_to_be_no_work(tmp_path: Path, tokens: str) -> None:
    path = tmp_path / "nothing.csv"
    path.write_text(HEADING + "".join(f"{at},{tokens}\n" for at in range(50)))
    ran = simulate(path)
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert "nothing.csv: no request has any input tokens, or more than one output token" in ran.stderr


def test_a_site_without_pools_leaves_nothing_to_decide(trace: Path, tmp_path: Path) -> None:
    path = tmp_path / "bought.yaml"
    path.write_text(BOUGHT)
    ran = simulate(trace, "--config", path)
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert f"{path}: has no pools" in ran.stderr


def test_every_threshold_that_was_tuned_is_shown_with_what_it_is_a_threshold_of(trace: Path) -> None:
    usual = ("--config", EXAMPLES / "h100-site.yaml", "--policy", ",".join(TUNED), "--trace", trace)
    ran = CliRunner().invoke(app, ["simulate", *map(str, usual)])
    assert ran.exit_code == 0
    units = ("of ttft_s_max", "of the KV cache", "USD/replica-s", "difficulty", "of slots or KV cache")
    for policy, unit in zip(TUNED, units, strict=True):
        [row] = [line for line in ran.stdout.splitlines() if re.match(rf"{policy}( \*)? +\d", line)]
        assert unit in row


def test_what_the_inputs_are_told_to_be_is_said_in_options_that_exist() -> None:
    told = (EXAMPLES.parent / "docs" / "simulation-inputs.md").read_text()
    options = {
        option for name in ("simulate", "serve") for p in get_command(app).commands[name].params for option in p.opts
    }
    assert set(re.findall(r"--[a-z][a-z-]*", told)) <= options
    assert not re.findall(r"`[^`\n]*\w=\w[^`\n]*`", told)  # an argument of Python


def test_a_snapshot_of_no_age_is_as_fresh_as_can_be(trace: Path) -> None:
    ran = simulate(trace, "--snapshot-age", "0")
    assert json.loads(ran.stdout)["workload"]["snapshot_age_s"] == 0.05


def test_a_line_without_an_end_is_said_to_be_too_long(tmp_path: Path) -> None:
    path = tmp_path / "line.csv"
    path.write_bytes(HEADING.encode() + b"0," + b"1" * 10_000_000 + b",5\n")
    ran = simulate(path)
    assert (ran.exit_code, "line.csv: a line is longer than" in ran.stderr) == (2, True)


def test_a_column_without_a_name_is_not_listed_where_it_is_too_narrow(capsys: pytest.CaptureFixture[str]) -> None:
    columns = (left("policy"), Column("SLO %", 1), left("", 2))
    terminal.show(Console(width=12, file=sys.stdout), Table("T", columns, [("bid-price", "100.0", "best")]), 5)
    assert "for: SLO %." in " ".join(capsys.readouterr().out.split())


def test_a_page_goes_through_pipes_and_links_and_leaves_them_what_they_are(tmp_path: Path) -> None:
    pipe, link, target = tmp_path / "pipe", tmp_path / "link.html", tmp_path / "target.html"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        page.write(b"<p>", pipe)
        assert os.read(reader, 10) == b"<p>"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    link.symlink_to(target)
    page.write(b"<p>", link)
    assert link.is_symlink()
    assert target.read_bytes() == b"<p>"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.html", "pipe", "target.html"]
