"""Clearing: what drops out, what is scarce, and budgets that no number of gateways can overdraw."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from scheduler.core.capacity import BidCurve, Capacity, Level
from scheduler.core.clearing import Observation, clear, grant
from scheduler.core.dispatch import decide
from scheduler.core.market import Lease, Load, Market, Request
from tests.support.markets import NOW_S, POLICY, api, loads, offer, requests

POOL = Capacity(replicas=2, slots=20, running=5, waiting=1, service_s_mean=3.0, as_of_s=NOW_S, kv_usage=0.4)
OLD = Market(41, NOW_S - 1.0, (offer("gone"),), {"t": Lease(1.0, NOW_S + 5.0)})


def cleared(*offers: Any, **pools: Capacity) -> Market:
    return clear(OLD, Observation(NOW_S, offers, pools), POLICY)


def test_each_clearing_is_a_new_version_with_only_what_was_observed() -> None:
    leases = {"u": Lease(2.0, NOW_S + 1.0)}
    market = clear(OLD, Observation(NOW_S, (api("a", 0.1),), {}, leases), POLICY)
    assert (market.version, market.as_of_s, market.leases) == (42, NOW_S, leases)
    assert [o.id for o in market.offers] == ["a"]


@pytest.mark.parametrize(("expires_s", "stays"), [(NOW_S + 0.001, True), (NOW_S, False), (NOW_S - 9, False)])
def test_an_offer_leaves_the_market_with_its_price(expires_s: float, stays: bool) -> None:
    given_offers = (api("a", 0.1, expires_s=expires_s), offer("pool", expires_s=expires_s))
    assert bool(cleared(*given_offers, pool=POOL).offers) is stays


@pytest.mark.parametrize(("age_s", "healthy"), [(0.0, True), (5.0, True), (5.001, False)])
def test_a_pool_whose_report_is_stale_is_down_and_has_no_capacity(age_s: float, healthy: bool) -> None:
    (seen,) = cleared(offer("pool"), pool=replace(POOL, as_of_s=NOW_S - age_s)).offers
    assert seen.healthy is healthy
    assert (seen.capacity is not None) is healthy


def test_a_pool_that_was_never_heard_of_is_down_and_a_provider_needs_no_report() -> None:
    pool, provider = cleared(offer("pool"), api("a", 0.1)).offers
    assert (pool.healthy, provider.healthy) == (False, True)


def test_a_pool_without_replicas_is_down() -> None:
    (seen,) = cleared(offer("pool"), pool=replace(POOL, replicas=0)).offers
    assert not seen.healthy


@given(requests(), loads(["own/small", "cloud/small"]), st.floats(0.0, 1e4), st.booleans())
def test_an_empty_pool_is_not_chosen_and_changes_nothing_for_the_others(
    asked: Request, load: Load, wait_s: float, is_gated: bool
) -> None:
    curve = BidCurve((0.0, 10.0), (1.0, 0.0))
    own = replace(POOL, gated=is_gated, levels=(Level(5.0, wait_s, curve),))
    empty = Capacity(0, 0, 0, 0, 3.0, NOW_S, gated=is_gated)
    offers = (offer("own/small"), api("a", 0.1))
    alone = clear(OLD, Observation(NOW_S, offers, {"own/small": own}), POLICY)
    beside = clear(
        OLD, Observation(NOW_S, (offer("cloud/small"), *offers), {"own/small": own, "cloud/small": empty}), POLICY
    )
    decided, expected = (decide(asked, market, load, POLICY, NOW_S) for market in (beside, alone))
    assert decided.merit_order == expected.merit_order
    assert {r for r in decided.rejected if r.offer_id != "cloud/small"} == set(expected.rejected)
    assert all(math.isfinite(quote.usd) for quote in decided.merit_order)
    full = replace(empty, replicas=1, slots=10, levels=own.levels)
    filled = clear(beside, Observation(NOW_S, (offer("cloud/small"),), {"cloud/small": full}), POLICY)
    assert filled.offers[0].healthy


def test_a_pools_state_becomes_its_offers_capacity() -> None:
    (seen,) = cleared(offer("pool"), pool=POOL).offers
    assert seen.capacity is not None
    assert (seen.capacity.replicas, seen.capacity.slots, seen.capacity.running) == (2, 20, 5)
    assert (seen.capacity.waiting, seen.capacity.service_s_mean, seen.capacity.as_of_s) == (1, 3.0, NOW_S)
    assert seen.capacity.kv_usage == 0.4
    assert (seen.capacity.levels, seen.capacity.gated, seen.capacity.admitted_per_s) == ((), True, 0.0)


def test_a_pool_without_a_gate_is_forecast_from_what_it_admits() -> None:
    (seen,) = cleared(offer("pool"), pool=replace(POOL, gated=False, admitted_per_s=1.5)).offers
    assert seen.capacity is not None
    assert (seen.capacity.gated, seen.capacity.admitted_per_s) == (False, 1.5)


def test_every_line_gets_the_bid_curve_of_its_objective_and_keeps_its_own_where_there_is_no_new_one() -> None:
    old, new = BidCurve((0.0, 1.0), (0.0, -0.1)), BidCurve((0.0, 1.0), (0.0, -0.9))
    lines = (Level(1.0, 0.1, old), Level(5.0, 0.2, old), Level(60.0, 0.3, old))
    seen = Observation(
        NOW_S, (offer("pool"),), {"pool": replace(POOL, levels=lines)}, {}, {"pool": {1.0: new, 5.0: None}}
    )
    (cleared_offer,) = clear(OLD, seen, POLICY).offers
    assert cleared_offer.capacity is not None
    # A curve that became None says that nothing is scarce any more.
    assert [level.bid for level in cleared_offer.capacity.levels] == [new, None, old]
    assert [level.wait_s for level in cleared_offer.capacity.levels] == [0.1, 0.2, 0.3]


class Grants(RuleBasedStateMachine):
    """A controller that knows only what gateways reported, replies that arrive late or never, spending in between."""

    @initialize(budget=st.sampled_from([1.0, 10.0]), elsewhere=st.sampled_from([0.0, 0.5]), n=st.integers(1, 5))
    def start(self, budget: float, elsewhere: float, n: int) -> None:
        self.budget, self.elsewhere = budget, elsewhere
        self.lease = [0.0] * n  # what each gateway may have spent in all
        self.spent = [0.0] * n
        self.reply: list[float | None] = [None] * n
        # The controller's books: by gateway, the most that it may believe to hold, and what it said it spent.
        self.granted: dict[str, float] = {}
        self.reported: dict[str, float] = {}

    @rule(i=st.integers(0, 4), share=st.floats(0.0, 1.0))
    def spend(self, i: int, share: float) -> None:
        i %= len(self.lease)
        self.spent[i] += share * max(0.0, self.lease[i] - self.spent[i])

    @rule(i=st.integers(0, 4))
    def report(self, i: int) -> None:
        i %= len(self.lease)
        name = str(i)
        self.reported[name], self.granted[name] = self.spent[i], self.lease[i]
        usd = grant(self.budget, self.elsewhere, self.granted, self.reported, name)
        assert usd >= self.spent[i]
        self.granted[name] = max(self.lease[i], usd)
        self.reply[i] = usd

    @rule(i=st.integers(0, 4), lost=st.booleans())
    def receive(self, i: int, lost: bool) -> None:
        i %= len(self.lease)
        reply, self.reply[i] = self.reply[i], None
        if reply is not None and not lost:
            self.lease[i] = reply

    @rule(i=st.integers(0, 4))
    def exchange(self, i: int) -> None:
        self.report(i)
        self.receive(i, False)

    @invariant()
    def all_together_can_never_spend_more_than_the_budget(self) -> None:
        if hasattr(self, "budget"):
            could = sum(max(pair) for pair in zip(self.lease, self.spent, strict=True))
            assert self.elsewhere + could <= self.budget + 1e-9

    @invariant()
    def money_is_not_locked_away(self) -> None:
        if getattr(self, "granted", None):
            assert self.elsewhere + sum(max(self.granted[n], self.reported[n]) for n in self.granted) > self.elsewhere


TestGrants = Grants.TestCase
TestGrants.settings = settings(max_examples=150, stateful_step_count=30)


def test_a_lone_gateway_gets_half_of_what_is_left_and_the_rest_bit_by_bit() -> None:
    assert grant(10.0, 2.0, {}, {}, "a") == 4.0
    assert grant(10.0, 2.0, {"a": 4.0}, {"a": 4.0}, "a") == 6.0
    spent = 0.0
    for _ in range(40):
        spent = grant(10.0, 2.0, {"a": spent}, {"a": spent}, "a")
    assert spent == pytest.approx(8.0)


def test_several_gateways_end_up_with_equal_room() -> None:
    lease, spent = {"a": 10.0, "b": 0.0}, {"a": 2.0, "b": 0.0}
    for _ in range(60):
        for name in lease:
            lease[name] = grant(10.0, 0.0, lease, spent, name)
    room = {name: lease[name] - spent[name] for name in lease}
    assert room["a"] == pytest.approx(room["b"], rel=0.01)
    assert 5.0 < sum(lease.values()) < 10.0  # a rest stays for a newcomer


def test_when_the_budget_is_overdrawn_nobody_gets_more_than_was_spent() -> None:
    assert grant(1.0, 5.0, {"b": 1.0}, {"a": 0.7, "b": 1.0}, "a") == 0.7
