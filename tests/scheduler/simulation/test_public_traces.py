"""The public traces beside the repository are read whole, fast enough in memory, and agree with what is known of them."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from scheduler.simulation.mix import Profile
from scheduler.simulation.traces import TraceError, open_trace
from scheduler.simulation.workload import Workload
from tests.support.markets import FREE_CLASS

pytestmark = pytest.mark.evaluate

TRACES = Path(__file__).parents[4] / "shared" / "data" / "traces"
PLAIN = Profile("p", 1.0, "t", FREE_CLASS, None, frozenset(), 0.2, 0.2, frozenset(), False, 1.0, 60.0)

# Rows, minutes, input p50 and p99, output p50 and p99: from the README beside the traces.
KNOWN = {
    "agentic_coding_sessions.csv.gz": (26_379, None, 101_929, 519_334, 220, 3_903),
    "azure_2023_code.csv.gz": (8_819, 57, 1_469, 7_436, 13, 251),
    "mooncake_conversation.csv.gz": (6_758, 35, 7_406, 90_252, 356, 1_130),
    "mooncake_synthetic.csv.gz": (3_993, 17, 11_587, 66_456, 69, 768),
    "servegen_mlarge_week1_sampled.csv.gz": (604_092, 10_080, 635, 3_829, 51, 746),
    "servegen_msmall_week1_sampled.csv.gz": (303_455, 10_080, 43, 1_460, 3, 161),
}


def test_every_file_beside_the_repository_is_known_here() -> None:
    assert {path.name for path in TRACES.iterdir()} == {*KNOWN, "servegen_rate_10min.csv.gz"}


@pytest.mark.parametrize("name", KNOWN)
def test_a_public_trace_has_the_rows_span_and_lengths_that_are_published(name: str) -> None:
    rows, minutes, *quantiles = KNOWN[name]
    with open_trace(TRACES / name) as trace:
        assert trace.requests == rows
        assert trace.dropped == 0
        assert trace.arrival_s[0] == 0.0
        assert (np.diff(trace.arrival_s) >= 0.0).all()
        if minutes is not None:
            assert round(trace.span_s / 60.0) == minutes
        lengths = [np.quantile(trace.input_tokens, (0.5, 0.99)), np.quantile(trace.output_tokens, (0.5, 0.99))]
        assert np.concatenate(lengths) == pytest.approx(quantiles, rel=0.01, abs=1.0)
        assert trace.has_clients == name.startswith("servegen")
        assert trace.has_sessions == name.startswith("agentic")
        assert (trace.prefix_blocks is not None) == name.startswith("mooncake")


def test_agentic_sessions_reuse_as_much_as_published() -> None:
    with open_trace(TRACES / "agentic_coding_sessions.csv.gz") as trace:
        assert len(np.unique(trace.session)) == 415
        reused = trace.reusable_prefix_tokens.sum(dtype=np.int64) / trace.input_tokens.sum(dtype=np.int64)
        assert reused == pytest.approx(0.96, abs=0.005)


def test_rates_are_no_trace_of_requests() -> None:
    with pytest.raises(TraceError, match="not a trace of requests"):
        open_trace(TRACES / "servegen_rate_10min.csv.gz")


@pytest.mark.parametrize("name", ["mooncake_conversation.csv.gz", "mooncake_synthetic.csv.gz"])
def test_the_original_form_of_mooncake_gives_what_its_normalised_form_says(name: str, tmp_path: Path) -> None:
    original = tmp_path / "original.jsonl"
    with gzip.open(TRACES / name, "rt") as file, original.open("w") as lines:
        for row in csv.DictReader(file):
            ids = [int(block) for block in row["prefix_blocks"].split()]
            line = {"timestamp": round(1000 * float(row["arrival_s"])), "input_length": int(row["input_tokens"])}
            lines.write(json.dumps(line | {"output_length": int(row["output_tokens"]), "hash_ids": ids}) + "\n")
    with open_trace(TRACES / name) as known, open_trace(original) as got:
        for column in ("input_tokens", "output_tokens", "reusable_prefix_tokens", "prefix_offsets", "prefix_blocks"):
            assert np.array_equal(getattr(got, column), getattr(known, column)), column
        assert np.allclose(got.arrival_s, known.arrival_s, atol=6e-4)


def test_a_week_many_times_over_is_a_stream_of_batches_of_one_size() -> None:
    with open_trace(TRACES / "servegen_mlarge_week1_sampled.csv.gz") as trace:
        workload = Workload(trace, [PLAIN], 1, 20.5)
        sizes, last_s = [], 0.0
        for batch in workload:
            assert batch.arrival_s[0] >= last_s
            last_s = float(batch.arrival_s[-1])
            sizes.append(len(batch))
    assert sum(sizes) == pytest.approx(workload.requests_expected, rel=1e-3)
    assert max(sizes) <= 100_000
    assert last_s < trace.span_s
