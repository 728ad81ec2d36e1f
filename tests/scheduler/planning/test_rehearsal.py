"""What the commitment clock would rent, rehearsed on the fluid: it knows nothing of what is to come, and pays for starts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.fleet import CommitmentPolicy
from scheduler.planning.hourly import UnitMoney
from scheduler.planning.rehearsal import Rehearsed, rehearse
from scheduler.planning.surface import Surface

POLICY = CommitmentPolicy()
MONEY = UnitMoney(owned_usd_per_hour=1.0, rented_usd_per_hour=2.0)
API_USD_PER_HOUR = 40.0  # of a replica's work
BIN_S, EVERY_S, START_S = 600.0, 60.0, 180.0


def surface_with(load: list[float]) -> Surface:
    """All work alike, none of it bound to stay; bins of ten minutes."""
    levels = np.linspace(0.0, max(load) or 1.0, 41)
    saved = API_USD_PER_HOUR * np.minimum(levels, np.array(load)[:, None])
    edges_s = BIN_S * np.arange(len(load) + 1)
    nothing = np.zeros(len(load))
    return Surface(
        edges_s, levels, saved, 0.0 * saved, API_USD_PER_HOUR * np.array(load), np.array(load), nothing, nothing
    )


def rehearsed(load: list[float], owned: int, money: UnitMoney = MONEY) -> Rehearsed:
    return rehearse(surface_with(load), money, owned, POLICY, EVERY_S, START_S)


def test_nothing_is_rented_while_what_is_owned_is_enough() -> None:
    assert not rehearsed([4.0] * 12, owned=5).held.any()


def test_without_a_cloud_nothing_is_rented() -> None:
    assert not rehearsed([9.0] * 12, 1, replace(MONEY, rented_usd_per_hour=None)).held.any()


def test_a_shortage_is_filled_once_it_has_paid_for_a_replica_and_its_start() -> None:
    found = rehearsed([4.0] * 6 + [9.0] * 12, owned=5)
    begins = int(np.argmax(found.held > 0))
    assert found.at_s[begins] >= 6 * BIN_S  # not before it was seen
    assert found.at_s[begins] <= 6 * BIN_S + 600.0
    works = int(np.argmax(found.working > 0))
    assert found.at_s[works] - found.at_s[begins] == pytest.approx(START_S)
    assert 4 <= found.working[-1] <= 6  # nine are asked for, a tenth of each kept free


def test_what_is_no_longer_needed_goes_after_its_hold() -> None:
    found = rehearsed([9.0] * 6 + [2.0] * 12, owned=5)
    assert found.held[: int(6 * BIN_S / EVERY_S)].max() >= 4
    assert found.held[-1] == 0


def test_renting_costs_more_than_it_would_with_foresight_and_less_than_buying() -> None:
    load = ([3.0] * 12 + [8.0] * 6) * 4
    surface, found = surface_with(load), rehearsed(load, owned=4)
    everything = API_USD_PER_HOUR * float(np.mean(load))
    clock = found.rent_usd_per_hour(MONEY) + everything - found.saved_usd_per_hour(surface, MONEY, 4)
    foresight = 2.0 * float(np.mean(np.maximum(0.0, np.array(load) - 4.0)))
    bought = API_USD_PER_HOUR * float(np.mean(np.maximum(0.0, np.array(load) - 4.0)))
    assert foresight < clock < 0.5 * bought


def test_capacity_that_is_not_to_be_had_is_asked_for_again() -> None:
    load = [9.0] * 36
    plenty, scarce = rehearsed(load, 5), rehearsed(load, 5, replace(MONEY, rented_availability=0.5))
    assert scarce.held.sum() < plenty.held.sum()
    assert scarce.held.any()


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(0.0, 9.0), min_size=2, max_size=12), st.integers(0, 9), st.integers(1, 11))
def test_what_is_rented_depends_on_the_past_alone(load: list[float], owned: int, cut: int) -> None:
    cut = min(cut, len(load) - 1)
    # The same largest load, so that both may rent as many.
    other = [9.0, *load[:cut]], [9.0, *load]
    short, long = (rehearsed(one, owned) for one in other)
    assert (long.held[: len(short.held)] == short.held).all()
    assert (short.working <= short.held).all()


def test_means_are_of_the_steps_between() -> None:
    found = Rehearsed(
        np.array([0.0, 60.0, 120.0]), np.zeros(3, int), np.array([0.0, 2.0, 4.0]), np.full(3, 4.0), np.ones(3)
    )
    assert found.between(60.0, 180.0) == 3.0
    assert found.between(61.0, 70.0) == 2.0  # no step begins in it: the nearest one


def test_means_by_weight_are_those_of_the_bins() -> None:
    load = [4.0] * 6 + [9.0] * 6
    surface, found = surface_with(load), rehearsed(load, owned=5)
    even = np.full(12, 1 / 12)
    assert found.rent_usd_per_hour(MONEY, even) == pytest.approx(found.rent_usd_per_hour(MONEY))
    assert found.saved_usd_per_hour(surface, MONEY, 5, even) == pytest.approx(
        found.saved_usd_per_hour(surface, MONEY, 5)
    )
    first = np.repeat([1 / 6, 0.0], 6)
    assert found.rent_usd_per_hour(MONEY, first) == 0.0
    assert found.saved_usd_per_hour(surface, MONEY, 5, first) == pytest.approx(4.0 * API_USD_PER_HOUR)


def test_what_must_stay_and_finds_no_room_counts_as_short() -> None:
    surface = replace(surface_with([4.0] * 12), must=np.full(12, 3.0))
    nothing = rehearse(surface, replace(MONEY, rented_usd_per_hour=None), 1, POLICY, EVERY_S, START_S)
    assert nothing.short_usd_per_hour(surface, MONEY, 1) == pytest.approx(2.0 * MONEY.short_usd_per_hour)
    assert nothing.short_usd_per_hour(surface, MONEY, 3) == 0.0


def test_a_long_trace_is_looked_at_twenty_thousand_times_at_most() -> None:
    days = 60
    surface = replace(surface_with([9.0] * 600), edges_s=np.linspace(0.0, days * 86_400.0, 601))
    found = rehearse(surface, MONEY, 5, POLICY, 1.0, START_S)
    assert len(found.at_s) <= 20_001
    assert found.held[-1] >= 4
