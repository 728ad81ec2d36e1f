"""The section ``planning`` of cluster.yaml: what could be bought or rented, and what is assumed of the years to come."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from pydantic import Field, model_validator

from scheduler.config.base import Count, Fraction, Model, Name, NonNegative, Positive
from scheduler.config.prices import Hardware, Rental
from scheduler.config.supply import Curve, Energy

PerYear = Annotated[float, Field(gt=-1, le=10, allow_inf_nan=False, strict=True)]


class Uncertain(Model):
    """A change a year as a fraction (-0.3: thirty percent less each year), and its standard deviation."""

    mean: PerYear = 0.0
    sd: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False, strict=True)] = 0.1


class Beside(NamedTuple):
    """Names of the pools beside one: of what is reserved, and of what is rented by the hour."""

    reserved: str
    rented: str

    @classmethod
    def of(cls, pool: str, cloud_pool: str | None = None, reserved_pool: str | None = None) -> Beside:
        """Those of ``pool``, as they are called unless named."""
        return cls(reserved_pool or f"{pool}-reserved", cloud_pool or f"{pool}-cloud")


class Candidate(Model):
    """Another type of GPU under the model of ``pool``: what ``baseload plan`` may put beside or instead of what is there.

    ``reserved_usd_per_hour``: a replica rented for the whole horizon. ``zone``: where it is; needed with that and ``rental``.
    It sees all that the pool sees, so ``zone`` has to be that of the pool's site. ``engine_args`` replace the pool's where it
    is chosen. ``cloud_pool``: as in ``CloudOffer``, for when it is chosen.
    """

    name: Name
    pool: Name
    zone: Name | None = None
    gpus_per_replica: Positive
    curve: Curve
    energy: Energy
    hardware: Hardware | None = None
    rental: Rental | None = None
    reserved_usd_per_hour: Positive | None = None
    engine_args: dict[str, Any] = Field(default_factory=dict)
    replicas_max: Count = 256
    cloud_pool: Name | None = None

    @property
    def beside(self) -> Beside:
        """Names of the pools beside the one that it may become."""
        return Beside.of(self.name, self.cloud_pool)

    @model_validator(mode="after")
    def _to_be_had(self) -> Candidate:
        is_rented = self.rental is not None or self.reserved_usd_per_hour is not None
        if self.hardware is None and not is_rented:
            raise ValueError("give at least one of hardware (to own), rental (by the hour) and reserved_usd_per_hour")
        if is_rented and self.zone is None:
            raise ValueError("zone: say where that is which rental or reserved_usd_per_hour pays for")
        return self


class CloudOffer(Model):
    """More replicas of a pool on the same type of GPU, in a cloud: by the hour (``rental``) or for the whole horizon.

    They stand in for the pool's own and see all that it sees: so ``zone``, where they are, has to be that of the pool's site.
    A pool has one price. What is rented beside replicas with another one has a pool of its own, ``cloud_pool`` (default
    NAME-cloud), and what is reserved ``reserved_pool`` (NAME-reserved; ``pool`` itself where it has the reserved ones).
    ``hardware``: what owning one costs, while ``pool`` holds none that are owned.
    """

    pool: Name
    zone: Name
    rental: Rental | None = None
    reserved_usd_per_hour: Positive | None = None
    hardware: Hardware | None = None
    cloud_pool: Name | None = None
    reserved_pool: Name | None = None

    @property
    def holds_reserved(self) -> bool:
        """Whether the replicas of ``pool`` itself are the reserved ones, so that its rental is their price."""
        return self.reserved_pool == self.pool

    @property
    def beside(self) -> Beside:
        """Names of the pools beside ``pool``, whether they are there or not."""
        named = None if self.holds_reserved else self.reserved_pool
        return Beside.of(self.pool, self.cloud_pool, named)

    @model_validator(mode="after")
    def _another_pool(self) -> CloudOffer:
        if self.cloud_pool == self.pool:
            raise ValueError(f"cloud_pool: {self.pool!r} is the pool itself; what it rents has another")
        return self


class PlanningSpec(Model):
    """What ``baseload plan`` takes for granted; every figure is shown in the report as an assumption.

    ``day_half_life``: a day of the trace counts half of one that is so much of the trace newer (.inf: all alike).
    ``level_sd``: how far the load of the days to come may be from what the days seen foretell (as a logarithm; null: as their
    own errors say). ``replica_availability``: share of the time in which an owned replica works. ``risk_weight``: weight of
    the mean of the worst ``cvar_share`` of scenarios beside the mean of all.
    """

    horizon_years: Annotated[float, Field(gt=0, le=20, strict=True)] = 1.0
    growth_per_year: Uncertain = Uncertain()
    api_price_per_year: Uncertain = Uncertain()
    power_price_per_year: Uncertain = Uncertain()
    day_half_life: Annotated[float, Field(gt=0, strict=True)] = 0.25
    level_sd: Annotated[float, Field(ge=0, le=1, strict=True)] | None = None
    replica_availability: Annotated[float, Field(gt=0.5, le=1, strict=True)] = 0.995
    risk_weight: Annotated[float, Field(ge=0, le=10, strict=True)] = 0.1
    cvar_share: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.1
    scenarios: Annotated[int, Field(ge=1, le=1000, strict=True)] = 100
    slo_attainment_min: Fraction = 0.99
    discount_rate: NonNegative = 0.08
    candidates: tuple[Candidate, ...] = ()
    cloud: tuple[CloudOffer, ...] = ()

    @model_validator(mode="after")
    def _each_name_once(self) -> PlanningSpec:
        """As far as this section tells: pools that are there already are looked at where they are paired (technologies)."""
        taken = {candidate.name for candidate in self.candidates} | {offer.pool for offer in self.cloud}
        named = [(f"candidates[{i}].cloud_pool", c.cloud_pool) for i, c in enumerate(self.candidates)]
        for i, offer in enumerate(self.cloud):
            named.append((f"cloud[{i}].cloud_pool", offer.cloud_pool))
            named.append((f"cloud[{i}].reserved_pool", None if offer.holds_reserved else offer.reserved_pool))
        for path, name in named:
            if name is not None and name in taken:
                raise ValueError(f"{path}: {name!r} is there twice")
            taken.add(name or "")
        return self
