"""The arithmetic of owning: annuity, straight line, and present value after tax. Floats in, floats out; USD and years.

    CRF = r / (1 - (1 + r)^-n)            annuity = (price - PV(residual)) * CRF

Sources: annuity and present value, any textbook of engineering economics; tax depreciation (MACRS), IRS Publication 946,
table A-1. The annuity is what a token is charged with; MACRS serves the after-tax comparison in reports and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

# Computers are 5-year property; the half-year convention spreads five years over six tax years.
_MACRS = {5: (0.2, 0.32, 0.192, 0.1152, 0.1152, 0.0576)}


def capital_recovery_factor(rate: float, years: float) -> float:
    """Yearly payment per USD borrowed at ``rate`` (a fraction) over ``years``.

    >>> round(capital_recovery_factor(0.08, 5), 6)
    0.250456
    >>> capital_recovery_factor(0.0, 4)
    0.25
    """
    # 1 - (1 + r)^-n without the cancellation that would make a tiny rate divide by zero.
    share = -math.expm1(-years * math.log1p(rate))
    return rate / share if share else 1.0 / years


def annuity_usd_per_year(price_usd: float, residual_share: float, rate: float, years: float) -> float:
    """Level payment at each year's end whose present value is the price less that of the resale after ``years``.

    >>> round(annuity_usd_per_year(250_000, 0.1, 0.08, 5), 2)
    58352.7
    """
    residual_present_usd = price_usd * residual_share / (1.0 + rate) ** years
    return (price_usd - residual_present_usd) * capital_recovery_factor(rate, years)


def straight_line_usd_per_year(price_usd: float, residual_share: float, years: float) -> float:
    """Book depreciation: the same amount each year, no interest. What the annuity becomes as the rate goes to zero.

    >>> straight_line_usd_per_year(250_000, 0.1, 5)
    45000.0
    """
    return price_usd * (1.0 - residual_share) / years


def macrs_schedule(recovery_years: int = 5) -> tuple[float, ...]:
    """Share of the price that each tax year deducts, half-year convention. Raises ValueError for other property.

    >>> macrs_schedule(5)
    (0.2, 0.32, 0.192, 0.1152, 0.1152, 0.0576)
    """
    if recovery_years not in _MACRS:
        raise ValueError(f"no MACRS table for {recovery_years}-year property (known: {', '.join(map(str, _MACRS))})")
    return _MACRS[recovery_years]


def present_value(cashflows: Sequence[float], rate: float) -> float:
    """What ``cashflows`` are worth now: the first falls now, each other a year after the one before.

    >>> round(present_value([-1000, 600, 600], 0.1), 2)
    41.32
    """
    return math.fsum(usd / (1.0 + rate) ** year for year, usd in enumerate(cashflows))


class TaxYear(NamedTuple):
    """One row of the after-tax table. ``at_years`` after the purchase is when its cash falls; row 0 is the purchase.

    ``book_usd`` is what is not yet deducted at the row's end, before the resale; ``tax_usd`` below zero is tax saved on
    other income; ``present_usd`` is ``cash_usd`` discounted to the purchase.
    """

    at_years: float
    revenue_usd: float
    opex_usd: float
    depreciation_usd: float
    book_usd: float
    resale_usd: float
    tax_usd: float
    cash_usd: float
    present_usd: float


def after_tax_years(
    price_usd: float,
    residual_share: float,
    rate: float,
    years: float,
    tax_rate: float,
    opex_usd_per_year: float = 0.0,
    revenue_usd_per_year: float = 0.0,
) -> tuple[TaxYear, ...]:
    """Owning after tax, year by year: MACRS-5 deductions, taxed revenue less opex, resale taxed above its book value.

    ``rate`` discounts after-tax cash. A loss saves tax at once (there is other income). Sold before the sixth year, what
    is not yet deducted counts against the resale, so that the half-year rule of the year of disposal changes nothing.
    A broken last year has its share of revenue and opex.

    >>> rows = after_tax_years(1000.0, 0.1, 0.0, 6, tax_rate=0.5)
    >>> [row.cash_usd for row in rows]
    [-1000.0, 100.0, 160.0, 96.0, 57.6, 57.6, 78.8]
    """
    schedule = macrs_schedule(5)
    rows = [TaxYear(0.0, 0.0, 0.0, 0.0, price_usd, 0.0, 0.0, -price_usd, -price_usd)]
    last = math.ceil(years)
    for year in range(1, last + 1):
        at_years = min(float(year), years)
        span = at_years - (year - 1)
        depreciation_usd = price_usd * schedule[year - 1] if year <= len(schedule) else 0.0
        book_usd = price_usd * math.fsum(schedule[year:])
        resale_usd = price_usd * residual_share if year == last else 0.0
        margin_usd = (revenue_usd_per_year - opex_usd_per_year) * span
        gain_usd = resale_usd - book_usd if year == last else 0.0
        tax_usd = tax_rate * (margin_usd - depreciation_usd + gain_usd)
        cash_usd = margin_usd + resale_usd - tax_usd
        rows.append(
            TaxYear(
                at_years=at_years,
                revenue_usd=revenue_usd_per_year * span,
                opex_usd=opex_usd_per_year * span,
                depreciation_usd=depreciation_usd,
                book_usd=book_usd,
                resale_usd=resale_usd,
                tax_usd=tax_usd,
                cash_usd=cash_usd,
                present_usd=cash_usd / (1.0 + rate) ** at_years,
            )
        )
    return tuple(rows)


def after_tax_present_value(
    price_usd: float,
    residual_share: float,
    rate: float,
    years: float,
    tax_rate: float,
    opex_usd_per_year: float = 0.0,
    revenue_usd_per_year: float = 0.0,
) -> float:
    """Net present value of owning after tax; without revenue it is below zero, a cost.

    >>> round(after_tax_present_value(250_000, 0.1, 0.08, 5, tax_rate=0.21, opex_usd_per_year=20_000))
    -256896
    """
    rows = after_tax_years(price_usd, residual_share, rate, years, tax_rate, opex_usd_per_year, revenue_usd_per_year)
    return math.fsum(row.present_usd for row in rows)
