"""Splits: what is divided sums to what there was, idle power by size, work by activity."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.meter import attribution
from pricing.meter.attribution import Replica, Seat
from pricing.meter.host import HostInterval
from pricing.meter.library import GpuProcess, MigDevice
from pricing.meter.profiles import PowerProfile

counts = st.integers(0, 10**12)
instances = st.lists(
    st.builds(
        MigDevice,
        uuid=st.uuids().map(str),
        profile=st.just(""),
        slices=st.none() | st.integers(1, 7),
        utilization=st.none() | st.floats(0, 1),
        memory_used_bytes=st.none() | counts,
        memory_total_bytes=st.none() | counts,
        processes=st.none() | st.just(()) | st.just((GpuProcess(7, None),)),
    ),
    min_size=1,
    max_size=8,
)


def seat(uuid: str = "GPU-a", joules: float = 100.0, *processes: GpuProcess, idle: float = 0.0) -> Seat:
    return Seat(uuid, uuid, "0", joules, "measured", "counter", idle, processes)


def instance(uuid: str, slices: int, pids: tuple[int, ...] | None, utilization: float | None = None) -> MigDevice:
    processes = None if pids is None else tuple(GpuProcess(pid, None) for pid in pids)
    return MigDevice(uuid, f"{slices}g", slices, utilization, 1, 2, processes)


@given(instances, st.floats(0, 1), st.floats(0, 1e9))
def test_instances_together_draw_exactly_what_their_board_draws(
    instances: list[MigDevice], idle_share: float, joules: float
) -> None:
    parts, _ = attribution.mig_shares(instances, idle_share)
    divided = attribution.divide(joules, parts)
    assert len(divided) == len(instances)
    assert min(divided) >= 0.0
    assert math.fsum(divided) == pytest.approx(joules, rel=1e-12, abs=1e-9)


def test_an_idle_slice_bears_its_part_of_idle_power_and_none_of_the_work() -> None:
    parts, by = attribution.mig_shares([instance("a", 4, (1,)), instance("b", 3, ())], idle_share=0.7)
    assert parts == [pytest.approx(0.7 * 4 / 7 + 0.3), pytest.approx(0.7 * 3 / 7)]
    assert by == "MIG slices and running processes"


def test_the_utilization_of_instances_is_preferred_where_all_of_them_tell_it() -> None:
    both = [instance("a", 1, (1,), 0.9), instance("b", 1, (2,), 0.1)]
    assert attribution.mig_shares(both, 0.0) == ([0.9, pytest.approx(0.1)], "MIG slices and utilization")
    one = [both[0], both[1]._replace(utilization=None)]
    assert attribution.mig_shares(one, 0.0) == ([0.5, 0.5], "MIG slices and running processes")


def test_a_replica_alone_on_its_boards_has_all_they_draw() -> None:
    seats = [seat("GPU-a", 100.0), seat("GPU-b", 50.0), seat("GPU-c", 7.0)]
    replica = Replica("r", "p", ("GPU-a", "GPU-b"))
    sitting = attribution.occupants(seats, [replica], {})
    found = attribution.on_boards(seats, sitting, {})
    assert found == {"r": attribution.Part(150.0, "measured", "counter")}


@pytest.mark.parametrize(
    ("processes", "expected", "by"),
    [
        ([GpuProcess(1, 30, 0.6), GpuProcess(2, 10, 0.2)], [75.0, 25.0], "by SM use"),
        ([GpuProcess(1, 30), GpuProcess(2, 10)], [75.0, 25.0], "by GPU memory"),
        ([GpuProcess(1, None), GpuProcess(2, 10)], [50.0, 50.0], "equally"),
        ([], [50.0, 50.0], "equally"),
    ],
)
def test_replicas_that_share_a_board_share_its_joules_and_say_by_what(
    processes: list[GpuProcess], expected: list[float], by: str
) -> None:
    seats, trees = [seat("GPU-a", 100.0, *processes)], {1: {1}, 2: {2}}
    replicas = [Replica("a", "p", ("GPU-a",), 1), Replica("b", "q", ("GPU-a",), 2)]
    found = attribution.on_boards(seats, attribution.occupants(seats, replicas, trees), trees)
    assert [found["a"].joules, found["b"].joules] == pytest.approx(expected)
    assert by in found["a"].how


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.lists(st.floats(0, 1e6), min_size=4, max_size=4))
def test_boards_that_somebody_sits_on_are_attributed_whole(where: list[int], joules: list[float]) -> None:
    seats = [seat(f"GPU-{i}", value) for i, value in enumerate(joules)]
    replicas = [Replica(f"r{i}", "p", (f"GPU-{board}",)) for i, board in enumerate(where)]
    found = attribution.on_boards(seats, attribution.occupants(seats, replicas, {}), {})
    taken = sum(joules[board] for board in set(where))
    assert math.fsum(part.joules for part in found.values()) == pytest.approx(taken, rel=1e-12, abs=1e-9)


def test_a_replica_that_names_no_board_is_found_by_its_processes() -> None:
    seats = [seat("GPU-a", 100.0, GpuProcess(12, None)), seat("GPU-b", 50.0, GpuProcess(99, None))]
    trees = {10: {10, 11, 12}}
    sitting = attribution.occupants(seats, [Replica("r", "p", (), 10)], trees)
    assert list(sitting) == ["GPU-a"]


def test_a_replica_may_name_its_board_by_number() -> None:
    assert list(attribution.occupants([seat()], [Replica("r", "p", ("0",))], {})) == ["GPU-a"]
    assert attribution.occupants([seat()], [Replica("r", "p", ("1",))], {}) == {}


def test_whoever_names_a_divided_board_sits_where_its_processes_run() -> None:
    one = seat("MIG-1", 10.0, GpuProcess(5, None))._replace(board="GPU-a")
    two = seat("MIG-2", 20.0, GpuProcess(6, None))._replace(board="GPU-a")
    assert list(attribution.occupants([one, two], [Replica("r", "p", ("GPU-a",), 6)], {6: {6}})) == ["MIG-2"]
    assert list(attribution.occupants([one, two], [Replica("r", "p", ("MIG-1",), 0)], {})) == ["MIG-1"]


def test_a_pool_on_cpus_has_its_part_of_the_package_by_cpu_time() -> None:
    part = attribution.on_host(HostInterval(0.5, 40.0, 1000.0), 10.0, 10.0, PowerProfile(5.0, 50.0, 1.0))
    assert part == attribution.Part(250.0, "measured", "RAPL package joules by CPU time")


def test_where_rapl_is_closed_the_pools_profile_stands_in_and_is_labelled() -> None:
    closed = HostInterval(0.5, 40.0, None)
    busy = attribution.on_host(closed, 10.0, 5.0, PowerProfile(5.0, 25.0, 1.0))
    assert busy is not None
    assert (busy.joules, busy.label) == (150.0, "modelled")
    unseen = attribution.on_host(closed, 10.0, None, PowerProfile(5.0, 25.0, 1.0))
    assert unseen is not None
    assert (unseen.joules, unseen.label) == (50.0, "modelled")
    assert attribution.on_host(closed, 10.0, 5.0, None) is None
