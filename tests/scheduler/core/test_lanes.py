"""What a gate keeps of one engine: its slots, its cache, and how long it still computes prompts."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.admission import Ticket
from scheduler.core.lanes import Lane, Line

AHEAD_S = 0.05


def ticket(ticket_id: str, prefill_s: float = 1.0, kv_tokens: int = 0, work_s: float = 0.1) -> Ticket:
    return Ticket(ticket_id, work_s, 1.0, 0.0, 1e9, prefill_s, kv_tokens)


def lane(slots: int = 4, **fields: Any) -> Lane:
    return Lane(slots, **({"healthy": True} | fields))


def given_at(*when: float, prefill_s: float = 1.0) -> Lane:
    """A lane that was given one ticket at each of these instants: a, b, c, ..."""
    found = lane()
    for ticket_id, now_s in zip("abcd", when, strict=False):
        found.give(ticket(ticket_id, prefill_s), 0.0, now_s, 1.0)
    return found


def test_a_line_keeps_the_order_of_arrival_and_the_sum_of_the_work() -> None:
    line = Line(5.0)
    for name, work_s in (("a", 0.1), ("b", 0.2), ("c", 0.3)):
        line.add(ticket(name, work_s=work_s))
    assert line.work_s == pytest.approx(0.6)
    line.remove("b")
    assert list(line.tickets) == ["a", "c"]
    assert line.work_s == pytest.approx(0.4)


@given(st.lists(st.floats(0.0, 1e6), min_size=1), st.randoms())
def test_an_empty_line_holds_no_rounded_rest_of_work(works: list[float], chance: Any) -> None:
    line = Line(5.0)
    for i, work_s in enumerate(works):
        line.add(ticket(str(i), work_s=work_s))
    names = list(line.tickets)
    chance.shuffle(names)
    for name in names:
        line.remove(name)
    assert line.work_s == 0.0


def test_the_flow_of_a_line_is_the_work_a_second_that_was_begun_for_it() -> None:
    line = Line(5.0)
    assert line.flow(0.0) == 0.0
    for turn in range(2_000):  # 0.3 replica-seconds a second, for 200 s
        line.served(0.03, 0.1 * turn)
    assert line.flow(200.0) == pytest.approx(0.3, rel=0.01)
    # A third is left of what was 20 s ago, and nothing after some minutes.
    assert line.flow(220.0) == pytest.approx(0.3 / math.e, rel=0.01)
    assert line.flow(500.0) < 1e-6


@given(st.lists(st.tuples(st.floats(0.0, 30.0), st.floats(0.0, 5.0)), max_size=20), st.floats(0.0, 60.0))
def test_each_piece_of_work_counts_in_the_flow_and_fades_by_itself(
    pieces: list[tuple[float, float]], later_s: float
) -> None:
    line, now_s, begun = Line(5.0), 0.0, []
    for gap_s, work_s in pieces:
        now_s += gap_s
        line.served(work_s, now_s)
        begun.append((now_s, work_s))
    now_s += later_s
    expected = sum(work_s * math.exp(-(now_s - at_s) / 20.0) / 20.0 for at_s, work_s in begun)
    assert line.flow(now_s) == pytest.approx(expected, abs=1e-12)


def test_prompts_are_computed_one_after_the_other() -> None:
    busy = given_at(0.0, 0.0)
    assert busy.backlog_s(0.5, 1.0) == pytest.approx(1.5)
    assert busy.backlog_s(9.0, 1.0) == 0.0
    assert busy.first_token("b", 2.0) == pytest.approx((2.0, 2.0))


def test_a_prompt_that_comes_to_a_busy_engine_waits_for_what_is_left_of_the_others() -> None:
    busy = given_at(0.0, 0.4)
    assert busy.backlog_s(0.4, 1.0) == pytest.approx(1.6)
    assert busy.first_token("b", 2.1) == pytest.approx((2.0, 2.1))  # both, since it began with the first


def test_an_engine_slower_than_its_curve_has_more_before_it_and_is_still_judged_by_the_curve() -> None:
    slow = lane()
    slow.give(ticket("a"), 0.0, 0.0, 2.0)
    assert slow.backlog_s(0.5, 2.0) == pytest.approx(1.5)
    slow.give(ticket("b"), 0.0, 0.5, 2.0)
    assert slow.backlog_s(0.5, 2.0) == pytest.approx(3.5)
    assert not slow.takes(0, AHEAD_S, 3.9, 2.0)
    assert slow.takes(0, AHEAD_S, 3.96, 2.0)
    assert slow.first_token("b", 4.0) == pytest.approx((2.0, 4.0))


def test_the_first_of_a_busy_time_also_waits_for_the_step_that_runs() -> None:
    busy = lane()
    for name in "ab":
        busy.give(ticket(name), 0.02, 0.0, 1.0)
    assert busy.backlog_s(0.0, 1.0) == pytest.approx(2.0)
    assert busy.first_token("a", 1.1) == pytest.approx((1.02, 1.1))
    assert busy.first_token("b", 2.2) == pytest.approx((1.0, 1.1))  # its prompt was in the engine already
    busy.give(ticket("c"), 0.03, 9.0, 1.0)
    assert busy.first_token("c", 10.0) == pytest.approx((1.03, 1.0))


def test_a_first_token_says_that_all_earlier_prompts_are_done_as_well() -> None:
    busy = given_at(0.0, 0.0, 0.0)
    assert busy.first_token("b", 2.5) == pytest.approx((2.0, 2.5))  # later than the 2 s that were predicted
    assert list(busy.begun) == ["c"]
    assert busy.backlog_s(2.5, 1.0) == pytest.approx(1.0)
    assert busy.first_token("a", 2.6) is None
    assert busy.first_token("b", 2.6) is None
    assert busy.first_token("never heard of", 2.6) is None


def test_a_first_token_that_comes_before_its_prompt_was_due_to_begin_took_no_time() -> None:
    assert given_at(5.0).first_token("a", 4.9) == pytest.approx((1.0, 0.0))


prompts = st.lists(st.tuples(st.floats(0.01, 2.0), st.floats(0.0, 3.0), st.booleans()), min_size=1, max_size=12)


@given(prompts, st.floats(0.0, 0.1))
def test_over_a_busy_time_predictions_and_seconds_add_up_whoever_says_so(
    busy_time: list[tuple[float, float, bool]], step_s: float
) -> None:
    """Each prompt: what the curve predicts, what it took, and whether its first token was heard of."""
    busy, now_s = lane(slots=99), 0.0
    for i, (prefill_s, _, _) in enumerate(busy_time):
        busy.give(ticket(str(i), prefill_s), step_s, 0.0, 1.0)
    predicted_s = actual_s = done_s = 0.0
    for i, (prefill_s, took_s, heard) in enumerate(busy_time):
        now_s, done_s = now_s + took_s, done_s + prefill_s
        if heard:
            found = busy.first_token(str(i), now_s)
            assert found is not None
            predicted_s, actual_s = predicted_s + found[0], actual_s + found[1]
            assert predicted_s == pytest.approx(step_s + done_s)
            assert actual_s == pytest.approx(now_s)


def test_an_engine_that_is_early_has_less_before_it() -> None:
    busy = given_at(0.0, 0.0)
    busy.first_token("a", 0.3)
    assert busy.backlog_s(0.3, 1.0) == pytest.approx(1.0)


def test_a_ticket_that_goes_gives_back_slot_cache_and_prompt() -> None:
    busy = lane(kv_tokens=100)
    busy.give(ticket("a", kv_tokens=60), 0.0, 0.0, 1.0)
    busy.give(ticket("b", kv_tokens=40), 0.0, 0.5, 1.0)
    gone, granted_s = busy.release("b", 0.75)
    assert (gone.id, granted_s) == ("b", 0.5)
    assert (set(busy.held), busy.kv_held) == ({"a"}, 60)
    assert busy.backlog_s(0.75, 1.0) == pytest.approx(0.25)
    busy.release("a", 0.8)
    assert (busy.held, busy.kv_held, busy.begun_s) == ({}, 0, 0.0)


@pytest.mark.parametrize(
    ("fields", "takes"),
    [
        ({}, True),
        ({"healthy": False}, False),
        ({"others": 1}, False),  # it has a queue of its own: whoever comes now would stand in it
        ({"slots": 0}, False),
    ],
)
def test_an_idle_engine_takes_a_ticket_unless_it_is_sick_full_or_busy_with_others(
    fields: dict[str, Any], takes: bool
) -> None:
    assert lane(**fields).takes(0, AHEAD_S, 0.0, 1.0) is takes


def test_an_engine_takes_no_more_than_its_slots() -> None:
    busy = lane(slots=2)
    busy.hold(ticket("a"), 0.0)
    assert busy.takes(0, AHEAD_S, 0.0, 1.0)
    busy.hold(ticket("b"), 0.0)
    assert not busy.takes(0, AHEAD_S, 0.0, 1.0)
    busy.release("a", 1.0)
    assert busy.takes(0, AHEAD_S, 1.0, 1.0)


@pytest.mark.parametrize(("held", "asked", "takes"), [(60, 40, True), (60, 41, False), (0, 5_000, True)])
def test_an_engine_takes_what_its_cache_holds_and_when_empty_whatever_comes(held: int, asked: int, takes: bool) -> None:
    busy = lane(kv_tokens=100)
    if held:
        busy.hold(ticket("a", kv_tokens=held), 0.0)
    assert busy.takes(asked, AHEAD_S, 0.0, 1.0) is takes


@pytest.mark.parametrize(
    ("now_s", "takes"),
    [
        (0.0, False),
        (0.94, False),
        (0.96, True),  # the next prompt may come shortly before the last is done
        (1.0, True),
        (1.01, False),  # overdue: the curve was too optimistic, and nobody knows for how long
        (2.99, False),
        (3.01, True),  # it may never say (an answer that is no stream)
    ],
)
def test_an_engine_is_given_the_next_prompt_when_the_last_is_nearly_done(now_s: float, takes: bool) -> None:
    assert given_at(0.0).takes(0, AHEAD_S, now_s, 1.0) is takes


def test_an_engine_whose_first_token_came_is_free_for_the_next_prompt() -> None:
    busy = given_at(0.0)
    busy.first_token("a", 2.0)
    assert busy.takes(0, AHEAD_S, 2.0, 1.0)


def test_what_an_overdue_engine_was_given_is_forgotten_when_it_is_given_more() -> None:
    silent = given_at(0.0)
    silent.give(ticket("b", 0.5), 0.0, 4.0, 1.0)
    assert list(silent.begun) == ["b"]
    assert silent.backlog_s(4.0, 1.0) == pytest.approx(0.5)
    assert set(silent.held) == {"a", "b"}
    assert silent.first_token("a", 4.1) is None


steps = st.lists(
    st.tuples(st.sampled_from(["give", "first", "release"]), st.integers(0, 5), st.floats(0.0, 2.0)), max_size=40
)


@given(steps)
def test_the_backlog_is_never_negative_and_is_that_of_the_prompts_not_known_to_be_done(steps: Any) -> None:
    busy, now_s = lane(slots=9), 0.0
    for i, (what, which, seconds) in enumerate(steps):
        now_s += seconds / 4.0
        if what == "give":
            busy.give(ticket(f"t{i}", prefill_s=seconds, kv_tokens=which), 0.0, now_s, 1.0)
        elif busy.held:
            chosen = sorted(busy.held)[which % len(busy.held)]
            if what == "first":
                busy.first_token(chosen, now_s)
            else:
                busy.release(chosen, now_s)
        assert busy.begun_s == pytest.approx(sum(busy.begun.values()), abs=1e-9)
        assert 0.0 <= busy.backlog_s(now_s, 1.0) <= busy.begun_s
        assert busy.begun.keys() <= busy.held.keys()
        assert busy.kv_held == sum(held.kv_tokens for held, _ in busy.held.values())
