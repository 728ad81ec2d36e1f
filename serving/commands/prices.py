"""``baseload prices``: the price board as tables on a terminal, however narrow; into a file or pipe, at full width."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.text import Text

from pricing.report import BLEND_INPUT_SHARE, PriceReport
from scheduler.config import ClusterConfig
from serving.price_report import nodes, sources, tables
from serving.report import terminal
from serving.report.tables import Table
from serving.report.words import percent

_ROWS_MAX = 200
_FEW_ROWS_MAX = 40


class Options(NamedTuple):
    """What was asked for on the command line. ``since_s``: the page's history begins there."""

    config: Path
    url: str
    key: str
    offline: bool = False
    as_json: bool = False
    html: Path | None = None
    since_s: float = 0.0


def run(options: Options) -> int:
    """Show the board, or write it as JSON or HTML. Exit status 0; 1: refused; 2: a file or an option; 3: no gateway."""
    from serving import price_documents
    from serving.commands.check import load_or_explain

    config = load_or_explain(options.config) if options.offline or options.html else None
    try:
        if options.offline and config is not None:
            report = price_documents.recorded(config)
        else:
            report = price_documents.live(options.url, options.key)
    except price_documents.Refused as error:
        print(f"baseload: {error}", file=sys.stderr)
        return 1
    except price_documents.Unreachable as error:
        print(f"baseload: {error} (is `baseload serve` running? --offline needs none)", file=sys.stderr)
        return 3
    if options.html is not None and config is not None and (status := _write_page(options, config, report)):
        return status
    if options.as_json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    elif options.html is None:
        show(report, time.time())
    return 0


def _write_page(options: Options, config: ClusterConfig, report: PriceReport) -> int:
    from serving import price_documents
    from serving.price_report import page

    try:
        page.write(report, price_documents.history_view(config, options.since_s), options.html)  # type: ignore[arg-type]
    except OSError as error:
        print(f"baseload: --html {options.html}: {error.strerror or error}", file=sys.stderr)
        return 2
    print(f"{options.html} written: {len(report.offers)} offers, {len(report.local)} pools.", file=sys.stderr)
    return 0


def show(report: PriceReport, now_s: float, console: Console | None = None) -> None:
    """Print the board: a sentence, then the tables that have rows; what an empty one means is said in a line."""
    if console is None:
        console = terminal.output()
    console.print(Text(tables.sentence(report, now_s), style="bold"))
    quiet = []
    for table, rows_max in _tables(report, now_s):
        if table.rows:
            terminal.show(console, table, rows_max)
        else:
            quiet.append(table.empty)
    console.print()
    console.print(Text(" ".join([_legend(report), *quiet])))


def _tables(report: PriceReport, now_s: float) -> Iterator[tuple[Table, int]]:
    """Each table with the rows that a person reads of it."""
    yield tables.offers(report, now_s), _ROWS_MAX
    yield sources.unpriced(report), _ROWS_MAX
    yield sources.incidents(report), _FEW_ROWS_MAX
    yield tables.bases(report.local), _ROWS_MAX
    yield tables.stack(report.local), _ROWS_MAX
    yield tables.pools(report, now_s), _ROWS_MAX
    yield nodes.nodes(report, now_s), _FEW_ROWS_MAX
    yield sources.rents(report, now_s), _FEW_ROWS_MAX
    yield sources.feeds(report, now_s), _ROWS_MAX


def _legend(report: PriceReport) -> str:
    blend = f"Blended: {percent(BLEND_INPUT_SHARE)} of the tokens are input"
    return f"{blend}; for a pool, its own mix where known. {tables.BASIS_LEGEND}" if report.local else f"{blend}."
