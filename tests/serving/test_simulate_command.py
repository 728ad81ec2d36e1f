"""``baseload simulate`` as people and programs use it: table, JSON, page, and what it says when it cannot."""

from __future__ import annotations

import doctest
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from html_page import Page, harmless
from typer.testing import CliRunner

from pricing.book import Change
from pricing.history import Line
from pricing.listing import TokenPrice
from scheduler.config import load
from scheduler.simulation.policies import KNOWN
from scheduler.simulation.price_history import configured
from serving.cli import app
from serving.simulation_report import outcome
from serving.simulation_report.bars import CostRow, cut_at

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SITE = EXAMPLES / "h100-site.yaml"
MIX = EXAMPLES / "mix-heterogeneous.yaml"
POLICIES = ("bid-price", "overflow-queue", "all-local", "all-api")
FIGURES = ["costs", "spend", "load", "bids", "classes", "regret"]
FIELDS = {
    "usd_total", "usd_api", "usd_energy", "usd_fixed", "slo_attainment", "savings_captured", "local_share",
    "false_burst_usd_share", "sovereignty_violations",
}  # fmt: skip


class Ran(NamedTuple):
    """How the command ended, and what it said."""

    status: int
    out: str
    err: str


def simulate(*arguments: object) -> Ran:
    """The command as a terminal of unlimited width would run it."""
    found = CliRunner().invoke(app, ["simulate", *map(str, arguments)])
    return Ran(found.exit_code, found.stdout, found.stderr)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two thousand long requests in two minutes, about what four H100 can do, with a burst in the part that is judged."""
    rng = np.random.default_rng(5)
    count = 2000
    arrivals = np.sort(np.concatenate([rng.uniform(0, 120, count - 500), rng.uniform(60, 75, 500)]))
    sizes = rng.lognormal(8.9, 0.6, count), rng.lognormal(4.0, 0.8, count)
    path = tmp_path_factory.mktemp("trace") / "burst.csv"
    rows = [f"{at:.6f},{int(i) + 1},{int(o) + 1}" for at, i, o in zip(arrivals, *sizes, strict=True)]
    path.write_text("arrival_s,input_tokens,output_tokens\n" + "\n".join(rows) + "\n")
    return path


def asked(trace: Path, *more: object) -> tuple[object, ...]:
    """The usual question, and more."""
    usual = ("--config", SITE, "--trace", trace, "--mix", MIX, "--policy", ",".join(POLICIES), "--load-factor", 1.2)
    return (*usual, *more)


class Told(NamedTuple):
    """One run's JSON as text, the same read, and the page that was written beside it."""

    text: str
    document: dict[str, Any]
    page: str


@pytest.fixture(scope="module")
def told(trace: Path, tmp_path_factory: pytest.TempPathFactory) -> Told:
    out = tmp_path_factory.mktemp("page") / "simulation.html"
    ran = simulate(*asked(trace, "--json", "--html", out))
    assert ran.status == 0, ran.err
    assert f"{out} written: 4 policies" in ran.err.replace("\n", "")
    return Told(ran.out, json.loads(ran.out), out.read_text("utf-8"))


def test_the_document_has_its_fields_and_no_others_in_them(told: Told) -> None:
    document = told.document
    assert set(document["trace"]) == {"requests", "span_s"}
    assert set(document["bound"]) == {"usd_total", "usd_api"}
    assert set(document["policies"]) == set(POLICIES)
    assert all(set(figures) == FIELDS for figures in document["policies"].values())
    assert {"thresholds", "regret", "workload", "slo_by_class", "usd_all_api"} < set(document)
    assert set(document["thresholds"]) == {"overflow-queue"}
    assert type(document["trace"]["requests"]) is int
    for figures in document["policies"].values():
        assert type(figures["sovereignty_violations"]) is int
        assert all(isinstance(figures[name], float | int) for name in FIELDS)


