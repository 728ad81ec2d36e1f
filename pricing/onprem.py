"""What our own tokens cost, on two bases that are never mixed.

Fixed (amortized):  usd_per_hour = (price - PV(residual)) * CRF / hours + maintenance,  CRF = r / (1 - (1 + r)^-n)
Avoidable:          usd_per_token = joules_per_token / 3.6e6 * PUE * usd_per_kwh   (the slope of power against load)

Source of the formulas: annuity method, any textbook of engineering economics; PUE is ISO/IEC 30134-2.
"""

from __future__ import annotations

import math

from scheduler.config.prices import Electricity, Hardware
from scheduler.config.supply import Curve, Energy
from scheduler.core.supply import FixedCost, Rate, ServiceCurve

HOURS_PER_YEAR = 8760.0
_JOULES_PER_KWH = 3.6e6


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


def fixed_usd_per_hour(hardware: Hardware) -> float:
    """Annuity of the purchase less the present value of the residual, plus maintenance, in USD per hour.

    >>> h = Hardware(gpu="8xH100", purchase_price_usd=250_000, amortization_years=5, financing_rate=0.08,
    ...              residual_share=0.1, maintenance_percent_per_year=8)
    >>> round(fixed_usd_per_hour(h) / 8, 2)
    1.12
    """
    rate, years, price = hardware.financing_rate, hardware.amortization_years, hardware.purchase_price_usd
    residual_present_usd = price * hardware.residual_share / (1.0 + rate) ** years
    yearly = (price - residual_present_usd) * capital_recovery_factor(rate, years)
    yearly += price * hardware.maintenance_percent_per_year / 100.0
    return yearly / HOURS_PER_YEAR


def fixed_cost(hardware: Hardware, electricity: Electricity) -> FixedCost:
    """Amortized cost of a replica: the annuity, and the idle power that it draws whether or not it is asked."""
    idle_usd_per_hour = hardware.idle_watts / 1000.0 * electricity.pue * electricity.usd_per_kwh
    return FixedCost(
        usd_per_hour=fixed_usd_per_hour(hardware) + idle_usd_per_hour,
        utilization_standard=hardware.utilization_standard,
        basis="amortized: annuity, maintenance and idle power at the standard utilization",
    )


def avoidable_rate(energy: Energy, electricity: Electricity) -> Rate:
    """Energy slope of one more token at this site's tariff. Cached input is computed already: it draws nothing."""
    usd_per_joule = electricity.pue * electricity.usd_per_kwh / _JOULES_PER_KWH
    return Rate(
        usd_per_input=energy.joules_per_input_token * usd_per_joule,
        usd_per_cached=0.0,
        usd_per_output=energy.joules_per_output_token * usd_per_joule,
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
