"""One assumption at a time: both ends, the largest swing first."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.planning.sensitivity import Consequence, Moved, tornado


def linear(name: str, low: float, high: float, slope: float) -> Moved:
    """Costs 10 USD per hour and ``slope`` for each unit; twice the value in GPUs."""
    return Moved(name, "USD", low, high, lambda value: Consequence(10.0 + slope * value, 2.0 * value))


def test_both_ends_are_asked_for_and_the_largest_swing_comes_first() -> None:
    found = tornado([linear("a", 0.0, 1.0, 1.0), linear("b", -1.0, 1.0, -3.0), linear("c", 2.0, 3.0, 2.0)])
    assert [one.assumption for one in found] == ["b", "c", "a"]
    assert (found[0].usd_per_hour_low, found[0].usd_per_hour_high) == (13.0, 7.0)
    assert (found[1].low, found[1].high, found[1].gpus_low, found[1].gpus_high) == (2.0, 3.0, 4.0, 6.0)
    assert [one.swing_usd_per_hour for one in found] == [6.0, 2.0, 1.0]


@given(st.lists(st.tuples(st.text(max_size=3), st.floats(-10, 10), st.floats(-5, 5)), max_size=8))
def test_every_assumption_is_there_in_falling_order_whatever_the_order_they_came_in(
    drawn: list[tuple[str, float, float]],
) -> None:
    moved = [linear(name, low, low + 1.0, slope) for name, low, slope in drawn]
    found = tornado(moved)
    assert sorted(one.assumption for one in found) == sorted(name for name, _, _ in drawn)
    swings = [one.swing_usd_per_hour for one in found]
    assert swings == sorted(swings, reverse=True)
    keys = [(one.swing_usd_per_hour, one.assumption) for one in tornado(reversed(moved))]
    assert keys == [(one.swing_usd_per_hour, one.assumption) for one in found]


def test_a_range_that_is_none_and_a_cost_that_is_none_are_errors() -> None:
    with pytest.raises(ValueError, match=r"price: 2\.0 to 1\.0 is no range"):
        tornado([linear("price", 2.0, 1.0, 1.0)])
    with pytest.raises(ValueError, match=r"price: nan to 1\.0 is no range"):
        tornado([linear("price", math.nan, 1.0, 1.0)])
    with pytest.raises(ValueError, match="price: costs of inf"):
        tornado([Moved("price", "", 0.0, 1.0, lambda value: Consequence(math.inf, 0.0))])
