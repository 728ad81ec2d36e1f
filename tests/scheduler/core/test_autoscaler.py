"""``hpa`` is the HorizontalPodAutoscaler of the public documentation: its formula, its tolerance, its patience."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.autoscaler import HpaMemory, HpaPool, hpa

NONE = HpaMemory()


def desired(pool: HpaPool, target: float = 0.5, memory: HpaMemory = NONE, now_s: float = 0.0) -> int:
    return hpa({"p": pool}, target, now_s, memory)[0]["p"]


@pytest.mark.parametrize(
    ("replicas", "utilization", "target", "found"),
    [
        (50, 0.90, 0.75, 60),  # the example of the announcement of configurable tolerance (kubernetes.io, 2025)
        (1, 0.200, 0.100, 2),  # 200m where 100m is wanted: twice as many
        (4, 0.50, 1.00, 2),  # 50m where 100m is wanted: half as many, once it has lasted
        (10, 0.54, 0.50, 10),  # within a tenth: nothing
        (10, 0.46, 0.50, 10),
        (10, 0.56, 0.50, 12),
    ],
)
def test_replicas_times_the_ratio_rounded_up(replicas: int, utilization: float, target: float, found: int) -> None:
    pool, memory = HpaPool(replicas, replicas, utilization, 1, 100), NONE
    for tick in range(22):
        now, memory = hpa({"p": pool}, target, 15.0 * tick, memory)
    assert now["p"] == found


def test_going_down_waits_until_nothing_higher_was_recommended_for_five_minutes() -> None:
    memory, busy, quiet = NONE, HpaPool(8, 8, 0.5, 1, 20), HpaPool(8, 8, 0.1, 1, 20)
    found = []
    for tick in range(40):
        now, memory = hpa({"p": busy if tick == 5 else quiet}, 0.5, 15.0 * tick, memory)
        found.append(now["p"])
    assert found.index(2) == 5 + 20
    assert found[:25] == [8] * 25


def test_going_up_is_at_once_but_at_most_double_or_four_more_in_a_period() -> None:
    assert desired(HpaPool(1, 1, 9.0, 1, 100)) == 5
    assert desired(HpaPool(10, 10, 5.0, 1, 100)) == 20
    assert desired(HpaPool(10, 10, 5.0, 1, 12)) == 12


def test_replicas_that_are_starting_count_as_idle_on_the_way_up_and_never_turn_the_direction() -> None:
    # 4 ready at 0.8: alone they would ask for 7; with 4 idle ones the mean is 0.4, so nothing changes.
    assert desired(HpaPool(8, 4, 0.8, 1, 20)) == 8
    assert desired(HpaPool(6, 4, 1.0, 1, 20)) == 8
    assert desired(HpaPool(3, 0, 0.0, 1, 20)) == 3


@given(
    st.integers(0, 40),
    st.floats(0.0, 1.0),
    st.floats(0.0, 5.0),
    st.integers(1, 10),
    st.integers(0, 30),
    st.floats(0.05, 1.0),
)
def test_it_never_asks_for_more_or_less_than_it_may(
    replicas: int, share: float, utilization: float, least: int, more: int, target: float
) -> None:
    pool = HpaPool(replicas, round(share * replicas), utilization, least, least + more)
    assert least <= desired(pool, target) <= least + more


def test_a_target_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="target"):
        desired(HpaPool(1, 1, 0.5, 1, 2), 0.0)
