"""Where prices come from: feeds, tariffs and what is rented."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, model_validator

from scheduler.config.base import Count, Fraction, Model, Name, NonNegative, Positive

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Hours = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d-(([01]\d|2[0-3]):[0-5]\d|24:00)$")]


class Feed(Model):
    """A source of prices, polled in the background. ``kind`` is an entry point of ``baseload.feeds``.

    ``ttl_s``: how long a price is believed after it was last seen. ``jump_ratio_max``: a change by more than this factor
    waits in quarantine until ``confirmations`` polls in a row, or another source, say the same; a change by more than
    ``jump_ratio_never`` is never confirmed by the same source alone.
    """

    name: Name
    kind: Name
    every_s: Annotated[float, Field(ge=1, le=86_400, strict=True)] = 900.0
    ttl_s: Positive = 86_400.0
    timeout_s: Annotated[float, Field(gt=0, le=300, strict=True)] = 30.0
    bytes_max: Count = 32 * 1024 * 1024
    jump_ratio_max: Annotated[float, Field(gt=1, le=1000, strict=True)] = 3.0
    jump_ratio_never: Annotated[float, Field(gt=1, strict=True)] = 20.0
    confirmations: Annotated[int, Field(ge=1, le=100, strict=True)] = 3
    options: dict[str, Any] = Field(default_factory=dict)


class Listed(Model):
    """A product of a feed, by the feed's own name for it."""

    feed: Name
    product: str = Field(min_length=1, max_length=200)


class Period(Model):
    """A part of the week with a tariff of its own; hours are local to the tariff's ``timezone``, ``22:00-06:00`` wraps."""

    days: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    hours: Hours
    usd_per_kwh: NonNegative


class TimeOfUse(Model):
    """A time-of-use tariff: the first period that holds an instant wins, outside all of them ``usd_per_kwh`` holds."""

    timezone: str = Field(min_length=1)
    usd_per_kwh: NonNegative
    periods: tuple[Period, ...] = Field(min_length=1)


class DayAhead(Model):
    """Wholesale power from a feed, plus what grid, levies and the supplier add per kWh.

    ``fallback_usd_per_kwh`` is what holds while the feed is silent; without it the site's pools then have no price and
    leave the market.
    """

    feed: Name
    product: str = Field(min_length=1, max_length=200)
    surcharge_usd_per_kwh: NonNegative = 0.0
    fallback_usd_per_kwh: NonNegative | None = None


class Electricity(Model):
    """Tariff and overhead of a site: exactly one of a flat price, a time-of-use tariff and a day-ahead market.

    The camelCase names are those of InferCost and are accepted as well. ``carbon`` names a feed of carbon intensity.
    """

    usd_per_kwh: NonNegative | None = Field(None, validation_alias=AliasChoices("usd_per_kwh", "ratePerKWh"))
    time_of_use: TimeOfUse | None = None
    day_ahead: DayAhead | None = None
    carbon: Listed | None = None
    pue: Annotated[float, Field(ge=1, le=3, strict=True)] = Field(
        1.0, validation_alias=AliasChoices("pue", "pueFactor")
    )

    @model_validator(mode="after")
    def _one(self) -> Electricity:
        given = [self.usd_per_kwh is not None, self.time_of_use is not None, self.day_ahead is not None]
        if sum(given) != 1:
            raise ValueError("give exactly one of usd_per_kwh, time_of_use and day_ahead")
        return self


class Rental(Model):
    """Rented hardware under one replica: a price of one's own or one of a feed, and how spot behaves.

    ``availability``: share of the time in which capacity is to be had. ``restart_share``: share of rented time that goes
    into starting up. ``interruptions_per_hour`` each lose ``usd_lost_per_interruption`` of work (see economics: spot).
    """

    gpu: str = ""  # where the price is one's own; a feed says it itself
    gpu_count: Annotated[float, Field(gt=0, strict=True)] = 1.0
    usd_per_hour: NonNegative | None = None
    listed: tuple[Listed, ...] = ()
    availability: Annotated[float, Field(gt=0, le=1, strict=True)] = 1.0
    restart_share: Annotated[float, Field(ge=0, lt=1, strict=True)] = 0.0
    interruptions_per_hour: NonNegative = 0.0
    usd_lost_per_interruption: NonNegative = 0.0
    idle_watts: NonNegative = 0.0
    utilization_standard: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.5

    @model_validator(mode="after")
    def _priced(self) -> Rental:
        if (self.usd_per_hour is None) == (not self.listed):
            raise ValueError("give exactly one of usd_per_hour and listed")
        return self


class Hardware(Model):
    """Price of the hardware under one replica, and its share of what a year of it costs. InferCost's names work as well.

    ``tax_rate`` is read by the after-tax present value (MACRS) in reports only; the annuity is before tax.
    """

    gpu: str = Field(min_length=1)
    gpu_count: Annotated[float, Field(gt=0, strict=True)] = 1.0
    purchase_price_usd: NonNegative = Field(validation_alias=AliasChoices("purchase_price_usd", "purchasePriceUSD"))
    amortization_years: Annotated[float, Field(gt=0, le=100, strict=True)] = Field(
        validation_alias=AliasChoices("amortization_years", "amortizationYears")
    )
    maintenance_percent_per_year: NonNegative = Field(
        0.0, validation_alias=AliasChoices("maintenance_percent_per_year", "maintenancePercentPerYear")
    )
    staff_usd_per_year: NonNegative = 0.0
    rack_usd_per_year: NonNegative = 0.0
    network_usd_per_year: NonNegative = 0.0
    idle_watts: NonNegative = 0.0
    tdp_watts: NonNegative = Field(0.0, validation_alias=AliasChoices("tdp_watts", "tdpWatts"))
    financing_rate: Fraction = 0.0
    residual_share: Fraction = 0.0
    tax_rate: Annotated[float, Field(ge=0, lt=1, strict=True)] = 0.0
    utilization_standard: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.5


class PricesSpec(Model):
    """The price board: where its history lies, and from which ratio on two sources of one price count as disagreeing."""

    history: str = ".baseload/prices"
    disagreement_ratio_max: Annotated[float, Field(gt=1, strict=True)] = 1.1
    meter_every_s: Annotated[float, Field(ge=0.5, le=15, strict=True)] = 5.0  # power is told from windows of a minute
