"""What our own tokens cost: the worked example, and an independent present-value oracle."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing import onprem
from scheduler.config.prices import Electricity, Hardware
from scheduler.config.supply import Curve, Energy

EXAMPLE = Hardware(
    gpu="8 x H100",
    purchase_price_usd=250_000,
    amortization_years=5,
    financing_rate=0.08,
    residual_share=0.1,
    maintenance_percent_per_year=8,
)


def yearly_payment_exact(price: int, rate: Fraction, years: int, residual: Fraction, upkeep: Fraction) -> Fraction:
    """The level yearly payment whose present value, with the resale at the end, is the price; year by year."""
    discount, worth_of_one, factor = Fraction(1), Fraction(0), 1 / (1 + rate)
    for _ in range(years):
        discount *= factor
        worth_of_one += discount
    return (price - price * residual * discount) / worth_of_one + price * upkeep


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


@given(st.floats(0.1, 100.0), st.floats(1e-300, 1.0))
def test_the_recovery_factor_pays_back_at_least_the_principal_and_is_finite_at_every_rate(
    years: float, rate: float
) -> None:
    factor = onprem.capital_recovery_factor(rate, years)
    assert math.isfinite(factor)
    # Between the straight line and the line plus interest on the whole, for ever.
    assert 1 / years * (1 - 1e-9) <= factor <= 1 / years + rate * (1 + 1 / years) + 1e-9


@given(st.floats(0.5, 30.0))
def test_a_vanishing_rate_costs_what_no_rate_costs(years: float) -> None:
    assert onprem.capital_recovery_factor(1e-12, years) == pytest.approx(onprem.capital_recovery_factor(0.0, years))


def test_the_fixed_cost_holds_the_annuity_and_the_idle_power_and_says_so() -> None:
    idle = EXAMPLE.model_copy(update={"idle_watts": 500.0, "utilization_standard": 0.25})
    cost = onprem.fixed_cost(idle, Electricity(usd_per_kwh=0.3, pue=1.2))
    assert cost.usd_per_hour == pytest.approx(onprem.fixed_usd_per_hour(EXAMPLE) + 0.5 * 1.2 * 0.3)
    assert cost.utilization_standard == 0.25
    assert "amortized" in cost.basis
    # An hour of work at a quarter of utilization carries four hours of cost.
    assert cost.usd(3600.0) == pytest.approx(4 * cost.usd_per_hour)


def test_the_avoidable_rate_is_the_energy_slope_alone() -> None:
    energy = Energy(joules_per_input_token=36.0, joules_per_output_token=360.0, label="measured")
    rate = onprem.avoidable_rate(energy, Electricity(usd_per_kwh=0.5, pue=1.5))
    # 360 J are 1e-4 kWh; times 1.5, times 0.50 USD.
    assert rate.usd_per_output == pytest.approx(7.5e-5)
    assert rate.usd_per_input == pytest.approx(7.5e-6)
    assert (rate.usd_per_cached, rate.usd_per_request, rate.tiers) == (0.0, 0.0, ())


def test_the_configured_curve_arrives_in_the_core_field_by_field() -> None:
    curve = Curve(prefill_tokens_per_s=1, itl_base_s=2, itl_per_seq_s=3, seqs_max=4, ttft_base_s=5, kv_tokens=6)
    assert {f: getattr(onprem.service_curve(curve), f) for f in Curve.model_fields} == curve.model_dump()
