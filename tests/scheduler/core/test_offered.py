"""Demand that was heard as a sample counts for all that it stands for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.bids import Demand
from scheduler.core.worth import Offered

WEIGHTS = st.lists(st.integers(1, 9), min_size=1, max_size=60)


@given(WEIGHTS, st.sampled_from([2, 16, 256]))
def test_what_is_kept_stands_for_all_of_it_however_little_is_kept(weights: list[int], samples_max: int) -> None:
    offered = Offered(300.0, 0.0, 0.0, samples_max)
    for weight in weights:
        offered.add(Demand(0.01, 0.5, 5.0, float(weight)), is_burst=True)
    look = offered.look(10.0)
    assert look is not None
    assert look.load == pytest.approx(0.5 * sum(weights) / 10.0)
    assert look.burst.usd[-1] == pytest.approx(0.01 * sum(weights))


@given(WEIGHTS)
def test_one_line_of_some_weight_is_as_many_requests(weights: list[int]) -> None:
    lines, singly = Offered(300.0, 0.0, 0.0), Offered(300.0, 0.0, 0.0, 1000)
    for i, weight in enumerate(weights):
        demand = Demand(0.01 * (i + 1), 0.5)
        lines.add(demand._replace(weight=float(weight)), is_burst=False)
        for _ in range(weight):
            singly.add(demand, is_burst=False)
    one, other = lines.look(10.0), singly.look(10.0)
    assert one is not None and other is not None
    for work_s in (0.1, 1.0, 5.0):
        assert one.offered.at(work_s) == pytest.approx(other.offered.at(work_s))
