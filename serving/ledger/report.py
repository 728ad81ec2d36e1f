"""Totals and exports of the ledger. Avoidable money and the amortized hardware share are never added up."""

from __future__ import annotations

import csv
import json
import math
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from sqlalchemy import ColumnElement, RowMapping, String, and_, case, cast, func, select

from serving.ledger.schema import requests
from serving.ledger.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

By = Literal["tenant", "model", "source", "hour"]
Format = Literal["csv", "parquet"]
WriteRows = Callable[[Sequence[RowMapping]], None]

_KEYS: dict[str, ColumnElement[Any]] = {
    "tenant": requests.c.tenant,
    "model": requests.c.model,
    "source": requests.c.source,
    "hour": cast(requests.c.hour_s, String),
}
_ROWS_PER_BATCH = 5_000


# An export is one flat row per request; a whole decision, list by list, is what `baseload ledger show` is for.
_EXPORTED = [column for column in requests.columns if column.name not in ("merit_order", "rejected", "attempts")]


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over the requests of one key. ``key`` is a Unix second (as text) by hour, and "" where nothing served.

    ``requests`` = complete + failed + cancelled + unserved + interrupted + open. Open ones count no money yet,
    interrupted ones their estimate. ``savings_usd`` = ``usd_counterfactual`` − ``usd_avoidable``: against the cheapest
    alternative, so failed and interrupted requests count as losses.
    """

    key: str
    requests: int
    complete: int
    failed: int
    cancelled: int
    unserved: int
    interrupted: int
    open: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    usd_avoidable: float
    usd_fixed_share: float
    usd_counterfactual: float
    savings_usd: float


def totals(store: Store, by: By, since_s: float = 0.0, until_s: float = math.inf) -> list[Total]:
    """Totals of requests begun in [since_s, until_s), by key: hours in order of time, others dearest first.

    Raises ``ValueError`` for an unknown ``by``, ``StoreError`` for the database.
    """
    if by not in _KEYS:
        raise ValueError(f"by {by!r} is none of {', '.join(_KEYS)}")
    key = _KEYS[by].label("key")
    states = ("complete", "failed", "cancelled", "unserved", "interrupted", "open")
    sums = ("input_tokens", "cached_tokens", "output_tokens", "usd_avoidable", "usd_fixed_share", "usd_counterfactual")
    query = (
        select(
            key,
            func.count().label("requests"),
            *(func.sum(case((requests.c.status == state, 1), else_=0)).label(state) for state in states),
            *(func.sum(requests.c[name]).label(name) for name in sums),
        )
        .where(_within(since_s, until_s))
        .group_by(_KEYS[by])
        .order_by(key if by == "hour" else func.sum(requests.c.usd_avoidable).desc(), key)
    )
    with store.reading() as connection:
        return [_total(row) for row in connection.execute(query).mappings()]


def summary(store: Store, since_s: float = 0.0, until_s: float = math.inf) -> str:
    """One sentence on what happened, that says which money is meant."""
    by_source = totals(store, "source", since_s, until_s)
    count = sum(total.requests for total in by_source)
    if not count:
        return "No requests."
    base = sum(total.requests for total in by_source if total.key == "base")
    savings_usd = sum(total.savings_usd for total in by_source)
    text = (
        f"{base:,} of {count:,} requests ran on base load; "
        f"avoidable {usd_text(sum(total.usd_avoidable for total in by_source))}, "
        f"{usd_text(abs(savings_usd))} {'more' if savings_usd < 0 else 'less'} than the cheapest alternative. "
        f"Amortized hardware share ({usd_text(sum(total.usd_fixed_share for total in by_source))}) is shown apart."
    )
    if interrupted := sum(total.interrupted for total in by_source):
        text += f" {interrupted:,} interrupted, at their estimate."
    if still_open := sum(total.open for total in by_source):
        text += f" {still_open:,} still open, not in the sums."
    return text


def usd_text(usd: float) -> str:
    """Dollars with four decimals, and as many more as it takes to show two digits of a tiny sum."""
    if usd == 0.0:
        return "$0"
    if abs(usd) >= 0.001:
        return f"{'-' if usd < 0 else ''}${abs(usd):,.4f}"
    return f"{'-' if usd < 0 else ''}${abs(usd):.{min(12, 1 - math.floor(math.log10(abs(usd))))}f}"


def export_requests(
    store: Store,
    path: Path,
    file_format: Format,
    since_s: float = 0.0,
    until_s: float = math.inf,
    rows_per_batch: int = _ROWS_PER_BATCH,
) -> int:
    """Write one row per request, oldest first, to ``path`` as CSV or Parquet; return the number of rows.

    Streams ``rows_per_batch`` rows at a time. ``path`` appears complete or not at all (a temporary file beside it is
    renamed). Raises ``OSError`` for the file, ``StoreError`` for the database.
    """
    query = select(*_EXPORTED).where(_within(since_s, until_s)).order_by(requests.c.at_s, requests.c.id)
    writer = _csv_writer if file_format == "csv" else _parquet_writer
    rows = 0
    with (
        _replacing(path) as temporary,
        writer(temporary) as write,
        closing(store.stream(query, rows_per_batch)) as parts,
    ):
        for part in parts:
            write(part)
            rows += len(part)
    return rows


def _within(since_s: float, until_s: float) -> ColumnElement[bool]:
    # Infinity is no number in SQL on every database: an unset bound is left out.
    since = [requests.c.at_s >= since_s] if since_s > 0.0 else []
    until = [requests.c.at_s < until_s] if until_s < math.inf else []
    return and_(True, *since, *until)


def _total(row: RowMapping) -> Total:
    # PostgreSQL sums integers to Decimal.
    fields: dict[str, Any] = {
        name: float(value) if name.startswith("usd_") else int(value) for name, value in row.items() if name != "key"
    }
    return Total(key=row["key"], savings_usd=fields["usd_counterfactual"] - fields["usd_avoidable"], **fields)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` that takes its place if the block succeeds, and is removed if it does not."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _csv_writer(path: Path) -> Iterator[WriteRows]:
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow([column.name for column in _EXPORTED])

        def write(rows: Sequence[RowMapping]) -> None:
            for row in rows:
                lines.writerow(json.dumps(value) if isinstance(value, list) else value for value in row.values())

        yield write


@contextmanager
def _parquet_writer(path: Path) -> Iterator[WriteRows]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([pa.field(column.name, _arrow_type(column.type), column.nullable) for column in _EXPORTED])
    with pq.ParquetWriter(path, schema, compression="zstd") as file:

        def write(rows: Sequence[RowMapping]) -> None:
            file.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema))

        yield write


def _arrow_type(column_type: Any) -> pa.DataType:
    import pyarrow as pa

    return {
        "BigInteger": pa.int64(),
        "Boolean": pa.bool_(),
        "Double": pa.float64(),
        "JSON": pa.list_(pa.string()),  # zones and labels
        "String": pa.string(),
    }[type(column_type).__name__]
