"""What is used of NVML, and what it says of a board, as plain data in which None means that it cannot be read.

Source: NVML API reference, device queries and multi-instance GPU management.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol


class Library(Protocol):
    """What is used of ``pynvml``. Every function may raise NVMLError; handles are opaque."""

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlDeviceGetCount(self) -> int: ...
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...
    def nvmlDeviceGetUUID(self, handle: Any) -> str: ...
    def nvmlDeviceGetName(self, handle: Any) -> str: ...
    def nvmlDeviceGetPowerManagementDefaultLimit(self, handle: Any) -> int: ...
    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int: ...
    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int: ...
    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any: ...
    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any: ...
    def nvmlDeviceGetClockInfo(self, handle: Any, kind: int) -> int: ...
    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: Any) -> int: ...
    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: Any) -> int: ...
    def nvmlDeviceGetComputeRunningProcesses(self, handle: Any) -> list[Any]: ...
    def nvmlDeviceGetProcessUtilization(self, handle: Any, since_us: int) -> list[Any]: ...
    def nvmlDeviceGetMigMode(self, handle: Any) -> list[int]: ...
    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int: ...
    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: int) -> Any: ...
    def nvmlDeviceGetAttributes(self, handle: Any) -> Any: ...


class GpuProcess(NamedTuple):
    """A compute process on a board or instance, as the host numbers it. ``sm_use``: a fraction, where it was asked for."""

    pid: int
    memory_bytes: int | None
    sm_use: float | None = None


class MigDevice(NamedTuple):
    """One MIG compute instance; ``processes`` None where they cannot be read."""

    uuid: str
    profile: str
    slices: int | None
    utilization: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    processes: tuple[GpuProcess, ...] | None


class Board(NamedTuple):
    """One pass over one board. ``problem`` says that it is gone, or why neither its energy nor its power can be read."""

    uuid: str
    number: int
    name: str
    tdp_watts: float | None
    gone: bool = False
    problem: str = ""
    energy_mj: int | None = None
    watts: float | None = None
    utilization: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    sm_clock_mhz: int | None = None
    throttled_by: tuple[str, ...] = ()
    mig: tuple[MigDevice, ...] = ()
    processes: tuple[GpuProcess, ...] | None = None


def mig_profile(name: str, attributes: Any) -> str:
    """Profile of an instance as NVIDIA writes it, ``3g.40gb``, or ``1c.3g.40gb`` for a part of one; empty if unknown.

    >>> mig_profile("NVIDIA A100-SXM4-80GB MIG 3g.40gb", None)
    '3g.40gb'
    """
    _, _, profile = name.partition("MIG ")
    if profile or attributes is None:
        return profile
    gpu, compute = attributes.gpuInstanceSliceCount, attributes.computeInstanceSliceCount
    part = f"{compute}c." if compute != gpu else ""
    return f"{part}{gpu}g.{-(-attributes.memorySizeMB // 1024)}gb"