def test_shares_are_fractions_and_money_adds_up(told: Told) -> None:
    document = told.document
    bound_usd, all_api_usd = document["bound"]["usd_total"], document["usd_all_api"]
    assert 0.0 < bound_usd < all_api_usd
    for figures in document["policies"].values():
        shares = [figures[name] for name in ("slo_attainment", "local_share", "false_burst_usd_share")]
        assert all(0.0 <= share <= 1.0 for share in shares)
        assert figures["usd_total"] == pytest.approx(figures["usd_api"] + figures["usd_energy"])
        captured = (all_api_usd - figures["usd_total"]) / (all_api_usd - bound_usd)
        assert figures["savings_captured"] == pytest.approx(captured)
        assert figures["savings_captured"] <= 1.0 + 1e-9
        assert figures["sovereignty_violations"] == 0
    assert document["policies"]["all-api"]["savings_captured"] == 0.0  # not nearly: that would be what rounding leaves
    parts = document["regret"].values()
    assert sum(parts) == pytest.approx(document["policies"]["bid-price"]["usd_total"] - bound_usd)


def test_the_hardware_costs_the_same_whatever_the_policy(told: Told) -> None:
    fixed = {figures["usd_fixed"] for figures in told.document["policies"].values()}
    assert len(fixed) == 1
    # Four replicas at some dollars an hour each, over the judged span.
    hours = told.document["trace"]["span_s"] / 3600.0
    assert 0.5 < fixed.pop() / (4 * hours) < 3.0


def test_the_document_says_what_was_played_and_which_part_was_judged(told: Told) -> None:
    workload = told.document["workload"]
    assert (workload["trace"], workload["requests"], workload["load_factor"]) == ("burst.csv", 2000, 1.2)
    assert (workload["seed"], workload["gateways"], workload["snapshot_age_s"]) == (0, 4, 1.0)
    assert workload["tuning_s"][0] == 0.0
    assert workload["tuning_s"][1] == workload["judged_s"][0]
    judged_s = workload["judged_s"][1] - workload["judged_s"][0]
    assert judged_s == pytest.approx(told.document["trace"]["span_s"])


def test_one_seed_gives_the_same_bytes(trace: Path, told: Told) -> None:
    again = simulate(*asked(trace, "--json"))
    assert again.out == told.text
    assert again.err == ""


def test_another_seed_gives_another_run(trace: Path, told: Told) -> None:
    other = simulate(*asked(trace, "--json", "--seed", 1, "--no-chain", "--policy", "all-api"))
    document = json.loads(other.out)
    assert document["policies"]["all-api"]["usd_total"] != told.document["policies"]["all-api"]["usd_total"]
    assert "regret" not in document


def test_the_page_has_every_figure_with_a_sentence_and_needs_nothing_from_elsewhere(told: Told) -> None:
    page = Page(told.page)
    harmless(page)
    assert "http://" not in told.page
    assert "https://" not in told.page
    assert [attrs["id"] for tag, attrs in page.tags if tag == "figure"] == [f"figure-{name}" for name in FIGURES]
    drawings = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(drawings) == len(FIGURES)
    assert all(attrs["role"] == "img" and len(attrs["aria-label"] or "") > 40 for attrs in drawings)
    assert [tag for tag, _ in page.tags].count("figcaption") == len(FIGURES)


def test_the_page_names_what_it_rests_on(told: Told) -> None:
    text = "".join(Page(told.page).text)
    for what in (
        "h100-site.yaml",
        "burst.csv",
        "mix-heterogeneous.yaml",
        "copies",
        "seed",
        "gateways",
        "44,500 tokens/s",
    ):
        assert what in text
    for offer in ("openai/gpt-4.1-mini", "anthropic/claude-sonnet-4-5"):
        assert f"API {offer}" in text


def test_the_table_begins_with_a_sentence_and_marks_the_best(trace: Path) -> None:
    ran = simulate(*asked(trace, "--no-chain", "--policy", "bid-price,overflow-queue"))
    assert (ran.status, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0].startswith("bid-price paid $")
    assert "of what a clairvoyant could have saved; the best tuned overflow rule (overflow-queue) paid $" in " ".join(
        ran.out.split()
    )
    marked = [line for line in lines if " * " in line]
    assert len(marked) == 1
    assert marked[0].rstrip().endswith("best")
    for heading in ("USD total", "API", "energy", "saved %", "captured %", "SLO %", "local %", "false burst %"):
        assert heading in ran.out
    assert "The hardware costs $" in ran.out


def test_without_a_load_factor_the_trace_is_played_as_it_is(trace: Path) -> None:
    ran = simulate("--config", SITE, "--trace", trace, "--mix", MIX, "--policy", "all-local", "--json")
    workload = json.loads(ran.out)["workload"]
    assert workload["copies"] == 1.0
    assert 0.0 < workload["load_factor"] < 1.0
    played = json.loads(ran.out)["trace"]["requests"]
    judged = [float(row.partition(",")[0]) for row in trace.read_text().splitlines()[1:]]
    assert played == sum(1 for at_s in judged if at_s - judged[0] >= workload["judged_s"][0])


