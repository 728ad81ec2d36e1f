"""What a plan comes to in money: bills by part, merit order, switches, present value, energy, what gateways should see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pricing import onprem
from scheduler.core.supply import Offer, Usage
from scheduler.planning import document, npv
from scheduler.planning.hourly import UnitMoney
from scheduler.planning.model import Choice, Levers, Model
from scheduler.planning.planner import Found
from scheduler.planning.recourse import Parts
from scheduler.planning.requests import PoolRequests
from scheduler.planning.switches import Away, Home, crossing
from scheduler.planning.technologies import Technology
from scheduler.planning.units import Unit
from scheduler.simulation.scenario import EPOCH_S, api_offers
from scheduler.simulation.site import site_of

_HOUR_S = 3600.0
_MTOK = 1e6
_SCENARIOS = 20
_HOURS_PER_YEAR = onprem.HOURS_PER_YEAR


def bill(model: Model, parts: list[Parts]) -> document.Costs:
    """Sum of the units' parts, and what never comes home."""
    sums = {name: sum(getattr(part.costs, name) for part in parts) for name in document.Costs.__struct_fields__}
    return document.Costs(**sums | {"api": sums["api"] + float(model.bought_by(model.drawn).mean())})


def pool_plans(
    model: Model, choice: Choice, parts: list[Parts], technologies: Sequence[Technology]
) -> tuple[document.PoolPlan, ...]:
    """Every technology, with what to have of it; those without requests have nothing."""
    by_name = {unit.name: index for index, unit in enumerate(model.units)}
    hours = model.requests.hours
    found = []
    for t in technologies:
        index = by_name.get(t.name)
        unit = model.units[index] if index is not None else None
        owned, reserved = (choice.owned[index], choice.reserved[index]) if index is not None else (0, 0)
        work_s = float(unit.work_s.sum(dtype=float)) * unit.stands_for if unit is not None else 0.0
        tokens_per_s = unit.tokens * unit.stands_for / work_s if unit is not None and work_s else 0.0
        carried = _carried(model, index, owned, reserved) if index is not None else 0.0
        found.append(
            document.PoolPlan(
                name=t.name, pool=t.pool, model=t.model, gpu=t.gpu, gpus_per_replica=t.gpus_per_replica, owned=owned,
                reserved=reserved, rented_max=parts[index].rented_max if index is not None else 0, owned_now=t.replicas_now,
                owned_usd_per_hour=t.owned_usd_per_hour, reserved_usd_per_hour=t.reserved_usd_per_hour,
                rented_usd_per_hour=t.rented_usd_per_hour,
                energy_usd_per_hour=parts[index].costs.energy if index is not None else 0.0,
                utilization=carried / (owned + reserved) if owned + reserved else 0.0,
                breakeven_utilization=_breakeven(unit, hours) if unit is not None else None,
                tokens_per_s_max=tokens_per_s,
            )
        )  # fmt: skip
    return tuple(found)


def _carried(model: Model, index: int, owned: int, reserved: int) -> float:
    """Mean replicas' worth of work that owned and reserved ones carry."""
    surface, money = model.surfaces[index], model.money(model.units[index])
    share = np.diff(model.edges_s) / (model.edges_s[-1] - model.edges_s[0])
    return float(share @ np.minimum(surface.load, (owned + reserved) * money.usable))


def _breakeven(unit: Unit, hours: float) -> float | None:
    """Share of its time for which an owned replica has to work to cost no more than the APIs that it replaces."""
    owned = unit.technology.owned_usd_per_hour
    may = np.isfinite(unit.elsewhere_usd)
    work_s = float(unit.work_s[may].sum(dtype=float))
    if owned is None or not work_s:
        return None
    margin = float((unit.elsewhere_usd[may] - unit.energy_usd[may]).sum(dtype=float)) / work_s * _HOUR_S
    return owned / margin if margin > owned else None


def merit_order(found: Found, model: Model, choice: Choice) -> tuple[document.Supply, ...]:
    """Every source by what a million tokens costs there, in the mix that it would serve."""
    steps = []
    for unit, owned, reserved in zip(model.units, choice.owned, choice.reserved, strict=True):
        t, money = unit.technology, model.money(unit)
        mtok_of_work = (
            unit.tokens / float(unit.work_s.sum(dtype=float)) * _HOUR_S / _MTOK
        )  # per replica and hour of work
        energy = float(unit.energy_usd.sum(dtype=float)) / unit.tokens * _MTOK
        held = (("owned", owned, t.owned_usd_per_hour), ("reserved", reserved, t.reserved_usd_per_hour))
        for kind, count, usd_per_hour in held:
            if count and usd_per_hour is not None:
                full = usd_per_hour / (mtok_of_work * money.usable) + energy
                steps.append(_supply(t.name, kind, energy, full, count * mtok_of_work * money.usable))
        if t.rented_usd_per_hour is not None:
            full = money.rent_usd_per_hour() / (mtok_of_work * money.usable) + energy
            steps.append(_supply(t.name, "rented", full, full, None))
    steps += _bought(found)
    return tuple(sorted(steps, key=lambda step: step.avoidable_usd_per_mtok))


