"""What ``baseload plan`` is asked: site, mix and trace of whatever kind as one ``Asked``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from scheduler.config import ClusterConfig
    from scheduler.planning.document import TraceFacts
    from scheduler.planning.planner import Asked
    from scheduler.simulation.mix import AssignBy, Profile
    from scheduler.simulation.traces import Trace

_HOUR_S, _DAY_S = 3600.0, 86_400.0
_UNITS_S = {"s": 1.0, "m": 60.0, "h": _HOUR_S, "d": _DAY_S}


class Options(NamedTuple):
    """What was asked for. ``load_factor`` None: the trace as it is. ``growth`` is a fraction a year, ``horizon`` years."""

    config: Path
    trace: str
    out: Path
    mix: Path | None = None
    growth: float | None = None
    horizon: float | None = None
    load_factor: float | None = None
    from_: str = ""
    until: str = ""
    what_if: tuple[str, ...] = ()
    scenarios: Path | None = None
    seed: int = 0
    sort: bool = False
    as_json: bool = False
    workloads: tuple[str, ...] = ()
    begins: str = ""


class InputError(ValueError):
    """An option cannot be used; says which, and why."""


class Bar:
    """Progress on standard error, only where that is a terminal. ``check`` is called each time; what it raises ends all."""

    def __init__(self, check: Callable[[], None]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        share = TextColumn("{task.percentage:>3.0f} %")
        columns = (TextColumn("{task.description:<34}"), BarColumn(), share, TimeElapsedColumn())
        self.progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task, self._check = self.progress.add_task("", total=1.0), check

    def __call__(self, what: str, share: float) -> None:
        self._check()
        self.progress.update(self._task, description=what[:34], completed=share)


def seconds(text: str, option: str, span_s: float) -> float:
    """A time on the clock of the trace, such as 90m, 12h or 4d. Raises InputError."""
    unit = _UNITS_S.get(text[-1:], 0.0)
    try:
        value = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0.0):
        raise InputError(f"{option}: {text!r} is no time such as 90m, 12h or 4d")
    return min(value, span_s)


def instant_s(text: str, option: str) -> float:
    """Unix seconds of a date and time, UTC where it names no offset. Raises InputError."""
    from scheduler.simulation.trace_formats.instants import unix_s

    try:
        return unix_s(text)
    except ValueError as error:
        reason = "" if "isoformat" in str(error) else f" ({error})"
        raise InputError(f"{option}: {text!r} is no date and time such as 2026-11-16T00:00Z{reason}") from None


class _Read(NamedTuple):
    """A trace of whatever kind, whose its requests are, and how many each of them stands for.

    ``begins_s``: Unix seconds of its first request; None: not known.
    """

    trace: Trace
    profiles: tuple[Profile, ...]
    assign_by: AssignBy | Literal["given"]
    stands_for: float
    kind: Literal["requests", "rates", "ledger"]
    notes: tuple[str, ...]
    begins_s: float | None


def check_out(options: Options) -> None:
    """Make the folder. Raises InputError where it cannot be one, or where the site file itself would be written over."""
    out, config = options.out, options.config
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is there and is no folder")
    if (out / "cluster.yaml").resolve() == config.resolve():
        raise InputError(
            f"--out {out}: {config}, which the plan is made from, would be written over; name another folder"
        )
    out.mkdir(parents=True, exist_ok=True)


def rooted(text: str, config: ClusterConfig) -> str:
    """The site file with what lies beside it by its whole path, since it is written elsewhere: weights, folders of feeds."""
    from pricing.checks import prepared
    from scheduler.config.editing import put, read

    directory = Path(config.directory)
    for place, pool in enumerate(read(text).get("pools") or ()):
        at: tuple[str | int, ...] = ("pools", place, "engine")
        adapters = pool["engine"].get("adapters") or ()
        parts = [(at, pool["engine"])] + [((*at, "adapters", i), adapter) for i, adapter in enumerate(adapters)]
        for part, data in parts:
            path = data.get("path", "")
            if path and not Path(path).is_absolute() and (directory / path).exists():
                text = put(text, (*part, "path"), str((directory / path).resolve()))
    for place, feed in enumerate(config.feeds):
        _, options = prepared(config, feed)
        if "directory" in options and "directory" not in feed.options:
            given, here = ("feeds", place, "options"), str(directory.resolve())
            text = put(text, (*given, "directory"), here) if feed.options else put(text, given, {"directory": here})
    return text


@contextmanager
def asked(options: Options, check: Callable[[], None]) -> Iterator[tuple[Asked, TraceFacts, list[str], Bar]]:
    """What is to be planned, while its trace is open. ``check`` is called whenever something has been done."""
    from dataclasses import replace

    from scheduler.planning.planner import Asked
    from scheduler.simulation.scenario import Window, scenario_of, shift_s_max
    from scheduler.simulation.traces import cut
    from serving.commands.check import checked
    from serving.settings import core_policy

    if options.load_factor is not None and not (math.isfinite(options.load_factor) and options.load_factor > 0.0):
        raise InputError(f"--load-factor: must be above 0, not {options.load_factor:g}")
    config, bar = _with_options(checked(options.config), options), Bar(check)
    with bar.progress:
        bar(f"reading {options.trace}"[-34:], 0.0)
        of = _read(options, config)
        with of.trace as trace:
            if trace.requests < 2:
                raise InputError(f"{options.trace}: one request is no load to plan for")
            if not (trace.input_tokens.any() or trace.output_tokens.any()):
                raise InputError(f"{options.trace}: no request has a token, so there is nothing to plan for")
            from_s = seconds(options.from_, "--from", trace.span_s) if options.from_ else 0.0
            until_s = seconds(options.until, "--until", trace.span_s) if options.until else trace.span_s
            if not from_s < until_s:
                raise InputError(f"--from {options.from_}, --until {options.until}: nothing lies between them")
            part = cut(trace, from_s, until_s) if options.from_ or options.until else trace
            begins_s = of.begins_s
            if begins_s is not None:  # the clock of a part begins with its own first request
                begins_s += float(trace.arrival_s[trace.arrival_s.searchsorted(from_s)])
            factor, policy = options.load_factor or 1.0, core_policy(config)
            made = scenario_of(config, of.profiles, of.assign_by, part, factor, policy, options.seed)
            copies = made.copies if options.load_factor is not None else of.stands_for
            made = replace(made, copies=copies, shift_s_max=shift_s_max(part.span_s))
            given = Asked(config, made, Window(0.0, part.span_s), options.seed, begins_s=begins_s)
            yield given, _facts(given, of), list(of.notes), bar


def _read(options: Options, config: ClusterConfig) -> _Read:
    """``ledger`` is that of the site file, and what looks like the URL of a database one too; else it is a file."""
    from scheduler.planning import rates
    from scheduler.simulation.mix import default_mix, load_mix, resolve
    from scheduler.simulation.trace_formats.csv_file import first_line
    from scheduler.simulation.trace_formats.instants import first_row_s
    from scheduler.simulation.traces import open_trace

    if options.trace == "ledger" or "://" in options.trace:
        from serving.ledger import trace as ledger

        if options.mix is not None:
            raise InputError("--mix: a ledger knows whose its requests are")
        if options.begins:
            raise InputError("--begins: a ledger knows when its requests came")
        url = None if options.trace == "ledger" else options.trace
        found = ledger.read(url, 0.0, math.inf, config)
        return _Read(found.trace, found.profiles, "given", 1.0, "ledger", found.notes, found.begins_s)
    begins_s = instant_s(options.begins, "--begins") if options.begins else None
    mix = load_mix(options.mix) if options.mix is not None else default_mix(config)
    profiles, path, notes = resolve(mix, config), Path(options.trace), list[str]()
    if options.mix is None:
        notes.append("no --mix: every tenant has as many requests, with its first service class and any model")
    if rates.is_rates(first_line(path)):
        trace, stands_for, said = rates.drawn(rates.read(path), mix, options.seed)
        return _Read(trace, profiles, "given", stands_for, "rates", (*notes, *said), begins_s)
    trace = open_trace(path, sort=options.sort)
    if trace.dropped:
        notes.append(f"{trace.dropped:,} rows of the trace are failures of its source and were left out")
    if begins_s is None and not options.sort:
        begins_s = first_row_s(path)
    return _Read(trace, profiles, mix.assign_by, 1.0, "requests", tuple(notes), begins_s)


def _with_options(config: ClusterConfig, options: Options) -> ClusterConfig:
    """The site file with ``--growth`` and ``--horizon`` in its section ``planning``."""
    spec = config.planning
    if options.growth is not None:
        if not -0.9 <= options.growth <= 10.0:
            raise InputError(f"--growth: a fraction a year from -0.9 to 10, not {options.growth:g}")
        spec = spec.model_copy(
            update={"growth_per_year": spec.growth_per_year.model_copy(update={"mean": options.growth})}
        )
    if options.horizon is not None:
        if not 0.0 < options.horizon <= 20.0:
            raise InputError(f"--horizon: years above 0 and up to 20, not {options.horizon:g}")
        spec = spec.model_copy(update={"horizon_years": options.horizon})
    made = config.model_copy(update={"planning": spec})
    made._dir = config.directory
    return made


def _facts(asked: Asked, of: _Read) -> TraceFacts:
    import numpy as np

    from scheduler.planning.document import TraceFacts

    scenario, window = asked.scenario, asked.window
    trace = scenario.trace
    inside = (trace.arrival_s >= window.start_s) & (trace.arrival_s < window.end_s)
    count, _ = np.histogram(trace.arrival_s[inside], np.linspace(window.start_s, window.end_s, 101))
    if not count.any():
        raise InputError(f"no request lies between {window.start_s:g} s and {window.end_s:g} s of the trace")
    tokens = [float(column[inside].mean()) for column in (trace.input_tokens, trace.output_tokens)]
    return TraceFacts(
        name=trace.name, kind=of.kind, requests=int(inside.sum()), span_s=window.span_s, copies=scenario.copies,
        dropped=of.trace.dropped, input_tokens_mean=tokens[0], output_tokens_mean=tokens[1],
        requests_per_s_mean=float(inside.sum()) * scenario.copies / window.span_s,
        requests_per_s_peak=float(count.max()) * scenario.copies / (window.span_s / 100.0),
    )  # fmt: skip
