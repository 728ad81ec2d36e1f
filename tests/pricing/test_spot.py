"""The effective price of rented capacity, against a simulation of it, and what a price history says of interruptions."""

from __future__ import annotations

import csv
import doctest
import gzip
import math
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing import spot
from pricing.spot import effective_usd_per_hour, interruption_statistics
from scheduler.config.prices import Rental

PRICES = Path(__file__).resolve().parents[3] / "shared" / "data" / "prices"
# On-demand price of p3.2xlarge in us-east-1 (AWS price list of 2019): the ceiling of its spot price there.
P3_2XLARGE_USD = 3.06


def rental(
    availability: float = 1.0, restart_share: float = 0.0, interruptions_per_hour: float = 0.0, usd_lost: float = 0.0
) -> Rental:
    return Rental(
        usd_per_hour=0.0,
        availability=availability,
        restart_share=restart_share,
        interruptions_per_hour=interruptions_per_hour,
        usd_lost_per_interruption=usd_lost,
    )


money = st.floats(0, 1e4, allow_subnormal=False)
arguments = st.tuples(money, st.floats(0.01, 1), st.floats(0, 0.99), st.floats(0, 50), money)


def effective(usd: float, availability: float, restart_share: float, rate: float, usd_lost: float) -> float:
    return effective_usd_per_hour(usd, rental(availability, restart_share, rate, usd_lost))


def test_the_worked_examples_hold() -> None:
    found = doctest.testmod(spot)
    assert found.attempted >= 4
    assert found.failed == 0


@given(money)
def test_ideal_capacity_costs_what_it_is_listed_at(usd: float) -> None:
    assert effective_usd_per_hour(usd, rental()) == usd


@given(arguments)
def test_the_effective_price_is_never_below_the_listed_one(given_: tuple[float, ...]) -> None:
    assert effective(*given_) >= given_[0]


@given(arguments, arguments)
def test_the_effective_price_rises_with_every_argument_and_falls_with_availability(
    one: tuple[float, ...], other: tuple[float, ...]
) -> None:
    for i in range(5):
        low, high = sorted((one[i], other[i]))
        with_low, with_high = (effective(*one[:i], value, *one[i + 1 :]) for value in (low, high))
        assert (with_low >= with_high) if i == 1 else (with_low <= with_high)


@pytest.mark.parametrize("usd", [-0.01, math.nan, math.inf])
def test_what_is_no_price_has_no_effective_price(usd: float) -> None:
    with pytest.raises(ValueError, match="no price"):
        effective_usd_per_hour(usd, rental())


@pytest.mark.parametrize(("share", "restart", "rate", "lost"), [(0.7, 0.1, 0.2, 3.0), (0.95, 0.02, 1.5, 0.4)])
def test_a_simulated_fleet_pays_the_effective_price(share: float, restart: float, rate: float, lost: float) -> None:
    """Minute by minute: paid for throughout, capacity there or not, starting or useful, interrupted while useful."""
    random, minutes, usd = np.random.default_rng(20), 4_000_000, 2.5
    there = random.random(minutes) < share
    useful = there & (random.random(minutes) >= restart)
    interrupted = useful & (random.random(minutes) < rate / 60)
    useful_hours = useful.sum() / 60
    paid = minutes / 60 * usd + interrupted.sum() * lost
    assert paid / useful_hours == pytest.approx(effective(usd, share, restart, rate, lost), rel=0.01)


histories = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 6)), min_size=1, unique_by=lambda step: step[0])


def sampled(history: list[tuple[int, int]], bid: float, until_s: int, start_up_s: int) -> tuple[int, int, int]:
    """Second by second: seconds held, interruptions, seconds spent starting."""
    price_at, holding, held, interruptions, starting, left = dict(history), False, 0, 0, 0, 0
    price = 0
    for second in range(min(price_at), until_s):
        price = price_at.get(second, price)
        if price <= bid:
            left = left if holding else start_up_s
            held, starting, left = held + 1, starting + (left > 0), max(0, left - 1)
        elif holding:
            interruptions += 1
        holding = price <= bid
    return held, interruptions, starting


@given(histories, st.integers(0, 7), st.integers(301, 400), st.integers(0, 40))
def test_statistics_agree_with_walking_the_history_second_by_second(
    history: list[tuple[int, int]], bid: int, until_s: int, start_up_s: int
) -> None:
    found = interruption_statistics(history, bid, until_s, start_up_s)
    held, interruptions, starting = sampled(history, bid, until_s, start_up_s)
    assert found.hours_held * 3600 == pytest.approx(held)
    assert found.interruptions == interruptions
    if held:
        assert found.restart_share == pytest.approx(starting / held)
        assert found.interruptions_per_hour == pytest.approx(interruptions / held * 3600)
        assert found.usd_per_hour_mean is not None and found.usd_per_hour_mean <= bid + 1e-9
    else:
        assert (found.restart_share, found.interruptions_per_hour, found.usd_per_hour_mean) == (None, None, None)


