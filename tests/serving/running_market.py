"""A small market around a running gateway: a pool, two simulated providers, one that refuses, one that records.

model      offered by (USD per million tokens)
small      the pool, on-prem
frontier   east 1, west 2
frail      gone 1 (nobody listens there), west 2
taped      tape 1 (records), west 2
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recording_source import Source, recording
from running_gateway import Running, Site, free_port, provider_yaml, reset, serving, simulated
from running_provider import Provider, running

SLOW: dict[str, Any] = {"tokens_per_s": 10.0, "output_tokens": 1000}  # an answer that outlasts every test


@dataclass
class Town:
    """The gateway and its sources."""

    gateway: Running
    pool: Provider
    east: Provider
    west: Provider
    tape: Source

    def renew(self) -> None:
        """Sources as new, nothing cooling down, nothing recorded."""
        reset(self.pool, self.east, self.west)
        self.tape.replies.clear()
        self.gateway.all_sources_stand_ready()
        self.tape.asked.clear()


def openai(url: str) -> str:
    """``how`` of a provider that passes requests through to ``url``."""
    return f"kind: openai\n    base_url: {url}"


@contextmanager
def town(directory: Path, **site: Any) -> Iterator[Town]:
    """All of it, running; no process of it has logged an error by the end."""
    port = free_port()
    with running() as pool, running() as west, recording() as tape:
        providers = [
            provider_yaml("east", "east", 1, simulated(port)),
            provider_yaml("gone", "east", 1, openai(f"http://127.0.0.1:{free_port()}"), ["frail"]),
            provider_yaml("tape", "east", 1, openai(tape.url), ["taped"]),
            provider_yaml("west", "west", 2, openai(west.url), ["frontier", "frail", "taped"]),
        ]
        with serving(directory, Site(pool.url, providers, **site)) as gateway:
            yield Town(gateway, pool, Provider(f"http://127.0.0.1:{port}"), west, tape)
            assert gateway.errors() == []
