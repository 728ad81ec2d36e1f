"""Each soft term against arithmetic done by hand, and the price functions against slow oracles."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scheduler.core import costs
from scheduler.core.capacity import BidCurve, Capacity, Level
from scheduler.core.market import Load, OfferLoad, Request, ServiceClass
from scheduler.core.supply import FixedCost, Offer, Quality, Rate, ServiceCurve, Tier, Usage
from tests.support.markets import CURVE, NO_USE, NOW_S, POLICY, capacities, curves, offer, rates, request, usages

# V falls by 0.01 USD per second of wait.
BID = BidCurve((0.0, 100.0), (0.0, -1.0))
FULL = Capacity(2, 20, 20, 3, 4.0, NOW_S, levels=(Level(1e9, 0.8, BID),))
# 0.1 s base and 0.1 s prefill of 100 tokens come on top of the wait.
PATIENT = ServiceClass("c", ttft_s_max=1.01, usd_per_ttft_miss=0.5, usd_per_s_waiting=0.1, usd_per_wrong_answer=0.0)


def waiting_usd(asked: Request, given_offer: Offer, load: Load = NO_USE) -> float:
    return costs.waiting(asked, given_offer, load, POLICY, NOW_S)


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
    assert costs.cash(request(usage=Usage(100, 40, 7)), given_offer, NO_USE, POLICY, NOW_S) == pytest.approx(
        0.06 + 0.004 + 0.07 + 0.5
    )


@pytest.mark.parametrize(
    ("fields", "cached"),
    [
        ({}, 0),
        ({"prefix_offer": "pool/small", "prefix_tokens": 60}, 60),
        ({"prefix_offer": "pool/small", "prefix_tokens": 900}, 100),
        ({"prefix_offer": "elsewhere", "prefix_tokens": 60}, 0),
        ({"prefix_offer": "pool/small", "prefix_tokens": 60, "usage": Usage(100, 10, 50)}, 10),
    ],
)
def test_a_session_finds_its_prompt_cached_only_where_it_was_answered_before(
    fields: dict[str, Any], cached: int
) -> None:
    asked = request(**fields)
    assert costs.usage_at(asked, offer()) == asked.usage._replace(cached_tokens=cached)
    # Less is paid for, waited for and taken from others.
    rate = Rate(1e-3, 0.0, 0.0)
    assert costs.cash(asked, offer(rate=rate), NO_USE, POLICY, NOW_S) == pytest.approx((100 - cached) * 1e-3)
    eager = replace(asked, service_class=replace(PATIENT, ttft_s_max=1e9))
    assert waiting_usd(eager, offer()) == pytest.approx(0.1 * (0.1 + (100 - cached) / 1_000))
    work_s = CURVE.work_s(Usage(100, cached, 50)) / 2
    price = costs.scarcity(asked, offer(capacity=FULL), NO_USE, POLICY, NOW_S)
    assert price == pytest.approx(POLICY.bid_prefilter * 0.01 * work_s)


def test_the_floor_is_the_standard_price_of_the_work_and_nothing_without_one() -> None:
    work_s = CURVE.work_s(Usage(100, 0, 50))
    fixed = FixedCost(usd_per_hour=3.6, utilization_standard=0.5, basis="standard")
    with_floor = costs.floor(request(), offer(floor=fixed), NO_USE, POLICY, NOW_S)
    assert with_floor == pytest.approx(work_s * 0.001 / 0.5)
    assert costs.floor(request(), offer(), NO_USE, POLICY, NOW_S) == 0.0


@given(curves(), usages())
def test_work_is_compute_or_the_share_of_the_slots_or_of_the_cache_whichever_binds(
    curve: ServiceCurve, usage: Usage
) -> None:
    prefill_s = (usage.input_tokens - usage.cached_tokens) / curve.prefill_tokens_per_s
    compute_s = prefill_s + sum(curve.itl_per_seq_s for _ in range(usage.output_tokens))
    # As many answers at once as slots and cache hold (one more token each for rounding), and at least one.
    fit = math.inf
    if curve.kv_tokens:
        fit = max(1.0, curve.kv_tokens / (1.0 + usage.input_tokens + usage.output_tokens / 2))
    at_once = min(curve.seqs_max, fit)
    held_s = prefill_s + usage.output_tokens * (curve.itl_base_s + curve.itl_per_seq_s * at_once)
    assert curve.work_s(usage) == pytest.approx(max(compute_s, held_s / at_once), rel=1e-9)


@given(curves(), usages(), st.floats(0.0, 1.0))
def test_slots_count_for_as_much_of_the_work_as_they_are_what_is_scarce(
    curve: ServiceCurve, usage: Usage, slots_bound: float
) -> None:
    compute_s, scarcer_s = curve.work_s(usage, 0.0), curve.work_s(usage)
    alone_s = (usage.input_tokens - usage.cached_tokens) / curve.prefill_tokens_per_s
    assert compute_s == pytest.approx(alone_s + usage.output_tokens * curve.itl_per_seq_s)
    assert compute_s <= curve.work_s(usage, slots_bound) * (1 + 1e-12)
    assert curve.work_s(usage, slots_bound) == pytest.approx(compute_s + slots_bound * (scarcer_s - compute_s))


@given(curves(), usages())
def test_a_cache_that_holds_fewer_never_makes_a_request_less_work(curve: ServiceCurve, usage: Usage) -> None:
    roomy = replace(curve, kv_tokens=0).work_s(usage)
    assert curve.work_s(usage) >= roomy * (1 - 1e-12)
    assert replace(curve, kv_tokens=10**12).work_s(usage) == roomy


@given(curves(), usages(), st.floats(1.0, 300.0))
def test_service_takes_its_prompt_and_one_gap_per_token(curve: ServiceCurve, usage: Usage, running: float) -> None:
    alone = curve.ttft_base_s + (usage.input_tokens - usage.cached_tokens) / curve.prefill_tokens_per_s
    gaps_s = usage.output_tokens * (curve.itl_base_s + running * curve.itl_per_seq_s)
    assert curve.service_s(usage, running) == pytest.approx(alone + gaps_s, rel=1e-9)


@pytest.mark.parametrize(("difficulty", "good"), [(0.0, 0.9), (0.25, 0.75), (0.5, 0.6), (0.75, 0.4), (1.0, 0.2)])
def test_quality_is_linear_between_its_three_points(difficulty: float, good: float) -> None:
    assert Quality(0.9, 0.6, 0.2).at(difficulty) == pytest.approx(good)


def test_a_likely_wrong_answer_costs_what_it_costs_the_tenant() -> None:
    asked = request(difficulty=1.0, service_class=ServiceClass("c", 1.0, 0.0, 0.0, usd_per_wrong_answer=0.5))
    assert costs.wrong_answer(asked, offer(quality=Quality(1, 1, 0.2)), NO_USE, POLICY, NOW_S) == pytest.approx(0.4)
    assert costs.wrong_answer(asked, offer(quality=Quality(0, 0, 1.0)), NO_USE, POLICY, NOW_S) == 0.0


@pytest.mark.parametrize(
    ("now_s", "sent_s", "wait_s"),
    [
        (NOW_S, 0.0, 0.8),
        (NOW_S, 1.0, 1.8),
        (NOW_S + 0.5, 1.0, 0.3 + 0.5),  # both have drained for half a second
        (NOW_S + 5.0, 1.0, 0.0),
        (NOW_S - 1.0, 0.0, 0.8),  # a snapshot from the future is a snapshot of now
    ],
)
def test_the_wait_is_the_snapshots_and_what_was_sent_since_both_drained(
    now_s: float, sent_s: float, wait_s: float
) -> None:
    load = Load({"pool/small": OfferLoad(sent_s=sent_s, sent_at_s=min(now_s, NOW_S))}, {})
    assert costs.wait_s(request(), offer(capacity=FULL), load, now_s) == pytest.approx(wait_s)
    assert costs.wait_s(request(), offer(), load, now_s) == 0.0


def test_an_urgent_request_waits_in_its_own_line() -> None:
    capacity = replace(FULL, levels=(Level(1.01, 0.3), Level(1e9, 0.8)))
    assert costs.wait_s(request(service_class=PATIENT), offer(capacity=capacity), NO_USE, NOW_S) == 0.3
    assert costs.wait_s(request(), offer(capacity=capacity), NO_USE, NOW_S) == 0.8


def test_waiting_costs_per_second_and_where_no_gate_sends_it_on_a_missed_objective_costs_once() -> None:
    given_offer = offer(capacity=replace(FULL, gated=False))
    hurried = replace(PATIENT, ttft_s_max=0.99)
    assert waiting_usd(request(service_class=PATIENT), given_offer) == pytest.approx(0.1)
    assert waiting_usd(request(service_class=hurried), given_offer) == pytest.approx(0.6)


def test_behind_a_gate_a_request_waits_no_longer_than_its_objective() -> None:
    hurried = replace(PATIENT, ttft_s_max=0.99)
    assert waiting_usd(request(service_class=hurried), offer(capacity=FULL)) == pytest.approx(0.099)
    # A prompt that takes longer by itself is late without any queue, and the gate can do nothing about it.
    slow = replace(PATIENT, ttft_s_max=0.15)
    assert waiting_usd(request(service_class=slow), offer(capacity=FULL)) == pytest.approx(0.5 + 0.02)


@example(replace(FULL, levels=(Level(1e9, 9.0),)), 1.7, Usage(24, 0, 0))  # 0.124 + (1.7 - 0.124) is more than 1.7
@given(capacities(), st.floats(0.01, 10.0), usages())
def test_behind_a_gate_the_queue_alone_is_never_a_miss(capacity: Capacity, ttft_s_max: float, usage: Usage) -> None:
    strict = ServiceClass("c", ttft_s_max, usd_per_ttft_miss=1.0, usd_per_s_waiting=0.0, usd_per_wrong_answer=0.0)
    asked = request(service_class=strict, usage=usage)
    alone = waiting_usd(asked, offer())
    assert waiting_usd(asked, offer(capacity=replace(capacity, gated=True))) == alone
    assert waiting_usd(asked, offer(capacity=replace(capacity, gated=False))) >= alone


def test_a_source_that_is_slower_than_its_curve_is_expected_to_stay_slow() -> None:
    patient = ServiceClass("c", ttft_s_max=9.0, usd_per_ttft_miss=0.5, usd_per_s_waiting=1.0, usd_per_wrong_answer=0.0)
    load = Load({"pool/small": OfferLoad(ttft_ratio=3.0)}, {})
    assert waiting_usd(request(service_class=patient), offer(), load) == pytest.approx(0.6)


def test_a_model_that_thinks_first_is_waited_for_as_long() -> None:
    thinks = offer(reasoning_tokens=100)
    patient = replace(PATIENT, ttft_s_max=1e9)
    assert waiting_usd(request(service_class=patient), thinks) == pytest.approx(0.1 * (0.2 + 100 * CURVE.itl_s(1)))


@pytest.mark.parametrize(("gated", "softened"), [(True, POLICY.bid_prefilter), (False, 1.0)])
def test_scarcity_is_the_value_of_the_time_taken_away_softened_where_a_gate_asks_again(
    gated: bool, softened: float
) -> None:
    # The work of this request, spread over two replicas, adds to the wait.
    added_s = CURVE.work_s(Usage(100, 0, 50)) / 2
    price = costs.scarcity(request(), offer(capacity=replace(FULL, gated=gated)), NO_USE, POLICY, NOW_S)
    assert price == pytest.approx(softened * 0.01 * added_s)


def test_time_is_free_where_nothing_is_known_of_its_value() -> None:
    for given_offer in (offer(), offer(capacity=replace(FULL, levels=()))):
        assert costs.scarcity(request(), given_offer, NO_USE, POLICY, NOW_S) == 0.0
    unknown = offer(capacity=replace(FULL, levels=(Level(1e9, 0.8),)))
    assert costs.scarcity(request(), unknown, NO_USE, POLICY, NOW_S) == 0.0


def test_scarcity_is_read_where_the_line_ends_by_now() -> None:
    # Time is free up to 1 s of wait and dear beyond.
    bid = BidCurve((0.0, 1.0, 101.0), (0.0, 0.0, -1.0))
    scarce = offer(capacity=replace(FULL, gated=False, levels=(Level(1e9, 2.0, bid),)))
    added_s = CURVE.work_s(Usage(100, 0, 50)) / 2
    assert costs.scarcity(request(), scarce, NO_USE, POLICY, NOW_S + 0.5) == pytest.approx(0.01 * added_s)
    assert costs.scarcity(request(), scarce, NO_USE, POLICY, NOW_S + 2.0) == 0.0
    sent = Load({scarce.id: OfferLoad(sent_s=3.0, sent_at_s=NOW_S + 2.0)}, {})
    assert costs.scarcity(request(), scarce, sent, POLICY, NOW_S + 2.0) == pytest.approx(0.01 * added_s)
