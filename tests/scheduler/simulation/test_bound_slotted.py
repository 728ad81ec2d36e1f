"""The slotted form: outward in time and in groups, every limit of an arm holds. And the bound on pools in common."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scheduler.simulation.bound.bound import BoundPools, BoundRequests, clairvoyant
from scheduler.simulation.bound.edf import Steps
from scheduler.simulation.bound.grouping import merge, one_by_one, slots_of
from scheduler.simulation.bound.pool import constant, pool_bound
from scheduler.simulation.bound.slotted import Arms, Flows, Groups, solve
from tests.support.bound_cases import SEEDS

NO_BUDGET = np.zeros(0)
FREE = np.inf


def site(seed: int, count: int = 30, kinds: int = 1, decode: bool = False, forced: float = 0.0) -> BoundRequests:
    rng = np.random.default_rng(seed)
    elsewhere = rng.exponential(1.0, count) + 0.1
    eligible = rng.random((count, kinds)) < (0.8 if kinds > 1 else 1.0)
    elsewhere[rng.random(count) < forced] = np.inf
    return BoundRequests(
        arrival_s=np.concatenate(([0.0], rng.uniform(0.0, 10.0, count - 1))),
        ttft_s=rng.choice([0.5, 2.0], count),
        late_s=np.full(count, 8.0),
        usd_elsewhere=elsewhere,
        energy_usd=rng.uniform(0.0, 0.1, (count, kinds)),
        prefill_work_s=rng.exponential(0.3, (count, kinds)),
        decode_work_s=rng.exponential(0.4, (count, kinds)) * decode,
        decode_s=rng.uniform(0.5, 4.0, (count, kinds)) * decode,
        eligible=eligible,
    )


def slotted(asked: BoundRequests, pools: tuple[Steps, ...], slot_s: float, late: float = 0.0, bins: int = 0) -> Flows:
    groups = one_by_one(asked, 0.0, slot_s)
    if bins:
        groups, _ = merge(groups, bins, outward=True)
    return solve(groups, slots_of(pools, 0.0, slot_s, int(np.ceil(20.0 / slot_s))), late, NO_BUDGET)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.floats(0.1, 2.0))
def test_slots_save_a_little_more_than_exact_time_and_finer_slots_less(seed: int, replicas: float) -> None:
    asked = site(seed)
    pools = (constant(replicas, 0.0),)
    exact = pool_bound(asked.on_pool(0, np.arange(30)), pools[0], 0.0).usd_saved
    fine, coarse = (slotted(asked, pools, slot_s).usd_saved for slot_s in (0.02, 1.0))
    assert exact - 1e-7 <= fine <= 1.06 * exact + 1e-7
    assert fine <= coarse + 1e-7


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(1, 8), st.booleans(), st.sampled_from([0.0, 3.0]))
def test_merged_groups_still_bound_single_requests(seed: int, bins: int, decode: bool, late: float) -> None:
    asked = site(seed, 40, 2, decode)
    pools = (constant(0.5, 0.0), constant(0.3, 0.0))
    assert slotted(asked, pools, 1.0, late, bins).usd_saved >= slotted(asked, pools, 1.0, late).usd_saved - 1e-7


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from([0.0, 0.1, 0.3]))
def test_the_bound_on_shared_pools_is_at_least_what_a_fine_program_saves_less_its_slots(
    seed: int, allowance: float
) -> None:
    asked = site(seed, 30, 2, decode=True)
    pools = BoundPools.fixed(np.array([0.5, 0.4]), 0.0)
    bound = clairvoyant(asked, pools, allowance)
    # Inward slots: what they save is the savings of a real schedule, so that a true bound lies above.
    groups = one_by_one(asked, 0.0, 0.25)
    inward = replace(
        groups,
        first_slot=groups.first_slot + 1,
        prefill_slot=groups.prefill_slot - 1,
        decode_slot=groups.decode_slot - 1,
        late_slot=groups.late_slot - 1,
    )
    arms = slots_of(pools.capacity, 0.0, 0.25, 80)
    achieved = solve(inward, arms, np.floor(30 * allowance), NO_BUDGET).usd_saved
    assert bound.usd_saved >= achieved - 1e-7
    assert bound.usd_total == pytest.approx(bound.usd_all_api - bound.usd_saved)
    assert (bound.accepted.sum(axis=1) <= 1.0 + 1e-9).all()
    assert (bound.accepted[~asked.eligible] == 0.0).all()


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_the_bound_on_shared_pools_is_near_the_program_that_proves_nothing_about_time(seed: int) -> None:
    asked = site(seed, 150, 2, decode=True)
    pools = BoundPools.fixed(np.array([2.0, 1.5]), 0.0)
    bound = clairvoyant(asked, pools, 0.0)
    assert bound.usd_saved <= 1.05 * slotted(asked, pools.capacity, 0.25).usd_saved


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_forced_requests_that_overfill_shared_pools_do_not_break_the_bound(seed: int) -> None:
    asked = site(seed, 40, 2, decode=True, forced=0.5)
    bound = clairvoyant(asked, BoundPools.fixed(np.array([0.2, 0.1]), 0.0), 0.1)
    forced = np.isinf(asked.usd_elsewhere)
    assert np.isfinite(bound.usd_total)
    assert bound.usd_all_api >= asked.usd_elsewhere[~forced].sum()
    # What it cannot do is worth no more than its energy, which is all that forced requests can differ by.
    assert bound.usd_saved >= -0.1 * forced.sum()


@settings(max_examples=20, deadline=None)
@given(SEEDS)
@example(206)  # prices of pools without capacity that no sweep over the pools finds
def test_pools_that_share_requests_save_no_more_than_pools_without_a_limit(seed: int) -> None:
    asked = site(seed, 40, 2, decode=True)
    on_time = asked.prefill_work_s <= asked.ttft_s[:, None]
    saved = np.where(asked.eligible & on_time, asked.usd_elsewhere[:, None] - asked.energy_usd, 0.0)
    most = np.maximum(0.0, saved.max(axis=1)).sum()
    none, ample = (clairvoyant(asked, BoundPools.fixed(np.full(2, r), 0.0), 0.0) for r in (0.0, 1e4))
    assert none.usd_saved == pytest.approx(0.0, abs=1e-9)
    assert ample.usd_saved == pytest.approx(most)


def one_group(units: float, **changes: object) -> Groups:
    """A group of equal requests: 1 s of work each, in slots 0 to 1, worth 1 USD on the first arm and 2 on the second."""
    both = np.ones((1, 2))
    fields: dict[str, object] = {
        "units": np.array([units]),
        "first_slot": np.zeros(1, np.int64),
        "requests": np.ones(1),
        "tenant": np.full(1, -1),
        "may_leave": np.ones(1, bool),
        "late_slot": np.full(1, 3),
        "usd_saved": np.array([[1.0, 2.0]]),
        "usd_spent": both,
        "prefill_work_s": both,
        "decode_work_s": 0.0 * both,
        "kv_token_s": 0.0 * both,
        "prefill_slot": np.ones((1, 2), np.int64),
        "decode_slot": np.ones((1, 2), np.int64),
        "allowed": np.ones((1, 2), bool),
    }
    return Groups(**(fields | changes))  # type: ignore[arg-type]


def two_arms(**changes: object) -> Arms:
    """Four slots of a second on two arms without limits."""
    free = np.full((2, 4), FREE)
    fields: dict[str, object] = {"slot_s": 1.0, "work_s": free, "kv_token_s": free, "requests": free}
    fields |= {"usd_per_work_s": np.zeros(2), "usd_per_start": np.zeros(2)}
    return Arms(**(fields | changes))  # type: ignore[arg-type]


def limited(first: float, second: float) -> np.ndarray:
    return np.stack((np.full(4, first), np.full(4, second)))


def test_each_slot_of_an_arm_takes_the_work_it_has_room_for() -> None:
    flows = solve(one_group(10.0), two_arms(work_s=limited(1.0, 0.5)), 0.0, NO_BUDGET)
    assert flows.usd_saved == pytest.approx(1.0 * 2.0 + 2.0 * 1.0)
    assert flows.accepted.tolist() == [pytest.approx([0.2, 0.1])]
    assert flows.price[:, 0].tolist() == pytest.approx([1.0, 2.0])


def test_capacity_that_comes_and_goes_counts_when_it_is_there() -> None:
    gone = np.array([[0.0, 0.0, 5.0, 5.0], [0.0, 3.0, 0.0, 0.0]])
    assert solve(one_group(10.0), two_arms(work_s=gone), 0.0, NO_BUDGET).usd_saved == pytest.approx(6.0)


def test_memory_for_tokens_binds_as_work_does() -> None:
    group = one_group(10.0, kv_token_s=np.array([[0.0, 100.0]]), allowed=np.array([[False, True]]))
    assert solve(group, two_arms(kv_token_s=limited(FREE, 150.0)), 0.0, NO_BUDGET).usd_saved == pytest.approx(6.0)


def test_rate_limits_count_requests_per_slot() -> None:
    group = one_group(10.0, prefill_work_s=np.zeros((1, 2)))
    assert solve(group, two_arms(requests=limited(1.0, 2.0)), 0.0, NO_BUDGET).usd_saved == pytest.approx(2.0 + 8.0)


def test_a_tenants_budget_caps_what_is_spent() -> None:
    group = one_group(10.0, tenant=np.zeros(1, np.int64), usd_spent=np.array([[0.0, 0.5]]))
    assert solve(group, two_arms(), 0.0, np.array([2.0])).usd_saved == pytest.approx(4.0 * 2.0 + 6.0 * 1.0)


def test_a_forbidden_arm_serves_nothing() -> None:
    flows = solve(one_group(4.0, allowed=np.array([[True, False]])), two_arms(), 0.0, NO_BUDGET)
    assert (flows.usd_saved, flows.accepted[0, 1]) == (pytest.approx(4.0), 0.0)


def test_a_spot_replica_pays_for_its_start_and_while_it_is_up() -> None:
    arms = two_arms(work_s=limited(0.0, 3.0), usd_per_work_s=np.array([0.0, 0.25]), usd_per_start=np.array([0.0, 1.0]))
    flows = solve(one_group(4.0), arms, 0.0, NO_BUDGET)
    # Four seconds of work in two slots: two replicas for two seconds are started twice instead of three and one.
    assert flows.usd_saved == pytest.approx(4.0 * 2.0 - 4.0 * 0.25 - 2.0 * 1.0)
    assert flows.rented[1].tolist() == pytest.approx([2.0, 2.0, 0.0, 0.0])
    dear = replace(arms, usd_per_start=np.array([0.0, 5.0]))
    assert solve(one_group(4.0), dear, 0.0, NO_BUDGET).usd_saved == pytest.approx(0.0)


def test_late_requests_use_later_slots_and_are_counted() -> None:
    arms = two_arms(work_s=limited(0.0, 1.0))
    savings = [solve(one_group(10.0), arms, late, NO_BUDGET) for late in (0.0, 1.0, 5.0)]
    assert [flows.usd_saved for flows in savings] == pytest.approx([4.0, 6.0, 8.0])
    assert [flows.late_requests for flows in savings] == pytest.approx([0.0, 1.0, 2.0])


def test_what_may_not_leave_is_served_at_a_loss_or_there_is_no_schedule() -> None:
    stays = one_group(2.0, may_leave=np.zeros(1, bool), usd_saved=np.array([[-1.0, -3.0]]))
    assert solve(stays, two_arms(work_s=limited(0.5, FREE)), 0.0, NO_BUDGET).usd_saved == pytest.approx(-1.0 - 3.0)
    with pytest.raises(ValueError, match="no solution"):
        solve(stays, two_arms(work_s=limited(0.5, 0.0)), 0.0, NO_BUDGET)


def test_prefill_and_decode_of_a_request_are_served_together_or_not_at_all() -> None:
    group = one_group(
        1.0, decode_work_s=np.array([[0.0, 4.0]]), decode_slot=np.full((1, 2), 2), allowed=np.array([[False, True]])
    )
    # Three slots with 0.5 s each: of 5 s a request, 0.3 requests.
    assert solve(group, two_arms(work_s=limited(0.0, 0.5)), 0.0, NO_BUDGET).usd_saved == pytest.approx(0.6)


def test_nothing_is_merged_that_arrives_in_different_slots() -> None:
    asked = site(3, 60)
    groups = one_by_one(asked, 0.0, 0.5)
    merged, owner = merge(groups, 1, outward=True)
    assert (merged.first_slot[owner] == groups.first_slot).all()
    assert merged.units.sum() == pytest.approx((asked.prefill_work_s + asked.decode_work_s).sum())
