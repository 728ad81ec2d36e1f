"""What our own hardware costs, on two bases that are never mixed.

Fixed (amortized):  usd_per_hour = (price - PV(residual)) * CRF + maintenance + staff + rack + network, or the rent
Avoidable:          usd_per_token = joules_per_token / 3.6e6 * PUE * usd_per_kwh   (the slope of power against load)

Source of the formulas: annuity method (``pricing.finance``); PUE is ISO/IEC 30134-2. docs/costs.md has the example.
"""

from __future__ import annotations

from pricing import finance
from scheduler.config.prices import Hardware, Rental
from scheduler.config.supply import Curve
from scheduler.core.supply import FixedCost, Rate, ServiceCurve

HOURS_PER_YEAR = 8760.0
JOULES_PER_KWH = 3.6e6


def opex_usd_per_year(hardware: Hardware) -> dict[str, float]:
    """What running the hardware under one replica costs a year, by part; power is not in it."""
    return {
        "maintenance": hardware.purchase_price_usd * hardware.maintenance_percent_per_year / 100.0,
        "staff": hardware.staff_usd_per_year,
        "rack": hardware.rack_usd_per_year,
        "network": hardware.network_usd_per_year,
    }


def fixed_parts_usd_per_hour(hardware: Hardware) -> dict[str, float]:
    """USD per hour of the hardware under one replica, by part: capital, maintenance, staff, rack, network."""
    capital = finance.annuity_usd_per_year(
        hardware.purchase_price_usd, hardware.residual_share, hardware.financing_rate, hardware.amortization_years
    )
    yearly = {"capital": capital} | opex_usd_per_year(hardware)
    return {part: usd / HOURS_PER_YEAR for part, usd in yearly.items()}


def rent_parts_usd_per_hour(usd_per_hour_rent: float) -> dict[str, float]:
    """The same for rented hardware: ``usd_per_hour_rent`` is the effective price (``pricing.spot``) of one replica's."""
    return {"rent": usd_per_hour_rent}


def fixed_usd_per_hour(hardware: Hardware) -> float:
    """Sum of the fixed parts: the annuity of price less residual, plus opex, in USD per hour; no power.

    >>> h = Hardware(gpu="8xH100", purchase_price_usd=250_000, amortization_years=5, financing_rate=0.08,
    ...              residual_share=0.1, maintenance_percent_per_year=8)
    >>> round(fixed_usd_per_hour(h) / 8, 2)
    1.12
    """
    return sum(fixed_parts_usd_per_hour(hardware).values())


def usd_per_joule(usd_per_kwh: float, pue: float) -> float:
    """Price of a joule drawn at the board, with what the building adds to it. Below zero where the tariff is."""
    return pue * usd_per_kwh / JOULES_PER_KWH


def power_usd_per_hour(watts: float, usd_per_kwh: float, pue: float) -> float:
    """Price of drawing ``watts`` at the board for an hour."""
    return watts * 3600.0 * usd_per_joule(usd_per_kwh, pue)


def fixed_cost(
    hardware: Hardware | Rental, usd_per_kwh: float, pue: float, usd_per_hour_rent: float | None = None
) -> FixedCost:
    """Amortized cost of a replica: annuity and opex, or rent, and the idle power drawn whether or not it is asked.

    Power at a price below zero lowers it, but not below zero: a floor is no reward. Raises ValueError for rented
    hardware without a rent: an unknown price is never a default.
    """
    if isinstance(hardware, Hardware):
        fixed_usd, what = fixed_usd_per_hour(hardware), "annuity, maintenance, staff, rack, network"
    elif usd_per_hour_rent is None:
        raise ValueError("rented hardware has no cost while its rent is unknown")
    else:
        fixed_usd, what = usd_per_hour_rent, "effective rent"
    return FixedCost(
        usd_per_hour=max(0.0, fixed_usd + power_usd_per_hour(hardware.idle_watts, usd_per_kwh, pue)),
        utilization_standard=hardware.utilization_standard,
        basis=f"amortized: {what} and idle power at the standard utilization",
    )


def avoidable_rate(
    joules_per_input_token: float, joules_per_output_token: float, usd_per_kwh: float, pue: float
) -> Rate:
    """Energy slope of one more token as dispatch sees it. Cached input is computed already: it draws nothing.

    A tariff below zero counts as zero here: a negative rate would rank the least efficient pool first, pay for long
    answers and refill budgets. Reports show the real figure (``pricing.local_cost``).
    """
    usd = max(0.0, usd_per_joule(usd_per_kwh, pue))
    return Rate(
        usd_per_input=joules_per_input_token * usd,
        usd_per_cached=0.0,
        usd_per_output=joules_per_output_token * usd,
    )


def after_tax_years(
    hardware: Hardware, power_usd_per_year: float = 0.0, revenue_usd_per_year: float = 0.0
) -> tuple[finance.TaxYear, ...]:
    """Owning this hardware after tax, year by year (MACRS-5), discounted at its financing rate; for reports only."""
    return finance.after_tax_years(
        hardware.purchase_price_usd,
        hardware.residual_share,
        hardware.financing_rate,
        hardware.amortization_years,
        hardware.tax_rate,
        sum(opex_usd_per_year(hardware).values()) + power_usd_per_year,
        revenue_usd_per_year,
    )


def service_curve(curve: Curve) -> ServiceCurve:
    """The configured curve as the core's type."""
    return ServiceCurve(
        prefill_tokens_per_s=curve.prefill_tokens_per_s,
        itl_base_s=curve.itl_base_s,
        itl_per_seq_s=curve.itl_per_seq_s,
        seqs_max=curve.seqs_max,
        ttft_base_s=curve.ttft_base_s,
        kv_tokens=curve.kv_tokens,
    )
