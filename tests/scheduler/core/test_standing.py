"""A gateway's own standing: what it has sent since the snapshot, what it reserved, whom it leaves alone for a while."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core import constraints
from scheduler.core.capacity import Capacity
from scheduler.core.market import NO_LOAD, OfferLoad, Outcome, Policy
from scheduler.core.standing import Standing
from scheduler.core.supply import Offer, Usage
from tests.support.markets import NOW_S, api, offer, request

POOL = offer("pool/m", capacity=Capacity(2, 8, 0, 0, 1.0, as_of_s=NOW_S))
CLOUD = api("cloud/m", 0.1)
LIMITED = api("limited/m", 0.1, requests_per_min_max=2)
POLICY = Policy(breaker_base_s=1.0, breaker_max_s=60.0)


@pytest.fixture
def standing() -> Standing:
    return Standing(POLICY, 0.1)


def outcome(tried: Offer, status: Any = "complete", at_s: float = NOW_S, usd: float = 0.0, **fields: Any) -> Outcome:
    return Outcome(tried.id, status, at_s, at_s, Usage(0, 0, 0), usd, **fields)


def attempt(
    standing: Standing, tried: Offer, status: Any = "complete", at_s: float = NOW_S, **fields: Any
) -> OfferLoad:
    standing.begin(tried, "t", 0.0, 0.0, at_s)
    standing.end(tried, "t", 0.0, outcome(tried, status, at_s, **fields), 0.5)
    return standing.load.offers[tried.id]


@given(
    st.lists(st.tuples(st.sampled_from([POOL, CLOUD, LIMITED]), st.sampled_from("ab"), st.integers(0, 100))), st.data()
)
def test_what_begins_and_ends_leaves_no_load_behind_and_exactly_its_cost(attempts: Any, data: st.DataObject) -> None:
    standing = Standing(POLICY, 0.1)
    load = standing.load
    running: list[Any] = []
    paid = {"a": 0, "b": 0}
    for tried, tenant, cents in attempts:
        standing.begin(tried, tenant, cents / 64, 0.5, NOW_S)
        running.append((tried, tenant, cents / 64))
        reserved = sum(usd for _, who, usd in running if who == tenant)
        assert load.usd_by_tenant[tenant] == pytest.approx(reserved + paid[tenant] / 64)
        assert sum(here.inflight for here in load.offers.values()) == len(running)
        while running and data.draw(st.booleans()):
            done, who, usd = running.pop(data.draw(st.integers(0, len(running) - 1)))
            actual = data.draw(st.integers(0, 100))
            status = data.draw(st.sampled_from(["complete", "bounced", "failed", "timeout", "cancelled"]))
            standing.end(done, who, usd, outcome(done, status, usd=actual / 64), 0.5)
            paid[who] += actual
    for done, who, usd in running:
        standing.end(done, who, usd, outcome(done), 0.5)
    assert all(here.inflight == 0 for here in load.offers.values())
    assert all(usd == pytest.approx(paid[who] / 64) for who, usd in standing.spent_usd().items())
    assert 0.0 <= standing.retry_tokens <= 50.0
    assert standing.load is load


def test_what_was_sent_to_a_pool_is_wait_that_drains_a_second_a_second(standing: Standing) -> None:
    standing.begin(POOL, "t", 0.0, 3.0, NOW_S)  # on two replicas
    assert standing.load.offers["pool/m"].waiting_s(NOW_S) == 1.5
    assert standing.load.offers["pool/m"].waiting_s(NOW_S + 1.0) == 0.5
    standing.begin(POOL, "t", 0.0, 3.0, NOW_S + 1.0)
    assert standing.load.offers["pool/m"].waiting_s(NOW_S + 1.0) == 2.0
    assert standing.load.offers["pool/m"].waiting_s(NOW_S + 9.0) == 0.0


def test_a_provider_has_no_line_that_work_would_join(standing: Standing) -> None:
    standing.begin(CLOUD, "t", 0.0, 3.0, NOW_S)
    assert standing.load.offers["cloud/m"].waiting_s(NOW_S) == 0.0


def test_a_bounced_request_did_not_join_the_line(standing: Standing) -> None:
    standing.begin(POOL, "t", 0.0, 3.0, NOW_S)
    standing.end(POOL, "t", 0.0, outcome(POOL, "bounced"), 0.5)
    assert standing.load.offers["pool/m"].waiting_s(NOW_S) == 0.0


def test_a_newer_snapshot_of_a_pool_contains_what_was_sent_before_it(standing: Standing) -> None:
    for sent in (POOL, POOL, CLOUD):
        standing.begin(sent, "t", 0.0, 1.0, NOW_S)
    old = {"pool/m": POOL.capacity, "cloud/m": None}
    standing.seen(old, (POOL, CLOUD), NOW_S)  # a new market with the same old report of the pool
    assert standing.load.offers["pool/m"].waiting_s(NOW_S) == 1.0
    newer = offer("pool/m", capacity=Capacity(2, 8, 2, 0, 1.0, as_of_s=NOW_S + 1))
    standing.seen(old, (newer, CLOUD), NOW_S)
    assert (standing.load.offers["pool/m"].waiting_s(NOW_S), standing.load.offers["pool/m"].inflight) == (0.0, 2)
    assert standing.load.offers["cloud/m"].inflight == 1


@pytest.mark.parametrize("capacity", [None, POOL.capacity])
def test_a_pool_that_comes_back_begins_with_its_own_report(standing: Standing, capacity: Capacity | None) -> None:
    standing.begin(POOL, "t", 0.0, 1.0, NOW_S)
    standing.seen({}, (offer("pool/m", capacity=capacity),), NOW_S)
    assert standing.load.offers["pool/m"].waiting_s(NOW_S) == (0.0 if capacity else 0.5)


def test_a_market_with_offers_that_were_never_used_changes_nothing(standing: Standing) -> None:
    standing.seen({}, (POOL, CLOUD), NOW_S)
    assert dict(standing.load.offers) == {}


def test_a_providers_rate_limit_opens_again_when_its_minute_has_passed(standing: Standing) -> None:
    def limited(now_s: float) -> bool:
        return constraints.rate_limit(request(), LIMITED, standing.load, now_s) is not None

    for _ in range(2):
        assert not limited(NOW_S)
        attempt(standing, LIMITED)
    assert limited(NOW_S)
    standing.seen({}, (LIMITED,), NOW_S + 59.0)
    assert limited(NOW_S + 59.0)
    standing.seen({}, (LIMITED,), NOW_S + 61.0)
    assert not limited(NOW_S + 61.0)


def test_a_source_without_a_rate_limit_is_not_counted_by_the_minute(standing: Standing) -> None:
    assert attempt(standing, CLOUD).requests_last_min == 0


@pytest.mark.parametrize(
    ("fields", "cooldown_s"),
    [
        ({"http_status": 0}, 1.0),
        ({"http_status": 503}, 1.0),
        ({"http_status": 429}, 1.0),
        ({"http_status": 500}, 0.0),
        ({"http_status": 429, "retry_after_s": 7.0}, 7.0),
        ({"http_status": 429, "retry_after_s": 3600.0}, 60.0),
    ],
)
def test_a_first_failure_rests_a_provider_as_long_as_it_says_or_as_its_kind_deserves(
    standing: Standing, fields: dict[str, Any], cooldown_s: float
) -> None:
    assert attempt(standing, CLOUD, "failed", **fields).cooldown_until_s == NOW_S + cooldown_s


def test_failures_in_a_row_rest_a_provider_ever_longer_up_to_the_bound_and_a_success_forgives_all(
    standing: Standing,
) -> None:
    at_s, rests = NOW_S, []
    for _ in range(9):
        rests.append(attempt(standing, CLOUD, "failed", at_s, http_status=503).cooldown_until_s - at_s)
        at_s += rests[-1]
    assert rests == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert attempt(standing, CLOUD, "complete", at_s).failures == 0
    assert attempt(standing, CLOUD, "failed", at_s, http_status=503).cooldown_until_s == at_s + 1.0


def test_a_burst_that_fails_together_counts_as_one_failure(standing: Standing) -> None:
    loads = [attempt(standing, CLOUD, "failed", http_status=503) for _ in range(5)]
    assert [load.failures for load in loads] == [1] * 5
    assert loads[-1].cooldown_until_s == NOW_S + 1.0
    assert standing.cooling(NOW_S) == ["cloud/m"]
    assert standing.cooling(NOW_S + 1.0) == []


@pytest.mark.parametrize("status", ["bounced", "cancelled", "interrupted", "refused"])
def test_what_is_not_the_sources_fault_does_not_rest_it_nor_cost_a_retry(standing: Standing, status: str) -> None:
    before = standing.retry_tokens
    assert attempt(standing, CLOUD, status).cooldown_until_s == 0.0
    assert standing.retry_tokens == before


def test_our_own_pool_is_not_rested_since_its_gate_knows_which_engines_live(standing: Standing) -> None:
    assert attempt(standing, POOL, "failed").cooldown_until_s == 0.0


def test_a_pool_that_says_how_long_is_left_alone_so_long(standing: Standing) -> None:
    assert attempt(standing, POOL, "failed", retry_after_s=3.0).cooldown_until_s == NOW_S + 3.0


def test_retries_are_paid_from_an_allowance_that_each_request_refills_by_its_share(standing: Standing) -> None:
    for _ in range(100):
        attempt(standing, POOL, "failed")
    assert standing.retry_tokens == 0.0
    for _ in range(5):
        attempt(standing, POOL)
    assert standing.retry_tokens == pytest.approx(0.5)


def test_a_provider_slower_than_its_curve_is_learned_slowly_and_within_bounds(standing: Standing) -> None:
    assert attempt(standing, CLOUD, ttft_s=1.0).ttft_ratio == pytest.approx(1.1)
    for _ in range(200):
        ratio = attempt(standing, CLOUD, ttft_s=1.0).ttft_ratio
    assert ratio == pytest.approx(2.0, rel=1e-3)
    assert attempt(standing, CLOUD, ttft_s=1e9).ttft_ratio == pytest.approx(2.0 + 0.1 * 98, rel=1e-3)
    # A pool's curve is corrected by its gate.
    assert attempt(standing, POOL, ttft_s=9.0).ttft_ratio == NO_LOAD.ttft_ratio
