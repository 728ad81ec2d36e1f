"""Tables of the ledger, the same on SQLite and PostgreSQL. Units: USD, seconds, tokens; instants are Unix seconds."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Double,
    Index,
    MetaData,
    String,
    Table,
    case,
    false,
    text,
)

metadata = MetaData()


def _text(name: str, default: str = "", **options: Any) -> Column[str]:
    return Column(name, String, nullable=False, server_default=default, **options)


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


def _number(name: str) -> Column[float]:
    return Column(name, Double, nullable=False, server_default=text("0"))


def _maybe(name: str) -> Column[float]:
    return Column(name, Double, nullable=True)


def _key(name: str) -> Column[Any]:
    return Column(name, String, primary_key=True)


OPEN = "open"  # begun, and its writer lives
INTERRUPTED = "interrupted"  # its writer is gone (or said so itself): the estimate stands as usd_avoidable
_IS_OPEN = text(f"status = '{OPEN}'")  # few rows are open at any time: a partial index stays small

# One row per request. A field is at its default until the record that carries it was loaded.
requests = Table(
    "requests",
    metadata,
    _key("id"),
    _text("status", OPEN),
    Column("at_s", Double, nullable=False),  # begin; the end's instant for as long as only the end is known
    Column("hour_s", BigInteger, nullable=False),  # at_s, down to the full hour (UTC)
    _text("incarnation"),  # which process began it: see segments.py
    # from Begin
    _maybe("begun_s"),
    _text("writer"),
    _text("tenant"),
    _text("service_class"),
    _text("model_requested"),
    _text("session"),
    Column("zones", JSON, nullable=False, server_default="[]"),
    Column("labels", JSON, nullable=False, server_default="[]"),
    Column("stream", Boolean, nullable=False, server_default=false()),
    _count("market_version"),
    _number("difficulty"),
    _count("input_tokens_estimate"),
    _count("cached_tokens_estimate"),
    _count("output_tokens_estimate"),
    _number("usd_avoidable_estimate"),  # cash terms of the first quote
    # Lists of records.QuoteLine (first: the offer that was asked first), RejectionLine and (from End) AttemptLine. In the
    # row and not in tables of their own: read one request at a time, they would triple the work of loading.
    Column("merit_order", JSON, nullable=False, server_default="[]"),
    Column("rejected", JSON, nullable=False, server_default="[]"),
    Column("attempts", JSON, nullable=False, server_default="[]"),
    # from End
    _maybe("ended_s"),
    _count("http_status"),
    _text("reason"),
    _text("offer_id"),
    _text("source"),
    _text("model"),
    _count("input_tokens"),
    _count("cached_tokens"),
    _count("output_tokens"),
    _number("usd_avoidable"),
    _number("usd_fixed_share"),
    _number("usd_counterfactual"),
    _maybe("ttft_s"),
    _maybe("duration_s"),
    Index("requests_at_s", "at_s"),
    Index("requests_open", "incarnation", sqlite_where=_IS_OPEN, postgresql_where=_IS_OPEN),
)

# How far each journal file is loaded; committed together with the rows it gave.
journal_files = Table(
    "journal_files",
    metadata,
    _key("name"),
    _count("offset_bytes"),
    _count("torn_bytes"),  # length of an unfinished last line already counted as torn
)


def usd_committed() -> ColumnElement[float]:
    """Avoidable USD of a row for a budget: what was spent, or for an open request what it is expected to spend."""
    return case((requests.c.status == OPEN, requests.c.usd_avoidable_estimate), else_=requests.c.usd_avoidable)
