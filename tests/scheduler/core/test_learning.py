"""What is learnt while serving: bounded, quick enough, and never worse than the target in the long run."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.learning import Calibration, OutputLengths, Ratio, magnitude

MARGIN_MAX = 0.93


def learnt(truth: float, n: int, prefill_s: float = 0.3, spread: float = 0.0, seed: int = 1) -> float:
    """The ratio after ``n`` first tokens of engines that need ``truth`` times what the curve says, with noise."""
    found, rng = Calibration(MARGIN_MAX).prefill, np.random.default_rng(seed)
    for _ in range(n):
        noise = rng.lognormal(-(spread**2) / 2.0, spread)
        found.took(prefill_s, prefill_s * truth * noise)
    return found.value


@pytest.mark.parametrize("truth", [1.3, 1 / 1.3, 0.7, 2.0, 0.5])
def test_a_curve_that_is_wrong_is_found_out_within_a_hundred_first_tokens(truth: float) -> None:
    assert learnt(truth, 100) == pytest.approx(truth, rel=0.03)
    # Some thirty make a new opinion.
    assert abs(learnt(truth, 30) - truth) < 0.5 * abs(1.0 - truth)


@pytest.mark.parametrize("truth", [1.3, 1 / 1.3])
def test_noise_of_single_answers_does_not_hide_it(truth: float) -> None:
    found = [learnt(truth, 300, spread=0.5, seed=seed) for seed in range(20)]
    assert np.mean(found) == pytest.approx(truth, rel=0.05)
    assert all(abs(ratio / truth - 1.0) < 0.3 for ratio in found)


def test_a_right_curve_stays_right() -> None:
    assert learnt(1.0, 500) == pytest.approx(1.0)


def test_a_ratio_is_what_was_needed_over_what_was_predicted_beginning_with_the_seconds_for_which_it_was_one() -> None:
    found = Ratio(1.0, 10.0)
    assert found.value == 1.0
    found.took(2.0, 5.0)  # two tenths of ten seconds are forgotten for it
    assert found.value == pytest.approx((0.8 + 5.0) / (0.8 + 2.0))
    found.took(9.0, 18.0)  # never more than half at once
    assert found.value == pytest.approx((0.5 * 5.8 + 18.0) / (0.5 * 2.8 + 9.0))
    found.fade(1.0)  # and with time all of it
    assert found.value == 1.0


@pytest.mark.parametrize("prior_s", [0.1, 1.0, 5.0])
def test_the_first_odd_answer_moves_a_ratio_no_further_than_its_prior_lets_it(prior_s: float) -> None:
    found = Ratio(prior_s, 5.0)
    found.took(0.05, 0.5)  # ten times slower
    left_s = prior_s * (1.0 - 0.05 / 5.0)  # the prior fades like everything that was seen
    assert found.value == pytest.approx((left_s + 0.5) / (left_s + 0.05))


def test_long_prompts_teach_more_than_short_ones() -> None:
    found = Ratio(0.1, 5.0)
    for _ in range(500):
        found.took(1.0, 2.0)
        found.took(0.01, 0.01)
    assert found.value == pytest.approx(2.0, rel=0.02)


def test_what_was_true_long_ago_fades_with_what_follows() -> None:
    found = Ratio(0.1, 5.0)
    for truth in [3.0] * 100 + [0.8] * 100:
        found.took(0.3, 0.3 * truth)
    assert found.value == pytest.approx(0.8, rel=0.02)


@given(st.lists(st.tuples(st.floats(-1.0, 1e6), st.floats(0.0, 1e6), st.floats(0.0, 1.0))))
def test_whatever_is_seen_or_forgotten_the_ratio_stays_within_bounds(seen: list[tuple[float, float, float]]) -> None:
    found = Ratio(0.1, 5.0)
    for predicted_s, actual_s, share in seen:
        found.took(predicted_s, actual_s)
        assert 0.2 <= found.value <= 5.0
        before = found.value
        found.fade(share)
        # What is forgotten brings it back towards what the site file says, and never beyond.
        assert min(1.0, before) - 1e-9 <= found.value <= max(1.0, before) + 1e-9


def test_what_was_not_predicted_teaches_nothing() -> None:
    found = Ratio(0.1, 5.0)
    found.took(0.0, 9.0)
    assert found.value == 1.0


# ---- the pace of a line -------------------------------------------------------------------------------------------


def worked_off(truth: float, replicas: int, works: Sequence[float], found: Calibration | None = None) -> Calibration:
    """After a line of ``works`` that engines need ``truth`` times as long for: each takes the next when it is done."""
    found = found or Calibration(MARGIN_MAX)
    free_s = [0.0] * replicas  # when each of them is done with what it has
    for turn, work_s in enumerate(works):
        now_s = heapq.heappop(free_s)
        found.began(work_s, len(works) - turn - 1, replicas, now_s)
        heapq.heappush(free_s, now_s + truth * work_s)
    return found


@pytest.mark.parametrize("replicas", [1, 2, 5])
@pytest.mark.parametrize("truth", [1.3, 1 / 1.3, 1.0, 2.0])
def test_a_line_that_is_worked_off_slower_or_faster_than_its_work_is_found_out(truth: float, replicas: int) -> None:
    works = np.random.default_rng(1).lognormal(-2.0, 0.5, 600 * replicas).tolist()
    assert worked_off(truth, replicas, works).work.value == pytest.approx(truth, rel=0.05)


@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 100.0)), max_size=30))
def test_nothing_is_learnt_while_nobody_waits(seen: list[tuple[float, float]]) -> None:
    found, now_s = Calibration(MARGIN_MAX), 0.0
    for work_s, gap_s in seen:
        now_s += gap_s
        found.began(work_s, 0, 2, now_s)
    assert (found.work.value, found.prefill.value) == (1.0, 1.0)


def test_the_quiet_between_two_lines_is_no_work() -> None:
    found = Calibration(MARGIN_MAX)
    for now_s in range(0, 1_000, 50):
        for turn in range(4):
            found.began(0.2, 3 - turn, 1, now_s + 0.2 * turn)
    assert found.work.value == pytest.approx(1.0)


def test_the_pace_is_that_of_the_time_since_somebody_waited() -> None:
    found = Calibration(MARGIN_MAX)
    found.began(7.0, 1, 1, 100.0)  # its own work has only begun
    assert found.work.value == 1.0
    found.began(0.3, 0, 1, 100.3)
    assert found.work.value == pytest.approx(1.0)
    found.began(7.0, 1, 1, 200.0)
    found.began(0.3, 0, 1, 200.6)
    assert 1.0 < found.work.value < 1.5  # 0.9 s for 0.6, beside the seconds for which the curve is trusted


# ---- rest ---------------------------------------------------------------------------------------------------------


def rested(found: Calibration, from_s: float, to_s: float) -> Calibration:
    """Some twenty looks a second, and nothing else."""
    for turn in range(round(20 * (to_s - from_s)) + 1):
        found.rest(from_s + turn / 20)
    return found


def test_an_opinion_fades_while_nothing_is_seen() -> None:
    found = worked_off(2.0, 1, [0.1] * 500)
    for _ in range(100):
        found.prefill.took(0.3, 0.15)
    found.judged(True)
    margin = found.margin
    begun = (found.work.value, found.prefill.value)
    rested(found, 1_000.0, 1_030.0)
    assert 1.9 < found.work.value < begun[0]  # half a minute changes little
    assert begun[1] < found.prefill.value < 0.6
    rested(found, 1_030.0, 2_500.0)
    assert found.work.value == pytest.approx(1.0, abs=0.01)
    assert found.prefill.value == pytest.approx(1.0, abs=0.01)
    assert found.margin == margin  # how much of an objective to plan with is no opinion of an engine


def test_the_first_look_at_the_clock_forgets_nothing_and_a_late_one_no_more_than_half() -> None:
    found = worked_off(2.0, 1, [0.1] * 500)
    before = found.work.value
    found.rest(1e9)
    assert found.work.value == before
    found.rest(2e9)
    assert 1.5 < found.work.value < before


# ---- the margin ---------------------------------------------------------------------------------------------------


def missed_share(misses: Callable[[float, int], bool], n: int = 20_000) -> tuple[float, float]:
    """Share of misses when ``misses`` (margin, turn) says who is late; the margin at the end."""
    found, missed = Calibration(MARGIN_MAX), 0
    for turn in range(n):
        late = misses(found.margin, turn)
        missed += late
        found.judged(late)
        assert 0.5 <= found.margin <= MARGIN_MAX
    return missed / n, found.margin


@pytest.mark.parametrize(
    "misses",
    [
        lambda margin, turn: margin > 0.8,  # the prediction is too optimistic by so much
        lambda margin, turn: margin > 0.8 - 0.2 * (turn // 2_000 % 2),  # and now and then by more
        lambda margin, turn: margin > 0.6 + 0.3 * abs(math.sin(turn / 300.0)),
        lambda margin, turn: margin > 0.53,
    ],
)
def test_whoever_makes_it_miss_does_not_make_it_miss_more_often_than_the_target(
    misses: Callable[[float, int], bool],
) -> None:
    # Each miss costs 0.02 * 0.997 of margin and each hit gives 0.02 * 0.003 back: the range is worn through once.
    share, _ = missed_share(misses)
    assert share <= 0.003 + (MARGIN_MAX - 0.5 + 0.02) / (0.02 * 20_000)


def test_the_margin_comes_back_when_the_misses_stop() -> None:
    _, margin = missed_share(lambda margin, turn: turn < 50)
    assert margin == MARGIN_MAX


def test_if_all_miss_whatever_is_planned_the_margin_stops_at_half() -> None:
    assert missed_share(lambda margin, turn: True, 100) == (1.0, 0.5)


# ---- output lengths -----------------------------------------------------------------------------------------------


def test_an_unknown_tenant_is_expected_to_write_as_much_as_guessed() -> None:
    lengths = OutputLengths(200.0)
    assert lengths.expected("t", "") == lengths.expected("t", "classify") == 200.0


def test_a_template_is_learnt_from_its_own_answers_and_a_new_one_from_its_tenants() -> None:
    lengths = OutputLengths(200.0)
    for _ in range(300):
        lengths.observe("t", "classify", 3)
        lengths.observe("t", "write", 1_000)
    assert lengths.expected("t", "classify") < 100.0
    assert lengths.expected("t", "write") > 850.0
    assert lengths.expected("t", "never seen") == lengths.expected("t", "")
    assert 400.0 < lengths.expected("t", "") < 600.0
    assert lengths.expected("other", "classify") == 200.0


def test_one_answer_moves_a_ninth_of_the_way_from_the_level_above() -> None:
    lengths = OutputLengths(90.0)
    lengths.observe("t", "", 900)
    assert lengths.expected("t", "") == pytest.approx((8 * 90 + 900) / 9)
    lengths = OutputLengths(90.0)
    lengths.observe("t", "x", 900)
    tenant = (8 * 90 + 900) / 9
    assert lengths.expected("t", "x") == pytest.approx((8 * tenant + 900) / 9)


def test_inputs_of_a_template_that_differ_in_length_are_of_different_kinds() -> None:
    lengths = OutputLengths(200.0)
    for _ in range(300):
        lengths.observe("t", "x", 330, 76)
        lengths.observe("t", "x", 50, 720)
    assert lengths.expected("t", "x", 80) > 290.0
    assert lengths.expected("t", "x", 700) < 80.0
    assert lengths.expected("t", "x", 20_000) == lengths.expected("t", "x") == pytest.approx(190.0, abs=25.0)


@given(st.integers(1, 2**24), st.integers(1, 2**24))
def test_longer_inputs_are_of_the_same_or_a_later_kind_and_twice_the_length_is_two_kinds_later(a: int, b: int) -> None:
    assert magnitude(min(a, b)) <= magnitude(max(a, b))
    assert magnitude(2 * a) - magnitude(a) in (1, 2, 3) and magnitude(4 * a) > magnitude(2 * a)
    assert magnitude(0) == 0 < magnitude(1)


def test_what_was_true_long_ago_is_forgotten() -> None:
    lengths = OutputLengths(100.0)
    for tokens in [1_000] * 500 + [10] * 300:
        lengths.observe("t", "x", tokens)
    assert lengths.expected("t", "x") < 40.0


@given(
    st.floats(1.0, 4_000.0),
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["", "x", "y"]), st.integers(0, 8_000))),
)
def test_an_expectation_lies_between_the_guess_and_what_was_seen(
    guess: float, seen: list[tuple[str, str, int]]
) -> None:
    lengths = OutputLengths(guess)
    for tenant, template, tokens in seen:
        lengths.observe(tenant, template, tokens)
    for tenant in "ab":
        all_of_it = [guess, *(tokens for who, _, tokens in seen if who == tenant)]
        for template in ("", "x", "y"):
            assert min(all_of_it) - 1e-6 <= lengths.expected(tenant, template) <= max(all_of_it) + 1e-6


def test_only_so_many_templates_are_kept_and_the_least_used_go_first() -> None:
    lengths = OutputLengths(100.0)
    for i in range(20_000):
        lengths.observe("t", f"template {i}", 1_000)
        lengths.observe("t", "usual", 1_000)
    assert lengths.expected("t", "usual") > 950.0
    assert lengths.expected("t", "template 19999") > lengths.expected("t", "template 0")
    assert lengths.expected("t", "template 0") == lengths.expected("t", "")
