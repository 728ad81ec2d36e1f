"""A page of a report, parsed: what a test may want to know of it, and whether it is harmless."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Holds that tags balance, and collects what a test may want to know."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def attributes(self, name: str) -> list[str]:
        """Every value of an attribute."""
        return [str(attrs[name]) for _, attrs in self.tags if name in attrs]


def harmless(page: Page) -> None:
    """Nothing runs, nothing is loaded, every reference within the page leads somewhere."""
    assert not {"script", "iframe", "object", "embed", "link", "img", "image", "form", "a", "base"} & {
        t for t, _ in page.tags
    }
    names = {name for _, attrs in page.tags for name in attrs}
    assert not [name for name in names if name.startswith("on") or name in ("src", "srcset", "action", "data")]
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    links = page.attributes("href")
    links += [
        f"#{found}"
        for _, attrs in page.tags
        for v in attrs.values()
        for found in re.findall(r"url\(#([^)]*)\)", v or "")
    ]
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert all(link.startswith("#") for link in links)
