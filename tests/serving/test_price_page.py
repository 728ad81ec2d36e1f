"""The price report as a page: self-contained, valid, harmless, with a true sentence below each figure."""

from __future__ import annotations

import re
import time
from itertools import pairwise
from pathlib import Path

import pytest
from html_page import Page, harmless
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from price_cases import DAY_S, HOSTILE, HOUR_S, NOW_S, histories, local, mtok, offer, plausible, reports, week

from pricing.report import PriceReport
from serving.price_report import findings
from serving.price_report.cost_figures import merit_rows
from serving.price_report.drawing import grouped
from serving.price_report.figures import all_of
from serving.price_report.history import Mark, PriceHistoryView, Series, bounded, summary
from serving.price_report.page import html, write
from serving.price_report.sources import assumptions
from serving.report.drawing import line_style

EMPTY = PriceReport(NOW_S, (), (), (), ())
FIGURES = ["figure-prices", "figure-merit", "figure-stack", "figure-grid", "figure-rents"]


def test_the_page_is_valid_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    write(plausible(), week(), tmp_path / "prices.html")
    text = (tmp_path / "prices.html").read_text("utf-8")
    harmless(Page(text))
    assert "http://" not in text
    assert "https://" not in text
    assert "default-src 'none'" in text
    assert text.startswith("<!DOCTYPE html>")
    assert [path.name for path in tmp_path.iterdir()] == ["prices.html"]


def test_every_figure_is_drawn_and_told_in_words() -> None:
    page = Page(html(plausible(), week()).decode())
    assert [attrs["id"] for tag, attrs in page.tags if tag == "figure"] == FIGURES
    drawings = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(drawings) == len(FIGURES)
    assert all(attrs["role"] == "img" and len(attrs["aria-label"] or "") > 40 for attrs in drawings)
    assert all(len(figure.tables[0].rows) > 0 for figure in all_of(plausible(), week()))


def test_an_empty_report_is_a_page_that_says_so() -> None:
    page = Page(html(EMPTY, PriceHistoryView()).decode())
    harmless(page)
    text = "".join(page.text)
    assert "No offer has a price history yet." in text
    assert "No pool of ours has a known cost." in text
    assert "Nothing has a price." in text
    assert [tag for tag, _ in page.tags].count("svg") == 0
    assert [tag for tag, _ in page.tags].count("figcaption") == len(FIGURES)


@settings(
    max_examples=15, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate)
)  # shrinking takes minutes
@given(reports, histories)
def test_no_report_and_no_history_breaks_the_page(report: PriceReport, history: PriceHistoryView) -> None:
    harmless(Page(html(report, history).decode()))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_from_outside_stays_a_name(name: str) -> None:
    report = PriceReport(
        NOW_S, (offer(name, mtok(1, 2), model=name, source=name),), (), (local(name, tariff=name),), ()
    )
    line = Series(name, name, ((NOW_S - DAY_S, 1.0), (NOW_S - HOUR_S, 2.0)))
    page = Page(html(report, PriceHistoryView((line,), (line,), (), (line,), (Mark(NOW_S - 9, name),))).decode())
    harmless(page)
    joined = "".join(page.text)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", joined)
    if len(name) < 30 and name.isprintable():
        assert joined.count(name) >= 5


