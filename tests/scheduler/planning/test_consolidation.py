"""A second type of GPU for a few requests: it stays where it pays, and goes where a whole replica of it is too many."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from scheduler.planning.consolidation import consolidated
from scheduler.planning.model import Model, model_of
from scheduler.planning.sizes import BUCKETS, bucket_of
from tests.support.planning_sites import SMALL_GPU, fleet, priced, scenario


@cache
def model(usd_per_hour: float, share: float) -> Model:
    """Of the 8B model's sizes of requests this share, the smallest ones, is on the small GPU."""
    rental: dict[str, Any] = {"gpu": "L40S", "usd_per_hour": 5.0}
    config = fleet({**SMALL_GPU, "rental": rental, "reserved_usd_per_hour": usd_per_hour}, scenarios=4)
    made = scenario(config)
    requests = priced(config, made)
    own = next(pool for pool in requests.pools if pool.pool == "llama-8b")
    small = [technology.name for technology in own.technologies].index("small-gpu")
    sizes = np.unique(bucket_of(own.input_tokens))
    until = int(np.append(sizes, BUCKETS)[round(share * len(sizes))])
    placement = {(int(p), b): small if b < until else 0 for p in set(own.profile.tolist()) for b in range(BUCKETS)}
    return model_of(config.planning, requests, {"llama-8b": placement}, 0)


def test_a_replica_for_the_rest_of_the_requests_goes_where_others_have_room() -> None:
    before = model(3.0, 0.3)
    assert "small-gpu" in {unit.name for unit in before.units}
    after, choice = consolidated(before, before.best())
    assert "small-gpu" not in {unit.name for unit in after.units}
    assert choice.objective < before.best().objective
    assert choice.objective == after.best().objective
    assert sum(len(unit.at_s) for unit in after.units) == sum(len(unit.at_s) for unit in before.units)


def test_a_type_that_pays_stays() -> None:
    before = model(0.001, 1.0)
    after, choice = consolidated(before, before.best())
    assert after is before
    assert choice.objective == before.best().objective


def test_one_type_alone_stays_what_it_is() -> None:
    before = model(3.0, 0.0)
    after, _ = consolidated(before, before.best())
    assert after is before
