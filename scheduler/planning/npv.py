"""Present value of owning against buying everything: purchase, yearly savings less opex, resale at the end. Before tax."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pricing import finance
from scheduler.planning import document


def npv_of(
    purchase_usd: float,
    saved_usd_by_year: Sequence[float],
    opex_usd_per_year: float,
    residual_usd: float,
    rate: float,
    years: float,
) -> document.Npv:
    """Cash by year, discounted at ``rate``; a year's falls at its end, a broken last year has its share of it.

    ``saved_usd_by_year``: per full year, what APIs would have asked less the energy drawn; the last figure holds for the
    years that it does not name. ``opex_usd_per_year`` is without that energy. Raises ValueError without savings or years.

    >>> found = npv_of(1000.0, [600.0], 100.0, 0.0, 0.0, 3)
    >>> found.npv_usd, found.breakeven_years
    (500.0, 2.0)
    """
    if not saved_usd_by_year or not years > 0.0:
        raise ValueError("savings of at least one year are needed, and a life above zero")
    # Without tax its table is cash and opex alone; what is saved and the resale change from year to year and are put in here.
    table = finance.after_tax_years(purchase_usd, 0.0, rate, years, 0.0, opex_usd_per_year)
    rows, cumulated_usd, breakeven_years = [], 0.0, None
    for index, year in enumerate(table):
        resale_usd = residual_usd if index == len(table) - 1 else 0.0
        earned_usd = year.cash_usd
        if index:
            span = year.at_years - table[index - 1].at_years
            earned_usd += saved_usd_by_year[min(index, len(saved_usd_by_year)) - 1] * span
        before_usd, discount = cumulated_usd, (1.0 + rate) ** year.at_years
        earned_present_usd = earned_usd / discount
        cumulated_usd = before_usd + earned_present_usd + resale_usd / discount
        if breakeven_years is None and cumulated_usd >= 0.0:
            since = table[index - 1].at_years if index else 0.0
            breakeven_years = _reached(since, year.at_years, before_usd, earned_present_usd)
        rows.append(
            document.YearNpv(
                at_years=year.at_years,
                cash_usd=earned_usd + resale_usd,
                present_usd=earned_present_usd + resale_usd / discount,
                cumulated_usd=cumulated_usd,
            )
        )
    total_usd = math.fsum(row.present_usd for row in rows)
    return document.Npv(rate=rate, years=tuple(rows), npv_usd=total_usd, breakeven_years=breakeven_years)


def _reached(since_years: float, until_years: float, before_usd: float, earned_usd: float) -> float:
    """When ``before_usd`` (below zero) is made up for: what is earned comes evenly over the year, the resale at its end."""
    if before_usd + earned_usd < 0.0 or not earned_usd > 0.0:
        return until_years
    return since_years + (until_years - since_years) * min(1.0, max(0.0, -before_usd / earned_usd))
