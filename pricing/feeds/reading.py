"""What feeds share when they read an answer: typed decoding, numbers and instants. Every source is hostile here."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypeVar

import msgspec

from pricing.feeds import FeedChanged, FeedError

T = TypeVar("T")
TEXT_MAX = 160


def decode(body: bytes, type: type[T]) -> T:
    """``body`` (JSON) as ``type``; fields that ``type`` does not name are passed over. Raises FeedChanged naming the path."""
    try:
        return msgspec.json.decode(body, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FeedChanged(plain(str(error), TEXT_MAX)) from None


def number(value: object) -> float | None:
    """A finite number from a number or its decimal text; None for anything else (never a default, never NaN)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and (len(value) > 64 or "_" in value):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def instant(text: object) -> float | None:
    """Unix seconds of an ISO 8601 instant or date; UTC where it names no zone. None for anything else."""
    if not isinstance(text, str) or len(text) > 64:
        return None
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def plain(text: str, length_max: int = 80) -> str:
    """``text`` of a stranger made fit for a log: printable, on one line, cut."""
    shown = "".join(c if c.isprintable() else " " for c in text[: length_max + 1])
    return shown if len(shown) <= length_max else shown[: length_max - 1] + "…"


def readable(found: Sequence[T], problems: Sequence[str]) -> Sequence[T]:
    """What was ``found``, unless more entries than that could not be read: then the source's shape has changed.

    ``problems``: one text an unreadable entry, with its path. Raises FeedChanged naming the first.
    """
    if len(problems) > len(found):
        total = len(problems) + len(found)
        raise FeedChanged(f"{len(problems)} of {total} entries cannot be read, first {plain(problems[0], TEXT_MAX)}")
    return found


def from_environment(name: str) -> str:
    """The secret in the environment variable ``name``, which is all that options may say of it. Raises FeedError."""
    value = os.environ.get(name, "").strip()
    if not value:
        raise FeedError(f"the environment variable {plain(name)} is not set")
    return value
