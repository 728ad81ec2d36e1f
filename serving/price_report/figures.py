"""The five figures of the page, each with its finding, its alternative text and the table behind it.

A figure without data has no drawing: its finding says what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure as Canvas

from pricing.report import LocalCost, PriceReport
from serving.price_report import drawing, findings, tables
from serving.price_report.cost_figures import draw_merit_order, draw_stack, merit_rows
from serving.price_report.drawing import LINES_MAX
from serving.price_report.history import Mark, PriceHistoryView, Series, Summary, bounded, summary
from serving.report.drawing import svg
from serving.report.page import Figure
from serving.report.tables import Column, Table, left
from serving.report.words import age, count, instant, listed, number, percent, plain

_MARK_ROWS_MAX = 60


def all_of(report: PriceReport, history: PriceHistoryView) -> list[Figure]:
    """Every figure, in the page's order."""
    return [
        _lines("prices", "Prices over time", history.offers, history.marks, report.as_of_s, "offer"),
        _stack(report.local),
        _merit(report),
        _grid(history, report.as_of_s),
        _lines("rents", "GPU rents over time", history.rents, (), report.as_of_s, "rent"),
    ]


def _lines(name: str, title: str, series: Sequence[Series], found: Sequence[Mark], until_s: float, what: str) -> Figure:
    summaries = [known for one in series if (known := summary(one, until_s)) is not None]
    finding = findings.of_prices(summaries, until_s, what)
    shown, finding = _shown(series, summaries, finding)
    if not shown:
        return Figure(name, title, finding, None, ())
    start_s = min(line.points[0][0] for line in shown)
    groups = drawing.grouped(found, start_s, until_s)

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        canvas.subplots_adjust(
            left=0.075, right=drawing.room_right(shown, until_s), top=1 - 0.25 / height_in, bottom=0.3 / height_in
        )
        axes.set_xlim(*_days(start_s, until_s))
        drawing.steps(axes, shown, until_s, until_s)
        axes.set_ylabel(shown[0].unit)
        drawing.marks(axes, groups)

    height_in = max(3.4, 0.8 + 0.165 * len(shown))
    picture = svg(name, f"Step lines: {title.lower()}. {finding}", height_in, draw)
    behind = [_history_table(f"{title}: the figures behind the lines", summaries)]
    if groups:
        behind.append(_marks_table(groups))
    return Figure(name, title, finding, picture, tuple(behind))


def _shown(series: Sequence[Series], summaries: Sequence[Summary], finding: str) -> tuple[list[Series], str]:
    """The lines to draw, the cheapest first; the rest is named in the finding."""
    order = {known.name: known.mean for known in summaries}
    usable = sorted((one for one in series if one.name in order), key=lambda one: order[one.name])
    lines = [bounded(one) for one in usable[:LINES_MAX]]
    rest = usable[LINES_MAX:]
    if rest:
        finding += f" Drawn are the {LINES_MAX} cheapest; not drawn: {listed(one.name for one in rest)}."
    return [line for line in lines if any(value is not None for _, value in line.points)], finding


def _days(start_s: float, until_s: float) -> tuple[float, float]:
    pad_s = 3600.0 if until_s - start_s < 3600.0 else 0.0
    return (start_s - pad_s) / 86_400.0, max(until_s, start_s) / 86_400.0


