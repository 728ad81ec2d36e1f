"""``baseload simulate``: policies side by side on a trace, as a table, as JSON, as a page."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from serving.commands import stopping

if TYPE_CHECKING:
    from scheduler.config import ClusterConfig
    from scheduler.simulation.mix import AssignBy, Profile
    from scheduler.simulation.scenario import Scenario
    from scheduler.simulation.simulate import Result
    from scheduler.simulation.traces import Trace

INPUT = 2
_COPIES_MAX = 100_000
_SNAPSHOT_S_MIN = 0.05  # as often as the simulated world looks at its gates


class Options(NamedTuple):
    """What was asked for. ``load_factor`` None: the trace as it is, in one copy.

    ``price_history_from``: the instant of the history that the trace begins at, ISO 8601; UTC where no offset is said.
    """

    config: Path
    trace: Path
    mix: Path | None = None
    policy: str = "all"
    load_factor: float | None = None
    gateways: int = 4
    snapshot_age_s: float = 1.0
    seed: int = 0
    requests_max: int = 600_000
    chain: bool = True
    sort: bool = False
    as_json: bool = False
    html: Path | None = None
    price_history: Path | None = None
    price_history_from: str = ""


class InputError(ValueError):
    """An option cannot be used; says which, and why."""


def run(options: Options) -> int:
    """Simulate and print. Exit status 0; 2: a file or an option cannot be used; 130, 143: stopped by Ctrl-C, SIGTERM."""
    try:
        with stopping.by_signal() as stop, _simulated(options, stop) as result:
            if options.html is not None:
                _write_page(result, options, options.html)
            if options.as_json:
                _print_json(result)
            elif options.html is None:
                _show(result)
    except (KeyboardInterrupt, stopping.Terminated, ImportError) as error:
        status = stopping.status_of(error)
        if status is None:
            raise
        print("baseload: stopped; nothing was written", file=sys.stderr)
        return status
    except OSError as error:
        print(f"baseload: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return INPUT
    except ValueError as error:  # ConfigError, TraceError and SiteError are such, and say what is wrong
        text = str(error).replace("sort=True", "--sort")
        print(text if type(error).__name__ == "ConfigError" else f"baseload: {text}", file=sys.stderr)
        return INPUT
    return 0


def names_of(policy: str, comes_and_goes: bool = True) -> list[str]:
    """Names of policies divided by commas, or ``all``. Raises InputError naming those that are known.

    Where no replica ``comes_and_goes`` by the site file's commitment clock, that is none of all.
    """
    from scheduler.simulation.policies import COMMITMENT, KNOWN

    names = list(dict.fromkeys(name.strip() for name in policy.split(",") if name.strip()))
    unknown = [name for name in names if name not in KNOWN and name != "all"]
    if unknown or not names:
        what = f"unknown policy {', '.join(unknown)}" if unknown else "no policy"
        raise InputError(f"--policy: {what} (known: {', '.join(KNOWN)}, or all)")
    if "all" not in names:
        return names
    return [name for name in KNOWN if name != COMMITMENT or name in names or comes_and_goes]


def _comes_and_goes(config: ClusterConfig) -> bool:
    scaled = any(p.engine.kind == "vllm" and p.replicas.min < p.replicas.max for p in config.pools)
    return scaled and config.policy.commitment.mode == "enforce"


@contextmanager
def _simulated(options: Options, stop: stopping.Stop) -> Iterator[Result]:
    """The result, while the trace that it speaks of is open."""
    load_factor = options.load_factor
    if load_factor is not None and not (math.isfinite(load_factor) and load_factor > 0.0):
        raise InputError(f"--load-factor: must be above 0, not {load_factor:g}")
    if not (math.isfinite(options.snapshot_age_s) and options.snapshot_age_s >= 0.0):
        raise InputError(f"--snapshot-age: must be 0 s or more, not {options.snapshot_age_s:g}")
    if options.html is not None and not options.html.absolute().parent.is_dir():
        raise InputError(f"--html: there is no folder {options.html.parent}")
    names_of(options.policy)  # what is wrong with them is said before anything is read
    from_s = _from_s(options)

    from scheduler.simulation.mix import default_mix, load_mix, resolve
    from scheduler.simulation.simulate import SHIPPED, simulate
    from scheduler.simulation.traces import open_trace
    from scheduler.simulation.world import Settings
    from serving.commands.check import checked
    from serving.commands.progress import Bar

    config = checked(options.config)
    if not config.pools:
        raise InputError(f"{options.config}: has no pools: where everything is bought there is nothing to decide")
    names = names_of(options.policy, _comes_and_goes(config))
    mix = load_mix(options.mix) if options.mix is not None else default_mix(config)
    profiles = resolve(mix, config)
    settings = Settings(options.gateways, max(_SNAPSHOT_S_MIN, options.snapshot_age_s), options.seed)
    bar = Bar(stop.check)
    bar.reads(options.trace)
    with bar.progress, open_trace(options.trace, sort=options.sort, progress=bar.read) as trace:
        if not trace.input_tokens.any() and trace.output_tokens.max() <= 1:
            raise InputError(
                f"{options.trace}: no request has any input tokens, or more than one output token: no work"
            )
        scenario = _scenario(config, profiles, mix.assign_by, trace, options, from_s)
        runs = len(names) + (3 if options.chain and SHIPPED in names else 0)
        bar.plays(runs * scenario.requests_expected(scenario.judged))
        result = simulate(scenario, settings, names, chain=options.chain, say=bar.say)
        bar.progress.stop()
        stop.check()
        yield result


def _from_s(options: Options) -> float | None:
    """The instant of the history that the trace begins at (Unix seconds), None where none is said."""
    text = options.price_history_from
    if not text:
        return None
    if options.price_history is None:
        raise InputError("--price-history-from: says where a history begins, but there is no --price-history")
    try:
        said = datetime.fromisoformat(text)
        return (said if said.tzinfo is not None else said.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise InputError(f"--price-history-from: {text!r} is no time such as 2025-10-01T06:00Z") from None


def _scenario(
    config: ClusterConfig, profiles: tuple[Profile, ...], assign_by: AssignBy, trace: Trace, options: Options,
    from_s: float | None,
) -> Scenario:  # fmt: skip
    from dataclasses import replace

    from scheduler.simulation import price_reader
    from scheduler.simulation.scenario import EPOCH_S, TUNING_SHARE, Window, scenario_of
    from serving.settings import core_policy

    asked, history = options.load_factor, None
    if options.price_history is not None:
        history = price_reader.load(options.price_history, config, EPOCH_S, trace.span_s, from_s)
    scenario = scenario_of(
        config, profiles, assign_by, trace, asked or 1.0, core_policy(config), options.seed, options.requests_max,
        history,
    )  # fmt: skip
    if asked is None:
        end_s = trace.span_s * min(1.0, options.requests_max / trace.requests)
        split_s = TUNING_SHARE * end_s
        judged = Window(split_s, end_s)
        return replace(
            scenario, copies=1.0, load_factor=1.0 / scenario.copies, tuning=Window(0.0, split_s), judged=judged
        )
    if scenario.copies > _COPIES_MAX:
        raise InputError(
            f"--load-factor: {asked:g} takes {scenario.copies:,.0f} copies of the trace, {_COPIES_MAX:,} at most"
        )
    return scenario


def _write_page(result: Result, options: Options, out: Path) -> None:
    from serving.report import page
    from serving.simulation_report.page import html
    from serving.simulation_report.tables import Given

    given = Given(options.config, options.trace, options.mix, options.requests_max)
    try:
        page.write(html(result, given), out)
    except OSError as error:
        raise InputError(f"--html {out}: {error.strerror or error}") from error
    print(f"{out} written: {len(result.policies)} policies, {result.requests:,} requests.", file=sys.stderr)


def _print_json(result: Result) -> None:
    import msgspec

    from serving.simulation_report.document import document

    # Sums of arrays are numbers of numpy, which an encoder does not know.
    print(msgspec.json.encode(document(result), enc_hook=lambda number: number.item()).decode())


def _show(result: Result) -> None:
    from rich.text import Text

    from serving.report import terminal
    from serving.report.words import age, count, number
    from serving.simulation_report import findings, tables
    from serving.simulation_report.outcome import lead

    console, scenario = terminal.output(), result.scenario
    console.print(Text(lead(result), style="bold"))
    told = f"{scenario.trace.name}: {count(result.requests, 'request')} in {age(scenario.judged.span_s)}, after a part that "
    told += (
        f"tunes; load {number(scenario.load_factor)} × capacity, {scenario.copies:.4g} copies, seed {scenario.seed}."
    )
    console.print(Text(told))
    terminal.show(console, tables.policies(result), 50)
    console.print()
    if result.regret is not None:
        console.print(Text(findings.of_regret(result.regret)))
    console.print(Text(tables.legend(result)))
