"""What of a site file shows only on a machine that knows the kinds of feeds and the time zones: checked before it is used."""

from __future__ import annotations

from typing import Any

from pricing import feeds, tariff
from pricing.feeds import FeedKind
from scheduler.config import ClusterConfig
from scheduler.config.prices import Feed


def prepared(config: ClusterConfig, feed: Feed) -> tuple[FeedKind, dict[str, Any]]:
    """A feed's kind and options; feeds that read files look for them beside cluster.yaml unless told otherwise.

    Raises ValueError naming what is wrong, also where an air-gapped site names a feed that needs the network.
    """
    found = feeds.kind(feed.kind)
    options = dict(feed.options)
    if "directory" in found.options.__struct_fields__:
        options.setdefault("directory", config.directory)
    feeds.options_of(found, options)
    if config.air_gapped and found.needs_network:
        raise ValueError(f"{feed.kind} needs the network, and air_gapped is on")
    return found, options


def problems(config: ClusterConfig) -> list[str]:
    """One line each, path then reason; empty where everything can be used."""
    found = []
    for i, feed in enumerate(config.feeds):
        try:
            prepared(config, feed)
        except (ValueError, ImportError) as error:
            found.append(f"feeds[{i}] ({feed.name}): {error}")
    for i, site in enumerate(config.sites):
        found += [f"sites[{i}].electricity.{problem}" for problem in tariff.check(site.electricity)]
    return found
