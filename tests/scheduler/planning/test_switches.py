"""Own replicas or an API: the crossing against a scan over traffic, prices against those of ``pricing``, and the advice."""

from __future__ import annotations

import doctest
import math

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pricing import bases
from pricing.bases import EnergyInUse
from scheduler.core.supply import Rate, ServiceCurve, Tier, Usage
from scheduler.planning import switches
from scheduler.planning.switches import Away, Home, away_of, crossing, home_of, make_or_buy, make_usd_per_day, switch

CURVE = ServiceCurve(prefill_tokens_per_s=10_000.0, itl_base_s=0.01, itl_per_seq_s=0.0002, seqs_max=64)
ENERGY = EnergyInUse(0.01, 0.3, 500.0, "modelled", 0.0)
USAGE = Usage(1_500, 0, 500)
HOMES = st.builds(Home, st.just("own"), st.floats(0.1, 20.0), st.floats(0.1, 50.0), st.floats(0.0, 1.0))
PRICES = st.floats(0.05, 10.0)


def cheaper(home: Home, away: Away, mtok_per_day: float) -> bool:
    """Whether a day at home costs no more, to rounding."""
    buy_usd = away.usd_per_mtok * mtok_per_day
    return make_usd_per_day(home, mtok_per_day)[1] <= buy_usd * (1.0 + 1e-9)


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(switches).attempted >= 2
    assert doctest.testmod(switches).failed == 0


@given(HOMES, PRICES, st.floats(0.01, 400.0))
def test_no_traffic_below_the_crossing_and_every_traffic_above_the_second_is_cheaper_at_home(
    home: Home, price: float, replicas: float
) -> None:
    away = Away("api", price)
    at = crossing(home, away)
    mtok = replicas * 24.0 * home.mtok_per_hour
    if at is None:
        assert not cheaper(home, away, mtok * (1.0 - 1e-6)) or mtok == 0.0
        return
    assert cheaper(home, away, at.first_mtok_per_day)
    if mtok < at.first_mtok_per_day * (1.0 - 1e-6):
        assert not cheaper(home, away, mtok)
    if at.always_mtok_per_day is not None and mtok > at.always_mtok_per_day * (1.0 + 1e-6):
        assert cheaper(home, away, mtok)


@given(HOMES, PRICES)
@example(Home("own", 1.0, 1.0, 2.0**-24), 2.0)
def test_just_below_the_second_crossing_own_replicas_are_dearer_and_after_no_later_step(
    home: Home, price: float
) -> None:
    away = Away("api", price)
    at = crossing(home, away)
    assume(at is not None and at.always_mtok_per_day is not None)
    assert at is not None
    assert at.always_mtok_per_day is not None
    assume(at.always_mtok_per_day / home.mtok_per_hour < 24e4)
    assert at.always_mtok_per_day >= at.first_mtok_per_day
    full = 24.0 * home.mtok_per_hour
    # Below, and above what fills one replica less: there fewer are enough.
    filled = math.floor(at.always_mtok_per_day / full * (1.0 - 1e-12)) * full
    just_below = max(at.always_mtok_per_day * (1.0 - 1e-5), 0.5 * (filled + at.always_mtok_per_day))
    assert not cheaper(home, away, just_below)
    for replicas in range(math.ceil(at.always_mtok_per_day / full - 1e-9), 24):
        assert cheaper(home, away, replicas * full * (1.0 + 1e-7))


@given(HOMES, PRICES)
def test_the_crossing_is_at_the_utilization_where_a_token_costs_what_the_api_asks(home: Home, price: float) -> None:
    even = bases.break_even_utilization(home.usd_per_hour, home.mtok_per_hour, price, home.energy_usd_per_mtok)
    assume(even is None or abs(even - 1.0) > 1e-6)
    at = crossing(home, Away("api", price))
    assert (at is not None) == (even is not None and even < 1.0)
    if at is not None and even is not None:
        assert at.first_mtok_per_day == pytest.approx(even * 24.0 * home.mtok_per_hour)


def test_a_second_replica_loses_until_the_full_ones_carry_it() -> None:
    # A replica: 24 USD and 48 Mtok a day; the margin is 0.75 USD, so that a full one earns 36 and pays from 32 Mtok on.
    home, away = Home("own", 1.0, 2.0, 0.1), Away("api", 0.85)
    assert crossing(home, away) == (32.0, 64.0)
    assert [cheaper(home, away, mtok) for mtok in (31.9, 32.0, 48.0, 48.1, 63.9, 64.1, 96.1, 500.0)] == [
        False, True, True, False, False, True, True, True,
    ]  # fmt: skip
    # Full replicas that earn just what they cost never carry another.
    assert crossing(Home("own", 1.5, 2.0, 0.1), away) == (pytest.approx(48.0), None)
    assert crossing(Home("own", 1.6, 2.0, 0.1), away) is None
    assert crossing(Home("own", 0.0, 2.0, 0.9), away) is None


def test_a_home_is_priced_like_the_bases_price_it() -> None:
    home = home_of("m", CURVE, ENERGY, USAGE, 2.0, 1e-7, usable=0.8)
    mix = bases.mix_of(CURVE, ENERGY, USAGE)
    assert home.mtok_per_hour == pytest.approx(0.8 * mix.mtok_per_hour)
    assert home.energy_usd_per_mtok == pytest.approx((1_500 * 0.01 + 500 * 0.3) * 1e-7 / 2_000 * 1e6)
    # Compute binds: 150 ms of prefill and 500 times 0.2 ms, more than a 64th of the 11.55 s that a slot is held.
    assert mix.mtok_per_hour == pytest.approx(2_000 * 3_600 / 0.25 / 1e6)
    with pytest.raises(ValueError, match="no token"):
        home_of("m", CURVE, ENERGY, Usage(10, 10, 0), 2.0, 1e-7)


