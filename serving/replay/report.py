"""What a replay came to: figures by source and class, sentences, and one CSV row a request."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from typing import IO

import msgspec
import numpy as np

from serving.replay.play import STOPPED, Played, Row

API = "api"
# Where nothing answered, or nothing whole.
NONE = "none"
# A client later than this at one request in a hundred measures itself as well.
_LATE_S = 0.05
_TOKENS_OFF = 0.15
_PROBLEMS_MAX = 5


class Spread(msgspec.Struct, frozen=True):
    """Percentiles in seconds, None without a value."""

    p50: float | None
    p95: float | None
    p99: float | None


class Line(msgspec.Struct, frozen=True):
    """Requests of one class that one source served. ``share`` of all requests of the class; USD as the gateway told."""

    source: str
    service_class: str
    requests: int
    share: float
    ttft_s: Spread
    tpot_s: Spread
    e2e_s: Spread
    usd: float


def spread(values: Sequence[float | None]) -> Spread:
    """Percentiles of those that are there."""
    known = [value for value in values if value is not None]
    if not known:
        return Spread(None, None, None)
    return Spread(*(float(value) for value in np.quantile(known, (0.5, 0.95, 0.99))))


def lines(rows: Sequence[Row]) -> list[Line]:
    """By class and source; requests without a whole answer come last, as those of no source."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.service_class, row.source if row.served else NONE), []).append(row)
    of_class = Counter(row.service_class for row in rows)
    order = sorted(groups, key=lambda key: (key[0], key[1] == NONE, key[1] == API, key[1]))
    return [line(groups[key], key[1], key[0], of_class[key[0]]) for key in order]


def line(rows: Sequence[Row], source: str, service_class: str, requests_in_all: int) -> Line:
    """Figures of ``rows``."""
    return Line(
        source,
        service_class,
        len(rows),
        len(rows) / max(1, requests_in_all),
        spread([row.ttft_s for row in rows if row.served]),
        spread([row.tpot_s for row in rows]),
        spread([row.e2e_s for row in rows]),
        sum(row.usd for row in rows),
    )


def burst_share(rows: Sequence[Row]) -> float:
    """Of the requests that were served, the part that a provider served."""
    served = [row for row in rows if row.served]
    return sum(row.source == API for row in served) / max(1, len(served))


def sentence(played: Played) -> str:
    """The replay in one sentence."""
    rows, plan = played.rows, played.plan
    served, cut = sum(row.served for row in rows), sum(row.problem == STOPPED for row in rows)
    left = f", {cut:,} were cut off by the end" if cut else ""
    return (
        f"{len(rows):,} of {len(plan.requests):,} requests sent in {played.seconds:,.0f} s, {served:,} answered, "
        f"{100.0 * burst_share(rows):.1f} % of these by APIs (burst), "
        f"{len(rows) - served - cut:,} failed{left}; ${played.usd:.6f}."
    )


def warnings(played: Played) -> list[str]:
    """Everything that makes the figures less than they look."""
    rows, told = played.rows, []
    if played.partial:
        told.append(f"PARTIAL: {played.partial}; only what is shown was seen")
    problems = Counter(row.problem for row in rows if row.problem not in ("", STOPPED))
    told += [f"{count:,} request(s) failed: {problem}" for problem, count in problems.most_common(_PROBLEMS_MAX)]
    late_s = float(np.quantile([row.sent_s - row.planned_s for row in rows], 0.99)) if rows else 0.0
    if late_s > _LATE_S:
        told.append(
            f"one request in a hundred left {late_s * 1e3:,.0f} ms late or more (this machine was busy, or "
            "--concurrency-max in flight); that is part of their times"
        )
    served = [row for row in rows if row.served]
    for what, got, wanted in (
        ("prompts", sum(r.input_tokens for r in served), sum(r.input_tokens_wanted for r in served)),
        ("answers", sum(r.output_tokens for r in served), sum(r.output_tokens_wanted for r in served)),
    ):
        if wanted and abs(got / wanted - 1.0) > _TOKENS_OFF:
            told.append(f"{what} came to {got / wanted:.2f} times the wanted tokens, as the sources count them")
    return told


def document(played: Played) -> dict[str, object]:
    """The result for programs; seconds, tokens, USD."""
    rows = played.rows
    return {
        "object": "replay",
        "partial": played.partial or None,
        "requests_planned": len(played.plan.requests),
        "requests_sent": len(rows),
        "requests_served": sum(row.served for row in rows),
        "requests_failed": sum(not row.served for row in rows),
        "burst_share": burst_share(rows),
        "usd": played.usd,
        "seconds": played.seconds,
        "input_tokens": sum(row.input_tokens for row in rows),
        "output_tokens": sum(row.output_tokens for row in rows),
        "lines": lines(rows),
        "problems": Counter(row.problem for row in rows if row.problem),
        "warnings": warnings(played),
    }


def write_csv(rows: Sequence[Row], file: IO[str]) -> None:
    """One line a request, in the order of the trace; empty where there is no value. Seconds, tokens, USD."""
    writer = csv.writer(file)
    writer.writerow(Row._fields)
    for row in rows:
        writer.writerow([f"{cell:.9g}" if isinstance(cell, float) else cell for cell in row])
