"""A price list in a YAML or JSON file: prices agreed by contract, or carried to a site without a network.

``file`` is relative to the option ``directory``, or without that to the working directory of the process that polls. The
list has a date, ``observed``, from which its prices age: give the feed a ``ttl_s`` as long as the list is to be believed.
The file is read as a whole or not at all, and at every poll; examples/feeds/price-list.yaml shows all that it may hold.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import yaml
from pydantic import ValidationError

from pricing.feeds import FeedChanged, FeedKind, FeedUnavailable, Http
from pricing.feeds.price_list import PriceList
from pricing.feeds.reading import plain
from pricing.listing import Listing

BYTES_MAX = 4 * 1024 * 1024
PROBLEMS_SHOWN = 3
_AHEAD_S_MAX = 86_400.0  # a date without a zone may be tomorrow's here


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``file``: the price list, relative to ``directory``."""

    file: str
    directory: str = ""


def feed(http: Http, options: Options, now_s: float) -> Iterable[Listing] | None:
    """All listings of the file. Raises FeedUnavailable where it cannot be read, FeedChanged naming path and reason."""
    path = Path(options.directory) / options.file
    try:
        prices = PriceList.model_validate(_document(_text(path)))
    except ValidationError as error:
        raise FeedChanged(f"{options.file}: {_problems(error)}") from None
    except (yaml.YAMLError, RecursionError, TypeError, ValueError) as error:
        raise FeedChanged(f"{options.file}: not YAML: {plain(str(error), 200)}") from None
    if prices.observed > now_s + _AHEAD_S_MAX:
        raise FeedChanged(f"{options.file}: observed: lies in the future")
    return prices.listings(min(prices.observed, now_s))


def _text(path: Path) -> str:
    """The file's text, at most BYTES_MAX of it. A pipe or a device would never end: only regular files are read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FeedUnavailable(f"{path}: no regular file")
            body = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise FeedUnavailable(f"{path}: {error.strerror or 'cannot be read'}") from None
    if len(body) > BYTES_MAX:
        raise FeedChanged(f"{path}: larger than {BYTES_MAX} bytes")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        raise FeedChanged(f"{path}: not UTF-8") from None


class _Loader(yaml.SafeLoader):
    """SafeLoader without aliases, a few of which can stand for billions of entries, and without keys given twice."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, times in keys.most_common(1):
            if times > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _document(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


def _problems(error: ValidationError) -> str:
    """The first few problems: path, then reason."""
    items = error.errors(include_url=False, include_context=False, include_input=False)
    lines = []
    for item in items[:PROBLEMS_SHOWN]:
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"]).removeprefix(".")
        message = "unknown field" if item["type"] == "extra_forbidden" else item["msg"].removeprefix("Value error, ")
        lines.append(f"{plain(where, 100)}: {plain(message, 200)}" if where else plain(message, 200))
    more = f"; and {len(items) - PROBLEMS_SHOWN} more" if len(items) > PROBLEMS_SHOWN else ""
    return "; ".join(lines) + more


KIND = FeedKind(feed, Options, needs_network=False)
