"""Which offers may serve, in which order, and who is asked next."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core import constraints
from scheduler.core.constraints import CONSTRAINTS
from scheduler.core.dispatch import Attempt, GiveUp, decide, next_attempt
from scheduler.core.market import Decision, Lease, Load, Market, Outcome, Policy, Quote, Request
from scheduler.core.supply import Rate, Usage
from tests.support.markets import (
    NO_USE,
    NOW_S,
    POLICY,
    api,
    generous,
    loads,
    market,
    markets,
    offer,
    request,
    requests,
)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Request, Market, Load]:
    drawn = draw(markets())
    return draw(requests()), drawn, draw(loads([o.id for o in drawn.offers]))


def decided(asked: Request, *offers: Any, **leases: Lease) -> Decision:
    return decide(asked, market(*offers, leases=leases), NO_USE, POLICY, NOW_S)


def reasons(decision: Decision) -> dict[str, str]:
    return {rejection.offer_id: rejection.reason for rejection in decision.rejected}


def order(decision: Decision) -> list[str]:
    return [quote.offer.id for quote in decision.merit_order]


@given(situations())
def test_every_offer_is_either_quoted_or_rejected_exactly_once(situation: tuple[Request, Market, Load]) -> None:
    asked, drawn, load = situation
    decision = decide(asked, drawn, load, POLICY, NOW_S)
    seen = order(decision) + [rejection.offer_id for rejection in decision.rejected]
    assert sorted(seen) == sorted(o.id for o in drawn.offers)
    assert all(rejection.reason for rejection in decision.rejected)
    assert (decision.request, decision.market_version) == (asked, drawn.version)


@given(situations())
def test_the_merit_order_ascends_by_price_and_the_terms_of_each_quote_sum_to_it(
    situation: tuple[Request, Market, Load],
) -> None:
    asked, drawn, load = situation
    decision = decide(asked, drawn, load, POLICY, NOW_S)
    prices = [quote.usd for quote in decision.merit_order]
    assert prices == sorted(prices)
    for quote in decision.merit_order:
        assert sum(quote.terms.values()) == pytest.approx(quote.usd, rel=1e-12, abs=1e-15)
        cash_name = "tokens" if quote.offer.kind == "api" else "energy"
        assert quote.terms[cash_name] == quote.usd_cash == quote.offer.rate.usd(asked.usage)
        assert quote.usd_cash <= asked.usd_max
        assert all(term >= 0.0 for term in quote.terms.values())


@given(situations())
def test_only_allowed_zones_are_quoted_and_the_zone_is_the_first_reason_whatever_else_fails(
    situation: tuple[Request, Market, Load],
) -> None:
    asked, drawn, load = situation
    decision = decide(asked, drawn, load, POLICY, NOW_S)
    for quote in decision.merit_order:
        assert quote.offer.zone in asked.zones
    outside = {o.id for o in drawn.offers if o.zone not in asked.zones}
    assert {i for i, reason in reasons(decision).items() if reason == constraints.ZONE} == outside


def test_an_offer_at_which_everything_fails_is_rejected_for_its_zone() -> None:
    bad = offer(
        zone="far",
        model="other",
        abilities=frozenset(),
        context_tokens=1,
        expires_s=0.0,
        healthy=False,
        rate=Rate(9, 9, 9),
    )
    asked = request(zones=frozenset({"home"}), models=frozenset({"small"}), usd_max=0.0, budgeted=True)
    assert reasons(decided(asked, bad)) == {bad.id: "zone not allowed"}
    assert CONSTRAINTS[0] is constraints.zone


@given(situations())
def test_the_same_input_gives_the_same_decision_and_stays_as_it_was(situation: tuple[Request, Market, Load]) -> None:
    before = copy.deepcopy(situation)
    asked, drawn, load = situation
    first = decide(asked, drawn, load, POLICY, NOW_S)
    assert decide(asked, drawn, load, POLICY, NOW_S) == first
    assert situation == before


@given(situations())
def test_a_request_without_limits_can_use_every_offer_of_its_zones(situation: tuple[Request, Market, Load]) -> None:
    asked, drawn, _ = situation
    asked = replace(asked, models=None, usd_max=1e9, budgeted=False)
    easy = replace(drawn, offers=tuple(generous(o) for o in drawn.offers))
    quoted = order(decide(asked, easy, NO_USE, POLICY, NOW_S))
    assert sorted(quoted) == sorted(o.id for o in drawn.offers if o.zone in asked.zones)


def test_a_cheaper_offer_comes_first_and_equal_ones_keep_the_order_of_the_market() -> None:
    dear, cheap, same = api("dear", 0.3), api("cheap", 0.1), api("same", 0.1)
    assert order(decided(request(), dear, cheap, same)) == ["cheap", "same", "dear"]


def test_what_an_offer_costs_above_the_requests_limit_rules_it_out_and_just_at_the_limit_does_not() -> None:
    decision = decided(request(usd_max=0.2), api("at", 0.2), api("above", 0.21))
    assert order(decision) == ["at"]
    assert reasons(decision) == {"above": "above the request's cost limit"}


@pytest.mark.parametrize("leases", [{}, {"t": Lease(100.0, NOW_S)}, {"other": Lease(100.0, NOW_S + 9)}])
def test_without_a_valid_lease_only_our_own_base_load_is_left_to_a_budgeted_tenant(leases: dict[str, Lease]) -> None:
    offers = (offer("base"), offer("spot", kind="spot"), api("api", 0.0))
    decision = decided(request(budgeted=True), *offers, **leases)
    assert order(decision) == ["base"]
    assert reasons(decision) == {"spot": "budget lease expired", "api": "budget lease expired"}


def test_a_tenant_without_a_budget_needs_no_lease() -> None:
    assert order(decided(request(), api("api", 0.1))) == ["api"]


@pytest.mark.parametrize(("used_usd", "fits"), [(0.0, True), (0.75, True), (0.7500001, False), (5.0, False)])
def test_a_lease_covers_what_was_spent_before_plus_this_request(used_usd: float, fits: bool) -> None:
    load = Load({}, {"t": used_usd})
    leases = {"t": Lease(1.0, NOW_S + 1.0)}
    decision = decide(request(budgeted=True), market(api("a", 0.25), leases=leases), load, POLICY, NOW_S)
    assert order(decision) == (["a"] if fits else [])
    assert reasons(decision) == ({} if fits else {"a": "budget spent"})


def test_a_sites_own_constraints_and_costs_join_in() -> None:
    decision = decide(
        request(),
        market(api("no", 0.0), api("yes", 0.1)),
        NO_USE,
        POLICY,
        NOW_S,
        hard=[*CONSTRAINTS, lambda asked, o, load, now_s: "not today" if o.id == "no" else None],
        soft=[("tip", lambda asked, o, load, policy, now_s: 0.05)],
    )
    assert reasons(decision) == {"no": "not today"}
    assert decision.merit_order[0].terms == {"tokens": 0.1, "tip": 0.05}
    assert decision.merit_order[0].usd == pytest.approx(0.15)


# ---- next_attempt -------------------------------------------------------------------------------------------------

STATUSES = ["bounced", "failed", "timeout"]


def chain(asked: Request, prices: list[float]) -> Decision:
    quotes = tuple(Quote(api(f"o{i}", usd), usd, usd, {"tokens": usd}) for i, usd in enumerate(prices))
    return Decision(asked, 1, quotes, ())


def ended(offer_id: str, status: Any, at_s: float = NOW_S, usd: float = 0.0, **fields: Any) -> Outcome:
    return Outcome(offer_id, status, NOW_S, at_s, Usage(0, 0, 0), usd, **fields)


def walk(decision: Decision, statuses: list[Any], policy: Policy, costs: list[float]) -> tuple[list[str], GiveUp]:
    """All attempts when the n-th one ends as told; the last verdict."""
    outcomes: list[Outcome] = []
    at_s = decision.request.arrived_s
    for status, usd in zip(statuses, costs, strict=True):
        step = next_attempt(decision, outcomes, policy)
        if isinstance(step, GiveUp):
            return [o.offer_id for o in outcomes], step
        at_s += 0.01
        outcomes.append(ended(step.quote.offer.id, status, at_s, usd))
    final = next_attempt(decision, outcomes, policy)
    assert isinstance(final, GiveUp)
    return [o.offer_id for o in outcomes], final


@given(st.data())
def test_fallback_walks_down_the_merit_order_and_never_repeats_nor_leaves_it(data: st.DataObject) -> None:
    prices = sorted(data.draw(st.lists(st.floats(0.0, 0.4), min_size=1, max_size=6)))
    decision = chain(request(usd_max=0.5), prices)
    policy = Policy(attempts_max=data.draw(st.integers(1, 6)))
    n = len(prices) + 1
    statuses = data.draw(st.lists(st.sampled_from(STATUSES), min_size=n, max_size=n))
    costs = [0.0 if s == "bounced" else data.draw(st.sampled_from([0.0, 0.1])) for s in statuses]
    tried, last = walk(decision, statuses, policy, costs)
    ids = [quote.offer.id for quote in decision.merit_order]
    assert len(set(tried)) == len(tried)
    assert tried == [i for i in ids if i in tried]
    used = statuses[: len(tried)]
    assert sum(1 for status in used if status != "bounced") <= policy.attempts_max
    for i, offer_id in enumerate(tried):
        assert sum(costs[:i]) + prices[ids.index(offer_id)] <= 0.5
    # It stops only where there is a reason to.
    untried = [price for i, price in zip(ids, prices, strict=True) if i not in tried]
    enough = sum(1 for status in used if status != "bounced") >= policy.attempts_max
    assert last.kind == "exhausted"
    assert enough or all(sum(costs[: len(tried)]) + price > 0.5 for price in untried)


@pytest.mark.parametrize("status", ["complete", "refused", "interrupted", "cancelled"])
def test_after_an_answer_or_the_sources_verdict_nobody_else_is_asked(status: str) -> None:
    step = next_attempt(chain(request(), [0.1, 0.2]), [ended("o0", status)], POLICY)
    assert isinstance(step, GiveUp)
    assert step.kind == "ended"


@pytest.mark.parametrize("status", STATUSES)
def test_after_the_first_byte_nothing_is_switched(status: str) -> None:
    decision = chain(request(), [0.1, 0.2])
    assert isinstance(next_attempt(decision, [ended("o0", status)], POLICY), Attempt)
    step = next_attempt(decision, [ended("o0", status, first_byte_sent=True, error="cut")], POLICY)
    assert isinstance(step, GiveUp)
    assert (step.kind, step.reason) == ("ended", "cut")


@pytest.mark.parametrize(("at_s", "kind"), [(59.9, "attempt"), (59.96, "deadline"), (61.0, "deadline")])
def test_one_deadline_spans_the_chain(at_s: float, kind: str) -> None:
    step = next_attempt(chain(request(), [0.1, 0.2]), [ended("o0", "failed", NOW_S + at_s)], POLICY)
    if kind == "attempt":
        assert isinstance(step, Attempt)
        assert step.until_s == NOW_S + 60.0
    else:
        assert isinstance(step, GiveUp)
        assert step.kind == "deadline"


def test_a_request_that_arrives_after_its_deadline_is_not_tried_at_all() -> None:
    step = next_attempt(chain(request(deadline_s=NOW_S), [0.1]), [], POLICY)
    assert isinstance(step, GiveUp)
    assert step.kind == "deadline"


def test_one_cost_limit_spans_the_chain_and_a_dearer_source_is_passed_over_for_one_that_fits() -> None:
    decision = chain(request(usd_max=0.5), [0.3, 0.4, 0.2])  # order is the scheduler's business, not the price's
    step = next_attempt(decision, [ended("o0", "failed", usd=0.3)], POLICY)
    assert isinstance(step, Attempt)
    assert step.quote.offer.id == "o2"
    spent = next_attempt(decision, [ended("o0", "failed", usd=0.31)], POLICY)
    assert isinstance(spent, GiveUp)


def test_a_failure_costs_a_retry_token_and_a_bounce_does_not() -> None:
    decision = chain(request(), [0.1, 0.2])
    assert isinstance(next_attempt(decision, [], POLICY, retries_left=0.0), Attempt)
    assert isinstance(next_attempt(decision, [ended("o0", "bounced")], POLICY, retries_left=0.0), Attempt)
    refused = next_attempt(decision, [ended("o0", "failed", error="HTTP 500")], POLICY, retries_left=0.9)
    assert isinstance(refused, GiveUp)
    assert (refused.kind, refused.reason) == ("exhausted", "o0: HTTP 500")
    assert isinstance(next_attempt(decision, [ended("o0", "failed")], POLICY, retries_left=1.0), Attempt)


def test_bounces_do_not_use_up_the_attempts() -> None:
    decision = chain(request(), [0.1] * 5)
    bounced = [ended(f"o{i}", "bounced") for i in range(4)]
    step = next_attempt(decision, bounced, Policy(attempts_max=1))
    assert isinstance(step, Attempt)
    assert step.quote.offer.id == "o4"


def test_when_all_have_failed_the_shortest_wait_that_a_source_named_is_passed_on() -> None:
    outcomes = [
        ended("o0", "failed", retry_after_s=9.0),
        ended("o1", "bounced", retry_after_s=3.0),
        ended("o2", "failed"),
    ]
    step = next_attempt(chain(request(), [0.1, 0.1, 0.1]), outcomes, POLICY)
    assert isinstance(step, GiveUp)
    assert (step.kind, step.reason, step.retry_after_s) == ("exhausted", "o2: failed", 3.0)


def test_a_request_whose_zones_hold_no_source_is_forbidden_and_the_reason_names_the_zones() -> None:
    asked = request(zones=frozenset({"far", "home"}), models=frozenset({"small"}))
    step = next_attempt(decided(asked, offer(zone="cloud"), offer("b", model="large")), [], POLICY)
    assert isinstance(step, GiveUp)
    assert (step.kind, step.retry_after_s) == ("forbidden", 0.0)
    assert "far, home" in step.reason


def test_a_request_that_could_be_served_later_is_unserved_and_the_reason_names_each_obstacle() -> None:
    asked = request(zones=frozenset({"home"}))
    step = next_attempt(decided(asked, offer("down", healthy=False), offer("out", zone="cloud")), [], POLICY)
    assert isinstance(step, GiveUp)
    assert step.kind == "unserved"
    assert "down: down" in step.reason
    assert "outside the allowed zones" in step.reason
    assert step.retry_after_s > 0


def test_an_empty_market_is_said_to_be_empty() -> None:
    step = next_attempt(decided(request()), [], POLICY)
    assert isinstance(step, GiveUp)
    assert (step.kind, "no offers" in step.reason) == ("unserved", True)
