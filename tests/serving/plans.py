"""Plans to show: one pool, several, a partial one, one that owns nothing, and any of them in other orders of magnitude.

Figures belong together: costs add up, curves meet what is owned, a finalist is the plan that is chosen.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec
import numpy as np

from scheduler.planning.document import (
    Assumption,
    Costs,
    Curve,
    EnergyUse,
    Expected,
    Finalist,
    LoadDuration,
    ModelSwitch,
    Npv,
    Outcome,
    OwnedCost,
    Plan,
    PoolPlan,
    Screening,
    Sensitivity,
    Sizing,
    Spread,
    Supply,
    TraceFacts,
    Week,
    YearNpv,
)

_HOURS = 168


class Need(NamedTuple):
    """What a pool of a test is asked for, in replicas at the peak, and what it has of each supply."""

    name: str
    gpu: str
    gpus_per_replica: float
    peak: float
    owned: int
    reserved: int
    rented: int
    owned_now: int = 0


CHAT = Need("chat-70b", "H100 SXM", 4, 6.4, 3, 1, 2, 2)
CODE = Need("code-32b", "H200", 2, 2.7, 1, 0, 1, 2)
MAIL = Need("mail-8b", "L40S", 1, 9.3, 7, 0, 0)


def spread(mean: float) -> Spread:
    """A usual spread around a mean."""
    return Spread(mean, 0.88 * mean, 0.98 * mean, 1.14 * mean, 1.27 * mean)


def load_of(need: Need, phase_h: int) -> np.ndarray:
    """Replicas by hour of the week: days with an afternoon's peak, quieter at the weekend."""
    hour = np.arange(_HOURS)
    daily = 0.25 + 0.75 * np.clip(np.sin(math.pi * ((hour + phase_h) % 24 - 6) / 15.0), 0.0, 1.0) ** 1.5
    return need.peak * daily * np.where(hour // 24 >= 5, 0.55, 1.0)


def week_of(need: Need, phase_h: int = 0) -> Week:
    """That load, served from what is owned and reserved first."""
    load = load_of(need, phase_h)
    base = np.minimum(load, need.owned + need.reserved)
    rented = np.minimum(load - base, need.rented)
    api = load - base - rented
    replicas = tuple(int(n) for n in need.owned + need.reserved + np.ceil(rented - 1e-9))
    parts = (tuple(float(n) for n in series) for series in (load, base, rented, api))
    return Week(need.name, *parts, replicas, 14.0)


def plan_of(needs: tuple[Need, ...], usd: float = 1.0, **changes: object) -> Plan:
    """A whole plan for these pools; every price is multiplied by ``usd``, any field replaced by ``changes``."""
    weeks = tuple(week_of(need, 3 * i) for i, need in enumerate(needs))
    pools = tuple(_pool(need, week, usd) for need, week in zip(needs, weeks, strict=True))
    costs = _costs(pools, weeks, usd)
    gpus = sum(pool.gpus_owned for pool in pools)
    all_api = sum(float(np.mean(week.load)) * 14.0 * usd for week in weeks)
    replicas = {pool.name: pool.owned for pool in pools}
    fields: dict[str, object] = {
        "made_at": "2026-11-22T09:00:00Z",
        "partial": False,
        "warnings": (),
        "trace": TraceFacts("azure-2024", "requests", 1_204_731, 1.21e6, 1.0, 312, 1432.0, 241.0, 0.996, 7.31),
        "horizon_years": 1.0,
        "pools": pools,
        "costs": costs,
        "usd_per_hour": spread(costs.total),
        "all_api_usd_per_hour": all_api,
        "expected": Expected(
            costs.api + costs.energy, costs.api, costs.energy, 3585.0, 0.061, 0.9962, 1432.0, 241.0, 0.92 * usd
        ),
        "finalists": _finalists(replicas, costs.total),
        "sizings": _sizings(replicas, gpus, costs.total, all_api),
        "owned_costs": _owned_costs(gpus, costs.total, all_api),
        "load_duration": tuple(_duration(need, week) for need, week in zip(needs, weeks, strict=True)),
        "screening": tuple(_screening(pool, usd) for pool in pools),
        "weeks": weeks,
        "merit_order": _merit_order(pools, usd),
        "sensitivity": _sensitivity(gpus, costs.total),
        "npv": _npv(gpus, costs, all_api) if gpus else None,
        "energy": EnergyUse(costs.energy * 8760 / 0.11 / usd, costs.energy * 8760, 31_400.0, 0.412, 365.0),
        "switches": _switches(pools, usd),
        "assumptions": ASSUMPTIONS,
        "what_if": (
            Outcome("api_price_per_year: -0.5", max(0.0, gpus - 4), replicas, spread(0.9 * costs.total), 0.18),
            Outcome("load_factor: 2", 2 * gpus, {k: 2 * n for k, n in replicas.items()}, spread(1.8 * costs.total), 0.05,
                    "every pool doubles"),
        ),
    }  # fmt: skip
    return Plan(**{**fields, **changes})  # type: ignore[arg-type]


def _pool(need: Need, week: Week, usd: float) -> PoolPlan:
    gpus, base = need.gpus_per_replica, need.owned + need.reserved
    used = sum(week.base) / (base * _HOURS) if base else 0.0
    return PoolPlan(
        need.name, need.name, f"{need.name}-model", need.gpu, gpus, need.owned, need.reserved, need.rented, need.owned_now,
        1.12 * gpus * usd, 1.9 * gpus * usd if need.reserved else None, 2.6 * gpus * usd, 0.11 * gpus * usd, used, 0.39,
        5400.0 * gpus,
    )  # fmt: skip


def _costs(pools: tuple[PoolPlan, ...], weeks: tuple[Week, ...], usd: float) -> Costs:
    return Costs(
        sum(pool.owned * (pool.owned_usd_per_hour or 0.0) for pool in pools),
        sum(pool.reserved * (pool.reserved_usd_per_hour or 0.0) for pool in pools),
        sum(float(np.mean(w.rented)) * (p.rented_usd_per_hour or 0.0) for p, w in zip(pools, weeks, strict=True)),
        sum(float(np.mean(w.base)) * p.energy_usd_per_hour for p, w in zip(pools, weeks, strict=True)),
        sum(float(np.mean(week.api)) * 14.0 * usd for week in weeks),
    )


def _duration(need: Need, week: Week) -> LoadDuration:
    # Both ends of each hour: the line is a staircase.
    shares = tuple(place / _HOURS for i in range(_HOURS) for place in (i, i + 1))
    curve = Curve(shares, tuple(load for load in sorted(week.load, reverse=True) for _ in range(2)))
    return LoadDuration(need.name, curve, need.owned, need.reserved, need.rented)


def _screening(pool: PoolPlan, usd: float) -> Screening:
    energy, x = pool.energy_usd_per_hour, (0.0, 0.25, 0.5, 0.75, 1.0)
    own, rent, api = pool.owned_usd_per_hour or 0.0, pool.rented_usd_per_hour or 0.0, 14.0 * usd
    lines = (
        ("owned", Curve(x, tuple(own + u * energy for u in x))),
        ("rented", Curve(x, tuple(u * (rent + energy) for u in x))),
        ("api", Curve(x, tuple(u * api for u in x))),
    )
    by_use = min(rent + energy, api)
    first = "rented" if rent + energy < api else "api"
    return Screening(pool.pool, lines, ((0.0, first), (own / (by_use - energy), "owned")))


def _merit_order(pools: tuple[PoolPlan, ...], usd: float) -> tuple[Supply, ...]:
    steps = []
    for i, pool in enumerate(pools):
        owned, energy = 0.31 + 0.07 * i, 0.021 + 0.004 * i
        if pool.owned:
            steps.append(Supply(pool.name, "owned", energy * usd, owned * usd, pool.owned * pool.tokens_per_s_max))
        if pool.reserved:
            steps.append(Supply(pool.name, "reserved", energy * usd, 0.5 * usd, pool.tokens_per_s_max))
        if pool.rented_max:
            steps.append(Supply(pool.name, "rented", 0.38 * usd, 0.38 * usd, None))
    steps.append(Supply("openrouter/meta-llama/llama-3.3-70b-instruct", "api", 0.88 * usd, None, None))
    steps.append(Supply("azure/gpt-large", "api", 4.4 * usd, None, 12_000.0))
    return tuple(steps)


def _sizings(replicas: dict[str, int], gpus: float, total: float, all_api: float) -> tuple[Sizing, ...]:
    given = (
        ("plan", 1.0, total),
        ("mean", 0.7, 1.13 * total),
        ("p95", 1.4, 1.09 * total),
        ("peak", 1.9, 1.31 * total),
        ("none", 0.0, all_api),
        ("now", 0.7, 1.13 * total),
    )
    size = gpus or 4.0  # where nothing is best to own, other ways to size own a replica
    return tuple(
        Sizing(
            name, round((gpus if name == "plan" else size) * part), {pool: round(n * part) for pool, n in replicas.items()},
            spread(cost),
        )
        for name, part, cost in given
    )  # fmt: skip


def _owned_costs(gpus: float, total: float, all_api: float) -> tuple[OwnedCost, ...]:
    if not gpus:
        return tuple(OwnedCost(float(n), spread(total + 0.06 * n * total)) for n in range(0, 13, 2))
    per_gpu = (all_api - total) / gpus**2
    return tuple(
        OwnedCost(n, spread(total + per_gpu * (n - gpus) ** 2 * (1.0 if n < gpus else 0.4)))
        for n in np.linspace(0.0, 2.0 * gpus, 21).tolist()
    )


def _sensitivity(gpus: float, total: float) -> tuple[Sensitivity, ...]:
    def one(what: str, unit: str, ends: tuple[float, float], costs: tuple[float, float], owned: float) -> Sensitivity:
        return Sensitivity(what, unit, *ends, costs[0] * total, costs[1] * total, max(0.0, gpus - owned), gpus + owned)

    return (
        one("load", "of what is planned", (0.8, 1.2), (0.83, 1.48), 4),
        one("API prices", "of today's", (0.7, 1.3), (0.9, 1.06), 2),
        one("price of hardware", "of what is assumed", (0.75, 1.25), (0.92, 1.1), 2),
        one("availability of owned replicas", "share of the time", (0.97, 0.999), (1.04, 0.99), 0),
        one("price of power", "USD/kWh", (0.08, 0.31), (0.98, 1.05), 0),
        one("interest", "", (-0.04, 0.12), (1.01, 1.03), 0),
    )


def _npv(gpus: float, costs: Costs, all_api: float) -> Npv:
    paid, rate = 31_000.0 * gpus * costs.owned / max(costs.owned, 1e-300), 0.08
    yearly = (all_api - costs.total + costs.owned) * 8760.0
    rows, sum_usd, back = [YearNpv(0.0, -paid, -paid, -paid)], -paid, None
    for year in range(1, 6):
        present = yearly / (1.0 + rate) ** year
        if back is None and sum_usd + present >= 0.0:
            back = year - 1 + -sum_usd / present
        sum_usd += present
        rows.append(YearNpv(float(year), yearly, present, sum_usd))
    return Npv(rate, tuple(rows), sum_usd, back)


def _finalists(replicas: dict[str, int], total: float) -> tuple[Finalist, ...]:
    more = {name: n + 1 for name, n in replicas.items()}
    return (
        Finalist(replicas, "kernel", 336.0, 1_204_731, total, 1.021 * total, 0.061, 0.9962, True),
        Finalist(more, "kernel", 336.0, 1_204_731, 1.012 * total, 1.026 * total, 0.031, 0.9981, False),
        Finalist(replicas, "exact", 6.0, 21_503, total, 1.034 * total, 0.064, 0.9957, True),
    )


def _switches(pools: tuple[PoolPlan, ...], usd: float) -> tuple[ModelSwitch, ...]:
    told = []
    for i, pool in enumerate(pools):
        crossing = 29.0 if i % 3 == 0 else 61.0 if i % 3 == 1 else None
        advice = "keep at home" if i % 3 == 0 else "buy until traffic doubles" if i % 3 == 1 else "must stay at home"
        there = (0.88 + i) * usd if crossing else None
        told.append(
            ModelSwitch(f"{pool.name} short", pool.model, "gpt-large", 0.52 * usd, there, 44.0, crossing, advice)
        )
    return tuple(told)


ASSUMPTIONS = (
    Assumption("service curve of chat-70b", "15.3 + 0.107 × running", "ms", "measured", "Llama-70B on 4 H100", "2026-10-01"),
    Assumption("price of a GPU", "31,000", "USD", "assumed", "cluster.yaml, hardware.capex_usd"),
    Assumption("growth of load", "0.15 ± 0.10", "a year", "assumed", "cluster.yaml, planning.growth_per_year"),
    Assumption("idle power", "96", "W", "calibrated", "meter of node-1", "2026-11-20"),
    Assumption("work of a request", "prefill + b × output", "", "modelled", "docs/service-curves.md"),
)  # fmt: skip


def one_pool(**changes: object) -> Plan:
    """Everything there is, for one pool."""
    return plan_of((CHAT,), **changes)


def three_pools(**changes: object) -> Plan:
    """Three pools of different size."""
    return plan_of((CHAT, CODE, MAIL), **changes)


def twelve_pools(**changes: object) -> Plan:
    """As many pools as a large site has."""
    kinds = (CHAT, CODE, MAIL)
    return plan_of(tuple(kinds[i % 3]._replace(name=f"{kinds[i % 3].name}-{i:02}") for i in range(12)), **changes)


def nothing_owned() -> Plan:
    """A pool whose load is too small to own anything."""
    return plan_of((CHAT._replace(peak=0.3, owned=0, reserved=0, rented=0),))


def stopped() -> Plan:
    """A plan that was stopped after the search: what comes later is missing."""
    whole = three_pools()
    missing = dict.fromkeys(("finalists", "sensitivity", "switches", "what_if", "merit_order", "weeks"), ())
    warnings = ("Only 9 h of trace: weekends are not seen.", "No carbon intensity is known for site rhine.")
    return msgspec.structs.replace(whole, partial=True, warnings=warnings, npv=None, energy=None, **missing)
