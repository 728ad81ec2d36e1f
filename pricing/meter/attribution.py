"""Whose joules: a board's to its MIG instances and to the replicas on it, a host's to the replicas without a GPU.

Pure functions over one interval. What is split always sums to what there was: no sensor sees less than a board (NVML knows
no power of a slice or a process), so that every split here is by something else, and ``how`` names it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from pricing.meter.energy import worst
from pricing.meter.host import HostInterval
from pricing.meter.library import GpuProcess, MigDevice
from pricing.meter.profiles import PowerProfile
from pricing.meter.readings import Label


class Replica(NamedTuple):
    """A replica on this node: its GPUs as it announced them (UUIDs, or numbers as text), and its engine's root process."""

    id: str
    pool: str
    gpus: tuple[str, ...] = ()
    pid: int = 0


def resolved(replica: Replica, uuids: Collection[str]) -> Replica:
    """``replica`` with the GPUs that it abbreviated, as CUDA_VISIBLE_DEVICES may, by the one of ``uuids`` that is meant.

    >>> resolved(Replica("r", "p", ("GPU-89", "0")), ["GPU-8932f937", "GPU-77"]).gpus
    ('GPU-8932f937', '0')
    """
    return replica._replace(gpus=tuple(_whole(name, uuids) for name in replica.gpus))


def _whole(name: str, uuids: Collection[str]) -> str:
    if name in uuids or not name.startswith(("GPU-", "MIG-")):
        return name
    meant = [uuid for uuid in uuids if uuid.startswith(name)]
    return meant[0] if len(meant) == 1 else name


class Seat(NamedTuple):
    """A board, or one MIG instance of it (``board`` is then its parent), with its joules of this interval.

    ``idle_share``: part of them that is drawn without any work. ``number``: the board's as text.
    """

    uuid: str
    board: str
    number: str
    joules: float
    label: Label
    how: str
    idle_share: float
    processes: tuple[GpuProcess, ...] | None


class Part(NamedTuple):
    """Joules of one replica in this interval."""

    joules: float
    label: Label
    how: str


def shares(sizes: Sequence[float], activity: Sequence[float], idle_share: float) -> list[float]:
    """Idle power goes by size, the rest by size times activity, all of it by size where nothing is active. Sums to 1.

    >>> shares([4, 4], [1.0, 0.0], 0.5)
    [0.75, 0.25]
    """
    total = sum(sizes)
    active = [size * use for size, use in zip(sizes, activity, strict=True)]
    busy = sum(active)
    if busy <= 0.0:
        return [size / total for size in sizes]
    return [idle_share * size / total + (1.0 - idle_share) * a / busy for size, a in zip(sizes, active, strict=True)]


def divide(joules: float, parts: Sequence[float]) -> list[float]:
    """``joules`` by ``parts`` (which sum to 1); the last takes what rounding leaves, so that the sum is the whole."""
    divided = [joules * part for part in parts[:-1]]
    return [*divided, max(0.0, joules - sum(divided))]


def mig_shares(instances: Sequence[MigDevice], idle_share: float) -> tuple[list[float], str]:
    """Parts of a board's joules by instance, and by what: the first measure that all of its instances tell.

    Sizes are compute slices, else memory. Instances together bear slices that nobody has: they are what the board is for.
    """
    sizes = _all([one.slices for one in instances]) or _all([one.memory_total_bytes for one in instances])
    measures = (
        ("utilization", [one.utilization for one in instances]),
        ("running processes", [None if one.processes is None else float(bool(one.processes)) for one in instances]),
        ("memory use", [_fraction(one.memory_used_bytes, one.memory_total_bytes) for one in instances]),
    )
    for name, measured in measures:
        activity = _known(measured)
        if activity is not None:
            return shares(sizes or [1.0] * len(instances), activity, idle_share), f"MIG slices and {name}"
    return shares(sizes or [1.0] * len(instances), [1.0] * len(instances), 1.0), "MIG slices"


def occupants(
    seats: Iterable[Seat], replicas: Iterable[Replica], trees: Mapping[int, Collection[int]]
) -> dict[str, list[Replica]]:
    """Who sits where, by the seat's UUID. ``trees``: processes below each replica's root."""
    found: dict[str, list[Replica]] = {}
    replicas = tuple(replicas)
    for seat in seats:
        pids = {process.pid for process in seat.processes or ()}
        here = [one for one in replicas if _sits(one, seat, not pids.isdisjoint(trees.get(one.pid, ())))]
        if here:
            found[seat.uuid] = here
    return found