def _supply(
    name: str, kind: str, avoidable: float, amortized: float | None, mtok_per_hour: float | None
) -> document.Supply:
    tokens_per_s = None if mtok_per_hour is None else mtok_per_hour * _MTOK / _HOUR_S
    return document.Supply(name, kind, avoidable, amortized, tokens_per_s)  # type: ignore[arg-type]


def _bought(found: Found) -> list[document.Supply]:
    """APIs that any profile may use, at the mean lengths of the trace."""
    asked, requests = found.asked, found.requests
    assert requests is not None  # noqa: S101 - priced first
    usage = Usage(round(requests.input_tokens_mean), 0, max(1, round(requests.output_tokens_mean)))
    offers = site_of(asked.config, asked.scenario.profiles, EPOCH_S).priced(EPOCH_S).offers
    used = {offer.id: offer for profile in asked.scenario.profiles for offer in api_offers(profile, offers)}
    tokens = usage.input_tokens + usage.output_tokens
    return [_supply(o.id, "api", o.rate.usd(o.expected(usage)) / tokens * _MTOK, None, None) for o in used.values()]


def switches(found: Found, model: Model, choice: Choice) -> tuple[document.ModelSwitch, ...]:
    """For every profile with a home: USD per million tokens there and at the cheapest API, and where they cross."""
    assert found.requests is not None  # noqa: S101 - priced first
    offers = site_of(found.asked.config, found.asked.scenario.profiles, EPOCH_S).priced(EPOCH_S).offers
    units = {unit.name: unit for unit in model.units}
    rows = []
    for pool in found.requests.pools:
        served = [(i, t) for i, t in enumerate(pool.technologies) if t.name in units]
        for index in np.unique(pool.profile):
            if served:
                place, technology = served[0]
                rows.append(_switch(found, pool, int(index), place, model.money(units[technology.name]), offers))
    return tuple(rows)


def _switch(
    found: Found, pool: PoolRequests, index: int, place: int, money: UnitMoney, offers: tuple[Offer, ...]
) -> document.ModelSwitch:
    profile, technology = found.asked.scenario.profiles[index], pool.technologies[place]
    rows = (pool.profile == index) & np.isfinite(pool.work_s[place])
    tokens = float(pool.input_tokens[rows].sum(dtype=float) + pool.output_tokens[rows].sum(dtype=float))
    hours = found.asked.window.span_s / _HOUR_S
    mtok_per_day = tokens * pool.stands_for / _MTOK / hours * 24.0
    ways = (money.owned_usd_per_hour, money.reserved_usd_per_hour, money.rented_usd_per_hour)
    usd_per_hour = min(usd for usd in ways if usd is not None)
    mtok_per_hour = (
        tokens / max(1e-12, float(pool.work_s[place, rows].sum(dtype=float))) * _HOUR_S / _MTOK * money.usable
    )
    energy = float(pool.energy_usd[place, rows].sum(dtype=float)) / max(1.0, tokens) * _MTOK
    home = Home(technology.model, usd_per_hour, mtok_per_hour, energy)
    apis = api_offers(profile, offers)
    away = there = None
    if apis:
        usage = Usage(
            round(float(pool.input_tokens[rows].mean())), 0, max(1, round(float(pool.output_tokens[rows].mean())))
        )
        cheapest = min(apis, key=lambda offer: offer.rate.usd(offer.expected(usage)))
        there = float(pool.elsewhere_usd[rows].sum(dtype=float)) / max(1.0, tokens) * _MTOK
        away = Away(cheapest.model, there)
    here = usd_per_hour / mtok_per_hour + energy
    at = crossing(home, away) if away is not None else None
    crossing_mtok = at.first_mtok_per_day if at is not None else None
    return document.ModelSwitch(
        profile=profile.name, model_here=technology.model, model_there=away.model if away is not None else "",
        here_usd_per_mtok=here, there_usd_per_mtok=there, mtok_per_day=mtok_per_day, crossing_mtok_per_day=crossing_mtok,
        advice=_advice(there, here, crossing_mtok, mtok_per_day),
    )  # fmt: skip


