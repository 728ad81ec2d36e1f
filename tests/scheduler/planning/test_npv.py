"""Present value of owning: numpy-financial as the oracle, examples by hand, and when it has paid back."""

from __future__ import annotations

import doctest

import numpy as np
import numpy_financial
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from scheduler.planning import npv
from scheduler.planning.npv import npv_of

USD = st.floats(0.0, 1e6)
RATES = st.floats(0.0, 0.5)
YEARS = st.integers(1, 15)
SAVINGS = st.lists(USD, min_size=1, max_size=15)


def flows(purchase: float, saved: list[float], opex: float, residual: float, years: int) -> np.ndarray:
    """Cash at the end of each year, the purchase first."""
    cash = np.array([-purchase, *(saved[min(year, len(saved) - 1)] - opex for year in range(years))])
    cash[-1] += residual
    return cash


def test_the_example_in_the_docstring_holds() -> None:
    assert doctest.testmod(npv).attempted >= 2
    assert doctest.testmod(npv).failed == 0


@given(USD, SAVINGS, USD, USD, RATES, YEARS)
def test_it_is_the_net_present_value_of_the_cash(
    purchase: float, saved: list[float], opex: float, residual: float, rate: float, years: int
) -> None:
    found = npv_of(purchase, saved, opex, residual, rate, years)
    cash = flows(purchase, saved, opex, residual, years)
    assert [year.cash_usd for year in found.years] == pytest.approx(cash.tolist(), abs=1e-6)
    assert found.npv_usd == pytest.approx(float(numpy_financial.npv(rate, cash)), rel=1e-9, abs=1e-4)
    assert found.years[-1].cumulated_usd == pytest.approx(found.npv_usd, rel=1e-9, abs=1e-4)
    assert np.cumsum([year.present_usd for year in found.years]) == pytest.approx(
        np.array([year.cumulated_usd for year in found.years]), abs=1e-4
    )
    assert [year.at_years for year in found.years] == list(range(years + 1))


@given(st.floats(1.0, 1e6), st.lists(st.floats(0.01, 1.0), min_size=1, max_size=10), RATES)
def test_it_is_above_zero_where_the_internal_rate_of_return_is_above_the_rate(
    purchase: float, shares: list[float], rate: float
) -> None:
    saved = [purchase * share for share in shares]
    found = npv_of(purchase, saved, 0.0, 0.0, rate, len(saved))
    irr = numpy_financial.irr(flows(purchase, saved, 0.0, 0.0, len(saved)))
    assume(abs(irr - rate) > 1e-6)
    assert (found.npv_usd > 0.0) == (irr > rate)
    assert (found.breakeven_years is not None) == (irr > rate)


def test_it_pays_back_inside_a_year_in_proportion() -> None:
    assert npv_of(1_000.0, [400.0], 0.0, 0.0, 0.0, 5).breakeven_years == pytest.approx(2.5)
    # Discounted at 10 %: 363.64 and 330.58 of 400 a year, then 305.79 of the third's 300.53 are missing.
    found = npv_of(1_000.0, [400.0], 0.0, 0.0, 0.1, 5)
    assert found.breakeven_years == pytest.approx(3.0 + (1_000.0 - 994.74) / 273.21, abs=1e-3)


def test_savings_that_fall_with_the_prices_of_apis_are_taken_year_by_year() -> None:
    found = npv_of(1_000.0, [600.0, 300.0, 150.0], 50.0, 100.0, 0.0, 4)
    assert [year.cash_usd for year in found.years] == [-1_000.0, 550.0, 250.0, 100.0, 200.0]
    assert found.npv_usd == 100.0
    # What is earned comes evenly; the fourth year's 100 are all needed before the resale.
    assert found.breakeven_years == pytest.approx(4.0)


def test_what_only_the_resale_makes_up_for_pays_back_at_the_end() -> None:
    assert npv_of(1_000.0, [100.0], 0.0, 900.0, 0.0, 2).breakeven_years == 2.0
    assert npv_of(1_000.0, [0.0], 0.0, 1_000.0, 0.0, 2).breakeven_years == 2.0
    assert npv_of(1_000.0, [0.0], 10.0, 2_000.0, 0.0, 2).breakeven_years == 2.0


def test_a_purchase_that_costs_nothing_has_paid_at_once_and_one_that_never_saves_never_does() -> None:
    assert npv_of(0.0, [1.0], 0.0, 0.0, 0.1, 3).breakeven_years == 0.0
    never = npv_of(1_000.0, [100.0], 100.0, 0.0, 0.1, 3)
    assert (never.breakeven_years, never.npv_usd) == (None, -1_000.0)


def test_a_broken_last_year_has_its_share_of_savings_and_opex() -> None:
    found = npv_of(1_000.0, [600.0], 100.0, 50.0, 0.1, 2.5)
    assert [year.at_years for year in found.years] == [0.0, 1.0, 2.0, 2.5]
    assert [year.cash_usd for year in found.years] == [-1_000.0, 500.0, 500.0, 300.0]
    assert found.years[-1].present_usd == pytest.approx(300.0 / 1.1**2.5)
    assert npv_of(1_000.0, [600.0], 100.0, 0.0, 0.0, 2.5).breakeven_years == pytest.approx(2.0)


@given(st.floats(1.0, 1e6), SAVINGS, USD, RATES, YEARS)
def test_at_break_even_the_line_between_the_years_crosses_zero(
    purchase: float, saved: list[float], opex: float, rate: float, years: int
) -> None:
    found = npv_of(purchase, saved, opex, 0.0, rate, years)
    at, cumulated = ([getattr(year, name) for year in found.years] for name in ("at_years", "cumulated_usd"))
    if found.breakeven_years is None:
        assert max(cumulated) < 0.0
    else:
        assert np.interp(found.breakeven_years, at, cumulated) == pytest.approx(0.0, abs=1e-6 * max(1.0, purchase))
        assert all(usd < 0.0 for year, usd in zip(at, cumulated, strict=True) if year < found.breakeven_years - 1e-9)


def test_no_life_and_no_savings_are_errors() -> None:
    for saved, years in (([], 3.0), ([1.0], 0.0)):
        with pytest.raises(ValueError, match="at least one year"):
            npv_of(1.0, saved, 0.0, 0.0, 0.1, years)
