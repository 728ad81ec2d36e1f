"""Stand-ins for the driver and the machine, for tests and benchmarks of the meter where there is no GPU.

``DoubleLibrary`` has the functions of ``pynvml`` that ``pricing.meter.library`` names and fails like them: counters that
are reset, boards that fall off the bus and come back, fields that a board does not support, a driver that is not there.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml
from pynvml import NVMLError

from pricing.meter.host import HostSample, Process, Zone

_GIB = 2**30


@dataclass
class DoubleInstance:
    """A MIG instance with its running processes by pid, and the GPU memory of each."""

    uuid: str
    slices: int = 1
    memory_total_bytes: int = 10 * _GIB
    processes: dict[int, int] = field(default_factory=dict)


@dataclass
class DoubleBoard:
    """A board that draws ``watts``. ``refuses``: functions by name, with the NVML error code that they answer."""

    uuid: str
    name: str = "NVIDIA H100 80GB HBM3"
    watts: float = 100.0
    tdp_watts: float = 700.0
    energy_mj: float = 5e9
    utilization: int = 0
    memory_used_bytes: int = 0
    memory_total_bytes: int = 80 * _GIB
    throttle_bits: int = 0
    processes: dict[int, int] = field(default_factory=dict)
    sm_uses: dict[int, int] = field(default_factory=dict)
    instances: list[DoubleInstance] = field(default_factory=list)
    refuses: dict[str, int] = field(default_factory=dict)
    lost: bool = False

    def reset(self) -> None:
        """As after a reload of the driver."""
        self.energy_mj = 0.0


class DoubleLibrary:
    """``pynvml`` over ``boards``. ``driver``: the error code with which opening it fails, 0 for none."""

    def __init__(self, boards: list[DoubleBoard], driver: int = 0) -> None:
        self.boards, self.driver = boards, driver
        self._listed: list[DoubleBoard] | None = None
        self._us = 0
        self.calls = 0

    def run(self, seconds: float) -> None:
        """Let time pass: counters advance by what each board draws."""
        self._us += int(seconds * 1e6)
        for board in self.boards:
            board.energy_mj += board.watts * 1000.0 * seconds

    def nvmlInit(self) -> None:
        if self.driver:
            raise NVMLError(self.driver)
        self._listed = [board for board in self.boards if not board.lost]

    def nvmlShutdown(self) -> None:
        self._listed = None

    def nvmlDeviceGetCount(self) -> int:
        return len(self._boards())

    def nvmlDeviceGetHandleByIndex(self, index: int) -> DoubleBoard:
        if not 0 <= index < len(self._boards()):
            raise NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return self._boards()[index]

    def nvmlDeviceGetUUID(self, handle: Any) -> str:
        return str(self._asked(handle, "nvmlDeviceGetUUID").uuid)

    def nvmlDeviceGetName(self, handle: Any) -> str:
        self._asked(handle, "nvmlDeviceGetName")
        return handle.name if isinstance(handle, DoubleBoard) else ""

    def nvmlDeviceGetPowerManagementDefaultLimit(self, handle: Any) -> int:
        return int(self._asked(handle, "nvmlDeviceGetPowerManagementDefaultLimit").tdp_watts * 1000)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int:
        return int(self._asked(handle, "nvmlDeviceGetTotalEnergyConsumption").energy_mj)

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:
        return int(self._asked(handle, "nvmlDeviceGetPowerUsage").watts * 1000)

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:
        board = self._asked(handle, "nvmlDeviceGetUtilizationRates")
        if isinstance(board, DoubleInstance) or board.instances:
            raise NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(gpu=board.utilization, memory=0)

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        board = self._asked(handle, "nvmlDeviceGetMemoryInfo")
        used = getattr(board, "memory_used_bytes", None) or sum(board.processes.values())
        return SimpleNamespace(used=used, total=board.memory_total_bytes)

    def nvmlDeviceGetClockInfo(self, handle: Any, kind: int) -> int:
        self._asked(handle, "nvmlDeviceGetClockInfo")
        return 1980

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: Any) -> int:
        return int(self._asked(handle, "nvmlDeviceGetCurrentClocksEventReasons").throttle_bits)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: Any) -> int:
        return int(self._asked(handle, "nvmlDeviceGetCurrentClocksThrottleReasons").throttle_bits)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Any) -> list[Any]:
        running = self._asked(handle, "nvmlDeviceGetComputeRunningProcesses").processes
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in running.items()]

    def nvmlDeviceGetProcessUtilization(self, handle: Any, since_us: int) -> list[Any]:
        board = self._asked(handle, "nvmlDeviceGetProcessUtilization")
        if board.instances:
            raise NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        if not board.sm_uses or self._us <= since_us:
            raise NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return [SimpleNamespace(pid=pid, timeStamp=self._us, smUtil=use) for pid, use in board.sm_uses.items()]

    def nvmlDeviceGetMigMode(self, handle: Any) -> list[int]:
        enabled = int(bool(self._asked(handle, "nvmlDeviceGetMigMode").instances))
        return [enabled, enabled]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int:
        self._asked(handle, "nvmlDeviceGetMaxMigDeviceCount")
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: int) -> DoubleInstance:
        instances = self._asked(handle, "nvmlDeviceGetMigDeviceHandleByIndex").instances
        if index >= len(instances):
            raise NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        found: DoubleInstance = instances[index]
        return found

    def nvmlDeviceGetAttributes(self, handle: Any) -> Any:
        one = self._asked(handle, "nvmlDeviceGetAttributes")
        return SimpleNamespace(
            gpuInstanceSliceCount=one.slices,
            computeInstanceSliceCount=one.slices,
            memorySizeMB=one.memory_total_bytes // 2**20,
        )

    def _boards(self) -> list[DoubleBoard]:
        if self.driver or self._listed is None:
            raise NVMLError(self.driver or pynvml.NVML_ERROR_UNINITIALIZED)
        return self._listed

    def _asked(self, handle: Any, function: str) -> Any:
        """The board or instance behind a handle, unless it is lost or refuses."""
        self.calls += 1
        self._boards()
        board = next((one for one in self.boards if one is handle or handle in one.instances), None)
        if board is None or board.lost:
            raise NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        if function in board.refuses:
            raise NVMLError(board.refuses[function])
        return handle


@dataclass
class DoubleHost:
    """A machine of ``cores`` cores: ``run`` lets its packages draw and its processes work."""

    cores: int = 8
    rapl: bool = False
    range_uj: int = 262_143_328_850
    energy_uj: int = 0
    busy_s: float = 1000.0
    at_s: float = 10_000.0
    table: dict[int, Process] = field(default_factory=dict)
    ports: dict[int, int] = field(default_factory=dict)

    def run(
        self, seconds: float, watts: float = 0.0, cpu_s: dict[int, float] | None = None, other_s: float = 0.0
    ) -> None:
        """``cpu_s``: CPU seconds that processes use, by pid; ``other_s``: those of everything else."""
        self.at_s += seconds
        self.energy_uj = (self.energy_uj + round(watts * seconds * 1e6)) % self.range_uj
        for pid, used_s in (cpu_s or {}).items():
            self.table[pid] = self.table[pid]._replace(cpu_s=self.table[pid].cpu_s + used_s)
        self.busy_s += sum((cpu_s or {}).values()) + other_s

    def sample(self, now_s: float) -> HostSample:
        """As psutil and the kernel would say."""
        zones = {"intel-rapl:0": Zone(self.energy_uj, self.range_uj)} if self.rapl else {}
        return HostSample(now_s, self.busy_s, self.at_s * self.cores, 4 * _GIB, 64 * _GIB, zones)

    def processes(self, pids: Collection[int] | None = None) -> dict[int, Process]:
        """The process table."""
        return {pid: process for pid, process in self.table.items() if pids is None or pid in pids}

    def listeners(self) -> dict[int, int]:
        """Who listens where."""
        return dict(self.ports)
