"""The meter of one node: every few seconds, what its boards, its host and the replicas on it have drawn since it started.

Synchronous and without threads; ``now_s`` is Unix seconds carried by a monotonic clock (``serving.clock``), so that no
interval depends on the wall clock. Drivers, processes and files come in through ``Nvml`` and ``HostSource``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from pricing.meter import attribution, energy, profiles
from pricing.meter import host as hosts
from pricing.meter.attribution import Part, Replica, Seat
from pricing.meter.energy import Count, Sample
from pricing.meter.host import HostInterval, HostSample, HostSource, Process
from pricing.meter.library import Board
from pricing.meter.nvml import Nvml
from pricing.meter.profiles import PowerProfile
from pricing.meter.readings import GpuReading, HostReading, MeterReport, MigReading, ReplicaReading

# Above what any board draws (the largest of 2025 are built for 1,400 W): what a board without a known TDP may draw at most.
_WATTS_MAX = 3000.0
# Reading the whole process table costs 30 us a process; a server may have thousands.
_LOOK_S = 30.0


class Meter:
    """Counts from its first sample on. ``profiles`` by pool: what its hardware draws where nothing can be measured."""

    def __init__(self, nvml: Nvml, host: HostSource, profiles: Mapping[str, PowerProfile], node: str) -> None:
        self._nvml, self._host, self._profiles, self._node = nvml, host, profiles, node
        self._started_s: float | None = None
        self._at_s = 0.0
        self._counts: dict[str, Count] = {}
        self._readings: dict[str, GpuReading] = {}
        self._mig_joules: dict[str, float] = {}
        self._lowest_watts: dict[str, float] = {}
        self._replicas: dict[str, ReplicaReading] = {}
        self._present: frozenset[str] = frozenset()
        self._shared: frozenset[str] = frozenset()
        self._processes: Mapping[int, Process] = {}
        self._trees: Mapping[int, Collection[int]] = {}
        self._looked_s = float("-inf")
        self._host_sample: HostSample | None = None
        self._host_joules: float | None = None

    def sample(self, now_s: float, replicas: Sequence[Replica] = ()) -> MeterReport:
        """Read everything once. ``replicas``: those on this node; one that is no longer named is forgotten."""
        if self._started_s is None:
            self._started_s = self._at_s = now_s
        dt_s = max(0.0, now_s - self._at_s)
        boards, problem = self._nvml.read(now_s, self._shared)
        seats: list[Seat] = []
        for board in boards:
            if not board.gone:
                seats += self._count(board, now_s)
        present = {board.uuid for board in boards if not board.gone}
        for uuid in self._readings.keys() - present:
            why = next(
                (board.problem for board in boards if board.uuid == uuid), problem or "the driver no longer lists it"
            )
            self._readings[uuid] = _frozen(self._readings[uuid], why)
        host, interval = self._read_host(now_s)
        uuids = {seat.uuid for seat in seats}.union(*map(_names, self._readings.values()))
        replicas = [attribution.resolved(replica, uuids) for replica in replicas]
        self._attribute(seats, replicas, interval, dt_s, present)
        self._at_s = max(self._at_s, now_s)
        return MeterReport(
            node=self._node,
            started_s=self._started_s,
            at_s=now_s,
            gpus=tuple(sorted(self._readings.values(), key=lambda reading: (reading.index, reading.uuid))),
            host=host,
            replicas=tuple(self._replicas[replica.id] for replica in replicas if replica.id in self._replicas),
            problem=problem,
        )

    def _count(self, board: Board, now_s: float) -> list[Seat]:
        """Count one board's interval, note its reading; the seats that it offers with their joules of the interval."""
        profile = profiles.of_gpu(board.name, board.tdp_watts)
        watts_max = _WATTS_MAX if profile is None else 2.0 * profile.tdp_watts
        modelled = None if profile is None else profile.watts(board.utilization)
        seen = Sample(now_s, board.energy_mj, board.watts, modelled)
        before = self._counts.get(board.uuid)
        count = energy.start(seen, watts_max) if before is None else energy.advance(before, seen, watts_max)
        self._counts[board.uuid] = count
        joules = 0.0 if before is None else count.joules - before.joules
        idle_share = self._idle_share(board.uuid, count, profile)
        mig, seats = self._mig(board, joules, count, idle_share)
        self._readings[board.uuid] = _reading(board, count, now_s, mig)
        return seats or [
            Seat(board.uuid, board.uuid, str(board.number), joules, count.label, count.how, idle_share, board.processes)
        ]

    def _idle_share(self, uuid: str, count: Count, profile: PowerProfile | None) -> float:
        """Part of the interval's power that the board would draw at rest: its profile's, or the least seen so far."""
        lowest = self._lowest_watts[uuid] = min(self._lowest_watts.get(uuid, count.watts), count.watts)
        idle_watts = lowest if profile is None else min(lowest, profile.idle_watts)
        return min(1.0, idle_watts / count.watts) if count.watts > 0.0 else 1.0

    def _mig(
        self, board: Board, joules: float, count: Count, idle_share: float
    ) -> tuple[tuple[MigReading, ...], list[Seat]]:
        """The board's joules among its instances. While its layout stands, theirs grow by as much as the board's."""
        if not board.mig:
            return (), []
        parts, by = attribution.mig_shares(board.mig, idle_share)
        how = f"{count.how}, apportioned by {by}"
        readings, seats = [], []
        for one, part, mine in zip(board.mig, parts, attribution.divide(joules, parts), strict=True):
            total = self._mig_joules[one.uuid] = self._mig_joules.get(one.uuid, 0.0) + mine
            readings.append(
                MigReading(one.uuid, one.profile, part, total, one.memory_used_bytes or 0, one.memory_total_bytes or 0)
            )
            seats.append(
                Seat(one.uuid, board.uuid, str(board.number), mine, count.label, how, idle_share, one.processes)
            )
        return tuple(readings), seats

    def _read_host(self, now_s: float) -> tuple[HostReading, HostInterval]:
        seen = self._host.sample(now_s)
        interval = hosts.between(self._host_sample, seen)
        watts = None
        if seen.zones and self._host_joules is None:
            self._host_joules = 0.0
        if interval.joules is not None and self._host_sample is not None:
            self._host_joules = (self._host_joules or 0.0) + interval.joules
            watts = interval.joules / (now_s - self._host_sample.at_s)
        self._host_sample = seen
        reading = HostReading(
            at_s=now_s,
            cpu_utilization=interval.utilization,
            memory_used_bytes=seen.memory_used_bytes,
            memory_total_bytes=seen.memory_total_bytes,
            joules=self._host_joules,
            watts=watts,
            label="modelled" if self._host_joules is None else "measured",
            how="" if self._host_joules is None else "RAPL packages and memory",
        )
        return reading, interval

    def _attribute(
        self,
        seats: Sequence[Seat],
        replicas: Sequence[Replica],
        host: HostInterval,
        dt_s: float,
        present: Collection[str],
    ) -> None:
        """Add this interval's joules to each replica's."""
        last, wanted = self._processes, self._shared or any(one.pid and not one.gpus for one in replicas)
        trees = self._look({one.pid for one in replicas if one.pid} if wanted else set())
        sitting = attribution.occupants(seats, replicas, trees)
        self._shared = frozenset(seat.board for seat in seats if len(sitting.get(seat.uuid, ())) > 1)
        found: dict[str, Part | None] = dict(attribution.on_boards(seats, sitting, trees))
        lost = {name for uuid, reading in self._readings.items() if uuid not in present for name in _names(reading)}
        cpu_s = {
            one.id: hosts.cpu_seconds(tree, last, self._processes)
            for one in replicas
            if one.id in self._present and last and (tree := trees.get(one.pid))
        }
        # Trees may overlap, and clocks of processes run ahead of the node's: together they draw no more than there was.
        host = host._replace(busy_s=max(host.busy_s, sum(cpu_s.values())))
        known: dict[str, ReplicaReading] = {}
        for replica in replicas:
            before = self._replicas.get(replica.id)
            part = found.get(replica.id)
            if part is None and lost.isdisjoint(replica.gpus):
                here_s = min(dt_s, energy.GAP_S_MAX) if replica.id in self._present else 0.0
                profile = self._profiles.get(replica.pool)
                if replica.gpus or self._readings:
                    part = attribution.unseen(here_s, profile)
                else:
                    part = attribution.on_host(host, here_s, cpu_s.get(replica.id), profile)
            if part is None and before is not None:
                part = Part(0.0, "modelled", "nothing to count: its board has gone")
            if part is not None:
                known[replica.id] = _added(replica, before, part, dt_s)
        self._replicas, self._present = known, frozenset(replica.id for replica in replicas)

    def _look(self, roots: set[int]) -> Mapping[int, Collection[int]]:
        """Processes below ``roots``; new children of known roots are found a little later than new roots."""
        if not roots:
            self._trees, self._processes = {}, {}
        elif self._trees.keys() != roots or self._at_s - self._looked_s >= _LOOK_S:
            self._processes, self._looked_s = self._host.processes(), self._at_s
            self._trees = hosts.trees(self._processes, roots)
        else:
            self._processes = self._host.processes(frozenset().union(*self._trees.values()))
        return self._trees


