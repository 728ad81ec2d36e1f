"""When a feed is asked again: with jitter, so that a thousand sites do not ask at once; rarer while it fails. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable

BACKOFF_S_MIN = 5.0
BACKOFF_EVERY_MAX = 4.0
RETRY_AFTER_S_MAX = 86_400.0
JITTER = 0.1


def first_poll_s(random: Callable[[], float]) -> float:
    """Seconds after the start until the first poll; ``random`` yields [0, 1)."""
    return 0.2 + 2.0 * random()


def next_poll_s(
    every_s: float, failures: int, retry_after_s: float, random: Callable[[], float], ttl_s: float = math.inf
) -> float:
    """Seconds until the next poll after ``failures`` in a row (0: the last poll was good).

    Doubles from 5 s up to four times the usual period; the source's own Retry-After is obeyed up to a day, and up to a
    quarter of the time for which its prices are believed: one answer must not silence it until they are gone.

    >>> next_poll_s(900, 0, 0, lambda: 0.5)
    900.0
    >>> next_poll_s(900, 3, 60.0, lambda: 0.5)
    60.0
    """
    if not failures:
        return every_s * (1.0 - JITTER + 2.0 * JITTER * random())
    pause_s = min(BACKOFF_EVERY_MAX * every_s, BACKOFF_S_MIN * 2.0 ** min(failures - 1, 32))
    pause_s *= 0.5 + random()
    return max(pause_s, min(retry_after_s, RETRY_AFTER_S_MAX, ttl_s / 4.0))
