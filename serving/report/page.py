"""A report as one self-contained HTML file: no script, no style sheet, font or picture from elsewhere.

The page is built as a tree of elements, so that there is no text which somebody could forget to escape; its own content
security policy forbids scripts and everything from the network, should a name from outside get through all the same.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

from serving.report.tables import Table
from serving.report.words import count

_ROWS_MAX = 1000
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = """
:root { color-scheme: light; }
body { margin: 2rem auto; max-width: 68rem; padding: 0 1rem; color: #000; background: #fff;
  font: 15px/1.45 system-ui, "Segoe UI", "DejaVu Sans", Verdana, Arial, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .5rem; border-bottom: 1px solid #000; padding-bottom: .2rem; }
.lead { font-size: 1.1rem; margin: .2rem 0; }
.small { font-size: .87rem; color: #333; }
.notice { border: 3px solid #000; padding: .4rem .9rem; margin: 1rem 0; break-inside: avoid; }
.notice p { margin: .2rem 0; font-weight: 600; }
figure { margin: 0; }
figure > svg { display: block; width: 100%; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption { margin: .3rem 0 .8rem; max-width: 60rem; }
.wide { overflow-x: auto; margin: .4rem 0 1rem; }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .2rem 0; }
th, td { padding: .18rem .9rem .18rem 0; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
th { border-bottom: 1px solid #000; font-weight: 600; vertical-align: bottom; overflow-wrap: normal; }
td { border-bottom: 1px solid #ddd; }
.n { text-align: right; white-space: nowrap; overflow-wrap: normal; }
td:not(.n) { min-width: 6.2rem; }
.aside td { padding-left: 1.5rem; color: #333; }
@page { size: A4 landscape; margin: 12mm; }
@media print {
  body { margin: 0; padding: 0; max-width: none; font-size: 10pt; }
  h2 { break-after: avoid; }
  figure > svg, figcaption, tr { break-inside: avoid; }
  figcaption { break-before: avoid; }
  figure > svg { max-height: 150mm; }
  thead { display: table-header-group; }
  .wide { overflow: visible; }
}
"""


class Figure(NamedTuple):
    """``drawing`` is an SVG element, None without data. ``tables`` are what it was drawn from.

    ``more`` are drawings below the first, where one would be too high for a printed page.
    """

    name: str
    title: str
    finding: str
    drawing: Element | None
    tables: tuple[Table, ...]
    more: tuple[Element, ...] = ()


class Notice(NamedTuple):
    """Lines in a frame, for what must not be overlooked; without lines there is no frame."""

    lines: tuple[str, ...]


class Heading(NamedTuple):
    """How a page begins: its name, its heading, what it comes to in a sentence or two, and how to read it."""

    title: str
    heading: str
    lead: str
    legend: str


def write(page: bytes, out: Path) -> None:
    """Write ``page`` to ``out``, which appears complete or not at all. Raises OSError where it cannot be written.

    What stands there and is no regular file (a device, a pipe) is written to and stays what it is; so does a link.
    """
    if _is_special(out):
        out.write_bytes(page)
        return
    out = Path(os.path.realpath(out))
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("wb") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def _is_special(out: Path) -> bool:
    try:
        return not stat.S_ISREG(out.stat().st_mode)
    except FileNotFoundError:
        return False


def html(heading: Heading, sections: Iterable[tuple[str, Sequence[Figure | Table | Notice]]]) -> bytes:
    """The page in UTF-8: sections with a title (or none, where each figure brings its own) and what they show."""
    root = Element("html", lang="en")
    head = SubElement(root, "head")
    SubElement(head, "meta", charset="utf-8")
    SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": _POLICY})
    SubElement(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    _text(head, "title", heading.title)
    _text(head, "style", _STYLE)
    body = SubElement(root, "body")
    header = SubElement(body, "header")
    _text(header, "h1", heading.heading)
    _text(header, "p", heading.lead, "lead")
    _text(header, "p", heading.legend, "small")
    main = SubElement(body, "main")
    for title, shown in sections:
        if title:
            _text(main, "h2", title)
        for part in shown:
            if isinstance(part, Figure):
                _figure(main, part)
            elif isinstance(part, Notice):
                _notice(main, part)
            else:
                _table(main, part)
    # Without an encoding of its own tostring would write what ASCII lacks as entities, and surrogates as errors.
    return b"<!DOCTYPE html>\n" + tostring(root, encoding="unicode", method="html").encode("utf-8") + b"\n"


def _figure(parent: Element, figure: Figure) -> None:
    _text(parent, "h2", figure.title)
    element = SubElement(parent, "figure", id=f"figure-{figure.name}")
    if figure.drawing is not None:
        element.append(figure.drawing)
    element.extend(figure.more)
    _text(element, "figcaption", figure.finding)
    for table in figure.tables:
        _table(element, table)


def _notice(parent: Element, notice: Notice) -> None:
    if notice.lines:
        frame = SubElement(parent, "div", {"class": "notice", "role": "note"})
        for line in notice.lines:
            _text(frame, "p", line)


def _table(parent: Element, table: Table) -> None:
    """A table; columns without any content are left out, as are rows beyond a thousand."""
    if not table.rows:
        _text(parent, "p", table.empty, "small")
        return
    rows = table.rows[:_ROWS_MAX]
    places = [
        i for i, column in enumerate(table.columns) if not column.rank or any(row[i] not in ("", "-") for row in rows)
    ]
    aside = [i for i in places if table.columns[i].aside]
    places = [i for i in places if i not in aside]
    element = SubElement(SubElement(parent, "div", {"class": "wide"}), "table")
    _text(element, "caption", table.title)
    head = SubElement(SubElement(element, "thead"), "tr")
    for i in places:
        _text(head, "th", table.columns[i].name, "n" if table.columns[i].right else "").set("scope", "col")
    body = SubElement(element, "tbody")
    for row in rows:
        line = SubElement(body, "tr")
        for i in places:
            _text(line, "td", row[i], "n" if table.columns[i].right else "")
        for i in aside:
            if row[i] not in ("", "-"):  # sentences: in a column they would be a word wide
                _text(SubElement(body, "tr", {"class": "aside"}), "td", row[i]).set("colspan", str(len(places)))
    if len(table.rows) > _ROWS_MAX:
        _text(
            parent,
            "p",
            f"{count(len(table.rows) - _ROWS_MAX, 'more row')} not shown here; --json has them all.",
            "small",
        )


def _text(parent: Element, tag: str, text: str, css: str = "") -> Element:
    element = SubElement(parent, tag, {"class": css} if css else {})
    element.text = text
    return element
