"""The gate's verdict on exact state and at the full price: admit, hold or bounce; and who makes room."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.admission import Admit, Bounce, Hold, Queue, Ticket, admit, is_late, least_valuable
from scheduler.core.capacity import BidCurve, Level, price_usd
from tests.support.markets import levels

NOW_S = 50.0
# A second of wait is worth 0.01 USD wherever the line ends.
DEAR = (Level(5.0, 1.0, BidCurve((0.0, 100.0), (0.0, -1.0))),)


def ticket(ticket_id: str = "t", **fields: Any) -> Ticket:
    values: dict[str, Any] = {"work_s": 0.1, "usd_displaced": 0.01, "arrived_s": NOW_S, "start_by_s": 1e9}
    return Ticket(ticket_id, **(values | fields))


def queue(**fields: Any) -> Queue:
    values: dict[str, Any] = {"replicas": 2, "free": False, "waiting": 1, "waiting_max": 8, "wait_s": 0.5}
    return Queue(**(values | fields))


@st.composite
def queues(draw: st.DrawFn) -> Queue:
    return Queue(
        replicas=draw(st.integers(0, 4)),
        free=draw(st.booleans()),
        waiting=draw(st.integers(0, 6)),
        waiting_max=draw(st.integers(0, 6)),
        wait_s=draw(st.floats(0.0, 10.0)),
        levels=draw(levels()),
        ratio=draw(st.sampled_from([0.5, 1.0, 2.0])),
    )


@st.composite
def tickets(draw: st.DrawFn) -> Ticket:
    return ticket(
        work_s=draw(st.floats(0.0, 5.0)),
        usd_displaced=draw(st.floats(-0.1, 0.5) | st.just(math.inf)),
        start_by_s=NOW_S + draw(st.floats(0.0, 10.0)),
        ttft_s_max=draw(st.sampled_from([0.5, 1.0, 5.0, math.inf])),
        leave_by_s=NOW_S + draw(st.floats(-1.0, 1.0)),
        usd_per_s_waiting=draw(st.sampled_from([0.0, 0.01])),
    )


def test_a_free_engine_with_nobody_before_it_is_taken_at_once() -> None:
    # Even where the objective's latest start has passed: it cannot begin any sooner elsewhere.
    assert admit(ticket(start_by_s=0.0), queue(free=True, waiting=0, waiting_max=0), NOW_S) == Admit()


def test_nobody_overtakes_those_who_wait() -> None:
    assert admit(ticket(), queue(free=True, waiting=1), NOW_S) == Hold(0.5)


@pytest.mark.parametrize(("late_s", "verdict"), [(0.499, Bounce), (0.5, Hold)])
def test_whoever_cannot_go_later_is_held_only_where_it_can_start_in_time(late_s: float, verdict: type[Any]) -> None:
    answer = admit(ticket(start_by_s=NOW_S + late_s), queue(), NOW_S)
    assert isinstance(answer, verdict)
    if isinstance(answer, Bounce):
        assert answer == Bounce("would start too late", 0.5)
    can_go = ticket(start_by_s=NOW_S + late_s, leave_by_s=NOW_S + 0.1)
    assert admit(can_go, queue(), NOW_S) == Hold(0.5)  # somebody may make room, if need be itself


def test_a_full_queue_bounces_with_the_time_it_would_take() -> None:
    assert admit(ticket(), queue(waiting=8), NOW_S) == Bounce("the pool's queue is full", 0.5)


def test_without_a_healthy_replica_waiting_is_pointless() -> None:
    nobody = queue(replicas=0, wait_s=math.inf)
    assert admit(ticket(usd_displaced=math.inf), nobody, NOW_S) == Bounce("no healthy replica", 1.0)


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({"usd_displaced": 0.0051}, Hold),  # one second of work on two replicas: half a second of everybody's wait
        ({"usd_displaced": 0.0049}, Bounce),
        ({"usd_displaced": 0.0049, "work_s": 0.9}, Hold),
        ({"usd_displaced": -math.inf, "work_s": 0.0}, Bounce),
        ({"usd_displaced": 0.0069, "usd_per_s_waiting": 0.004}, Bounce),  # half a second of its own wait: 0.002 USD
        ({"usd_displaced": 0.0071, "usd_per_s_waiting": 0.004}, Hold),
        ({"usd_displaced": math.inf, "work_s": 1e9, "usd_per_s_waiting": 1e9}, Hold),  # it can go nowhere else
    ],
)
def test_time_goes_to_whom_it_is_worth_its_full_price(fields: dict[str, float], verdict: type[Any]) -> None:
    answer = admit(ticket(**({"work_s": 1.0} | fields)), queue(levels=DEAR), NOW_S)
    assert isinstance(answer, verdict)
    if isinstance(answer, Bounce):
        assert answer == Bounce("worth less than the pool's time", 0.5)


def test_engines_slower_than_their_curve_make_the_same_work_dearer() -> None:
    asked = ticket(work_s=1.0, usd_displaced=0.007)
    assert isinstance(admit(asked, queue(levels=DEAR, ratio=1.3), NOW_S), Hold)
    assert isinstance(admit(asked, queue(levels=DEAR, ratio=1.5), NOW_S), Bounce)


def test_the_price_is_asked_even_of_those_for_whom_an_engine_is_free() -> None:
    cheap = ticket(work_s=1.0, usd_displaced=0.0)
    assert isinstance(admit(cheap, queue(free=True, waiting=0, levels=DEAR), NOW_S), Bounce)


@given(queues(), tickets())
def test_every_verdict_has_its_reason_in_the_state(state: Queue, asked: Ticket) -> None:
    verdict = admit(asked, state, NOW_S)
    worth = asked.usd_displaced - asked.usd_per_s_waiting * state.wait_s
    price = price_usd(state.levels, asked.ttft_s_max, asked.work_s * state.ratio / max(1, state.replicas))
    pays = asked.usd_displaced == math.inf or not state.levels or worth >= price
    # Whoever could still go is held all the same: somebody cheaper may make room.
    in_time = NOW_S + state.wait_s <= asked.start_by_s or asked.leave_by_s >= NOW_S
    room = state.waiting < state.waiting_max
    if isinstance(verdict, Admit):
        assert state.replicas
        assert pays
        assert state.free
        assert not state.waiting
    elif isinstance(verdict, Hold):
        assert state.replicas
        assert pays
        assert room
        assert in_time
        assert state.waiting or not state.free
        assert verdict.wait_s == state.wait_s
    else:
        assert not (state.replicas and pays and ((state.free and not state.waiting) or (room and in_time)))
        assert verdict.retry_after_s >= 0.0


@pytest.mark.parametrize(("ttft_s", "late"), [(2.5, False), (2.9, False), (3.1, True)])
def test_a_ticket_is_late_when_what_it_waited_and_will_wait_fills_the_planned_share_of_its_objective(
    ttft_s: float, late: bool
) -> None:
    # One second has passed; 4 of 5 seconds are planned with.
    asked = ticket(ttft_s_max=5.0, ttft_by_s=NOW_S + 5.0)
    assert is_late(asked, ttft_s, 0.8, NOW_S + 1.0) is late


def test_whoever_has_no_objective_is_never_late() -> None:
    assert not is_late(ticket(), 1e9, 0.5, NOW_S)


def test_whoever_is_worth_least_a_second_and_can_still_go_makes_room() -> None:
    can_go = NOW_S + 1.0
    waiting = [
        ticket("dear", usd_displaced=1.0, work_s=0.1, leave_by_s=can_go),
        ticket("cheap in all, dear a second", usd_displaced=0.01, work_s=0.001, leave_by_s=can_go),
        ticket("least", usd_displaced=0.5, work_s=1.0, leave_by_s=can_go),
        ticket("least of all, but too late to go", usd_displaced=0.0, leave_by_s=NOW_S - 0.1),
        ticket("can go nowhere", usd_displaced=math.inf, leave_by_s=can_go),
        ticket("takes no time", usd_displaced=-1.0, work_s=0.0, leave_by_s=can_go),
    ]
    worst = least_valuable(waiting, NOW_S)
    assert worst is not None
    assert worst.id == "least"
    assert least_valuable(waiting[3:], NOW_S) is None
    assert least_valuable([], NOW_S) is None


@given(st.lists(tickets()))
def test_nobody_who_may_go_is_worth_less_a_second_than_whoever_makes_room(waiting: list[Ticket]) -> None:
    worst = least_valuable(waiting, NOW_S)
    worths = [t.usd_displaced / t.work_s for t in waiting if t.leave_by_s >= NOW_S and t.work_s > 0.0]
    if worst is None:
        assert all(worth == math.inf for worth in worths)
    else:
        assert worst.leave_by_s >= NOW_S
        assert worst.usd_displaced / worst.work_s == min(worths) < math.inf
