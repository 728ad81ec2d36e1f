"""What a price list in a file may hold. Tokens in USD per million, instants as ISO 8601 (UTC where they name no zone)."""

from __future__ import annotations

from collections import Counter
from datetime import date, datetime
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pricing.feeds.reading import ENTRIES_MAX, instant
from pricing.listing import (
    CarbonIntensity,
    GpuPrice,
    Listing,
    PowerPrice,
    Price,
    ServiceTier,
    Step,
    TokenPrice,
    Window,
)
from scheduler.config.base import Count, Model, NonNegative
from scheduler.config.prices import Hours, Weekday
from scheduler.core.supply import Rate, Tier

_MTOK = 1e6
_WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _seconds(value: Any) -> float:
    """Unix seconds of an ISO 8601 text, or of the date or instant that YAML has made of one."""
    text = value.isoformat() if isinstance(value, date | datetime) else value
    found = instant(text)
    if found is None:
        raise ValueError("must be a date or an instant in ISO 8601")
    return found


Instant = Annotated[float, BeforeValidator(_seconds)]
Product = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(min_length=1, max_length=100)]
Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]


class MtokPrices(Model):
    """USD per million tokens. What is left out is billed as what it is part of: input, or output for reasoning."""

    input: NonNegative
    output: NonNegative
    cached: NonNegative | None = None
    cache_write: NonNegative | None = None
    cache_write_1h: NonNegative | None = None
    reasoning: NonNegative | None = None

    def above(self, tokens: int) -> Tier:
        """As prices of an input longer than ``tokens``, USD per token."""
        return Tier(
            tokens,
            self.input / _MTOK,
            (self.input if self.cached is None else self.cached) / _MTOK,
            self.output / _MTOK,
            *(None if usd is None else usd / _MTOK for usd in (self.cache_write, self.cache_write_1h, self.reasoning)),
        )


class TierPrices(Model):
    """Prices of a whole request whose input is longer than ``input_tokens_above``."""

    input_tokens_above: Count
    usd_per_mtok: MtokPrices


class Sale(Model):
    """What one service tier costs."""

    usd_per_mtok: MtokPrices
    tiers: tuple[TierPrices, ...] = Field((), max_length=20)
    usd_per_request: NonNegative = 0.0
    usd_per_search: NonNegative = 0.0

    @model_validator(mode="after")
    def _ascending(self) -> Sale:
        if any(a.input_tokens_above >= b.input_tokens_above for a, b in pairwise(self.tiers)):
            raise ValueError("tiers must ascend by input_tokens_above")
        return self

    def rate(self) -> Rate:
        """USD per token, request and search."""
        base = self.usd_per_mtok.above(0)
        return Rate(
            *base[1:4],
            usd_per_request=self.usd_per_request,
            tiers=tuple(tier.usd_per_mtok.above(tier.input_tokens_above) for tier in self.tiers),
            usd_per_cache_write=base.usd_per_cache_write,
            usd_per_cache_write_long=base.usd_per_cache_write_long,
            usd_per_reasoning=base.usd_per_reasoning,
            usd_per_search=self.usd_per_search,
        )


class Sales(Sale):
    """The standard service tier, and the others."""

    service_tiers: dict[Literal["flex", "priority", "batch"], Sale] = Field(default_factory=dict)

    def rates(self) -> dict[ServiceTier, Rate]:
        """By service tier."""
        return {"standard": self.rate(), **{tier: sale.rate() for tier, sale in self.service_tiers.items()}}


class OffPeak(Sales):
    """Other prices in some UTC hours (``22:00-06:00`` passes midnight) of the days on which they begin."""

    hours: Hours
    days: tuple[Weekday, ...] = Field(_WEEKDAYS, min_length=1)

    @model_validator(mode="after")
    def _some_time(self) -> OffPeak:
        if len(set(self.hours.split("-"))) == 1:
            raise ValueError("hours must not begin and end at the same time")
        return self

    def window(self) -> Window:
        """In seconds of the day."""
        clocks = [clock.split(":") for clock in self.hours.split("-")]
        start_s, end_s = (int(hour) * 3600 + int(minute) * 60 for hour, minute in clocks)
        days = tuple(sorted({_WEEKDAYS.index(day) + 1 for day in self.days}))
        return Window(start_s, end_s, self.rates(), () if len(days) == len(_WEEKDAYS) else days)


class Tokens(Sales):
    """A model; ``deprecated`` says when it will no longer be served."""

    product: Product
    off_peak: tuple[OffPeak, ...] = Field((), max_length=50)
    deprecated: Instant | None = None

    def price(self) -> Price:
        return TokenPrice(self.rates(), tuple(one.window() for one in self.off_peak), self.deprecated)


class Gpu(Model):
    """A rented instance: ``usd_per_hour`` is for all its GPUs together."""

    product: Product
    usd_per_hour: NonNegative
    gpu: Text
    gpu_count: Count
    provider: Text
    region: Text
    instance: str = Field("", max_length=100)
    spot: bool = False

    def price(self) -> Price:
        return GpuPrice(**self.model_dump(exclude={"product"}))


class _Time(Model):
    start: Instant
    end: Instant

    @model_validator(mode="after")
    def _forward(self) -> _Time:
        if self.start >= self.end:
            raise ValueError("must end after its start")
        return self


class PowerStep(_Time):
    """Power from ``start`` up to ``end``."""

    usd_per_kwh: Finite


class CarbonStep(_Time):
    """CO2 equivalent from ``start`` up to ``end``."""

    grams_per_kwh: NonNegative


class Power(Model):
    """Wholesale power over time."""

    product: Product
    steps: tuple[PowerStep, ...] = Field(min_length=1, max_length=100_000)

    def price(self) -> Price:
        return PowerPrice(tuple(Step(step.start, step.end, step.usd_per_kwh) for step in self.steps))


class Carbon(Model):
    """Carbon intensity over time."""

    product: Product
    steps: tuple[CarbonStep, ...] = Field(min_length=1, max_length=100_000)
    forecast: bool = False

    def price(self) -> Price:
        steps = tuple(Step(step.start, step.end, step.grams_per_kwh) for step in self.steps)
        return CarbonIntensity(steps, self.forecast)


class PriceList(Model):
    """A whole file. ``observed``: when these prices held."""

    observed: Instant
    tokens: tuple[Tokens, ...] = Field((), max_length=ENTRIES_MAX)
    gpus: tuple[Gpu, ...] = Field((), max_length=ENTRIES_MAX)
    power: tuple[Power, ...] = Field((), max_length=ENTRIES_MAX)
    carbon: tuple[Carbon, ...] = Field((), max_length=ENTRIES_MAX)

    @model_validator(mode="after")
    def _sound(self) -> PriceList:
        items = self._items()
        if not items:
            raise ValueError("lists nothing: give tokens, gpus, power or carbon")
        product, times = Counter(item.product for item in items).most_common(1)[0]
        if times > 1:
            raise ValueError(f"product {product!r} is there twice")
        for one in items:
            if isinstance(one, Power | Carbon) and any(a.end > b.start for a, b in pairwise(one.steps)):
                raise ValueError(f"steps of {one.product!r} must ascend and not overlap")
        return self

    def listings(self, observed_s: float) -> list[Listing]:
        """One listing per product."""
        return [Listing(item.product, item.price(), observed_s) for item in self._items()]

    def _items(self) -> list[Tokens | Gpu | Power | Carbon]:
        return [*self.tokens, *self.gpus, *self.power, *self.carbon]
