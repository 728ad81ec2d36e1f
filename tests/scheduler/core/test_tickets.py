"""From a decision to a ticket: what the pool displaces, and until when the request may wait there."""

from __future__ import annotations

import math
from typing import Any

import pytest

from scheduler.core.capacity import BidCurve, Capacity, Level
from scheduler.core.dispatch import decide
from scheduler.core.market import Decision, Load, OfferLoad, ServiceClass
from scheduler.core.supply import Offer
from scheduler.core.tickets import ROUND_TRIP_S, displaced_usd, elsewhere_s, ticket
from tests.support.markets import NO_USE, NOW_S, POLICY, api, market, offer, request

CLASS = ServiceClass("chat", ttft_s_max=2.0, usd_per_ttft_miss=0.0, usd_per_s_waiting=0.001, usd_per_wrong_answer=0.0)
BID = BidCurve((0.0, 100.0), (0.0, -10.0))


def pool(offer_id: str = "pool/small", wait_s: float = 0.0, bid: BidCurve | None = None) -> Offer:
    return offer(offer_id, capacity=Capacity(1, 8, 0, 0, 1.0, NOW_S, (Level(1e9, wait_s, bid),)))


def decided(*offers: Offer, **fields: Any) -> Decision:
    return decide(request(**fields), market(*offers), NO_USE, POLICY, NOW_S)


def worth(decision: Decision, offer_id: str, tried: tuple[str, ...] = ()) -> float:
    quote = next(quote for quote in decision.merit_order if quote.offer.id == offer_id)
    return displaced_usd(decision, quote, NO_USE, tried)


def test_a_pool_displaces_the_cheapest_other_source_less_itself_without_its_scarcity() -> None:
    decision = decided(pool(bid=BID, wait_s=1.0), api("near", 0.2), api("far", 0.9))
    assert worth(decision, "pool/small") == pytest.approx(0.2 - 150e-6)
    assert worth(decision, "pool/small", ("near",)) == pytest.approx(0.9 - 150e-6)


def test_another_pool_is_a_way_out_at_its_price_with_scarcity_and_the_same_engines_are_none() -> None:
    decision = decided(pool("a/m"), pool("a/adapter"), pool("b/m", wait_s=1.0, bid=BID))
    scarce = next(q.terms["scarcity"] for q in decision.merit_order if q.offer.id == "b/m")
    assert scarce > 0.0
    assert worth(decision, "a/m") == pytest.approx(scarce)


def test_a_pool_that_is_dearer_than_the_api_displaces_less_than_nothing() -> None:
    assert worth(decided(pool(), api("gift", 0.0)), "pool/small") == pytest.approx(-150e-6)


def test_where_there_is_no_other_source_the_request_is_forced() -> None:
    decision = decided(pool(), offer("unseen", zone="far"), zones=frozenset({"home"}))
    assert worth(decision, "pool/small") == math.inf


def test_a_line_is_no_part_of_what_a_pool_displaces() -> None:
    empty, full = (decided(pool(wait_s=s), api("near", 0.2), service_class=CLASS) for s in (0.0, 1.5))
    assert worth(full, "pool/small") == pytest.approx(worth(empty, "pool/small"))
    assert full.merit_order[0].usd > empty.merit_order[0].usd


def test_a_ticket_says_when_it_must_leave_to_be_in_time_elsewhere() -> None:
    decision = decided(pool(), api("near", 0.2), service_class=CLASS)
    made = ticket("t", decision, decision.merit_order[0], NO_USE, (), NOW_S + 0.5)
    near_s = 0.1 + 100 / 1000  # base and prefill of the provider's curve
    assert elsewhere_s(decision, decision.merit_order[0], NO_USE, ()) == pytest.approx(near_s)
    assert made.ttft_by_s == decision.request.arrived_s + 2.0
    assert made.leave_by_s == pytest.approx(made.ttft_by_s - 1.4 * near_s - ROUND_TRIP_S)
    assert made.start_by_s == pytest.approx(NOW_S + 2.5)
    assert (made.kv_tokens, made.prefill_s) == (150, pytest.approx(0.1))


def test_a_provider_that_is_slow_just_now_makes_a_ticket_leave_earlier() -> None:
    decision = decided(pool(), api("near", 0.2), service_class=CLASS)
    slow = Load({"near": OfferLoad(ttft_ratio=3.0)}, {})
    assert elsewhere_s(decision, decision.merit_order[0], slow, ()) == pytest.approx(0.6)


def test_with_nowhere_else_to_go_a_ticket_waits_to_its_deadline_and_is_never_sent_away() -> None:
    decision = decided(pool(), service_class=CLASS)
    made = ticket("t", decision, decision.merit_order[0], NO_USE, (), NOW_S)
    assert made.usd_displaced == math.inf
    assert made.start_by_s == pytest.approx(decision.request.deadline_s)
    assert made.leave_by_s == -math.inf
