"""Annuity, present value and MACRS: published examples, numpy-financial as the oracle, and limits in closed form."""

from __future__ import annotations

import doctest
import math
from fractions import Fraction

import numpy_financial
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing import finance

PRICES = st.floats(1.0, 1e9)
SHARES = st.floats(0.0, 1.0)
RATES = st.floats(1e-6, 1.0)
YEARS = st.integers(1, 40)


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(finance).attempted >= 8
    assert doctest.testmod(finance).failed == 0


def test_a_loan_of_200000_over_15_years_at_7_and_a_half_percent_takes_1854_dollars_a_month() -> None:
    # Published: the example of numpy-financial's pmt.
    assert finance.annuity_usd_per_year(200_000, 0.0, 0.075 / 12, 12 * 15) == pytest.approx(1854.0247200054619)


def test_the_published_project_of_40000_dollars_is_worth_3065_at_8_percent() -> None:
    # Published: the example of numpy-financial's npv.
    assert finance.present_value([-40_000, 5_000, 8_000, 12_000, 30_000], 0.08) == pytest.approx(3065.22267)


@given(PRICES, SHARES, RATES, YEARS)
def test_the_annuity_is_the_payment_of_a_loan_that_the_resale_pays_off(
    price_usd: float, residual_share: float, rate: float, years: int
) -> None:
    # pmt itself cancels 1 - (1 + r)^n at tiny rates: hence the tolerance.
    payment = -numpy_financial.pmt(rate, years, price_usd, -price_usd * residual_share)
    usd = finance.annuity_usd_per_year(price_usd, residual_share, rate, years)
    assert usd == pytest.approx(payment, rel=1e-7, abs=price_usd * 1e-9)


@given(PRICES, SHARES, RATES, YEARS)
def test_paying_the_annuity_and_selling_at_the_end_is_worth_the_price(
    price_usd: float, residual_share: float, rate: float, years: int
) -> None:
    usd = finance.annuity_usd_per_year(price_usd, residual_share, rate, years)
    flows = [0.0] + [usd] * (years - 1) + [usd + price_usd * residual_share]
    assert finance.present_value(flows, rate) == pytest.approx(price_usd)
    assert finance.present_value([0.0] + [usd] * years, rate) == pytest.approx(
        -numpy_financial.pv(rate, years, usd), rel=1e-7, abs=price_usd * 1e-9
    )


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.floats(0.0, 1.0))
def test_present_value_agrees_with_npv(flows: list[float], rate: float) -> None:
    assert finance.present_value(flows, rate) == pytest.approx(numpy_financial.npv(rate, flows), abs=1e-6)


@given(PRICES, SHARES, st.floats(0.5, 30.0))
def test_without_interest_the_annuity_is_the_straight_line(price_usd: float, share: float, years: float) -> None:
    line = finance.straight_line_usd_per_year(price_usd, share, years)
    assert finance.annuity_usd_per_year(price_usd, share, 0.0, years) == pytest.approx(line, abs=price_usd * 1e-12)
    assert finance.annuity_usd_per_year(price_usd, share, 1e-12, years) == pytest.approx(line, abs=price_usd * 1e-9)


@given(PRICES, SHARES, RATES, RATES, YEARS)
def test_dearer_money_makes_a_dearer_annuity(
    price_usd: float, share: float, rate: float, other_rate: float, years: int
) -> None:
    low, high = sorted((rate, other_rate))
    cheap, dear = (finance.annuity_usd_per_year(price_usd, share, each, years) for each in (low, high))
    assert cheap <= dear * (1 + 1e-9) + 1e-9
    assert finance.straight_line_usd_per_year(price_usd, share, years) <= cheap * (1 + 1e-9) + 1e-9


@given(st.floats(0.1, 100.0), st.floats(1e-300, 1.0))
def test_the_recovery_factor_pays_back_at_least_the_principal_and_is_finite_at_every_rate(
    years: float, rate: float
) -> None:
    factor = finance.capital_recovery_factor(rate, years)
    assert math.isfinite(factor)
    # Between the straight line and the line plus interest on the whole, for ever.
    assert 1 / years * (1 - 1e-9) <= factor <= 1 / years + rate * (1 + 1 / years) + 1e-9


def test_a_perpetual_loan_pays_the_interest_alone() -> None:
    assert finance.capital_recovery_factor(0.08, 10_000) == pytest.approx(0.08)


def declining_balance(years: int) -> list[Fraction]:
    """The rule behind the table: twice the straight line on what is left, half a year first, straight line once larger."""
    left, found = Fraction(1), list[Fraction]()
    for year in range(years + 1):
        span = Fraction(1, 2) if year in (0, years) else Fraction(1)
        years_left = years - max(Fraction(0), year - Fraction(1, 2))
        amount = min(left, max(left * Fraction(2, years) * (span if year == 0 else 1), left / years_left * span))
        found.append(amount)
        left -= amount
    return found


