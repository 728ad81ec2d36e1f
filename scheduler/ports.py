"""The seams between judgement and the world: one method each, a fake beside each in the tests' support package.

``Triage`` is also an extension point: a site names an entry point in ``policy.triage``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol


class Clock(Protocol):
    """Unix seconds."""

    def __call__(self) -> float: ...


class Features(NamedTuple):
    """What triage sees of a request: sizes and the last user text (in memory only, never logged)."""

    text: str
    input_tokens: int
    turns: int
    reasoning_effort: str
    has_tools: bool


class Triage(Protocol):
    """Difficulty in [0, 1]: how much reasoning this needs, before a token is spent."""

    def __call__(self, features: Features) -> float: ...


class Upstream(Protocol):
    """A source that can be asked. The first item is the head, the rest are chunks of the body as they come."""

    def __call__(self, path: str, body: bytes, until_s: float) -> AsyncIterator[bytes]: ...
