"""What is learnt while serving: bounded, quick enough, and never worse than the target in the long run."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.learning import Calibration, OutputLengths

MARGIN_MAX = 0.93


def calibrated(truth: float, n: int, prefill_s: float = 0.3, spread: float = 0.0, seed: int = 1) -> Calibration:
    """After ``n`` first tokens of engines that need ``truth`` times what the curve says, with noise."""
    found, rng = Calibration(MARGIN_MAX), np.random.default_rng(seed)
    for _ in range(n):
        noise = rng.lognormal(-(spread**2) / 2.0, spread)
        found.took(prefill_s, prefill_s * truth * noise)
    return found


@pytest.mark.parametrize("truth", [1.3, 1 / 1.3, 0.7, 2.0, 0.5])
def test_a_curve_that_is_wrong_is_found_out_within_a_hundred_first_tokens(truth: float) -> None:
    assert calibrated(truth, 100).ratio == pytest.approx(truth, rel=0.05)
    assert calibrated(truth, 400).ratio == pytest.approx(truth, rel=0.001)
    # Some thirty make a new opinion.
    assert abs(calibrated(truth, 30).ratio - truth) < 0.5 * abs(1.0 - truth)


@pytest.mark.parametrize("truth", [1.3, 1 / 1.3])
def test_noise_of_single_answers_does_not_hide_it(truth: float) -> None:
    found = [calibrated(truth, 300, spread=0.5, seed=seed).ratio for seed in range(20)]
    assert np.mean(found) == pytest.approx(truth, rel=0.05)
    assert all(abs(ratio / truth - 1.0) < 0.3 for ratio in found)


def test_a_right_curve_stays_right() -> None:
    assert calibrated(1.0, 500).ratio == pytest.approx(1.0)


def test_the_first_odd_answer_does_not_overturn_what_the_site_file_says() -> None:
    found = Calibration(MARGIN_MAX)
    found.took(0.05, 0.5)  # ten times slower, but a twentieth of the second that the curve is trusted for
    assert 1.0 < found.ratio < 1.5


def test_long_prompts_teach_more_than_short_ones() -> None:
    found = Calibration(MARGIN_MAX)
    for _ in range(500):
        found.took(1.0, 2.0)
        found.took(0.01, 0.01)
    assert found.ratio == pytest.approx(2.0, rel=0.02)


@given(st.lists(st.tuples(st.floats(-1.0, 1e6), st.floats(0.0, 1e6))))
def test_whatever_is_seen_the_ratio_stays_within_bounds(seen: list[tuple[float, float]]) -> None:
    found = Calibration(MARGIN_MAX)
    for predicted_s, actual_s in seen:
        found.took(predicted_s, actual_s)
        assert 0.2 <= found.ratio <= 5.0


def test_what_was_not_predicted_teaches_nothing() -> None:
    found = Calibration(MARGIN_MAX)
    found.took(0.0, 9.0)
    assert found.ratio == 1.0


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
    for i in range(5_000):
        lengths.observe("t", f"template {i}", 1_000)
        lengths.observe("t", "usual", 1_000)
    assert lengths.expected("t", "usual") > 950.0
    assert lengths.expected("t", "template 4999") > lengths.expected("t", "template 0")
    assert lengths.expected("t", "template 0") == lengths.expected("t", "")
