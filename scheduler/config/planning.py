"""The section ``planning`` of cluster.yaml: what could be bought or rented, and what is assumed of the years to come."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from scheduler.config.base import Count, Fraction, Model, Name, NonNegative, Positive
from scheduler.config.prices import Hardware, Rental
from scheduler.config.supply import Curve, Energy

PerYear = Annotated[float, Field(gt=-1, le=10, allow_inf_nan=False, strict=True)]


class Uncertain(Model):
    """A change a year as a fraction (-0.3: thirty percent less each year), and its standard deviation."""

    mean: PerYear = 0.0
    sd: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False, strict=True)] = 0.1


class Candidate(Model):
    """Another type of GPU under the model of ``pool``: what ``baseload plan`` may put beside or instead of what is there.

    ``reserved_usd_per_hour``: a replica rented for the whole horizon. ``engine_args`` replace the pool's where it is chosen.
    """

    name: Name
    pool: Name
    gpus_per_replica: Positive
    curve: Curve
    energy: Energy
    hardware: Hardware | None = None
    rental: Rental | None = None
    reserved_usd_per_hour: Positive | None = None
    engine_args: dict[str, Any] = Field(default_factory=dict)
    replicas_max: Count = 256

    @model_validator(mode="after")
    def _to_be_had(self) -> Candidate:
        if self.hardware is None and self.rental is None and self.reserved_usd_per_hour is None:
            raise ValueError("give at least one of hardware (to own), rental (by the hour) and reserved_usd_per_hour")
        return self


class CloudOffer(Model):
    """More replicas of a pool on the same type of GPU, in a cloud: by the hour (``rental``) or for the whole horizon."""

    pool: Name
    rental: Rental | None = None
    reserved_usd_per_hour: Positive | None = None


class PlanningSpec(Model):
    """What ``baseload plan`` takes for granted; every figure is shown in the report as an assumption.

    ``replica_availability``: share of the time in which an owned replica works. ``risk_weight``: weight of the mean of the
    worst ``cvar_share`` of scenarios beside the mean of all.
    """

    horizon_years: Annotated[float, Field(gt=0, le=20, strict=True)] = 1.0
    growth_per_year: Uncertain = Uncertain()
    api_price_per_year: Uncertain = Uncertain()
    power_price_per_year: Uncertain = Uncertain()
    replica_availability: Annotated[float, Field(gt=0.5, le=1, strict=True)] = 0.995
    risk_weight: Annotated[float, Field(ge=0, le=10, strict=True)] = 0.1
    cvar_share: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.1
    scenarios: Annotated[int, Field(ge=1, le=1000, strict=True)] = 100
    slo_attainment_min: Fraction = 0.99
    discount_rate: NonNegative = 0.08
    candidates: tuple[Candidate, ...] = ()
    cloud: tuple[CloudOffer, ...] = ()
