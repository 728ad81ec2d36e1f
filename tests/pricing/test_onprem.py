"""What our own hardware costs: the worked example, an independent present-value oracle, rent, and power below zero."""

from __future__ import annotations

import doctest
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing import finance, onprem
from scheduler.config.prices import Hardware, Rental
from scheduler.config.supply import Curve
from scheduler.core.supply import Rate

EXAMPLE = Hardware(
    gpu="H100",
    gpu_count=8.0,
    purchase_price_usd=250_000,
    amortization_years=5,
    financing_rate=0.08,
    residual_share=0.1,
    maintenance_percent_per_year=8,
)
TARIFFS = st.floats(0.0, 2.0)
PUES = st.floats(1.0, 3.0)


def yearly_payment_exact(price: int, rate: Fraction, years: int, residual: Fraction, upkeep: Fraction) -> Fraction:
    """The level yearly payment whose present value, with the resale at the end, is the price; year by year."""
    discount, worth_of_one, factor = Fraction(1), Fraction(0), 1 / (1 + rate)
    for _ in range(years):
        discount *= factor
        worth_of_one += discount
    return (price - price * residual * discount) / worth_of_one + price * upkeep


def test_the_examples_in_the_docstrings_hold() -> None:
    found = doctest.testmod(onprem)
    assert (found.failed, found.attempted > 0) == (0, True)


def test_the_worked_example_costs_a_dollar_twelve_per_gpu_hour() -> None:
    assert round(onprem.fixed_usd_per_hour(EXAMPLE) / 8, 2) == 1.12


@given(
    st.integers(0, 10**7),
    st.integers(0, 40).map(lambda p: Fraction(p, 100)),
    st.integers(1, 20),
    st.integers(0, 100).map(lambda p: Fraction(p, 100)),
    st.integers(0, 50).map(lambda p: Fraction(p, 100)),
)
def test_the_annuity_agrees_with_discounting_year_by_year(
    price: int, rate: Fraction, years: int, residual: Fraction, upkeep: Fraction
) -> None:
    hardware = Hardware(
        gpu="g",
        purchase_price_usd=price,
        amortization_years=years,
        financing_rate=float(rate),
        residual_share=float(residual),
        maintenance_percent_per_year=float(upkeep * 100),
    )
    exact = yearly_payment_exact(price, rate, years, residual, upkeep) / 8760
    assert onprem.fixed_usd_per_hour(hardware) == pytest.approx(float(exact), rel=1e-9, abs=1e-9)


def test_every_part_of_the_stack_is_named_and_the_parts_are_the_whole() -> None:
    running = {"staff_usd_per_year": 8_760.0, "rack_usd_per_year": 17_520.0, "network_usd_per_year": 26_280.0}
    parts = onprem.fixed_parts_usd_per_hour(EXAMPLE.model_copy(update=running))
    assert list(parts) == ["capital", "maintenance", "staff", "rack", "network"]
    assert [parts[name] for name in ("staff", "rack", "network")] == [1.0, 2.0, 3.0]
    assert parts["maintenance"] == pytest.approx(250_000 * 0.08 / 8760)
    whole = onprem.fixed_usd_per_hour(EXAMPLE.model_copy(update=running))
    assert sum(parts.values()) == whole == pytest.approx(onprem.fixed_usd_per_hour(EXAMPLE) + 6.0)


@given(st.floats(1.0, 10.0), st.floats(0.0, 1e6))
def test_the_stack_is_linear_in_money(factor: float, usd: float) -> None:
    money = {
        "purchase_price_usd": usd,
        "staff_usd_per_year": usd,
        "rack_usd_per_year": usd,
        "network_usd_per_year": usd,
    }
    once = onprem.fixed_parts_usd_per_hour(EXAMPLE.model_copy(update=money))
    more = onprem.fixed_parts_usd_per_hour(EXAMPLE.model_copy(update={k: v * factor for k, v in money.items()}))
    assert more == {part: pytest.approx(usd * factor) for part, usd in once.items()}


def test_the_fixed_cost_holds_the_stack_and_the_idle_power_and_says_so() -> None:
    idle = EXAMPLE.model_copy(update={"idle_watts": 500.0, "utilization_standard": 0.25})
    cost = onprem.fixed_cost(idle, usd_per_kwh=0.3, pue=1.2)
    assert cost.usd_per_hour == pytest.approx(onprem.fixed_usd_per_hour(EXAMPLE) + 0.5 * 1.2 * 0.3)
    assert cost.utilization_standard == 0.25
    assert "amortized" in cost.basis
    # An hour of work at a quarter of utilization carries four hours of cost.
    assert cost.usd(3600.0) == pytest.approx(4 * cost.usd_per_hour)


