"""Queues with an answer in closed form: what a simulator has to reproduce. First come, first served, Poisson arrivals.

    M/M/c   P(wait) = C(c, a), a = λ/μ;   W | W > 0 ~ Exp(cμ - λ)         Erlang 1917; Kleinrock, Queueing Systems I, ch. 3
    M/G/1   E[W] = λ·E[S²] / (2·(1 - ρ))                                   Pollaczek-Khinchine; Kleinrock I, ch. 5

Rates are per second, times in seconds. ``wait`` is the time in the queue, before service. A load of 1 or more has no steady
state and raises ``ValueError``. Two recursions follow a given sequence of customers exactly, so that a simulator can be
compared customer by customer.
"""

from __future__ import annotations

import heapq
import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def erlang_b(servers: int, erlangs: float) -> float:
    """Share of customers lost by ``servers`` servers without a queue, at ``erlangs`` = λ/μ (recursion over servers)."""
    blocked = 1.0
    for server in range(1, servers + 1):
        blocked = erlangs * blocked / (server + erlangs * blocked)
    return blocked


def erlang_c(servers: int, erlangs: float) -> float:
    """Share of customers who have to wait for one of ``servers`` servers, at ``erlangs`` = λ/μ below ``servers``."""
    load = _load(erlangs / servers)
    blocked = erlang_b(servers, erlangs)
    return blocked / (1.0 - load * (1.0 - blocked))


def mmc_wait_s_mean(arrivals_per_s: float, services_per_s: float, servers: int) -> float:
    """Mean wait in M/M/c over all customers; ``services_per_s`` is the rate of one server."""
    return erlang_c(servers, arrivals_per_s / services_per_s) / (servers * services_per_s - arrivals_per_s)


def mmc_wait_above(wait_s: float, arrivals_per_s: float, services_per_s: float, servers: int) -> float:
    """Share of customers in M/M/c who wait longer than ``wait_s``."""
    spare_per_s = servers * services_per_s - arrivals_per_s
    return erlang_c(servers, arrivals_per_s / services_per_s) * math.exp(-spare_per_s * wait_s)


def mmc_wait_s_quantile(quantile: float, arrivals_per_s: float, services_per_s: float, servers: int) -> float:
    """The wait that a share ``quantile`` in [0, 1) of all customers does not exceed; zero up to 1 - P(wait)."""
    waiting = erlang_c(servers, arrivals_per_s / services_per_s)
    spare_per_s = servers * services_per_s - arrivals_per_s
    return max(0.0, math.log(waiting / (1.0 - quantile)) / spare_per_s)


def mm1_wait_s_mean(arrivals_per_s: float, services_per_s: float) -> float:
    """Mean wait in M/M/1: ρ / (μ - λ)."""
    return _load(arrivals_per_s / services_per_s) / (services_per_s - arrivals_per_s)


def mm1_sojourn_s_quantile(quantile: float, arrivals_per_s: float, services_per_s: float) -> float:
    """Wait and service together in M/M/1, which are Exp(μ - λ)."""
    _load(arrivals_per_s / services_per_s)
    return -math.log1p(-quantile) / (services_per_s - arrivals_per_s)


def mg1_wait_s_mean(arrivals_per_s: float, service_s_mean: float, service_s_variance: float) -> float:
    """Mean wait in M/G/1; a variance of zero gives M/D/1, half the wait of M/M/1."""
    load = _load(arrivals_per_s * service_s_mean)
    return arrivals_per_s * (service_s_variance + service_s_mean**2) / (2.0 * (1.0 - load))


def customers_waiting_mean(arrivals_per_s: float, wait_s_mean: float) -> float:
    """Mean length of any queue in steady state (Little 1961)."""
    return arrivals_per_s * wait_s_mean


def single_server_waits_s(arrived_s: Floats, service_s: Floats) -> Floats:
    """Wait of each customer, shape ``(customers,)``, at one server: Lindley's recursion as a running maximum.

    ``arrived_s`` ascends.
    """
    # W_n = U_n - min(U_0..U_n), where U gains each service and loses each gap.
    walk_s = np.concatenate(([0.0], np.cumsum(service_s[:-1] - np.diff(arrived_s))))
    waits_s: Floats = walk_s - np.minimum.accumulate(walk_s)
    return waits_s


def multi_server_waits_s(arrived_s: Floats, service_s: Floats, servers: int) -> Floats:
    """Wait of each customer, shape ``(customers,)``, at ``servers`` equal servers (Kiefer and Wolfowitz 1955).

    ``arrived_s`` ascends. Instead of the workloads it keeps the instants at which the servers fall free.
    """
    free_s = [-math.inf] * servers
    waits_s = np.empty(len(arrived_s))
    for i, (now_s, length_s) in enumerate(zip(arrived_s.tolist(), service_s.tolist(), strict=True)):
        start_s = max(now_s, free_s[0])
        heapq.heapreplace(free_s, start_s + length_s)
        waits_s[i] = start_s - now_s
    return waits_s


def _load(load: float) -> float:
    """The load, if a steady state exists."""
    if not 0.0 <= load < 1.0:
        raise ValueError(f"a load of {load:g} has no steady state")
    return load
