"""``baseload plan``: from a trace to what to own, to rent and to buy; plan.json, report.html and a cluster.yaml to run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serving.commands import stopping
from serving.commands.plan_input import Bar, Options, asked, check_out, rooted

if TYPE_CHECKING:
    from scheduler.config import ClusterConfig
    from scheduler.planning.document import MakeOrBuy, Outcome, Plan
    from scheduler.planning.planner import Found
    from scheduler.planning.what_if import Question
    from scheduler.planning.workloads import Workload

INPUT = 2


@dataclass
class _Reached:
    """How far it has come, in the words for whoever stops it."""

    said: str = "stopped; nothing was written"


def plan(
    trace: Annotated[
        str,
        typer.Option(
            help="File of requests or of rates (window_start_s, rate_rps), plain or gzip; ledger: the site's, or a URL.",
            metavar="FILE|ledger|URL",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for plan.json, report.html and cluster.yaml.")],
    config: Annotated[Path, typer.Option(help="Site file: pools, candidates, APIs, prices.")] = Path("cluster.yaml"),
    mix: Annotated[Path | None, typer.Option(help="Whose the requests are; else each tenant in equal shares.")] = None,
    growth: Annotated[
        float | None, typer.Option(help="Growth of load as a fraction a year, in place of planning.growth_per_year.")
    ] = None,
    horizon: Annotated[
        float | None, typer.Option(help="Years that the plan is for, in place of planning.horizon_years.")
    ] = None,
    load_factor: Annotated[
        float | None,
        typer.Option(
            help="Lay copies of the trace over each other until local work is this many times what the pools can do."
        ),
    ] = None,
    from_: Annotated[str, typer.Option("--from", help="Plan on the trace from there on.", metavar="TIME")] = "",
    until: Annotated[str, typer.Option(help="Plan on the trace up to there, such as 4d.", metavar="TIME")] = "",
    begins: Annotated[str, typer.Option(help="When the trace began: 2026-11-16T00:00Z.", metavar="TIME")] = "",
    what_if: Annotated[
        list[str] | None,
        typer.Option(help="Another assumption, such as api_price=-30%/yr or h100=24; may be repeated."),
    ] = None,
    scenarios: Annotated[Path | None, typer.Option(help="YAML file of what-ifs with several assumptions each.")] = None,
    workload: Annotated[
        list[str] | None,
        typer.Option(
            help="Make or buy: tokens in and out of a request, Mtok a day, as mail=1500,300,40; may be repeated.",
            metavar="NAME=IN,OUT,MTOK",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws copies, profiles and scenarios.")] = 0,
    sort: Annotated[bool, typer.Option("--sort", help="Put a trace in order whose arrivals go back.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print plan.json as well.")] = False,
) -> None:
    """Say what to own, what to rent and what to buy: from a trace, with the policy that will run it.

    Writes a report with figures, the plan as data, and a cluster.yaml that the gateway runs as it is. Ctrl-C stops it; what
    was found by then is written and marked as partial.

    Example: baseload plan --config examples/h100-fleet.yaml --mix examples/mix-heterogeneous.yaml --trace week.csv.gz
    --load-factor 0.5 --out plan --what-if api_price=-30%/yr --what-if h100=24
    """
    options = Options(
        config, trace, out, mix, growth, horizon, load_factor, from_, until, tuple(what_if or ()), scenarios, seed, sort,
        as_json, tuple(workload or ()), begins,
    )  # fmt: skip
    raise typer.Exit(run(options))


def run(options: Options) -> int:
    """Plan and write. Exit status 0; 2: a file or an option cannot be used; 130, 143: stopped by Ctrl-C, SIGTERM.

    By Ctrl-C once something was found: that is written, and marked as partial.
    """
    from serving.ledger.errors import LedgerError

    reached = _Reached()
    try:
        with stopping.by_signal() as stop:
            return _run(options, stop, reached)
    except (KeyboardInterrupt, stopping.Terminated, ImportError) as error:
        status = stopping.status_of(error)
        if status is None:
            raise
        print(f"baseload: {reached.said}", file=sys.stderr)
        return status
    except LedgerError as error:
        print(f"baseload: {' '.join(str(error).split())}", file=sys.stderr)
        return INPUT
    except OSError as error:
        print(f"baseload: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return INPUT
    except ValueError as error:  # ConfigError, TraceError, SiteError, PlanError: each says what is wrong
        text = str(error).replace("sort=True", "--sort")
        print(text if type(error).__name__ == "ConfigError" else f"baseload: {text}", file=sys.stderr)
        return INPUT


def _run(options: Options, stop: stopping.Stop, reached: _Reached) -> int:
    import msgspec

    from scheduler.planning import planner, policy
    from scheduler.planning.compose import plan_of

    check_out(options)
    with asked(options, stop.check) as (given, facts, notes, bar):
        questions, workloads = _questions(options, given.config)
        try:
            found = planner.find(given, bar)
        except KeyboardInterrupt:  # it keeps all that it has found
            reached.said = "stopped before anything was found; nothing was written"
            raise
        found.warnings[:0] = notes
        plan = plan_of(found, facts, datetime.now(UTC).isoformat(timespec="seconds"))
        plan = msgspec.structs.replace(plan, warnings=(*plan.warnings, *policy.notes(given.config, plan)))
        if not plan.partial:
            plan = _answered(plan, found, questions, workloads, bar)
    contents = _contents(plan, found, options)
    reached.said = f"stopped while writing: what is in {options.out} may be of two plans"
    _write(contents, options.out)
    reached.said = f"stopped; the plan is in {options.out}"
    _show(plan, options)
    return stopping.INTERRUPTED if plan.partial else 0


def _questions(options: Options, config: ClusterConfig) -> tuple[list[Question], list[Workload]]:
    """Raises PlanError or ConfigError for one that cannot be answered: before minutes of planning."""
    from scheduler.planning import what_if, workloads

    questions = [what_if.Question(text, (text,)) for text in options.what_if]
    questions += list(what_if.read(options.scenarios)) if options.scenarios is not None else []
    for question in questions:
        what_if.changed(question, config)
    return questions, [workloads.read(text) for text in options.workloads]


def _answered(plan: Plan, found: Found, questions: list[Question], asked_for: list[Workload], bar: Bar) -> Plan:
    """The plan with its workloads and what-ifs. Ctrl-C keeps those that are done, and makes it a partial one.

    What turns out to have no answer is a warning: it shall not cost the plan.
    """
    import msgspec

    from scheduler.planning import workloads
    from scheduler.planning.technologies import PlanError

    config, model = found.asked.config, found.model
    assert model is not None  # noqa: S101 - the plan was made with it
    made: list[MakeOrBuy] = []
    outcomes: list[Outcome] = []

    def make_or_buy(one: Workload) -> None:
        made.append(workloads.answered(one, config, found.technologies, model))

    def what_if(one: Question) -> None:
        outcomes.append(_outcome(one, found))

    steps: list[tuple[str, str, Callable[[], None]]] = []
    steps += [("workloads", one.name, partial(make_or_buy, one)) for one in asked_for]
    steps += [("what-ifs", one.name, partial(what_if, one)) for one in questions]
    warnings, is_partial = list(plan.warnings), False
    for index, (what, name, step) in enumerate(steps):
        try:
            bar(f"{what}: {name}", index / len(steps))
            step()
        except PlanError as error:
            warnings.append(f"{name}: no answer, since {error}")
        except KeyboardInterrupt:
            warnings.append(f"stopped in {what}: {len(steps) - index} of {len(steps)} questions have no answer here")
            is_partial = True
            break
    return msgspec.structs.replace(
        plan, workloads=tuple(made), what_if=tuple(outcomes), warnings=tuple(warnings), partial=is_partial
    )


def _outcome(question: Question, found: Found) -> Outcome:
    from scheduler.planning import planner, what_if

    change = what_if.changed(question, found.asked.config)
    model = found.model if change.config is None else planner.remade(found, change.config)
    assert model is not None  # noqa: S101 - the plan was made with it
    return what_if.answer(question, change, model)


def _contents(plan: Plan, found: Found, options: Options) -> dict[str, bytes]:
    """What is to be written, by name of the file: all of it before the first is."""
    import msgspec

    from scheduler.planning.policy import written
    from serving.planning_report.page import html

    config = found.asked.config
    encoded = msgspec.json.format(msgspec.json.encode(plan, enc_hook=lambda number: number.item()), indent=1)
    text = rooted(written(options.config.read_text(encoding="utf-8"), config, plan), config)
    return {"plan.json": encoded, "report.html": html(plan), "cluster.yaml": text.encode()}


def _write(contents: dict[str, bytes], out: Path) -> None:
    from serving.report import page

    for name, content in contents.items():
        page.write(content, out / name)


def _show(plan: Plan, options: Options) -> None:
    if options.as_json:
        print((options.out / "plan.json").read_text(encoding="utf-8"))
        return
    from rich.text import Text

    from serving.planning_report import background, tables
    from serving.planning_report.outcome import lead
    from serving.report import terminal

    console = terminal.output()
    if plan.partial:
        console.print(Text("PARTIAL: stopped before everything was done.", style="bold"))
    console.print(Text(lead(plan), style="bold"))
    terminal.show(console, tables.pools(plan), 50)
    if plan.workloads:
        terminal.show(console, background.workloads(plan), 50)
    if plan.what_if:
        terminal.show(console, tables.what_if(plan.what_if), 50)
    for warning in plan.warnings:
        console.print(Text(f"Note: {warning}."))
    console.print(Text(f"{options.out}: plan.json, report.html, cluster.yaml (run it with baseload serve --config)."))
