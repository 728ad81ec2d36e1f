"""A scenario: how many copies of a trace make a load, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from scheduler.core.market import Policy
from scheduler.simulation.mix import default_mix, resolve
from scheduler.simulation.scenario import Scenario, scenario_of
from scheduler.simulation.traces import trace_of
from tests.support.small_worlds import H100, apis, config, own

INPUTS, OUTPUTS, EVERY_S = np.array([1000, 4000, 200, 9000]), np.array([100, 1, 700, 30]), 2.0
RENTAL = {"gpu": "h", "usd_per_hour": 2.0}


def scenario(load_factor: float, *pools: dict[str, object]) -> Scenario:
    """Four requests, one every two seconds, for pools of one model and an API."""
    site = config(pools=list(pools), providers=apis(thrifty=1.0))
    trace = trace_of("four", EVERY_S * np.arange(4), INPUTS, OUTPUTS)
    mix = default_mix(site)
    return scenario_of(site, resolve(mix, site), mix.assign_by, trace, load_factor, Policy())


def bounded(least: int, most: int, name: str = "own", **fields: object) -> dict[str, object]:
    """A pool that always has ``least`` replicas and may have ``most``."""
    return own(name, **fields) | {"replicas": {"min": least, "max": most}}


def cloud(least: int, most: int) -> dict[str, object]:
    """The same beside it, rented."""
    return bounded(least, most, "cloud", hardware=None, rental=RENTAL)


@pytest.mark.parametrize(
    ("pools", "replicas"),
    [
        ((own(replicas=2),), 2),
        ((own(replicas=2), cloud(0, 5)), 2),
        ((own(replicas=2), cloud(1, 5)), 7),
        ((bounded(1, 3), cloud(0, 5)), 3),
    ],
)
def test_copies_make_the_load_asked_for_of_the_pools_that_are_never_empty(
    pools: tuple[dict[str, object], ...], replicas: int
) -> None:
    work_s = (INPUTS / H100["prefill_tokens_per_s"] + (OUTPUTS - 1) * H100["itl_per_seq_s"]).sum()
    found = scenario(1.5, *pools)
    assert found.copies * work_s / (4 * EVERY_S) == pytest.approx(1.5 * replicas)


def test_a_pool_that_may_be_empty_is_played_all_the_same() -> None:
    found = scenario(1.0, own(replicas=2), cloud(0, 5))
    assert found.site.capacity == {"own": 2.0, "cloud": 5.0}
