"""The three bases and the standard price: price times tokens is the cost again, in order, and none of them spirals."""

from __future__ import annotations

import doctest
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pricing import bases, onprem
from pricing.bases import EnergyInUse, Mix
from pricing.report import MtokPrice
from scheduler.core import costs
from scheduler.core.supply import FixedCost, ServiceCurve, Usage
from tests.support.markets import NO_USE, NOW_S, POLICY, offer, request

CLOSE = 1e-9


class Case(NamedTuple):
    """Everything that a basis is made of; ``seconds`` is long enough for the work."""

    mix: Mix
    usd_per_s: float
    usd_per_joule: float
    replicas: int
    seconds: float

    @property
    def busy(self) -> float:
        """Share of the replicas' time that the work takes."""
        return self.mix.work_s / (self.seconds * self.replicas)

    @property
    def watts(self) -> float:
        """As modelled: idle power, and what the tokens drew."""
        return self.mix.energy.idle_watts * self.replicas + self.mix.joules / self.seconds

    def allocation(self) -> MtokPrice:
        """At the modelled power."""
        return bases.allocation(self.mix, *self[1:4], self.watts, self.seconds)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    cached = draw(st.integers(0, 10**8))
    usage = Usage(cached + draw(st.integers(0, 10**8)), cached, draw(st.integers(1, 10**8)))
    curve = ServiceCurve(
        prefill_tokens_per_s=draw(st.floats(10.0, 1e5)),
        itl_base_s=draw(st.floats(1e-4, 0.1)),
        itl_per_seq_s=draw(st.floats(1e-6, 0.01)),
        seqs_max=draw(st.integers(1, 256)),
        ttft_base_s=draw(st.floats(0.0, 2.0)),
    )
    joules = st.floats(0.0, 10.0)
    energy = EnergyInUse(draw(joules), draw(joules), draw(st.floats(0.0, 5_000.0)), "modelled", 0.0)
    mix = bases.mix_of(curve, energy, usage)
    replicas = draw(st.integers(1, 8))
    seconds = mix.work_s / replicas / draw(st.floats(0.01, 1.0))
    return Case(mix, draw(st.floats(0.0, 0.1)), draw(st.floats(0.0, 1e-6)), replicas, seconds)


def total_usd(mix: Mix, price: MtokPrice) -> float:
    """The bill at these prices: cached input at its own."""
    assert price.cached is not None
    usage = mix.usage
    return (
        (usage.input_tokens - usage.cached_tokens) * price.input
        + usage.cached_tokens * price.cached
        + usage.output_tokens * price.output
    ) / 1e6


def close(expected: float) -> Any:
    """Equal but for rounding; zero needs a distance of its own."""
    return pytest.approx(expected, rel=CLOSE, abs=1e-12)


def in_order(*prices: float) -> bool:
    """Ascending, but for rounding."""
    return all(low <= high * (1 + CLOSE) + 1e-12 for low, high in pairwise(prices))


def test_the_examples_in_the_docstrings_hold() -> None:
    found = doctest.testmod(bases)
    assert (found.failed, found.attempted > 0) == (0, True)


@given(cases(), st.floats(0.0, 10_000.0))
def test_price_times_tokens_is_everything_that_was_paid(case: Case, watts: float) -> None:
    mix, usd_per_s, usd_per_joule, replicas, seconds = case
    paid = seconds * (usd_per_s * replicas + watts * usd_per_joule)
    price = bases.allocation(mix, usd_per_s, usd_per_joule, replicas, watts, seconds)
    assert total_usd(mix, price) == close(paid)
    assert price.blended * mix.tokens / 1e6 == close(paid)
    assert price.input >= 0.0
    assert price.output >= 0.0


