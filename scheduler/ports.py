"""The seams between judgement and the world: one method each.

``Triage`` is an extension point: a site names a function in ``policy.triage``. How sources are asked is
``serving.upstreams.Transport``; time is a function of no arguments that returns Unix seconds.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


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
