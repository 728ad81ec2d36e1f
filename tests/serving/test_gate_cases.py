"""Cases of the gate's state, one by one: what is granted to whom, and why somebody is sent on."""

from __future__ import annotations

import pytest

from scheduler.core import admission
from scheduler.core.market import Policy
from serving.gate.wire import Bounced, EngineStats, Granted
from tests.support.gates import enter, gate_state, gate_with_engine, steep


def test_a_gateway_that_vanishes_frees_its_slot_for_another_gateways_waiter() -> None:
    state = gate_with_engine()
    assert enter(state, "a", "1") == [("a", Granted("1", "r", "http://r"))]
    assert enter(state, "b", "2") == []
    assert state.gone("a", 1.0) == [("b", Granted("2", "r", "http://r"))]


def test_a_gateway_that_comes_back_with_a_ticket_fewer_frees_its_slot_for_a_waiter() -> None:
    state = gate_with_engine(2)
    enter(state, "a", "1")
    enter(state, "a", "2")
    enter(state, "b", "3")
    enter(state, "b", "4")
    assert state.hello("a", {"2": "r"}, 1.0) == [("b", Granted("3", "r", "http://r"))]
    assert state.pool.waiting == 1


def test_a_replica_that_moves_to_another_address_still_counts_what_it_holds() -> None:
    state = gate_with_engine()
    enter(state, "a", "1")
    enter(state, "a", "2")
    assert state.set_replicas({"r": "http://elsewhere"}, 1.0) == []
    assert state.heard("r", EngineStats(), 1.0) == []
    assert state.leave("1", 2.0) == [("a", Granted("2", "r", "http://elsewhere"))]


def test_a_new_replica_gets_nothing_before_its_first_sign_of_life() -> None:
    state = gate_state(4)
    state.set_replicas({"r": "http://r"}, 0.0)
    state.surveyed(0.0)
    assert state.pool.slots == 0
    ((_, answer),) = enter(state, "a", "1")
    assert isinstance(answer, Bounced)
    assert answer.reason == "no healthy replica"


def test_a_gate_that_has_just_started_bounces_nobody_before_it_knows_its_engines() -> None:
    state = gate_state(1, 1)
    state.set_replicas({"r": "http://r", "s": "http://s"}, 0.0)
    assert enter(state, "a", "1") == []
    ((_, full),) = enter(state, "a", "2")
    assert isinstance(full, Bounced)
    assert state.heard("r", None, 0.0) == []
    assert state.heard("s", EngineStats(), 0.0) == [("a", Granted("1", "s", "http://s"))]
    dead = gate_state()
    assert enter(dead, "a", "1") == []
    assert dead.surveyed(0.0) == [("a", Bounced("1", "no healthy replica", 1.0))]
    assert dead.surveyed(0.0) == []


def test_the_mean_time_of_service_is_learned_from_those_that_leave_and_not_from_broken_ones() -> None:
    state = gate_with_engine()
    enter(state, "a", "1")
    state.leave("1", 3.0)
    assert state.pool.service_s_mean == pytest.approx(1.0 + 0.05 * 2.0)
    enter(state, "a", "2", 3.0)
    state.leave("2", 90.0, unreachable=True)
    assert state.pool.service_s_mean == pytest.approx(1.1)


def test_queues_of_engines_add_up_and_sick_ones_do_not_count() -> None:
    state = gate_state(4)
    state.set_replicas({"a": "u", "b": "v", "c": "w"}, 0.0)
    state.heard("a", EngineStats(1, 2, 0.5), 0.0)
    state.heard("b", EngineStats(3, 4, 0.1), 0.0)
    assert state.stats() == EngineStats(4, 6, pytest.approx(0.3))
    state.heard("b", None, 0.0)
    assert state.stats() == EngineStats(1, 2, 0.5)
    assert state.heard("nobody", EngineStats(), 0.0) == []


