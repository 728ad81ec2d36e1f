"""``commit``: never much dearer than hindsight, never restless, never outside its bounds, and it says why."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.commitment import commit, substitutes
from scheduler.core.fleet import Action, AdviceLog, CommitmentPolicy, FleetPlan, Memory, Outlook, PoolFleet
from scheduler.core.forecast import Forecaster
from scheduler.core.market import Market
from tests.support.fleets import GROUP, NOW_S, POLICY, Loop, fleet, market, outlook

H = 1.2 / 3600.0  # USD a second of a replica that runs


def plan(
    *pools: PoolFleet,
    seen: Outlook | None,
    memory: Memory | None = None,
    of: Market | None = None,
    now_s: float = NOW_S,
) -> FleetPlan:
    forecast = {} if seen is None else {GROUP: seen}
    kept = {} if memory is None else {GROUP: memory}
    return commit(forecast, {p.name: p for p in pools}, of or market(*pools), POLICY, now_s, kept)


# --- up: ski rental ---------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    rates=st.lists(st.floats(0.2, 60.0), min_size=1, max_size=5),
    shortage_s=st.integers(1, 720).map(lambda steps: 10.0 * steps),
    hold_s=st.sampled_from([60.0, 300.0, 600.0, 1800.0]),
    start_s=st.sampled_from([0.0, 60.0, 300.0]),
    launch_usd=st.sampled_from([0.0, 0.05, 1.0]),
)
def test_a_shortage_of_any_length_costs_at_most_twice_what_hindsight_would_have_paid(
    rates: list[float], shortage_s: float, hold_s: float, start_s: float, launch_usd: float
) -> None:
    # Level by level: rates in multiples of what a replica costs, the dearest demand first.
    usd_per_s = sorted((H * rate for rate in rates), reverse=True)
    policy = replace(POLICY, hold_s=hold_s, down_share=0.6)
    pool = fleet(start_s=start_s, launch_usd=launch_usd)
    loop = Loop({"a": pool}, policy, every_s=10.0)
    while loop.now_s < NOW_S + shortage_s:
        loop.step([1.0, *usd_per_s])
    began_usd = loop.usd_held
    while loop.pools["a"].count > 1:
        loop.step([1.0])
    assert loop.usd_held >= began_usd
    launches = sum(action.change for _, action in loop.done if action.change > 0)
    spent = loop.usd_burst + loop.usd_held - H * (loop.now_s - NOW_S) + launches * launch_usd
    start_usd = launch_usd + H * start_s
    best = sum(min(usd * shortage_s, start_usd + H * max(shortage_s, hold_s)) for usd in usd_per_s)
    # Beyond that: what goes elsewhere while a replica starts, and standing by until it is sure that nothing comes back.
    while_starting = sum(usd_per_s) * (start_s + 2 * loop.every_s)
    standing_by = launches * H * (policy.down_after_s + start_s + 3 * loop.every_s)
    assert spent <= 2.0 * best + while_starting + standing_by + 1e-9


def test_the_launch_comes_when_as_much_was_burst_as_start_and_hold_cost() -> None:
    loop = Loop({"a": fleet()})
    while not loop.done:
        loop.step([1.0, 10 * H])
    # 720 s of a replica at a tenth of what is burst a second: 72 s, so the second minute.
    (at_s, action), *_ = loop.done
    assert at_s == NOW_S + 120.0
    assert (action.pool, action.change) == ("a", 1)
    assert action.usd == pytest.approx(120.0 * 10 * H)
    assert "burst" in action.reason
    assert f"{720 * H:.4f}" in action.reason


def test_a_trickle_that_is_worth_less_than_a_replica_never_adds_up_to_one() -> None:
    loop = Loop({"a": fleet()})
    for _ in range(3000):
        assert loop.step([1.0, 0.9 * H]) == ()


def test_every_level_of_a_deep_shortage_ends_as_soon_as_a_shallow_one() -> None:
    loop = Loop({"a": fleet()})
    while not loop.done:
        loop.step([1.0] + 4 * [10 * H])
    assert [action.change for _, action in loop.done] == [1, 1, 1, 1]


def test_replicas_that_are_starting_are_not_started_again() -> None:
    loop = Loop({"a": fleet(start_s=1800.0)}, every_s=30.0)
    for _ in range(200):
        loop.step([1.0, 50 * H])
    assert [action.change for _, action in loop.done] == [1]


def test_a_sure_forecast_launches_before_anything_was_burst_and_a_doubtful_one_does_not() -> None:
    seen = outlook([1.0], served=1.0, low=1.8, high=2.2)
    (action,) = plan(fleet(), seen=seen).actions
    assert (action.change, "expected to save at least" in action.reason) == (1, True)
    assert action.usd == pytest.approx(600.0 * 0.8 * 1.0)
    assert plan(fleet(), seen=outlook([1.0], served=1.0, low=1.0, high=2.2)).actions == ()


def test_requests_that_nobody_else_may_serve_are_worth_what_was_said_and_not_everything() -> None:
    from scheduler.core.bids import Demand
    from scheduler.core.worth import stacked

    only = stacked([Demand(math.inf, 2.0), Demand(0.5, 1.0), Demand(-0.1, 1.0), Demand(0.1, 0.0)], usd_unserved=0.2)
    assert (only.work_s, only.usd) == ((0.0, 1.0, 3.0), (0.0, 0.5, 0.7))


def test_an_empty_pool_gets_its_first_replicas_when_bursts_have_paid_for_them_and_ends_empty() -> None:
    own, cloud = fleet("own", held_usd_per_hour=0.1, replicas_max=1), fleet("cloud", 0, replicas_min=0, replicas_max=3)
    loop = Loop({"own": own, "cloud": cloud})
    idle(loop, [10 * H] * 3, 30)
    assert [(at_s - NOW_S, action.pool, action.change) for at_s, action in loop.done] == [(120.0, "cloud", 1)] * 2
    assert loop.done[0][1].usd == pytest.approx(120.0 * 10 * H)
    idle(loop, [10 * H], 30)
    assert {name: pool.count for name, pool in loop.pools.items()} == {"own": 1, "cloud": 0}
    idle(loop, [10 * H] * 2, 30)  # and once more
    assert loop.pools["cloud"].count == 1


# --- down -------------------------------------------------------------------------------------------------------------


def idle(loop: Loop, rates: list[float], steps: int) -> list[tuple[str, int]]:
    for _ in range(steps):
        loop.step(rates)
    return [(action.pool, action.change) for _, action in loop.done]


def test_the_dearest_goes_first_and_none_below_its_lower_bound() -> None:
    pools = {
        "cheap": fleet("cheap", 3, held_usd_per_hour=0.5, replicas_max=3),
        "dear": fleet("dear", 3, held_usd_per_hour=4.0),
        "middle": fleet("middle", 3, held_usd_per_hour=2.0),
    }
    done = idle(Loop(dict(pools)), [1.0] * 6, 30)
    assert done == [("dear", -1), ("dear", -1), ("middle", -1)]
    assert idle(Loop(dict(pools)), [1.0], 30) == [("dear", -1)] * 2 + [("middle", -1)] * 2 + [("cheap", -1)] * 2


def test_nothing_goes_before_it_was_too_much_for_long_enough_and_had_its_hold() -> None:
    loop = Loop({"a": fleet(replicas=2)})
    idle(loop, [1.0], 40)
    assert [at_s for at_s, _ in loop.done] == [NOW_S + 60.0 + 300.0]
    fresh = Loop({"a": fleet()}, low=1.0)
    fresh.step([1.0, 1.0])
    idle(fresh, [1.0], 40)
    # Started after a minute, ready two minutes later; the old one has had its hold, but patience begins anew.
    assert [(at_s - NOW_S, action.change) for at_s, action in fresh.done] == [(60.0, 1), (60.0 + 120.0 + 300.0, -1)]
    unsettled = Loop({"a": fleet(ready_s=(NOW_S, NOW_S))})
    idle(unsettled, [1.0], 40)
    assert [at_s - NOW_S for at_s, _ in unsettled.done] == [600.0 + 300.0]


def test_replacing_what_was_taken_away_does_not_keep_a_fleet_large() -> None:
    loop = Loop({"a": fleet(replicas=6, start_s=60.0)}, low=1.0)
    for minute in range(60):
        if minute % 10 == 0:
            kept = loop.pools["a"]
            loop.pools["a"] = replace(kept, ready_s=kept.ready_s[1:])
        loop.step([1.0] * (6 if minute < 20 else 2))
    assert loop.pools["a"].count <= 2


def test_what_costs_nothing_to_keep_is_kept() -> None:
    assert idle(Loop({"a": fleet(replicas=4, held_usd_per_hour=0.0)}), [0.0], 60) == []
    assert idle(Loop({"a": fleet(replicas=4, held_usd_per_hour=-1.0)}), [0.0], 60) == []


def test_while_little_is_known_nothing_goes() -> None:
    assert idle(Loop({"a": fleet(replicas=4)}, high=math.inf), [1.0], 60) == []


def test_one_group_at_a_time_gets_smaller_and_the_next_is_judged_anew() -> None:
    pools = {"a": fleet("a", 2), "b": fleet("b", 2, held_usd_per_hour=5.0)}
    both = market(*pools.values(), b="large")
    memory: dict[str, Memory] = {}
    done = []
    for minute in range(20):
        forecast = {GROUP: outlook([1.0], 2.0), "large@home": outlook([1.0], 2.0)}
        now_s = NOW_S + 60.0 * minute
        made = commit(forecast, pools, both, POLICY, now_s, memory)
        memory = dict(made.memory)
        done += [(minute, action.pool) for action in made.actions]
        for action in made.actions:
            pools[action.pool] = replace(pools[action.pool], ready_s=pools[action.pool].ready_s[:-1])
    assert done == [(5, "b"), (10, "a")]


# --- always -----------------------------------------------------------------------------------------------------------

POOLS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(0, 5),
        st.integers(0, 9),
        st.sampled_from([0.0, 0.4, 1.2, 8.0]),
        st.sampled_from([0.5, 1.0, 2.0]),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)
DEMANDS = st.lists(st.lists(st.floats(0.0, 0.01), max_size=12), min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(POOLS, DEMANDS, st.sampled_from([0.0, 0.8, 1.0]), st.sampled_from([1.0, 1.5, math.inf]))
def test_whatever_happens_no_pool_leaves_its_bounds_and_every_action_explains_itself(
    rows: list[tuple[int, int, int, float, float, bool]], demands: list[list[float]], low: float, high: float
) -> None:
    pools = {
        f"p{i}": fleet(
            f"p{i}", count, replicas_min=least, replicas_max=least + more, held_usd_per_hour=usd, speed=speed,
            domain=str(i % 2), avoid_until_s=NOW_S + 300.0 if avoided else -math.inf,
        )
        for i, (least, more, count, usd, speed, avoided) in enumerate(rows)
    }  # fmt: skip
    loop = Loop(pools, low=low, high=high)
    for demand in demands:
        actions = loop.step(sorted(demand, reverse=True))
        assert all(pool.replicas_min <= pool.count <= pool.replicas_max for pool in loop.pools.values())
        assert all(action.change and action.reason and math.isfinite(action.usd) for action in actions)


@pytest.mark.parametrize("seed", range(6))
def test_noise_around_the_edge_of_capacity_does_not_make_the_fleet_flap(seed: int) -> None:
    rng, forecaster = np.random.default_rng(seed), Forecaster(60.0, 720.0)
    loop = Loop({"a": fleet(replicas=3)})

    def told(usd_per_s: object, served: float) -> Outlook:
        seen = outlook([2 * H] * whole, served)
        seen = Outlook(replace_load(seen, load), seen.ahead)
        forecaster.observe(load, loop.now_s - 60.0)
        ahead = forecaster.ahead(12)
        assert ahead is not None
        return Outlook(seen.look, ahead)

    def replace_load(seen: Outlook, load: float) -> object:
        return seen.look._replace(load=load)

    loop.told = told  # type: ignore[assignment]
    for _ in range(24 * 60):
        load = max(0.0, rng.normal(3.0, 0.9))
        whole = round(load)
        loop.step([2 * H] * whole)
    # A day of loads that go over three replicas every second minute: less than one change an hour.
    assert len(loop.done) <= 24
    for (before_s, before), (after_s, after) in zip(loop.done, loop.done[1:], strict=False):
        if before.change > 0 > after.change:
            assert after_s - before_s >= POLICY.down_after_s + 120.0


def test_a_pool_without_a_price_rests_and_one_outside_its_bounds_is_brought_back() -> None:
    seen = outlook([1.0, 1.0], 1.0, low=3.0)
    assert plan(fleet(), seen=seen, of=Market(1, NOW_S, ())).actions == ()
    (up,) = plan(fleet(replicas=0, replicas_min=2), seen=None).actions
    (down,) = plan(fleet(replicas=9), seen=None).actions
    assert (up.change, down.change) == (2, -1)


# --- where ------------------------------------------------------------------------------------------------------------


def test_pools_of_one_model_and_zone_are_one_group_and_others_are_not() -> None:
    pools = [fleet("a"), fleet("b"), fleet("c")]
    found = substitutes({p.name: p for p in pools}, market(*pools, c="large"), NOW_S)
    assert found == {"small@home": ("a", "b"), "large@home": ("c",)}


def test_the_next_replica_goes_to_the_emptiest_failure_domain_among_nearly_equal_prices() -> None:
    near = [fleet("east", 3, domain="east"), fleet("west", 1, domain="west", held_usd_per_hour=1.3)]
    demand = outlook([1.0] * 6, 4.0, low=1.0)
    assert [a.pool for a in plan(*near, seen=demand).actions] == ["west", "west"]
    far = [near[0], replace(near[1], held_usd_per_hour=2.0)]
    assert [a.pool for a in plan(*far, seen=demand).actions] == ["east", "east"]


def test_on_demand_stands_in_while_spot_is_not_to_be_had_and_makes_room_for_it_afterwards() -> None:
    spot = fleet("spot", 1, held_usd_per_hour=1.0, avoid_until_s=NOW_S + 1800.0)
    loop = Loop({"spot": spot, "demand": fleet("demand", 1, held_usd_per_hour=3.0)}, low=1.0)
    while loop.now_s < NOW_S + 1740.0:
        loop.step([1.0] * 3)
    assert [(a.pool, a.change) for _, a in loop.done] == [("demand", 1)]
    while loop.now_s < NOW_S + 4000.0:
        loop.step([1.0] * 3)
    assert [(a.pool, a.change) for _, a in loop.done[1:]] == [("spot", 1), ("demand", -1)]
    assert "replaces" in loop.done[1][1].reason


def test_capacity_that_is_to_be_avoided_is_still_asked_for_where_there_is_nothing_else() -> None:
    (action,) = plan(fleet(avoid_until_s=NOW_S + 100.0), seen=outlook([1.0] * 2, 1.0, low=1.0)).actions
    assert action.change == 1


# --- the record -------------------------------------------------------------------------------------------------------


def test_advice_that_nobody_follows_is_one_line_with_a_count_and_the_log_is_bounded() -> None:
    log = AdviceLog(repeats_s=600.0, lines_max=3)
    up = FleetPlan((Action("a", 1, "because", 2.0),), {})
    for minute in range(10):
        log.add(up, False, 60.0 * minute)
    (row,) = log.rows()
    assert (row["pool"], row["change"], row["reason"], row["usd"], row["applied"]) == ("a", 1, "because", 2.0, False)
    assert (row["first_s"], row["last_s"], row["times"]) == (0.0, 540.0, 10)
    for hour in range(1, 9):
        log.add(up, True, 3600.0 * hour)
    assert [row["first_s"] for row in log.rows()] == [3600.0 * hour for hour in (6, 7, 8)]


def test_the_settings_of_the_site_file_are_those_of_the_clock() -> None:
    from scheduler.config.demand import CommitmentSpec

    given_fields = CommitmentSpec().model_dump(exclude={"mode", "every_s"})
    assert CommitmentPolicy(**given_fields) == CommitmentPolicy()