def test_one_price_for_all_is_said_to_leave_little_to_gain(trace: Path) -> None:
    uniform = ("--mix", EXAMPLES / "mix-uniform.yaml", "--policy", "bid-price,overflow-queue", "--no-chain")
    ran = simulate(*asked(trace), *uniform)
    said = (
        "Elsewhere everything here costs the same (gpt-4.1-mini), which leaves a bid price little to gain: bid-price is"
    )
    assert said in " ".join(ran.out.split())


BAD: list[tuple[tuple[object, ...], str]] = [
    (("--policy", "bid-price,wishful"), f"unknown policy wishful (known: {', '.join(KNOWN)}, or all)"),
    (("--policy", ","), "--policy: no policy"),
    (("--load-factor", "0"), "--load-factor: must be above 0, not 0"),
    (("--load-factor", "-1"), "--load-factor: must be above 0, not -1"),
    (("--load-factor", "nan"), "--load-factor: must be above 0, not nan"),
    (("--load-factor", "1e9"), "copies of the trace, 100,000 at most"),
    (("--snapshot-age", "-1"), "--snapshot-age: must be 0 s or more, not -1"),
    (("--snapshot-age", "nan"), "--snapshot-age: must be 0 s or more, not nan"),
    (("--config", "missing.yaml"), "missing.yaml: not a usable configuration"),
    (("--trace", "missing.csv"), "missing.csv: cannot be read"),
    (("--mix", "missing.yaml"), "missing.yaml: not a usable configuration"),
    (("--html", "missing/page.html"), "--html: there is no folder missing"),
    (("--price-history", "missing"), "baseload: missing: there is no such file or folder"),
    (("--price-history", SITE), f"{SITE.name}: has no line of a price history"),
    (("--price-history", SITE, "--price-history-from", "noon"), "'noon' is no time such as 2025-10-01T06:00Z"),
    (("--price-history-from", "2025-10-01"), "--price-history-from: says where a history begins, but there is no"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD, ids=lambda value: str(value)[:30])
def test_what_cannot_be_used_is_named_and_ends_with_status_2(
    trace: Path, arguments: tuple[object, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = simulate(*asked(trace, "--json"), *arguments)
    assert (ran.status, ran.out) == (2, "")
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert list(tmp_path.iterdir()) == []


def recorded(path: Path, factors: dict[float, float]) -> Path:
    """The site's own prices of APIs as a history: that many times as much from each instant on (seconds after 2025)."""
    begin_s, lines = 1_735_689_600.0, []
    for at_s, factor in factors.items():
        for (provider, model), entry in configured(load(SITE), begin_s).items():
            assert isinstance(entry.price, TokenPrice)
            standard = entry.price.rates["standard"]
            kinds = ("usd_per_input", "usd_per_cached", "usd_per_output")
            rate = replace(standard, **{kind: factor * getattr(standard, kind) for kind in kinds})
            change = Change(begin_s + at_s, provider, model, "price", TokenPrice({"standard": rate}))
            lines.append(msgspec.json.encode(Line(len(lines) + 1, change)))
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def all_api_usd(trace: Path, *more: object) -> float:
    """USD that all-api pays to APIs; together with the energy it is what the bound pays if everything leaves that may."""
    ran = simulate(*asked(trace, "--json", "--no-chain"), "--policy", "all-api", *more)
    assert (ran.status, ran.err) == (0, "")
    document = json.loads(ran.out)
    figures = document["policies"]["all-api"]
    assert figures["usd_total"] == pytest.approx(document["usd_all_api"])
    return float(figures["usd_api"])


def test_a_history_of_the_same_prices_gives_the_same_bytes(trace: Path, tmp_path: Path) -> None:
    few = ("--json", "--policy", "bid-price,all-api", "--no-chain")
    plain = simulate(*asked(trace), *few)
    same = simulate(*asked(trace), *few, "--price-history", recorded(tmp_path / "h.jsonl", {0.0: 1.0, 50.0: 1.0}))
    assert (same.status, same.err, same.out) == (0, "", plain.out)


def test_prices_that_were_recorded_are_paid_from_the_instant_on_that_is_asked_for(trace: Path, tmp_path: Path) -> None:
    """Twice as much from the 70th second on of a trace of two minutes, of which the last 96 s are judged."""
    path = recorded(tmp_path / "h.jsonl", {0.0: 1.0, 70.0: 2.0})
    usd = all_api_usd(trace)
    risen = all_api_usd(trace, "--price-history", path)
    assert 1.1 * usd < risen < 1.9 * usd
    doubled = all_api_usd(trace, "--price-history", path, "--price-history-from", "2025-01-01T00:01:10")
    assert doubled == pytest.approx(2.0 * usd)
    before = all_api_usd(trace, "--price-history", path, "--price-history-from", "2024-12-31T23:00-01:00")
    assert before == pytest.approx(risen)


def test_a_history_that_ends_before_it_shall_begin_is_refused(trace: Path, tmp_path: Path) -> None:
    path = recorded(tmp_path / "h.jsonl", {0.0: 1.0})
    ran = simulate(*asked(trace), "--price-history", path, "--price-history-from", "2031-01-01")
    assert ran.status == 2
    assert "h.jsonl: ends at 2025-01-01T00:00:00Z, before 2031-01-01T00:00:00Z" in ran.err


def test_a_mix_that_does_not_fit_the_site_names_every_name_that_is_wrong(trace: Path) -> None:
    ran = simulate(*asked(trace), "--config", EXAMPLES / "air-gapped.yaml")
    assert ran.status == 2
    assert "mix-heterogeneous.yaml" in ran.err
    assert "profiles[0].tenant: 'sales' is not a tenant" in ran.err


def test_a_mix_that_nothing_local_can_serve_is_refused(trace: Path, tmp_path: Path) -> None:
    mix = tmp_path / "mix.yaml"
    mix.write_text("version: 1\nprofiles: [{name: far, share: 1, tenant: sales, model: gpt-4.1}]\n")
    ran = simulate(*asked(trace), "--mix", mix)
    assert ran.status == 2
    assert "no request of this trace can be served locally" in ran.err


def test_a_broken_trace_is_named_with_its_line_and_a_mixed_up_one_can_be_sorted(tmp_path: Path) -> None:
    broken, back = tmp_path / "broken.csv", tmp_path / "back.csv"
    heading = "arrival_s,input_tokens,output_tokens\n"
    broken.write_text(f"{heading}0,5,x\n")
    back.write_text(heading + "".join(f"{at},100,10\n" for at in (3, 0, 1, 2, 4, 5, 6, 7, 8, 9)))
    ran = simulate(*asked(broken))
    assert (ran.status, "broken.csv, line 2: output_tokens: 'x'" in ran.err) == (2, True)
    ran = simulate(*asked(back))
    assert (ran.status, "back.csv, line 3" in ran.err, "--sort accepts that" in ran.err) == (2, True, True)
    sorted_too = ("--config", SITE, "--trace", back, "--mix", MIX, "--policy", "all-api", "--sort", "--json")
    assert simulate(*sorted_too).status == 0


def test_a_page_that_cannot_be_written_is_an_error(trace: Path, tmp_path: Path) -> None:
    ran = simulate(*asked(trace, "--policy", "all-api", "--html", tmp_path))
    assert ran.status == 2
    assert f"--html {tmp_path}" in ran.err


def test_control_c_ends_with_status_130_and_one_line(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scheduler.simulation.simulate.simulate", interrupted)
    ran = simulate(*asked(trace, "--json"))
    assert ran == Ran(130, "", "baseload: stopped; nothing was written\n")


def test_help_has_an_example() -> None:
    ran = simulate("--help")
    assert ran.status == 0
    assert "Example: baseload simulate --config" in ran.out
    assert "--price-history .baseload/prices" in ran.out


def test_what_the_words_promise_in_their_docstrings_holds() -> None:
    assert doctest.testmod(outcome).failed == 0


def test_only_bars_that_are_there_for_comparison_are_cut() -> None:
    rows = [
        CostRow("bid-price", 1.0, 0.1, False),
        CostRow("overflow-queue", 3.9, 0.1, False),
        CostRow("all-api", 40.0, 0.0, True),
    ]
    assert cut_at(rows, 0.5) == pytest.approx(5.0)
    assert cut_at(rows[:2], 0.5) == float("inf")
