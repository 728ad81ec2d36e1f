"""A site whose prices come from two feeds that list the same two models, and from a third that stands alone."""

from __future__ import annotations

from typing import Any

from scheduler.config import ClusterConfig
from tests.support.sites import pool, provider, site

NOW_S = 1_760_000_000.0
TTL_S = 3600.0
FEEDS = ("a", "b", "alone")
RULES = {"jump_ratio_max": 3.0, "jump_ratio_never": 20.0, "confirmations": 2}


def feed(name: str, kind: str = "static", **fields: Any) -> dict[str, Any]:
    """A feed with a time to live of an hour."""
    return {"name": name, "kind": kind, "ttl_s": TTL_S, **RULES, **fields}


def listed(*feeds: str, product: str = "m") -> list[dict[str, str]]:
    """The same product of these feeds, the first preferred."""
    return [{"feed": name, "product": product} for name in feeds]


def document(**sections: Any) -> dict[str, Any]:
    """``large`` is bought of ``cloud`` at what a or b list as m, ``small`` of ``other`` at what ``alone`` lists as m."""
    sections.setdefault("feeds", [feed(name) for name in FEEDS])
    sections.setdefault("pools", [pool("own"), rented()])
    sections.setdefault(
        "providers",
        [provider("cloud", price=listed("a", "b")), provider("other", model="small", price=listed("alone"))],
    )
    return site(**sections)


def rented(**rental: Any) -> dict[str, Any]:
    """A pool on a GPU rented at what feed a lists as gpu."""
    row = pool("rented", kind="spot", rental={"listed": listed("a", product="gpu")} | rental)
    del row["hardware"]
    return row


def config(**sections: Any) -> ClusterConfig:
    """The site, checked."""
    return ClusterConfig.model_validate(document(**sections))