def test_the_table_of_5_year_property_follows_from_the_declining_balance_rule_and_deducts_everything() -> None:
    schedule = finance.macrs_schedule(5)
    assert [round(float(share), 4) for share in declining_balance(5)] == list(schedule)
    assert math.fsum(schedule) == 1.0


def test_property_of_another_class_has_no_table_here() -> None:
    with pytest.raises(ValueError, match="7-year"):
        finance.macrs_schedule(7)


@given(
    PRICES, SHARES, st.floats(0.0, 0.5), st.integers(1, 12), st.floats(0.0, 0.9), st.floats(0, 1e6), st.floats(0, 1e6)
)
def test_owning_after_tax_is_the_sum_of_its_streams_each_discounted_by_npv(
    price_usd: float, share: float, rate: float, years: int, tax: float, opex_usd: float, revenue_usd: float
) -> None:
    table = [20, 32, 19.2, 11.52, 11.52, 5.76]
    deducted = [price_usd * (table[year] / 100 if year < 6 else 0.0) for year in range(years)]
    resale_usd = price_usd * share
    margin = numpy_financial.npv(rate, [0.0] + [(revenue_usd - opex_usd) * (1 - tax)] * years)
    shield = numpy_financial.npv(rate, [0.0, *(usd * tax for usd in deducted)])
    gain_usd = resale_usd - (price_usd - sum(deducted))
    resale = numpy_financial.npv(rate, [0.0] * years + [resale_usd - tax * gain_usd])
    found = finance.after_tax_present_value(price_usd, share, rate, years, tax, opex_usd, revenue_usd)
    scale = price_usd + years * (opex_usd + revenue_usd)
    assert found == pytest.approx(-price_usd + margin + shield + resale, abs=1e-9 * scale)


@given(PRICES, SHARES, RATES, YEARS, st.floats(0.0, 1e6))
def test_without_tax_or_revenue_owning_costs_the_annuity_and_the_opex_of_every_year(
    price_usd: float, share: float, rate: float, years: int, opex_usd: float
) -> None:
    found = finance.after_tax_present_value(price_usd, share, rate, years, 0.0, opex_usd)
    level = -found * finance.capital_recovery_factor(rate, years)
    assert level == pytest.approx(finance.annuity_usd_per_year(price_usd, share, rate, years) + opex_usd)


@given(PRICES, SHARES, st.floats(0.01, 0.5), st.floats(0.3, 12.0), st.floats(0.0, 0.9))
def test_the_table_deducts_no_more_than_the_price_and_its_rows_add_up(
    price_usd: float, share: float, rate: float, years: float, tax: float
) -> None:
    rows = finance.after_tax_years(price_usd, share, rate, years, tax, 100.0, 50.0)
    assert len(rows) == math.ceil(years) + 1
    assert rows[-1].at_years == years
    deducted = sum(row.depreciation_usd for row in rows)
    assert deducted + rows[-1].book_usd == pytest.approx(price_usd)
    assert sum(row.opex_usd for row in rows) == pytest.approx(100.0 * years)
    assert [row.resale_usd for row in rows[:-1]] == [0.0] * (len(rows) - 1)
    for row in rows[1:]:
        assert row.cash_usd == pytest.approx(
            row.revenue_usd - row.opex_usd + row.resale_usd - row.tax_usd, abs=1e-9 * price_usd
        )
    # Over the whole life, only what was really lost is deducted: price less resale, plus the running costs.
    taxed = 50.0 * years - 100.0 * years + price_usd * share - price_usd
    assert sum(row.tax_usd for row in rows) == pytest.approx(tax * taxed, abs=1e-6 * price_usd)


def test_after_the_sixth_year_the_book_is_empty_and_the_whole_resale_is_taxed() -> None:
    rows = finance.after_tax_years(1_000.0, 0.1, 0.08, 7, 0.25)
    assert [row.book_usd for row in rows[5:]] == [pytest.approx(57.6), 0.0, 0.0]
    assert rows[-1].tax_usd == pytest.approx(25.0)


@given(PRICES, SHARES, st.floats(0.01, 0.5), st.integers(7, 12), st.floats(0.01, 0.9))
def test_early_deductions_are_worth_more_than_a_straight_line_over_the_same_life(
    price_usd: float, share: float, rate: float, years: int, tax: float
) -> None:
    found = finance.after_tax_present_value(price_usd, share, rate, years, tax)
    line = finance.straight_line_usd_per_year(price_usd, 0.0, years)
    resale_usd = price_usd * share * (1 - tax)
    slow = -price_usd + finance.present_value([0.0] + [line * tax] * years, rate) + resale_usd / (1 + rate) ** years
    assert found > slow
