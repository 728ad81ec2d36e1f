"""The parts of a plan that are drawn: curves, weeks, steps of supply. See ``document`` for units and the whole."""

from __future__ import annotations

from typing import Literal

import msgspec


class Spread(msgspec.Struct, frozen=True):
    """A figure over the scenarios: mean, 10th, 50th and 90th percentile, and the mean of the worst tenth (CVaR)."""

    mean: float
    p10: float
    p50: float
    p90: float
    cvar: float


class Curve(msgspec.Struct, frozen=True):
    """Points of a line, both of the same length."""

    x: tuple[float, ...]
    y: tuple[float, ...]


class LoadDuration(msgspec.Struct, frozen=True):
    """Load of one pool in replicas of its first candidate, over the share of time in which it is exceeded (0 to 1)."""

    pool: str
    load: Curve
    owned: float
    reserved: float
    rented: float


class Screening(msgspec.Struct, frozen=True):
    """What one more replica-equivalent costs in USD per hour against the share of time that it is used, by source.

    ``crossings``: shares of time from which the next line is the cheapest, with the name of that line.
    """

    pool: str
    lines: tuple[tuple[str, Curve], ...]
    crossings: tuple[tuple[float, str], ...]


class Week(msgspec.Struct, frozen=True):
    """By hour of the week (168): replicas wanted of a pool, and where load goes. ``from_monday``: hour 0 is Monday 00:00 UTC;
    else it is where the trace begins, of which the calendar is not known.

    ``load`` is all load in replicas, ``base`` what owned and reserved replicas carry, ``rented`` what rented ones do, ``api``
    what is bought, in replica-equivalents; ``replicas`` is how many should run. ``days_seen``: days of trace behind it.
    """

    pool: str
    load: tuple[float, ...]
    base: tuple[float, ...]
    rented: tuple[float, ...]
    api: tuple[float, ...]
    replicas: tuple[int, ...]
    days_seen: float
    from_monday: bool = False


class OwnedCost(msgspec.Struct, frozen=True):
    """Total USD per hour if so many GPUs were owned in all (split over the pools in the best way)."""

    gpus: float
    usd_per_hour: Spread


class Supply(msgspec.Struct, frozen=True):
    """A step of the merit order: what a million tokens costs there, in the mix that it would serve.

    ``avoidable`` is what dispatch reads, ``amortized`` what it costs with everything (None: nothing is owned).
    ``capacity_tokens_per_s`` None: no limit is known.
    """

    name: str
    kind: Literal["owned", "reserved", "rented", "api"]
    avoidable_usd_per_mtok: float
    amortized_usd_per_mtok: float | None
    capacity_tokens_per_s: float | None


class Sensitivity(msgspec.Struct, frozen=True):
    """One assumption moved alone: what the chosen plan then costs and how many GPUs would then be best to own."""

    assumption: str
    unit: str
    low: float
    high: float
    usd_per_hour_low: float
    usd_per_hour_high: float
    gpus_low: float
    gpus_high: float

    @property
    def swing_usd_per_hour(self) -> float:
        """By how much the cost moves between the two."""
        return abs(self.usd_per_hour_high - self.usd_per_hour_low)


class YearNpv(msgspec.Struct, frozen=True):
    """Cash of one year of the owned hardware against buying everything from APIs; row 0 is the purchase."""

    at_years: float
    cash_usd: float
    present_usd: float
    cumulated_usd: float


class Npv(msgspec.Struct, frozen=True):
    """Owning what the plan owns, over its life. ``breakeven_years`` None: it never pays back."""

    rate: float
    years: tuple[YearNpv, ...]
    npv_usd: float
    breakeven_years: float | None
