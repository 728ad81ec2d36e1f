"""The gate's verdict on exact state: admit, hold or bounce."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.admission import Admit, Bounce, Hold, Queue, Replica, Ticket, admit, least_loaded

NOW_S = 50.0


def ticket(start_by_s: float = 1e9) -> Ticket:
    return Ticket("t", 0.1, 0.01, NOW_S, start_by_s)


def replica(replica_id: str, held: int = 0, slots: int = 4, engine_waiting: int = 0, healthy: bool = True) -> Replica:
    return Replica(replica_id, slots, held, engine_waiting, healthy)


def queue(*replicas: Replica, waiting: int = 0, waiting_max: int = 8) -> Queue:
    return Queue(replicas, waiting, waiting_max, service_s_mean=2.0)


@st.composite
def queues(draw: st.DrawFn) -> Queue:
    replicas = tuple(
        Replica(
            f"r{i}",
            slots := draw(st.integers(1, 4)),
            draw(st.integers(0, slots + 1)),
            draw(st.integers(0, 1)),
            draw(st.booleans()),
        )
        for i in range(draw(st.integers(0, 4)))
    )
    return Queue(replicas, draw(st.integers(0, 6)), draw(st.integers(0, 6)), draw(st.floats(0.0, 10.0)))


def test_a_free_slot_is_taken_at_once_on_the_replica_with_the_most_of_them() -> None:
    assert admit(ticket(), queue(replica("a", 3), replica("b", 1), replica("c", 1)), NOW_S) == Admit("b")


def test_an_engine_that_queues_by_itself_or_is_sick_has_no_free_slot() -> None:
    replicas = (replica("queues", engine_waiting=1), replica("sick", healthy=False), replica("over", held=5))
    assert least_loaded(replicas) is None
    assert least_loaded(()) is None


def test_nobody_overtakes_those_who_wait() -> None:
    # Two healthy slots of four are free, yet one ticket waits already: (1 + 1) * 2 s / 4 slots.
    assert admit(ticket(), queue(replica("a", 2), waiting=1), NOW_S) == Hold(1.0)


@pytest.mark.parametrize(("late_s", "verdict"), [(0.499, Bounce), (0.5, Hold)])
def test_a_ticket_is_held_only_where_it_can_start_in_time(late_s: float, verdict: type[Any]) -> None:
    # One ticket more on four slots of 2 s each: half a second.
    answer = admit(ticket(NOW_S + late_s), queue(replica("a", 4)), NOW_S)
    assert isinstance(answer, verdict)
    if isinstance(answer, Bounce):
        assert answer == Bounce("would start too late", 0.5)


def test_a_full_queue_bounces_with_the_time_it_would_take() -> None:
    full = queue(replica("a", 4), replica("b", 4), waiting=8)
    assert admit(ticket(), full, NOW_S) == Bounce("the pool's queue is full", 9 * 2.0 / 8)


def test_without_a_healthy_replica_waiting_is_pointless() -> None:
    assert admit(ticket(), queue(replica("a", healthy=False)), NOW_S) == Bounce("no healthy replica", 1.0)
    assert admit(ticket(), queue(), NOW_S) == Bounce("no healthy replica", 1.0)


def test_a_sick_replica_serves_nobody_from_the_queue() -> None:
    assert queue(replica("a", 4), replica("b", healthy=False)).wait_s() == pytest.approx(0.5)
    assert queue(replica("b", healthy=False)).wait_s() == float("inf")


@given(queues(), st.floats(0.0, 10.0))
def test_every_verdict_has_its_reason_in_the_state(state: Queue, slack_s: float) -> None:
    verdict = admit(ticket(NOW_S + slack_s), state, NOW_S)
    free = {r.id: r.slots - r.held for r in state.replicas if r.healthy and not r.engine_waiting and r.held < r.slots}
    slots = sum(r.slots for r in state.replicas if r.healthy)
    if isinstance(verdict, Admit):
        assert not state.waiting
        assert free[verdict.replica_id] == max(free.values())
    elif isinstance(verdict, Hold):
        assert state.waiting or not free
        assert state.waiting < state.waiting_max
        assert verdict.wait_s == pytest.approx((state.waiting + 1) * state.service_s_mean / slots)
        assert NOW_S + verdict.wait_s <= NOW_S + slack_s
    else:
        assert verdict.retry_after_s >= 0.0
        late = slots and (state.waiting + 1) * state.service_s_mean / slots > slack_s - 1e-9
        assert not slots or state.waiting >= state.waiting_max or late
        assert not (slots and free and not state.waiting)
