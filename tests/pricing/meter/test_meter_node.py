"""The meter of a node over time: boards that are reset, lost and divided, replicas that come, share and go."""

from __future__ import annotations

import math

import msgspec
import pynvml
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pricing.meter.attribution import Replica
from pricing.meter.double import DoubleBoard, DoubleHost, DoubleInstance, DoubleLibrary
from pricing.meter.host import Host, Process
from pricing.meter.meter import Meter
from pricing.meter.nvml import Nvml
from pricing.meter.profiles import PowerProfile
from pricing.meter.readings import MeterReport

NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED


class Node:
    """A node of doubles and its meter."""

    def __init__(self, boards: list[DoubleBoard], host: DoubleHost | None = None, **pools: PowerProfile) -> None:
        self.library, self.host, self.at_s = DoubleLibrary(boards), host or DoubleHost(), 1_700_000_000.0
        self.meter = Meter(Nvml(self.library), self.host, pools, "node-1")
        self.replicas: list[Replica] = []

    def sample(self, seconds: float = 0.0, **host: object) -> MeterReport:
        """Let ``seconds`` pass, then sample."""
        self.library.run(seconds)
        self.host.run(seconds, **host)  # type: ignore[arg-type]
        self.at_s += seconds
        return self.meter.sample(self.at_s, self.replicas)


class NodeMachine(RuleBasedStateMachine):
    """Anything may happen to two boards, one of them divided, and three replicas."""

    def __init__(self) -> None:
        super().__init__()
        instances = [DoubleInstance("MIG-1", 4), DoubleInstance("MIG-2", 2, processes={50: 1})]
        self.whole, self.divided = DoubleBoard("GPU-a"), DoubleBoard("GPU-b", instances=instances)
        self.node = Node([self.whole, self.divided])
        self.node.replicas = [Replica("r1", "p", ("GPU-a",)), Replica("r2", "p", ("GPU-a",))]
        self.node.replicas += [Replica("r3", "q", ("MIG-1",)), Replica("r4", "q", ("MIG-2",))]
        self.last = self.now = self.node.sample()

    @rule(
        seconds=st.floats(0.1, 90),
        watts=st.floats(0, 700),
        busy=st.booleans(),
    )
    def time_passes(self, seconds: float, watts: float, busy: bool) -> None:
        for board in self.node.library.boards:
            board.watts = watts
        self.divided.instances[0].processes = {51: 1} if busy else {}
        self.last, self.now = self.now, self.node.sample(seconds)

    @rule(which=st.integers(0, 1))
    def a_board_is_reset(self, which: int) -> None:
        self.node.library.boards[which].reset()

    @rule(which=st.integers(0, 1))
    def a_counter_glitches(self, which: int) -> None:
        self.node.library.boards[which].energy_mj += 1e15

    @rule(which=st.integers(0, 1), lost=st.booleans())
    def a_board_is_lost_or_comes_back(self, which: int, lost: bool) -> None:
        self.node.library.boards[which].lost = lost

    @rule(error=st.sampled_from([0, pynvml.NVML_ERROR_DRIVER_NOT_LOADED, pynvml.NVML_ERROR_UNKNOWN]))
    def the_driver_goes_or_comes(self, error: int) -> None:
        self.node.library.driver = error

    @rule(
        which=st.integers(0, 1),
        function=st.sampled_from(["nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"]),
        refused=st.booleans(),
    )
    def a_sensor_fails_or_works(self, which: int, function: str, refused: bool) -> None:
        board = self.node.library.boards[which]
        board.refuses = {function: NOT_SUPPORTED} if refused else {}

    @invariant()
    def no_joules_are_taken_back_or_invented(self) -> None:
        before = {gpu.uuid: gpu for gpu in self.last.gpus}
        for gpu in self.now.gpus:
            earlier = before.get(gpu.uuid, gpu)
            assert earlier.joules <= gpu.joules <= earlier.joules + 1400 * (gpu.at_s - earlier.at_s + 0.2)
            assert 0.0 <= gpu.watts <= 1400 * 3
        replicas = {replica.replica: replica for replica in self.last.replicas}
        for replica in self.now.replicas:
            assert replica.joules >= replicas.get(replica.replica, replica).joules

    @invariant()
    def instances_and_replicas_sum_to_their_boards(self) -> None:
        joules = {gpu.uuid: gpu.joules for gpu in self.now.gpus}
        for gpu in self.now.gpus:
            if gpu.mig:
                assert math.fsum(one.joules for one in gpu.mig) == pytest.approx(gpu.joules, rel=1e-9)
                assert math.fsum(one.share for one in gpu.mig) == pytest.approx(1.0)
        mine = {replica.replica: replica.joules for replica in self.now.replicas}
        assert mine["r1"] + mine["r2"] == pytest.approx(joules["GPU-a"], rel=1e-9)
        assert mine["r3"] + mine["r4"] == pytest.approx(joules["GPU-b"], rel=1e-9)

    @invariant()
    def a_board_that_cannot_be_seen_is_frozen_and_says_why(self) -> None:
        before = {gpu.uuid: gpu.joules for gpu in self.last.gpus}
        assert len(self.now.gpus) == 2
        for gpu in self.now.gpus:
            if gpu.at_s < self.now.at_s:
                assert gpu.problem
                assert (gpu.joules, gpu.watts, gpu.utilization) == (before[gpu.uuid], 0.0, None)


NodeMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestNodeMachine = NodeMachine.TestCase


def test_a_reset_loses_at_most_one_interval() -> None:
    node = Node([DoubleBoard("GPU-a", watts=300.0)])
    node.sample()
    node.library.boards[0].refuses = {"nvmlDeviceGetPowerUsage": NOT_SUPPORTED}
    for i in range(10):
        if i == 5:
            node.library.boards[0].reset()
        report = node.sample(5.0)
    assert report.gpus[0].joules == pytest.approx(300.0 * 5.0 * 9)
    assert "5 s not counted" in report.gpus[0].how


def test_a_lost_board_is_frozen_and_goes_on_counting_when_it_comes_back() -> None:
    node = Node([DoubleBoard("GPU-a", watts=200.0), DoubleBoard("GPU-b", watts=100.0)])
    node.sample()
    before = node.sample(5.0).gpus[0]
    node.library.boards[0].lost = True
    for _ in range(20):
        gone = node.sample(5.0).gpus[0]
        assert (gone.uuid, gone.joules, gone.watts) == ("GPU-a", before.joules, 0.0)
        assert gone.problem
    node.library.boards[0].lost = False
    node.library.boards[0].reset()
    readings = [node.sample(5.0).gpus[0] for _ in range(200)]
    back = next(i for i, reading in enumerate(readings) if not reading.problem)
    assert readings[-1].joules == pytest.approx(before.joules + 200.0 * 5.0 * (199 - back))


def test_without_a_driver_the_report_says_so_and_still_speaks_of_the_host() -> None:
    node = Node([])
    node.library.driver = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    report = node.sample()
    assert report.gpus == ()
    assert report.problem == "NVML: NVML Shared Library Not Found"
    assert report.host.memory_total_bytes > 0


def test_this_machine_is_metered_for_real_whether_or_not_it_has_a_gpu() -> None:
    meter = Meter(Nvml(), Host(), {}, "here")
    meter.sample(1_700_000_000.0)
    report = meter.sample(1_700_000_005.0)
    assert bool(report.gpus) != bool(report.problem)
    assert 0.0 <= report.host.cpu_utilization <= 1.0
    assert report.host.memory_total_bytes > 2**20
    assert msgspec.json.decode(msgspec.json.encode(report), type=MeterReport) == report


def test_a_board_without_sensors_is_modelled_from_its_name_and_utilization() -> None:
    refuses = dict.fromkeys(("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"), NOT_SUPPORTED)
    node = Node([DoubleBoard("GPU-a", utilization=50, refuses=refuses)])
    node.sample()
    (gpu,) = node.sample(10.0).gpus
    assert (gpu.joules, gpu.watts, gpu.label) == (3850.0, 385.0, "modelled")


