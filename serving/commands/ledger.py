"""``baseload ledger``: what was decided, what it cost, and the same as a file. Loads new journal lines first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from serving.commands.spans import start_s
from serving.ledger.errors import JournalMissing, LedgerError

if TYPE_CHECKING:
    from serving.ledger.store import Store

app = typer.Typer(help="What was decided and what it cost.", invoke_without_command=True)

URL_DEFAULT = "sqlite:///.baseload/ledger.db"
JOURNAL_DEFAULT = Path(".baseload/journal")

URL_HELP = f"Database: sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME (default: {URL_DEFAULT})"
# The group reads the environment and hands on: read again here, it would override an option before the subcommand.
Url = Annotated[str | None, typer.Option(help=f"{URL_HELP}, or BASELOAD_LEDGER_URL", show_default=False)]
UrlOrEnvironment = Annotated[str | None, typer.Option(help=URL_HELP, envvar="BASELOAD_LEDGER_URL", show_default=False)]
Journal = Annotated[
    Path | None, typer.Option(help=f"Directory of the journal (default: {JOURNAL_DEFAULT})", show_default=False)
]
Load = Annotated[
    bool | None,
    typer.Option("--load/--no-load", help="Load new journal lines first (default: load)", show_default=False),
]
Since = Annotated[str, typer.Option(help="How far back: 90m, 24h, 7d, 4w or all.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


class Given(NamedTuple):
    """Options before a subcommand's name; the subcommand's own come first."""

    url: str | None = None
    journal: Path | None = None
    load: bool | None = None


@app.callback(epilog="Example: baseload ledger --by model --since 7d")
def ledger(
    context: typer.Context,
    by: Annotated[
        Literal["tenant", "model", "source", "hour"], typer.Option(help="What a line stands for.")
    ] = "tenant",
    since: Since = "24h",
    as_json: Json = False,
    url: UrlOrEnvironment = None,
    journal: Journal = None,
    load: Load = None,
) -> None:
    """Totals of requests: avoidable money, savings against the cheapest alternative, amortized share apart."""
    context.obj = Given(url, journal, load)
    if context.invoked_subcommand is not None:
        return
    from serving.ledger.report import summary, totals
    from serving.ledger.tables import print_totals

    since_s = start_s(since)
    with _opened(context, None, None, None) as store:
        lines = totals(store, by, since_s)
        sentence = summary(store, since_s)
    if as_json:
        from msgspec import to_builtins

        typer.echo(json.dumps({"by": by, "since_s": since_s, "totals": to_builtins(lines), "summary": sentence}))
        return
    if lines:
        print_totals(by, lines)
    typer.echo(sentence)


@app.command(epilog="Example: baseload ledger export --format parquet --out requests.parquet --since 4w")
def export(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="File to write; appears complete or not at all.")],
    file_format: Annotated[Literal["csv", "parquet"], typer.Option("--format", help="Kind of file.")] = "csv",
    since: Since = "all",
    url: Url = None,
    journal: Journal = None,
    load: Load = None,
) -> None:
    """Write one row per request to a file."""
    from serving.ledger.report import export_requests

    since_s = start_s(since)
    with _opened(context, url, journal, load) as store:
        try:
            rows = export_requests(store, out, file_format, since_s)
        except OSError as error:
            raise LedgerError(f"--out {out}: {error.strerror or error}") from error
    typer.echo(f"{rows:,} requests written to {out}")


@app.command(epilog="Example: baseload ledger show 01JX4Q7N9K --json")
def show(
    context: typer.Context,
    request_id: Annotated[str, typer.Argument(metavar="REQUEST_ID", help="The id from the response's headers.")],
    as_json: Json = False,
    url: Url = None,
    journal: Journal = None,
    load: Load = None,
) -> None:
    """The whole decision on one request: merit order with terms, rejections, attempts."""
    from serving.ledger.tables import print_decision

    with _opened(context, url, journal, load) as store:
        decision = store.decision(request_id)
        if decision is None:
            raise LedgerError(f"no request {request_id!r} in {store.name}")
    if as_json:
        typer.echo(json.dumps(decision))
        return
    print_decision(decision)


@contextmanager
def _opened(context: typer.Context, url: str | None, journal: Path | None, load: bool | None) -> Iterator[Store]:
    """The store, new journal lines loaded. What goes wrong is told on stderr, with exit code 2."""
    given = context.obj if isinstance(context.obj, Given) else Given()
    directory = journal or given.journal or JOURNAL_DEFAULT
    wanted = load if load is not None else given.load
    try:
        from serving.ledger.store import Store

        with closing(Store(url or given.url or URL_DEFAULT)) as store:
            if wanted is not False:
                if not directory.is_dir():
                    raise JournalMissing(f"journal directory {directory} does not exist (--journal DIR, or --no-load)")
                store.create_schema()
                report = store.load(directory)
                if report.lines_bad or report.torn:
                    typer.echo(f"warning: {report.lines_bad} unreadable and {report.torn} torn journal lines", err=True)
            yield store
    except LedgerError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