def test_the_price_test_is_repeated_with_the_curves_that_the_gate_was_told() -> None:
    state = gate_with_engine(slots=4, ttft_s_max=(2.0,))
    assert isinstance(enter(state, "a", "1")[0][1], Granted)
    state.set_bids(steep(1.0, ttft_s_max=2.0, at_s=7.0))  # a tenth of a second costs ten cents: more than two
    ((_, cheap),) = enter(state, "a", "2")
    assert (cheap.reason, state.bids_at_s) == (admission.WORTH_LESS, 7.0)  # type: ignore[union-attr]
    assert isinstance(enter(state, "a", "3", usd_displaced=0.11)[0][1], Granted)
    assert isinstance(enter(state, "a", "4", usd_displaced=None)[0][1], Granted)


def test_waiting_counts_at_the_gate_by_the_wait_that_is_really_there() -> None:
    state = gate_with_engine(ttft_s_max=(9.0,), service_s_guess=0.5)
    enter(state, "a", "1")
    assert enter(state, "a", "2", usd_displaced=0.02, usd_per_s_waiting=0.03) == []
    ((_, bounced),) = enter(state, "a", "3", usd_displaced=0.02, usd_per_s_waiting=0.04)
    assert bounced.reason == admission.WORTH_LESS  # type: ignore[union-attr]


def test_a_line_that_grows_too_late_sends_on_whoever_is_worth_least_and_can_still_make_it() -> None:
    state = gate_with_engine(ttft_s_max=(1.0,), service_s_guess=0.5)
    enter(state, "a", "0")
    soon = {"ttft_s_max": 1.0, "ttft_within_s": 1.0, "work_s": 0.25}
    assert enter(state, "a", "poor but stuck", usd_displaced=0.001, **soon) == []
    assert enter(state, "a", "poor", usd_displaced=0.002, leave_within_s=0.6, **soon) == []
    messages = enter(state, "b", "rich", usd_displaced=0.5, leave_within_s=0.6, **soon)
    assert [(who, m.id, m.reason) for who, m in messages] == [("a", "poor", admission.EVICTED)]  # type: ignore[union-attr]
    assert 0.0 < messages[0][1].retry_after_s < 60.0  # type: ignore[union-attr]
    ((_, late),) = state.tick(0.5)
    assert (late.id, late.reason) == ("rich", admission.EVICTED)  # type: ignore[union-attr]
    assert state.tick(0.7) == []  # the one that is left could not be in time anywhere else


def test_of_the_heads_of_all_lines_the_earliest_deadline_is_served_first() -> None:
    state = gate_with_engine(ttft_s_max=(1.0, 60.0))
    enter(state, "a", "0")
    enter(state, "a", "patient", ttft_s_max=60.0, ttft_within_s=60.0)
    enter(state, "a", "hasty", 0.1, ttft_s_max=1.0, ttft_within_s=5.0)
    enter(state, "a", "later", 0.2, ttft_s_max=60.0, ttft_within_s=60.0)
    served = ["0"]
    for _ in range(3):
        ((_, granted),) = state.leave(served[-1], 0.3)
        served.append(granted.id)
    assert served == ["0", "hasty", "patient", "later"]


def test_a_first_token_teaches_how_slow_the_engines_are_and_lets_the_next_in() -> None:
    state = gate_with_engine(slots=8, policy=Policy())
    assert len(enter(state, "a", "1", prefill_s=0.2)) == 1
    assert enter(state, "a", "2", 0.0, prefill_s=0.2) == []  # the engine has enough before it
    assert state.levels(0.0)[0][1] > 0.2
    assert [m.id for _, m in state.began("1", 0.4)] == ["2"]
    assert state.pool.calibration.prefill.value > 1.0
    assert state.began("1", 0.3) == state.began("unknown", 0.3) == []


