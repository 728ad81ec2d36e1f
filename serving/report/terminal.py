"""Tables on a terminal, however narrow; into a file or pipe, at full width."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from serving.report.tables import Column, Table
from serving.report.words import count, listed

_PIPE_COLUMNS = 240
_FOLD_CELLS = 26
_GAP_CELLS = 2


def output() -> Console:
    """Standard output."""
    return Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS, file=sys.stdout)


def show(console: Console, table: Table, rows_max: int) -> None:
    """Print title and table; what there is no room for is named below."""
    rows = table.rows[:rows_max]
    filled = [c for i, c in enumerate(table.columns) if not c.rank or any(row[i] not in ("", "-") for row in rows)]
    chosen = _fitting(console.width, table.columns, filled, rows)
    console.print()
    console.print(Text(table.title, style="bold"))
    console.print(_grid(table.columns, chosen, rows))
    dropped = [column for column in filled if column not in chosen]
    for place, column in enumerate(table.columns):
        if column.aside and column in dropped:
            for row in rows:
                if row[place]:
                    console.print(Text(f"{row[0]}: {row[place]}"))
    names = [column.name for column in dropped if column.name and not column.aside]
    if names:
        console.print(Text(f"Too narrow here for: {listed(names)}."))
    if len(table.rows) > rows_max:
        console.print(Text(f"{count(len(table.rows) - rows_max, 'more row')} not shown; --json has them all."))


def _fitting(
    width: int, columns: tuple[Column, ...], filled: list[Column], rows: Sequence[tuple[str, ...]]
) -> list[Column]:
    """The columns for which there is room, the least important left out first; long words may fold, numbers not."""
    wanted: dict[Column, int] = {}
    for place, column in enumerate(columns):
        cells = max((cell_len(row[place]) for row in rows), default=0)
        widest = max(cells, cell_len(column.name))
        wanted[column] = widest if column.right else min(widest, _FOLD_CELLS)
    chosen = list(filled)
    while sum(wanted[column] + _GAP_CELLS for column in chosen) - _GAP_CELLS > width:
        rank = max(column.rank for column in chosen)
        if not rank:
            break
        chosen.remove(next(column for column in reversed(chosen) if column.rank == rank))
    return chosen


def _grid(columns: tuple[Column, ...], chosen: list[Column], rows: Sequence[tuple[str, ...]]) -> RichTable:
    grid = RichTable(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in chosen:
        # A number broken over two lines is another number: only words are folded.
        grid.add_column(
            Text(column.name), justify="right" if column.right else "left", no_wrap=column.right, overflow="fold"
        )
    places = [columns.index(column) for column in chosen]
    for row in rows:
        grid.add_row(*(Text(row[place]) for place in places))
    return grid
