"""What a page of a report must be in a real browser: quiet, alone, whole, as wide as the window, and printable."""

from __future__ import annotations

import re
from pathlib import Path

from tests.e2e.browser import Browser

WIDTHS_PX = (1280, 800)
# Text of a drawing that lies beyond its edge by more than a pixel is cut off there.
_BEYOND = """
[...document.querySelectorAll('figure > svg')].flatMap(svg => {
  const frame = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(text => {
    const box = text.getBoundingClientRect();
    return box.left < frame.left - 1 || box.right > frame.right + 1 ||
      box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
  }).map(text => svg.parentElement.id + ': ' + text.textContent.trim());
})
"""
_EMPTY = """
[...document.querySelectorAll('figure, figure > svg, figcaption')].filter(element => {
  const box = element.getBoundingClientRect();
  return box.width < 100 || box.height < 10;
}).map(element => element.outerHTML.slice(0, 80))
"""
# What scrolls within a frame of its own is no wider than its frame to the page.
_WIDE = """
[...document.querySelectorAll('body *')].filter(element =>
  !element.closest('svg') && !element.closest('.wide > *') && element.getBoundingClientRect().right > innerWidth + 0.5
).map(element => element.tagName + ' ' + element.textContent.slice(0, 60))
"""


def faults(browser: Browser, page: Path) -> list[str]:
    """Everything that is wrong with a page, whatever is on it; it stays open in the narrower window."""
    found = []
    for width_px in WIDTHS_PX:
        browser.open(page, width_px)
        found += browser.complaints()
        found += [f"asks for {url}" for url in browser.requests() if url != page.resolve().as_uri()]
        for what, query in (("too wide", _WIDE), ("beyond the edge", _BEYOND), ("not to be seen", _EMPTY)):
            found += [f"{what} at {width_px} px: {one}" for one in browser.evaluate(query)]
        if (wide_px := browser.evaluate("document.documentElement.scrollWidth")) > width_px:
            found.append(f"{wide_px} px wide in a window of {width_px} px")
    if browser.evaluate("document.scripts.length + document.links.length + document.images.length"):
        found.append("has scripts, links or pictures")
    if len(browser.screenshot()) < 20_000:
        found.append("an empty picture")
    if pages_of(browser.pdf()) < 2:
        found.append("one printed page")
    return found


def figures(browser: Browser) -> list[str]:
    """The figures of the page that is open, in its order."""
    found: list[str] = browser.evaluate("[...document.querySelectorAll('figure')].map(one => one.id)")
    return found


def pages_of(pdf: bytes) -> int:
    """Pages of a PDF as Chromium writes it: a dictionary for each."""
    assert pdf.startswith(b"%PDF-")
    return len(re.findall(rb"/Type\s*/Page\b", pdf))
