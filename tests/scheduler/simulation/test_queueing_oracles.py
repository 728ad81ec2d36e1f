"""The closed forms for queues agree with published tables, with exact sums, and with queues that are played through."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.queueing_oracles import (
    customers_waiting_mean,
    erlang_b,
    erlang_c,
    mg1_wait_s_mean,
    mm1_sojourn_s_quantile,
    mm1_wait_s_mean,
    mmc_wait_above,
    mmc_wait_s_mean,
    mmc_wait_s_quantile,
    multi_server_waits_s,
    single_server_waits_s,
)

CUSTOMERS = 200_000
SERVERS = st.integers(1, 60)
LOADS = st.floats(0.01, 0.99)


def arrivals_s(rng: np.random.Generator, per_s: float) -> np.ndarray:
    return np.cumsum(rng.exponential(1.0 / per_s, CUSTOMERS))


@pytest.mark.parametrize(("servers", "erlangs"), [(1, 0.0101), (5, 1.361), (10, 4.461), (20, 12.03), (100, 84.06)])
def test_one_percent_is_lost_at_the_loads_of_the_published_erlang_b_tables(servers: int, erlangs: float) -> None:
    assert erlang_b(servers, erlangs) == pytest.approx(0.01, rel=2e-3)


def test_the_usual_example_of_a_call_centre_has_24_percent_waiting_and_8_seconds_on_average() -> None:
    # 360 calls in half an hour of 240 s each, 55 agents: the example that calculators of Erlang C are checked with.
    per_s, agent_per_s = 0.2, 1.0 / 240.0
    assert erlang_c(55, 48.0) == pytest.approx(0.2387, abs=5e-5)
    assert mmc_wait_s_mean(per_s, agent_per_s, 55) == pytest.approx(8.184, abs=5e-4)
    assert 1.0 - mmc_wait_above(20.0, per_s, agent_per_s, 55) == pytest.approx(0.8668, abs=5e-5)


@given(SERVERS, LOADS)
def test_erlang_c_is_the_sum_it_stands_for(servers: int, load: float) -> None:
    offered = Fraction(load) * servers
    terms = [offered**k / math.factorial(k) for k in range(servers)]
    last = offered**servers / math.factorial(servers) / (1 - offered / servers)
    assert erlang_c(servers, load * servers) == pytest.approx(float(last / (sum(terms) + last)), rel=1e-9)


@given(LOADS, st.floats(0.01, 100.0))
def test_one_server_is_the_same_queue_by_every_formula(load: float, services_per_s: float) -> None:
    per_s = load * services_per_s
    wait_s = mm1_wait_s_mean(per_s, services_per_s)
    assert erlang_c(1, load) == pytest.approx(load)
    assert mmc_wait_s_mean(per_s, services_per_s, 1) == pytest.approx(wait_s)
    assert mg1_wait_s_mean(per_s, 1.0 / services_per_s, services_per_s**-2) == pytest.approx(wait_s)
    assert mg1_wait_s_mean(per_s, 1.0 / services_per_s, 0.0) == pytest.approx(wait_s / 2.0)
    # λ·W = ρ²/(1 - ρ)
    assert customers_waiting_mean(per_s, wait_s) == pytest.approx(load**2 / (1.0 - load))


@given(SERVERS, LOADS, st.floats(0.0, 0.999))
def test_a_quantile_is_the_wait_that_the_rest_exceeds(servers: int, load: float, quantile: float) -> None:
    wait_s = mmc_wait_s_quantile(quantile, load * servers, 1.0, servers)
    if wait_s > 0.0:
        assert mmc_wait_above(wait_s, load * servers, 1.0, servers) == pytest.approx(1.0 - quantile)
    else:
        assert quantile <= 1.0 - erlang_c(servers, load * servers) + 1e-12


@pytest.mark.parametrize("load", [1.0, 1.5, -0.1, float("nan")])
def test_a_queue_without_a_steady_state_has_no_mean(load: float) -> None:
    for asked in (
        lambda: mm1_wait_s_mean(load, 1.0),
        lambda: mmc_wait_s_mean(3.0 * load, 1.0, 3),
        lambda: mmc_wait_s_quantile(0.9, 3.0 * load, 1.0, 3),
        lambda: mg1_wait_s_mean(load, 1.0, 0.0),
        lambda: mm1_sojourn_s_quantile(0.9, load, 1.0),
    ):
        with pytest.raises(ValueError, match="no steady state"):
            asked()


@pytest.mark.parametrize(("servers", "load"), [(1, 0.6), (3, 0.7), (20, 0.85)])
def test_a_simulated_multi_server_queue_waits_as_erlang_says(servers: int, load: float) -> None:
    rng = np.random.default_rng(7)
    per_s = load * servers
    waits_s = multi_server_waits_s(arrivals_s(rng, per_s), rng.exponential(1.0, CUSTOMERS), servers)
    assert waits_s.mean() == pytest.approx(mmc_wait_s_mean(per_s, 1.0, servers), rel=0.05)
    assert (waits_s > 0.0).mean() == pytest.approx(erlang_c(servers, per_s), rel=0.03)
    for quantile in (0.9, 0.99):
        wait_s = mmc_wait_s_quantile(quantile, per_s, 1.0, servers)
        assert np.quantile(waits_s, quantile) == pytest.approx(wait_s, rel=0.08)


@pytest.mark.parametrize("shape", [0.5, 4.0, math.inf])
def test_a_simulated_queue_with_any_service_waits_as_pollaczek_and_khinchine_say(shape: float) -> None:
    # Gamma services of mean 1 and variance 1/shape; without a variance the service is always 1.
    rng = np.random.default_rng(8)
    service_s = np.ones(CUSTOMERS) if shape == math.inf else rng.gamma(shape, 1.0 / shape, CUSTOMERS)
    waits_s = single_server_waits_s(arrivals_s(rng, 0.7), service_s)
    assert waits_s.mean() == pytest.approx(mg1_wait_s_mean(0.7, 1.0, 1.0 / shape), rel=0.05)


def test_wait_and_service_at_one_server_are_exponential_together() -> None:
    rng = np.random.default_rng(9)
    service_s = rng.exponential(1.0, CUSTOMERS)
    sojourn_s = single_server_waits_s(arrivals_s(rng, 0.6), service_s) + service_s
    for quantile in (0.5, 0.99):
        assert np.quantile(sojourn_s, quantile) == pytest.approx(mm1_sojourn_s_quantile(quantile, 0.6, 1.0), rel=0.05)


@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 5.0)), min_size=1, max_size=40))
def test_both_recursions_are_one_queue_where_there_is_one_server(customers: list[tuple[float, float]]) -> None:
    gaps_s, service_s = np.array(customers).T
    arrived_s = np.cumsum(gaps_s)
    one, many = single_server_waits_s(arrived_s, service_s), multi_server_waits_s(arrived_s, service_s, 1)
    np.testing.assert_allclose(one, many, atol=1e-9)


def test_three_customers_at_two_servers_by_hand() -> None:
    # The third finds both busy until 3 and 5, and starts at 3.
    waits_s = multi_server_waits_s(np.array([0.0, 1.0, 2.0]), np.array([3.0, 4.0, 1.0]), 2)
    assert waits_s.tolist() == [0.0, 0.0, 1.0]
