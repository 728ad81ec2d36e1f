"""What a plan comes to in money: bills by part, merit order, switches, present value, what gateways should see."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pricing import onprem
from scheduler.core.supply import Offer, Usage
from scheduler.planning import document, npv
from scheduler.planning.found import Found
from scheduler.planning.model import Choice, Levers, Model
from scheduler.planning.recourse import Parts
from scheduler.planning.requests import PoolRequests
from scheduler.planning.shortage import billed
from scheduler.planning.switches import Away, Home, switch
from scheduler.planning.technologies import Technology
from scheduler.planning.units import Unit, placed
from scheduler.planning.week_hours import requests_by_hour
from scheduler.simulation.scenario import EPOCH_S, api_offers
from scheduler.simulation.site import site_of

_HOUR_S = 3600.0
_MTOK = 1e6
_SCENARIOS = 20
_NO_USE = 1000.0
_UTILIZATION_MIN = 1e-3
_HOURS_PER_YEAR = onprem.HOURS_PER_YEAR


def pool_plans(
    model: Model, choice: Choice, parts: list[Parts], technologies: Sequence[Technology]
) -> tuple[document.PoolPlan, ...]:
    """Every technology, with what to have of it; those without requests have nothing."""
    by_name = {unit.name: index for index, unit in enumerate(model.units)}
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
                breakeven_utilization=_breakeven(unit) if unit is not None else None,
                tokens_per_s_max=tokens_per_s,
            )
        )  # fmt: skip
    return tuple(found)


def _carried(model: Model, index: int, owned: int, reserved: int) -> float:
    """Mean replicas' worth of work that owned and reserved ones carry."""
    surface, money = model.surfaces[index], model.money(model.units[index])
    share = np.diff(model.edges_s) / (model.edges_s[-1] - model.edges_s[0])
    return float(share @ np.minimum(surface.load, (owned + reserved) * money.usable))


def _breakeven(unit: Unit) -> float | None:
    """Share of its time for which an owned replica has to work to cost no more than the APIs that it replaces.

    Above 1: it never pays, and no use of it saves anything at ``_NO_USE``. None: it is not to be owned, or nothing may leave.
    """
    owned = unit.technology.owned_usd_per_hour
    may = np.isfinite(unit.elsewhere_usd)
    work_s = float(unit.work_s[may].sum(dtype=float))
    if owned is None or not work_s:
        return None
    margin = float((unit.elsewhere_usd[may] - unit.energy_usd[may]).sum(dtype=float)) / work_s * _HOUR_S
    return min(_NO_USE, owned / margin) if margin > 0.0 else _NO_USE


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


def switches(found: Found, model: Model, choice: Choice, parts: Sequence[Parts]) -> tuple[document.ModelSwitch, ...]:
    """For every profile with a home: USD per million tokens there and at the cheapest API, and where they cross.

    Home is the technology on which most of its tokens are placed.
    """
    assert found.requests is not None  # noqa: S101 - priced first
    offers = site_of(found.asked.config, found.asked.scenario.profiles, EPOCH_S).priced(EPOCH_S).offers
    by_name = {unit.name: index for index, unit in enumerate(model.units)}
    rows = []
    for pool in found.requests.pools:
        chosen = placed(pool, model.placements.get(pool.pool, {}))
        tokens = pool.input_tokens.astype(float) + pool.output_tokens
        for index in np.unique(pool.profile):
            own = pool.profile == index
            place = int(np.argmax(np.bincount(chosen[own], tokens[own], len(pool.technologies))))
            rows_here = own & (chosen == place) & np.isfinite(pool.work_s[place])
            unit = by_name.get(pool.technologies[place].name)
            if unit is None or not rows_here.any():
                continue
            profile = found.asked.scenario.profiles[index]
            home, utilization = _home(model, choice, parts, unit, (pool, place, rows_here))
            rows.append(
                switch(
                    profile.name, home.model, home, _away(pool, rows_here, api_offers(profile, offers)),
                    float(tokens[own].sum()) * pool.stands_for / _MTOK / model.requests.hours * 24.0, utilization,
                )
            )  # fmt: skip
    return tuple(rows)


