"""Meters as Ray actors: one on every node that is alive, back when killed, gone with its node."""

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

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def directory() -> Iterator[str]:
    """Ray's own, so that no other cluster of this machine is found or disturbed; its sockets need a short path."""
    path = tempfile.mkdtemp(prefix="ray")
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_every_node_of_a_cluster_has_a_meter_for_as_long_as_it_is_there(directory: str) -> None:
    """In a process of its own: Ray leaves threads and warnings behind."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": directory}
    environment.pop("RAY_ADDRESS", None)
    output = Path(directory) / "output"
    with output.open("wb") as handle:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("meter_cluster.py"))],
            cwd=ROOT,
            env=environment,
            stdout=handle,
            stderr=handle,
            start_new_session=True,
        )
    try:
        status = process.wait(120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
    text = output.read_text()
    assert status == 0, text[-3000:]
    assert [line.removeprefix("step: ") for line in text.splitlines() if line.startswith("step: ")] == [
        "one node, one meter",
        "two nodes, two meters",
        "a killed meter comes back",
        "a node has gone",
        "its meter with it",
    ]
