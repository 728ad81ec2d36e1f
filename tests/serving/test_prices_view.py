"""The price board on a terminal: every offer is there, counts are right, and names from outside do nothing."""

from __future__ import annotations

import doctest
import io
import re
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from price_cases import DAY_S, HOSTILE, HOUR_S, NOW_S, local, mtok, offer, plausible, reports
from rich.cells import cell_len
from rich.console import Console

from pricing.meter.readings import GpuReading, HostReading
from pricing.report import FeedState, Incident, NodeReading, OtherSource, PriceReport, Unpriced
from serving.commands.prices import show
from serving.price_report.tables import bases, merit_order, notes, sentence
from serving.report import drawing, words
from serving.report.words import NONE, age, number, plain, short

ROOT = Path(__file__).resolve().parents[2]
EMPTY = PriceReport(NOW_S, (), (), (), ())
CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")


def shown(report: PriceReport, width: int = 240, **options: object) -> str:
    """What a terminal of that width gets."""
    file = io.StringIO()
    show(report, NOW_S, Console(file=file, width=width, **options))  # type: ignore[arg-type]
    return file.getvalue()


def test_what_the_words_promise_in_their_docstrings_holds() -> None:
    for module in (words, drawing):
        result = doctest.testmod(module)
        assert result.attempted > 0
        assert result.failed == 0


def test_the_first_line_counts_what_is_on_the_market_and_what_is_not() -> None:
    first = "8 offers on the market, 2 without a price, 1 price in quarantine, 2 of 3 feeds failing;"
    assert shown(plausible()).splitlines()[0] == f"{first} newest 20 s, oldest 3 h."


def test_nothing_configured_is_said_in_words() -> None:
    text = shown(EMPTY)
    assert text.startswith("0 offers on the market, none without a price.\n")
    assert "No feed is configured." in text
    assert "No pool of ours has a known cost." in text


def test_a_price_that_is_quarantined_twice_is_one_price() -> None:
    twice = tuple(Incident(NOW_S - i, "f", "p", "quarantined", "") for i in range(2))
    other = Incident(NOW_S, "f", "p", "refused", "")
    assert "1 price in quarantine" in sentence(PriceReport(NOW_S, (), (), (), (), (), (*twice, other)), NOW_S)


def test_an_offer_whose_price_has_run_out_is_said_to_be_expired() -> None:
    report = PriceReport(NOW_S, (offer("late", mtok(1, 2), expires_s=NOW_S - 1),), (), (), ())
    assert "1 of them expired" in sentence(report, NOW_S)
    assert "EXPIRED" in shown(report)


@settings(max_examples=40, deadline=None)
@given(reports)
def test_the_sentence_counts_what_the_report_holds(report: PriceReport) -> None:
    text = sentence(report, NOW_S)
    assert int(re.findall(r"^(\d+) offers? on the market", text)[0]) == len(report.offers)
    assert f"{len(report.unpriced) or 'none'} without a price" in text
    assert ("failing" in text) == any(feed.error for feed in report.feeds)


@settings(max_examples=40, deadline=None)
@given(reports, st.sampled_from([60, 80, 160]))
def test_no_line_is_wider_than_the_terminal_and_none_controls_it(report: PriceReport, width: int) -> None:
    text = shown(report, width)
    assert not CONTROLS.search(text)
    assert max(cell_len(line.rstrip()) for line in text.splitlines()) <= width


@pytest.mark.parametrize("width", [80, 160])
def test_every_offer_with_its_price_stands_on_a_narrow_terminal_too(width: int) -> None:
    joined = "".join(line.split("  ")[0].strip() for line in shown(plausible(), width).splitlines())
    for one in plausible().offers:
        assert one.offer in joined
        assert number(one.usd_per_mtok.blended) in shown(plausible(), width)


def test_a_number_is_never_broken_over_two_lines() -> None:
    prices = [price for cost in plausible().local for price in cost.bases.values()]
    for width in (36, 60, 80):
        shown_numbers = shown(plausible(), width).split()
        assert {number(usd) for price in prices for usd in (price.input, price.blended)} <= set(shown_numbers)


def test_offers_stand_in_merit_order_of_blended_price() -> None:
    text = shown(plausible())
    places = [text.index(f"\n{one.offer} ") for one in merit_order(plausible().offers)]
    assert places == sorted(places)
    blended = [one.usd_per_mtok.blended for one in merit_order(plausible().offers)]
    assert blended == sorted(blended)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_from_outside_is_neither_markup_nor_a_control_sequence(name: str) -> None:
    report = PriceReport(NOW_S, (offer(name, mtok(1, 2)),), (Unpriced(name, name),), (local(name),), ())
    text = shown(report, 400, force_terminal=True, color_system="truecolor")
    without_style = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert not CONTROLS.search(without_style)
    assert plain(name)[:20] in without_style


def test_the_terminal_does_without_the_library_that_draws() -> None:
    code = "import sys, serving.commands.prices; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_markup_in_a_name_is_shown_as_it_is_written() -> None:
    assert "[red]x[/]" in shown(PriceReport(NOW_S, (offer("[red]x[/]", mtok(1, 2)),), (), (), ()))


def test_meaning_survives_without_colour() -> None:
    colourless = shown(plausible(), force_terminal=True, color_system="truecolor", no_color=True)
    coloured = shown(plausible(), force_terminal=True, color_system="truecolor")
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == re.sub(r"\x1b\[[0-9;]*m", "", colourless)
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", colourless)


