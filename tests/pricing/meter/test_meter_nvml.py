"""What is read of a driver: everything it tells, nothing that it does not, and boards that go and come back."""

from __future__ import annotations

import inspect
import itertools

import pynvml
import pytest

from pricing.meter import profiles
from pricing.meter.double import DoubleBoard, DoubleInstance, DoubleLibrary
from pricing.meter.library import Library, mig_profile
from pricing.meter.nvml import REOPEN_S_MAX, REOPEN_S_MIN, Nvml

FIELDS = {
    "nvmlDeviceGetTotalEnergyConsumption": "energy_mj",
    "nvmlDeviceGetPowerUsage": "watts",
    "nvmlDeviceGetUtilizationRates": "utilization",
    "nvmlDeviceGetMemoryInfo": "memory_total_bytes",
    "nvmlDeviceGetClockInfo": "sm_clock_mhz",
    "nvmlDeviceGetComputeRunningProcesses": "processes",
    "nvmlDeviceGetPowerManagementDefaultLimit": "tdp_watts",
}
ERRORS = (
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_TIMEOUT,
    pynvml.NVML_ERROR_UNKNOWN,
)


def board(name: str = "GPU-a", **fields: object) -> DoubleBoard:
    return DoubleBoard(name, **fields)  # type: ignore[arg-type]


def test_the_double_and_the_real_library_have_every_function_that_is_used() -> None:
    names = [name for name, _ in inspect.getmembers(Library, inspect.isfunction) if name.startswith("nvml")]
    assert len(names) > 15
    for name in names:
        asked = list(inspect.signature(getattr(Library, name)).parameters)[1:]
        for library in (pynvml, DoubleLibrary([])):
            needed = [
                parameter
                for parameter in inspect.signature(getattr(library, name)).parameters.values()
                if parameter.default is inspect.Parameter.empty
            ]
            assert len(needed) == len(asked), (library, name)


def test_everything_that_a_board_tells_is_read() -> None:
    library = DoubleLibrary(
        [board(watts=321.5, utilization=87, memory_used_bytes=5, throttle_bits=0x25, processes={4: 7})]
    )
    (seen,), problem = Nvml(library).read(0.0)
    assert problem == ""
    assert (seen.uuid, seen.number, seen.tdp_watts) == ("GPU-a", 0, 700.0)
    assert (seen.energy_mj, seen.watts, seen.utilization) == (5_000_000_000, 321.5, 0.87)
    assert (seen.memory_used_bytes, seen.memory_total_bytes, seen.sm_clock_mhz) == (5, 80 * 2**30, 1980)
    assert seen.throttled_by == ("power cap", "software thermal slowdown")  # idling is no throttling
    assert seen.processes is not None
    assert [(p.pid, p.memory_bytes, p.sm_use) for p in seen.processes] == [(4, 7, None)]
    assert (seen.gone, seen.problem, seen.mig) == (False, "", ())


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("function", FIELDS)
def test_a_field_that_cannot_be_read_is_none_and_costs_no_other_field(function: str, error: int) -> None:
    library = DoubleLibrary([board(refuses={function: error})])
    (seen,), _ = Nvml(library).read(0.0)
    unread = [name for name in FIELDS.values() if getattr(seen, name) is None]
    assert unread == [FIELDS[function]]
    assert not seen.gone


def test_a_board_that_tells_neither_energy_nor_power_says_so() -> None:
    refuses = dict.fromkeys(
        ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"), pynvml.NVML_ERROR_NOT_SUPPORTED
    )
    (seen,), _ = Nvml(DoubleLibrary([board(refuses=refuses)])).read(0.0)
    assert seen.problem == "neither energy nor power can be read"


def test_an_older_driver_names_throttling_otherwise() -> None:
    refuses = {"nvmlDeviceGetCurrentClocksEventReasons": pynvml.NVML_ERROR_FUNCTION_NOT_FOUND}
    (seen,), _ = Nvml(DoubleLibrary([board(throttle_bits=0x40, refuses=refuses)])).read(0.0)
    assert seen.throttled_by == ("hardware thermal slowdown",)


@pytest.mark.parametrize(
    "error",
    [
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
        pynvml.NVML_ERROR_UNKNOWN,
    ],
)
def test_without_a_driver_there_are_no_boards_and_a_reason(error: int) -> None:
    library = DoubleLibrary([board()], driver=error)
    nvml = Nvml(library)
    boards, problem = nvml.read(0.0)
    assert boards == ()
    assert problem.startswith("NVML: ")
    library.driver = 0
    assert nvml.read(REOPEN_S_MIN - 1.0)[0] == ()  # it is not asked every time
    assert len(nvml.read(REOPEN_S_MIN)[0]) == 1


def test_a_driver_without_boards_says_so_and_is_asked_again() -> None:
    library = DoubleLibrary([])
    nvml = Nvml(library)
    assert nvml.read(0.0) == ((), "NVML lists no GPU")
    library.boards.append(board())
    at_s = next(at_s for at_s in range(1, 200) if nvml.read(float(at_s))[0])
    assert at_s <= REOPEN_S_MIN + 1


