"""Make or buy for a single new workload, served from one place: replicas of its own here, or an API.

``NAME=INPUT,OUTPUT,MTOK``: tokens read and written per request, and millions of tokens a day, such as ``mail=1500,300,40``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from pricing.bases import EnergyInUse
from scheduler.config import ClusterConfig
from scheduler.core.supply import Usage
from scheduler.planning import document
from scheduler.planning.model import USABLE, Model
from scheduler.planning.switches import Away, Home, away_of, home_of, make_or_buy
from scheduler.planning.technologies import PlanError, Technology
from scheduler.simulation.scenario import EPOCH_S
from scheduler.simulation.site import site_of

_TOKENS_MAX = 10_000_000


class Workload(NamedTuple):
    """One kind of request, and its traffic in millions of tokens a day, read and written together."""

    name: str
    usage: Usage
    mtok_per_day: float


def read(text: str) -> Workload:
    """Raises PlanError for what is not of the form."""
    name, _, figures = (part.strip() for part in text.partition("="))
    try:
        read_tokens, written, mtok = (float(part) for part in figures.split(","))
    except ValueError:
        read_tokens = written = mtok = math.nan
    sizes = (read_tokens, written)
    if not name or not all(0 <= size <= _TOKENS_MAX and size.is_integer() for size in sizes) or not 0 < mtok < math.inf:
        raise PlanError(f"--workload {text!r}: not of the form NAME=INPUT,OUTPUT,MTOK, such as mail=1500,300,40")
    if not sum(sizes):
        raise PlanError(f"--workload {text!r}: a request without a token is no work")
    return Workload(name, Usage(int(read_tokens), 0, int(written)), mtok)


def answered(
    workload: Workload, config: ClusterConfig, technologies: Sequence[Technology], model: Model
) -> document.MakeOrBuy:
    """The cheapest way to make it beside the cheapest API whose context is long enough, whatever model either is."""
    offers = site_of(config, (), EPOCH_S).priced(EPOCH_S).offers
    tokens = workload.usage.input_tokens + workload.usage.output_tokens
    aways: list[Away] = [
        away_of(offer.id, offer.rate, offer.expected(workload.usage))
        for offer in offers
        if offer.kind == "api" and tokens <= offer.context_tokens
    ]
    homes = [_home(t, workload, model) for t in technologies if tokens <= t.context_tokens]
    if not homes and not aways:
        raise PlanError(
            f"--workload {workload.name}: {tokens:,} tokens are more than any context here or elsewhere holds"
        )
    found = make_or_buy(workload.mtok_per_day, homes, aways)
    return document.MakeOrBuy(
        name=workload.name, input_tokens=workload.usage.input_tokens, output_tokens=workload.usage.output_tokens,
        mtok_per_day=workload.mtok_per_day, choice=found.choice, replicas=found.replicas,
        make_usd_per_day=found.make_usd_per_day, buy_usd_per_day=found.buy_usd_per_day,
        own_from_mtok_per_day=found.crossing.first_mtok_per_day if found.crossing is not None else None,
        advice=found.advice,
    )  # fmt: skip


def _home(t: Technology, workload: Workload, model: Model) -> Home:
    ways = (t.owned_usd_per_hour, t.reserved_usd_per_hour, t.rented_usd_per_hour)
    energy = EnergyInUse(t.joules_per_input_token, t.joules_per_output_token, t.idle_watts, "modelled", 0.0)
    usable = min(1.0, model.usable.get(t.name, USABLE))
    usd_per_hour = min(usd for usd in ways if usd is not None)
    return home_of(t.name, t.curve, energy, workload.usage, usd_per_hour, t.usd_per_joule, usable)
