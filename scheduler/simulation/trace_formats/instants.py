"""Dates and times of traces as Unix seconds."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from pathlib import Path

from scheduler.simulation.trace_formats.azure import AZURE
from scheduler.simulation.trace_formats.csv_file import opened


def unix_s(text: str) -> float:
    """Unix seconds of an ISO 8601 date and time, UTC where it names no offset. Raises ValueError for anything else."""
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


def first_row_s(path: Path) -> float | None:
    """Unix seconds of the first row of a CSV file of Azure's; None for other families, which have no date.

    Where rows are out of order that need not be the earliest. Raises TraceError for what cannot be read.
    """
    with opened(path) as (stream, _):
        rows = csv.DictReader(io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline=""))
        if not AZURE.columns.keys() <= set(rows.fieldnames or ()):
            return None
        text = next(rows, {}).get("TIMESTAMP") or ""
    try:
        return unix_s(text.strip())
    except ValueError:
        return None
