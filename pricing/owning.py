"""Owning hardware as accountants see it: straight line beside the annuity, and the years after tax. For reports only."""

from __future__ import annotations

from pricing import finance, onprem
from pricing.report import OwnedYear, Owning
from scheduler.config.prices import Hardware


def owning(hardware: Hardware, power_usd_per_hour: float) -> Owning:
    """One replica's hardware with its opex and ``power_usd_per_hour``; capital parts alone are per GPU-hour."""
    price, residual, years = hardware.purchase_price_usd, hardware.residual_share, hardware.amortization_years
    rate, hours = hardware.financing_rate, onprem.HOURS_PER_YEAR * hardware.gpu_count
    table = onprem.after_tax_years(hardware, power_usd_per_year=power_usd_per_hour * onprem.HOURS_PER_YEAR)
    return Owning(
        annuity_usd_per_gpu_hour=finance.annuity_usd_per_year(price, residual, rate, years) / hours,
        straight_line_usd_per_gpu_hour=finance.straight_line_usd_per_year(price, residual, years) / hours,
        tax_rate=hardware.tax_rate,
        after_tax_present_usd=sum(year.present_usd for year in table),
        years=tuple(
            OwnedYear(
                at_years=year.at_years,
                opex_usd=year.opex_usd,
                depreciation_usd=year.depreciation_usd,
                book_usd=year.book_usd,
                resale_usd=year.resale_usd,
                tax_usd=year.tax_usd,
                cash_usd=year.cash_usd,
                present_usd=year.present_usd,
            )
            for year in table
        ),
    )