@given(cases())
def test_a_full_replica_costs_its_hour_its_idle_power_and_what_its_tokens_draw(case: Case) -> None:
    mix, usd_per_s, usd_per_joule = case[:3]
    price = bases.full(mix, usd_per_s, usd_per_joule)
    watts_full = mix.energy.idle_watts + mix.joules / mix.work_s
    assert total_usd(mix, price) == close(mix.work_s * (usd_per_s + watts_full * usd_per_joule))
    usd_per_hour = 3600.0 * (usd_per_s + watts_full * usd_per_joule)
    assert price.blended * mix.mtok_per_hour == close(usd_per_hour)


@given(cases())
def test_avoidable_is_at_most_usage_and_usage_at_most_allocation_for_input_output_and_blend(case: Case) -> None:
    mix, usd_per_s, usd_per_joule = case[:3]
    prices = bases.avoidable(mix, usd_per_joule), bases.full(mix, usd_per_s, usd_per_joule), case.allocation()
    assert in_order(*(price.input for price in prices))
    assert in_order(*(price.output for price in prices))
    assert in_order(*(price.blended for price in prices))


@given(cases())
def test_a_pool_without_an_idle_second_has_one_price_on_both_full_bases(case: Case) -> None:
    case = case._replace(seconds=case.mix.work_s / case.replicas)
    full, allocation = bases.full(*case[:3]), case.allocation()
    assert allocation.input == close(full.input)
    assert allocation.output == close(full.output)


@given(cases(), st.floats(1e-6, 0.1))
def test_without_power_usage_over_allocation_is_the_share_of_time_at_work(case: Case, usd_per_s: float) -> None:
    case = case._replace(usd_per_s=usd_per_s, usd_per_joule=0.0)
    assert bases.full(*case[:3]).blended / case.allocation().blended == pytest.approx(case.busy)


@given(cases(), st.floats(1.0, 3.0), st.floats(0.0, 0.1))
def test_nothing_gets_cheaper_by_dearer_hardware_dearer_power_or_more_idle_time(
    case: Case, factor: float, more_usd_per_s: float
) -> None:
    mix, usd_per_s, usd_per_joule = case[:3]
    for worse in (
        case._replace(usd_per_s=usd_per_s + more_usd_per_s),
        case._replace(usd_per_joule=usd_per_joule * factor),
        case._replace(seconds=case.seconds * factor),
    ):
        assert in_order(case.allocation().blended, worse.allocation().blended)
        assert in_order(bases.full(*case[:3]).blended, bases.full(*worse[:3]).blended)
        assert in_order(bases.avoidable(mix, usd_per_joule).blended, bases.avoidable(mix, worse.usd_per_joule).blended)


@given(cases(), st.floats(0.01, 100.0))
def test_every_basis_is_linear_in_money(case: Case, factor: float) -> None:
    dear = case._replace(usd_per_s=case.usd_per_s * factor, usd_per_joule=case.usd_per_joule * factor)
    for cheap_price, dear_price in (
        (case.allocation(), dear.allocation()),
        (bases.full(*case[:3]), bases.full(*dear[:3])),
        (bases.avoidable(case.mix, case.usd_per_joule), bases.avoidable(dear.mix, dear.usd_per_joule)),
    ):
        assert dear_price.input == close(cheap_price.input * factor)
        assert dear_price.output == close(cheap_price.output * factor)


def charged_usd(curve: ServiceCurve, energy: EnergyInUse, fixed: FixedCost, usages: Sequence[Usage]) -> float:
    """What dispatch charges for each request under ``local_floor: amortized``, by the core's own two terms."""
    rate = onprem.avoidable_rate(energy.joules_per_input_token, energy.joules_per_output_token, 0.3, 1.2)
    floored = offer(rate=rate, curve=curve, floor=fixed)
    asked = [request(usage=usage) for usage in usages]
    terms = (costs.floor, costs.cash)
    return sum(term(each, floored, NO_USE, POLICY, NOW_S) for each in asked for term in terms)


