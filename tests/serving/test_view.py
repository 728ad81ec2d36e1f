"""A gateway's own view: what it has sent since the snapshot, what it reserved, and whom it leaves alone for a while."""

from __future__ import annotations

from typing import Any

import pytest

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