@given(histories, st.integers(0, 7), st.integers(0, 7))
def test_a_higher_bid_is_never_less_available(history: list[tuple[int, int]], one: int, other: int) -> None:
    low, high = (interruption_statistics(history, bid, 400) for bid in sorted((one, other)))
    assert low.availability <= high.availability <= 1.0


@given(histories, st.integers(0, 7), st.floats(0.1, 0.9))
def test_a_change_to_the_same_price_changes_nothing(history: list[tuple[int, int]], bid: int, share: float) -> None:
    first_s, usd = min(history)
    following_s = sorted([*(start_s for start_s, _ in history), 400])[1]
    repeated = [*history, (first_s + share * (following_s - first_s), usd)]
    assert interruption_statistics(repeated, bid, 400)._asdict() == pytest.approx(
        interruption_statistics(history, bid, 400)._asdict()
    )


def test_what_comes_after_the_end_of_the_span_does_not_count() -> None:
    found = interruption_statistics([(0, 1.0), (3600, 1.0), (7200, 9.0)], 2.0, 7200)
    assert (found.hours, found.interruptions, found.availability) == (2.0, 0, 1.0)


@pytest.mark.parametrize("changes", [[], [(10.0, 1.0)], [(0.0, math.nan)], [(math.inf, 1.0)]])
def test_a_history_without_a_span_or_with_a_price_that_is_none_is_refused(changes: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError):
        interruption_statistics(changes, 1.0, 10.0)


def rows(name: str) -> Iterator[dict[str, str]]:
    with gzip.open(PRICES / name, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


@pytest.mark.evaluate
def test_aws_spot_of_2019_held_below_on_demand_and_was_lost_at_low_bids() -> None:
    """Six weeks of p3.2xlarge in us-east-1 (V100), zone by zone."""
    zones: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows("aws_gpu_spot_2019_2020.csv.gz"):
        if row["instance"] == "p3.2xlarge" and row["zone"].startswith("us-east-1"):
            zones[row["zone"]].append((datetime.fromisoformat(row["timestamp"]).timestamp(), float(row["spot_usd_h"])))
    until_s = max(start_s for changes in zones.values() for start_s, _ in changes) + 1
    assert len(zones) >= 4
    for changes in zones.values():
        at_ceiling = interruption_statistics(changes, P3_2XLARGE_USD, until_s, start_up_s=300)
        assert (at_ceiling.availability, at_ceiling.interruptions) == (1.0, 0)
        assert at_ceiling.usd_per_hour_mean is not None
        assert 0.25 <= at_ceiling.usd_per_hour_mean / P3_2XLARGE_USD <= 1.0
        tight = interruption_statistics(changes, at_ceiling.usd_per_hour_mean, until_s, start_up_s=300)
        assert 0.1 < tight.availability < 0.95
        assert tight.interruptions >= 1
        assert tight.interruptions_per_hour is not None and tight.restart_share is not None
        assert 1 / 600 < tight.interruptions_per_hour < 2
        priced = rental(tight.availability, tight.restart_share, tight.interruptions_per_hour, usd_lost=0.5)
        assert tight.usd_per_hour_mean is not None
        effective_usd = effective_usd_per_hour(tight.usd_per_hour_mean, priced)
        # A bid at the mean looks a little cheaper than the ceiling's mean, and is dearer once what it loses is counted.
        assert tight.usd_per_hour_mean < at_ceiling.usd_per_hour_mean < effective_usd


@pytest.mark.evaluate
def test_gcp_spot_costs_a_fraction_of_on_demand_and_its_published_price_says_nothing_of_interruptions() -> None:
    """Prices set by the provider, not by bids: one at on-demand always holds."""
    histories: dict[tuple[str, str], list[tuple[float, float, float]]] = defaultdict(list)
    for row in rows("gcp_gpu_price_changes.csv.gz"):
        if row["spot_usd_h"] and row["on_demand_usd_h"]:
            start_s = datetime.fromisoformat(row["snapshot_date"] + "T00:00:00+00:00").timestamp()
            key = row["instance"], row["region"]
            histories[key].append((start_s, float(row["spot_usd_h"]), float(row["on_demand_usd_h"])))
    ratios = []
    for changes in histories.values():
        on_demand = max(usd for _, _, usd in changes)
        until_s = max(start_s for start_s, _, _ in changes) + 30 * 86400
        found = interruption_statistics([change[:2] for change in changes], on_demand, until_s)
        assert (found.availability, found.interruptions_per_hour) == (1.0, 0.0)
        assert found.usd_per_hour_mean is not None
        ratios.append(found.usd_per_hour_mean / on_demand)
    assert len(ratios) > 50
    assert 0.2 < median(ratios) < 0.6
