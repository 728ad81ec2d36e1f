"""What feeds share when they read an answer: typed decoding, numbers and instants. Every source is hostile here."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from pricing.feeds import FeedChanged, FeedError

T = TypeVar("T")
TEXT_MAX = 160
ENTRIES_MAX = 20_000  # litellm's map, the longest list that is read, has 4,000
ENTRY_BYTES_MAX = 65_536  # litellm's longest is 12 kB
SERIES_BYTES_MAX = 4 * 1024 * 1024
TIERS_MAX = 32
WINDOWS_MAX = 100
# Values and keys of a document, at 50 to 200 bytes of memory each. litellm's map has 70,000.
_VALUES_MAX = 300_000
_PROBLEMS_KEPT = 3

# Entries are decoded one by one, so that a bad one does not spoil the others, and dropped before the next.
Entries = Annotated[list[msgspec.Raw], Meta(max_length=ENTRIES_MAX)]


class Problems:
    """What could not be read: how much of it, and the first few in words."""

    def __init__(self) -> None:
        self._count = 0
        self.first: list[str] = []
        self.last = ""

    def __len__(self) -> int:
        return self._count

    def append(self, text: str) -> None:
        """``text``: path, then reason."""
        self._count += 1
        self.last = plain(text, TEXT_MAX)
        if len(self.first) < _PROBLEMS_KEPT:
            self.first.append(self.last)


def decode(body: bytes, type: type[T]) -> T:
    """``body`` (JSON) as ``type``; fields that ``type`` does not name are passed over. Raises FeedChanged naming the path."""
    # msgspec builds a whole list before it looks at its length: a few MB of zeros would become hundreds in memory.
    values = sum(body.count(mark) for mark in (b",", b"[", b"{"))
    if values > _VALUES_MAX:
        raise FeedChanged(f"a document of {values} values, more than {_VALUES_MAX}")
    return _decoded(body, type)


def decode_entry(raw: msgspec.Raw, type: type[T]) -> T:
    """One entry of a list, not decoded so far, as ``type``. Raises FeedChanged naming the path."""
    size = memoryview(raw).nbytes
    if size > ENTRY_BYTES_MAX:
        raise FeedChanged(f"{size} bytes, more than {ENTRY_BYTES_MAX}")
    return _decoded(raw, type)


def _decoded(body: bytes | msgspec.Raw, type: type[T]) -> T:
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


def readable(found: Sequence[T], problems: Problems) -> Sequence[T]:
    """What was ``found``, unless more entries than that could not be read: then the source's shape has changed.

    Raises FeedChanged naming the first problem.
    """
    if len(problems) > len(found):
        total = len(problems) + len(found)
        raise FeedChanged(f"{len(problems)} of {total} entries cannot be read, first {problems.first[0]}")
    return found


def from_environment(name: str) -> str:
    """The secret in the environment variable ``name``, which is all that options may say of it. Raises FeedError."""
    value = os.environ.get(name, "").strip()
    if not value:
        raise FeedError(f"the environment variable {plain(name)} is not set")
    return value