def test_an_api_is_priced_by_whole_requests_with_their_tier() -> None:
    rate = Rate(1e-6, 1e-7, 4e-6, usd_per_request=0.001, tiers=(Tier(1_000, 2e-6, 2e-7, 8e-6),))
    assert away_of("a", rate, Usage(500, 0, 500)).usd_per_mtok == pytest.approx((0.001 + 0.0005 + 0.002) / 1_000 * 1e6)
    assert away_of("a", rate, USAGE).usd_per_mtok == pytest.approx((0.001 + 0.003 + 0.004) / 2_000 * 1e6)
    with pytest.raises(ValueError, match="without tokens"):
        away_of("a", rate, Usage(0, 0, 0))


HOME, AWAY = Home("own", 1.0, 2.0, 0.1), Away("api", 0.85)


def test_a_switch_shows_both_prices_at_the_planned_utilization() -> None:
    found = switch("chat", "own", HOME, AWAY, 60.0, 0.8)
    assert found.here_usd_per_mtok == pytest.approx(1.0 / 1.6 + 0.1)
    assert (found.there_usd_per_mtok, found.crossing_mtok_per_day, found.mtok_per_day) == (0.85, 32.0, 60.0)
    assert (found.profile, found.model_here, found.model_there) == ("chat", "own", "api")
    assert found.advice == "stay: 15% cheaper than api"


@pytest.mark.parametrize(
    ("home", "away", "mtok_per_day", "utilization", "advice"),
    [
        (HOME, None, 1.0, 0.5, "stay: nothing else may serve it"),
        (None, AWAY, 1.0, 0.0, "buy api: nothing here serves it"),
        (None, None, 1.0, 0.0, "nothing may serve it"),
        (Home("own", 1.0, 2.0, 0.9), AWAY, 1.0, 0.5, "buy api: energy alone costs as much here"),
        (Home("own", 9.0, 2.0, 0.1), AWAY, 1.0, 0.5, "buy api: cheaper than even a full replica"),
        (
            HOME,
            AWAY,
            20.0,
            0.0,
            "buy api, as planned; own pays from 32 Mtok a day, with an API for what would not fill",
        ),
        (HOME, AWAY, 33.0, 0.6667, "either: within 5% of each other; own pays from 32 Mtok"),
        (HOME, AWAY, 40.0, 0.3, "stay with fewer replicas: 108% dearer than api as full as they are"),
        (HOME, AWAY, 10.0, 0.2, "buy api: 67% cheaper; own pays from 32 Mtok a day"),
        (Home("own", 0.1, 2.0, 0.1), AWAY, 1.0, 0.01, "buy api: 83% cheaper; own pays from 3.2 Mtok a day"),
    ],
)
def test_the_advice_follows_from_the_figures(
    home: Home | None, away: Away | None, mtok_per_day: float, utilization: float, advice: str
) -> None:
    assert switch("p", "own", home, away, mtok_per_day, utilization).advice.startswith(advice)


def test_a_workload_is_made_where_that_is_cheaper_and_bought_where_not() -> None:
    made = make_or_buy(60.0, [HOME, Home("large", 2.5, 5.0, 0.1)], [AWAY, Away("dear", 2.0)])
    # Two small ones cost 48 and a large one 60, beside 6 of energy; bought it is 51.
    assert (made.choice, made.replicas, made.home) == ("api", 0, "own")
    assert (made.make_usd_per_day, made.buy_usd_per_day) == (pytest.approx(54.0), pytest.approx(51.0))
    assert made.advice.startswith("buy it: 54.00 USD a day at home, 51.00 at api; own pays from 32 Mtok")
    made = make_or_buy(48.0, [HOME], [AWAY])
    assert (made.choice, made.replicas, made.utilization) == ("own", 1, pytest.approx(1.0))
    assert made.crossing == (32.0, 64.0)


def test_a_peak_needs_replicas_that_the_mean_does_not_fill() -> None:
    made = make_or_buy(40.0, [HOME], [AWAY], peak_to_mean=2.0)
    assert (made.choice, made.make_usd_per_day) == ("api", pytest.approx(52.0))
    assert made.utilization == pytest.approx(40.0 / 96.0)
    assert made.crossing is None
    assert make_usd_per_day(HOME, 40.0, 2.0)[0] == 2
    assert made.advice.endswith("own pays at no traffic")


def test_who_has_no_choice_takes_what_there_is() -> None:
    made = make_or_buy(10.0, [HOME], [])
    assert (made.choice, made.buy_usd_per_day, made.crossing) == ("own", None, None)
    made = make_or_buy(10.0, [], [AWAY])
    assert (made.choice, made.replicas, made.make_usd_per_day) == ("api", 0, None)
    with pytest.raises(ValueError, match="nothing may serve"):
        make_or_buy(10.0, [], [])
    for traffic, peak in ((0.0, 1.0), (1.0, 0.5), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="is no workload"):
            make_or_buy(traffic, [HOME], [AWAY], peak)


@given(st.lists(HOMES, max_size=3), st.lists(PRICES, max_size=3), st.floats(0.01, 5_000.0), st.floats(1.0, 5.0))
def test_the_choice_is_never_dearer_than_any_alternative(
    homes: list[Home], prices: list[float], mtok_per_day: float, peak: float
) -> None:
    assume(homes or prices)
    made = make_or_buy(mtok_per_day, homes, [Away("api", price) for price in prices], peak)
    options = [make_usd_per_day(home, mtok_per_day, peak)[1] for home in homes] + [p * mtok_per_day for p in prices]
    chosen = made.make_usd_per_day if made.replicas else made.buy_usd_per_day
    assert chosen == pytest.approx(min(options))