CURVES = st.builds(
    ServiceCurve,
    prefill_tokens_per_s=st.floats(10.0, 1e5),
    itl_base_s=st.floats(1e-4, 0.1),
    itl_per_seq_s=st.floats(1e-6, 0.01),
    seqs_max=st.integers(1, 256),
    ttft_base_s=st.floats(0.0, 2.0),
)
USAGES = st.tuples(st.integers(0, 20_000), st.integers(0, 1_000), st.integers(1, 5_000)).map(
    lambda drawn: Usage(drawn[0] + drawn[1], drawn[1], drawn[2])
)
ENERGY = EnergyInUse(0.1, 1.0, 300.0, "modelled", 0.0)
FIXED = FixedCost(usd_per_hour=4.0, utilization_standard=0.4, basis="amortized")


@given(CURVES, st.lists(USAGES, min_size=1, max_size=20))
def test_the_standard_price_is_what_floor_and_cash_charge_request_by_request(
    curve: ServiceCurve, usages: list[Usage]
) -> None:
    whole = Usage(*(sum(usage[i] for usage in usages) for i in range(3)))
    mix = bases.mix_of(curve, ENERGY, whole, work_s=sum(curve.work_s(usage) for usage in usages))
    price = bases.standard(mix, FIXED, onprem.usd_per_joule(0.3, 1.2))
    assert total_usd(mix, price) == pytest.approx(charged_usd(curve, ENERGY, FIXED, usages))


@given(CURVES, USAGES, st.integers(1, 1_000))
def test_a_window_that_only_counts_tokens_charges_like_the_floor_for_requests_of_one_shape(
    curve: ServiceCurve, usage: Usage, requests: int
) -> None:
    curve = replace(curve, ttft_base_s=0.0)
    mix = bases.mix_of(curve, ENERGY, Usage(*(tokens * requests for tokens in usage[:3])))
    price = bases.standard(mix, FIXED, onprem.usd_per_joule(0.3, 1.2))
    assert total_usd(mix, price) == pytest.approx(requests * charged_usd(curve, ENERGY, FIXED, [usage]))


@given(CURVES, st.lists(USAGES, min_size=1, max_size=20))
def test_work_seen_from_afar_is_never_more_than_the_work_of_the_requests(
    curve: ServiceCurve, usages: list[Usage]
) -> None:
    whole = Usage(*(sum(usage[i] for usage in usages) for i in range(3)))
    assert bases.mix_of(curve, ENERGY, whole).work_s <= sum(curve.work_s(usage) for usage in usages) * (1 + CLOSE)


@given(CURVES, USAGES)
def test_a_window_counts_tokens_and_so_leaves_out_what_belongs_to_each_request(
    curve: ServiceCurve, usage: Usage
) -> None:
    without = bases.mix_of(replace(curve, ttft_base_s=0.0), ENERGY, usage)
    assert bases.mix_of(replace(curve, ttft_base_s=1_000.0), ENERGY, usage) == without


@given(cases(), st.floats(0.1, 0.9))
def test_at_the_standard_utilization_the_allocation_is_the_standard_price(case: Case, share: float) -> None:
    idle_usd_per_s = case.mix.energy.idle_watts * case.usd_per_joule
    fixed = FixedCost(3600.0 * (case.usd_per_s + idle_usd_per_s), share, "amortized")
    case = case._replace(seconds=case.mix.work_s / case.replicas / share)
    standard = bases.standard(case.mix, fixed, case.usd_per_joule)
    assert standard.blended == close(case.allocation().blended)


@given(st.floats(0.01, 50.0), st.floats(0.1, 500.0), st.floats(0.01, 50.0), st.floats(0.0, 1.0))
def test_at_break_even_a_token_costs_what_the_api_asks(
    usd_per_hour: float, mtok_per_hour: float, api_usd: float, share: float
) -> None:
    avoidable_usd = api_usd * share
    assume(avoidable_usd < api_usd * 0.999)
    found = bases.break_even_utilization(usd_per_hour, mtok_per_hour, api_usd, avoidable_usd)
    assert found is not None
    assert usd_per_hour / (found * mtok_per_hour) + avoidable_usd == pytest.approx(api_usd)