def test_a_page_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        write(EMPTY, PriceHistoryView(), tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_huge_history_is_drawn_within_seconds_and_bounded_bytes() -> None:
    points = tuple((NOW_S - 30 * DAY_S + 300.0 * i, 1.0 + i * 7919 % 1000 / 1000) for i in range(8640))
    lines = tuple(Series(f"o{i:03}", "USD/Mtok", points) for i in range(60))
    offers = tuple(offer(f"o{i:03}", mtok(i, i)) for i in range(3000))
    marks = tuple(Mark(NOW_S - i, f"m{i}") for i in range(10_000))
    started_s = time.process_time()
    page = html(PriceReport(NOW_S, offers, (), (), ()), PriceHistoryView(lines, (), (), (), marks))
    assert time.process_time() - started_s < 30
    assert len(page) < 8_000_000
    text = "".join(Page(page.decode()).text)
    assert "Drawn are the 24 cheapest; not drawn: o024" in text
    assert "2,000 more rows not shown" in text


def test_the_finding_tells_the_largest_change() -> None:
    start_s = NOW_S - 7 * DAY_S
    steady = Series("steady", "USD/Mtok", ((start_s, 3.0),))
    moved = Series("frontier", "USD/Mtok", ((start_s, 2.5), (NOW_S - 5 * DAY_S, 2.0)))
    told = findings.of_prices([known for s in (steady, moved) if (known := summary(s, NOW_S))], NOW_S, "offer")
    assert told.startswith(
        "frontier fell by 20 % on 3 March 2026, from 2.50 to 2.00 USD/Mtok; 1 of 2 offers did not change"
    )
    calm = findings.of_prices([known for s in (steady,) if (known := summary(s, NOW_S))], NOW_S, "offer")
    assert calm == "steady cost 3.00 USD/Mtok throughout (from 1 March 2026 to 8 March 2026)."


def test_the_finding_names_the_longest_time_without_a_price() -> None:
    line = Series("a", "USD/Mtok", ((NOW_S - DAY_S, 1.0), (NOW_S - 5 * HOUR_S, None), (NOW_S - 2 * HOUR_S, 1.0)))
    known = summary(line, NOW_S)
    assert known is not None
    assert (known.gap_s, known.changes, known.mean) == (3 * HOUR_S, 0, 1.0)
    assert "a had no good price for 3 h" in findings.of_prices([known], NOW_S, "offer")


def test_the_stack_is_told_by_its_largest_part() -> None:
    pools = [
        local("dear", usd_per_gpu_hour={"capital": 3.0, "power": 1.0}),
        local("cheap", usd_per_gpu_hour={"rent": 1.0}),
    ]
    told = findings.of_stack(pools)
    assert (
        told == "A GPU-hour of dear costs 4.00 USD, of which capital is 75 %; cheap is the cheapest of 2 pools at 1.00."
    )


def test_full_cost_is_compared_with_the_cheapest_that_could_be_bought() -> None:
    ours = local("ours", bases={"allocation": mtok(1, 1), "avoidable": mtok(0.1, 0.1)}, standard_usd_per_mtok=None)
    report = PriceReport(NOW_S, (offer("dear", mtok(9, 9)), offer("cheap", mtok(2, 2))), (), (ours,), ())
    told = findings.of_bases(report)
    assert "the cheapest bought offer is cheap at 2.00 USD/Mtok" in told
    assert told.endswith("is 0.500 × that.")


def test_the_merit_order_goes_by_what_dispatch_reads() -> None:
    report = PriceReport(
        NOW_S, (offer("api", mtok(0.3, 0.3)), offer("ours", mtok(9, 9), kind="base")), (), (local("ours"),), ()
    )
    rows = merit_rows(report)
    assert [row.name for row in rows] == ["ours", "api"]
    assert set(rows[0].usd) == {"allocation", "usage", "avoidable", "standard"}
    assert rows[1].usd == {"bought": pytest.approx(0.3)}


def test_every_assumption_has_a_label_a_source_and_a_time() -> None:
    rows = assumptions(plausible()).rows
    labels = {"measured", "calibrated", "modelled", "listed", "configured"}
    assert all(row[3] in labels and row[4] and row[5] for row in rows if row[1] != "note")
    assert {row[0] for row in rows} >= {one.offer for one in plausible().offers} | {c.pool for c in plausible().local}


points = st.lists(st.tuples(st.floats(0, 1e9), st.none() | st.floats(-10, 10)), max_size=300).map(tuple)


@given(points, st.integers(10, 60))
def test_a_bounded_line_keeps_its_extremes_its_ends_and_its_order(
    given_points: tuple[tuple[float, float | None], ...], points_max: int
) -> None:
    whole = bounded(Series("x", "u", given_points), 10_000).points
    cut = bounded(Series("x", "u", given_points), points_max).points
    assert len(cut) <= points_max
    assert set(cut) <= set(whole)
    assert all(a[0] < b[0] for a, b in pairwise(cut))
    values = [value for _, value in whole if value is not None]
    if whole:
        assert (cut[0], cut[-1]) == (whole[0], whole[-1])
    if values:
        left = [value for _, value in cut if value is not None]
        assert (min(left), max(left)) == (min(values), max(values))


@given(points)
def test_a_bounded_line_says_the_same_at_every_instant_while_it_is_short_enough(
    given_points: tuple[tuple[float, float | None], ...],
) -> None:
    line = bounded(Series("x", "u", given_points)).points
    by_time = dict(sorted(given_points, key=lambda point: point[0]))
    for at_s, value in by_time.items():
        assert next(v for t, v in reversed(line) if t <= at_s) == value


def test_a_bounded_line_does_not_hide_when_a_price_was_lost() -> None:
    busy = tuple((float(i), float(1 + i % 7)) for i in range(1000))
    lost = (*busy[:503], (503.0, None), *busy[504:])
    assert (503.0, None) in bounded(Series("x", "u", lost), 50).points


def test_what_is_no_number_is_a_gap_and_what_is_no_instant_is_left_out() -> None:
    line = Series("x", "u", ((1.0, 2.0), (2.0, float("nan")), (3.0, float("inf")), (float("nan"), 1.0), (1e300, 1.0)))
    assert bounded(line).points == ((1.0, 2.0), (2.0, None))


def test_marks_too_close_for_numbers_of_their_own_share_one() -> None:
    marks = [Mark(at_s, "") for at_s in (50.0, 0.0, 51.0, 200.0)]
    assert [[mark.at_s for mark in group] for group in grouped(marks, 0.0, 100.0)] == [[0.0], [50.0, 51.0]]


def test_no_two_lines_of_a_figure_look_alike() -> None:
    styles = {(str(line_style(i)["color"]), str(line_style(i)["linestyle"])) for i in range(24)}
    assert len(styles) == 24
