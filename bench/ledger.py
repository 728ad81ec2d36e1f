"""What a ledger row costs the request path: microseconds to encode and append ``Begin`` and ``End``."""

from __future__ import annotations

import tempfile
import time

from serving.ledger.journal import Journal
from serving.ledger.samples import begin, end

_ROUNDS = 20_000


def run() -> dict[str, dict[str, float]]:
    """{"append": {"p50_us": ..., "p99_us": ...}}, on the disk of the temporary directory."""
    took_us = []
    with tempfile.TemporaryDirectory() as directory, Journal(directory, "bench") as journal:
        for i in range(_ROUNDS):
            record = begin(f"r{i // 2}") if i % 2 == 0 else end(f"r{i // 2}")
            began = time.perf_counter()
            journal.append(record)
            took_us.append((time.perf_counter() - began) * 1e6)
    took_us.sort()
    return {"append": {"p50_us": took_us[_ROUNDS // 2], "p99_us": took_us[int(_ROUNDS * 0.99)]}}
