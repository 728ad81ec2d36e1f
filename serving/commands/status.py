"""``baseload status``: the state of this moment, the ledger beside what the plan expects, and whether the plan still fits."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from serving.commands.spans import start_s

if TYPE_CHECKING:
    from scheduler.config import ClusterConfig
    from scheduler.planning.drift import Finding
    from scheduler.planning.seen import Seen
    from serving.ledger.store import Store
    from serving.status_report.figures import BudgetNow
    from serving.status_report.live import Live

FITS, DRIFT, INPUT, UNKNOWN = 0, 1, 2, 3
_ROWS_MAX = 200


class Options(NamedTuple):
    """What was asked for. ``ledger_url`` None: that of the site file. ``load``: load new journal lines first."""

    config: Path
    url: str
    since_s: float
    as_json: bool = False
    ledger_url: str | None = None
    load: bool = True


class Told(NamedTuple):
    """Everything that is shown."""

    config: ClusterConfig
    live: Live
    seen: Seen | None
    budgets: tuple[BudgetNow, ...]
    findings: tuple[Finding, ...]


def status(
    config: Annotated[Path, typer.Option(help="Site file that the gateway runs with.")] = Path("cluster.yaml"),
    since: Annotated[str, typer.Option(help="How far back the ledger is read: 90m, 24h, 7d, 4w or all.")] = "7d",
    url: Annotated[str, typer.Option(envvar="BASELOAD_URL", help="The running gateway.")] = "http://127.0.0.1:8080",
    ledger_url: Annotated[
        str | None,
        typer.Option(envvar="BASELOAD_LEDGER_URL", help="Database of the ledger, if not that of the site file."),
    ] = None,
    load: Annotated[bool, typer.Option(help="Load new journal lines first.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="All of it as JSON.")] = False,
) -> None:
    """The state of this moment, the ledger beside what the plan expects, and whether the plan still fits.

    Exit status 0: it fits; 1: something has drifted; 3: there is no plan, or not enough to tell.

    Example: baseload status --config cluster.yaml --since 7d
    """
    raise typer.Exit(run(Options(config, url.rstrip("/"), start_s(since), as_json, ledger_url, load)))


def run(options: Options) -> int:
    """Show it. Exit status 0: the plan fits; 1: it does not any more; 2: a file or an option; 3: it cannot be told."""
    from serving.commands.check import load_or_explain
    from serving.ledger.errors import LedgerError
    from serving.status_report import live
    from serving.status_report.sentences import verdict_of

    config = load_or_explain(options.config)
    now = live.look(options.url, config)
    try:
        seen, budgets = _ledger(options, config, now.work_ratios)
    except LedgerError as error:
        print(f"baseload: {error}", file=sys.stderr)
        return INPUT
    told = Told(config, now, seen, budgets, _findings(config, seen))
    if options.as_json:
        _print_json(told, options)
    else:
        _show(told)
    return {"fits": FITS, "drift": DRIFT, "unknown": UNKNOWN}[verdict_of(told.findings)]


def _findings(config: ClusterConfig, seen: Seen | None) -> tuple[Finding, ...]:
    from scheduler.planning.drift import drift

    expected = config.policy.expected
    if expected is None or seen is None:
        return ()
    return drift(expected, seen, expected.tolerances)


def _ledger(
    options: Options, config: ClusterConfig, work_ratios: Mapping[str, float]
) -> tuple[Seen | None, tuple[BudgetNow, ...]]:
    from serving.ledger.seen import seen
    from serving.status_report.figures import budgets

    now_s = time.time()
    with _opened(options, config) as store:
        if store is None:
            return None, ()
        return seen(store, config, options.since_s, now_s, work_ratios), budgets(config, store, now_s)


@contextmanager
def _opened(options: Options, config: ClusterConfig) -> Iterator[Store | None]:
    """The ledger, new journal lines loaded; None where there is none yet: looking at it shall not make one."""
    from serving.ledger.seen import is_there
    from serving.ledger.store import Store

    journal = Path(config.ledger.journal)
    with closing(Store(options.ledger_url or config.ledger.url)) as store:
        if options.load and journal.is_dir():
            store.create_schema()
            report = store.load(journal)
            if report.lines_bad or report.torn:
                print(f"warning: {report.lines_bad} unreadable and {report.torn} torn journal lines", file=sys.stderr)
        yield store if is_there(store) else None


def _print_json(told: Told, options: Options) -> None:
    import msgspec

    from serving.status_report import figures
    from serving.status_report.sentences import sentence, verdict_of

    expected = told.config.policy.expected
    rows = [
        {**msgspec.structs.asdict(row), "difference": row.difference} for row in figures.figures(expected, told.seen)
    ]
    findings = [{**msgspec.structs.asdict(found), "sentence": sentence(found)} for found in told.findings]
    document = {
        "verdict": verdict_of(told.findings),
        "plan_made_at": expected.plan_made_at if expected is not None else None,
        "since_s": options.since_s,
        "hours": told.seen.hours if told.seen is not None else 0.0,
        "live": told.live,
        "budgets": told.budgets,
        "figures": rows,
        "findings": findings,
    }
    print(msgspec.json.encode(document).decode())


def _show(told: Told) -> None:
    from rich.text import Text

    from serving.report import terminal
    from serving.status_report import figures, live
    from serving.status_report.sentences import overall, sentence

    console, expected = terminal.output(), told.config.policy.expected
    console.print(Text(live.sentence(told.live)))
    if told.live.pools:
        terminal.show(console, live.table(told.live), _ROWS_MAX)
    if told.budgets:
        terminal.show(console, figures.budget_table(told.budgets), _ROWS_MAX)
    made_at = expected.plan_made_at if expected is not None else ""
    if told.seen is not None:
        rows = figures.figures(expected, told.seen)
        terminal.show(console, figures.table(rows, told.seen.hours, made_at), _ROWS_MAX)
    console.print()
    if told.seen is None:
        console.print(Text("The ledger holds no requests of this span: nothing can be held against a plan."))
    elif expected is None:
        console.print(
            Text("The site file has no section policy.expected, which `baseload plan` writes: nothing to compare.")
        )
    else:
        for finding in told.findings:
            console.print(Text(sentence(finding)))
        console.print(Text(overall(told.findings, made_at), style="bold"))
