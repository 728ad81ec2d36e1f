"""Requests as columns against the core's own objects, one by one: what they cost here and elsewhere, and whose they are."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from pricing import board
from scheduler.config import ClusterConfig
from scheduler.core import constraints
from scheduler.core.market import Load, Request
from scheduler.core.supply import Offer, Usage
from scheduler.planning import requests as requests_module
from scheduler.planning.requests import PoolRequests, Requests, homes_of
from scheduler.planning.technologies import PlanError, expanded, technologies_of
from scheduler.simulation.mix import Mix, Profile, resolve
from scheduler.simulation.scenario import EPOCH_S, Scenario, Window
from scheduler.simulation.traces import trace_of
from tests.support.planning_sites import BIG_GPU, SMALL_GPU, fleet, priced, scenario, window

NOTHING = Load({}, {})
ASKED_FOR = (constraints.zone, constraints.model, constraints.abilities, constraints.context)


@pytest.fixture(scope="module")
def config() -> ClusterConfig:
    return fleet(SMALL_GPU, BIG_GPU)


@pytest.fixture(scope="module")
def found(config: ClusterConfig) -> Requests:
    return priced(config)


def request(profile: Profile, inputs: int, outputs: int) -> Request:
    """As the gateway would read it."""
    return Request(
        "r", profile.tenant, profile.service_class, profile.models, Usage(inputs, 0, outputs), 0.0, profile.needs,
        profile.zones, math.inf, math.inf, 0.0,
    )  # fmt: skip


def admitted(of: Request, offers: list[Offer]) -> list[Offer]:
    """Offers that no hard filter refuses."""
    return [offer for offer in offers if not any(why(of, offer, NOTHING, EPOCH_S) for why in ASKED_FOR)]


def held_s(of: Offer, usage: Usage) -> float:
    """Replica-seconds of a request that holds a slot, or its part of the cache, of a full replica."""
    curve, tokens = of.curve, usage.input_tokens + 0.5 * usage.output_tokens + 1.0
    running = max(1.0, min(curve.seqs_max, curve.kv_tokens / tokens))
    return (usage.input_tokens / curve.prefill_tokens_per_s + usage.output_tokens * curve.itl_s(running)) / running


def rows_of(pool: PoolRequests) -> list[tuple[int, int, int, int]]:
    """Number, profile, input and output tokens of each row."""
    columns = (pool.profile, pool.input_tokens, pool.output_tokens)
    return list(zip(range(len(pool)), *(column.tolist() for column in columns), strict=True))


def test_every_request_costs_here_and_elsewhere_what_the_live_objects_say(
    config: ClusterConfig, found: Requests
) -> None:
    offers = board.price(expanded(config), EPOCH_S).offers
    own, away = [o for o in offers if o.kind != "api"], [o for o in offers if o.kind == "api"]
    profiles = scenario(config).profiles
    for pool in found.pools:
        by_name = {offer.id.partition("/")[0]: offer for offer in own}
        here = [by_name[technology.name] for technology in pool.technologies]
        sums = np.zeros((2, len(here)))
        for _, _, inputs, outputs in rows_of(pool):
            usage = Usage(inputs, 0, outputs)
            sums += [[o.curve.work_s(usage, 0.0) for o in here], [held_s(o, usage) for o in here]]
        slots_bind = dict(zip([t.name for t in pool.technologies], (sums[1] > sums[0]).tolist(), strict=True))
        assert slots_bind == {name: name == "small-gpu" for name in slots_bind}
        for row, number, inputs, outputs in rows_of(pool)[::7]:
            one, usage = request(profiles[number], inputs, outputs), Usage(inputs, 0, outputs)
            dear = [offer.rate.usd(offer.expected(usage)) for offer in admitted(one, away)]
            assert pool.elsewhere_usd[row] == pytest.approx(min(dear, default=math.inf), rel=1e-6)
            for place, offer in enumerate(here):
                late = offer.curve.prefill_s(usage) > 0.95 * one.service_class.ttft_s_max
                if late or not admitted(one, [offer]):
                    assert pool.work_s[place, row] == math.inf
                    continue
                busy_s = held_s(offer, usage) if sums[1, place] > sums[0, place] else offer.curve.work_s(usage, 0.0)
                assert pool.work_s[place, row] == pytest.approx(busy_s)
                assert pool.energy_usd[place, row] == pytest.approx(offer.rate.usd(usage), rel=1e-6)


def test_every_request_is_in_the_pool_that_serves_it_with_the_least_work_or_has_no_home(
    config: ClusterConfig, found: Requests
) -> None:
    made = scenario(config)
    profile = np.concatenate([batch.profile for batch in made.batches(window(made))])
    offers = board.price(config, EPOCH_S).offers
    technologies = {o.id.partition("/")[0]: o for o in board.price(expanded(config), EPOCH_S).offers if o.kind != "api"}
    homes: dict[float, str] = {}
    homeless_usd = 0.0
    columns = (made.trace.arrival_s, profile, made.trace.input_tokens, made.trace.output_tokens)
    for at_s, number, inputs, outputs in zip(*(column.tolist() for column in columns), strict=True):
        one = request(made.profiles[number], inputs, outputs)
        wanted = replace(one, usage=Usage(1, 0, 1))  # the home is that of the profile, of whatever size
        own = sorted(
            (o for o in admitted(wanted, list(offers)) if o.kind != "api"), key=lambda o: -o.curve.prefill_tokens_per_s
        )
        home = own[0].id.partition("/")[0] if own else ""
        serving = [t for t in found_technologies(found, home) if admitted(one, [technologies[t]])]
        in_time = [technologies[t].curve.prefill_s(one.usage) <= 0.95 * one.service_class.ttft_s_max for t in serving]
        if any(in_time):
            homes[at_s] = home
        else:
            away = [o.rate.usd(one.usage) for o in admitted(one, list(offers)) if o.kind == "api"]
            homeless_usd += min(away, default=0.0)
    assert homes == {at_s: pool.pool for pool in found.pools for at_s in pool.at_s.tolist()}
    assert found.homeless == made.trace.requests - len(homes)
    assert 0 < found.homeless < 50
    assert found.homeless_usd_per_hour * found.hours == pytest.approx(homeless_usd, rel=1e-6)
    assert found.count == made.trace.requests
    assert (found.input_tokens_mean, found.output_tokens_mean) == (
        pytest.approx(made.trace.input_tokens.mean()),
        pytest.approx(made.trace.output_tokens.mean()),
    )


def found_technologies(found: Requests, pool: str) -> list[str]:
    """Names of the technologies of a pool."""
    return [t.name for of in found.pools if of.pool == pool for t in of.technologies]


def test_pools_have_their_technologies_in_order_and_their_requests_by_arrival(found: Requests) -> None:
    assert {pool.pool: [t.name for t in pool.technologies] for pool in found.pools} == {
        "llama-8b": ["llama-8b", "small-gpu"],
        "qwen-32b": ["qwen-32b", "big-gpu"],
        "llama-70b": ["llama-70b"],
    }
    for pool in found.pools:
        assert (np.diff(pool.at_s) >= 0).all()
        assert pool.work_s.shape == pool.energy_usd.shape == (len(pool.technologies), len(pool))
        assert np.isfinite(pool.work_s).any(axis=0).all()


def test_what_may_not_leave_has_no_price_elsewhere(config: ClusterConfig, found: Requests) -> None:
    profiles = scenario(config).profiles
    restricted = next(i for i, profile in enumerate(profiles) if profile.name == "clauses-restricted")
    (pool,) = [pool for pool in found.pools if pool.pool == "llama-8b"]
    assert np.isinf(pool.elsewhere_usd[pool.profile == restricted]).all()
    assert np.isfinite(pool.elsewhere_usd[(pool.profile != restricted) & (pool.input_tokens < 100_000)]).all()


@pytest.mark.parametrize("copies", [1.0, 2.4, 30.0])
def test_a_sample_of_rows_stands_for_all_requests(config: ClusterConfig, copies: float) -> None:
    made = scenario(config, copies=copies)
    everything, sample = priced(config, made), priced(config, made, rows_max=900)
    expected = made.requests_expected(window(made))
    assert everything.stands_for == 1.0
    assert everything.count == pytest.approx(expected, abs=6 * math.sqrt(expected))
    assert sample.stands_for == pytest.approx(expected / 900)
    rows = sum(len(pool) for pool in sample.pools) + sample.homeless / sample.stands_for
    assert sample.count == pytest.approx(rows * sample.stands_for)
    assert sample.count == pytest.approx(expected, rel=6 / math.sqrt(900))
    for mine, all_of in zip(sample.pools, everything.pools, strict=True):
        assert mine.stands_for == sample.stands_for
        work, whole = mine.work_s[0][np.isfinite(mine.work_s[0])], all_of.work_s[0][np.isfinite(all_of.work_s[0])]
        error = 6 * sample.stands_for * math.sqrt(float(np.sum(work**2)))
        assert work.sum() * sample.stands_for == pytest.approx(whole.sum(), abs=error)


def test_the_size_of_chunks_changes_nothing(
    config: ClusterConfig, found: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[float] = []
    monkeypatch.setattr(requests_module, "_CHUNK_ROWS", 100)
    again = priced(config, progress=heard.append)
    assert len(heard) == 15
    assert heard == sorted(heard)
    assert heard[-1] == pytest.approx(1.0)
    assert again.homeless_usd_per_hour == pytest.approx(found.homeless_usd_per_hour)
    for mine, its in zip(again.pools, found.pools, strict=True):
        for name in ("at_s", "profile", "input_tokens", "output_tokens", "elsewhere_usd", "work_s", "energy_usd"):
            np.testing.assert_allclose(getattr(mine, name), getattr(its, name), rtol=1e-6)


def test_only_the_window_is_read(config: ClusterConfig, found: Requests) -> None:
    made = scenario(config)
    technologies = technologies_of(config, EPOCH_S)
    part = requests_module.requests_of(made, config, technologies, Window(1_000.0, 3_000.0))
    assert part.hours == pytest.approx(2_000 / 3_600)
    for mine, its in zip(part.pools, found.pools, strict=True):
        inside = (its.at_s >= 1_000.0) & (its.at_s < 3_000.0)
        np.testing.assert_array_equal(mine.at_s, its.at_s[inside])
        np.testing.assert_allclose(mine.elsewhere_usd, its.elsewhere_usd[inside])


def only(config: ClusterConfig, **profile: object) -> Scenario:
    """One kind of request, twenty of them in a minute."""
    row = {"name": "p", "share": 1, "tenant": "support", **profile}
    profiles = resolve(Mix.model_validate({"version": 1, "profiles": [row]}), config)
    trace = trace_of("few", np.arange(20) * 3.0, np.full(20, 3_000), np.full(20, 10))
    return replace(scenario(config), profiles=profiles, trace=trace, judged=Window(0.0, 60.0))


def test_a_profile_is_bound_to_every_technology_of_its_home_and_to_nothing_if_it_has_none(
    config: ClusterConfig,
) -> None:
    technologies = technologies_of(config, EPOCH_S)
    small = {"llama-8b", "small-gpu"}
    for model, pools in (("drafts", small), ("llama-70b", {"llama-70b"}), ("gpt-4.1", set()), ("auto", small)):
        (profile,) = homes_of(config, only(config, model=model).profiles, technologies)
        assert profile.pools == pools


def test_a_window_without_a_request_is_refused(config: ClusterConfig) -> None:
    made = replace(only(config), trace=trace_of("two", [0.0, 3_000.0], [9, 9], [9, 9]))
    with pytest.raises(PlanError, match=r"no request between 100 s and 200 s: there is nothing to plan for"):
        requests_module.requests_of(made, config, technologies_of(config, EPOCH_S), Window(100.0, 200.0))


def test_what_only_apis_can_serve_is_nothing_to_plan(config: ClusterConfig) -> None:
    with pytest.raises(PlanError, match="no request of the trace can be served by any pool in time"):
        priced(config, only(config, model="gpt-4.1"))
    slow = fleet(SMALL_GPU)
    slow = slow.model_copy(
        update={"service_classes": tuple(c.model_copy(update={"ttft_s_max": 0.1}) for c in slow.service_classes)}
    )
    with pytest.raises(PlanError, match="no request of the trace can be served by any pool in time"):
        priced(slow, only(slow, model="drafts"))
