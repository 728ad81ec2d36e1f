"""A table of text, for terminal and page alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Column(NamedTuple):
    """``rank`` 0 is always shown; where the width does not suffice the highest ranks go first, ``aside`` to lines below."""

    name: str
    rank: int = 0
    right: bool = True
    aside: bool = False


class Table(NamedTuple):
    """``rows`` hold one text per column. ``empty`` is what to say instead of a table without rows."""

    title: str
    columns: tuple[Column, ...]
    rows: Sequence[tuple[str, ...]]
    empty: str = ""


def left(name: str, rank: int = 0, aside: bool = False) -> Column:
    """A column of words."""
    return Column(name, rank, right=False, aside=aside)
