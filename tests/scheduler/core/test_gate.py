"""One pool's gate: who begins next and where, and who makes room for whom."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.admission import EVICTED, FULL, NOBODY, TOO_LATE, WORTH_LESS, Bounce
from scheduler.core.capacity import BidCurve
from scheduler.core.gate import PoolGate
from scheduler.core.lanes import Grant
from tests.support.pool_gates import PATIENT, URGENT, bounced, crowd, entered, gate_of, granted, ticket

# A second of wait is worth 1 USD wherever the line ends.
DEAR = BidCurve((0.0, 100.0), (0.0, -100.0))


def drain(gate: PoolGate, first: str, n: int) -> list[str]:
    """Who begins after ``first`` as every one is served in turn."""
    order = [first]
    for turn in range(n):
        order += granted(gate.leave(order[-1], 0.1 * (turn + 1)))
    return order[1:]


def test_tickets_go_to_the_engine_that_begins_first_and_among_equals_to_the_emptiest() -> None:
    gate = gate_of("a", "b", slots=8)
    gate.hold(ticket("old"), "a", 0.0)
    assert entered(gate, ticket("1", prefill_s=0.25)) == [("1", Grant("b"))]  # a is as idle, and fuller
    assert entered(gate, ticket("2", prefill_s=0.25)) == [("2", Grant("a"))]  # b still reads the prompt of 1
    assert entered(gate, ticket("3")) == []
    assert granted(gate.tick(0.1)) == []
    assert granted(gate.tick(0.2)) == ["3"]


def test_a_ticket_that_is_here_already_is_not_asked_about_twice() -> None:
    gate = gate_of("a")
    assert entered(gate, ticket("held"), ticket("waits")) == [("held", Grant("a"))]
    assert entered(gate, ticket("held"), ticket("waits")) == []
    assert (gate.running, gate.waiting) == (1, 1)


def test_within_an_objective_the_first_to_come_is_served_first() -> None:
    gate = gate_of("a")
    entered(gate, ticket("now"), *(ticket(str(i)) for i in range(5)))
    assert drain(gate, "now", 5) == ["0", "1", "2", "3", "4"]


def test_across_objectives_the_earliest_deadline_is_served_first() -> None:
    gate = gate_of("a", slots=1)
    entered(gate, ticket("now"), ticket("p0", at_s=-4.5), ticket("p1"), ticket("u0", URGENT), ticket("u1", URGENT))
    assert drain(gate, "now", 4) == ["p0", "u0", "u1", "p1"]


def test_an_urgent_ticket_waits_only_for_those_whose_deadlines_come_first() -> None:
    gate = gate_of("a", slots=1)
    entered(gate, ticket("now", prefill_s=0.0), ticket("early", at_s=-4.5), *(ticket(str(i)) for i in range(4)))
    seen = gate.queue(ticket("u", URGENT), 0.0)
    assert seen.wait_s == pytest.approx(0.1)
    assert [level.ttft_s_max for level in seen.levels] == [URGENT, PATIENT]
    assert [level.wait_s for level in seen.levels] == pytest.approx([0.0, 0.5])


def test_the_wait_is_prompts_begun_then_work_ahead_and_the_next_free_slot() -> None:
    gate = gate_of("a", "b", slots=1, service_s_guess=4.0)
    entered(gate, ticket("1", prefill_s=0.6), ticket("2", prefill_s=0.2), ticket("3", work_s=3.0))
    # 0.8 s of prompts on two engines, a slot each 4 s / 2, and 3 s of work for both of them.
    assert gate.levels(0.0)[1].wait_s == pytest.approx(0.4 + 2.0 + 1.5)
    assert gate.levels(0.2)[1].wait_s == pytest.approx(0.2 + 2.0 + 1.5)


def test_without_an_engine_the_wait_has_no_end_and_whoever_comes_is_sent_on() -> None:
    gate = gate_of()
    assert [level.wait_s for level in gate.levels(0.0)] == [math.inf, math.inf]
    assert bounced(entered(gate, ticket("t", usd_displaced=math.inf))) == {"t": NOBODY}


def test_bounces_have_their_reasons() -> None:
    gate = gate_of("a", waiting_max=1)
    gate.set_bids({PATIENT: DEAR})
    entered(gate, ticket("now"), ticket("waits"))
    assert bounced(entered(gate, ticket("cheap", usd_displaced=0.09))) == {"cheap": WORTH_LESS}
    assert bounced(entered(gate, ticket("more"))) == {"more": FULL}
    gate = gate_of("a")
    entered(gate, ticket("now"), ticket("waits", work_s=3.0))
    assert bounced(entered(gate, ticket("late", start_by_s=2.9))) == {"late": TOO_LATE}


def test_an_urgent_ticket_pays_for_the_slower_line_and_a_slower_one_not_for_the_urgent() -> None:
    gate = gate_of("a")
    gate.set_bids({URGENT: DEAR, PATIENT: None})
    assert bounced(entered(gate, ticket("patient", usd_displaced=0.0))) == {}
    gate.set_bids({PATIENT: DEAR, URGENT: None})
    assert bounced(entered(gate, ticket("urgent", URGENT, usd_displaced=0.0))) == {"urgent": WORTH_LESS}


def test_a_new_curve_replaces_the_old_and_a_line_that_is_not_named_keeps_its_own() -> None:
    gate = gate_of("a")
    gate.set_bids({URGENT: DEAR})
    gate.set_bids({PATIENT: DEAR})
    assert [level.bid for level in gate.levels(0.0)] == [DEAR, DEAR]
    gate.set_bids({URGENT: None})
    assert [level.bid for level in gate.levels(0.0)] == [None, DEAR]


# ---- who makes room -----------------------------------------------------------------------------------------------


def test_when_the_last_of_a_line_would_be_late_the_one_worth_least_a_second_makes_room() -> None:
    gate = gate_of("a")
    entered(gate, ticket("now"))
    verdicts = entered(gate, *crowd([5.0, 2.0, 3.0, 4.0, 6.0, 7.0]))
    assert bounced(verdicts) == {"w1": EVICTED}
    assert all(verdict.retry_after_s > 0.0 for _, verdict in verdicts if isinstance(verdict, Bounce))
    assert [one.id for one in gate.tickets()] == ["w0", "w2", "w3", "w4", "w5"]


def test_a_newcomer_that_is_worth_least_makes_room_itself() -> None:
    gate = gate_of("a")
    entered(gate, ticket("now"))
    assert bounced(entered(gate, *crowd([5.0, 2.0, 3.0, 4.0, 6.0, 1.0]))) == {"w5": EVICTED}


def test_whoever_cannot_be_in_time_elsewhere_or_go_anywhere_stays() -> None:
    for stays in ({"leave_by_s": -1.0}, {"usd_displaced": math.inf}):
        gate = gate_of("a")
        entered(gate, ticket("now"))
        tickets = crowd([5.0, 2.0, 3.0, 4.0, 6.0, 7.0])
        tickets[1] = tickets[1]._replace(**stays)  # type: ignore[arg-type]
        assert bounced(entered(gate, *tickets)) == {"w2": EVICTED}


def test_where_nobody_may_leave_everybody_waits_and_some_are_late() -> None:
    gate = gate_of("a")
    entered(gate, ticket("now"))
    assert entered(gate, *crowd([1.0] * 9, leave_by_s=-1.0)) == []
    assert gate.waiting == 9


def test_a_ticket_that_is_late_by_itself_leaves_alone() -> None:
    gate = gate_of("a")
    entered(gate, ticket("now"), *crowd([1.0, 1.0]))
    slow = ticket("slow", prefill_s=9.0, usd_displaced=100.0, leave_by_s=4.0)
    assert bounced(entered(gate, slow)) == {"slow": EVICTED}


def test_an_urgent_newcomer_may_cost_a_patient_ticket_its_place() -> None:
    gate = gate_of("a")
    entered(gate, ticket("now"), *crowd([2.0, 3.0, 4.0, 5.0, 6.0]))
    urgent = ticket("u", URGENT, work_s=0.8, usd_displaced=9.0, leave_by_s=0.5)
    assert bounced(entered(gate, urgent)) == {"w0": EVICTED}


def test_an_urgent_ticket_worth_little_makes_room_for_the_slower_line_behind_it() -> None:
    gate = gate_of("a")
    entered(gate, ticket("now"), ticket("u", URGENT, work_s=0.8, usd_displaced=0.01, leave_by_s=0.5))
    assert bounced(entered(gate, *crowd([2.0, 3.0, 4.0, 5.0, 6.0]))) == {"u": EVICTED}


def test_whoever_becomes_late_while_an_engine_is_slow_makes_room_at_the_next_tick() -> None:
    gate = gate_of("a")
    entered(gate, ticket("now"), *crowd([5.0, 2.0, 3.0, 4.0]))
    assert bounced(gate.tick(0.5)) == {}
    assert bounced(gate.tick(2.0)) == {"w1": EVICTED}


def test_nobody_makes_room_after_the_latest_start_but_is_told_so() -> None:
    gate = gate_of("a")
    entered(gate, ticket("now"), ticket("t", start_by_s=3.0))
    assert gate.tick(2.9) == []
    assert bounced(gate.tick(3.0)) == {"t": "waited too long"}
    assert gate.waiting == 0


@given(st.lists(st.floats(0.0, 10.0) | st.just(math.inf), min_size=1, max_size=12), st.integers(1, 3))
def test_those_who_stay_are_the_ones_worth_most(worths: list[float], replicas: int) -> None:
    gate = gate_of(*"abc"[:replicas])
    entered(gate, *(ticket(f"now{i}", prefill_s=0.0) for i in range(replicas)))
    gone = bounced(entered(gate, *crowd(worths, leave_by_s=4.0)))
    assert set(gone.values()) <= {EVICTED}
    worth_of = {f"w{i}": usd for i, usd in enumerate(worths)}
    stay = sorted(worth_of[one.id] for one in gate.tickets())
    assert all(worth_of[name] < math.inf for name in gone)
    assert sorted([*stay, *(worth_of[name] for name in gone)]) == sorted(worths)
    # With equal work it does not matter in which order they come.
    room = len(stay)
    assert stay == sorted(worths, reverse=True)[:room][::-1]


# ---- engines ------------------------------------------------------------------------------------------------------


def test_an_engine_with_a_queue_of_its_own_is_left_alone_until_that_is_gone() -> None:
    gate = gate_of("a", slots=4)
    gate.heard("a", True, 2, 0.0)
    assert entered(gate, ticket("t")) == []
    assert granted(gate.heard("a", True, 0, 0.1)) == ["t"]
    gate.heard("a", True, 1, 0.1)  # that one is ours: its prompt is not begun
    assert gate.lanes["a"].others == 0


def test_tickets_of_a_replica_that_goes_away_count_until_they_leave() -> None:
    gate = gate_of("a")
    entered(gate, ticket("held"), ticket("waits", start_by_s=1e9))
    gate.set_replicas([])
    assert (gate.running, gate.slots, gate.healthy, gate.waiting) == (1, 0, 0, 1)
    gate.set_replicas(["a"])
    assert gate.heard("a", True, 0, 1.0) == []  # its only slot is not free
    assert granted(gate.leave("held", 2.0)) == ["waits"]


def test_an_engine_that_is_silent_gets_nothing_and_nobody_is_sent_away_on_a_guess() -> None:
    gate = gate_of("a")
    entered(gate, ticket("now"), *crowd([1.0, 2.0]))
    gate.heard("a", False, 0, 0.0)
    assert gate.leave("now", 0.1) == []
    assert gate.tick(0.2) == []
    assert bounced(gate.bounce_all(NOBODY)) == {"w0": NOBODY, "w1": NOBODY}
    assert gate.waiting == 0


def test_what_nobody_knows_of_is_no_error() -> None:
    gate = gate_of("a")
    entered(gate, ticket("held"), ticket("waits"))
    for call in (gate.first_token, gate.leave):
        assert call("never seen", 1.0) == []
    assert gate.first_token("waits", 1.0) == []  # nobody has begun with it
    assert gate.heard("never seen", True, 3, 1.0) == []
    assert (gate.running, gate.waiting, gate.lines[1].work_s) == (1, 1, pytest.approx(0.1))
    assert gate.calibration.prefill.value == gate.calibration.work.value == 1.0


def test_a_ticket_that_gives_up_frees_its_place_in_line() -> None:
    gate = gate_of("a")
    entered(gate, ticket("now"), ticket("1"), ticket("2"))
    assert gate.leave("1", 0.0) == []
    assert (gate.waiting, gate.lines[1].work_s) == (1, pytest.approx(0.1))
    assert granted(gate.leave("now", 0.1)) == ["2"]


def test_tickets_that_were_held_before_a_restart_take_their_slots_again() -> None:
    gate = gate_of("a")
    gate.hold(ticket("old"), "a", 0.0)
    gate.hold(ticket("old"), "a", 0.0)
    gate.hold(ticket("of a replica that is not announced yet"), "b", 0.0)
    assert gate.running == 2
    assert entered(gate, ticket("new")) == []
    assert granted(gate.leave("old", 1.0)) == ["new"]


@pytest.mark.parametrize("slots", [1, 4, 50])
def test_engines_that_never_report_a_first_token_still_serve_everybody(slots: int) -> None:
    """Answers that are no streams: all that is seen of them is their end, a second later."""
    gate = gate_of("a", slots=slots)
    first = granted(entered(gate, *(ticket(str(i), start_by_s=1e9) for i in range(40))))
    started = dict.fromkeys(first, 0.0)
    order, now_s = list(started), 0.0
    while gate.running and now_s < 200.0:
        now_s += 0.05
        verdicts = gate.tick(now_s)
        for name in [name for name, at_s in started.items() if now_s >= at_s + 1.0]:
            del started[name]
            verdicts += gate.leave(name, now_s)
        started |= dict.fromkeys(granted(verdicts), now_s)
        order += granted(verdicts)
    assert order == [str(i) for i in range(40)]
    assert now_s < 40 * max(1.0 / slots, 3 * 0.1) + 2.0
