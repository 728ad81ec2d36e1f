"""``baseload plan``: from a trace to what to own, to rent and to buy; plan.json, report.html and a cluster.yaml to run."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serving.commands.plan_input import Bar, InputError, Options, asked
from serving.commands.stopping import INTERRUPTED

if TYPE_CHECKING:
    from scheduler.config import ClusterConfig
    from scheduler.planning.document import Outcome, Plan
    from scheduler.planning.planner import Found
    from scheduler.planning.what_if import Question

INPUT = 2


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
        as_json, tuple(workload or ()),
    )  # fmt: skip
    raise typer.Exit(run(options))


def run(options: Options) -> int:
    """Plan and write. Exit status 0; 2: a file or an option cannot be used; 130: stopped, what is written is marked so."""
    try:
        return _run(options)
    except KeyboardInterrupt:
        print("baseload: stopped before anything was found; nothing was written", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        print(f"baseload: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return INPUT
    except ValueError as error:  # ConfigError, TraceError, SiteError, PlanError: each says what is wrong
        text = str(error).replace("sort=True", "--sort")
        print(text if type(error).__name__ == "ConfigError" else f"baseload: {text}", file=sys.stderr)
        return INPUT


def _run(options: Options) -> int:
    from scheduler.planning import planner
    from scheduler.planning.compose import plan_of

    _check_out(options.out)
    with asked(options) as (given, facts, notes, bar):
        questions = _questions(options, given.config)
        found = planner.find(given, bar)
        found.warnings[:0] = notes
        made_at = datetime.now(UTC).isoformat(timespec="seconds")
        plan = plan_of(found, facts, made_at)
        plan = _with_workloads(plan, options, found)
        if questions and not found.partial:
            import msgspec

            plan = msgspec.structs.replace(plan, what_if=_outcomes(questions, found, bar))
    _write(plan, found, options)
    _show(plan, options)
    return INTERRUPTED if plan.partial else 0


def _with_workloads(plan: Plan, options: Options, found: Found) -> Plan:
    import msgspec

    from scheduler.planning import workloads

    if found.model is None or not options.workloads:
        return plan
    asked_for = [workloads.read(text) for text in options.workloads]
    config = found.asked.config
    answers = tuple(workloads.answered(one, config, found.technologies, found.model) for one in asked_for)
    return msgspec.structs.replace(plan, workloads=answers)


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is there and is no folder")
    out.mkdir(parents=True, exist_ok=True)


def _questions(options: Options, config: ClusterConfig) -> list[Question]:
    from scheduler.planning import what_if, workloads

    for text in options.workloads:
        workloads.read(text)
    questions = [what_if.Question(text, (text,)) for text in options.what_if]
    questions += list(what_if.read(options.scenarios)) if options.scenarios is not None else []
    for question in questions:
        what_if.changed(question, config)  # wrong ones are told before minutes of planning
    return questions


def _outcomes(questions: list[Question], found: Found, bar: Bar) -> tuple[Outcome, ...]:
    from scheduler.planning import planner, what_if

    outcomes = []
    for index, question in enumerate(questions):
        bar(f"what if {question.name}", index / len(questions))
        change = what_if.changed(question, found.asked.config)
        model = found.model if change.config is None else planner.remade(found, change.config)
        assert model is not None  # noqa: S101 - the plan was made with it
        outcomes.append(what_if.answer(question, change, model))
    return tuple(outcomes)


def _write(plan: Plan, found: Found, options: Options) -> None:
    import msgspec

    from scheduler.planning.policy import written
    from serving.planning_report.page import html
    from serving.report import page

    encoded = msgspec.json.format(msgspec.json.encode(plan, enc_hook=lambda number: number.item()), indent=1)
    for name, content in (("plan.json", encoded), ("report.html", html(plan))):
        page.write(content, options.out / name)
    text = written(options.config.read_text(encoding="utf-8"), found.asked.config, plan)
    page.write(_rooted(text, options.config.parent).encode(), options.out / "cluster.yaml")


def _rooted(text: str, directory: Path) -> str:
    """Weights that lie beside the site file by their whole path: what is written lies elsewhere."""
    from scheduler.config.editing import put, read

    for place, pool in enumerate(read(text).get("pools") or ()):
        path = pool["engine"].get("path", "")
        if path and not Path(path).is_absolute() and (directory / path).exists():
            text = put(text, ("pools", place, "engine", "path"), str((directory / path).resolve()))
    return text


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
