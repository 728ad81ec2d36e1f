"""The ledger as tables for people. Every heading says whether its money is avoidable or amortized."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from serving.ledger.report import By, Total, usd_text


def print_totals(by: By, lines: list[Total]) -> None:
    """Print one line per total."""
    columns: list[tuple[str, Callable[[Total], str]]] = [
        ("requests", lambda line: f"{line.requests:,}"),
        ("complete", lambda line: f"{line.complete:,}"),
        ("failed", lambda line: f"{line.failed + line.cancelled + line.unserved:,}"),
        ("inter-\nrupted", lambda line: f"{line.interrupted:,}"),
        ("input\ntokens", lambda line: f"{line.input_tokens:,}"),
        ("output\ntokens", lambda line: f"{line.output_tokens:,}"),
        ("avoidable", lambda line: usd_text(line.usd_avoidable)),
        ("cheapest\nalternative", lambda line: usd_text(line.usd_counterfactual)),
        ("saved", lambda line: usd_text(line.savings_usd)),
        ("amortized\n(fixed share)", lambda line: usd_text(line.usd_fixed_share)),
    ]
    table = _table(by, *(name for name, _ in columns))
    for line in lines:
        key = line.key or ("(not served)" if by in ("model", "source") else "(unknown)")
        if by == "hour":
            key = f"{datetime.fromtimestamp(int(line.key), UTC):%Y-%m-%d %H:00Z}"
        table.add_row(*_cells(key, *(text(line) for _, text in columns)))
    _print(table)


def print_decision(decision: dict[str, Any]) -> None:
    """Print one decision: its fields, then a table per list. Zero and empty fields are left out."""
    lists = {name: decision.pop(name) for name in ("merit_order", "rejected", "attempts")}
    fields = _table("field", "value")
    for name, value in decision.items():
        if value in (None, "", 0, []) or name in ("at_s", "hour_s"):  # both follow from begun_s
            continue
        text = usd_text(value) if name.startswith("usd_") else f"{value}"
        if name in ("begun_s", "ended_s"):
            text = f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S.%f}Z"
        elif isinstance(value, list):
            text = ", ".join(value)
        fields.add_row(*_cells(name, text))
    _print(fields)
    terms = list(dict.fromkeys(name for quote in lists["merit_order"] for name in quote["terms"]))
    merit_order = _table("merit order", "total", *terms)
    for quote in lists["merit_order"]:
        shares = (usd_text(quote["terms"][name]) if name in quote["terms"] else "" for name in terms)
        merit_order.add_row(*_cells(quote["offer_id"], usd_text(quote["usd"]), *shares))
    rejected = _table("rejected", "reason")
    for rejection in lists["rejected"]:
        rejected.add_row(*_cells(rejection["offer_id"], rejection["reason"]))
    attempts = _table("attempt", "status", "HTTP", "first token", "duration", "avoidable", "tokens in/out", "error")
    for line in lists["attempts"]:
        ttft = "-" if line["ttft_s"] is None else f"{line['ttft_s']:.3f} s"
        tokens = f"{line['input_tokens']:,}/{line['output_tokens']:,}"
        money = usd_text(line["usd_avoidable"])
        timing = (ttft, f"{line['duration_s']:.3f} s")
        attempts.add_row(
            *_cells(line["offer_id"], line["status"], str(line["http_status"]), *timing, money, tokens, line["error"])
        )
    for table in (merit_order, rejected, attempts):
        if table.row_count:
            _print(table)


def _table(first: str, *others: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right" if len(others) > 1 else "left", overflow="fold")
    return table


def _cells(*texts: str) -> list[Any]:
    """Plain cells: what a client sent as a name is neither markup nor a terminal's control sequence."""
    return [Text("".join(letter if letter.isprintable() else "�" for letter in text)) for text in texts]


def _print(table: Table) -> None:
    """Print at the terminal's width; into a file or pipe, as wide as the table wants to be."""
    width = None if sys.stdout.isatty() else 240
    Console(width=width, file=sys.stdout).print(table)
