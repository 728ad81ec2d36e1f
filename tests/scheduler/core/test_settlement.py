"""What a request cost in the end, against numbers worked out by hand."""

from __future__ import annotations

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
    # cloud: 800 * 1e-5 + 200 * 1e-6 + 100 * 5e-5 = 0.0132; spare: 1000 * 2e-5 + 100 * 4e-5 = 0.024
    assert entry.usd_counterfactual == pytest.approx(0.0132)
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


@given(usages(), st.lists(rates(), min_size=2, max_size=5), st.data())
def test_the_counterfactual_is_the_least_of_all_other_sources(usage: Usage, given_rates: list[Rate], data: Any) -> None:
    offers = [offer(f"o{i}", rate=rate) for i, rate in enumerate(given_rates)]
    served = data.draw(st.sampled_from(offers))
    entry = settle(decision(*offers), [outcome(served.id, "complete", usage, served.rate.usd(usage))], {})
    others = sorted(o.rate.usd(usage) for o in offers if o.id != served.id)
    assert entry.usd_counterfactual == others[0]
    assert entry.usd_avoidable == served.rate.usd(usage)
