"""The simulated world where the answer is known: queues with closed forms, books that balance, runs that are repeated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from scheduler.core.market import Policy
from scheduler.core.supply import Usage
from scheduler.simulation.policies import rule
from scheduler.simulation.scenario import EPOCH_S, Scenario
from scheduler.simulation.traces import trace_of
from scheduler.simulation.world import Settings, World
from tests.support.queueing_oracles import (
    erlang_c,
    mg1_wait_s_mean,
    mmc_wait_s_mean,
    mmc_wait_s_quantile,
    multi_server_waits_s,
    single_server_waits_s,
)
from tests.support.small_worlds import Played, apis, config, own, play, poisson, scenario

PER_S = 100_000.0  # tokens
SERVICE_S = 0.2
# One prompt at a time, and nothing but prompts: an engine is a server whose customers need tokens / PER_S seconds.
SERVER = {
    "prefill_tokens_per_s": PER_S, "itl_base_s": 0.0, "itl_per_seq_s": 0.0, "seqs_max": 1, "ttft_base_s": 0.0,
}  # fmt: skip
CALM = {"name": "calm", "ttft_s_max": 2e5, "usd_per_ttft_miss": 0.0, "usd_per_s_waiting": 0.0}
SEEDS, CUSTOMERS, WARM_UP = 8, 1000, 150
T_999 = float(stats.t.ppf(0.9995, SEEDS - 1))
# The clock resolves 0.2 microseconds; that adds up over a busy time.
CLOCK_S = 1e-3


def queue_of(
    servers: int, load: float, sizes: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, Scenario]:
    """Arrivals, services and the scenario of a queue with ``servers`` engines at ``load``."""
    gate = {"waiting_max": 100_000}
    site = config(pools=[own("own", servers, curve=SERVER, gate=gate)], providers=[], service_classes=(CALM,))
    tokens = np.maximum(1, np.rint(sizes * SERVICE_S * PER_S)).astype(int)
    trace = poisson(rng, load * servers / SERVICE_S, tokens)
    return trace.arrival_s, tokens / PER_S, scenario(site, trace, policy=Policy(grant_ahead_s=0.0))


def waits_s(of: Scenario, service_s: np.ndarray) -> np.ndarray:
    played = play(of, "all-local", Settings(bid_every_s=1e6))
    assert played.tally.served == played.tally.local == len(service_s)
    return played.by_request("ttft_s") - service_s


def agrees(by_seed: list[float], expected: float) -> None:
    """The mean over seeds lies in Student's interval of 99.9 % around what theory expects."""
    error = np.std(by_seed, ddof=1) / np.sqrt(len(by_seed))
    assert abs(np.mean(by_seed) - expected) <= T_999 * error, (np.mean(by_seed), expected, error)
    assert error < 0.15 * expected, "too few customers to tell"


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (3, 0.7)])
def test_engines_with_one_slot_and_exponential_prompts_wait_as_erlang_says(servers: int, load: float) -> None:
    means, waited, above = [], [], []
    per_s = load * servers / SERVICE_S
    tail_s = mmc_wait_s_quantile(0.9, per_s, 1.0 / SERVICE_S, servers)
    for seed in range(SEEDS):
        rng = np.random.default_rng([seed, servers])
        arrived_s, service_s, of = queue_of(servers, load, rng.exponential(1.0, CUSTOMERS), rng)
        found_s = waits_s(of, service_s)
        # Customer by customer it is the same queue, so that what remains is the chance in these customers.
        np.testing.assert_allclose(found_s, multi_server_waits_s(arrived_s, service_s, servers), atol=CLOCK_S)
        means.append(found_s[WARM_UP:].mean())
        waited.append((found_s[WARM_UP:] > CLOCK_S).mean())
        above.append((found_s[WARM_UP:] > tail_s).mean())
    agrees(means, mmc_wait_s_mean(per_s, 1.0 / SERVICE_S, servers))
    agrees(waited, erlang_c(servers, load * servers))
    agrees(above, 0.1)


@pytest.mark.parametrize("shape", [0.5, 4.0])
def test_one_engine_and_prompts_of_any_length_wait_as_pollaczek_and_khinchine_say(shape: float) -> None:
    means = []
    for seed in range(SEEDS):
        rng = np.random.default_rng([seed, round(10 * shape)])
        arrived_s, service_s, of = queue_of(1, 0.5, rng.gamma(shape, 1.0 / shape, CUSTOMERS), rng)
        found_s = waits_s(of, service_s)
        np.testing.assert_allclose(found_s, single_server_waits_s(arrived_s, service_s), atol=CLOCK_S)
        means.append(found_s[WARM_UP:].mean())
    agrees(means, mg1_wait_s_mean(0.5 / SERVICE_S, SERVICE_S, SERVICE_S**2 / shape))


def test_equal_prompts_at_equal_distances_never_wait() -> None:
    site = config(pools=[own("own", 2, curve=SERVER)], providers=[], service_classes=(CALM,))
    # Two engines of 0.2 s each, one prompt every 0.11 s.
    of = scenario(site, trace_of("clock", np.arange(200) * 0.11, np.full(200, 20_000), np.ones(200)))
    assert play(of, "all-local").by_request("ttft_s") == pytest.approx(np.full(200, 0.2), abs=1e-5)


