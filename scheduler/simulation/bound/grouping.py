"""From requests to groups of the slotted form: same slot, same pools, worth about the same per second of work."""

from __future__ import annotations

import numpy as np

from scheduler.simulation.bound.edf import Steps
from scheduler.simulation.bound.site import BoundRequests
from scheduler.simulation.bound.slotted import Arms, Groups


def slots_of(capacity: tuple[Steps, ...], from_s: float, slot_s: float, slots: int) -> Arms:
    """Pools as arms: the replica-seconds of each slot from ``from_s`` on, and no other limit."""
    edges = from_s + slot_s * np.arange(slots + 1)
    work_s = np.stack([np.diff(pool.integral(edges)) for pool in capacity])
    without = np.full(work_s.shape, np.inf)
    none = np.zeros(len(capacity))
    return Arms(slot_s, work_s, without, without, none, none)


def one_by_one(requests: BoundRequests, from_s: float, slot_s: float) -> Groups:
    """Every request is a group of one unit. Slots are rounded outward: arrivals down, deadlines up."""
    arrival_s = requests.arrival_s
    first_s = (arrival_s + requests.ttft_s)[:, None]
    forced = np.isinf(requests.usd_elsewhere)
    prefill_slot = np.broadcast_to(_last_slot(first_s - from_s, slot_s), requests.eligible.shape)
    first_slot = np.floor((arrival_s - from_s) / slot_s).astype(np.int64)
    late = requests.prefill_work_s > requests.ttft_s[:, None]
    count = len(arrival_s)
    return Groups(
        units=np.ones(count),
        first_slot=first_slot,
        requests=np.ones(count),
        tenant=np.full(count, -1),
        may_leave=~forced | ~requests.eligible.any(axis=1),
        late_slot=_last_slot(arrival_s + requests.late_s - from_s, slot_s),
        usd_saved=np.where(forced, 0.0, requests.usd_elsewhere)[:, None] - requests.energy_usd,
        usd_spent=np.zeros(requests.eligible.shape),
        prefill_work_s=requests.prefill_work_s,
        decode_work_s=requests.decode_work_s,
        kv_token_s=np.zeros(requests.eligible.shape),
        # No slot at all: the first token cannot be on time.
        prefill_slot=np.where(late, first_slot[:, None] - 1, prefill_slot),
        decode_slot=_last_slot(first_s + requests.decode_s - from_s, slot_s),
        allowed=requests.eligible,
    )


def _last_slot(until_s: np.ndarray, slot_s: float) -> np.ndarray:
    """The last slot that begins before an instant; the slot 0 at least."""
    return np.maximum(0, np.ceil(until_s / slot_s).astype(np.int64) - 1)


def merge(groups: Groups, bins: int, outward: bool) -> tuple[Groups, np.ndarray]:
    """Fewer groups: those of the same arrival slot, arms and limit of the first token, and about the same worth.

    A unit of the merged group is a replica-second of work (mean over the arms). With ``outward`` a group saves per unit
    what its best member saves, works what its least demanding member works, and waits as long as its most patient member:
    the optimum stays a bound. Without, it is their mean, which gives better prices and proves nothing. Also returns the
    merged group of each group.
    """
    work_s = groups.prefill_work_s + groups.decode_work_s
    arms = np.maximum(1, groups.allowed.sum(axis=1))
    size = (work_s * groups.allowed).sum(axis=1) / arms
    size = np.where(size > 0.0, size, 1.0) * groups.units
    worth = np.where(groups.allowed, groups.usd_saved * groups.units[:, None] / size[:, None], -np.inf).max(axis=1)
    ranks = np.empty(len(worth), np.int64)
    ranks[np.argsort(worth, kind="stable")] = np.arange(len(worth))
    wait = groups.prefill_slot.max(axis=1, initial=0) - groups.first_slot
    mask = groups.allowed @ (1 << np.arange(groups.allowed.shape[1]))
    parts = (groups.first_slot, wait, mask, groups.may_leave, groups.tenant, ranks * bins // max(1, len(ranks)))
    key = np.zeros(len(worth), np.int64)
    for part in parts:  # one number for all: far quicker to sort than rows
        shifted = part.astype(np.int64) - int(part.min(initial=0))
        key = key * (int(shifted.max(initial=0)) + 1) + shifted
    _, owner = np.unique(key, return_inverse=True)
    order = np.argsort(owner, kind="stable")
    begins = np.flatnonzero(np.concatenate(([True], np.diff(owner[order]) > 0)))
    units = np.add.reduceat(size[order], begins)

    def best(values: np.ndarray, ufunc: np.ufunc) -> np.ndarray:
        """Per unit, over the members of each group."""
        scale = (groups.units / size).reshape(-1, *([1] * (values.ndim - 1)))
        if outward:
            return np.asarray(ufunc.reduceat((values * scale)[order], begins))
        weight = groups.units.reshape(scale.shape)
        return np.asarray(np.add.reduceat((values * weight)[order], begins)) / units.reshape(-1, *scale.shape[1:])

    prefill_s = best(groups.prefill_work_s, np.minimum)
    first = order[begins]
    merged = Groups(
        units=units,
        first_slot=groups.first_slot[first],
        requests=best(groups.requests, np.minimum),
        tenant=groups.tenant[first],
        may_leave=groups.may_leave[first],
        late_slot=np.maximum.reduceat(groups.late_slot[order], begins),
        usd_saved=best(groups.usd_saved, np.maximum),
        usd_spent=best(groups.usd_spent, np.minimum),
        prefill_work_s=prefill_s,
        # What is prefill of other members may be done as late as decode: total work is not lost.
        decode_work_s=best(work_s, np.minimum) - prefill_s,
        kv_token_s=best(groups.kv_token_s, np.minimum),
        prefill_slot=np.maximum.reduceat(groups.prefill_slot[order], begins),
        decode_slot=np.maximum.reduceat(groups.decode_slot[order], begins),
        allowed=groups.allowed[first],
    )
    return merged, owner
