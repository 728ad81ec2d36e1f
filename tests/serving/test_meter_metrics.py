"""Readings of boards and nodes on the gateway's /metrics: bounded, stable in their labels, gone with what they told of."""

from __future__ import annotations

from typing import Any

import pytest

from pricing.meter.readings import GpuReading, HostReading
from pricing.report import NodeReading, PriceReport
from serving import metrics, price_metrics
from serving.calibration import power
from tests.serving.price_cases import local

NOW_S = 1_800_000_000.0
COUNTER = {"how": "NVML energy counter", "label": "measured"}


def gpu(uuid: str = "GPU-a", **changes: Any) -> GpuReading:
    fields = {"name": "H100", "at_s": NOW_S, "joules": 5000.0, "watts": 400.0, "utilization": 0.5, **COUNTER}
    fields |= {"memory_used_bytes": 3, "memory_total_bytes": 80, "throttled_by": ("power cap",)}
    return GpuReading(uuid, 0, **{**fields, **changes})  # type: ignore[arg-type]


def report(*gpus: GpuReading, host_watts: float | None = None, **more: Any) -> PriceReport:
    host = HostReading(NOW_S, 0.1, 1, 2, 7.0, host_watts, "measured", "RAPL packages and memory")
    fields = {"offers": (), "unpriced": (), "local": (), "feeds": (), **more}
    return PriceReport(NOW_S, nodes=(NodeReading("n1", NOW_S, gpus, host),), **fields)


def sample(name: str, **labels: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(name, labels)


@pytest.fixture(autouse=True)
def _clean() -> Any:
    yield
    price_metrics.expose(PriceReport(NOW_S, (), (), (), ()), NOW_S)


def test_boards_and_hosts_are_told_with_how_they_were_read() -> None:
    how = "NVML energy counter, 12 s not counted"
    price_metrics.expose(report(gpu(how=how), host_watts=90.0), NOW_S)
    here = {"node": "n1", "gpu": "GPU-a"}
    assert sample("baseload_gpu_watts", **here, **COUNTER) == 400.0
    assert sample("baseload_gpu_joules", **here, **COUNTER) == 5000.0
    assert sample("baseload_gpu_utilization", **here) == 0.5
    assert sample("baseload_gpu_memory_bytes", **here, what="used") == 3
    assert sample("baseload_gpu_memory_bytes", **here, what="total") == 80
    assert sample("baseload_gpu_throttled", **here, reason="power cap") == 1
    assert sample("baseload_host_watts", node="n1", how="RAPL packages and memory", label="measured") == 90.0


def test_a_board_that_has_gone_tells_no_watts_and_a_node_that_has_gone_tells_nothing() -> None:
    here = {"node": "n1", "gpu": "GPU-a"}
    price_metrics.expose(report(gpu(), host_watts=90.0), NOW_S)
    price_metrics.expose(report(gpu(problem="lost", watts=0.0, utilization=None)), NOW_S)
    assert sample("baseload_gpu_watts", **here, **COUNTER) is None
    assert sample("baseload_gpu_joules", **here, **COUNTER) == 5000.0
    assert sample("baseload_host_watts", node="n1", how="RAPL packages and memory", label="measured") is None
    price_metrics.expose(PriceReport(NOW_S, (), (), (), ()), NOW_S)
    assert sample("baseload_gpu_joules", **here, **COUNTER) is None


def test_no_more_boards_are_told_than_a_scrape_can_bear() -> None:
    price_metrics.expose(report(*(gpu(f"GPU-{i}") for i in range(600))), NOW_S)
    (family,) = (one for one in metrics.REGISTRY.collect() if one.name == "baseload_gpu_watts")
    assert len(family.samples) == 512


def test_a_pools_joules_carry_their_own_label_which_calibration_reads() -> None:
    cost = local("own", joules=123.0, joules_label="measured", power_label="modelled")
    price_metrics.expose(report(local=(cost,)), NOW_S)
    assert sample(power.JOULES, pool="own", label="measured") == 123.0
    assert sample(power.JOULES, pool="own", label="modelled") is None