def test_engines_of_others_get_everything_at_once_up_to_a_bound_and_whatever_the_price() -> None:
    state = gate_with_engine(slots=1, waiting_max=2, ttft_s_max=(1.0,), holds=False)
    state.set_bids(steep(100.0, ttft_s_max=1.0))
    state.heard("r", EngineStats(waiting=7), 0.0)
    hasty = {"ttft_s_max": 1.0, "ttft_within_s": 1.0, "leave_within_s": 0.9, "usd_displaced": -1.0}
    for ticket in ("1", "2", "3"):
        assert isinstance(enter(state, "a", ticket, **hasty)[0][1], Granted)
    assert state.levels(0.0)[0][1] > 5.0  # what waits in the engine is a wait too
    ((_, full),) = enter(state, "a", "4", **hasty)
    assert full.reason == admission.FULL  # type: ignore[union-attr]
    state.heard("r", None, 0.0)
    ((_, nobody),) = enter(state, "a", "5", **hasty)
    assert nobody.reason == admission.NOBODY  # type: ignore[union-attr]


def test_what_the_gate_itself_has_given_is_no_queue_of_others_even_if_it_began_meanwhile() -> None:
    state = gate_with_engine(slots=8)
    for ticket in ("1", "2", "3"):
        enter(state, "a", ticket, prefill_s=0.1)
    asked = state.unbegun("r")
    state.began("2", 0.1)
    state.heard("r", EngineStats(waiting=3), 0.1, asked)
    assert isinstance(enter(state, "a", "4", 0.1)[0][1], Granted)
    state.heard("r", EngineStats(waiting=9), 0.1, state.unbegun("r"))
    assert enter(state, "a", "5", 0.1) == []


def test_a_replica_that_is_forgotten_and_announced_again_still_holds_what_it_held() -> None:
    state = gate_with_engine(slots=1)
    enter(state, "a", "1")
    state.set_replicas({}, 1.0)
    assert state.pool.running == 1
    state.set_replicas({"r": "http://r"}, 2.0)
    state.heard("r", EngineStats(), 2.0)
    assert enter(state, "a", "2", 2.0) == []
    assert state.leave("1", 3.0) == [("a", Granted("2", "r", "http://r"))]


def test_what_a_gateway_holds_on_a_replica_that_is_not_announced_yet_counts_when_it_is() -> None:
    state = gate_state(slots=1)
    state.hello("a", {"1": "r"}, 0.0)
    state.set_replicas({"r": "http://r"}, 1.0)
    state.heard("r", EngineStats(), 1.0)
    state.surveyed(1.0)
    assert (state.pool.running, enter(state, "b", "2", 1.0)) == (1, [])


def test_admitted_work_is_a_rate_that_fades() -> None:
    state = gate_with_engine(slots=99)
    assert state.admitted_per_s(0.0) == 0.0
    for i in range(60):
        enter(state, "a", str(i), i * 1.0, work_s=0.7)
        rate = state.admitted_per_s(i * 1.0 + 1.0)
    assert rate == pytest.approx(0.7, rel=0.01)
    assert state.admitted_per_s(100.0) < 0.01


def test_nobody_is_kept_for_the_first_token_of_a_plain_answer_which_is_never_told() -> None:
    state = gate_with_engine(slots=8, policy=Policy())
    plain = {"prefill_s": 1.0, "stream": False}
    assert len(enter(state, "a", "1", 0.0, **plain)) == 1
    assert enter(state, "a", "2", 0.5, **plain) == []
    assert [m.id for _, m in state.tick(0.95)] == ["2"]  # as the first is about to have been read
    assert len(enter(state, "a", "3", 2.5, **plain)) == 1  # by now both have
    assert state.pool.calibration.prefill.value == 1.0


def test_a_stream_that_is_late_keeps_the_next_until_its_first_token_even_if_a_plain_answer_came_between() -> None:
    state = gate_with_engine(slots=8, policy=Policy())
    enter(state, "a", "stream", 0.0, prefill_s=0.5)
    enter(state, "a", "plain", 0.45, prefill_s=0.5, stream=False)
    assert enter(state, "a", "next", 1.2, prefill_s=0.5) == []
    assert state.began("stream", 1.3) == []
    assert state.pool.calibration.prefill.value > 1.0
    assert [m.id for _, m in state.tick(2.5)] == ["next"]
