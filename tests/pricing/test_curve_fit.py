"""The fit of a service curve: what was put in comes out, a stall does not tilt it, and what cannot be told is not told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.meter import curve
from pricing.meter.curve import DecodeFit, DecodePoint, PrefillFit, PrefillPoint, Span

LEVELS = (1, 2, 4, 8, 16, 32)
LENGTHS = (32, 500, 1000, 2000, 4000)


def prefill(base_s: float, tokens_per_s: float, factors: tuple[float, ...] = (1, 1, 1, 1, 1)) -> PrefillFit:
    made = [
        PrefillPoint(n, (base_s + n / tokens_per_s) * factor, 5) for n, factor in zip(LENGTHS, factors, strict=True)
    ]
    found = curve.fit_prefill(made)
    assert found is not None
    return found


def decode(itl_s: list[float], levels: tuple[float, ...] = LEVELS) -> DecodeFit:
    found = curve.fit_decode([DecodePoint(b, s, 3) for b, s in zip(levels, itl_s, strict=True)])
    assert found is not None
    return found


@given(st.floats(1e-4, 0.3), st.floats(200, 40_000))
def test_base_and_rate_of_prefill_are_recovered_from_exact_times(base_s: float, tokens_per_s: float) -> None:
    found = prefill(base_s, tokens_per_s)
    if LENGTHS[-1] / tokens_per_s < 0.06 * (base_s + LENGTHS[-1] / tokens_per_s):
        return  # at the border of what is told at all
    assert found.prefill_tokens_per_s == pytest.approx(tokens_per_s, rel=1e-6)
    assert found.ttft_base_s == pytest.approx(base_s, rel=1e-6, abs=1e-9)
    assert found.r2 == pytest.approx(1.0)
    assert (found.lengths, found.requests) == (5, 25)


@given(st.integers(0, 4), st.floats(2, 20))
def test_one_length_that_stalled_hardly_moves_the_rate(which: int, stall: float) -> None:
    factors = tuple(stall if i == which else 1.0 for i in range(5))
    found = curve.fit_prefill(
        [PrefillPoint(n, (0.01 + n / 10_000) * factor, 5) for n, factor in zip(LENGTHS, factors, strict=True)]
    )
    # Four of ten pairs of lengths hold the stalled one: the median of the slopes is one of the six that do not.
    assert found is not None
    if found.prefill_tokens_per_s is not None:
        assert found.prefill_tokens_per_s == pytest.approx(10_000, rel=0.01)


def test_a_ttft_that_does_not_depend_on_the_prompt_has_no_rate() -> None:
    assert prefill(0.3, 1e12).prefill_tokens_per_s is None
    assert prefill(0.3, 1e12).ttft_base_s == pytest.approx(0.3)


def test_a_rate_within_the_scatter_of_the_times_is_not_told() -> None:
    assert prefill(0.3, 50_000, (1.2, 0.85, 1.25, 0.8, 1.1)).prefill_tokens_per_s is None


def test_a_ttft_that_falls_with_the_prompt_has_no_rate() -> None:
    assert prefill(0.3, 10_000, (3, 2.5, 2, 1.5, 0.1)).prefill_tokens_per_s is None


def test_two_lengths_make_no_line_and_three_do() -> None:
    points = [PrefillPoint(n, 0.01 + n / 1000, 1) for n in (10, 100, 200)]
    assert curve.fit_prefill(points[:2]) is None
    assert curve.fit_prefill([points[0]] * 3) is None
    assert curve.fit_prefill(points) is not None
    assert curve.fit_decode([DecodePoint(b, 0.01, 1) for b in (1, 2)]) is None


@given(st.floats(1e-4, 0.1), st.floats(1e-6, 0.01))
def test_base_and_slope_of_itl_are_recovered_from_exact_times(base_s: float, per_seq_s: float) -> None:
    found = decode([base_s + per_seq_s * b for b in LEVELS])
    assert found.itl_base_s == pytest.approx(base_s, rel=1e-6)
    assert found.itl_per_seq_s == pytest.approx(per_seq_s, rel=1e-6)
    assert max(map(abs, found.residuals)) < 1e-9
    assert not found.poor and not found.bend
    assert found.flat or found.r2 == pytest.approx(1.0)


@given(st.lists(st.floats(1e-4, 1.0), min_size=6, max_size=6))
def test_no_coefficient_is_below_zero_whatever_was_measured(itl_s: list[float]) -> None:
    found = decode(itl_s)
    assert found.itl_base_s >= 0 and found.itl_per_seq_s >= 0
    assert found.itl_base_s + found.itl_per_seq_s > 0
    assert all(np.isfinite(found.residuals))


@given(st.floats(0.8, 1.25), st.permutations(LEVELS))
def test_the_fit_scales_with_time_and_does_not_depend_on_the_order_of_steps(
    scale: float, order: tuple[int, ...]
) -> None:
    times = {b: (0.006 + 0.0001 * b) * (1.02 if b == 4 else 1.0) for b in LEVELS}
    one, other = decode([times[b] for b in LEVELS]), decode([times[b] * scale for b in order], tuple(order))
    assert other.itl_base_s == pytest.approx(one.itl_base_s * scale)
    assert other.itl_per_seq_s == pytest.approx(one.itl_per_seq_s * scale)
    assert (other.r2, other.bend) == (pytest.approx(one.r2), one.bend)


def test_relative_errors_count_alike_as_weighted_polyfit_has_it() -> None:
    chance = np.random.default_rng(3)
    itl_s = (0.006 + 0.0002 * np.array(LEVELS)) * chance.uniform(0.9, 1.1, 6)
    found = decode(list(itl_s))
    fitted_s = found.itl_base_s + found.itl_per_seq_s * np.array(LEVELS)
    slope, base = np.polyfit(
        LEVELS, itl_s, 1, w=1.0 / fitted_s
    )  # numpy's weights multiply residuals, not their squares
    assert (found.itl_base_s, found.itl_per_seq_s) == (pytest.approx(base), pytest.approx(slope))


def test_itl_that_does_not_grow_is_flat_and_not_a_poor_fit() -> None:
    found = decode([0.0125, 0.0124, 0.0126, 0.0125, 0.0124, 0.0125])
    assert found.flat and not found.poor
    assert found.itl_s(8) == pytest.approx(0.0125, rel=0.02)


def test_itl_that_jumps_about_is_a_poor_fit() -> None:
    found = decode([0.01, 0.03, 0.01, 0.04, 0.01, 0.03])
    assert found.poor and found.r2 < 0.5


def test_a_curve_that_leaves_the_line_says_to_which_side() -> None:
    assert decode([0.005 + 0.00003 * b * b for b in LEVELS]).bend == "up"
    assert decode([0.005 * b**0.5 for b in LEVELS]).bend == "down"


def test_a_lone_span_keeps_its_own_company_and_others_count_while_they_are_there() -> None:
    assert curve.company([]) == []
    assert curve.company([Span(1.0, 3.0, 9)]) == [pytest.approx(1.0)]
    assert curve.company([Span(0.0, 4.0, 9), Span(1.0, 3.0, 9)]) == [pytest.approx(1.5), pytest.approx(2.0)]
    assert curve.company([Span(0.0, 1.0, 9), Span(1.0, 2.0, 9)]) == [pytest.approx(1.0)] * 2


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.01, 50)), min_size=1, max_size=30))
def test_company_is_the_sum_of_overlaps_over_the_own_length(made: list[tuple[float, float]]) -> None:
    spans = [Span(start, start + length, 2) for start, length in made]
    for span, beside in zip(spans, curve.company(spans), strict=True):
        overlap_s = sum(max(0.0, min(span.last_s, o.last_s) - max(span.first_s, o.first_s)) for o in spans)
        assert beside == pytest.approx(overlap_s / (span.last_s - span.first_s), rel=1e-6, abs=1e-6)


def test_a_step_counts_tokens_not_chunks_and_load_that_it_does_not_time() -> None:
    spans = [Span(0.0, 1.0, 11), Span(0.0, 1.0, 11), Span(0.0, 1.0, 101)]
    point = curve.decode_point(spans, [True, True, False], replicas=3)
    assert point == DecodePoint(pytest.approx(1.0), pytest.approx(0.1), 2)
    assert curve.decode_point(spans, [False] * 3) is None
    assert curve.decode_point([Span(0.0, 1.0, 1)], [True]) is None
