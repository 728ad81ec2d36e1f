"""Inline SVG by matplotlib, without pyplot and its global state. Names in a figure are text, never mathematics.

Legible in black and white: lines differ in dashes and are labelled at their ends, areas differ in hatches.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from serving.report.words import number

WIDTH_IN = 9.0
LOG_FROM_RATIO = 30.0
# Okabe and Ito's palette without its yellow, which paper does not hold: told apart with any colour vision.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#8C5E00", "#5A5A5A")
HATCHES = ("", "////", "----", "\\\\\\\\", "xxx", "|||", "++", "//")  # lines only: dots make a page of megabytes
FILLS = ("#FFFFFF", "#CFE3F2", "#F7DFD0", "#D2EDE3", "#F3E1EB", "#DDF0FA", "#EEE3CF", "#E4E4E4")
_DASHES: tuple[object, ...] = ("solid", (0, (6, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)))
_STYLE: dict[Any, Any] = {
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "font.size": 8.5,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": True,
    "hatch.linewidth": 0.5,
    "path.simplify": True,
}
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def svg(name: str, alt: str, height_in: float, draw: Callable[[Figure], None]) -> ElementTree.Element:
    """What ``draw`` draws, as an element to stand in a page: ids are made unique by ``name``, links to elsewhere are gone."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # The reader's fonts draw the text: what matplotlib's own cannot draw does not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure = Figure(figsize=(WIDTH_IN, height_in))
        draw(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(buffer.getvalue())  # noqa: S314 - matplotlib's own output
    return _for_page(root, name, alt)


def _for_page(root: ElementTree.Element, name: str, alt: str) -> ElementTree.Element:
    for parent in root.iter():
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    used: set[str] = set()
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        if _HREF in element.attrib:
            target = element.attrib.pop(_HREF).removeprefix("#")
            used.add(target)
            element.set("href", f"#{name}-{target}")
        for key, value in element.attrib.items():
            if "url(#" in value:
                used.update(_REFERENCE.findall(value))
                element.set(key, _REFERENCE.sub(rf"url(#{name}-\1)", value))
    for element in root.iter():
        if (own := element.attrib.pop("id", None)) in used:
            element.set("id", f"{name}-{own}")
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib.update({"role": "img", "aria-label": alt})
    return root


def line_style(place: int) -> dict[str, object]:
    """Colour and dashes of the line at ``place``: no two of the first 32 are alike."""
    colour = COLOURS[place % len(COLOURS)]
    return {"color": colour, "linestyle": _DASHES[(place + place // len(COLOURS)) % len(_DASHES)], "linewidth": 1.5}


def scale(axes: Axes, values: Sequence[float], axis: str = "y") -> bool:
    """A linear axis from zero, or a logarithmic one (True) where positive values spread over more than 30 ×."""
    positive = [value for value in values if value > 0]
    is_log = bool(positive) and max(positive) > LOG_FROM_RATIO * min(positive) and min(values) >= 0
    side = axes.yaxis if axis == "y" else axes.xaxis
    limits = axes.set_ylim if axis == "y" else axes.set_xlim
    if is_log:
        (axes.set_yscale if axis == "y" else axes.set_xscale)("log")
        limits(min(positive) / 1.6, max(positive) * 1.6)
        few = max(positive) < 300 * min(positive)
        side.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=12))
        side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}" if value >= 1e-4 else number(value)))
        side.set_minor_formatter(NullFormatter())
    else:
        low, high = min((0.0, *values)), max((0.0, *values))
        margin = 0.06 * (high - low) or 1.0
        limits(low - margin if low < 0 else 0.0, high + margin)
        side.set_major_locator(MaxNLocator(6))
        plain_numbers = ScalarFormatter(useOffset=False, useMathText=False)
        plain_numbers.set_scientific(False)
        side.set_major_formatter(plain_numbers)
    return is_log


def label_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Names to the right of their lines' ends, moved apart where they would overlap, with a thin line to each end."""
    height_pt = axes.get_position().height * axes.figure.get_size_inches()[1] * 72.0  # type: ignore[union-attr]
    to_axes = axes.transData + axes.transAxes.inverted()
    at = sorted((min(1.0, max(0.0, to_axes.transform((0.0, y))[1])), text, colour) for y, text, colour in ends)
    places = spread([y for y, _, _ in at], 11.0 / height_pt)
    for (y, text, colour), place in zip(at, places, strict=True):
        axes.plot([1.0, 1.025], [y, place], transform=axes.transAxes, color=colour, linewidth=0.6, clip_on=False)
        axes.text(1.03, place, text, transform=axes.transAxes, va="center", ha="left", fontsize=8)


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places in [0, 1] moved as little as need be to lie ``gap`` apart; too many share the room evenly.

    >>> [round(place, 2) for place in spread([0.0, 0.02, 0.5, 1.0, 1.0], 0.1)]
    [0.0, 0.1, 0.5, 0.9, 1.0]
    """
    if not places:
        return []
    gap = min(gap, 1.0 / max(1, len(places) - 1))
    up = list(places)
    for i in range(1, len(up)):
        up[i] = max(up[i], up[i - 1] + gap)
    up[-1] = min(up[-1], 1.0)
    for i in range(len(up) - 2, -1, -1):
        up[i] = min(up[i], up[i + 1] - gap)
    return up


def legend_above(canvas: Figure, entries: Sequence[tuple[Any, str]]) -> None:
    """A legend over the figure's whole width. A label with an underscore in front would be left out."""
    canvas.legend(
        [artist for artist, _ in entries],
        [f" {label}" if label.startswith("_") else label for _, label in entries],
        loc="upper left", bbox_to_anchor=(0.01, 1.0), ncols=len(entries), frameon=False, handlelength=2.2,
        handleheight=1.2, columnspacing=1.4, borderaxespad=0.2,
    )  # fmt: skip
