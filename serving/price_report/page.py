"""The price report as a page: which figures and tables stand where."""

from __future__ import annotations

from pathlib import Path

from pricing.report import BLEND_INPUT_SHARE, PriceReport
from serving.price_report import nodes, owned, sources, tables
from serving.price_report.figures import all_of
from serving.price_report.history import PriceHistoryView
from serving.report import page
from serving.report.page import Heading
from serving.report.words import instant, percent


def write(report: PriceReport, history: PriceHistoryView, out: Path) -> None:
    """Write the page to ``out``, which appears complete or not at all. Raises OSError where it cannot be written."""
    page.write(html(report, history), out)


def html(report: PriceReport, history: PriceHistoryView) -> bytes:
    """The page in UTF-8."""
    legend = (
        f"As of {instant(report.as_of_s)}; all times are UTC. Blended: {percent(BLEND_INPUT_SHARE)} of the tokens are "
        f"input; for a pool, its own mix where it is known. {tables.BASIS_LEGEND}"
    )
    heading = Heading(
        f"Prices, {instant(report.as_of_s)}",
        "Prices of tokens: the board, and how it came about",
        tables.sentence(report, report.as_of_s),
        legend,
    )
    figures = {figure.name: figure for figure in all_of(report, history)}
    now_s = report.as_of_s
    return page.html(
        heading,
        (
            ("The market", (tables.offers(report, now_s), sources.unpriced(report), sources.incidents(report))),
            ("", (figures["prices"], figures["merit"])),
            ("What ours costs", (tables.bases(report.local), tables.pools(report, now_s))),
            ("", (figures["stack"], figures["grid"])),
            ("What the meters read", (nodes.nodes(report, now_s),)),
            ("Owning", (owned.methods(report.local), owned.years(report.local))),
            ("Renting", (sources.rents(report, now_s), figures["rents"])),
            ("Where this comes from", (sources.feeds(report, now_s), sources.assumptions(report))),
        ),
    )
