"""``baseload replay``: the requests of a trace, at their times, against a running gateway. A table, and rows as CSV."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from scheduler.config import ConfigError, load
from serving.commands import stopping
from serving.replay import report
from serving.replay.errors import CONFIG, ReplayError
from serving.replay.plan import Given, Plan, make
from serving.replay.play import Played, Progress, play

INTERRUPTED = 130


def run(given: Given, as_json: bool, out: Path | None) -> int:
    """Play and print. Exit status 0; 1 refused, or nothing was answered; 2 a file or an option; 3 no gateway; 130 Ctrl-C.

    SIGTERM counts as Ctrl-C, and is 143 while the trace is still being read.
    """
    try:
        with stopping.by_signal() as stop:
            plan = make(given, load(given.config), os.environ)
            stop.check()
        _must_be_writable(out)
        played = _played(plan, given.url)
    except (KeyboardInterrupt, stopping.Terminated) as error:
        print("baseload: stopped before anything was sent", file=sys.stderr)
        return stopping.status_of(error) or stopping.INTERRUPTED
    except ConfigError as error:
        print(error, file=sys.stderr)
        return CONFIG
    except ReplayError as error:
        print(f"baseload: {error}", file=sys.stderr)
        return error.status
    written = _written(played, out)
    if as_json:
        print(msgspec.json.encode(report.document(played)).decode())
    else:
        _show(played)
    if played.interrupted:
        return INTERRUPTED
    if not written:
        return CONFIG
    return 0 if any(row.served for row in played.rows) else 1


def _must_be_writable(out: Path | None) -> None:
    """Before anything is sent: what cannot be kept need not be measured. What a file holds stays until there are rows."""
    if out is None:
        return
    try:
        is_new = not out.exists()
        out.open("a").close()
        if is_new:
            out.unlink()
    except OSError as error:
        raise ReplayError(f"--out {out}: {error.strerror or error}", CONFIG) from None


def _written(played: Played, out: Path | None) -> bool:
    """Whether the rows are where they were wanted; if not, says why. The figures are shown in any case."""
    if out is None:
        return True
    try:
        with out.open("w", newline="") as file:
            report.write_csv(played.rows, file)
    except OSError as error:
        print(f"baseload: --out {out}: {error.strerror or error}", file=sys.stderr)
        return False
    return True


def _played(plan: Plan, url: str) -> Played:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = TextColumn("answered"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Bar(*columns, console=console, transient=True) as bar:

        def began() -> Progress:
            console.print(plan.in_words(url), highlight=False, soft_wrap=True)
            task = bar.add_task("", total=len(plan.requests))
            return lambda done: bar.update(task, completed=done)

        return asyncio.run(_until_stopped(plan, url, began))


async def _until_stopped(plan: Plan, url: str, began: Callable[[], Progress]) -> Played:
    """The replay as a task that Ctrl-C and SIGTERM cancel: it then returns what it has."""
    task = asyncio.create_task(play(plan, url, began))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise ReplayError("stopped before anything was sent", INTERRUPTED) from None


def _show(played: Played) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(Text(report.sentence(played), style="bold"))
    for text in report.warnings(played):
        console.print(Text(text))
    if not played.rows:
        return
    console.print()
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    grid.add_column("class")
    grid.add_column("source")
    for name in ("requests", "share", "TTFT p50", "p95", "p99", "TPOT p50", "p95", "p99", "USD"):
        grid.add_column(name, justify="right")
    for line in report.lines(played.rows):
        grid.add_row(*_cells(line))
    classes = {row.service_class for row in played.rows}
    if len(classes) > 1 or len({row.source for row in played.rows}) > 1:
        everything = report.line(played.rows, "", "all", len(played.rows))
        grid.add_section()
        grid.add_row(*_cells(everything))
    console.print(grid)
    console.print(Text("TTFT in ms from the planned start; TPOT in ms a token; share of the requests of the class."))


def _cells(line: report.Line) -> tuple[str, ...]:
    times = [_ms(value) for found in (line.ttft_s, line.tpot_s) for value in (found.p50, found.p95, found.p99)]
    return (
        line.service_class,
        line.source,
        f"{line.requests:,}",
        f"{100.0 * line.share:.1f} %",
        *times,
        f"{line.usd:.6f}",
    )


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e3:,.0f}" if seconds >= 0.1 else f"{seconds * 1e3:.1f}"