def test_rented_hardware_costs_its_effective_rent_and_its_idle_power() -> None:
    rental = Rental(usd_per_hour=1.0, idle_watts=200.0, utilization_standard=0.8)
    cost = onprem.fixed_cost(rental, usd_per_kwh=0.5, pue=1.5, usd_per_hour_rent=2.5)
    # The rent that counts is the effective one, not what the list says.
    assert cost.usd_per_hour == pytest.approx(2.5 + 0.2 * 1.5 * 0.5)
    assert (cost.utilization_standard, "rent" in cost.basis) == (0.8, True)
    assert onprem.rent_parts_usd_per_hour(2.5) == {"rent": 2.5}


def test_rented_hardware_without_a_rent_has_no_cost_rather_than_a_default() -> None:
    with pytest.raises(ValueError, match="rent"):
        onprem.fixed_cost(Rental(usd_per_hour=1.0), usd_per_kwh=0.5, pue=1.5)


def test_a_rent_does_not_touch_hardware_that_is_owned() -> None:
    assert onprem.fixed_cost(EXAMPLE, 0.1, 1.0, usd_per_hour_rent=99.0) == onprem.fixed_cost(EXAMPLE, 0.1, 1.0)


def test_the_avoidable_rate_is_the_energy_slope_alone() -> None:
    rate = onprem.avoidable_rate(36.0, 360.0, usd_per_kwh=0.5, pue=1.5)
    # 360 J are 1e-4 kWh; times 1.5, times 0.50 USD.
    assert rate.usd_per_output == pytest.approx(7.5e-5)
    assert rate.usd_per_input == pytest.approx(7.5e-6)
    assert (rate.usd_per_cached, rate.usd_per_request, rate.tiers) == (0.0, 0.0, ())


@given(st.floats(-5.0, 0.0), PUES)
def test_power_below_zero_makes_a_token_free_for_dispatch_and_never_a_reward(usd_per_kwh: float, pue: float) -> None:
    assert onprem.avoidable_rate(1.0, 10.0, usd_per_kwh, pue) == Rate(0.0, 0.0, 0.0)
    given_away = Hardware(gpu="g", purchase_price_usd=0, amortization_years=1, idle_watts=1_000.0)
    assert onprem.fixed_cost(given_away, usd_per_kwh, pue).usd_per_hour == 0.0


def test_power_below_zero_does_lower_the_fixed_cost_of_hardware_that_costs_something() -> None:
    idle = EXAMPLE.model_copy(update={"idle_watts": 1_000.0})
    lowered = onprem.fixed_cost(idle, -0.1, 1.5).usd_per_hour
    assert lowered == pytest.approx(onprem.fixed_usd_per_hour(EXAMPLE) - 0.15)


@given(TARIFFS, TARIFFS, PUES, PUES)
def test_dearer_power_and_a_worse_building_never_make_anything_cheaper(
    tariff: float, other_tariff: float, pue: float, other_pue: float
) -> None:
    idle = EXAMPLE.model_copy(update={"idle_watts": 500.0})
    low, high = sorted((tariff, other_tariff))
    lean, wasteful = sorted((pue, other_pue))
    assert onprem.fixed_cost(idle, low, lean).usd_per_hour <= onprem.fixed_cost(idle, high, wasteful).usd_per_hour
    cheap, dear = onprem.avoidable_rate(0.1, 1.0, low, lean), onprem.avoidable_rate(0.1, 1.0, high, wasteful)
    assert cheap.usd_per_output <= dear.usd_per_output
    assert cheap.usd_per_input <= dear.usd_per_input


def test_a_kilowatt_for_an_hour_costs_the_tariff_times_the_overhead() -> None:
    assert onprem.power_usd_per_hour(1_000.0, usd_per_kwh=0.25, pue=1.2) == pytest.approx(0.3)
    assert onprem.power_usd_per_hour(1_000.0, usd_per_kwh=-0.25, pue=1.2) == pytest.approx(-0.3)


def test_the_after_tax_table_takes_every_part_of_the_hardware_and_the_power() -> None:
    taxed = EXAMPLE.model_copy(update={"tax_rate": 0.21, "staff_usd_per_year": 1_000.0, "rack_usd_per_year": 2_000.0})
    rows = onprem.after_tax_years(taxed, power_usd_per_year=3_000.0, revenue_usd_per_year=90_000.0)
    assert [row.opex_usd for row in rows[1:]] == [26_000.0] * 5
    expected = finance.after_tax_present_value(250_000, 0.1, 0.08, 5, 0.21, 26_000.0, 90_000.0)
    assert math.fsum(row.present_usd for row in rows) == pytest.approx(expected)


def test_the_configured_curve_arrives_in_the_core_field_by_field() -> None:
    curve = Curve(prefill_tokens_per_s=1, itl_base_s=2, itl_per_seq_s=3, seqs_max=4, ttft_base_s=5, kv_tokens=6)
    assert {f: getattr(onprem.service_curve(curve), f) for f in Curve.model_fields} == curve.model_dump()
