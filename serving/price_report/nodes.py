"""What the meters read on every node, as a table: boards, and the host without them."""

from __future__ import annotations

from collections.abc import Iterator

from pricing.meter.readings import GpuReading
from pricing.report import NodeReading, PriceReport
from serving.report.tables import Column, Table, left
from serving.report.words import age, number, percent, plain

_GIB = 2**30


def nodes(report: PriceReport, now_s: float) -> Table:
    """A line for every board and one for every host; what cannot be read is left empty, and ``how`` says why."""
    columns = (
        left("node"),
        left("device"),
        Column("watts"),
        Column("use", 1),
        Column("memory GiB", 3),
        Column("MHz", 5),
        Column("MIG", 6),
        left("throttled by", 4),
        left("label"),
        Column("age", 2),
        left("how", 7, aside=True),
    )
    rows = [row for node in report.nodes for row in _rows(node, now_s)]
    return Table("Meters", columns, rows, "No meter has reported.")


def _rows(node: NodeReading, now_s: float) -> Iterator[tuple[str, ...]]:
    for gpu in node.gpus:
        yield _board(node, gpu, now_s)
    host = node.host
    yield (
        plain(node.node),
        "host",
        number(host.watts),
        percent(host.cpu_utilization),
        _memory(host.memory_used_bytes, host.memory_total_bytes),
        "",
        "",
        "",
        host.label if host.watts is not None else "",
        age(now_s - host.at_s),
        plain("; ".join(text for text in (host.how, node.problem) if text)),
    )


def _board(node: NodeReading, gpu: GpuReading, now_s: float) -> tuple[str, ...]:
    return (
        plain(node.node),
        f"GPU {gpu.index} {plain(gpu.name)}",
        number(gpu.watts),
        "" if gpu.utilization is None else percent(gpu.utilization),
        _memory(gpu.memory_used_bytes, gpu.memory_total_bytes),
        f"{gpu.sm_clock_mhz:,}" if gpu.sm_clock_mhz else "",
        f"{len(gpu.mig)}" if gpu.mig else "",
        plain(", ".join(gpu.throttled_by)),
        gpu.label,
        age(now_s - gpu.at_s),
        plain("; ".join(text for text in (gpu.how, gpu.problem) if text)),
    )


def _memory(used_bytes: int, total_bytes: int) -> str:
    return f"{used_bytes / _GIB:.1f}/{total_bytes / _GIB:.0f}" if total_bytes else ""
