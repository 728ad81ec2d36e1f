"""Measurements to fit to: rows of the CSV that NVIDIA's aiconfigurator publishes (``silicon_sample.csv``).

The source writes some parallel layouts with their products taken twice (tp_size 64 for 8 GPUs with 8-way experts). Rows here
say how many GPUs there were, in how many attention replicas, so that one measurement under two labels is one configuration.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from scheduler.simulation.curves import facts


class Configuration(NamedTuple):
    """A model on GPUs under ``concurrency`` requests at a time, each ``input_tokens`` in and ``output_tokens`` out.

    ``attention_replicas``: data-parallel copies of the attention layers among ``gpus``. ``version`` may be empty.
    """

    gpu: str
    backend: str
    model: str
    precision: str
    gpus: int
    input_tokens: float
    output_tokens: float
    concurrency: float
    attention_replicas: int = 1
    version: str = ""

    @property
    def engine(self) -> tuple[str, ...]:
        """What serves, without the workload."""
        return facts.board_name(self.gpu), self.backend, facts.family(self.model), self.precision, str(self.gpus)

    @property
    def whole(self) -> tuple[str, ...]:
        """What belongs to one curve over concurrency: a hold-out takes all of it or nothing. Versions are not told apart."""
        return *self.engine, f"{self.input_tokens:g}", f"{self.output_tokens:g}"


class Row(NamedTuple):
    """A measurement: means over a run."""

    configuration: Configuration
    ttft_s: float
    tpot_s: float


def read(path: Path) -> list[Row]:
    """Rows of a (gzipped) CSV in the source's columns; ValueError or KeyError where one is not as described."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as handle:
        return list(_rows(csv.DictReader(handle)))


def _rows(records: csv.DictReader[str]) -> Iterator[Row]:
    for record in records:
        gpus, replicas = _layout(record)
        configuration = Configuration(
            gpu=record["system"],
            backend=record["backend"],
            model=record["model_path"],
            precision=record["precision"] or "bf16",
            gpus=gpus,
            input_tokens=float(record["isl"]),
            output_tokens=float(record["osl"]),
            concurrency=float(record["concurrency"] or record["batch_size"]),
            attention_replicas=replicas,
            version=record["backend_version"],
        )
        yield Row(configuration, float(record["ttft_ms"]) / 1e3, float(record["tpot_ms"]) / 1e3)


def _layout(record: dict[str, str]) -> tuple[int, int]:
    """GPUs and attention replicas of a record."""
    tensor, data, moe_tensor, moe_expert = (
        max(1, int(float(record[name] or 1))) for name in ("tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
    )
    if moe_tensor == moe_expert > 1 and tensor * data == moe_tensor * moe_expert:
        return moe_tensor, moe_tensor if data > 1 else 1  # N counted as tensor and as expert parallel
    if tensor > 1 and data > 1:
        return tensor, tensor  # N counted as tensor and as data parallel
    gpus = max(tensor * data, moe_tensor * moe_expert)
    return gpus, data if data > 1 else max(1, gpus // tensor)
