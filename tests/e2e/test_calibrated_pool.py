"""``baseload calibrate`` of the real engine: figures that make sense, whatever else the machine is doing."""

from __future__ import annotations

import json
import subprocess
import sys

import yaml

from scheduler.config.supply import Curve
from tests.e2e.stack import Stack


def test_the_curve_of_the_real_engine_is_measured_and_can_be_pasted(stack: Stack) -> None:
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["offer"] == "tiny/tiny-intent" and found["partial"] is None
    assert found["requests_failed"] == found["requests_elsewhere"] == 0, found["warnings"]
    points = found["decode_points"]
    assert {point["level"] for point in points} <= {1, 2, 4, 8, 16, 32} and len(points) >= 3
    assert all(0 < point["running"] <= point["level"] + 1e-6 and point["requests"] > 0 for point in points)
    # One core of any machine: neither faster than ten times nor slower than fifty times what cluster.yaml says.
    assert 0.0002 < found["decode"]["itl_base_s"] + found["decode"]["itl_per_seq_s"] < 0.1
    assert found["decode"]["r2"] <= 1.0 and len(found["decode"]["residuals"]) == len(points)
    assert 0 <= found["prefill"]["ttft_base_s"] < 1.0
    assert len(found["prefill_points"]) == 6 and found["input_tokens"] > 5_000
    assert "modelled" in found["energy_note"] and found["energy"] is None
    assert Curve.model_validate(yaml.safe_load(found["yaml"])["curve"]).seqs_max == 32
