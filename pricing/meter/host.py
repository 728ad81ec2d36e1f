"""The node without its GPUs: CPU time, memory, processes, and the CPU packages' joules where RAPL may be read.

RAPL: ``/sys/class/powercap/intel-rapl:*/energy_uj`` (AMD's packages appear under the same name) counts microjoules up to
``max_energy_range_uj`` and begins again; since 2020 (CVE-2020-8694) the kernel lets only root read it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import psutil  # type: ignore[import-untyped]

# A package of 300 W goes through a range of 262 kJ in a quarter of an hour: over longer gaps, laps would be missed.
_RAPL_GAP_S_MAX = 300.0


class Process(NamedTuple):
    """A process: ``started`` tells it from another that later has the same number (seconds since boot)."""

    parent: int
    started: float
    cpu_s: float


class Zone(NamedTuple):
    """A RAPL zone's counter."""

    energy_uj: int
    range_uj: int


class HostSample(NamedTuple):
    """The node at one moment: CPU seconds since boot over all its cores, bytes, RAPL zones by path."""

    at_s: float
    busy_s: float
    total_s: float
    memory_used_bytes: int
    memory_total_bytes: int
    zones: Mapping[str, Zone] = {}


class HostInterval(NamedTuple):
    """What has happened between two samples; None where it cannot be known."""

    utilization: float
    busy_s: float
    joules: float | None


class HostSource(Protocol):
    """Where a node's figures come from; ``pricing.meter.double`` has another."""

    def sample(self, now_s: float) -> HostSample: ...
    def processes(self, pids: Collection[int] | None = None) -> dict[int, Process]: ...
    def listeners(self) -> dict[int, int]: ...


class Host:
    """This machine, through psutil and the kernel's files."""

    def __init__(self, powercap: str = "/sys/class/powercap", proc: str = "/proc") -> None:
        self._powercap, self._proc = Path(powercap), proc
        self._ticks_per_s = float(os.sysconf("SC_CLK_TCK"))

    def sample(self, now_s: float) -> HostSample:
        """CPU, memory and energy counters."""
        times = psutil.cpu_times()._asdict()
        # On Linux guest time is part of user time already.
        total_s = sum(seconds for name, seconds in times.items() if name not in ("guest", "guest_nice"))
        memory = psutil.virtual_memory()
        return HostSample(
            at_s=now_s,
            busy_s=total_s - times["idle"] - times.get("iowait", 0.0),
            total_s=total_s,
            memory_used_bytes=memory.total - memory.available,
            memory_total_bytes=memory.total,
            zones=self._zones(),
        )

    def processes(self, pids: Collection[int] | None = None) -> dict[int, Process]:
        """Every process of this machine (of this container), or those of ``pids`` that live: one small file each."""
        found: dict[int, Process] = {}
        # A Path for each of thousands of entries is what would cost.
        names = [name for name in os.listdir(self._proc) if name.isdigit()] if pids is None else map(str, pids)  # noqa: PTH208
        for name in names:
            try:
                with open(f"{self._proc}/{name}/stat", "rb") as handle:  # noqa: PTH123
                    # The command may hold spaces and brackets: fields are counted from its closing one. man 5 proc.
                    fields = handle.read().rpartition(b")")[2].split()
                cpu_s = (int(fields[11]) + int(fields[12])) / self._ticks_per_s
                found[int(name)] = Process(int(fields[1]), int(fields[19]) / self._ticks_per_s, cpu_s)
            except (OSError, IndexError, ValueError):
                continue  # it has just ended
        return found

    def listeners(self) -> dict[int, int]:
        """Processes by the TCP port they listen on: those that this user may look into."""
        with suppress(psutil.Error, OSError):
            found = psutil.net_connections("tcp")
            return {one.laddr.port: one.pid for one in found if one.status == psutil.CONN_LISTEN and one.pid}
        return {}

    def _zones(self) -> dict[str, Zone]:
        """Packages and their memory. Cores are part of the package; a ``psys`` zone holds all of them once more."""
        found: dict[str, Zone] = {}
        for zone in self._powercap.glob("intel-rapl:*"):
            try:
                name = (zone / "name").read_text().strip()
                if name.startswith("package") or name == "dram":
                    energy_uj = int((zone / "energy_uj").read_text())
                    found[zone.name] = Zone(energy_uj, int((zone / "max_energy_range_uj").read_text()))
            except (OSError, ValueError):
                continue
        return found


def between(last: HostSample | None, now: HostSample) -> HostInterval:
    """Utilization, busy CPU seconds and joules from ``last`` to ``now``; without a last one, the mean since boot."""
    before_busy_s, before_total_s = (0.0, 0.0) if last is None else (last.busy_s, last.total_s)
    busy_s, total_s = max(0.0, now.busy_s - before_busy_s), now.total_s - before_total_s
    utilization = min(1.0, busy_s / total_s) if total_s > 0.0 else 0.0
    if last is None or not now.zones or last.zones.keys() != now.zones.keys() or now.at_s <= last.at_s:
        return HostInterval(utilization, busy_s, None)
    if now.at_s - last.at_s > _RAPL_GAP_S_MAX:
        return HostInterval(utilization, busy_s, None)
    return HostInterval(utilization, busy_s, sum(_lap_uj(last.zones[key], now.zones[key]) for key in now.zones) / 1e6)


def _lap_uj(last: Zone, now: Zone) -> int:
    """Microjoules from one reading to the next, over the end of the counter's range if it was reached.

    >>> _lap_uj(Zone(90, 100), Zone(20, 100))
    30
    """
    return now.energy_uj - last.energy_uj + (now.range_uj if now.energy_uj < last.energy_uj else 0)


def trees(processes: Mapping[int, Process], roots: Iterable[int]) -> dict[int, frozenset[int]]:
    """Every process below each root, the root included; empty where it does not exist.

    >>> trees({1: Process(0, 0, 0), 7: Process(1, 0, 0), 9: Process(7, 0, 0)}, [7, 8])
    {7: frozenset({9, 7}), 8: frozenset()}
    """
    children: dict[int, list[int]] = {}
    for pid, process in processes.items():
        children.setdefault(process.parent, []).append(pid)

    def below(root: int) -> frozenset[int]:
        seen, todo = set(), [root] if root in processes else []
        while todo:
            pid = todo.pop()
            if pid not in seen:
                seen.add(pid)
                todo += children.get(pid, ())
        return frozenset(seen)

    return {root: below(root) for root in roots}


def cpu_seconds(tree: Iterable[int], last: Mapping[int, Process], now: Mapping[int, Process]) -> float:
    """CPU seconds that ``tree`` has used from ``last`` to ``now``, by processes that are in both.

    One that is new may have used its time long before, and one that has ended tells no more: neither counts.
    """
    used_s = 0.0
    for pid in tree:
        process, before = now.get(pid), last.get(pid)
        if process is not None and before is not None and before.started == process.started:
            used_s += max(0.0, process.cpu_s - before.cpu_s)
    return used_s