def test_what_does_not_fit_is_named_and_notes_move_below() -> None:
    text = " ".join(shown(plausible(), 80).split())
    assert "Too narrow here for: model, zone, cached, source, expires in." in text
    assert "frontier/gpt-flagship: litellm disagrees: 4.10 (0.730 ×)" in text
    assert "day-ahead: timeout after 30 s" in text
    assert "Too narrow" not in shown(plausible(), 400)


def test_notes_tell_what_a_price_alone_does_not() -> None:
    ends = {"deprecated_s": NOW_S + 20 * DAY_S, "off_peak": True, "service_tier": "flex", "usd_per_search": 0.01}
    others = (OtherSource("b", 2.0, 2.0, False), OtherSource("c", 1.0, 1.0, True))
    told = notes(offer("x", mtok(1, 1), others=others, **ends), NOW_S)
    assert told == [
        "b disagrees: 2.00 (2.00 ×)",
        "ends 2026-03-28 20:00Z",
        "off-peak now",
        "tier flex",
        "0.0100 USD a search",
    ]
    assert notes(offer("x", mtok(1, 1), deprecated_s=NOW_S + 400 * DAY_S), NOW_S) == []
    assert notes(offer("x", mtok(1, 1), deprecated_s=NOW_S - 1), NOW_S) == ["ended 2026-03-08 19:59Z"]


def test_only_bases_that_are_known_are_shown_and_each_says_which_it_is() -> None:
    rows = bases([local("a", bases={"usage": mtok(1, 2)}, standard_usd_per_mtok=None)]).rows
    assert [row[1] for row in rows] == ["usage (at full use)"]
    names = [row[1].partition(" ")[0] for row in bases([local("a")]).rows]
    assert names == ["allocation", "usage", "avoidable", "standard"]


def test_power_says_how_firm_it_is_and_of_when() -> None:
    report = PriceReport(NOW_S, (), (), (local("a", power_label="calibrated", power_at_s=NOW_S - 3 * HOUR_S),), ())
    assert "calibrated 3 h ago" in shown(report, 80)


def test_a_feed_that_never_answered_says_so() -> None:
    feed = FeedState("f", "k", None, NOW_S + 60, 1, 1, 0, 0, "timeout")
    text = shown(PriceReport(NOW_S, (), (), (), (feed,)))
    assert re.search(r"f +k +never +in 60 s .* timeout", text)


def test_a_huge_report_is_cut_and_says_so_within_seconds() -> None:
    many = tuple(offer(f"o{i}", mtok(i, i)) for i in range(20_000))
    incidents = tuple(Incident(NOW_S - i, "f", f"p{i}", "refused", "x" * 10_000) for i in range(5_000))
    started_s = time.process_time()
    text = shown(PriceReport(NOW_S, many, (), (), (), (), incidents), 80)
    assert time.process_time() - started_s < 20
    assert "19,800 more rows not shown" in text
    assert len(text) < 200_000


@given(st.floats(1e-6, 1e14))
def test_a_number_keeps_three_digits_and_needs_no_exponent(value: float) -> None:
    text = number(value)
    assert "e" not in text
    assert float(text.replace(",", "")) == pytest.approx(value, rel=0.005)
    assert number(-value) == f"-{text}"


@given(st.floats())
def test_any_number_and_any_span_can_be_told(value: float) -> None:
    assert number(value)
    assert age(value)
    assert words.instant(value)
    assert words.percent(value)


def test_what_is_not_known_is_no_zero() -> None:
    assert number(None) == NONE
    assert number(0.0) == "0"


@given(st.text(max_size=100), st.integers(8, 40))
def test_a_short_name_fits_and_keeps_both_ends(name: str, cells: int) -> None:
    cut = short(name, cells)
    assert cell_len(cut) <= cells
    if cell_len(plain(name)) > cells:
        head, tail = cut.split("…", 1) if "…" not in name else (cut[:1], cut[-1:])
        assert plain(name).startswith(head)
        assert plain(name).endswith(tail)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30).map(sorted), st.floats(0.001, 0.2))
def test_labels_are_moved_apart_and_stay_in_order(places: list[float], gap: float) -> None:
    moved = drawing.spread(places, gap)
    apart = min(gap, 1 / max(1, len(places) - 1))
    assert all(b - a >= apart - 1e-9 for a, b in pairwise(moved))
    assert moved[-1] <= 1.0 + 1e-9
    assert moved[0] >= -1e-9


def test_what_the_meters_read_is_shown_board_by_board_with_what_cannot_be_read_and_why() -> None:
    gpu = GpuReading(
        "GPU-1", 0, "H100 [red]80GB[/]", NOW_S - 5, 1e6, 612.5, "measured", "integrated power", 0.93, 2**36, 80 * 2**30
    )
    lost = GpuReading(
        "GPU-2", 1, "H100", NOW_S - 90, 5.0, 0.0, "measured", "NVML energy counter", problem="GPU is lost"
    )
    node = NodeReading("node-a", NOW_S, (gpu, lost), HostReading(NOW_S, 0.5, 2**30, 2**34), "no RAPL here")
    text = shown(PriceReport(NOW_S, (), (), (), (), nodes=(node,)), 200)
    for part in (
        "H100 [red]80GB[/]",
        "612",
        "93 %",
        "64.0/80",
        "integrated power",
        "GPU is lost",
        "no RAPL here",
        "host",
    ):
        assert part in text, part
