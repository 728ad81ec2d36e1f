"""Owning, as tables: straight line beside annuity, and the years after tax."""

from __future__ import annotations

from collections.abc import Sequence

from pricing.report import LocalCost
from serving.report.tables import Column, Table, left
from serving.report.words import number, percent, plain


def methods(local: Sequence[LocalCost]) -> Table:
    """Capital of each owned pool by both methods, and the present value of owning it after tax."""
    columns = (
        left("pool"),
        Column("annuity"),
        Column("straight line"),
        Column("tax rate", 2),
        Column("after tax, present USD per replica", 1),
    )
    rows = [
        (
            plain(cost.pool),
            number(owned.annuity_usd_per_gpu_hour),
            number(owned.straight_line_usd_per_gpu_hour),
            percent(owned.tax_rate),
            f"{owned.after_tax_present_usd:,.0f}",
        )
        for cost in local
        if (owned := cost.owning) is not None
    ]
    return Table("Capital, USD per GPU-hour, by both methods", columns, rows, "No pool is owned.")


def years(local: Sequence[LocalCost]) -> Table:
    """What owning one replica of each pool costs year by year after tax."""
    columns = (
        left("pool"),
        Column("year"),
        Column("opex and power"),
        Column("depreciation"),
        Column("book value"),
        Column("resale"),
        Column("tax"),
        Column("cash"),
        Column("present value"),
    )
    rows = [
        (
            plain(cost.pool),
            f"{year.at_years:g}",
            *(
                f"{usd:,.0f}"
                for usd in (
                    year.opex_usd,
                    year.depreciation_usd,
                    year.book_usd,
                    year.resale_usd,
                    year.tax_usd,
                    year.cash_usd,
                    year.present_usd,
                )
            ),
        )
        for cost in local
        if cost.owning is not None
        for year in cost.owning.years
    ]
    title = "Owning one replica after tax, USD: MACRS-5 depreciation, discounted at the financing rate"
    return Table(title, columns, rows, "No pool is owned.")
