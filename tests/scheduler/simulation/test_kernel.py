"""The compiled kernel against the exact engine, and against what no schedule can do.

Bounds: money within 2 % of what all-API costs, objectives within half a point, the local share within five points
(runs of a minute, in which a request more or less at the start changes all that follows).
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from scheduler.core.bids import BidBook, Demand
from scheduler.core.market import Policy
from scheduler.simulation.kernel import KernelRun, KernelSettings, KernelTally
from scheduler.simulation.kernel import play as play_kernel
from scheduler.simulation.kernel.demand import levels_of, solve
from scheduler.simulation.policies import Rule, preference, rule
from scheduler.simulation.scenario import Scenario
from scheduler.simulation.traces import Trace, trace_of
from scheduler.simulation.workload import Workload
from scheduler.simulation.world import Settings
from tests.support.small_worlds import H100, apis, config, own, play, poisson, scenario

USD_SHARE, SLO, LOCAL_SHARE = 0.02, 0.005, 0.05
USD_PER_MTOK = {"cheap": 0.2, "fair": 1.0, "dear": 5.0}
CLASS = {"cheap": "interactive", "fair": "batch", "dear": "interactive"}
CODE, CHAT, LONG = (2000.0, 30.0), (300.0, 250.0), (12_000.0, 300.0)  # mean input and output tokens
REPLICAS = 2


def bursts(seed: int, count: int, span_s: float, sizes: tuple[float, float]) -> Trace:
    """Arrivals whose rate doubles and halves within a minute, and sizes with long tails."""
    rng = np.random.default_rng(seed)
    at_s = rng.uniform(0.0, span_s, count)
    at_s = np.sort(at_s + 5.0 * np.sin(at_s * 2.0 * np.pi / 60.0) + 5.0)
    inputs, outputs = (np.maximum(1, mean * rng.lognormal(-0.5, 1.0, count)).astype(np.int32) for mean in sizes)
    return trace_of("bursts", at_s, inputs, outputs)


@cache
def case(load: float, sizes: tuple[float, float], pools: int = 1, count: int = 3000, seed: int = 0) -> Scenario:
    """Pools of two engines at ``load`` times what they can do; who may leave goes to one of three APIs, in two classes."""
    names = [f"own{i}" for i in range(pools)]
    of = config(
        pools=[own(name, replicas=REPLICAS, model=name) for name in names],
        providers=apis(**USD_PER_MTOK),
        aliases=[{"name": f"{name}-{api}", "models": [name, api]} for name in names for api in USD_PER_MTOK],
    )
    profiles = [
        {"model": f"{name}-{api}", "service_class": CLASS[api], "difficulty": {"low": 0.0, "high": 0.6}}
        for name in names
        for api in USD_PER_MTOK
    ]
    profiles += [{"model": f"{names[0]}-dear", "labels": ["restricted"], "share": 0.05}]
    work_s = sizes[0] / H100["prefill_tokens_per_s"] + sizes[1] * H100["itl_per_seq_s"]
    trace = bursts(seed, count, count * work_s / (load * REPLICAS * pools), sizes)
    return scenario(of, trace, tuple(profiles))


def kernel(of: Scenario, name: str, threshold: float = math.nan, **settings: object) -> KernelTally:
    return play_kernel(of, name, threshold, settings=KernelSettings(**settings))  # type: ignore[arg-type]


def agree(
    of: Scenario, name: str, threshold: float = math.nan, gateways: int = 2, by: Rule | None = None, **more: object
) -> None:
    """The same run in both, within the bounds of this file."""
    exact = play(of, by or rule(name, threshold), Settings(gateways=gateways)).tally
    fast = kernel(of, name, threshold, gateways=gateways, **more)
    all_api = kernel(of, "all-api").usd_total
    assert fast.requests == exact.requests
    assert fast.served == exact.served
    assert fast.usd_total == pytest.approx(exact.usd_total, abs=USD_SHARE * all_api)
    assert fast.slo_attainment == pytest.approx(exact.slo_attainment, abs=SLO)
    assert fast.local_share == pytest.approx(exact.local_share, abs=LOCAL_SHARE)


@pytest.mark.parametrize("load", [0.6, 1.0, 1.3, 2.0])
@pytest.mark.parametrize("sizes", [CODE, CHAT])
def test_bid_prices_cost_what_they_cost_in_the_exact_engine(load: float, sizes: tuple[float, float]) -> None:
    agree(case(load, sizes, count=3000 if load < 2.0 else 12_000), "bid-price")


def test_long_prompts_and_two_pools_agree_too() -> None:
    agree(case(1.2, LONG, count=1500), "bid-price")
    agree(case(1.2, CODE, pools=2, seed=1), "bid-price", gateways=4)


@pytest.mark.parametrize(
    ("name", "threshold"),
    [
        ("overflow-queue", 0.2),
        ("overflow-queue", 0.9),
        ("overflow-kv", 0.3),
        ("static-price", 2e-3),
        ("quality-threshold", 0.3),
        ("greedy-perfect", math.nan),
        ("all-api", math.nan),
        ("all-local", math.nan),
    ],
)
def test_every_other_rule_agrees_as_well(name: str, threshold: float) -> None:
    agree(case(1.3, CODE), name, threshold)


def test_a_given_choice_is_replayed() -> None:
    of = case(1.3, CODE)
    kept = np.random.default_rng(5).random(of.requests_expected(of.judged)) < 0.6
    prefers = preference(
        lambda request, offer, *_: 0.0 if (offer.kind != "api") == bool(kept[int(request.id)]) else 1e6
    )
    agree(of, "given", by=Rule("given", prefers, evicts=True, knows_lengths=True), kept=kept)


def test_engines_that_are_slower_than_their_curve_miss_no_more_than_in_the_exact_engine() -> None:
    of = case(1.2, CODE)
    exact = play(of, "bid-price", Settings(curve_error=1.3)).tally
    fast = kernel(of, "bid-price", curve_error=1.3)
    assert fast.slo_attainment == pytest.approx(exact.slo_attainment, abs=0.01)
    assert fast.usd_total == pytest.approx(exact.usd_total, rel=0.1)


@pytest.mark.parametrize("name", ["bid-price", "all-local"])
def test_no_engine_works_longer_than_there_is_time(name: str) -> None:
    """And none does more work in its time than its curve allows."""
    of = case(2.0, CODE)
    batch = next(iter(of.batches(of.judged)))
    fast = kernel(of, name)
    ended_s = float(np.nanmax(batch.arrival_s + fast.ttft_s)) + batch.output_tokens.max() * 0.05
    assert fast.busy_s.max() <= ended_s
    here = fast.source == 1
    tokens = batch.input_tokens[here].sum() / H100["prefill_tokens_per_s"]
    work_s = tokens + batch.output_tokens[here].sum() * H100["itl_per_seq_s"]
    assert work_s <= fast.busy_s.sum() * (1.0 + 1e-9)


@pytest.mark.parametrize("name", ["bid-price", "overflow-queue"])
def test_how_a_trace_is_cut_into_batches_changes_nothing(name: str) -> None:
    """To the byte, and neither does a second run."""
    of = case(1.3, CODE)
    settings = KernelSettings(gateways=3)
    runs = []
    for requests in (50_000, 50_000, 701, 64):
        batches = Workload(of.trace, of.profiles, of.seed, batch_requests=requests)
        runs.append(play_kernel(of, name, 0.5, settings=settings, batches=batches))
    assert (
        len({(run.usd_total, run.in_time, run.bounces, run.api_usd.tobytes(), run.ttft_s.tobytes()) for run in runs})
        == 1
    )


def test_every_request_ends_once_and_money_adds_up() -> None:
    fast = kernel(case(1.3, CODE), "bid-price")
    assert fast.requests == len(fast.source) == 3000
    assert fast.local == int((fast.source == 1).sum())
    assert fast.usd_api == pytest.approx(float(fast.api_usd.sum()))
    assert fast.requests_of.sum() == fast.requests
    assert fast.in_time_of.sum() == fast.in_time
    assert not np.any(np.isnan(fast.ttft_s[fast.source > 0]))


def test_without_requests_nothing_happens() -> None:
    of = case(1.0, CODE)
    run = KernelRun(of.site, of.profiles, "bid-price", math.nan, of.policy)
    tally = run.finish()
    assert (tally.requests, tally.usd_total, tally.slo_attainment, tally.local_share) == (0, 0.0, 1.0, 0.0)


def test_one_request_takes_its_prefill_and_no_more() -> None:
    of = case(1.0, CODE)
    run = KernelRun(of.site, of.profiles, "bid-price", math.nan, of.policy)
    run.feed(next(iter(of.batches(of.judged))).head(1))
    tally, batch = run.finish(), next(iter(of.batches(of.judged)))
    prefill_s = batch.input_tokens[0] / H100["prefill_tokens_per_s"]
    steps = math.ceil(batch.input_tokens[0] / 1024)
    assert tally.local == 1
    took_s = tally.ttft_s[0] - H100["ttft_base_s"]
    assert prefill_s - 1e-9 <= took_s <= prefill_s + steps * H100["itl_base_s"]


def test_a_prompt_beyond_the_context_of_the_pool_goes_to_the_api() -> None:
    of = case(1.0, CODE)
    offers = [
        replace(offer, context_tokens=1000) if offer.kind != "api" else offer for offer in of.site.priced(0.0).offers
    ]
    run = KernelRun(of.site, of.profiles, "all-local", math.nan, of.policy, offers=offers)
    batch = next(iter(of.batches(of.judged)))
    run.feed(batch)
    tally, long, forced = run.finish(), batch.input_tokens >= 1000, batch.profile == len(of.profiles) - 1
    assert np.array_equal(tally.source == 0, long & forced)  # they may not leave
    assert np.all(tally.source[long & ~forced] == 2)


def test_replicas_that_go_away_get_nothing_more() -> None:
    of = case(0.8, CODE)
    half_s = of.judged.span_s / 2
    tally = kernel(of, "all-local", changes=((half_s, "own0", 0),))
    batch = next(iter(of.batches(of.judged)))
    free = batch.profile < len(of.profiles) - 1
    assert np.all(tally.source[free & (batch.arrival_s > half_s + 1.0)] == 2)
    assert np.mean(tally.source[batch.arrival_s < half_s - 10.0] == 1) > 0.8


def test_curves_are_those_that_the_controller_solves_from_the_same_demand() -> None:
    of = case(1.2, CODE)
    run = KernelRun(of.site, of.profiles, "bid-price", math.nan, of.policy, KernelSettings(bid_every_s=1e6))
    run.feed(next(iter(of.batches(of.judged))))
    s, now_s = run.state, 45.0
    s.clock["now_s"] = now_s
    pool, policy = s.pools[0], Policy(horizon_s=1e6)
    book = BidBook(policy)
    for at_s in np.unique(s.demand[0, : pool["demand_kept"], 0]):
        rows = s.demand[0, : pool["demand_kept"]]
        book.heard("own0", [Demand(*map(float, row[1:])) for row in rows[rows[:, 0] == at_s]], float(at_s))
    levels = levels_of(s, 0)
    last_s = float(s.windows[0, pool["window_head"], 0])
    book.solve({"own0": levels}, {"own0": REPLICAS}, {"own0": float(pool["work_ratio"])}, last_s)
    solve(s, policy, 1.0, last_s)
    for row, level in enumerate(levels):
        curve = book.curves["own0"][level.ttft_s_max]
        assert curve is not None
        found = s.bid_usd[row, : s.lines["points"][row]]
        assert found == pytest.approx(np.array(curve.usd), rel=1e-6, abs=1e-12)


def test_a_rule_that_the_kernel_does_not_know_is_an_error() -> None:
    of = case(1.0, CODE)
    with pytest.raises(KeyError):
        KernelRun(of.site, of.profiles, "hpa", 0.5, of.policy)
    run = KernelRun(of.site, of.profiles, "all-api", math.nan, of.policy)
    batch = next(iter(of.batches(of.judged)))
    run.feed(batch)
    with pytest.raises(ValueError, match="ascend"):
        run.feed(batch)


def test_a_pace_is_judged_by_the_exact_engine_alone() -> None:
    site = config(
        pools=[own("own", 1)], providers=apis(mini=1.0), service_classes=({"name": "paced", "tpot_s_max": 0.02},)
    )
    with pytest.raises(ValueError, match="paced: the kernel judges no tpot_s_max"):
        play_kernel(scenario(site, poisson(np.random.default_rng(0), 1.0, np.full(10, 100))), "bid-price")
