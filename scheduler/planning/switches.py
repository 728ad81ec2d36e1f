"""Own replicas or an API for one kind of request: USD per million tokens of both, and the traffic at which they cross.

With n = ceil(traffic / full) replicas, a day at home costs n * 24 * usd_per_hour + traffic * energy; bought, traffic * price.
If one full replica is cheaper, home wins from 24 * usd_per_hour / (price - energy) on; just after a step of n it may lose
again, until n of them carry the one that is not full: n * full * (price - energy) >= (n + 1) * 24 * usd_per_hour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from pricing import bases
from pricing.bases import EnergyInUse
from scheduler.core.supply import Rate, ServiceCurve, Usage
from scheduler.planning import document

_HOURS_PER_DAY = 24.0
_MTOK = 1e6
_ROUNDING = 1e-9
_NEAR = 0.05  # of the price: closer than that, the figures behind it are not good enough to tell


@dataclass(frozen=True, slots=True)
class Home:
    """Own replicas for one kind of request. USD per hour of one (amortized, with idle power), energy above idle per Mtok.

    ``mtok_per_hour``: what one serves at most, as full as plans may count on.
    """

    model: str
    usd_per_hour: float
    mtok_per_hour: float
    energy_usd_per_mtok: float


@dataclass(frozen=True, slots=True)
class Away:
    """An API for it; ``usd_per_mtok`` over input and output, as they come."""

    model: str
    usd_per_mtok: float


class Crossing(NamedTuple):
    """Mtok per day from which own replicas are cheaper: first, and for good (None: each further one begins dearer again)."""

    first_mtok_per_day: float
    always_mtok_per_day: float | None


class MakeOrBuy(NamedTuple):
    """One workload. ``choice``: the model to take; ``replicas``: 0 if it is bought. USD per day of the best of both kinds.

    ``make_usd_per_day`` and ``crossing`` are of ``home``, the cheapest to make it with. ``advice`` says why.
    """

    choice: str
    replicas: int
    home: str | None
    make_usd_per_day: float | None
    buy_usd_per_day: float | None
    utilization: float | None
    crossing: Crossing | None
    advice: str


def home_of(
    model: str, curve: ServiceCurve, energy: EnergyInUse, usage: Usage, usd_per_hour: float, usd_per_joule: float,
    usable: float = 1.0,
) -> Home:  # fmt: skip
    """A replica for requests like ``usage``, which is one of them. ``usable``: share of its time to plan with.

    Raises ValueError where nothing of them is computed.
    """
    mix = bases.mix_of(curve, energy, usage, replace(curve, ttft_base_s=0.0).work_s(usage))
    return Home(model, usd_per_hour, mix.mtok_per_hour * usable, bases.avoidable(mix, usd_per_joule).blended)


def away_of(model: str, rate: Rate, usage: Usage) -> Away:
    """An API for requests like ``usage``, which is one: tiers and prices per request count. ValueError without tokens."""
    tokens = usage.input_tokens + usage.output_tokens
    if tokens <= 0:
        raise ValueError("a request without tokens has no price for each of them")
    return Away(model, rate.usd(usage) / tokens * _MTOK)


def crossing(home: Home, away: Away) -> Crossing | None:
    """Where ``home`` becomes cheaper than ``away``, replicas being whole; None: at no traffic.

    >>> crossing(Home("own", 1.0, 2.0, 0.1), Away("api", 0.85))
    Crossing(first_mtok_per_day=32.0, always_mtok_per_day=64.0)
    """
    margin_usd = away.usd_per_mtok - home.energy_usd_per_mtok
    day_usd, full_usd = _HOURS_PER_DAY * home.usd_per_hour, _HOURS_PER_DAY * home.mtok_per_hour * margin_usd
    if margin_usd <= 0.0 or day_usd > full_usd:
        return None
    if math.isinf(full_usd):
        return Crossing(day_usd / margin_usd, day_usd / margin_usd)
    spare_usd = full_usd - day_usd
    if spare_usd <= _ROUNDING * full_usd:
        return Crossing(day_usd / margin_usd, None)
    whole = max(1, math.ceil(day_usd / spare_usd - _ROUNDING))
    return Crossing(day_usd / margin_usd, whole * day_usd / margin_usd)


def make_usd_per_day(home: Home, mtok_per_day: float, peak_to_mean: float = 1.0) -> tuple[int, float]:
    """Replicas for this traffic, and USD of a day with them. ``peak_to_mean``: busiest hour over the mean one.

    >>> make_usd_per_day(Home("own", 1.0, 2.0, 0.1), 60.0)
    (2, 54.0)
    """
    replicas = math.ceil(mtok_per_day * peak_to_mean / (_HOURS_PER_DAY * home.mtok_per_hour) - _ROUNDING)
    return replicas, replicas * _HOURS_PER_DAY * home.usd_per_hour + mtok_per_day * home.energy_usd_per_mtok


def make_or_buy(
    mtok_per_day: float, homes: Sequence[Home], aways: Sequence[Away], peak_to_mean: float = 1.0
) -> MakeOrBuy:
    """Whether to make or to buy a new workload that is served from one place alone; the cheapest of each kind is compared.

    ``homes`` and ``aways`` are those that may serve it, made for its mix (``home_of``, ``away_of``). At the same cost it is
    bought. Raises ValueError where nothing may serve it, or for a traffic that is none.
    """
    if not homes and not aways:
        raise ValueError("nothing may serve this workload")
    if not (mtok_per_day > 0.0 and peak_to_mean >= 1.0):
        raise ValueError(f"{mtok_per_day} Mtok per day at {peak_to_mean} times the mean is no workload")
    away = min(aways, key=lambda one: one.usd_per_mtok, default=None)
    home = min(homes, key=lambda one: make_usd_per_day(one, mtok_per_day, peak_to_mean)[1], default=None)
    buy_usd = away.usd_per_mtok * mtok_per_day if away is not None else None
    if home is None:
        assert away is not None  # noqa: S101 - one of the two is there
        return MakeOrBuy(away.model, 0, None, None, buy_usd, None, None, f"buy {away.model}: nothing else may serve it")
    replicas, make_usd = make_usd_per_day(home, mtok_per_day, peak_to_mean)
    full = replicas * _HOURS_PER_DAY * home.mtok_per_hour
    # More for the peak than for the mean is as if each replica served less.
    held = Home(home.model, home.usd_per_hour, home.mtok_per_hour / peak_to_mean, home.energy_usd_per_mtok)
    at = crossing(held, away) if away is not None else None
    utilization = mtok_per_day / full if math.isfinite(full) and full else 0.0
    if away is None or buy_usd is None:
        advice = f"make it with {home.model}: nothing else may serve it"
        return MakeOrBuy(home.model, replicas, home.model, make_usd, None, utilization, None, advice)
    makes = make_usd < buy_usd
    advice = f"{'make' if makes else 'buy'} it: {make_usd:.2f} USD a day at home, {buy_usd:.2f} at {away.model}"
    if not makes:
        advice += "; " + (f"own pays from {at.first_mtok_per_day:.4g} Mtok a day" if at else "own pays at no traffic")
    choice = home.model if makes else away.model
    return MakeOrBuy(choice, replicas if makes else 0, home.model, make_usd, buy_usd, utilization, at, advice)


def switch(
    profile: str, model_here: str, home: Home | None, away: Away | None, mtok_per_day: float, utilization: float
) -> document.ModelSwitch:
    """One kind of request as planned. ``utilization``: of what the replicas that serve it could at most; 0: there are none.

    ``home`` None: nothing here serves it; ``away`` None: nothing else may.
    """
    here_usd = None
    if home is not None and utilization > 0.0:
        here_usd = home.usd_per_hour / (home.mtok_per_hour * utilization) + home.energy_usd_per_mtok
    at = crossing(home, away) if home is not None and away is not None else None
    return document.ModelSwitch(
        profile=profile,
        model_here=model_here,
        model_there=away.model if away is not None else "",
        here_usd_per_mtok=here_usd,
        there_usd_per_mtok=away.usd_per_mtok if away is not None else None,
        mtok_per_day=mtok_per_day,
        crossing_mtok_per_day=at.first_mtok_per_day if at is not None else None,
        advice=_advice(home, away, here_usd, at, mtok_per_day),
    )


def _advice(
    home: Home | None, away: Away | None, here_usd: float | None, at: Crossing | None, mtok_per_day: float
) -> str:
    if away is None:
        return "stay: nothing else may serve it" if home is not None else "nothing may serve it"
    if home is None:
        return f"buy {away.model}: nothing here serves it"
    if home.energy_usd_per_mtok >= away.usd_per_mtok:
        return f"buy {away.model}: energy alone costs as much here"
    if at is None:
        return f"buy {away.model}: cheaper than even a full replica"
    pays = f"own pays from {at.first_mtok_per_day:.4g} Mtok a day"
    if at.always_mtok_per_day is None or at.always_mtok_per_day > at.first_mtok_per_day * (1.0 + _ROUNDING):
        pays += ", with an API for what would not fill a replica"
    if here_usd is None:
        return f"buy {away.model}, as planned; {pays}"
    ratio = here_usd / away.usd_per_mtok
    if abs(ratio - 1.0) < _NEAR:
        return f"either: within {_NEAR:.0%} of each other; {pays}"
    if ratio < 1.0:
        return f"stay: {1.0 - ratio:.0%} cheaper than {away.model}"
    if mtok_per_day >= at.first_mtok_per_day:
        return f"stay with fewer replicas: {ratio - 1.0:.0%} dearer than {away.model} as full as they are; {pays}"
    return f"buy {away.model}: {1.0 - 1.0 / ratio:.0%} cheaper; {pays}"
