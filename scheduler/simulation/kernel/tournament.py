"""What happens next: a tournament over instants, and the binary heaps of engines and lines. Compiled; nothing is checked."""

from __future__ import annotations

import numpy as np

from scheduler.simulation.kernel.state import NOBODY, WAITING, L, State, inner, tight


@tight
def set_due(s: State, leaf: int, due_s: float) -> None:
    """The next instant of ``leaf`` (inf: never), and the new winner at the root."""
    node, won = leaf + (len(s.due_s) >> 1), leaf
    s.due_s[node] = due_s
    while node > 1:
        other_s, other = s.due_s[node ^ 1], L(s.first[node ^ 1])
        ahead = (other_s < due_s) | ((other_s == due_s) & (other < won))  # among equals the left one
        due_s, won = other_s if ahead else due_s, other if ahead else won
        node >>= 1
        s.due_s[node], s.first[node] = due_s, won


@tight
def due_of(s: State, leaf: int) -> float:
    """The next instant of ``leaf``."""
    return float(s.due_s[leaf + (len(s.due_s) >> 1)])


@tight
def push_end(s: State, lane: int, size: int, step: float, ticket: int) -> None:
    """An answer that ends at ``step``; the heap of ``lane`` has ``size`` before."""
    steps, tickets = s.ends_step[lane], s.ends_ticket[lane]
    i = size
    while i > 0:
        parent = (i - 1) >> 1
        if steps[parent] <= step:
            break
        steps[i], tickets[i] = steps[parent], tickets[parent]
        i = parent
    steps[i], tickets[i] = step, ticket


@tight
def pop_end(s: State, lane: int, size: int) -> int:
    """The ticket whose answer ends first; the heap of ``lane`` has ``size`` before."""
    steps, tickets = s.ends_step[lane], s.ends_ticket[lane]
    found = L(tickets[0])
    size -= 1
    step, ticket = steps[size], tickets[size]
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and steps[child + 1] < steps[child]:
            child += 1
        if steps[child] >= step:
            break
        steps[i], tickets[i] = steps[child], tickets[child]
        i = child
    steps[i], tickets[i] = step, ticket
    return found


@tight
def _sift_up(usd: np.ndarray, tickets: np.ndarray, numbers: np.ndarray, i: int) -> None:
    one_usd, ticket, number = usd[i], tickets[i], numbers[i]
    while i > 0:
        parent = (i - 1) >> 1
        if usd[parent] <= one_usd:
            break
        usd[i], tickets[i], numbers[i] = usd[parent], tickets[parent], numbers[parent]
        i = parent
    usd[i], tickets[i], numbers[i] = one_usd, ticket, number


@tight
def _sift_down(usd: np.ndarray, tickets: np.ndarray, numbers: np.ndarray, size: int) -> None:
    one_usd, ticket, number = usd[0], tickets[0], numbers[0]
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and usd[child + 1] < usd[child]:
            child += 1
        if usd[child] >= one_usd:
            break
        usd[i], tickets[i], numbers[i] = usd[child], tickets[child], numbers[child]
        i = child
    usd[i], tickets[i], numbers[i] = one_usd, ticket, number


@inner
def may_leave(s: State, line: int, ticket: int) -> None:
    """One more who may make room. Those who are gone are thrown out when they are more than half."""
    usd, tickets, numbers = s.room_usd[line], s.room_ticket[line], s.room_number[line]
    of, one = s.lines[line], s.tickets[ticket]
    if of.heap_size > 2 * of.count + 62:
        kept = 0
        for i in range(of.heap_size):
            if s.tickets[tickets[i]].number == numbers[i] and s.tickets[tickets[i]].state == WAITING:
                usd[kept], tickets[kept], numbers[kept] = usd[i], tickets[i], numbers[i]
                _sift_up(usd, tickets, numbers, kept)
                kept += 1
        of.heap_size = kept
    i = of.heap_size
    usd[i] = one.usd_displaced / one.work_s if one.work_s > 0.0 else np.inf
    tickets[i], numbers[i] = ticket, one.number
    of.heap_size = i + 1
    _sift_up(usd, tickets, numbers, i)


@inner
def least_worth(s: State, line: int, now_s: float) -> int:
    """Who of ``line`` is worth least per second of work and can still be in time elsewhere; -1 for nobody."""
    usd, tickets, numbers = s.room_usd[line], s.room_ticket[line], s.room_number[line]
    of = s.lines[line]
    while of.heap_size > 0:
        ticket = L(tickets[0])
        one = s.tickets[ticket]
        if one.number == numbers[0] and one.state == WAITING and one.leave_by_s >= now_s:
            return ticket if usd[0] < np.inf else L(NOBODY)
        size = of.heap_size - 1  # gone, or too late for ever: instants only go on
        usd[0], tickets[0], numbers[0] = usd[size], tickets[size], numbers[size]
        of.heap_size = size
        if size:
            _sift_down(usd, tickets, numbers, size)
    return L(NOBODY)
