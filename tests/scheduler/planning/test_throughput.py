"""Work at the SLO: the fullest batch that a trial of every batch finds, and never less than the core's own figure."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.supply import ServiceCurve, Usage
from scheduler.planning.throughput import batch_at_slo, work_s_at_slo

CURVE = ServiceCurve(
    prefill_tokens_per_s=10_000.0, itl_base_s=0.01, itl_per_seq_s=0.001, seqs_max=64, ttft_base_s=0.05, kv_tokens=30_000
)


@st.composite
def curves(draw: st.DrawFn) -> ServiceCurve:
    return ServiceCurve(
        prefill_tokens_per_s=draw(st.floats(500.0, 50_000.0)),
        itl_base_s=draw(st.floats(0.001, 0.05)),
        itl_per_seq_s=draw(st.sampled_from([0.0, 1e-5, 1e-4, 1e-3])),
        seqs_max=draw(st.integers(1, 80)),
        ttft_base_s=draw(st.floats(0.0, 0.5)),
        kv_tokens=draw(st.sampled_from([0, 2_000, 100_000])),
    )


def fits(curve: ServiceCurve, usage: Usage, running: int, ttft_s_max: float, tpot_s_max: float) -> bool:
    """Whether so many such requests keep the SLO together."""
    kv_tokens = running * (usage.input_tokens + usage.output_tokens / 2 + 1)
    step_s = curve.itl_s(running)
    return (
        (not curve.kv_tokens or kv_tokens <= curve.kv_tokens)
        and (usage.output_tokens < 2 or step_s <= tpot_s_max)
        and curve.prefill_s(usage) + step_s <= ttft_s_max
    )


@given(curves(), st.integers(1, 3_000), st.integers(0, 1_500), st.floats(0.02, 3.0), st.floats(0.001, 0.2))
def test_the_batch_is_the_fullest_of_all_that_keep_the_slo(
    curve: ServiceCurve, prompt: int, answer: int, ttft_s_max: float, tpot_s_max: float
) -> None:
    usage = Usage(prompt, 0, answer)
    tried = [n for n in range(1, curve.seqs_max + 1) if fits(curve, usage, n, ttft_s_max, tpot_s_max)]
    found = batch_at_slo(curve, np.array([prompt]), np.array([answer]), ttft_s_max, tpot_s_max)
    assert found.tolist() == [max(tried, default=0)]
    work_s = work_s_at_slo(curve, np.array([prompt]), np.array([answer]), ttft_s_max, tpot_s_max)[0]
    if not tried:
        assert work_s == math.inf
        return
    by_batch = [prompt / curve.prefill_tokens_per_s + answer * curve.itl_s(n) / n for n in tried]
    assert work_s == pytest.approx(min(by_batch))
    assert work_s >= curve.work_s(usage) * (1.0 - 1e-9)


@given(curves(), st.floats(0.02, 3.0), st.floats(0.001, 0.2), st.floats(1.0, 3.0))
def test_a_laxer_slo_never_takes_more_work_and_a_longer_request_never_less(
    curve: ServiceCurve, ttft_s_max: float, tpot_s_max: float, factor: float
) -> None:
    prompt, answer = np.array([10, 100, 100, 800, 800]), np.array([5, 5, 80, 80, 500])
    work_s = work_s_at_slo(curve, prompt, answer, ttft_s_max, tpot_s_max)
    with np.errstate(invalid="ignore"):
        assert not (np.diff(work_s) < 0.0).any()
    assert (work_s_at_slo(curve, prompt, answer, ttft_s_max * factor, tpot_s_max * factor) <= work_s).all()


def test_each_limit_binds_in_its_turn() -> None:
    """Slots 64; ITL(B) <= 40 ms: 30; cache of 30,000 tokens and 1,000 + 998 / 2 + 1 of each: 20; 170 ms to the first token of

    1,000: less 50 and 100 ms of prefill leaves a step of 20 ms: 10. At ten, a token of each takes 20 ms: 2 ms apiece.
    """
    prompt, answer = np.array([100, 100, 1_000, 1_000]), np.array([100, 100, 998, 998])
    ttft_s_max, tpot_s_max = np.array([9.0, 9.0, 9.0, 0.17]), np.array([9.0, 0.04, 9.0, 9.0])
    assert batch_at_slo(CURVE, prompt, answer, ttft_s_max, tpot_s_max).tolist() == [64.0, 30.0, 20.0, 10.0]
    work_s = work_s_at_slo(CURVE, prompt, answer, ttft_s_max, tpot_s_max)
    assert work_s[3] == pytest.approx(0.1 + 998 * 0.002)


def test_what_one_alone_cannot_do_in_time_or_does_not_hold_takes_for_ever() -> None:
    prompt = np.array([100, 100, 20_000, 40_000])
    slow = work_s_at_slo(
        CURVE, prompt, np.full(4, 50), np.array([9.0, 0.06, 1.0, 9.0]), np.array([0.0105, 9.0, 9.0, 9.0])
    )
    assert slow.tolist() == [math.inf] * 4


def test_an_answer_of_one_token_has_no_pace_to_keep() -> None:
    assert math.isfinite(work_s_at_slo(CURVE, np.array([100]), np.array([1]), 9.0, 0.001)[0])