def test_a_divided_board_that_answers_nothing_for_a_moment_stays_divided() -> None:
    node = Node([DoubleBoard("GPU-a", watts=100.0, instances=[DoubleInstance("MIG-1", 4), DoubleInstance("MIG-2", 3)])])
    node.replicas = [Replica("r", "p", ("MIG-1",))]
    node.sample()
    node.library.driver = pynvml.NVML_ERROR_UNKNOWN
    node.sample(5.0)
    node.library.driver = 0
    (gpu,) = node.sample(5.0).gpus
    assert [one.uuid for one in gpu.mig] == ["MIG-1", "MIG-2"]
    assert sum(one.joules for one in gpu.mig) == pytest.approx(gpu.joules)


def test_a_wall_clock_that_jumps_back_breaks_no_interval() -> None:
    node = Node([DoubleBoard("GPU-a", watts=300.0)])
    node.sample()
    first = node.sample(5.0)
    node.at_s -= 1000.0
    assert node.sample(5.0).gpus[0].joules == first.gpus[0].joules


def test_an_idle_board_without_replica_is_reported_under_its_own_name_only() -> None:
    node = Node([DoubleBoard("GPU-a", watts=70.0), DoubleBoard("GPU-b", watts=70.0)])
    node.replicas = [Replica("r", "p", ("GPU-a",))]
    node.sample()
    report = node.sample(10.0)
    assert [gpu.joules for gpu in report.gpus] == [700.0, 700.0]
    assert [(one.replica, one.joules, one.watts, one.label) for one in report.replicas] == [
        ("r", 700.0, 70.0, "measured")
    ]


def test_two_replicas_on_one_board_are_split_by_sm_use_from_the_second_sample_on() -> None:
    board = DoubleBoard("GPU-a", watts=500.0, processes={11: 5, 21: 5}, sm_uses={11: 75, 21: 25})
    host = DoubleHost(table={pid: Process(pid - 1 if pid % 10 else 1, 0.0, 0.0) for pid in (10, 11, 20, 21)})
    node = Node([board], host)
    node.replicas = [Replica("a", "p", ("GPU-a",), 10), Replica("b", "p", ("GPU-a",), 20)]
    node.sample()
    node.sample(5.0)
    before = {one.replica: one.joules for one in node.sample(5.0).replicas}
    after = {one.replica: one for one in node.sample(10.0).replicas}
    grown = {name: one.joules - before[name] for name, one in after.items()}
    idle = 70.0 / 500.0
    assert grown["a"] == pytest.approx(5000.0 * (idle / 2 + (1 - idle) * 0.75))
    assert sum(grown.values()) == pytest.approx(5000.0)
    assert "by SM use" in after["a"].how


def test_a_pool_on_cpus_has_its_part_of_the_packages_joules() -> None:
    host = DoubleHost(rapl=True, table={1: Process(0, 0.0, 5.0), 30: Process(1, 1.0, 7.0), 31: Process(30, 1.0, 1.0)})
    node = Node([], host)
    node.replicas = [Replica("cpu", "tiny", (), 30)]
    node.sample()
    report = node.sample(10.0, watts=80.0, cpu_s={31: 6.0}, other_s=2.0)
    (reading,) = report.replicas
    assert (reading.joules, reading.label) == (pytest.approx(800.0 * 0.75), "measured")
    assert (report.host.joules, report.host.watts, report.host.label) == (pytest.approx(800.0), 80.0, "measured")