def _grid(history: PriceHistoryView, as_of_s: float) -> Figure:
    name, title = "grid", "Power and carbon over time"
    panels = []
    found: list[list[Summary]] = []
    for series in (history.power, history.carbon):
        ends_s = max([as_of_s, *(at_s for one in series for at_s, _ in bounded(one).points)])
        found.append([known for one in series if (known := summary(one, ends_s)) is not None])
        lines, _ = _shown(series, found[-1], "")
        if lines:
            panels.append((lines, ends_s))
    finding = findings.of_grid(*found)
    drawn = sum(len(lines) for lines, _ in panels)
    if drawn < sum(len(known) for known in found):
        finding += f" Drawn are {drawn} of {count(sum(len(known) for known in found), 'series', 'series')}."
    if not panels:
        return Figure(name, title, finding, None, ())
    start_s = min(line.points[0][0] for lines, _ in panels for line in lines)
    until_s = max(ends_s for _, ends_s in panels)
    height_in = sum(max(2.1, 0.8 + 0.165 * len(lines)) for lines, _ in panels) + 0.3

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        right = min(drawing.room_right(lines, as_of_s) for lines, _ in panels)
        canvas.subplots_adjust(left=0.075, right=right, top=1 - 0.25 / height_in, bottom=0.3 / height_in, hspace=0.15)
        axes[0].set_xlim(*_days(start_s, until_s))
        for panel, (lines, _) in zip(axes, panels, strict=True):
            drawing.steps(panel, lines, until_s, as_of_s)
            panel.set_ylabel(lines[0].unit)
            if until_s > as_of_s:
                panel.axvline(as_of_s / 86_400.0, color="#000000", linewidth=0.8, linestyle=(0, (4, 3)))
        if until_s > as_of_s:
            axes[0].text(
                as_of_s / 86_400.0, 1.01, "now", transform=axes[0].get_xaxis_transform(), ha="center", fontsize=7.5
            )

    picture = svg(name, f"Step lines: {title.lower()}. {finding}", height_in, draw)
    return Figure(name, title, finding, picture, (_history_table(f"{title}: the figures", [*found[0], *found[1]]),))


def _stack(local: Sequence[LocalCost]) -> Figure:
    name, title = "stack", "What a GPU-hour of ours is made of"
    finding = findings.of_stack(local)
    if not local:
        return Figure(name, title, finding, None, ())
    shown = sorted(local, key=lambda cost: -sum(cost.usd_per_gpu_hour.values()))[:LINES_MAX]
    if len(shown) < len(local):
        finding += f" Drawn are the {LINES_MAX} dearest of {count(len(local), 'pool')}."
    height_in = 1.2 + 0.34 * len(shown)
    picture = svg(
        name, f"Stacked bars, one a pool. {finding}", height_in, lambda canvas: draw_stack(canvas, shown, height_in)
    )
    return Figure(name, title, finding, picture, (tables.stack(local),))


def _merit(report: PriceReport) -> Figure:
    name, title = "merit", "Merit order: ours on each basis, beside what could be bought"
    finding = findings.of_bases(report)
    rows = merit_rows(report)
    if not rows:
        return Figure(name, title, finding, None, ())
    if len(rows) > LINES_MAX:
        finding += f" Drawn are the {LINES_MAX} cheapest; not drawn: {listed(row.name for row in rows[LINES_MAX:])}."
    shown = rows[:LINES_MAX]
    height_in = 1.15 + 0.27 * len(shown)
    alt = f"Points on a line for each offer, the cheapest at the top. {finding}"
    picture = svg(name, alt, height_in, lambda canvas: draw_merit_order(canvas, shown, height_in))
    columns = (left("offer"), left("basis"), Column("blended USD/Mtok"))
    behind = [(plain(row.name), basis, number(usd)) for row in rows for basis, usd in row.usd.items()]
    return Figure(name, title, finding, picture, (Table("The points of the figure", columns, behind),))


def _history_table(title: str, summaries: Sequence[Summary]) -> Table:
    columns = (
        left("name"),
        left("unit"),
        left("since (UTC)"),
        *(Column(name) for name in ("first", "last", "lowest", "highest", "mean", "changes")),
        left("largest change"),
        Column("without a price"),
    )
    rows = []
    for known in summaries:
        values = [number(value) for value in (known.first, known.last, known.low, known.high, known.mean)]
        change = (f"{known.changes:,}", _change(known), age(known.gap_s) if known.gap_s else "-")
        rows.append((plain(known.name), plain(known.unit), instant(known.start_s), *values, *change))
    return Table(title, columns, rows)


def _change(known: Summary) -> str:
    change = known.largest
    if change is None:
        return "-"
    share = f" ({percent(change.after / change.before - 1.0)})" if change.before > 0 else ""
    return f"{instant(change.at_s)} {number(change.before)} to {number(change.after)}{share}"


def _marks_table(groups: Sequence[Sequence[Mark]]) -> Table:
    rows = [(str(i), instant(mark.at_s), plain(mark.text)) for i, group in enumerate(groups, 1) for mark in group]
    rest = len(rows) - _MARK_ROWS_MAX
    if rest > 0:
        rows = [*rows[:_MARK_ROWS_MAX], ("", "", f"and {rest:,} more")]
    return Table("What happened at the numbered lines", (Column("number"), left("at (UTC)"), left("what")), rows)
