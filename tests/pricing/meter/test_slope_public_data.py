"""The fit against published power of real engines (ML.ENERGY benchmark v3), and how far an average is from a slope."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest

from pricing.meter.pool_power import PoolMeter

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "gpu" / "mlenergy_v3_power_energy.csv.gz"
pytestmark = pytest.mark.evaluate

CHAT = "lm-arena-chat"
CASES = (
    ("meta-llama/Llama-3.1-8B-Instruct", "H100", 1),
    ("Qwen/Qwen3-32B", "H100", 2),
    ("meta-llama/Llama-3.1-70B-Instruct", "H100", 4),
    ("meta-llama/Llama-3.1-8B-Instruct", "B200", 1),
    ("Qwen/Qwen3-235B-A22B-Instruct-2507-FP8", "H100", 8),
)


def points(model: str, gpu: str, gpus: int) -> np.ndarray:
    """Throughput in output tokens per second and board power in watts, by rising batch size."""
    with gzip.open(DATA, "rt", encoding="utf-8") as handle:
        rows = [
            (float(row["max_num_seqs"]), float(row["throughput_tok_s"]), float(row["avg_power_w"]))
            for row in csv.DictReader(handle)
            if (row["task"], row["model"], row["gpu"], int(row["num_gpus"])) == (CHAT, model, gpu, gpus)
        ]
    return np.array(sorted(rows))[:, 1:]


def metered(curve: np.ndarray, minutes: int = 60, seed: int = 5) -> PoolMeter:
    """An hour of counters: each minute at one of the published loads (throughput, watts), read every five seconds."""
    chance, meter = np.random.default_rng(seed), PoolMeter({"pool": (0.1, 1.0)})
    joules = prompt = generated = at_s = 0.0
    meter.observe("pool", at_s, joules, prompt, generated, frozenset({"n r"}))
    for _ in range(minutes):
        tokens_per_s, watts = curve[chance.integers(len(curve))]
        mix = chance.uniform(0.3, 3.0)
        for _ in range(12):
            at_s += 5.0
            joules += watts * 5.0 * chance.normal(1.0, 0.01)
            generated += tokens_per_s * 5.0
            prompt += tokens_per_s * 5.0 * mix
            meter.observe("pool", at_s, joules, prompt, generated, frozenset({"n r"}))
    return meter


@pytest.mark.parametrize(("model", "gpu", "gpus"), CASES)
def test_the_slope_of_published_power_is_recovered_within_a_few_percent(model: str, gpu: str, gpus: int) -> None:
    """Against a plain regression of the published points, drawn straight through them."""
    curve = points(model, gpu, gpus)
    per_token, idle = np.polyfit(curve[:, 0], curve[:, 1], 1)
    straight = np.column_stack([curve[:, 0], idle + per_token * curve[:, 0]])
    found = metered(straight).fit("pool", 3600.0)
    assert found is not None
    assert found.joules_per_output_token == pytest.approx(per_token, rel=0.05)
    assert found.idle_watts == pytest.approx(idle, rel=0.05)


@pytest.mark.parametrize(("model", "gpu", "gpus"), CASES)
def test_the_average_per_token_overstates_the_marginal_one_by_far(model: str, gpu: str, gpus: int) -> None:
    curve = points(model, gpu, gpus)
    found = metered(curve).fit("pool", 3600.0)
    assert found is not None
    average = curve[:, 1] / curve[:, 0]
    assert average.min() > 1.5 * found.joules_per_output_token
    assert average.max() > 8.0 * found.joules_per_output_token


def test_for_seventy_billion_parameters_the_average_is_three_to_twenty_eight_times_the_slope() -> None:
    curve = points("meta-llama/Llama-3.1-70B-Instruct", "H100", 4)
    found = metered(curve).fit("pool", 3600.0)
    assert found is not None
    average = curve[:, 1] / curve[:, 0] / found.joules_per_output_token
    assert average[0] == pytest.approx(28.0, rel=0.25)
    assert average[-1] == pytest.approx(3.0, rel=0.25)