def _sits(replica: Replica, seat: Seat, runs: bool) -> bool:
    if seat.uuid in replica.gpus:
        return True
    if seat.uuid != seat.board:  # an instance: whoever announced its whole board is where its processes run
        return runs and (not replica.gpus or seat.board in replica.gpus or seat.number in replica.gpus)
    return seat.number in replica.gpus or (runs and not replica.gpus)


def on_boards(
    seats: Sequence[Seat], sitting: Mapping[str, Sequence[Replica]], trees: Mapping[int, Collection[int]]
) -> dict[str, Part]:
    """Joules of each replica with a seat, summed over its seats. A seat that nobody has stays with its board alone."""
    found: dict[str, Part] = {}
    for seat in seats:
        here = sitting.get(seat.uuid)
        if not here:
            continue
        parts, by = _seat_shares(seat, here, trees)
        how = f"{seat.how}, {by}" if by else seat.how
        for replica, joules in zip(here, divide(seat.joules, parts), strict=True):
            before = found.get(replica.id, Part(0.0, "measured", how))
            found[replica.id] = Part(before.joules + joules, worst((before.label, seat.label)), before.how)
    return found


def _seat_shares(seat: Seat, here: Sequence[Replica], trees: Mapping[int, Collection[int]]) -> tuple[list[float], str]:
    """By SM use where the driver samples it, else by GPU memory, else equally."""
    if len(here) == 1:
        return [1.0], ""
    ones = [1.0] * len(here)
    mine = [[p for p in seat.processes or () if p.pid in trees.get(replica.pid, ())] for replica in here]
    if all(mine):
        uses = [sum(p.sm_use or 0.0 for p in processes) for processes in mine]
        if any(p.sm_use is not None for processes in mine for p in processes):
            return shares(ones, uses, seat.idle_share), f"shared by {len(here)} replicas by SM use"
        sizes = _all([_sum(p.memory_bytes for p in processes) for processes in mine])
        if sizes is not None:
            return shares(sizes, ones, seat.idle_share), f"shared by {len(here)} replicas by GPU memory"
    return shares(ones, ones, seat.idle_share), f"shared equally by {len(here)} replicas"


def unseen(dt_s: float, profile: PowerProfile | None) -> Part | None:
    """Joules of a replica that may have a board which nobody can tell: what its CPUs do says nothing of its power."""
    if profile is None:
        return None
    return Part(profile.idle_watts * dt_s, "modelled", "the pool's idle watts: its board is not known")


def on_host(host: HostInterval, dt_s: float, cpu_s: float | None, profile: PowerProfile | None) -> Part | None:
    """Joules of a replica of a node without boards: CPU time times package joules, else its pool's profile.

    ``cpu_s``: CPU seconds of its processes, None where they cannot be seen. None: nothing is known of it.
    """
    if cpu_s is not None and host.joules is not None:
        part = min(1.0, cpu_s / host.busy_s) if host.busy_s > 0.0 else 0.0
        return Part(host.joules * part, "measured", "RAPL package joules by CPU time")
    if profile is None:
        return None
    known = cpu_s is not None and profile.cpus > 0.0 and dt_s > 0.0 and profile.tdp_watts > profile.idle_watts
    if known and cpu_s is not None:
        watts = profile.watts(cpu_s / dt_s / profile.cpus)
        return Part(watts * dt_s, "modelled", "the pool's profile at its CPU time")
    return Part(profile.idle_watts * dt_s, "modelled", "the pool's idle watts: its utilization is unknown")


def _known(values: Sequence[float | None]) -> list[float] | None:
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None


def _all(values: Sequence[float | None]) -> list[float] | None:
    """All of them, where all are known and above zero."""
    known = _known(values)
    return known if known is not None and min(known, default=0.0) > 0.0 else None


def _sum(values: Iterable[int | None]) -> int | None:
    known = list(values)
    return None if None in known else sum(value or 0 for value in known)


def _fraction(part: int | None, whole: int | None) -> float | None:
    return part / whole if part is not None and whole else None
