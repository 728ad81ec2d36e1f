"""What no honest price crosses, how far a price has jumped, and what a revision of a series changes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing import guard, timeline
from pricing.listing import CarbonIntensity, GpuPrice, PowerPrice, Price, Step, TokenPrice, Window
from scheduler.core.supply import Rate, Tier, Usage
from tests.pricing.price_strategies import (
    LIES,
    SLOT_S,
    gpu,
    power,
    slot_lists,
    steps_of,
    token_prices,
    tokens,
    value_at,
)

PER_TOKEN = [field.name for field in fields(Rate) if field.name not in ("usd_per_request", "usd_per_search", "tiers")]
BASE = Rate(1e-6, 1e-7, 3e-6)
CHEAP_HOURS = Window(0, 3600, {"standard": Rate(1e-6, 1e-6, 1e-6)})


def windowed(**changes: object) -> TokenPrice:
    return tokens(1.0, off_peak=(msgspec.structs.replace(CHEAP_HOURS, **changes),))


@pytest.mark.parametrize("price", LIES)
def test_what_cannot_be_a_price_is_refused_with_a_reason(price: Price) -> None:
    assert guard.implausible(price)


@pytest.mark.parametrize("usd", [-1e-12, math.nan, math.inf, -math.inf, 0.00201])
@pytest.mark.parametrize("name", PER_TOKEN)
def test_no_price_of_tokens_may_be_negative_unknown_endless_or_a_thousand_times_a_usual_one(
    name: str, usd: float
) -> None:
    assert name in (guard.implausible(TokenPrice({"standard": replace(BASE, **{name: usd})})) or "")
    tier = Tier(1000, 1e-6, 1e-6, 1e-6)._replace(**{name: usd})
    assert name in (guard.implausible(TokenPrice({"standard": replace(BASE, tiers=(tier,))})) or "")
    assert guard.implausible(TokenPrice({"standard": BASE, "flex": replace(BASE, **{name: usd})}))
    assert guard.implausible(windowed(rates={"standard": replace(BASE, **{name: usd})}))


@pytest.mark.parametrize(
    "price",
    [
        TokenPrice({"standard": replace(BASE, usd_per_request=101.0)}),
        TokenPrice({"standard": replace(BASE, tiers=(Tier(9, 0, 0, 0), Tier(9, 0, 0, 0)))}),
        TokenPrice({"standard": replace(BASE, tiers=(Tier(9, 0, 0, 0), Tier(8, 0, 0, 0)))}),
        TokenPrice({"standard": replace(BASE, tiers=(Tier(10**5000, 0, 0, 0),))}),
        windowed(start_s=-1),
        windowed(start_s=86_400),
        windowed(end_s=86_401),
        windowed(start_s=3600),
        windowed(days=(0,)),
        windowed(days=(1, 8)),
        tokens(1.0, deprecated_s=math.inf),
        tokens(1.0, deprecated_s=1e300),
        tokens(1.0, deprecated_s=-1e300),
        gpu(0.0),
        gpu(math.nan),
        gpu(201.0),
        GpuPrice(1.0, "H100", 10**400, "cloud", "here"),
        GpuPrice(1.0, "H100\ud800", 1, "cloud", "here"),
        GpuPrice(1.0, "H100", 1, "cloud", "x" * 201),
        PowerPrice((Step(0, 10, 0.1), Step(9, 20, 0.1))),
        PowerPrice((Step(10, 10, 0.1),)),
        PowerPrice((Step(0, math.inf, 0.1),)),
        PowerPrice((Step(-math.inf, 0, 0.1),)),
        PowerPrice((Step(-1e15, -1e14, 0.1),)),
        PowerPrice((Step(1e15, 1e16, 0.1),)),
        PowerPrice((Step(math.nan, 10, 0.1),)),
        PowerPrice((Step(0, 10, math.nan),)),
        PowerPrice(tuple(Step(i, i + 1, 0.1) for i in range(guard.STEPS_MAX + 1))),
        PowerPrice((Step(0, 25 * 3600.0 + 1.0, 0.1),)),
        CarbonIntensity((Step(0, 10, 1.0), Step(10, 1e6, 1.0))),
        TokenPrice({"standard": replace(BASE, tiers=tuple(Tier(n, 0, 0, 0) for n in range(1, 34)))}),
        TokenPrice({"standard": BASE, "batch": replace(BASE, tiers=tuple(Tier(n, 0, 0, 0) for n in range(1, 34)))}),
        tokens(1.0, off_peak=(CHEAP_HOURS,) * 101),
        CarbonIntensity((Step(0, 10, -1.0),)),
        CarbonIntensity((Step(0, 10, 3001.0),)),
    ],
)
def test_what_is_out_of_bounds_is_refused(price: Price) -> None:
    assert guard.implausible(price)


@pytest.mark.parametrize(
    "price",
    [
        tokens(0.0),
        tokens(600.0),
        windowed(days=(1, 7), start_s=82_800),
        windowed(start_s=0, end_s=86_400),
        gpu(200.0 * 8, 8),
        power([-0.5, None, 4.0]),
        CarbonIntensity((Step(0, 10, 0.0),), True),
        PowerPrice((Step(0, 25 * 3600.0, 0.1),)),
        TokenPrice({"standard": replace(BASE, tiers=tuple(Tier(n, 0, 0, 0) for n in range(1, 33)))}),
        tokens(1.0, off_peak=(CHEAP_HOURS,) * 100),
        tokens(600.0, output=2000.0),
    ],
)
def test_dear_free_and_negative_ones_that_happen_are_believed(price: Price) -> None:
    assert guard.implausible(price) is None


@settings(deadline=None)
@given(token_prices)
def test_a_believable_price_survives_the_history_as_it_is(price: TokenPrice) -> None:
    assert guard.implausible(price) is None
    assert msgspec.json.decode(msgspec.json.encode(price), type=Price) == price


def unit_prices(rate: Rate, lengths: set[int]) -> Iterator[float]:
    """USD of each kind of token at each input length, taken from bills and not from the fields."""
    for n in sorted(lengths):
        whole = rate.usd(Usage(n, 0, 0)) - rate.usd_per_request
        yield whole / n
        yield whole / n + (rate.usd(Usage(n, n, 0)) - rate.usd(Usage(n, 0, 0))) / n
        yield (rate.usd(Usage(n, 0, n)) - rate.usd(Usage(n, 0, 0))) / n
        for kind in ("cache_write_tokens", "cache_write_long_tokens"):
            written = Usage(n, 0, 0)._replace(**{kind: n})
            yield (rate.usd(written) - rate.usd_per_request) / n
        yield (rate.usd(Usage(n, 0, n, reasoning_tokens=n)) - rate.usd(Usage(n, 0, 0))) / n


@settings(deadline=None)
@given(token_prices, token_prices)
def test_a_jump_is_the_largest_change_of_what_any_token_costs_at_any_length_in_any_hour(
    old: TokenPrice, new: TokenPrice
) -> None:
    worst = 1.0
    hours = {(w.start_s, w.end_s, w.days) for w in (*old.off_peak, *new.off_peak)}
    for at in [None, *hours]:
        tables = []
        for price in (old, new):
            inside = [w.rates for w in price.off_peak if (w.start_s, w.end_s, w.days) == at]
            tables.append({**price.rates, **(inside[0] if inside else {})})
        for tier in tables[1]:
            rates = [tables[0].get(tier, tables[1]["standard"]), tables[1][tier]]
            for name in ("usd_per_request", "usd_per_search"):
                low, high = sorted(getattr(rate, name) for rate in rates)
                worst = max(worst, 1.0 if low == 0 and high <= 0.05 else factor(low, high))
            lengths = {1} | {t.input_tokens_above + 1 for rate in rates for t in rate.tiers}
            for a, b in zip(*(unit_prices(rate, lengths) for rate in rates), strict=True):
                worst = max(worst, factor(round(a, 15), round(b, 15)))
    assert guard.jump(old, new) == pytest.approx(worst, rel=1e-4)
    if old.rates.keys() == new.rates.keys() and not (old.off_peak or new.off_peak):
        assert guard.jump(new, old) == guard.jump(old, new)


def factor(a: float, b: float) -> float:
    """Up or down; what is below a hundred-thousandth of a USD per million counts as nothing."""
    low, high = sorted(0.0 if usd <= 1e-11 else usd for usd in (a, b))
    return 1.0 if low == high else high / low if low else math.inf


def test_a_long_context_tier_that_is_new_is_compared_with_what_long_inputs_cost_before() -> None:
    dear = TokenPrice({"standard": replace(BASE, tiers=(Tier(1, 1e-3, 1e-3, 3e-3),))})
    assert guard.jump(TokenPrice({"standard": BASE}), dear) == pytest.approx(1e4)


def test_off_peak_hours_that_are_new_or_gone_are_compared_with_the_price_at_other_hours() -> None:
    plain, cheap = tokens(1.0), tokens(1.0, off_peak=(Window(0, 60, tokens(0.001).rates),))
    assert guard.jump(plain, cheap) == guard.jump(cheap, plain) == pytest.approx(1000.0)


def test_power_and_carbon_swing_without_a_jump_and_a_price_of_another_kind_is_an_endless_one() -> None:
    assert guard.jump(power([0.001]), power([1.0])) == 1.0
    assert guard.jump(gpu(16.0, 8), gpu(24.0, 8)) == 1.5
    assert guard.jump(gpu(1.0), gpu(4.0)) == 4.0
    assert guard.jump(gpu(1.0), tokens(1.0)) == math.inf
    assert guard.jump(tokens(1.0), tokens(0.0)) == math.inf


@pytest.mark.parametrize("other", [{"gpu": "H200"}, {"gpu_count": 8}, {"spot": True}, {"region": "there"}])
def test_other_gpus_under_the_same_name_are_another_product_at_any_price(other: dict[str, Any]) -> None:
    renamed = msgspec.structs.replace(gpu(1.0), **other)
    assert guard.jump(gpu(1.0), renamed) == guard.jump(renamed, gpu(1.0)) == math.inf
    assert guard.unvouched(gpu(1.0), renamed) == math.inf  # whatever another source says of a GPU-hour


def test_a_service_tier_that_is_new_is_compared_with_the_standard_one_and_one_that_is_gone_with_nothing() -> None:
    half, gift = replace(BASE, usd_per_input=5e-7), replace(BASE, usd_per_input=1e-8)
    plain = TokenPrice({"standard": BASE})
    assert guard.jump(plain, TokenPrice({"standard": BASE, "batch": half})) == pytest.approx(2.0)
    assert guard.jump(plain, TokenPrice({"standard": BASE, "batch": gift})) == pytest.approx(100.0)
    assert guard.jump(plain, TokenPrice({"standard": BASE, "batch": Rate(0, 0, 0)})) == math.inf
    assert guard.jump(TokenPrice({"standard": BASE, "batch": Rate(0, 0, 0)}), plain) == 1.0
    with_window = TokenPrice({"standard": BASE}, (Window(0, 60, {"standard": BASE, "flex": gift}),))
    assert guard.jump(plain, with_window) == pytest.approx(100.0)


@pytest.mark.parametrize("name", ["usd_per_request", "usd_per_search"])
def test_a_usual_fee_may_come_and_go_but_not_grow_at_will(name: str) -> None:
    def fee(usd: float) -> TokenPrice:
        return TokenPrice({"standard": replace(BASE, **{name: usd})})

    assert guard.jump(fee(0.0), fee(0.05)) == guard.jump(fee(0.05), fee(0.0)) == 1.0
    assert guard.jump(fee(0.0), fee(0.0501)) == guard.jump(fee(0.0501), fee(0.0)) == math.inf
    assert guard.jump(fee(0.01), fee(0.05)) == pytest.approx(5.0)


def test_prices_too_small_to_be_any_count_as_none() -> None:
    assert guard.jump(tokens(1e-6, output=1e-6), tokens(0.0)) == 1.0
    assert guard.jump(tokens(9e-6, output=9e-6), tokens(1e-6, output=1e-6)) == 1.0
    assert guard.jump(tokens(9e-6, output=9e-6), tokens(2e-5, output=2e-5)) == math.inf
    assert guard.is_free(tokens(9e-6, output=9e-6))
    assert not guard.is_free(tokens(9e-6, output=1.1e-5))


MATTERS = ("usd_per_input", "usd_per_cached", "usd_per_output")


@settings(deadline=None)
@given(token_prices, token_prices, st.sampled_from([1.0, 1.5, 3.0, 100.0]))
def test_sources_agree_where_input_cached_and_output_of_the_standard_tier_do_at_every_length(
    one: TokenPrice, other: TokenPrice, ratio_max: float
) -> None:
    here, there = one.rates["standard"], other.rates["standard"]
    worst = 1.0
    for length in {1} | {tier.input_tokens_above + 1 for rate in (here, there) for tier in rate.tiers}:
        places = [[rate, *(t for t in rate.tiers if t.input_tokens_above < length)][-1] for rate in (here, there)]
        worst = max(worst, *(factor(*(getattr(place, name) for place in places)) for name in MATTERS))
    if not ratio_max / 1.0001 < worst < ratio_max * 1.0001 or worst == 1.0:
        assert guard.agree(one, other, ratio_max) == (worst <= ratio_max)
    assert guard.agree(one, other, ratio_max) == guard.agree(other, one, ratio_max)


@pytest.mark.parametrize(
    "other",
    [
        TokenPrice({"standard": replace(BASE, usd_per_request=0.5, usd_per_search=50.0)}),
        TokenPrice({"standard": replace(BASE, usd_per_cache_write=1e-4, usd_per_reasoning=1e-4)}),
        TokenPrice({"standard": BASE, "batch": Rate(0, 0, 0), "flex": replace(BASE, usd_per_input=1e-4)}),
    ],
)
def test_sources_may_differ_in_what_else_they_know(other: TokenPrice) -> None:
    assert guard.agree(TokenPrice({"standard": BASE}), other, 1.01)
    assert guard.agree(other, TokenPrice({"standard": BASE}), 1.01)


def test_sources_of_different_things_do_not_agree() -> None:
    assert not guard.agree(tokens(1.0), gpu(1.0), 1e9)
    assert guard.agree(gpu(1.0), gpu(1.5), 1.5)
    assert not guard.agree(gpu(1.0), gpu(1.6), 1.5)


def test_a_price_is_free_where_any_tier_or_hour_gives_all_tokens_for_nothing() -> None:
    assert guard.is_free(tokens(0.0))
    assert guard.is_free(TokenPrice({"standard": BASE, "flex": Rate(0, 0, 0)}))
    assert guard.is_free(TokenPrice({"standard": Rate(0, 0, 0, usd_per_search=0.01)}))
    assert guard.is_free(windowed(rates={"standard": Rate(0, 0, 0)}))
    assert not guard.is_free(TokenPrice({"standard": Rate(1e-9, 0, 0)}))  # embeddings have no output
    assert not guard.is_free(TokenPrice({"standard": Rate(0, 0, 0, 0.01)}))  # billed by the request
    assert not guard.is_free(power([0.0]))


series = st.tuples(slot_lists, st.integers(0, 12)).map(lambda drawn: steps_of(drawn[0], drawn[1] * SLOT_S))
INSTANTS = [i * SLOT_S / 2 for i in range(60)]


@settings(deadline=None)
@given(series, series)
def test_merging_takes_the_new_inside_its_span_and_the_old_outside(
    old: tuple[Step, ...], new: tuple[Step, ...]
) -> None:
    merged = timeline.merged(old, new)
    assert guard.implausible(PowerPrice(merged)) is None
    for at_s in INSTANTS:
        inside = new[0].start_s <= at_s < new[-1].end_s
        assert value_at(merged, at_s) == value_at(new if inside else old, at_s)


@settings(deadline=None)
@given(series, series)
def test_the_revised_part_alone_says_all_that_the_whole_revision_does_and_nothing_where_nothing_changes(
    old: tuple[Step, ...], new: tuple[Step, ...]
) -> None:
    part = timeline.revised(old, new)
    whole, short = timeline.merged(old, new), timeline.merged(old, part) if part else old
    assert [value_at(short, at_s) for at_s in INSTANTS] == [value_at(whole, at_s) for at_s in INSTANTS]
    assert (part == ()) == all(value_at(old, at_s) == value_at(whole, at_s) for at_s in INSTANTS)
    assert timeline.revised(whole, new) == ()


def test_the_revised_part_is_no_longer_than_it_must_be() -> None:
    old, new = steps_of([0.1, 0.2, 0.3, 0.4, 0.5]), steps_of([0.1, 0.2, 0.9, 0.4, 0.5])
    assert timeline.revised(old, new) == (new[2],)
    without = (*old[:2], *old[3:])
    assert timeline.revised(old, without) == (old[1], old[3])
    assert timeline.revised((), new) == new