def _home(
    model: Model, choice: Choice, parts: Sequence[Parts], index: int, of: tuple[PoolRequests, int, np.ndarray]
) -> tuple[Home, float]:
    """A replica of a unit for these rows, at what those that are had cost, and how full they are of what they can be.

    Where all are rented they are as full as they can be; 0: there are none.
    """
    unit, (pool, place, rows) = model.units[index], of
    owned, reserved = choice.owned[index], choice.reserved[index]
    money, had = model.money(unit), owned + reserved
    tokens = float(pool.input_tokens[rows].sum(dtype=float) + pool.output_tokens[rows].sum(dtype=float))
    work_s = float(pool.work_s[place, rows].sum(dtype=float))
    mtok_per_hour = tokens / max(1e-12, work_s) * _HOUR_S / _MTOK * money.usable
    energy = float(pool.energy_usd[place, rows].sum(dtype=float)) / max(1.0, tokens) * _MTOK
    utilization = 1.0 if parts[index].rented_max else 0.0
    ways = (money.owned_usd_per_hour, money.reserved_usd_per_hour, money.rent_usd_per_hour())
    usd_per_hour = min(usd for usd in ways if usd is not None)
    if had:
        usd_per_hour = (owned * (ways[0] or 0.0) + reserved * (ways[1] or 0.0)) / had
        utilization = max(_UTILIZATION_MIN, _carried(model, index, owned, reserved) / (had * money.usable))
    elif utilization:
        usd_per_hour = money.rent_usd_per_hour()
    return Home(unit.technology.model, usd_per_hour, mtok_per_hour, energy), utilization


def _away(pool: PoolRequests, rows: np.ndarray, apis: Sequence[Offer]) -> Away | None:
    """What those of these rows that may leave cost elsewhere, under the name of what is cheapest at their mean lengths."""
    may = rows & np.isfinite(pool.elsewhere_usd)
    if not apis or not may.any():
        return None
    inputs, outputs = (of[may].astype(float) for of in (pool.input_tokens, pool.output_tokens))
    usage = Usage(round(float(inputs.mean())), 0, max(1, round(float(outputs.mean()))))
    cheapest = min(apis, key=lambda offer: offer.rate.usd(offer.expected(usage)))
    usd = float(pool.elsewhere_usd[may].sum(dtype=float))
    return Away(cheapest.model, usd / max(1.0, float((inputs + outputs).sum())) * _MTOK)


def present_value(model: Model, choice: Choice) -> document.Npv | None:
    """Owning what the plan owns over its life against buying everything; None where nothing is owned.

    Scenarios are of the first year; later ones move them by the mean changes.
    """
    hardware = [(unit.technology.hardware, n) for unit, n in zip(model.units, choice.owned, strict=True)]
    own = [(of, n) for of, n in hardware if of is not None and n]
    if not own:
        return None
    spec = model.spec
    life = min(of.amortization_years for of, _ in own)
    year_spec = spec.model_copy(update={"horizon_years": 1.0})
    count = min(_SCENARIOS, len(model.drawn))
    few = model.under(year_spec, count)
    held = math.fsum(
        n * max(0.0, (unit.technology.owned_usd_per_hour or 0.0) - unit.technology.idle_usd_per_hour)
        for unit, n in zip(model.units, choice.owned, strict=True)
    )
    saved = []
    for year in range(math.ceil(life)):
        changes = (spec.growth_per_year, spec.api_price_per_year, spec.power_price_per_year)
        levers = Levers(*((1.0 + of.mean) ** year for of in changes))
        bought = few.all_api_usd_per_hour(levers).mean()
        running = billed(few, few.of(choice.owned, choice.reserved, levers), levers).mean() - held
        saved.append(float(bought - running) * _HOURS_PER_YEAR)
    return npv.npv_of(
        math.fsum(n * of.purchase_price_usd for of, n in own), saved,
        math.fsum(n * math.fsum(onprem.opex_usd_per_year(of).values()) for of, n in own),
        math.fsum(n * of.purchase_price_usd * of.residual_share for of, n in own), spec.discount_rate, life,
    )  # fmt: skip


def expected(found: Found, model: Model, choice: Choice) -> document.Expected | None:
    """What gateways should see while the plan fits: the trace as it is, under the policy as it was played."""
    played, requests = found.played, model.requests
    if played is None:
        return None
    per_hour, trace = requests.count / requests.hours, found.asked.scenario.trace
    of_week = requests_by_hour(trace.arrival_s, requests.window, found.asked.begins_s, requests.count)
    api, energy_usd = sum(played.api_usd_per_hour.values()), sum(played.energy_usd_per_hour.values())
    bought, fixed = played.bought_mtok_per_hour, sum(found.rent_usd_per_hour.values())
    for unit, owned, reserved in zip(model.units, choice.owned, choice.reserved, strict=True):
        t = unit.technology
        fixed += owned * (t.owned_usd_per_hour or 0.0) + reserved * (t.reserved_usd_per_hour or 0.0)
    return document.Expected(
        usd_per_hour=fixed + api + energy_usd, usd_api_per_hour=api, usd_energy_per_hour=energy_usd,
        requests_per_hour=per_hour, burst_share=played.burst_share, slo_attainment=played.slo_attainment,
        input_tokens_mean=requests.input_tokens_mean, output_tokens_mean=requests.output_tokens_mean,
        api_usd_per_mtok=api / bought if bought > 0.0 else 0.0, requests_by_hour_of_week=of_week,
    )  # fmt: skip
