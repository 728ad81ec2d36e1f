"""NVML as plain data: one pass over a node's boards, in which a field that cannot be read is None or empty.

Everything goes through ``Library``, the few functions of ``pynvml`` that are used here, so that its double
(``pricing.meter.double``) fails in the ways that drivers do. Under MIG neither a board's nor a process's utilization is to
be had, and no sensor sees the power of a slice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import pynvml
from pynvml import NVMLError

from pricing.meter.library import Board, GpuProcess, Library, MigDevice, mig_profile

T = TypeVar("T")

REOPEN_S_MIN = 30.0
REOPEN_S_MAX = 480.0
# A driver that reports more than this on one board has lost count (MIG: at most 7 or 8 instances today).
_INSTANCES_MAX = 64
_GONE = frozenset(
    (
        pynvml.NVML_ERROR_GPU_IS_LOST,
        pynvml.NVML_ERROR_GPU_NOT_FOUND,
        pynvml.NVML_ERROR_RESET_REQUIRED,
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    )
)
# nvmlClocksEventReasons; the names of the bits below that are no reason for concern (idle, a setting of ours) are left out.
_THROTTLED_BY = {
    0x004: "power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "software thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "power brake",
}


class _Gone(Exception):
    """The board, or the driver with it, has gone away in the middle of a pass."""


class _Opened(NamedTuple):
    handle: Any
    board: Board


class Nvml:
    """Boards of this node. Opened lazily and, while anything is amiss, anew every half minute at first, then more rarely.

    An open driver keeps an administrator from resetting a GPU or changing its MIG mode; stop the meter for that.
    """

    def __init__(self, library: Library = pynvml) -> None:
        self._library = library
        self._opened: list[_Opened] | None = None
        self._reopen_at_s, self._pause_s = 0.0, REOPEN_S_MIN
        self._problem = ""
        self._known: set[str] = set()
        self._layouts: dict[str, tuple[MigDevice, ...]] = {}
        self._sampled_us: dict[str, int] = {}

    def read(self, now_s: float, shared: Collection[str] = ()) -> tuple[tuple[Board, ...], str]:
        """One pass; and why there are no boards at all. ``shared``: boards whose processes' SM use is worth asking for.

        A board that had gone since the driver was opened is in the result with ``gone``, until the driver, opened anew,
        no longer lists it.
        """
        if self._opened is None and now_s >= self._reopen_at_s:
            self._open(now_s)
        if self._opened is None:
            return (), self._problem
        boards = tuple(self._board(opened, opened.board.uuid in shared) for opened in self._opened)
        there = {board.uuid for board in boards if not board.gone}
        self._known |= there
        # The driver lists what was there when it was opened: what has come (back) since is only seen by opening it anew.
        if there != self._known or not there:
            self._close(now_s)
        else:
            self._pause_s = REOPEN_S_MIN
        return boards, "" if boards else "NVML lists no GPU"

    def close(self) -> None:
        """Let go of the driver."""
        if self._opened is not None:
            self._opened = None
            with suppress(NVMLError):
                self._library.nvmlShutdown()

    def _close(self, now_s: float) -> None:
        """Open anew at the next pass, unless that was done a short while ago."""
        if now_s >= self._reopen_at_s:
            self.close()
            self._pause_s = min(REOPEN_S_MAX, self._pause_s * 2)

    def _open(self, now_s: float) -> None:
        library = self._library
        self._reopen_at_s = now_s + self._pause_s
        try:
            library.nvmlInit()
        except NVMLError as error:
            self._problem = f"NVML: {error}"
            self._pause_s = min(REOPEN_S_MAX, self._pause_s * 2)
            return
        self._opened = []
        for index in range(self._ask(0, library.nvmlDeviceGetCount)):
            with suppress(NVMLError):  # a board that cannot be opened has no name to report it under
                handle = library.nvmlDeviceGetHandleByIndex(index)
                uuid = library.nvmlDeviceGetUUID(handle)
                name = self._ask("", library.nvmlDeviceGetName, handle)
                limit_mw = self._ask(None, library.nvmlDeviceGetPowerManagementDefaultLimit, handle)
                tdp_watts = limit_mw / 1000.0 if limit_mw else None
                self._opened.append(_Opened(handle, Board(uuid, index, name, tdp_watts)))

    def _ask(self, otherwise: T, function: Callable[..., T], *args: Any) -> T:
        try:
            return function(*args)
        except NVMLError:
            return otherwise

    def _get(self, function: Callable[..., T], *args: Any) -> T | None:
        """What ``function`` says, None where it cannot. Raises _Gone."""
        try:
            return function(*args)
        except NVMLError as error:
            if error.value in _GONE:
                raise _Gone(str(error)) from None
            return None

    def _board(self, opened: _Opened, shared: bool) -> Board:
        handle, board, library = opened.handle, opened.board, self._library
        try:
            energy_mj = self._get(library.nvmlDeviceGetTotalEnergyConsumption, handle)
            milliwatts = self._get(library.nvmlDeviceGetPowerUsage, handle)
            use = self._get(library.nvmlDeviceGetUtilizationRates, handle)
            memory = self._get(library.nvmlDeviceGetMemoryInfo, handle)
            reasons = self._get(library.nvmlDeviceGetCurrentClocksEventReasons, handle)
            if reasons is None:  # what drivers before 535 call the same
                reasons = self._get(library.nvmlDeviceGetCurrentClocksThrottleReasons, handle) or 0
            mode = self._get(library.nvmlDeviceGetMigMode, handle)
            # A board that does not tell now is divided as it was: else an error would give a whole board to nobody.
            if mode is not None:
                layout = self._instances(handle) if mode[0] == 1 else ()
                self._layouts[board.uuid] = self._layouts.get(board.uuid, ()) if layout is None else layout
            return board._replace(
                problem="" if (energy_mj, milliwatts) != (None, None) else "neither energy nor power can be read",
                energy_mj=energy_mj,
                watts=None if milliwatts is None else milliwatts / 1000.0,
                utilization=None if use is None else use.gpu / 100.0,
                memory_used_bytes=None if memory is None else memory.used,
                memory_total_bytes=None if memory is None else memory.total,
                sm_clock_mhz=self._get(library.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
                throttled_by=tuple(name for bit, name in _THROTTLED_BY.items() if reasons & bit),
                mig=self._layouts.get(board.uuid, ()),
                processes=self._processes(handle, board.uuid if shared else ""),
            )
        except _Gone as error:
            return board._replace(gone=True, problem=str(error))

    def _processes(self, handle: Any, shared_uuid: str = "") -> tuple[GpuProcess, ...] | None:
        running = self._get(self._library.nvmlDeviceGetComputeRunningProcesses, handle)
        if running is None:
            return None
        uses = self._sm_uses(handle, shared_uuid) if shared_uuid else {}
        return tuple(GpuProcess(one.pid, one.usedGpuMemory, uses.get(one.pid)) for one in running)

    def _sm_uses(self, handle: Any, uuid: str) -> dict[int, float]:
        """Mean SM use by process since the last pass, as a fraction; empty where the driver keeps no samples."""
        since_us = self._sampled_us.get(uuid, 0)
        samples = self._get(self._library.nvmlDeviceGetProcessUtilization, handle, since_us) or []
        seen: dict[int, list[float]] = {}
        for sample in samples:
            if sample.timeStamp > since_us and sample.smUtil <= 100:
                seen.setdefault(sample.pid, []).append(sample.smUtil / 100.0)
        self._sampled_us[uuid] = max([since_us, *(sample.timeStamp for sample in samples)])
        return {pid: sum(uses) / len(uses) for pid, uses in seen.items()}

    def _instances(self, board: Any) -> tuple[MigDevice, ...] | None:
        library = self._library
        count = self._get(library.nvmlDeviceGetMaxMigDeviceCount, board)
        if count is None:
            return None
        found = []
        for index in range(min(_INSTANCES_MAX, count)):
            handle = self._get(library.nvmlDeviceGetMigDeviceHandleByIndex, board, index)
            uuid = None if handle is None else self._get(library.nvmlDeviceGetUUID, handle)
            if uuid is None:
                continue
            attributes = self._get(library.nvmlDeviceGetAttributes, handle)
            memory = self._get(library.nvmlDeviceGetMemoryInfo, handle)
            use = self._get(library.nvmlDeviceGetUtilizationRates, handle)
            found.append(
                MigDevice(
                    uuid=uuid,
                    profile=mig_profile(self._get(library.nvmlDeviceGetName, handle) or "", attributes),
                    slices=None if attributes is None else attributes.computeInstanceSliceCount,
                    utilization=None if use is None else use.gpu / 100.0,
                    memory_used_bytes=None if memory is None else memory.used,
                    memory_total_bytes=None if memory is None else memory.total,
                    processes=self._processes(handle),
                )
            )
        return tuple(found)


def uuids(ids: Iterable[object], library: Library = pynvml) -> tuple[str, ...]:
    """GPUs as Ray or CUDA_VISIBLE_DEVICES number them, by their UUIDs; as they are where no driver answers.

    NVML numbers boards by PCI bus, and CUDA does where CUDA_DEVICE_ORDER=PCI_BUS_ID (or all boards are alike).

    >>> uuids(["GPU-1a", "MIG-2b"])
    ('GPU-1a', 'MIG-2b')
    """
    names = [str(one).strip() for one in ids]
    if not any(name.isdigit() for name in names):
        return tuple(names)
    try:
        library.nvmlInit()
    except NVMLError:
        return tuple(names)
    found = []
    for name in names:
        uuid = name
        with suppress(NVMLError):
            uuid = library.nvmlDeviceGetUUID(library.nvmlDeviceGetHandleByIndex(int(name))) if name.isdigit() else name
        found.append(uuid)
    with suppress(NVMLError):
        library.nvmlShutdown()
    return tuple(found)
