"""``policy.commitment.mode: enforce`` on a real Ray Serve: a replica comes beside the first, and one goes without a loss; a
pool that is empty gets its first replica, which answers, and is empty again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import ROOT


@pytest.fixture
def directory() -> Iterator[str]:
    """Ray's own, so that no other cluster of this machine is found or disturbed; its sockets need a short path."""
    path = tempfile.mkdtemp(prefix="ray")
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_replicas_come_and_go_without_a_loss_and_a_pool_may_begin_and_end_without_any(directory: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": directory}
    environment.pop("RAY_ADDRESS", None)
    output = Path(directory) / "output"
    command = [sys.executable, "-m", "tests.e2e.scaling_cluster"]
    with output.open("wb") as handle:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=handle, stderr=handle, start_new_session=True
        )
    try:
        status = process.wait(300)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    said = output.read_text(errors="replace")
    assert status == 0, said[-5000:]
    assert [line.removeprefix("step: ") for line in said.splitlines() if line.startswith("step: ")] == [
        "one replica answers",
        "an empty pool has a gate",
        "a second replica answers",
        "the empty pool has its first",
        "its gate gives nothing to one that is to go",
        "both have finished what they had",
        "the empty pool is empty again",
    ]
