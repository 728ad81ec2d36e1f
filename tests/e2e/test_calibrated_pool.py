"""``baseload calibrate`` of the real engine: figures that make sense, or the sentence that the machine was too busy."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import yaml

from scheduler.config.supply import Curve
from tests.e2e.stack import Stack

_TRIES = 3
_STARVED = "short of CPU"


def calibrated(stack: Stack) -> tuple[int, str, dict[str, Any]]:
    """Exit status, what was said, and the document, of the first run on a machine that is not too busy; at last of any."""
    command = [
        sys.executable,
        "-m",
        "serving.cli",
        "calibrate",
        "tiny",
        "--config",
        str(stack.directory / "cluster.yaml"),
    ]
    command += ["--url", stack.url, "--seconds-per-step", "1.5", "--json"]
    for _ in range(_TRIES):
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
        assert done.stdout, done.stderr
        found = json.loads(done.stdout)
        if not any(_STARVED in warning for warning in found["warnings"]):
            break
    return done.returncode, done.stderr, found


def test_the_curve_of_the_real_engine_is_measured_and_can_be_pasted(stack: Stack) -> None:
    status, said, found = calibrated(stack)
    assert found["offer"] == "tiny/tiny-intent" and found["partial"] is None
    assert found["requests_failed"] == found["requests_elsewhere"] == 0, found["warnings"]
    assert "modelled" in found["energy_note"] and found["energy"] is None
    assert Curve.model_validate(yaml.safe_load(found["yaml"])["curve"]).seqs_max == 32
    points = found["decode_points"]
    assert {point["level"] for point in points} <= {1, 2, 4, 8, 16, 32}
    assert all(0 < point["running"] <= point["level"] + 1e-6 and point["requests"] > 0 for point in points)
    is_whole = found["decode"] is not None and found["prefill"] is not None
    assert (status == 0) == is_whole, said
    if not is_whole:  # three times in a row
        assert "no curve" in said and _STARVED in said
        return
    assert 0 <= found["prefill"]["ttft_base_s"] < 1.0
    assert len(found["prefill_points"]) == 6 and found["input_tokens"] > 5_000
    assert len(points) >= 3
    # One core of any machine: neither faster than ten times nor slower than fifty times what cluster.yaml says.
    assert 0.0002 < found["decode"]["itl_base_s"] + found["decode"]["itl_per_seq_s"] < 0.1
    assert found["decode"]["r2"] <= 1.0 and len(found["decode"]["residuals"]) == len(points)
