"""A gateway's own view: what it has sent since the snapshot, what it reserved, and whom it leaves alone for a while."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core import constraints
from scheduler.core.capacity import Capacity
from scheduler.core.market import Lease, Market, OfferLoad, Outcome, Policy
from scheduler.core.supply import Offer, Usage
from serving.view import Published, View, on_our_clock
from tests.support.markets import NOW_S, api, offer, request

SPOT = offer("pool/m", capacity=Capacity(1, 8, 0, 0, 1.0, as_of_s=NOW_S))
CLOUD = api("cloud/m", 0.1)
LIMITED = api("limited/m", 0.1, requests_per_min_max=2)
POLICY = Policy(breaker_base_s=1.0, breaker_max_s=60.0)


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def view(clock: Clock) -> View:
    return View(POLICY, 0.1, clock)


def published(*offers: Offer, version: int = 1, **leases: Lease) -> Published:
    return Published(Market(version, NOW_S, offers, leases), {"pool": "http://gate"})


def outcome(
    given_offer: Offer, status: Any = "complete", at_s: float = NOW_S, usd: float = 0.0, **fields: Any
) -> Outcome:
    return Outcome(given_offer.id, status, at_s, at_s, Usage(0, 0, 0), usd, **fields)


def attempt(view: View, given_offer: Offer, status: Any = "complete", at_s: float = NOW_S, **fields: Any) -> OfferLoad:
    view.begin(given_offer, "t", 0.0)
    view.end(given_offer, "t", 0.0, outcome(given_offer, status, at_s, **fields), 0.5)
    return view.load.offers[given_offer.id]


@given(
    st.lists(st.tuples(st.sampled_from([SPOT, CLOUD, LIMITED]), st.sampled_from("ab"), st.integers(0, 100))), st.data()
)
def test_what_begins_and_ends_leaves_no_load_behind_and_exactly_its_cost(attempts: Any, data: st.DataObject) -> None:
    view = View(POLICY, 0.1, Clock())
    running: list[Any] = []
    paid = {"a": 0, "b": 0}
    for given_offer, tenant, cents in attempts:
        view.begin(given_offer, tenant, cents / 64)
        running.append((given_offer, tenant, cents / 64))
        reserved = sum(usd for _, who, usd in running if who == tenant)
        assert view.load.usd_by_tenant[tenant] == pytest.approx(reserved + paid[tenant] / 64)
        assert sum(load.inflight for load in view.load.offers.values()) == len(running)
        while running and data.draw(st.booleans()):
            done, who, usd = running.pop(data.draw(st.integers(0, len(running) - 1)))
            actual = data.draw(st.integers(0, 200))
            status = data.draw(
                st.sampled_from(["complete", "failed", "bounced", "cancelled", "interrupted", "timeout"])
            )
            view.end(done, who, usd, outcome(done, status, usd=actual / 64), 0.5)
            paid[who] += actual
    for done, who, usd in running:
        view.end(done, who, usd, outcome(done), 0.5)
    assert all(load.inflight == 0 for load in view.load.offers.values())
    assert all(usd == pytest.approx(paid[who] / 64) for who, usd in view.spent_usd().items())
    assert 0.0 <= view.retry_tokens <= 50.0


def test_a_newer_snapshot_of_a_pool_contains_what_was_sent_before_it(view: View) -> None:
    view.publish(published(SPOT, CLOUD))
    for sent in (SPOT, SPOT, CLOUD):
        view.begin(sent, "t", 0.0, work_s=0.5)
    assert (view.load.offers["pool/m"].sent_s, view.load.offers["cloud/m"].sent_s) == (1.0, 0.0)
    view.publish(published(SPOT, CLOUD, version=2))  # a new market with the same old report of the pool
    assert view.load.offers["pool/m"].sent_s == 1.0
    newer = offer("pool/m", capacity=Capacity(1, 8, 2, 0, 1.0, as_of_s=NOW_S + 1))
    view.publish(published(newer, CLOUD, version=3))
    assert (view.load.offers["pool/m"].sent_s, view.load.offers["pool/m"].inflight) == (0.0, 2)
    assert (view.market.version, view.gates) == (3, {"pool": "http://gate"})


def test_leases_of_a_controller_that_has_just_restarted_do_not_wipe_out_the_old_ones(view: View, clock: Clock) -> None:
    view.publish(published(CLOUD, t=Lease(1.0, NOW_S + 5)))
    view.publish(published(CLOUD, version=2))
    assert view.market.leases == {"t": Lease(1.0, NOW_S + 5)}
    assert view.held_usd() == {"t": 1.0}
    view.publish(published(CLOUD, version=3, t=Lease(0.5, NOW_S + 9)))
    assert view.held_usd() == {"t": 0.5}
    clock.now_s = NOW_S + 9
    assert view.held_usd() == {}


def test_a_providers_rate_limit_opens_again_when_its_minute_has_passed(view: View, clock: Clock) -> None:
    def limited() -> bool:
        return constraints.rate_limit(request(), LIMITED, view.load, clock.now_s) is not None

    view.publish(published(LIMITED))
    for _ in range(2):
        assert not limited()
        attempt(view, LIMITED)
    assert limited()
    clock.now_s += 59.0
    view.publish(published(LIMITED, version=2))
    assert limited()
    clock.now_s += 2.0
    view.publish(published(LIMITED, version=3))
    assert not limited()


def test_a_source_without_a_rate_limit_is_not_counted_by_the_minute(view: View) -> None:
    assert attempt(view, CLOUD).requests_last_min == 0


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
    view: View, fields: dict[str, Any], cooldown_s: float
) -> None:
    assert attempt(view, CLOUD, "failed", **fields).cooldown_until_s == NOW_S + cooldown_s


def test_failures_in_a_row_rest_a_provider_ever_longer_up_to_the_bound_and_a_success_forgives_all(view: View) -> None:
    at_s, rests = NOW_S, []
    for _ in range(9):
        rests.append(attempt(view, CLOUD, "failed", at_s, http_status=503).cooldown_until_s - at_s)
        at_s += rests[-1]
    assert rests == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert attempt(view, CLOUD, "complete", at_s).failures == 0
    assert attempt(view, CLOUD, "failed", at_s, http_status=503).cooldown_until_s == at_s + 1.0


def test_a_burst_that_fails_together_counts_as_one_failure(view: View) -> None:
    loads = [attempt(view, CLOUD, "failed", http_status=503) for _ in range(5)]
    assert [load.failures for load in loads] == [1] * 5
    assert loads[-1].cooldown_until_s == NOW_S + 1.0
    assert view.cooling() == ["cloud/m"]


@pytest.mark.parametrize("status", ["bounced", "cancelled", "interrupted", "refused"])
def test_what_is_not_the_sources_fault_does_not_rest_it_nor_cost_a_retry(view: View, status: str) -> None:
    before = view.retry_tokens
    assert attempt(view, CLOUD, status).cooldown_until_s == 0.0
    assert view.retry_tokens == before


def test_our_own_pool_is_not_rested_since_its_gate_knows_which_engines_live(view: View) -> None:
    assert attempt(view, SPOT, "failed").cooldown_until_s == 0.0


def test_retries_are_paid_from_an_allowance_that_each_request_refills_by_its_share(view: View) -> None:
    for _ in range(100):
        attempt(view, SPOT, "failed")
    assert view.retry_tokens == 0.0
    for _ in range(5):
        attempt(view, SPOT)
    assert view.retry_tokens == pytest.approx(0.5)


def test_a_provider_slower_than_its_curve_is_learned_slowly_and_within_bounds(view: View) -> None:
    assert attempt(view, CLOUD, ttft_s=1.0).ttft_ratio == pytest.approx(1.1)
    for _ in range(200):
        ratio = attempt(view, CLOUD, ttft_s=1.0).ttft_ratio
    assert ratio == pytest.approx(2.0, rel=1e-3)
    assert attempt(view, CLOUD, ttft_s=1e9).ttft_ratio == pytest.approx(2.0 + 0.1 * 98, rel=1e-3)
    assert attempt(view, SPOT, ttft_s=9.0).ttft_ratio == 1.0


@pytest.mark.parametrize("ahead_s", [-86_400.0, -1.0, 0.0, 1.0, 3600.0])
def test_a_controller_whose_clock_is_not_ours_makes_no_price_and_no_lease_live_longer(ahead_s: float) -> None:
    """Ages and what is left to live are the same on both clocks, to within the few seconds that are left alone."""
    theirs_s = NOW_S + ahead_s
    capacity = Capacity(1, 8, 0, 0, 1.0, theirs_s - 0.5)
    priced = offer(as_of_s=theirs_s - 100.0, expires_s=theirs_s + 500.0, capacity=capacity)
    market = Market(7, theirs_s - 0.2, (priced,), {"t": Lease(1.0, theirs_s + 10.0)})
    moved = on_our_clock(Published(market, {}, at_s=theirs_s), NOW_S).market
    assert moved.offers[0].expires_s == pytest.approx(NOW_S + 500.0, abs=5.0)
    assert moved.offers[0].as_of_s == pytest.approx(NOW_S - 100.0, abs=5.0)
    assert moved.offers[0].capacity is not None
    assert moved.offers[0].capacity.as_of_s == pytest.approx(NOW_S - 0.5, abs=5.0)
    assert moved.leases["t"].expires_s == pytest.approx(NOW_S + 10.0, abs=5.0)
