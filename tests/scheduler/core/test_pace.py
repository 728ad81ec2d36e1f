"""How fast answers go on after their first token: what a gateway learns of it, and what a missed objective costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core import costs
from scheduler.core.capacity import Capacity
from scheduler.core.dispatch import decide
from scheduler.core.market import Load, Market, Outcome, Policy, ServiceClass
from scheduler.core.standing import Standing
from scheduler.core.supply import Usage
from tests.support.markets import CURVE, NOW_S, POLICY, api, offer, request

POOL = offer("pool/m", capacity=Capacity(2, 20, 8, 0, 1.0, as_of_s=NOW_S))
PACED = ServiceClass("paced", 9.0, 0.02, 0.0, 0.0, tpot_s_max=0.03, usd_per_tpot_miss=0.5)


def answered(standing: Standing, tpot_s: float, tokens: int = 101, at_s: float = NOW_S) -> float:
    """An answer at that pace; what is expected of the next one."""
    ended_s = at_s + 0.2 + tpot_s * (tokens - 1)
    standing.begin(POOL, "t", 0.0, 0.0, at_s)
    outcome = Outcome(POOL.id, "complete", at_s, ended_s, Usage(10, 0, tokens), 0.0, ttft_s=0.2)
    standing.end(POOL, "t", 0.0, outcome, 0.1)
    return standing.load.offers[POOL.id].tpot_s


def pace_usd(load: Load, now_s: float = NOW_S, service_class: ServiceClass = PACED) -> float:
    return costs.pace(request(service_class=service_class), POOL, load, POLICY, now_s)


@given(st.integers(0, 2**32 - 1), st.floats(0.005, 0.1), st.floats(0.05, 0.8))
def test_in_the_long_run_one_answer_in_ten_is_slower_than_expected(seed: int, median_s: float, spread: float) -> None:
    standing, slower, expected_s = Standing(Policy(), 0.1), 0, 0.0
    paces_s = median_s * np.exp(spread * np.random.default_rng(seed).standard_normal(600))
    paces_s[300:] *= 2.0  # the load changes: the share of misses must not
    for i, tpot_s in enumerate(paces_s.tolist()):
        if i >= 100:
            slower += tpot_s > expected_s
        expected_s = answered(standing, max(2e-4, tpot_s))
    assert 0.05 < slower / 500 < 0.16


@pytest.mark.parametrize(("tpot_s", "tokens"), [(0.5, 3), (0.0, 101)])
def test_short_answers_and_those_that_come_at_once_say_nothing_of_the_pace(tpot_s: float, tokens: int) -> None:
    standing = Standing(Policy(), 0.1)
    assert answered(standing, 0.04) == pytest.approx(0.04)
    assert answered(standing, tpot_s, tokens) == pytest.approx(0.04)


def test_a_pool_whose_answers_were_too_slow_lately_costs_the_missed_objective_until_that_is_old() -> None:
    standing = Standing(Policy(), 0.1)
    assert pace_usd(standing.load) == 0.0  # nobody was answered: the curve says 12 ms for five at a time
    answered(standing, 0.04)
    assert pace_usd(standing.load) == 0.5
    assert pace_usd(standing.load, service_class=replace(PACED, tpot_s_max=0.05)) == 0.0
    assert pace_usd(standing.load, now_s=NOW_S + 120.0) == 0.0


def test_before_any_answer_the_curve_at_the_pools_load_says_how_slow_it_is() -> None:
    itl_s = CURVE.itl_s(8 / 2 + 1)
    for limit_s, usd in ((itl_s * 1.01, 0.0), (itl_s * 0.99, 0.5)):
        assert pace_usd(Load({}, {}), service_class=replace(PACED, tpot_s_max=limit_s)) == usd


def test_a_class_without_that_objective_never_pays_for_it() -> None:
    standing = Standing(Policy(), 0.1)
    answered(standing, 3.0)
    assert pace_usd(standing.load, service_class=ServiceClass("any", 9.0, 0.02, 0.0, 0.0)) == 0.0


def test_a_request_that_must_be_quick_goes_to_who_is_quick_and_one_that_may_not_leave_stays() -> None:
    standing, cloud = Standing(Policy(), 0.1), api("cloud/m", 0.1)
    answered(standing, 0.04)
    market = Market(1, NOW_S, (POOL, cloud), {})
    quick, any_pace = request(service_class=PACED), request(service_class=replace(PACED, tpot_s_max=9.0))
    assert decide(quick, market, standing.load, POLICY, NOW_S).merit_order[0].offer is cloud
    assert decide(any_pace, market, standing.load, POLICY, NOW_S).merit_order[0].offer is POOL
    stays = request(service_class=PACED, zones=frozenset({POOL.zone}))
    assert [q.offer for q in decide(stays, market, standing.load, POLICY, NOW_S).merit_order] == [POOL]