def test_a_lost_board_leaves_the_others_alone_and_is_found_when_it_comes_back() -> None:
    library = DoubleLibrary([board("GPU-a"), board("GPU-b")])
    nvml = Nvml(library)
    nvml.read(0.0)
    library.boards[0].lost = True
    (a, b), _ = nvml.read(5.0)
    assert (a.gone, a.problem, b.gone) == (True, "GPU is lost", False)
    for at_s in range(10, 100, 5):
        live = [one.uuid for one in nvml.read(float(at_s))[0] if not one.gone]
        assert live == ["GPU-b"]
    library.boards[0].lost = False
    seen = [at_s for at_s in range(100, 1200, 5) if len(nvml.read(float(at_s))[0]) == 2]
    assert seen
    assert seen[0] <= 100 + REOPEN_S_MAX
    assert seen == list(range(seen[0], 1200, 5))


def test_a_driver_that_is_reloaded_under_an_open_meter_is_opened_anew() -> None:
    library = DoubleLibrary([board()])
    nvml = Nvml(library)
    nvml.read(0.0)
    library.nvmlShutdown()
    assert nvml.read(REOPEN_S_MIN)[0][0].gone
    assert not nvml.read(REOPEN_S_MIN + 5.0)[0][0].gone


def test_a_board_that_stays_away_is_looked_for_ever_more_rarely() -> None:
    library = DoubleLibrary([board("GPU-a"), board("GPU-b")])
    opened: list[float] = []
    at_s, nvml, init = 0.0, Nvml(library), library.nvmlInit

    def counting() -> None:
        opened.append(at_s)
        init()

    library.nvmlInit = counting  # type: ignore[method-assign]
    for at_s in (5.0 * i for i in range(2000)):
        library.boards[0].lost = at_s > 0
        nvml.read(at_s)
    pauses = [later - sooner for sooner, later in itertools.pairwise(opened)]
    assert len(opened) < 10_000 / REOPEN_S_MAX + 6
    assert REOPEN_S_MAX <= max(pauses) <= REOPEN_S_MAX + 5


def test_instances_of_a_divided_board_are_read_with_their_processes() -> None:
    instances = [DoubleInstance("MIG-1", 3, 40 * 2**30, {8: 9}), DoubleInstance("MIG-2", 1)]
    (seen,), _ = Nvml(DoubleLibrary([board(instances=instances)])).read(0.0)
    assert seen.utilization is None  # no driver tells it under MIG
    assert [(one.uuid, one.profile, one.slices, one.utilization) for one in seen.mig] == [
        ("MIG-1", "3g.40gb", 3, None),
        ("MIG-2", "1g.10gb", 1, None),
    ]
    assert seen.mig[0].memory_used_bytes == 9
    assert seen.mig[0].processes is not None
    assert seen.mig[0].processes[0].pid == 8


def test_sm_use_is_asked_for_shared_boards_only_and_only_since_the_last_time() -> None:
    library = DoubleLibrary([board(processes={1: 5, 2: 5}, sm_uses={1: 60, 2: 20})])
    library.run(1.0)
    nvml = Nvml(library)
    assert [p.sm_use for p in nvml.read(0.0)[0][0].processes or ()] == [None, None]
    assert [p.sm_use for p in nvml.read(5.0, {"GPU-a"})[0][0].processes or ()] == [0.6, 0.2]
    assert [p.sm_use for p in nvml.read(6.0, {"GPU-a"})[0][0].processes or ()] == [None, None]


def test_profiles_of_instances_are_named_as_nvidia_names_them() -> None:
    from types import SimpleNamespace

    part = SimpleNamespace(gpuInstanceSliceCount=3, computeInstanceSliceCount=1, memorySizeMB=40192)
    assert mig_profile("", part) == "1c.3g.40gb"
    assert mig_profile("", None) == ""


@pytest.mark.parametrize(
    ("name", "tdp_watts"),
    [
        ("NVIDIA H100 PCIe", 350.0),
        ("NVIDIA H100 NVL", 400.0),
        ("NVIDIA H200", 700.0),
        ("NVIDIA A100-SXM4-80GB", 400.0),
        ("NVIDIA A100 80GB PCIe", 300.0),
        ("NVIDIA A10", 150.0),
        ("NVIDIA L4", 72.0),
        ("NVIDIA L40S", 350.0),
        ("Tesla T4", 70.0),
        ("Tesla V100-SXM2-16GB", 300.0),
        ("NVIDIA GeForce RTX 4090", 450.0),
        ("NVIDIA RTX 6000 Ada Generation", 300.0),
        ("NVIDIA GB200", None),
        ("NVIDIA A1000", None),
        ("", None),
    ],
)
def test_boards_are_known_by_whole_words_of_their_name(name: str, tdp_watts: float | None) -> None:
    found = profiles.of_gpu(name)
    assert (None if found is None else found.tdp_watts) == tdp_watts


def test_the_limit_that_a_board_tells_is_preferred_to_the_table() -> None:
    assert profiles.of_gpu("NVIDIA H100 80GB HBM3", 500.0) == profiles.PowerProfile(50.0, 500.0)
