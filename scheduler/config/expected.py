"""The section ``policy.expected`` of cluster.yaml: what a plan expects of the site that it was made for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from scheduler.config.base import Count, Fraction, Model, NonNegative, Positive

HOURS_OF_WEEK = 168

Band = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False, strict=True)]


class Tolerances(Model):
    """By how much what is seen may differ from the plan, beyond what chance explains, before the plan no longer fits.

    ``load``, ``tokens``, ``prices`` and ``curve`` are shares of what was expected (0.2: a fifth more or less), ``slo`` is
    taken off the share of requests in time. Fewer than ``requests_min`` requests, or hours of them, tell nothing.
    """

    load: Band = 0.2
    tokens: Band = 0.2
    prices: Band = 0.1
    curve: Band = 0.25
    slo: Annotated[float, Field(gt=0, lt=1, strict=True)] = 0.01
    requests_min: Count = 200
    hours_min: Annotated[int, Field(ge=3, le=HOURS_OF_WEEK, strict=True)] = 6


class ExpectedSpec(Model):
    """What gateways should see while the plan fits; ``baseload status`` holds the ledger against it.

    Money is USD per hour, with everything (``usd_per_hour``) and its avoidable parts. ``trace_hours``: how long the plan's
    trace was. ``requests_by_hour_of_week``: requests in each hour of the week, the first from Monday 00:00 UTC, where the
    plan knows the calendar; else whole weeks are compared, or days where the trace was shorter.
    """

    plan_made_at: str = Field(max_length=40)
    usd_per_hour: NonNegative
    usd_api_per_hour: NonNegative
    usd_energy_per_hour: NonNegative
    requests_per_hour: NonNegative
    burst_share: Fraction
    slo_attainment: Fraction
    input_tokens_mean: NonNegative
    output_tokens_mean: NonNegative
    api_usd_per_mtok: NonNegative
    trace_hours: Positive = 168.0
    requests_by_hour_of_week: tuple[NonNegative, ...] = ()
    tolerances: Tolerances = Tolerances()

    @model_validator(mode="after")
    def _whole_week(self) -> ExpectedSpec:
        if len(self.requests_by_hour_of_week) not in (0, HOURS_OF_WEEK):
            raise ValueError(f"requests_by_hour_of_week: {HOURS_OF_WEEK} hours, or none")
        return self
