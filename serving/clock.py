"""One clock for the serving processes: Unix seconds that never jump."""

from __future__ import annotations

import time

_ANCHOR_S = time.time() - time.monotonic()


def now_s() -> float:
    """Unix seconds, anchored at process start and carried by the monotonic clock: deadlines survive clock jumps."""
    return _ANCHOR_S + time.monotonic()
