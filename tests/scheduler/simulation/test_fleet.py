"""A simulated fleet: replicas start late, leave without dropping anything, are taken away, and are paid for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scheduler.core.admission import NOBODY
from scheduler.core.fleet import CommitmentPolicy
from scheduler.simulation.attempts import Journey
from scheduler.simulation.clocks import CommitmentClock, HpaClock
from scheduler.simulation.fleet import NOTICE_S, Fleet
from scheduler.simulation.scenario import EPOCH_S, Scenario
from scheduler.simulation.traces import Trace, trace_of
from scheduler.simulation.world import Settings
from tests.support.small_worlds import Played, WatchedWorld, apis, config, own, play, scenario

# About two requests of 500 and 100 tokens a second; an API asks 0.0027 USD for each, some 20 USD an hour.
SLOW = {"prefill_tokens_per_s": 2_000, "itl_base_s": 0.03, "itl_per_seq_s": 0.002, "seqs_max": 16, "ttft_base_s": 0.05}
RENT = {"gpu": "g", "usd_per_hour": 3.0, "idle_watts": 100.0}
OWNED = {"gpu": "g", "purchase_price_usd": 1_000, "amortization_years": 4, "idle_watts": 100.0}
USD_PER_HOUR = 3.0 + 0.1 * 1.2 * 0.3  # rent and idle power at the site's tariff and PUE


def rented(name: str = "own", least: int = 1, most: int = 6, **fields: Any) -> dict[str, Any]:
    rental = RENT | fields.pop("rental", {})
    values = {"curve": SLOW, "rental": rental, "hardware": None, "start_s": 120.0}
    return own(name, **(values | fields)) | {"replicas": {"min": least, "max": most}}


def site_with(*pools: dict[str, Any], trace: Trace, seed: int = 0) -> Scenario:
    return scenario(config(pools=list(pools), providers=apis(small=3.0)), trace, seed=seed)


def steady(*parts: tuple[float, float], inputs: int = 500, outputs: int = 100, seed: int = 1) -> Trace:
    """Parts of (seconds, requests a second), one after the other, with gaps that vary."""
    rng, at_s, arrivals = np.random.default_rng(seed), 0.0, []
    for seconds, per_s in parts:
        if per_s > 0.0:
            arrivals.append(at_s + np.sort(rng.uniform(0.0, seconds, round(seconds * per_s))))
        at_s += seconds
    found = np.concatenate(arrivals)
    found[0] = 0.0
    return trace_of("steady", found, np.full(len(found), inputs), np.full(len(found), outputs))


def run(of: Scenario, fleet: Fleet, clock: Any = None, calls: tuple[Any, ...] = (), rule: str = "bid-price") -> Played:
    """Play with the fleet alone, or with a clock that scales it."""

    class Scaled(WatchedWorld):
        def ended(self, journey: Journey, now_s: float) -> None:
            super().ended(journey, now_s)
            if clock is not None:
                clock.saw(journey, now_s)

    begin = fleet.begin if clock is None else clock.begin
    played = play(of, rule, Settings(calls=((0.0, begin), *calls)), kind=Scaled)
    fleet.count(played.world.now_s)
    return played


def replicas(fleet: Fleet, seen: list[tuple[float, int, int]]) -> Any:
    """A call that notes (time, serving, engines) every ten seconds."""

    def look(world: Any, now_s: float) -> None:
        seen.append((now_s - EPOCH_S, world.pools["own"].gate.healthy, len(world.pools["own"].engines)))
        world.at(now_s + 10.0, look, world)

    return (0.0, look)


def test_a_fleet_begins_with_its_lower_bounds_and_a_new_replica_serves_once_it_has_started() -> None:
    of, seen = site_with(rented(most=4), trace=steady((600.0, 1.0))), []
    fleet = Fleet(of.site)
    played = run(of, fleet, calls=((100.0, lambda _, now_s: fleet.launch("own", now_s)), replicas(fleet, seen)))
    assert [row[1:] for row in seen if row[0] <= 90.0] == [(1, 1)] * 10
    assert {row[1:] for row in seen if 100.0 < row[0] < 220.0} == {(1, 2)}
    assert {row[1:] for row in seen if row[0] > 220.0} == {(2, 2)}
    assert played.tally.served == played.tally.requests


def test_a_replica_that_is_stopped_answers_what_it_has_and_nothing_is_lost() -> None:
    of, seen = site_with(rented(most=3), trace=steady((300.0, 5.0), outputs=400)), []
    fleet = Fleet(of.site, replicas={"own": 3})
    stops = tuple((at_s, lambda _, now_s: fleet.stop("own", now_s)) for at_s in (100.0, 101.0))
    played = run(of, fleet, calls=(*stops, replicas(fleet, seen)))
    tally = played.tally
    assert (tally.served, tally.failures) == (tally.requests, 0)
    after = [row for row in seen if row[0] > 101.0]
    assert {healthy for _, healthy, _ in after} == {1}
    # Both had answers of half a minute to finish.
    assert after[0][2] == 3
    assert after[-1][2] == 1
    assert not fleet.runs["own"].draining


def test_a_replica_that_is_stopped_while_it_starts_never_serves() -> None:
    of, seen = site_with(rented(), trace=steady((400.0, 1.0))), []
    fleet = Fleet(of.site)
    calls = ((10.0, lambda _, now_s: fleet.launch("own", now_s)), (50.0, lambda _, now_s: fleet.stop("own", now_s)))
    run(of, fleet, calls=(*calls, replicas(fleet, seen)))
    assert max(healthy for _, healthy, _ in seen) == 1
    assert seen[-1][2] == 1
    assert fleet.runs["own"].replica_s == pytest.approx(seen[-1][0] + 40.0, abs=15.0)


def test_what_is_taken_away_has_two_minutes_and_what_it_could_not_finish_is_interrupted() -> None:
    spot = rented("own", kind="spot", rental={"interruptions_per_hour": 12.0})
    of = site_with(spot, trace=steady((1800.0, 0.2), outputs=5000), seed=3)
    fleet = Fleet(of.site, seed=3, replicas={"own": 6})
    played = run(of, fleet)
    taken = fleet.runs["own"].interruptions
    assert taken == 6
    lost = [j for j in played.journeys.values() if j.outcomes[-1].status == "interrupted"]
    assert lost
    for journey in lost:  # the client has part of the answer: nobody else is asked
        last = journey.outcomes[-1]
        assert last.ended_s - last.started_s > NOTICE_S
        assert journey.ttft_s is not None
    assert played.tally.served == played.tally.requests - len(lost)


def test_capacity_that_is_not_to_be_had_is_not_started_and_avoided() -> None:
    of = site_with(rented(rental={"availability": 0.001}), trace=steady((100.0, 1.0)))
    fleet, got = Fleet(of.site), []
    run(of, fleet, calls=((10.0, lambda _, now_s: got.append(fleet.launch("own", now_s))),))
    assert got == [False]
    run_ = fleet.runs["own"]
    assert (run_.launches, run_.refused) == (0, 1)
    assert fleet.pools(EPOCH_S + 20.0)["own"].avoid_until_s > EPOCH_S + 20.0


def test_rent_is_paid_for_every_hour_that_a_replica_exists_at_the_price_that_is_billed() -> None:
    spot = rented(
        least=2, rental={"interruptions_per_hour": 0.0, "availability": 0.8, "usd_lost_per_interruption": 1.0}
    )
    of = site_with(spot, trace=steady((600.0, 1.0)))
    fleet = Fleet(of.site)
    played = run(of, fleet)
    hours = 2 * (played.world.now_s - EPOCH_S) / 3600.0
    assert fleet.runs["own"].usd_rent == pytest.approx(3.0 * hours)
    assert fleet.runs["own"].usd_standby == pytest.approx((USD_PER_HOUR - 3.0) * hours)
    # The plan reckons with the effective price: a fifth of the time there is nothing.
    assert fleet.pools(EPOCH_S)["own"].held_usd_per_hour == pytest.approx(3.0 / 0.8 + USD_PER_HOUR - 3.0)


# Half a replica's work, then nearly three replicas', then again half; 1.8 replica-seconds a request.
PEAK = steady((400.0, 0.25), (1200.0, 1.4), (1500.0, 0.25), inputs=2000, outputs=400)
POLICY = CommitmentPolicy(hold_s=300.0, down_after_s=180.0)


def bill(played: Played, fleet: Fleet) -> float:
    return played.tally.usd_total + sum(run.usd_rent + run.usd_standby for run in fleet.runs.values())


def test_a_peak_is_met_by_renting_and_ends_with_giving_back_and_costs_less_than_either_extreme() -> None:
    of, seen = site_with(rented(), trace=PEAK), []
    fleet = Fleet(of.site)
    clock = CommitmentClock(fleet, POLICY)
    scaled = run(of, fleet, clock, (replicas(fleet, seen),))
    counts = {at_s: engines for at_s, _, engines in seen}
    assert counts[390.0] == 1
    assert counts[1500.0] >= 3
    assert counts[3090.0] == 1
    small, large = Fleet(of.site), Fleet(of.site, replicas={"own": 6})
    usd = bill(scaled, fleet)
    assert usd < bill(run(of, small), small)
    assert usd < bill(run(of, large), large)
    assert scaled.tally.slo_attainment > 0.99
    assert all(row["applied"] and row["reason"] for row in clock.log.rows())


def test_a_rented_pool_is_empty_but_for_the_peak_and_cheaper_than_none_and_than_a_full_one() -> None:
    owned = rented("own", most=1) | {"rental": None, "hardware": OWNED}
    of, seen = site_with(owned, rented("cloud", least=0, most=4), trace=PEAK), list[tuple[float, int, int]]()

    def look(world: Any, now_s: float) -> None:
        gate = world.pools["cloud"].gate
        (cloud,) = (offer for offer in world.controller.market.offers if offer.id == "cloud/small")
        seen.append((now_s - EPOCH_S, gate.healthy, len(world.pools["cloud"].engines)))
        assert cloud.healthy is bool(cloud.capacity.replicas)
        world.at(now_s + 10.0, look, world)

    fleet = Fleet(of.site)
    clock = CommitmentClock(fleet, POLICY)
    scaled = run(of, fleet, clock, ((2.0, look),))
    counts = {round(at_s, -1): engines for at_s, _, engines in seen}
    assert (counts[390.0], counts[3090.0]) == (0, 0)
    assert max(healthy for _, healthy, _ in seen) >= 2
    assert {row["pool"] for row in clock.log.rows()} == {"cloud"}
    # Nobody is sent where nothing is, but for the first second, in which the world has all replicas that it may have.
    bounces = [(o, j) for j in scaled.journeys.values() for o in j.outcomes if o.error == NOBODY]
    assert all(outcome.started_s < EPOCH_S + 2.0 for outcome, _ in bounces)
    assert (scaled.tally.served, scaled.tally.failures) == (scaled.tally.requests, 0)
    assert scaled.tally.slo_attainment > 0.99
    usd = bill(scaled, fleet)
    for fixed in (0, 4):
        other = Fleet(of.site, replicas={"cloud": fixed})
        assert usd < bill(run(of, other), other)


def test_advice_is_kept_and_not_followed() -> None:
    of = site_with(rented(), trace=PEAK)
    fleet = Fleet(of.site)
    clock = CommitmentClock(fleet, POLICY, enforce=False)
    run(of, fleet, clock)
    assert fleet.runs["own"].launches == 0
    rows = clock.log.rows()
    assert rows
    assert {(row["pool"], row["change"], row["applied"]) for row in rows} == {("own", 1, False)}
    assert all(EPOCH_S + 400.0 < row["first_s"] <= row["last_s"] for row in rows)


def test_the_autoscaler_of_kubernetes_scales_the_same_fleet() -> None:
    of, seen = site_with(rented(), trace=PEAK), []
    fleet = Fleet(of.site)
    played = run(of, fleet, HpaClock(fleet, 0.5), (replicas(fleet, seen),), rule="hpa")
    assert max(engines for _, _, engines in seen) >= 3
    assert seen[-1][2] <= 2
    assert played.tally.served == played.tally.requests


def test_runs_are_the_same_for_a_seed() -> None:
    spot = rented(kind="spot", rental={"interruptions_per_hour": 6.0, "availability": 0.7})
    bills = []
    for seed in (1, 1, 2):
        of = site_with(spot, trace=steady((300.0, 0.25), (500.0, 1.2), inputs=2000, outputs=400))
        fleet = Fleet(of.site, seed=seed)
        bills.append(bill(run(of, fleet, CommitmentClock(fleet, POLICY)), fleet))
    assert bills[0] == bills[1] != bills[2]
