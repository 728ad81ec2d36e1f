"""What the meter of one node reports. Joules count up from the meter's start, so that readers take differences.

Labels: ``measured`` (a sensor said so), ``calibrated`` (derived from measurements made before), ``modelled`` (a profile).
"""

from __future__ import annotations

from typing import Literal

import msgspec

Label = Literal["measured", "calibrated", "modelled"]


class MigReading(msgspec.Struct, frozen=True):
    """One MIG instance: ``share`` is its part of the board's joules, apportioned, since no sensor sees a slice."""

    uuid: str
    profile: str
    share: float
    joules: float
    memory_used_bytes: int
    memory_total_bytes: int


class GpuReading(msgspec.Struct, frozen=True):
    """One board at ``at_s``. ``how`` says where the joules come from; ``problem`` why nothing (more) can be read."""

    uuid: str
    index: int
    name: str
    at_s: float
    joules: float
    watts: float
    label: Label
    how: str
    utilization: float | None = None
    memory_used_bytes: int = 0
    memory_total_bytes: int = 0
    sm_clock_mhz: int = 0
    throttled_by: tuple[str, ...] = ()
    mig: tuple[MigReading, ...] = ()
    problem: str = ""


class HostReading(msgspec.Struct, frozen=True):
    """The node without its GPUs. ``joules`` and ``watts`` are None where neither RAPL nor a profile knows them."""

    at_s: float
    cpu_utilization: float
    memory_used_bytes: int
    memory_total_bytes: int
    joules: float | None = None
    watts: float | None = None
    label: Label = "modelled"
    how: str = ""


class ReplicaReading(msgspec.Struct, frozen=True):
    """Joules attributed to one replica of a pool since the meter's start; idle power of its boards included."""

    replica: str
    pool: str
    joules: float
    watts: float
    label: Label
    how: str


class MeterReport(msgspec.Struct, frozen=True):
    """All that one node's meter knows, sent to the controller every few seconds."""

    node: str
    started_s: float
    at_s: float
    gpus: tuple[GpuReading, ...]
    host: HostReading
    replicas: tuple[ReplicaReading, ...]
    problem: str = ""