def _advice(there: float | None, here: float, crossing_mtok: float | None, mtok_per_day: float) -> str:
    if there is None:
        return "at home: nothing else may serve it"
    if crossing_mtok is None:
        return "buy: a full replica of its own costs more than the API"
    if mtok_per_day >= crossing_mtok:
        return "at home: its own traffic pays for a replica"
    return "at home beside others: alone it would not fill a replica" if here < there else "buy"


def present_value(model: Model, choice: Choice) -> document.Npv | None:
    """Owning what the plan owns over its life against buying everything; None where nothing is owned."""
    hardware = [(unit.technology.hardware, n) for unit, n in zip(model.units, choice.owned, strict=True)]
    own = [(of, n) for of, n in hardware if of is not None and n]
    if not own:
        return None
    spec = model.spec
    life = min(of.amortization_years for of, _ in own)
    few = replace(model, drawn=model.drawn[:: max(1, len(model.drawn) // _SCENARIOS)])
    held = math.fsum(
        n * max(0.0, (unit.technology.owned_usd_per_hour or 0.0) - unit.technology.idle_usd_per_hour)
        for unit, n in zip(model.units, choice.owned, strict=True)
    )
    saved = []
    for year in range(math.ceil(life)):
        changes = (spec.growth_per_year, spec.api_price_per_year, spec.power_price_per_year)
        levers = Levers(*((1.0 + of.mean) ** year for of in changes))
        bought = few.all_api_usd_per_hour(levers).mean()
        running = few.of(choice.owned, choice.reserved, levers).usd_per_hour.mean() - held
        saved.append(float(bought - running) * _HOURS_PER_YEAR)
    return npv.npv_of(
        math.fsum(n * of.purchase_price_usd for of, n in own), saved,
        math.fsum(n * math.fsum(onprem.opex_usd_per_year(of).values()) for of, n in own),
        math.fsum(n * of.purchase_price_usd * of.residual_share for of, n in own), spec.discount_rate, life,
    )  # fmt: skip


def energy(found: Found, model: Model, choice: Choice, parts: list[Parts]) -> document.EnergyUse:
    """Kilowatt-hours of a year: the slope of what is served at home, and idle power of what is had."""
    config = found.asked.config
    usd_per_kwh = _usd_per_kwh(found)
    pue = max((site.electricity.pue for site in config.sites), default=1.0)
    had = zip(model.units, choice.owned, choice.reserved, strict=True)
    idle_kw = sum((owned + reserved) * unit.technology.idle_watts for unit, owned, reserved in had) / 1e3 * pue
    served_usd = sum(part.costs.energy for part in parts)
    slope_kw = served_usd / usd_per_kwh if usd_per_kwh else 0.0
    kwh = (idle_kw + slope_kw) * _HOURS_PER_YEAR
    tokens_per_hour = sum(unit.tokens * unit.stands_for for unit in model.units) / model.requests.hours
    return document.EnergyUse(
        kwh_per_year=kwh, usd_per_year=kwh * usd_per_kwh, kg_co2_per_year=None,
        joules_per_token=(idle_kw + slope_kw) * 3.6e6 / max(1.0, tokens_per_hour), grams_co2_per_kwh=None,
    )  # fmt: skip


def _usd_per_kwh(found: Found) -> float:
    priced = site_of(found.asked.config, found.asked.scenario.profiles, EPOCH_S).priced(EPOCH_S).pools
    return next((pool.tariff.usd_per_kwh for pool in priced.values()), 0.0)


def expected(found: Found, model: Model, choice: Choice) -> document.Expected | None:
    """What gateways should see while the plan fits: the trace as it is, under the policy as it was played."""
    played, requests = found.played, model.requests
    if played is None:
        return None
    per_hour = requests.count / requests.hours
    mtok_bought = played.burst_share * per_hour * (requests.input_tokens_mean + requests.output_tokens_mean) / _MTOK
    api, energy_usd = sum(played.api_usd_per_hour.values()), sum(played.energy_usd_per_hour.values())
    fixed = 0.0
    for unit, owned, reserved in zip(model.units, choice.owned, choice.reserved, strict=True):
        t = unit.technology
        fixed += owned * (t.owned_usd_per_hour or 0.0) + reserved * (t.reserved_usd_per_hour or 0.0)
    return document.Expected(
        usd_per_hour=fixed + api + energy_usd, usd_api_per_hour=api, usd_energy_per_hour=energy_usd,
        requests_per_hour=per_hour, burst_share=played.burst_share, slo_attainment=played.slo_attainment,
        input_tokens_mean=requests.input_tokens_mean, output_tokens_mean=requests.output_tokens_mean,
        api_usd_per_mtok=api / mtok_bought if mtok_bought > 0.0 else 0.0,
    )  # fmt: skip
