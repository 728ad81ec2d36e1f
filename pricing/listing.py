"""What a source says that something costs: the one type that every feed yields.

Money is USD (a feed converts at its edge and says at what rate), energy kWh, carbon grams; instants are Unix seconds.
Listings are plain data: they are checked by ``pricing.guard``, kept by ``pricing.book`` and recorded by ``pricing.history``.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from scheduler.core.supply import Rate

ServiceTier = Literal["standard", "flex", "priority", "batch"]


class Window(msgspec.Struct, frozen=True, omit_defaults=True):
    """Hours of a UTC day in which ``rates`` replace the price's own; a window past midnight has ``start_s > end_s``.

    ``start_s`` and ``end_s`` are seconds since midnight UTC; ``days`` are ISO weekdays (1 Monday to 7 Sunday) of the
    window's start, all seven where empty.
    """

    start_s: int
    end_s: int
    rates: dict[ServiceTier, Rate]
    days: tuple[int, ...] = ()


class TokenPrice(msgspec.Struct, frozen=True, tag="tokens", omit_defaults=True):
    """Price of a model at a provider, by service tier. A tier that is not there cannot be bought.

    ``off_peak``: windows with other rates; the first that holds an instant wins. ``deprecated_s``: when the provider
    will stop serving the model, where it has said so.
    """

    rates: dict[ServiceTier, Rate]
    off_peak: tuple[Window, ...] = ()
    deprecated_s: float | None = None


class GpuPrice(msgspec.Struct, frozen=True, tag="gpu", omit_defaults=True):
    """Price of renting an instance: ``usd_per_hour`` is for all its ``gpu_count`` GPUs together."""

    usd_per_hour: float
    gpu: str
    gpu_count: int
    provider: str
    region: str
    instance: str = ""
    spot: bool = False


class Step(NamedTuple):
    """``value`` holds from ``start_s`` up to, not including, ``end_s``."""

    start_s: float
    end_s: float
    value: float


class PowerPrice(msgspec.Struct, frozen=True, tag="power"):
    """Wholesale power, USD per kWh over time: steps ascend and do not overlap. Negative prices happen."""

    steps: tuple[Step, ...]


class CarbonIntensity(msgspec.Struct, frozen=True, tag="carbon", omit_defaults=True):
    """Grams of CO2 equivalent per kWh over time: steps ascend and do not overlap."""

    steps: tuple[Step, ...]
    forecast: bool = False


Price = TokenPrice | GpuPrice | PowerPrice | CarbonIntensity


class Listing(msgspec.Struct, frozen=True):
    """One product of one source. ``product`` is the source's own name for it, unique within the feed.

    ``observed_s``: when the source says that the price held, else when it was fetched; never later than now.
    """

    product: str
    price: Price
    observed_s: float
