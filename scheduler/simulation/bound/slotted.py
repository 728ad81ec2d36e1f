"""The general fluid bound: groups of requests, several arms, time in slots; a linear program solved by HiGHS.

Maximise the USD saved against a base cost per group (its cheapest unlimited API) over flows y[group, arm, slot], within the
work, the KV-token-seconds and the requests that each arm takes per slot, budgets of tenants, rented replicas that cost
something to start, and an allowance of late requests. Everything is rounded outward: a flow may use the whole slot in which
its request arrives and the whole slot of its deadline, starts are fractional, and a group is as good as its best member.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scheduler.simulation.bound.program import Program


@dataclass(frozen=True, slots=True)
class Groups:
    """G groups on A arms. A group has ``units`` of whatever its densities are per (say, requests).

    ``[G]``: ``units``; ``first_slot`` of its arrival; ``requests`` per unit; ``tenant`` (index of a budget, or -1);
    ``may_leave`` (the base cost is a real offer; otherwise all units have to be served by the arms); ``late_slot`` (the
    last one in which a late request may be worked on). ``[G, A]``, per unit: ``usd_saved`` (base cost less the cash of
    this arm, negative where the arm is dearer), ``usd_spent`` (what counts towards the budget), ``prefill_work_s``,
    ``decode_work_s``, ``kv_token_s``; ``prefill_slot`` and ``decode_slot`` (the last slots of each part), ``allowed``.
    """

    units: np.ndarray
    first_slot: np.ndarray
    requests: np.ndarray
    tenant: np.ndarray
    may_leave: np.ndarray
    late_slot: np.ndarray
    usd_saved: np.ndarray
    usd_spent: np.ndarray
    prefill_work_s: np.ndarray
    decode_work_s: np.ndarray
    kv_token_s: np.ndarray
    prefill_slot: np.ndarray
    decode_slot: np.ndarray
    allowed: np.ndarray


@dataclass(frozen=True, slots=True)
class Arms:
    """A arms over T slots of ``slot_s`` seconds. ``[A, T]``: ``work_s`` (replicas times seconds), ``kv_token_s`` and
    ``requests`` that fit into a slot; infinite where there is no limit. ``[A]``: ``usd_per_work_s`` (rent of a replica
    that is up, used or not) and ``usd_per_start`` (of a replica); both zero where replicas are simply there. Where one is
    not, ``work_s`` is the most that can be rented.
    """

    slot_s: float
    work_s: np.ndarray
    kv_token_s: np.ndarray
    requests: np.ndarray
    usd_per_work_s: np.ndarray
    usd_per_start: np.ndarray


class Flows(NamedTuple):
    """The optimum: USD saved, shares of each group by arm ``[G, A]`` (late ones included), late requests (a fractional
    number), replicas rented ``[A, T]``, and the price of work ``[A, T]`` in USD per replica-second.
    """

    usd_saved: float
    accepted: np.ndarray
    late_requests: float
    rented: np.ndarray
    price: np.ndarray


class _Rows(NamedTuple):
    """Numbers of the rows of each kind."""

    work: np.ndarray
    kv: np.ndarray
    requests: np.ndarray
    budget: np.ndarray
    units: np.ndarray
    owed: np.ndarray
    late: np.ndarray
    couple: np.ndarray


class _Flow(NamedTuple):
    """Columns of one part of the work, with the group, arm and slot of each."""

    part: str
    group: np.ndarray
    arm: np.ndarray
    slot: np.ndarray
    column: np.ndarray


def solve(groups: Groups, arms: Arms, late_requests_max: float, budget_usd: np.ndarray) -> Flows:
    """The most that can be saved, with at most ``late_requests_max`` late requests and ``budget_usd`` for each tenant.

    Raises ValueError if what has to be served does not fit.
    """
    kinds, slots = arms.work_s.shape
    program = Program()
    rented = (arms.usd_per_work_s > 0.0) | (arms.usd_per_start > 0.0)
    pairs = groups.allowed.size
    rows = _Rows(
        # On a rented arm the row reads: work less what is rented is at most nothing.
        work=program.limits(np.where(rented[:, None], 0.0, arms.work_s).ravel()),
        kv=program.limits(arms.kv_token_s.ravel()),
        requests=program.limits(arms.requests.ravel()),
        budget=program.limits(budget_usd),
        units=program.limits(groups.units),
        owed=program.limits(np.where(groups.may_leave, np.inf, -groups.units)),
        late=program.limits(np.array([late_requests_max])),
        couple=program.limits(np.zeros(2 * pairs)),
    )
    replicas = _rent(program, arms, rented, rows.work.reshape(kinds, slots))
    parts = ("prefill", "decode", "late") if late_requests_max > 0.0 else ("prefill", "decode")
    flows = [_add_flow(program, rows, groups, arms, part) for part in parts]
    usd_saved, x, price = program.solve()
    accepted = np.zeros(groups.allowed.shape)
    late = 0.0
    for flow in flows:
        if flow.part != "decode":
            np.add.at(accepted, (flow.group, flow.arm), x[flow.column] / groups.units[flow.group])
        if flow.part == "late":
            late = float(np.dot(groups.requests[flow.group], x[flow.column]))
    up = np.zeros(arms.work_s.shape)
    up[rented] = x[replicas].reshape(-1, slots)
    return Flows(usd_saved, accepted, late, up, price[rows.work].reshape(kinds, slots))


def _add_flow(program: Program, rows: _Rows, groups: Groups, arms: Arms, part: str) -> _Flow:
    """The columns of prefill, of decode, or of requests that are served late as a whole."""
    slots = arms.work_s.shape[1]
    has_decode = (groups.decode_work_s > 0.0) | (groups.kv_token_s > 0.0)
    group, arm, slot = _windows(groups, arms, part, groups.allowed & has_decode if part == "decode" else groups.allowed)
    at, cell = (group, arm), arm * slots + slot
    starts, decodes = part != "decode", part != "prefill"
    worth_usd = groups.usd_saved[at] if starts else np.zeros(len(group))
    column = program.variables(worth_usd, np.full(len(group), np.inf))
    one = np.ones(len(column))
    work_s = groups.prefill_work_s[at] * starts + groups.decode_work_s[at] * decodes
    program.enter(rows.work[cell], column, work_s)
    if decodes:
        program.enter(rows.kv[cell], column, groups.kv_token_s[at])
    if starts:
        program.enter(rows.requests[cell], column, groups.requests[group])
        program.enter(rows.units[group], column, one)
        program.enter(rows.owed[group], column, -one)
        budgeted = groups.tenant[group] >= 0
        budget = rows.budget[groups.tenant[group[budgeted]]]
        program.enter(budget, column[budgeted], groups.usd_spent[at][budgeted])
    if part == "late":
        program.enter(np.full(len(column), rows.late[0]), column, groups.requests[group])
    else:  # as much is prefilled as is decoded
        pair = 2 * (group * groups.allowed.shape[1] + arm)
        sign = np.where(has_decode[at], 1.0 if starts else -1.0, 0.0)
        program.enter(rows.couple[pair], column, sign)
        program.enter(rows.couple[pair + 1], column, -sign)
    return _Flow(part, group, arm, slot, column)


def _rent(program: Program, arms: Arms, rented: np.ndarray, work_rows: np.ndarray) -> np.ndarray:
    """Columns of the replicas up in each slot on each rented arm, and of the starts that this takes; none is up before."""
    which = np.flatnonzero(rented)
    slots = arms.work_s.shape[1]
    rent_usd = np.repeat(-arms.usd_per_work_s[which] * arms.slot_s, slots)
    up = program.variables(rent_usd, (arms.work_s[which] / arms.slot_s).ravel())
    starts = program.variables(np.repeat(-arms.usd_per_start[which], slots), np.full(len(up), np.inf))
    rows = program.limits(np.zeros(len(up)))
    later = np.flatnonzero(np.arange(len(up)) % slots != 0)
    program.enter(work_rows[which].ravel(), up, np.full(len(up), -arms.slot_s))
    program.enter(rows, up, np.ones(len(up)))
    program.enter(rows[later], up[later - 1], -np.ones(len(later)))
    program.enter(rows, starts, -np.ones(len(up)))
    return up


def _windows(groups: Groups, arms: Arms, part: str, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group, arm and slot of every flow of one part. On an arm without limits one slot is as good as another."""
    group, arm = np.nonzero(allowed)
    if part == "late":
        last = groups.late_slot[group]
    else:
        last = (groups.prefill_slot if part == "prefill" else groups.decode_slot)[group, arm]
    first = groups.first_slot[group]
    length = np.maximum(0, np.minimum(last, arms.work_s.shape[1] - 1) - first + 1)
    limited = np.isfinite(arms.work_s) | np.isfinite(arms.kv_token_s) | np.isfinite(arms.requests)
    length = np.where(limited.any(axis=1)[arm], length, np.minimum(1, length))
    number = np.repeat(np.arange(len(group)), length)
    slot = np.arange(len(number)) - np.repeat(np.cumsum(length) - length, length) + np.repeat(first, length)
    return group[number], arm[number], slot