def test_an_api_that_costs_less_than_the_energy_of_a_token_is_never_undercut() -> None:
    assert bases.break_even_utilization(1.0, 10.0, 0.5, 0.5) is None
    assert bases.break_even_utilization(1.0, 10.0, 0.5, 0.6) is None
    assert bases.break_even_utilization(1.0, 0.0, 0.5) is None
    assert bases.break_even_utilization(0.0, 10.0, 0.5, 0.1) == 0.0


def test_hours_are_split_by_time_taken_and_energy_by_joules_drawn() -> None:
    curve = ServiceCurve(prefill_tokens_per_s=1_000.0, itl_base_s=0.012, itl_per_seq_s=0.001, seqs_max=4)
    energy = EnergyInUse(2.0, 5.0, 0.0, "modelled", 0.0)
    mix = bases.mix_of(curve, energy, Usage(600, 0, 100))
    # Input 1 ms a token, output (12 + 4) / 4 = 4 ms: 600 to 400 ms. Compute 0.7 s binds before the slots' 0.55 s.
    assert mix.work_s == pytest.approx(0.7)
    price = bases.full(mix, usd_per_s=1.0, usd_per_joule=0.001)
    assert price.input == pytest.approx(float(Fraction(7, 10) * Fraction(6, 10) / 600 + Fraction(2, 1000)) * 1e6)
    assert price.output == pytest.approx(float(Fraction(7, 10) * Fraction(4, 10) / 100 + Fraction(5, 1000)) * 1e6)


def test_cached_input_costs_nothing_and_counts_in_the_blend() -> None:
    curve = ServiceCurve(1_000.0, 0.0, 0.001, 1)
    mix = bases.mix_of(curve, EnergyInUse(0.0, 0.0, 0.0, "modelled", 0.0), Usage(1_500, 1_000, 500))
    price = bases.full(mix, usd_per_s=1.0, usd_per_joule=0.0)
    assert (price.input, price.cached, price.output) == (pytest.approx(1_000.0), 0.0, pytest.approx(1_000.0))
    assert price.blended == pytest.approx(500.0)


@pytest.mark.parametrize("joules", [0.0, 5e-324])
def test_power_that_no_slope_explains_goes_with_the_hours(joules: float) -> None:
    energy = EnergyInUse(1.0, joules, 100.0, "modelled", 0.0)
    mix = bases.mix_of(ServiceCurve(1_000.0, 0.0, 0.001, 1), energy, Usage(0, 0, 1_000_000))
    price = bases.allocation(mix, usd_per_s=0.0, usd_per_joule=0.01, replicas=1, watts=300.0, seconds=10.0)
    # No input was served: what it would have cost is its time and its own joule.
    assert (price.input, price.output) == (pytest.approx(30.0 + 0.01e6), pytest.approx(30.0))


def test_a_mix_of_nothing_computed_has_no_price() -> None:
    energy = EnergyInUse(1.0, 1.0, 1.0, "modelled", 0.0)
    with pytest.raises(ValueError, match="no token"):
        bases.mix_of(ServiceCurve(1_000.0, 0.1, 0.0, 1), energy, Usage(10, 10, 0))


def test_output_that_takes_no_time_at_all_still_carries_the_hours() -> None:
    mix = bases.mix_of(ServiceCurve(1_000.0, 0.0, 0.0, 1), ENERGY, Usage(0, 0, 1_000_000))
    assert bases.allocation(mix, 1.0, 0.0, 1, 0.0, 60.0).output == pytest.approx(60.0)
    assert bases.break_even_utilization(1.0, mix.mtok_per_hour, 1.0) == 0.0


def test_the_tokens_of_a_window_are_many_requests_and_not_one_that_fills_the_cache() -> None:
    bare = ServiceCurve(20_000.0, 0.006, 0.0001, 256, 0.05, 0)
    cached = replace(bare, kv_tokens=400_000)
    assert bases.mix_of(cached, ENERGY).mtok_per_hour == bases.mix_of(bare, ENERGY).mtok_per_hour