def test_a_replica_of_a_site_without_sensors_is_modelled_by_its_pool_and_else_left_out() -> None:
    node = Node([], tiny=PowerProfile(3.0, 11.0, 1.0))
    node.host.table = {30: Process(1, 1.0, 7.0)}
    node.replicas = [
        Replica("known", "tiny", (), 30),
        Replica("unknown", "other", (), 30),
        Replica("gpu", "tiny", ("0",)),
    ]
    node.sample()
    found = {one.replica: one for one in node.sample(10.0, cpu_s={30: 5.0}).replicas}
    assert {name: one.joules for name, one in found.items()} == {"known": 70.0, "gpu": 30.0}
    assert {one.label for one in found.values()} == {"modelled"}


def test_an_engine_with_a_board_that_nobody_can_tell_is_not_billed_by_its_cpu_time() -> None:
    host = DoubleHost(rapl=True, table={30: Process(1, 1.0, 7.0)})
    node = Node([DoubleBoard("GPU-a", watts=500.0, processes={99: 5})], host, big=PowerProfile(70.0, 700.0, 8.0))
    node.replicas = [Replica("engine", "big", (), 30), Replica("bare", "other", (), 30)]
    node.sample()
    (reading,) = node.sample(10.0, watts=80.0, cpu_s={30: 6.0}).replicas
    assert (reading.replica, reading.joules, reading.label) == ("engine", 700.0, "modelled")
    assert "board is not known" in reading.how


def test_replicas_on_cpus_never_share_out_more_than_their_packages_drew() -> None:
    host = DoubleHost(rapl=True, table={30: Process(1, 1.0, 7.0), 31: Process(30, 1.0, 1.0), 40: Process(1, 1.0, 0.0)})
    node = Node([], host)
    node.replicas = [Replica("a", "p", (), 30), Replica("b", "p", (), 31), Replica("c", "p", (), 40)]
    node.sample()
    report = node.sample(10.0, watts=80.0, cpu_s={31: 6.0, 40: 6.0}, other_s=-4.0)
    assert [one.joules for one in report.replicas] == pytest.approx([800.0 / 3] * 3)


def test_a_worker_found_late_brings_no_lifetime_of_cpu_time_with_it() -> None:
    host = DoubleHost(rapl=True, table={30: Process(1, 1.0, 7.0)})
    node = Node([], host)
    node.replicas = [Replica("a", "p", (), 30)]
    node.sample()
    for _ in range(7):
        node.sample(5.0, watts=100.0, other_s=10.0)
    host.table[31] = Process(30, 2.0, 5000.0)
    for _ in range(7):
        (reading,) = node.sample(5.0, watts=100.0, other_s=10.0).replicas
    assert reading.joules == 0.0


def test_a_board_announced_by_the_beginning_of_its_uuid_is_known_unless_two_begin_alike() -> None:
    node = Node([DoubleBoard("GPU-8932f937-d72c", watts=300.0), DoubleBoard("GPU-8f00", watts=100.0)])
    node.replicas = [Replica("a", "p", ("GPU-8932f937",)), Replica("b", "p", ("GPU-8",))]
    node.sample()
    report = node.sample(10.0)
    assert [(one.replica, one.joules, one.label) for one in report.replicas] == [("a", 3000.0, "measured")]


def test_a_replica_whose_board_has_gone_is_not_measured_to_draw_nothing() -> None:
    node = Node([DoubleBoard("GPU-a", watts=300.0), DoubleBoard("GPU-b", watts=300.0)])
    node.replicas = [Replica("r", "p", ("GPU-a",))]
    node.sample()
    node.sample(5.0)
    node.library.boards[0].lost = True
    (reading,) = node.sample(5.0).replicas
    assert (reading.joules, reading.watts, reading.label) == (1500.0, 0.0, "modelled")
    assert "gone" in reading.how


def test_a_replica_that_is_replaced_leaves_nothing_to_its_successor() -> None:
    node = Node([DoubleBoard("GPU-a", watts=100.0)])
    node.replicas = [Replica("old", "p", ("GPU-a",))]
    node.sample()
    node.sample(50.0)
    node.replicas = [Replica("new", "p", ("GPU-a",))]
    assert [(one.replica, one.joules) for one in node.sample(5.0).replicas] == [("new", 500.0)]
