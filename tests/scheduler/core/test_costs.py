"""Each soft term against arithmetic done by hand, and the price functions against slow oracles."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core import costs
from scheduler.core.market import Load, OfferLoad, ServiceClass
from scheduler.core.supply import BidCurve, Capacity, FixedCost, Quality, Rate, ServiceCurve, Tier, Usage
from tests.support.markets import CURVE, NO_USE, NOW_S, POLICY, bid_curves, curves, offer, rates, request, usages

FULL = Capacity(replicas=2, slots=20, running=20, waiting=3, service_s_mean=4.0, as_of_s=NOW_S)


def kinds(usage: Usage) -> dict[str, int]:
    """How many tokens of each kind there are, each token once."""
    written = usage.cache_write_tokens + usage.cache_write_long_tokens
    return {
        "usd_per_input": usage.input_tokens - usage.cached_tokens - written,
        "usd_per_cached": usage.cached_tokens,
        "usd_per_cache_write": usage.cache_write_tokens,
        "usd_per_cache_write_long": usage.cache_write_long_tokens,
        "usd_per_output": usage.output_tokens - usage.reasoning_tokens,
        "usd_per_reasoning": usage.reasoning_tokens,
    }


def exact_usd(place: Rate | Tier, kind: str) -> Fraction:
    """The price of one token of a kind; where there is none, that of what it is part of."""
    wider = {
        "usd_per_cache_write": "usd_per_input",
        "usd_per_cache_write_long": "usd_per_cache_write",
        "usd_per_reasoning": "usd_per_output",
    }
    usd = getattr(place, kind)
    return exact_usd(place, wider[kind]) if usd is None else Fraction(usd)


@given(rates(), usages())
def test_a_rate_charges_each_token_once_at_the_tier_of_the_whole_input(rate: Rate, usage: Usage) -> None:
    passed = [tier for tier in rate.tiers if usage.input_tokens > tier.input_tokens_above]
    place = max(passed, key=lambda tier: tier.input_tokens_above) if passed else rate
    exact = Fraction(rate.usd_per_request) + usage.searches * Fraction(rate.usd_per_search)
    exact += sum(tokens * exact_usd(place, kind) for kind, tokens in kinds(usage).items())
    assert rate.usd(usage) == pytest.approx(float(exact), rel=1e-9, abs=1e-12)


@given(usages(), st.floats(0.5, 3.0), st.integers(0, 2000))
def test_what_a_model_really_reads_and_writes_is_more_by_its_tokenizer_and_its_thinking(
    usage: Usage, ratio: float, reasoning: int
) -> None:
    expected = offer(tokens_ratio=ratio, reasoning_tokens=reasoning).expected(usage)
    assert expected.input_tokens == math.ceil(usage.input_tokens * ratio)
    assert expected.searches == usage.searches
    thinks = reasoning if usage.output_tokens else 0
    assert expected.output_tokens == math.ceil(usage.output_tokens * ratio) + thinks
    assert usage.reasoning_tokens * ratio + thinks <= expected.reasoning_tokens <= expected.output_tokens
    assert offer().expected(usage) == usage


@pytest.mark.parametrize(("read", "usd"), [(100, 100.0), (101, 202.0), (200, 400.0), (201, 603.0)])
def test_a_tier_starts_above_its_bound_and_reprices_all_of_the_input(read: int, usd: float) -> None:
    rate = Rate(1.0, 0.0, 0.0, tiers=(Tier(100, 2.0, 0.0, 0.0), Tier(200, 3.0, 0.0, 0.0)))
    assert rate.usd(Usage(read, 0, 0)) == usd


def test_cash_is_the_offers_rate_at_the_requests_own_token_mix() -> None:
    given_offer = offer(rate=Rate(1e-3, 1e-4, 1e-2, 0.5))
    assert costs.cash(request(usage=Usage(100, 40, 7)), given_offer, NO_USE, POLICY) == pytest.approx(
        0.06 + 0.004 + 0.07 + 0.5
    )


def test_the_floor_is_the_standard_price_of_the_work_and_nothing_without_one() -> None:
    work_s = CURVE.work_s(Usage(100, 0, 50))
    fixed = FixedCost(usd_per_hour=3.6, utilization_standard=0.5, basis="standard")
    assert costs.floor(request(), offer(floor=fixed), NO_USE, POLICY) == pytest.approx(work_s * 0.001 / 0.5)
    assert costs.floor(request(), offer(), NO_USE, POLICY) == 0.0


@given(curves(), usages())
def test_work_is_compute_or_the_share_of_the_slots_whichever_binds(curve: ServiceCurve, usage: Usage) -> None:
    prefill_s = (usage.input_tokens - usage.cached_tokens) / curve.prefill_tokens_per_s
    compute_s = prefill_s + sum(curve.itl_per_seq_s for _ in range(usage.output_tokens))
    itl_full_s = curve.itl_base_s + curve.seqs_max * curve.itl_per_seq_s
    slot_s = (curve.ttft_base_s + prefill_s + usage.output_tokens * itl_full_s) / curve.seqs_max
    assert curve.work_s(usage) == pytest.approx(max(compute_s, slot_s), rel=1e-9)
    assert curve.service_s(usage, curve.seqs_max) / curve.seqs_max == pytest.approx(slot_s, rel=1e-9)


@pytest.mark.parametrize(("difficulty", "good"), [(0.0, 0.9), (0.25, 0.75), (0.5, 0.6), (0.75, 0.4), (1.0, 0.2)])
def test_quality_is_linear_between_its_three_points(difficulty: float, good: float) -> None:
    assert Quality(0.9, 0.6, 0.2).at(difficulty) == pytest.approx(good)


def test_a_likely_wrong_answer_costs_what_it_costs_the_tenant() -> None:
    asked = request(difficulty=1.0, service_class=ServiceClass("c", 1.0, 0.0, 0.0, usd_per_wrong_answer=0.5))
    assert costs.wrong_answer(asked, offer(quality=Quality(1, 1, 0.2)), NO_USE, POLICY) == pytest.approx(0.4)
    assert costs.wrong_answer(asked, offer(quality=Quality(0, 0, 1.0)), NO_USE, POLICY) == 0.0


@pytest.mark.parametrize(("added", "wait_s"), [(0, 0.8), (5, 1.8)])
def test_the_wait_counts_the_queue_and_what_was_sent_since_the_snapshot(added: int, wait_s: float) -> None:
    # 20 running + 3 waiting + 1 = 24 for 20 slots: 4 must leave first, one leaves each 4 s / 20.
    load = Load({"pool/small": OfferLoad(new_since_snapshot=added)}, {})
    assert costs.wait_s(offer(capacity=FULL), load) == pytest.approx(wait_s)
    assert costs.wait_s(offer(), load) == 0.0
    assert costs.wait_s(offer(capacity=replace(FULL, running=5, waiting=0)), NO_USE) == 0.0
    assert costs.wait_s(offer(capacity=replace(FULL, slots=0)), NO_USE) == 0.0


def test_waiting_costs_per_second_and_a_missed_objective_costs_once() -> None:
    patient = ServiceClass("c", ttft_s_max=1.01, usd_per_ttft_miss=0.5, usd_per_s_waiting=0.1, usd_per_wrong_answer=0.0)
    hurried = replace(patient, ttft_s_max=0.99)
    given_offer = offer(capacity=FULL)  # 0.8 s of queue, 0.1 s base, 0.1 s prefill of 100 tokens
    assert costs.waiting(request(service_class=patient), given_offer, NO_USE, POLICY) == pytest.approx(0.1)
    assert costs.waiting(request(service_class=hurried), given_offer, NO_USE, POLICY) == pytest.approx(0.6)


def test_a_source_that_is_slower_than_its_curve_is_expected_to_stay_slow() -> None:
    patient = ServiceClass("c", ttft_s_max=9.0, usd_per_ttft_miss=0.5, usd_per_s_waiting=1.0, usd_per_wrong_answer=0.0)
    load = Load({"pool/small": OfferLoad(ttft_ratio=3.0)}, {})
    assert costs.waiting(request(service_class=patient), offer(), load, POLICY) == pytest.approx(0.6)


def test_scarcity_is_the_softened_value_of_the_time_taken_away() -> None:
    # V falls by 0.01 USD per second of wait; the work of this request, spread over two replicas, adds to the wait.
    bid = BidCurve((0.0, 100.0), (0.0, -1.0))
    added_s = CURVE.work_s(Usage(100, 0, 50)) / 2
    scarce = offer(capacity=replace(FULL, bid=bid))
    assert costs.scarcity(request(), scarce, NO_USE, POLICY) == pytest.approx(POLICY.bid_prefilter * 0.01 * added_s)
    assert costs.scarcity(request(), offer(capacity=FULL), NO_USE, POLICY) == 0.0
    assert costs.scarcity(request(), offer(), NO_USE, POLICY) == 0.0


def interpolated(curve: BidCurve, x_s: float) -> Fraction:
    """V by exact linear interpolation, flat beyond both ends."""
    xs, ys = [Fraction(w) for w in curve.wait_s], [Fraction(u) for u in curve.usd]
    x = min(max(Fraction(x_s), xs[0]), xs[-1])
    i = max(1, bisect_left(xs, x))
    return ys[i - 1] + (ys[i] - ys[i - 1]) * (x - xs[i - 1]) / (xs[i] - xs[i - 1])


@given(bid_curves(), st.floats(0.0, 400.0), st.floats(0.0, 50.0))
def test_the_bid_curve_is_linear_between_its_points_and_prices_a_difference(
    curve: BidCurve, x_s: float, added_s: float
) -> None:
    assert curve.at(x_s) == pytest.approx(float(interpolated(curve, x_s)), abs=1e-9)
    drop = max(0.0, float(interpolated(curve, x_s) - interpolated(curve, x_s + added_s)))
    assert curve.price_usd(x_s, added_s) == pytest.approx(drop, abs=1e-9)


def test_time_that_would_grow_in_value_with_the_backlog_is_free_not_a_gift() -> None:
    assert BidCurve((0.0, 1.0), (0.0, 5.0)).price_usd(0.0, 1.0) == 0.0
