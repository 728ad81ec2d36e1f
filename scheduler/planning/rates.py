"""Traces of mere rates (requests per second in windows of time, by class of model) as requests that can be planned with.

A CSV file with ``window_start_s`` and ``rate_rps``, and with ``model_class`` where there are several; plain or gzip. Arrivals
are Poisson inside each window; whose they are and how long comes from the mix: profiles with that ``model_class`` share its
requests by their shares, with lognormal lengths. Only a part of a large load is drawn: what is left is copies.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scheduler.simulation.mix import Mix, ProfileSpec, Tokens
from scheduler.simulation.trace_formats import TraceError
from scheduler.simulation.trace_formats.csv_file import opened
from scheduler.simulation.traces import Trace, trace_of

REQUESTS_MAX = 1_000_000
_ROWS_MAX = 1_000_000
_BYTES_MAX = 256 * 1024 * 1024
_Z95 = 1.6448536269514722  # of the normal distribution
_TOKENS_MAX = 1_000_000
_RATE_RPS_MAX = 1e9
_JITTER = 0.01  # of a window: starts that were rounded when they were written
# The class of rates that name none: of profiles that name it, or none.
ANY_CLASS = "all"


@dataclass(frozen=True, slots=True, eq=False)
class Rates:
    """``rate_rps`` [class, window] in windows of ``window_s``; ``classes`` as in the file, ``notes``: what was assumed."""

    name: str
    classes: tuple[str, ...]
    window_s: float
    rate_rps: np.ndarray
    notes: tuple[str, ...]

    @property
    def span_s(self) -> float:
        """Seconds of all windows."""
        return self.rate_rps.shape[1] * self.window_s


def is_rates(first_line: str) -> bool:
    """Whether a file that begins so holds rates."""
    return {"window_start_s", "rate_rps"} <= {name.strip() for name in first_line.split(",")}


def read(path: Path) -> Rates:
    """Read and check. Raises TraceError with the line; gaps inside a class are filled in, and said in ``notes``."""
    with opened(path) as (stream, _):
        text = stream.read(_BYTES_MAX + 1)
    if len(text) > _BYTES_MAX:
        raise TraceError(path, 0, f"more than {_BYTES_MAX // 1024**2} MiB of rates")
    lines = csv.DictReader(io.StringIO(text.decode("utf-8-sig", errors="replace")), skipinitialspace=True)
    rows: dict[str, dict[float, float]] = {}
    try:
        for row in lines:
            _add(path, lines.line_num, {(name or "").strip(): value for name, value in row.items()}, rows)
    except csv.Error as error:
        raise TraceError(path, lines.line_num, str(error)) from error
    if not rows:
        raise TraceError(path, 0, "there is no window in it")
    return _regular(path, rows)


def _add(path: Path, line: int, row: dict[str, str], rows: dict[str, dict[float, float]]) -> None:
    if line > _ROWS_MAX:
        raise TraceError(path, line, f"more than {_ROWS_MAX:,} windows")
    start_s, rate = (_number(path, line, row, name) for name in ("window_start_s", "rate_rps"))
    if rate < 0.0:
        raise TraceError(path, line, f"rate_rps is negative ({rate:g})")
    if rate > _RATE_RPS_MAX:
        raise TraceError(path, line, f"rate_rps is above {_RATE_RPS_MAX:g} ({rate:g})")
    of = rows.setdefault((row.get("model_class") or "").strip() or ANY_CLASS, {})
    if start_s in of:
        raise TraceError(path, line, f"window_start_s {start_s:.12g} is there twice for one model_class")
    if of and start_s < next(reversed(of)):
        raise TraceError(path, line, f"window_start_s goes back, from {next(reversed(of)):.12g} to {start_s:.12g}")
    of[start_s] = rate


def _number(path: Path, line: int, row: dict[str, str], name: str) -> float:
    try:
        value = float(row[name] or "")
    except (KeyError, TypeError, ValueError):
        raise TraceError(path, line, f"{name}: {row.get(name)!r} is no number") from None
    if not math.isfinite(value):
        raise TraceError(path, line, f"{name}: {value} is not finite")
    return value


def _regular(path: Path, rows: dict[str, dict[float, float]]) -> Rates:
    window_s = _window_s(path, rows)
    first_s, last_s = min(min(of) for of in rows.values()), max(max(of) for of in rows.values())
    count = round((last_s - first_s) / window_s) + 1
    if count > _ROWS_MAX:
        raise TraceError(
            path, 0, f"{last_s - first_s:.6g} s in windows of {window_s:g} s are more than {_ROWS_MAX:,} windows"
        )
    notes, made = [], np.zeros((len(rows), count))
    for index, (name, of) in enumerate(rows.items()):
        at = (np.array(list(of)) - first_s) / window_s
        place = np.round(at).astype(int)
        off = np.flatnonzero(np.abs(at - place) > _JITTER)
        if not len(off):
            off = 1 + np.flatnonzero(np.diff(place) == 0)
        if len(off):
            raise TraceError(
                path, 0, f"{name}: window {list(of)[off[0]]:.12g} is not a multiple of {window_s:g} s after the first"
            )
        values = np.array(list(of.values()))
        own = np.arange(place[0], place[-1] + 1)
        made[index, own] = np.interp(own, place, values)
        gaps, zeros = len(own) - len(place), int((values == 0.0).sum())
        if gaps:
            notes.append(
                f"{name}: {gaps} windows of {window_s:g} s are missing; their rates are a line between their neighbours"
            )
        if zeros:
            notes.append(f"{name}: {zeros} of {len(values)} windows have no request; taken as they are")
        if len(own) < count:
            notes.append(f"{name}: rates cover {len(own)} of {count} windows; elsewhere there are none")
    if not made.any():
        raise TraceError(path, 0, "all rates are 0: there is nothing to plan for")
    return Rates(path.name, tuple(rows), window_s, made, tuple(notes))


def _window_s(path: Path, rows: dict[str, dict[float, float]]) -> float:
    """The step between windows that is most frequent, of several the smallest: there may be gaps."""
    steps = np.concatenate([np.diff(list(of)) for of in rows.values()])
    if not len(steps):
        raise TraceError(path, 0, "one window says nothing of how long it is; at least two are needed")
    sizes, counts = np.unique(np.round(steps, 6), return_counts=True)
    usual_s = float(sizes[np.argmax(counts)])
    if usual_s <= 0.0:
        raise TraceError(path, 0, "windows are shorter than a microsecond")
    return float(steps[np.abs(steps - usual_s) <= _JITTER * usual_s].mean())


def drawn(rates: Rates, mix: Mix, seed: int, requests_max: int = REQUESTS_MAX) -> tuple[Trace, float, tuple[str, ...]]:
    """Requests of ``rates``, how many times as many there are in truth, and what was assumed.

    The client of a request is the number of its profile in ``mix``. Raises ValueError where no profile has one of the
    classes, or where a profile that does has no lengths.
    """
    by_class = [_profiles(mix, name) for name in rates.classes]
    if not any(by_class):
        raise ValueError(
            f"{rates.name}: no profile of the mix has a model_class that is in it (there are: {', '.join(rates.classes)})"
        )
    known = rates.rate_rps * np.array([[bool(own)] for own in by_class])
    if not known.any():
        raise ValueError(f"{rates.name}: the classes that the mix knows have no request")
    totals, notes = known.sum(axis=1) * rates.window_s, [*rates.notes, *_left_out(rates, mix, by_class)]
    busy = np.flatnonzero(known.any(axis=0))
    before, after = int(busy[0]), known.shape[1] - 1 - int(busy[-1])
    if before or after:
        notes.append(
            f"a trace begins and ends with a request: {before} windows before and {after} after them without one are gone"
        )
    stands_for = max(1.0, float(totals.sum()) / requests_max)
    rng = np.random.default_rng(seed)
    parts = [
        _of_class(rate / stands_for, rates.window_s, own, rng)
        for rate, own in zip(rates.rate_rps, by_class, strict=True)
        if own
    ]
    at_s, inputs, outputs, profile = (np.concatenate(column) for column in zip(*parts, strict=True))
    if not len(at_s):
        raise ValueError(f"{rates.name}: its rates come to {totals.sum():.3g} requests, and none was drawn")
    order = np.argsort(at_s, kind="stable")
    trace = trace_of(rates.name, at_s[order], inputs[order], outputs[order], client=profile[order])
    return trace, stands_for, tuple(notes)


def _left_out(rates: Rates, mix: Mix, by_class: Sequence[Sequence[tuple[int, ProfileSpec]]]) -> list[str]:
    """What of the file no profile has, and which profiles have nothing of the file."""
    notes = [
        f"model_class {name!r} is in no profile of the mix: its requests were left out"
        for name, own in zip(rates.classes, by_class, strict=True)
        if not own
    ]
    used = {i for own in by_class for i, _ in own}
    idle = [spec.name for i, spec in enumerate(mix.profiles) if i not in used]
    if idle:
        notes.append(f"no request for the profiles whose model_class has no rates: {', '.join(idle)}")
    return notes


def _profiles(mix: Mix, model_class: str) -> list[tuple[int, ProfileSpec]]:
    """Those of the class, by their number; those without a class where the rates have none either."""
    meant = {model_class, None} if model_class == ANY_CLASS else {model_class}
    found = [(i, spec) for i, spec in enumerate(mix.profiles) if spec.model_class in meant]
    for _, spec in found:
        if spec.input_tokens is None or spec.output_tokens is None:
            raise ValueError(
                f"profile {spec.name!r}: a trace of rates needs its input_tokens and output_tokens (median, p95)"
            )
    return found


def _of_class(
    rate_rps: np.ndarray, window_s: float, profiles: Sequence[tuple[int, ProfileSpec]], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    counts = rng.poisson(rate_rps * window_s)
    starts_s = np.repeat(np.arange(len(counts)) * window_s, counts)
    at_s = starts_s + rng.random(len(starts_s)) * window_s
    shares = np.array([spec.share for _, spec in profiles])
    which = rng.choice(len(profiles), len(at_s), p=shares / shares.sum())
    inputs, outputs = np.zeros(len(at_s), np.int32), np.zeros(len(at_s), np.int32)
    for k, (_, spec) in enumerate(profiles):
        rows = np.flatnonzero(which == k)
        assert spec.input_tokens is not None and spec.output_tokens is not None  # noqa: S101 - checked in _profiles
        inputs[rows] = _lengths(spec.input_tokens, len(rows), rng)
        outputs[rows] = _lengths(spec.output_tokens, len(rows), rng)
    return at_s, inputs, outputs, np.array([i for i, _ in profiles], np.int32)[which]


def _lengths(tokens: Tokens, count: int, rng: np.random.Generator) -> np.ndarray:
    sigma = math.log(tokens.p95 / tokens.median) / _Z95
    return np.clip(np.round(rng.lognormal(math.log(tokens.median), sigma, count)), 1, _TOKENS_MAX).astype(np.int32)
