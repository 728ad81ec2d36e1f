"""What a plan says, as data: plan.json is this, and the report is drawn from nothing else.

USD, seconds, replicas; shares are fractions. Costs per hour are means over the planned hours. ``amortized`` money (owning,
renting) and ``avoidable`` money (energy, APIs) are told apart in every sum.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from scheduler.planning.costs import Costs
from scheduler.planning.curves import (
    Curve,
    LoadDuration,
    Npv,
    OwnedCost,
    Screening,
    Sensitivity,
    Spread,
    Supply,
    Week,
    YearNpv,
)

FORMAT = 1

__all__ = [
    "Assumption",
    "Costs",
    "Curve",
    "EnergyUse",
    "Expected",
    "Finalist",
    "LoadDuration",
    "MakeOrBuy",
    "ModelSwitch",
    "Npv",
    "Outcome",
    "OwnedCost",
    "Plan",
    "PoolPlan",
    "Screening",
    "Sensitivity",
    "Sizing",
    "Spread",
    "Supply",
    "TraceFacts",
    "Week",
    "YearNpv",
]


class PoolPlan(msgspec.Struct, frozen=True):
    """One candidate (a pool on a type of GPU) and what to have of it.

    Prices are per replica and hour; None: not to be had. ``energy_usd_per_hour`` is of all its replicas together.
    ``utilization`` is work over owned and reserved capacity, ``breakeven_utilization`` where owning costs what the API would.
    """

    name: str
    pool: str
    model: str
    gpu: str
    gpus_per_replica: float
    owned: int
    reserved: int
    rented_max: int
    owned_now: int
    owned_usd_per_hour: float | None
    reserved_usd_per_hour: float | None
    rented_usd_per_hour: float | None
    energy_usd_per_hour: float
    utilization: float
    breakeven_utilization: float | None
    tokens_per_s_max: float

    @property
    def gpus_owned(self) -> float:
        """GPUs to own."""
        return self.owned * self.gpus_per_replica


class Sizing(msgspec.Struct, frozen=True):
    """Another way to size, on the same hours: ``plan``, ``mean``, ``p95``, ``peak``, ``newsvendor``, ``none``, ``now``."""

    name: str
    gpus: float
    replicas: dict[str, int]
    usd_per_hour: Spread


class Finalist(msgspec.Struct, frozen=True):
    """A candidate plan played by the real policy. ``engine``: ``kernel`` or ``exact``; ``hours`` of trace were played."""

    replicas: dict[str, int]
    engine: Literal["kernel", "exact"]
    hours: float
    requests: int
    searched_usd_per_hour: float
    played_usd_per_hour: float
    burst_share: float
    slo_attainment: float
    is_chosen: bool


class ModelSwitch(msgspec.Struct, frozen=True):
    """For one kind of request: USD per million tokens at home and at the cheapest API, and where they cross.

    ``here`` is amortized with energy at the planned utilization. ``crossing_mtok_per_day``: traffic from which an own
    replica is cheaper (None: never, or nothing else may serve it); ``mtok_per_day`` is today's.
    """

    profile: str
    model_here: str
    model_there: str
    here_usd_per_mtok: float | None
    there_usd_per_mtok: float | None
    mtok_per_day: float
    crossing_mtok_per_day: float | None
    advice: str


class EnergyUse(msgspec.Struct, frozen=True):
    """A year of the plan. ``kg_co2`` None where no carbon intensity is known."""

    kwh_per_year: float
    usd_per_year: float
    kg_co2_per_year: float | None
    joules_per_token: float
    grams_co2_per_kwh: float | None


class Assumption(msgspec.Struct, frozen=True):
    """Something that the plan takes for granted. ``label``: measured, calibrated, modelled or assumed."""

    name: str
    value: str
    unit: str
    label: Literal["measured", "calibrated", "modelled", "assumed"]
    source: str
    as_of: str = ""


class Expected(msgspec.Struct, frozen=True):
    """What the gateway should see while the plan fits, as the trace is; ``baseload status`` holds the ledger against it.
    ``requests_by_hour_of_week``: 168, the first from Monday 00:00 UTC; none where the trace does not tell them all."""

    usd_per_hour: float
    usd_api_per_hour: float
    usd_energy_per_hour: float
    requests_per_hour: float
    burst_share: float
    slo_attainment: float
    input_tokens_mean: float
    output_tokens_mean: float
    api_usd_per_mtok: float
    requests_by_hour_of_week: tuple[float, ...] = ()


class TraceFacts(msgspec.Struct, frozen=True):
    """What the plan was made from."""

    name: str
    kind: Literal["requests", "rates", "ledger"]
    requests: int
    span_s: float
    copies: float
    dropped: int
    input_tokens_mean: float
    output_tokens_mean: float
    requests_per_s_mean: float
    requests_per_s_peak: float


class Outcome(msgspec.Struct, frozen=True):
    """A what-if beside the plan: the assumption text, what to own then, and what it costs.

    ``api_share``: USD paid to APIs over what they would be paid for everything.
    """

    name: str
    gpus: float
    replicas: dict[str, int]
    usd_per_hour: Spread
    api_share: float
    note: str = ""


class MakeOrBuy(msgspec.Struct, frozen=True):
    """A single new workload. USD per day of the best of both kinds (None: there is none); ``replicas`` 0: it is bought.

    ``own_from_mtok_per_day``: traffic from which own replicas are cheaper, None: at none.
    """

    name: str
    input_tokens: int
    output_tokens: int
    mtok_per_day: float
    choice: str
    replicas: int
    make_usd_per_day: float | None
    buy_usd_per_day: float | None
    own_from_mtok_per_day: float | None
    advice: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. ``partial``: stopped early; what is there holds, what is empty was not reached. ``warnings``: say them."""

    format: int = FORMAT
    made_at: str
    partial: bool
    warnings: tuple[str, ...]
    trace: TraceFacts
    horizon_years: float
    pools: tuple[PoolPlan, ...]
    costs: Costs
    usd_per_hour: Spread
    all_api_usd_per_hour: float
    expected: Expected | None
    finalists: tuple[Finalist, ...] = ()
    sizings: tuple[Sizing, ...] = ()
    owned_costs: tuple[OwnedCost, ...] = ()
    load_duration: tuple[LoadDuration, ...] = ()
    screening: tuple[Screening, ...] = ()
    weeks: tuple[Week, ...] = ()
    merit_order: tuple[Supply, ...] = ()
    sensitivity: tuple[Sensitivity, ...] = ()
    npv: Npv | None = None
    energy: EnergyUse | None = None
    switches: tuple[ModelSwitch, ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    what_if: tuple[Outcome, ...] = ()
    workloads: tuple[MakeOrBuy, ...] = ()
