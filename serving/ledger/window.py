"""The part of the ledger that a trace is made of: what is in it, what is not, and sizes for what says nothing of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from sqlalchemy import ColumnElement, Connection, and_, case, func, not_, select

from serving.ledger.schema import requests
from serving.ledger.store import Store
from serving.report.words import count

SPAN_S_MAX = 52 * 7 * 86_400.0  # what is played must not be longer than a year
SIZES = ("input_tokens", "output_tokens", "input_tokens_estimate", "output_tokens_estimate")

_NAMELESS = requests.c.begun_s.is_(None)
# A source's verdict on the request itself: nobody would have worked on it.
_FAULTY = and_(requests.c.status == "failed", requests.c.http_status.in_((400, 413, 415, 422)))
_UNSIZED = and_(*(requests.c[name] == 0 for name in SIZES))

# Mean input and output tokens by (tenant, service class, model), and by () of everything.
Sizes = Mapping[tuple[str, ...], tuple[float, float]]


class LedgerTraceError(ValueError):
    """The ledger cannot be planned with; says which, and why."""


class Window(NamedTuple):
    """What is read: a condition, how many rows meet it, sizes for those that say nothing of theirs, and what was left out."""

    within: ColumnElement[bool]
    rows: int
    sizes: Sizes
    notes: tuple[str, ...]


def window(store: Store, since_s: float, until_s: float) -> Window:
    """Requests that arrived in [since_s, until_s), Unix seconds, the last 52 weeks at most.

    Raises LedgerTraceError where there is none, StoreError for the database.
    """
    # Infinity is no number in SQL on every database: an unset bound is left out.
    until = requests.c.at_s < until_s if until_s < math.inf else and_(True)
    within = and_(requests.c.at_s >= max(0.0, since_s), until)
    notes: list[str] = []
    sizes: Sizes = {}
    with store.reading() as connection:
        ends = select(func.min(requests.c.at_s), func.max(requests.c.at_s))
        first_s, last_s = connection.execute(ends.where(within)).one()
        if first_s is None:
            raise LedgerTraceError(f"{store.name}: no request in it arrived in the time asked for")
        if last_s - first_s > SPAN_S_MAX:
            within = and_(requests.c.at_s > last_s - SPAN_S_MAX, until)
            notes.append(
                f"of {(last_s - first_s) / 86_400.0:,.0f} days only the last {SPAN_S_MAX / 86_400.0:.0f} are taken"
            )
        counts = (func.count(), *(func.count(case((condition, 1))) for condition in (_NAMELESS, _FAULTY, _UNSIZED)))
        rows, nameless, faulty, unsized = map(int, connection.execute(select(*counts).where(within)).one())
        if nameless:
            notes.append(
                f"left out: {count(nameless, 'request')}, of which only the end is in the ledger, not whose it was"
            )
        if faulty:
            notes.append(
                f"left out: {count(faulty, 'request')} that a source refused as faulty (HTTP 400 and the like)"
            )
        within = and_(within, not_(_NAMELESS), not_(_FAULTY))
        if unsized:
            sizes = _mean_sizes(connection, within)
        if unsized and not sizes:
            notes.append(f"left out: {count(unsized, 'request')} of unknown length")
            within = and_(within, not_(_UNSIZED))
    return Window(within, max(1, rows - nameless - faulty), sizes, tuple(notes))


def _mean_sizes(connection: Connection, within: ColumnElement[bool]) -> Sizes:
    kind = (requests.c.tenant, requests.c.service_class, requests.c.model_requested)
    sums = (func.count(), func.sum(requests.c.input_tokens), func.sum(requests.c.output_tokens))
    query = select(*kind, *sums).where(within, requests.c.status == "complete", not_(_UNSIZED)).group_by(*kind)
    # PostgreSQL sums integers to Decimal.
    totals = {tuple(row[:3]): np.array([float(value) for value in row[3:]]) for row in connection.execute(query)}
    if totals:
        totals[()] = np.sum(list(totals.values()), axis=0)
    return {name: (inputs / answered, outputs / answered) for name, (answered, inputs, outputs) in totals.items()}