def town(requests: int = 500, seed: int = 3, **limits: Any) -> Scenario:
    """A pool and two APIs; some may only stay, some only leave, some only go where nobody answers."""
    rng = np.random.default_rng(seed)
    providers = apis(cheap=0.5, dear=4.0)
    for row in providers:
        row["limits"] = limits
    site = config(pools=[own("own", 1)], providers=providers)
    profiles = (
        {"share": 3.0},
        {"share": 2.0, "service_class": "batch"},
        {"share": 1.0, "zones": ["home"]},
        {"share": 1.0, "model": "cheap"},
    )
    sizes = np.ceil(rng.lognormal(7.5, 0.8, requests)).astype(int), np.ceil(rng.exponential(60.0, requests)).astype(int)
    return scenario(site, poisson(rng, 25.0, *sizes), profiles, seed=seed)


def served(played: Played) -> list[tuple[str, Usage]]:
    """Offer and usage of every request that somebody answered."""
    last = [journey.outcomes[-1] for journey in played.journeys.values() if journey.outcomes]
    return [(outcome.offer_id, outcome.usage) for outcome in last if outcome.status == "complete"]


@pytest.mark.parametrize("name", ["bid-price", "overflow-queue", "all-api"])
def test_every_request_ends_once_and_the_books_are_the_sum_of_what_each_one_cost(name: str) -> None:
    of = town()
    # From 5 s to 12 s the cheap API is out, and whoever wants nothing else is served by nobody.
    played = play(of, rule(name, 0.3), Settings(gateways=3, outages={"cheap/cheap": ((5.0, 12.0),)}))
    tally, rates = played.tally, {offer.id: offer.rate for offer in of.site.priced(EPOCH_S).offers}
    assert sorted(tally.number) == list(range(of.trace.requests))
    assert set(played.journeys) == set(tally.number)
    answered = served(played)
    assert tally.served == len(answered) < tally.requests == of.trace.requests
    assert sum(requests for _, requests in tally.by_class.values()) == tally.requests
    assert sum(in_time for in_time, _ in tally.by_class.values()) == tally.in_time
    at_home = [rates[offer].usd(usage) for offer, usage in answered if offer.startswith("own")]
    bought = [rates[offer].usd(usage) for offer, usage in answered if not offer.startswith("own")]
    assert tally.local == len(at_home)
    assert tally.usd_energy == pytest.approx(sum(at_home))
    assert tally.usd_api == pytest.approx(sum(bought)) == pytest.approx(sum(tally.api_usd))
    assert tally.usd_total == tally.usd_api + tally.usd_energy
    totals = [tally.usd_api, tally.usd_energy, len(bought), len(at_home), tally.in_time, tally.requests]
    assert tally.series.sum(axis=0) == pytest.approx(totals)


def test_an_answer_is_billed_for_the_tokens_that_the_trace_says() -> None:
    of = town()
    played = play(of, "bid-price")
    for number, journey in played.journeys.items():
        usage = journey.outcomes[-1].usage
        assert (usage.input_tokens, usage.output_tokens) == (
            of.trace.input_tokens[number],
            of.trace.output_tokens[number],
        )


def test_engines_have_done_exactly_the_tokens_that_were_served_at_home() -> None:
    played = play(town(), rule("overflow-queue", 0.3))
    at_home = [usage for offer, usage in served(played) if offer.startswith("own")]
    engines = played.world.pools["own"].engines.values()
    assert sum(engine.prefilled_tokens for engine in engines) == sum(usage.input_tokens for usage in at_home)
    decoded = sum(usage.output_tokens for usage in at_home)
    assert sum(engine.decoded_tokens for engine in engines) == pytest.approx(decoded, rel=1e-3)
    assert all(engine.idle for engine in engines)


def as_bytes(played: Played) -> list[bytes]:
    tally = played.tally
    return [np.array(rows).tobytes() for rows in (tally.number, tally.ttft_s, tally.api_usd, tally.offer, tally.series)]


def test_a_run_repeats_itself_to_the_byte_however_the_requests_are_batched() -> None:
    settings = Settings(gateways=4, seed=1, outages={"dear/dear": ((5.0, 8.0),)})
    first = as_bytes(play(town(), "bid-price", settings))
    assert as_bytes(play(town(), "bid-price", settings)) == first
    assert as_bytes(play(town(), "bid-price", settings, batch_requests=7)) == first
    assert as_bytes(play(town(), "bid-price", Settings(gateways=4, seed=2))) != first


def test_an_engine_that_dies_loses_no_request() -> None:
    site = config(pools=[own("own", 2)], providers=apis(cheap=0.5))
    rng = np.random.default_rng(4)
    sizes = np.ceil(rng.lognormal(7.5, 0.8, 600)).astype(int), np.ceil(rng.exponential(60.0, 600)).astype(int)
    of = scenario(site, poisson(rng, 35.0, *sizes), ({"share": 3.0}, {"share": 1.0, "zones": ["home"]}))

    def lose(world: World, now_s: float) -> None:
        world.lose("own", next(iter(world.pools["own"].engines)), now_s)

    played = play(of, "bid-price", Settings(gateways=2, calls=((6.0, lose),)))
    assert len(played.world.pools["own"].engines) == 1
    assert played.tally.requests == 600
    failed = [
        o for j in played.journeys.values() for o in j.outcomes if o.status != "complete" and o.status != "bounced"
    ]
    assert failed
    # Whoever may leave is served elsewhere, unless its answer had begun; what may not leave has nowhere to go.
    unserved = [j for j in played.journeys.values() if j.outcomes[-1].status != "complete"]
    begun = [j for j in unserved if j.outcomes[-1].status == "interrupted"]
    assert begun
    rest = [journey for journey in unserved if journey not in begun]
    assert all(journey.request.zones == {"home"} and len(journey.outcomes) == 1 for journey in rest)
    assert len(unserved) < len(failed)
    assert played.tally.served == 600 - len(unserved)
    assert played.tally.violations == 0