def _added(replica: Replica, before: ReplicaReading | None, part: Part, dt_s: float) -> ReplicaReading:
    joules = part.joules + (0.0 if before is None else before.joules)
    watts = part.joules / dt_s if dt_s > 0.0 else 0.0
    return ReplicaReading(replica.id, replica.pool, joules, watts, part.label, part.how)


def _names(reading: GpuReading) -> tuple[str, ...]:
    """Everything by which a replica may have announced this board or a part of it."""
    return (reading.uuid, str(reading.index), *(one.uuid for one in reading.mig))


def _frozen(reading: GpuReading, why: str) -> GpuReading:
    """The last reading of a board that has gone: its joules stay, all that belongs to the moment does not."""
    return GpuReading(
        uuid=reading.uuid,
        index=reading.index,
        name=reading.name,
        at_s=reading.at_s,
        joules=reading.joules,
        watts=0.0,
        label=reading.label,
        how=reading.how,
        mig=reading.mig,
        problem=why,
    )


def _reading(board: Board, count: Count, now_s: float, mig: tuple[MigReading, ...]) -> GpuReading:
    return GpuReading(
        uuid=board.uuid,
        index=board.number,
        name=board.name,
        at_s=now_s,
        joules=count.joules,
        watts=count.watts,
        label=count.label,
        how=count.how,
        utilization=board.utilization,
        memory_used_bytes=board.memory_used_bytes or 0,
        memory_total_bytes=board.memory_total_bytes or 0,
        sm_clock_mhz=board.sm_clock_mhz or 0,
        throttled_by=board.throttled_by,
        mig=mig,
        problem=board.problem,
    )
