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

from serving.meter_process import MeterSettings
from serving.pools_process import Meters, meter_name

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
        "one that Ray gave up is placed again",
        "a node has gone",
        "its meter with it",
    ]


def test_a_cluster_on_which_no_meter_can_be_placed_keeps_its_pools_and_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    meters, calls = Meters(MeterSettings("http://a:1", "t", 1.0, {})), list[int]()

    def failing() -> None:
        calls.append(1)
        raise RuntimeError("GCS is away")

    monkeypatch.setattr(meters, "place", failing)
    for _ in range(3):
        meters.keep()
    assert len(calls) == 3
    assert [record.message for record in caplog.records] == ["meters cannot be placed"]
    monkeypatch.setattr(meters, "place", lambda: None)
    meters.keep()
    monkeypatch.setattr(meters, "place", failing)
    meters.keep()
    assert len(caplog.records) == 2


def test_two_sites_on_one_cluster_have_meters_of_their_own() -> None:
    names = {
        meter_name(MeterSettings(url, "t", 1.0, {}), node)
        for url in ("http://10.0.0.1:9000", "http://10.0.0.1:9001")
        for node in ("n1", "n2")
    }
    assert len(names) == 4
