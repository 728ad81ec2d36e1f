"""What a request cost in the end, against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.market import Decision, Outcome, Quote
from scheduler.core.settlement import settle
from scheduler.core.supply import FixedCost, Rate, Usage
from tests.support.markets import CURVE, NOW_S, api, offer, rates, request, usages

POOL = offer("pool/small", rate=Rate(1e-6, 0.0, 2e-6))
CLOUD = api("cloud/large", 0.0, model="large", rate=Rate(1e-5, 1e-6, 5e-5))
SPARE = api("spare/large", 0.0, model="large", rate=Rate(2e-5, 2e-5, 4e-5))
FIXED = {"pool/small": FixedCost(usd_per_hour=7.2, utilization_standard=0.5, basis="standard")}


def decision(*offers: Any) -> Decision:
    return Decision(request(), 1, tuple(Quote(o, 0.0, 0.0, {}) for o in offers), ())


def outcome(offer_id: str, status: Any, usage: Usage, usd: float, **fields: Any) -> Outcome:
    return Outcome(offer_id, status, NOW_S + 1.0, NOW_S + 4.0, usage, usd, **fields)


def test_an_answer_of_our_own_is_compared_with_the_cheapest_other_source_at_the_usage_that_was() -> None:
    usage = Usage(1000, 200, 100)
    paid = POOL.rate.usd(usage)
    entry = settle(decision(POOL, CLOUD, SPARE), [outcome("pool/small", "complete", usage, paid, ttft_s=0.5)], FIXED)
    assert entry.usd_avoidable == pytest.approx(800 * 1e-6 + 100 * 2e-6)
    # Nobody else has the 200 cached: cloud: 1000 * 1e-5 + 100 * 5e-5 = 0.015; spare: 1000 * 2e-5 + 100 * 4e-5 = 0.024
    assert entry.usd_counterfactual == pytest.approx(0.015)
    assert entry.usd_fixed_share == pytest.approx(CURVE.work_s(usage) * 0.002 / 0.5)
    assert (entry.offer_id, entry.kind, entry.model, entry.status) == ("pool/small", "base", "small", "complete")
    assert (entry.ttft_s, entry.duration_s, entry.at_s) == (pytest.approx(1.5), 4.0, NOW_S + 4.0)


def test_failed_attempts_are_money_spent_and_a_bounce_takes_no_hardware() -> None:
    usage, nothing = Usage(1000, 0, 100), Usage(0, 0, 0)
    outcomes = [
        outcome("pool/small", "bounced", nothing, 0.0),
        outcome("spare/large", "timeout", usage, 0.024),
        outcome("cloud/large", "complete", usage, 0.015),
    ]
    entry = settle(decision(POOL, SPARE, CLOUD), outcomes, FIXED)
    assert entry.usd_avoidable == pytest.approx(0.039)
    assert entry.usd_fixed_share == 0.0
    assert entry.usd_counterfactual == pytest.approx(POOL.rate.usd(usage))
    assert (entry.offer_id, entry.kind) == ("cloud/large", "api")


def test_a_failed_attempt_of_our_own_took_hardware_though_another_answered() -> None:
    usage = Usage(500, 0, 10)
    outcomes = [outcome("pool/small", "timeout", usage, 0.001), outcome("cloud/large", "complete", usage, 0.01)]
    entry = settle(decision(POOL, CLOUD), outcomes, FIXED)
    assert entry.usd_fixed_share == pytest.approx(FIXED["pool/small"].usd(CURVE.work_s(usage)))


def test_without_an_alternative_no_saving_is_claimed() -> None:
    usage = Usage(10, 0, 10)
    entry = settle(decision(POOL), [outcome("pool/small", "complete", usage, 0.25)], {})
    assert entry.usd_counterfactual == entry.usd_avoidable == 0.25
    assert entry.usd_fixed_share == 0.0


def test_a_request_that_nobody_took_costs_nothing() -> None:
    entry = settle(decision(), [], FIXED)
    assert (entry.status, entry.offer_id, entry.kind, entry.ttft_s) == ("unserved", "", "", None)
    assert (entry.usd_avoidable, entry.usd_fixed_share, entry.usd_counterfactual, entry.duration_s) == (0, 0, 0, 0)
    assert entry.at_s == NOW_S


def test_a_request_that_was_not_tried_though_sources_were_there_claims_no_saving_either() -> None:
    assert settle(decision(POOL, CLOUD), [], FIXED).usd_counterfactual == 0.0


def test_another_model_counts_the_answer_in_its_own_tokens_and_with_its_own_reasoning() -> None:
    thinker = api("cloud/thinker", 0.0, model="t", rate=Rate(1e-5, 0.0, 5e-5), tokens_ratio=1.25, reasoning_tokens=400)
    wordy = api("cloud/wordy", 0.0, model="w", rate=Rate(2e-6, 0.0, 8e-6), tokens_ratio=1.5, reasoning_tokens=50)
    usage = Usage(1250, 1000, 925, 200, 50, reasoning_tokens=800, searches=2)  # 1000 and 100 of the gateway's
    entry = settle(decision(thinker, wordy), [outcome("cloud/thinker", "complete", usage, 0.03)], {})
    assert entry.usd_counterfactual == pytest.approx(1500 * 2e-6 + (150 + 50) * 8e-6)
    # and back: 1500 and 200 of the wordy one's are 1000 and 100 again
    usage = Usage(1500, 0, 200, reasoning_tokens=50)
    entry = settle(decision(thinker, wordy), [outcome("cloud/wordy", "complete", usage, 0.0046)], {})
    assert entry.usd_counterfactual == pytest.approx(1250 * 1e-5 + (125 + 400) * 5e-5)


def test_the_same_model_elsewhere_is_taken_to_have_thought_as_much_as_it_did() -> None:
    usage = Usage(1000, 0, 3100, reasoning_tokens=3000)  # far above its usual, which nobody has configured
    entry = settle(decision(CLOUD, SPARE), [outcome("cloud/large", "complete", usage, 0.165)], {})
    assert entry.usd_counterfactual == pytest.approx(1000 * 2e-5 + 3100 * 4e-5)


ratios = st.floats(0.1, 10.0) | st.sampled_from([1.0, 0.95, 1.1, 1.25, 1.3, 2.0])
reasonings = st.sampled_from([0, 0, 1, 400])


def uncached(usage: Usage) -> Usage:
    return usage._replace(cached_tokens=0, cache_write_tokens=0, cache_write_long_tokens=0)


@given(usages().map(uncached), rates(), ratios, reasonings)
def test_the_same_offer_elsewhere_would_have_cost_what_was_paid(
    usage: Usage, rate: Rate, ratio: float, reasoning: int
) -> None:
    here = api("here/m", 0.0, rate=rate, tokens_ratio=ratio, reasoning_tokens=reasoning)
    there = replace(here, id="there/m")
    entry = settle(decision(here, there), [outcome("here/m", "complete", usage, rate.usd(usage))], {})
    assert entry.usd_counterfactual == entry.usd_avoidable


@given(usages().map(uncached), rates(), ratios, reasonings)
def test_another_model_described_alike_costs_what_an_answer_as_expected_did(
    usage: Usage, rate: Rate, ratio: float, reasoning: int
) -> None:
    here = api("here/m", 0.0, rate=rate, tokens_ratio=ratio, reasoning_tokens=reasoning)
    there = replace(here, id="there/other", model="other")
    measured = here.expected(usage._replace(reasoning_tokens=0))
    entry = settle(decision(here, there), [outcome("here/m", "complete", measured, rate.usd(measured))], {})
    assert entry.usd_counterfactual == entry.usd_avoidable


flat_rates = rates().map(lambda rate: replace(rate, tiers=()))


@given(usages(), flat_rates, flat_rates, ratios, ratios, reasonings, st.booleans(), st.data())
def test_a_longer_answer_never_lowers_the_counterfactual_and_another_source_never_raises_it(
    usage: Usage, mine: Rate, theirs: Rate, r0: float, r1: float, reasoning: int, same: bool, data: Any
) -> None:
    here = api("here/m", 0.0, rate=mine, tokens_ratio=r0)
    there = api("there/m", 0.0, rate=theirs, tokens_ratio=r1, reasoning_tokens=reasoning)
    there = replace(there, model=here.model if same else "other")
    more = st.integers(0, 3_000)
    longer = usage._replace(
        input_tokens=usage.input_tokens + data.draw(more), output_tokens=usage.output_tokens + data.draw(more)
    )

    def counterfactual(used: Usage, *offers: Any) -> float:
        return settle(decision(here, *offers), [outcome("here/m", "complete", used, 0.0)], {}).usd_counterfactual

    usd = counterfactual(usage, there)
    assert usd <= counterfactual(longer, there) + 1e-12
    assert counterfactual(usage, there, replace(there, id="more/m", rate=data.draw(rates()))) <= usd


@given(usages(), st.lists(rates(), min_size=2, max_size=5), st.data())
def test_the_counterfactual_is_the_least_of_all_other_sources(usage: Usage, given_rates: list[Rate], data: Any) -> None:
    offers = [offer(f"o{i}", rate=rate) for i, rate in enumerate(given_rates)]
    served = data.draw(st.sampled_from(offers))
    entry = settle(decision(*offers), [outcome(served.id, "complete", usage, served.rate.usd(usage))], {})
    others = sorted(o.rate.usd(uncached(usage)) for o in offers if o.id != served.id)
    assert entry.usd_counterfactual == others[0]
    assert entry.usd_avoidable == served.rate.usd(usage)
