"""Everything that a plan takes for granted, with where it comes from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from scheduler.config import ClusterConfig
from scheduler.planning.document import Assumption
from scheduler.planning.found import Found
from scheduler.planning.model import Model
from scheduler.planning.technologies import Technology

_Label = Literal["measured", "calibrated", "modelled", "assumed"]
_PER_YEAR = (
    ("growth_per_year", "growth of load"), ("api_price_per_year", "change of API prices"),
    ("power_price_per_year", "change of the price of power"),
)  # fmt: skip


def assumptions(found: Found, model: Model) -> tuple[Assumption, ...]:
    """Of the years to come, of every technology, of power and of APIs."""
    config = found.asked.config
    return (
        *_of_years(model),
        *(row for technology in found.technologies for row in _of_technology(technology, config, model)),
        *_of_prices(config),
    )


def _of_years(model: Model) -> Iterator[Assumption]:
    spec = model.spec

    def row(field: str, name: str, value: str, unit: str) -> Assumption:
        where = "cluster.yaml, planning" if field in spec.model_fields_set else "default"
        return Assumption(name, value, unit, "assumed", where)

    for field, name in _PER_YEAR:
        of = getattr(spec, field)
        yield row(field, name, f"{100 * of.mean:+.0f} ± {100 * of.sd:.0f}", "% a year")
    half_life = (
        "the same" if math.isinf(spec.day_half_life) else f"half at {100 * spec.day_half_life:g} % of the trace back"
    )
    yield row("day_half_life", "weight of the days seen", half_life, "")
    sd = f"± {100 * model.level_sd:.0f}"
    source = "cluster.yaml, planning" if spec.level_sd is not None else "days of the trace, and of public ones"
    yield Assumption("level of the days to come", sd, "% around those seen", "modelled", source)
    yield row("horizon_years", "horizon", f"{spec.horizon_years:g}", "years")
    available = f"{100 * spec.replica_availability:g}"
    yield row("replica_availability", "availability of owned replicas", available, "% of the time")
    yield row(
        "risk_weight", "weight of risk", f"{spec.risk_weight:g}", f"× mean of the worst {100 * spec.cvar_share:.0f} %"
    )
    yield row("discount_rate", "discount rate", f"{100 * spec.discount_rate:g}", "% a year")
    yield row("slo_attainment_min", "objectives to be met", f"{100 * spec.slo_attainment_min:g}", "% of requests")
    yield row("scenarios", "scenarios", f"{spec.scenarios:,}", "drawn")


def _of_technology(t: Technology, config: ClusterConfig, model: Model) -> Iterator[Assumption]:
    def row(what: str, value: str, unit: str, label: _Label, source: str) -> Assumption:
        return Assumption(f"{t.name}: {what}", value, unit, label, source)

    if t.hardware is not None:
        of, life = (
            t.hardware,
            f"USD a replica, {t.hardware.amortization_years:g} years at {100 * t.hardware.financing_rate:g} %",
        )
        yield row("price of the hardware", f"{of.purchase_price_usd:,.0f}", life, "assumed", "cluster.yaml, hardware")
    for way, usd in (("reserved", t.reserved_usd_per_hour), ("rented", t.rented_usd_per_hour)):
        if usd is not None:
            yield row(
                f"{way}, with idle power", f"{usd:.4g}", "USD a replica and hour", "assumed", "cluster.yaml, planning"
            )
    curve = f"{1e3 * t.curve.itl_base_s:.3g} + {1e3 * t.curve.itl_per_seq_s:.3g} B ms"
    curve += f", {t.curve.prefill_tokens_per_s:,.0f} tokens/s"
    yield row("service curve", curve, "ITL, prefill", "modelled", "cluster.yaml, curve")
    if t.name in model.usable:
        share = f"{100 * model.usable[t.name]:.0f}"
        yield row(
            "what can be planned with",
            share,
            "% of a replica",
            "modelled",
            "shipped policy in the simulator, this trace",
        )
    labels = {pool.name: pool.energy.label for pool in config.pools}
    labels |= {candidate.name: candidate.energy.label for candidate in config.planning.candidates}
    joules = f"{t.joules_per_input_token:g}, {t.joules_per_output_token:g}"
    yield row("energy", joules, "J per input, output token", labels[t.name], "cluster.yaml, energy")


def _of_prices(config: ClusterConfig) -> Iterator[Assumption]:
    for site in config.sites:
        of = site.electricity
        price = f"{of.usd_per_kwh:g}" if of.usd_per_kwh is not None else "by time"
        yield Assumption(
            f"{site.name}: power", f"{price}, PUE {of.pue:g}", "USD per kWh", "assumed", "cluster.yaml, electricity"
        )
    for provider in config.providers:
        for served in provider.models:
            where = "cluster.yaml, providers" if not isinstance(served.price, str) else f"{served.price}'s price map"
            price = _price(served.price)
            yield Assumption(f"{provider.name}/{served.model}: price", price, "USD per Mtok in, out", "assumed", where)


def _price(price: object) -> str:
    read, written = getattr(price, "input", None), getattr(price, "output", None)
    return "as listed" if read is None or written is None else f"{read:g}, {written:g}"
