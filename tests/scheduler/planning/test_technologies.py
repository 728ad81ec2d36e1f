"""Technologies: prices to own, to reserve and to rent, as pricing has them; and what has no price is named."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from pricing import board, onprem
from scheduler.config import ClusterConfig
from scheduler.core.supply import ServiceCurve
from scheduler.planning.requests import homes_of
from scheduler.planning.sizes import bucket_of, input_tokens_max
from scheduler.planning.technologies import REPLICAS_MAX, PlanError, Technology, expanded, technologies_of
from scheduler.simulation.scenario import EPOCH_S
from tests.support.planning_sites import BIG_GPU, SMALL_GPU, document, fleet, scenario

HARDWARE = {"gpu": "H200", "purchase_price_usd": 40_000, "amortization_years": 4, "idle_watts": 100}
RENTAL = {"gpu": "H100", "usd_per_hour": 3.0, "idle_watts": 50}
FEED = {"name": "gpus", "kind": "static"}


def named(config: ClusterConfig) -> dict[str, Technology]:
    """Technologies by name."""
    return {technology.name: technology for technology in technologies_of(config, EPOCH_S)}


def bent(pool: int = 0, **fields_of_pool: Any) -> dict[str, Any]:
    """The fleet with one pool changed, and nothing planned."""
    found = document() | {"planning": {}}
    found["pools"][pool] = {k: v for k, v in (found["pools"][pool] | fields_of_pool).items() if v is not None}
    return found


def test_a_pool_that_is_there_can_be_owned_at_its_amortized_cost_with_idle_power() -> None:
    """31,250 USD over five years at 8 % with a tenth left, 8 % a year for upkeep, 90 W at 0.18 USD/kWh and a PUE of 1.3."""
    found = named(fleet())["llama-8b"]
    annuity = (31_250 - 3_125 / 1.08**5) * 0.08 / (1.0 - 1.08**-5)
    idle_usd = 0.09 * 1.3 * 0.18
    assert found.owned_usd_per_hour == pytest.approx((annuity + 0.08 * 31_250) / 8_760 + idle_usd)
    assert found.idle_usd_per_hour == pytest.approx(idle_usd)
    assert (found.reserved_usd_per_hour, found.rented_usd_per_hour) == (None, None)
    assert (found.pool, found.model, found.gpu, found.gpus_per_replica) == ("llama-8b", "llama-8b", "1xH100", 1.0)
    assert (found.replicas_now, found.replicas_max, found.context_tokens) == (12, REPLICAS_MAX, 131_072)
    assert found.curve == ServiceCurve(44_500, 0.0062, 0.000081, 256, 0.045, 434_000)
    assert (found.joules_per_input_token, found.joules_per_output_token) == (0.0065, 0.0236)


def test_a_candidate_to_rent_costs_what_an_hour_of_its_work_costs() -> None:
    """0.9 USD, to be had 80 % of the time, a twentieth of it to start, and 0.15 USD an hour lost to interruptions."""
    found = named(fleet(SMALL_GPU))["small-gpu"]
    assert found.rented_usd_per_hour == pytest.approx(0.9 / (0.8 * 0.95) + 0.1 * 1.5)
    assert (found.owned_usd_per_hour, found.reserved_usd_per_hour) == (None, None)
    assert (found.pool, found.model, found.gpu, found.replicas_now, found.replicas_max) == (
        "llama-8b", "llama-8b", "L40S", 0, 256,
    )  # fmt: skip
    assert found.rented_availability == 0.8


def test_a_candidate_that_can_only_be_reserved_is_not_to_be_had_by_the_hour() -> None:
    found = named(fleet(BIG_GPU))["big-gpu"]
    assert found.reserved_usd_per_hour == 2.5
    assert (found.owned_usd_per_hour, found.rented_usd_per_hour) == (None, None)
    assert (found.gpu, found.replicas_max) == ("big-gpu", 7)


def test_a_candidate_may_be_had_in_every_way() -> None:
    every = BIG_GPU | {"hardware": HARDWARE, "rental": RENTAL}
    found = named(fleet(every))["big-gpu"]
    idle_usd = 0.1 * 1.3 * 0.18
    assert found.owned_usd_per_hour == pytest.approx(40_000 / 4 / 8_760 + idle_usd)
    assert found.reserved_usd_per_hour == pytest.approx(2.5 + idle_usd)
    assert found.rented_usd_per_hour == pytest.approx(3.0 + idle_usd)


def test_a_pool_that_is_rented_today_and_one_with_an_offer_of_a_cloud_can_be_rented() -> None:
    rented = ClusterConfig.model_validate(bent(0, hardware=None, rental=RENTAL))
    found = named(rented)["llama-8b"]
    assert (found.owned_usd_per_hour, found.reserved_usd_per_hour) == (None, None)
    assert found.rented_usd_per_hour == pytest.approx(3.0 + 0.05 * 1.3 * 0.18)
    assert (found.gpu, found.replicas_now) == ("H100", 12)
    cloud = named(
        fleet(cloud=[{"pool": "qwen-32b", "zone": "on-prem", "rental": RENTAL, "reserved_usd_per_hour": 2.0}])
    )["qwen-32b"]
    assert cloud.owned_usd_per_hour == named(fleet())["qwen-32b"].owned_usd_per_hour
    assert cloud.rented_usd_per_hour == pytest.approx(3.0 + cloud.idle_usd_per_hour)
    assert cloud.reserved_usd_per_hour == pytest.approx(2.0 + cloud.idle_usd_per_hour)


def test_of_a_pool_beside_another_only_what_always_runs_is_there_now() -> None:
    site = document()
    (first, *rest), rental = site["pools"], {"gpu": "1xH100", "usd_per_hour": 1.99}
    first = first | {"replicas": {"min": 2, "max": 12}}
    beside = {key: value for key, value in first.items() if key != "hardware"} | {"rental": rental}
    for least, most, now in ((0, 30, 12), (5, 30, 17)):
        cloud = beside | {"name": "llama-8b-cloud", "replicas": {"min": least, "max": most}}
        config = ClusterConfig.model_validate(site | {"pools": [first, cloud, *rest]})
        assert named(config)["llama-8b"].replicas_now == now


@pytest.mark.parametrize("ways", [("hardware",), ("reserved_usd_per_hour",), ("hardware", "reserved_usd_per_hour"), ()])
def test_with_the_commitment_clock_off_only_what_cannot_be_had_otherwise_is_rented(ways: tuple[str, ...]) -> None:
    every = {"hardware": HARDWARE, "reserved_usd_per_hour": 2.5}
    big = {k: v for k, v in BIG_GPU.items() if k not in every} | {"rental": RENTAL} | {way: every[way] for way in ways}
    cloud = [{"pool": "qwen-32b", "zone": "on-prem", "rental": RENTAL}]
    site = document() | {"planning": {"candidates": [big, SMALL_GPU], "cloud": cloud}}
    found, still = {}, {"small-gpu"} if ways else {"small-gpu", "big-gpu"}
    for mode in ("off", "advisory", "enforce"):
        site["policy"] = site.get("policy", {}) | {"commitment": {"mode": mode}}
        found[mode] = named(ClusterConfig.model_validate(site))
    assert {name for name, t in found["off"].items() if t.rented_usd_per_hour is not None} == still
    assert found["enforce"] == found["advisory"]
    for name, listed in found["enforce"].items():
        rent_usd = found["off"][name].rented_usd_per_hour
        assert replace(listed, rented_usd_per_hour=rent_usd) == found["off"][name]
        assert (listed.rented_usd_per_hour is None) is (name in ("llama-8b", "llama-70b"))


def test_pools_and_candidates_without_a_price_are_all_named() -> None:
    listed = {"rental": {"listed": [{"feed": "gpus", "product": "l40s"}]}}
    site = bent(0, hardware=None) | {"feeds": [FEED], "planning": {"candidates": [SMALL_GPU | listed, BIG_GPU]}}
    with pytest.raises(PlanError) as caught:
        technologies_of(ClusterConfig.model_validate(site), EPOCH_S)
    assert str(caught.value) == (
        "no plan without prices: "
        "llama-8b: neither hardware (what it costs to own) nor rental (to rent) is given; "
        "small-gpu: its rent comes from a feed; a plan needs rental.usd_per_hour"
    )


def test_a_cloud_that_offers_nothing_is_no_price() -> None:
    site = bent(0, hardware=None) | {"planning": {"cloud": [{"pool": "llama-8b", "zone": "on-prem"}]}}
    with pytest.raises(PlanError, match="llama-8b: neither hardware"):
        technologies_of(ClusterConfig.model_validate(site), EPOCH_S)


def test_a_site_without_a_price_of_power_names_its_pools() -> None:
    site = document() | {"feeds": [FEED]}
    site["sites"][0]["electricity"] = {"day_ahead": {"feed": "gpus", "product": "de"}, "pue": 1.3}
    with pytest.raises(PlanError, match=r"llama-8b: no power price for site here now.*; qwen-32b: .*; llama-70b: "):
        technologies_of(ClusterConfig.model_validate(site), EPOCH_S)


def test_without_pools_there_is_nothing_to_plan() -> None:
    with pytest.raises(PlanError, match="there is no pool and so nothing to plan"):
        technologies_of(ClusterConfig.model_validate(document() | {"pools": [], "planning": {}}), EPOCH_S)


def test_the_expanded_site_has_every_technology_as_a_pool_that_serves_the_same_model() -> None:
    config = fleet(SMALL_GPU, BIG_GPU | {"engine_args": {"max_num_seqs": 128}})
    whole = expanded(config)
    technologies = technologies_of(config, EPOCH_S)
    assert [pool.name for pool in whole.pools] == [t.name for t in technologies]
    assert {(pool.replicas.min, pool.replicas.max) for pool in whole.pools} == {(1, 1)}
    assert not board.price(whole, EPOCH_S).unpriced
    for pool, technology in zip(whole.pools, technologies, strict=True):
        assert (pool.model, onprem.service_curve(pool.curve)) == (technology.model, technology.curve)
    big, its = whole.pools[-1].engine, config.pools[1].engine
    assert big.kind == its.kind == "vllm"
    assert big.args == {**its.args, "max_num_seqs": 128}
    assert [pool.name for pool in config.pools] == ["llama-8b", "qwen-32b", "llama-70b"]  # what was given is as it was
    assert whole.directory == config.directory


def test_the_longest_prompt_is_one_that_is_read_in_time_or_fills_the_context() -> None:
    config = fleet(SMALL_GPU)
    profiles = {profile.name: profile for profile in scenario(config).profiles}
    found = named(config)
    interactive, relaxed = profiles["drafts"], profiles["tagging"]
    assert input_tokens_max(found["small-gpu"], interactive) == pytest.approx((0.95 * 5.0 - 0.06) * 9_000)
    assert input_tokens_max(found["llama-8b"], relaxed) == 131_071
    assert {field.name for field in fields(Technology)} >= {"context_tokens", "curve"}


def test_buckets_of_sizes_begin_at_their_bounds() -> None:
    assert bucket_of(np.array([0, 1, 1_023, 1_024, 8_191, 8_192, 1_000_000])).tolist() == [0, 0, 0, 1, 1, 2, 2]


def test_pools_of_one_model_on_one_site_are_types_of_gpu_for_the_same_requests() -> None:
    site = document()
    second = {**site["pools"][0], "name": "llama-8b-slow", "curve": dict(site["pools"][0]["curve"], itl_base_s=0.02)}
    far = {**site["pools"][0], "name": "llama-8b-far", "site": "there"}
    site["sites"].append({**site["sites"][0], "name": "there"})
    site["pools"] = [*site["pools"], second, far]
    config = ClusterConfig.model_validate(
        {**site, "planning": {"candidates": [{**SMALL_GPU, "pool": "llama-8b-slow"}]}}
    )
    found = {technology.name: technology.pool for technology in technologies_of(config, EPOCH_S)}
    assert found == {
        "llama-8b": "llama-8b", "llama-8b-slow": "llama-8b", "small-gpu": "llama-8b", "qwen-32b": "qwen-32b",
        "llama-70b": "llama-70b", "llama-8b-far": "llama-8b-far",
    }  # fmt: skip
    made = scenario(config)
    (drafts, *_) = homes_of(config, made.profiles, technologies_of(config, EPOCH_S))
    assert drafts.pools == {"llama-8b", "llama-8b-slow", "small-gpu"}


def test_the_order_of_pools_does_not_say_whose_requests_are_at_home() -> None:
    site = document()
    cloud = {**site["pools"][0], "name": "llama-8b-cloud", "replicas": {"min": 0, "max": 3}}
    cloud["rental"] = {"gpu": "1xH100", "usd_per_hour": 1.99}
    del cloud["hardware"]
    config = ClusterConfig.model_validate({**site, "pools": [cloud, *site["pools"]]})
    technologies = technologies_of(config, EPOCH_S)
    assert "llama-8b-cloud" not in {technology.name for technology in technologies}
    (drafts, *_) = homes_of(config, scenario(config).profiles, technologies)
    assert drafts.pools == {"llama-8b"}
