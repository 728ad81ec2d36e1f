"""The price board as a document: what ``/v1/prices``, ``baseload prices`` and the HTML report show.

USD per million tokens where a name ends in ``per_mtok``. ``blended`` is three input tokens to one output token unless a
pool's own mix is known (``LocalCost.input_share``). Local cost stands on three bases that are never mixed.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pricing.meter.readings import GpuReading, HostReading

Basis = Literal["allocation", "usage", "avoidable"]
BASES: tuple[Basis, ...] = ("allocation", "usage", "avoidable")
BLEND_INPUT_SHARE = 0.75


class MtokPrice(msgspec.Struct, frozen=True):
    """USD per million tokens."""

    input: float
    output: float
    blended: float
    cached: float | None = None
    cache_write: float | None = None
    reasoning: float | None = None


class TierPrice(msgspec.Struct, frozen=True):
    """Prices above a context length."""

    input_tokens_above: int
    usd_per_mtok: MtokPrice


class OtherSource(msgspec.Struct, frozen=True):
    """What another source says of the same offer; ``ratio`` is its blended price over the one in use."""

    source: str
    blended_usd_per_mtok: float | None
    ratio: float | None
    agrees: bool
    note: str = ""


class OfferPrice(msgspec.Struct, frozen=True):
    """One offer on the board. ``label``: measured, calibrated or modelled for local offers, listed for bought ones."""

    offer: str
    kind: Literal["base", "spot", "api"]
    model: str
    zone: str
    source: str
    label: Literal["measured", "calibrated", "modelled", "listed"]
    observed_s: float
    expires_s: float
    usd_per_mtok: MtokPrice
    service_tier: str = "standard"
    tiers: tuple[TierPrice, ...] = ()
    usd_per_request: float = 0.0
    usd_per_search: float = 0.0
    off_peak: bool = False
    deprecated_s: float | None = None
    others: tuple[OtherSource, ...] = ()
    batch_usd_per_mtok: MtokPrice | None = None


class Unpriced(msgspec.Struct, frozen=True):
    """An offer of cluster.yaml that is not on the market, and why."""

    offer: str
    reason: str


class OwnedYear(msgspec.Struct, frozen=True):
    """A year of owning one replica's hardware after tax, USD: MACRS-5 depreciation, opex and power, resale at the end.

    ``present_usd`` is ``cash_usd`` discounted to the purchase; row 0 is the purchase.
    """

    at_years: float
    opex_usd: float
    depreciation_usd: float
    book_usd: float
    resale_usd: float
    tax_usd: float
    cash_usd: float
    present_usd: float


class Owning(msgspec.Struct, frozen=True):
    """What owning costs as accountants see it: for reports, never for dispatch. Power at the watts of the report."""

    annuity_usd_per_gpu_hour: float
    straight_line_usd_per_gpu_hour: float
    tax_rate: float
    after_tax_present_usd: float
    years: tuple[OwnedYear, ...]


class LocalCost(msgspec.Struct, frozen=True):
    """What a pool costs. ``usd_per_gpu_hour`` is the cost stack by part; ``bases`` only holds what can be known.

    ``utilization`` is usage over allocation, None before tokens were counted; ``input_share`` the tokens' mix behind
    ``blended``. ``power_label`` and ``power_at_s`` say how firm the power is and of when.
    """

    pool: str
    site: str
    zone: str
    gpu: str
    gpus: float
    replicas: int
    usd_per_gpu_hour: dict[str, float]
    bases: dict[Basis, MtokPrice]
    utilization: float | None
    utilization_standard: float
    standard_usd_per_mtok: MtokPrice | None
    input_share: float
    tokens_per_hour: float
    window_s: float
    watts: float
    power_label: Literal["measured", "calibrated", "modelled"]
    power_at_s: float
    usd_per_kwh: float
    tariff: str
    pue: float
    grams_co2_per_kwh: float | None = None
    grams_co2_per_mtok: float | None = None
    break_even_utilization: float | None = None
    break_even_against: str = ""
    joules: float | None = None  # counted since the meters started; None where no meter sees the pool
    owning: Owning | None = None
    notes: tuple[str, ...] = ()
    joules_label: Literal["measured", "calibrated", "modelled"] = "modelled"


class FeedState(msgspec.Struct, frozen=True):
    """How a feed is doing. ``error`` is that of the last poll, empty after a good one."""

    feed: str
    kind: str
    last_ok_s: float | None
    next_poll_s: float
    polls: int
    errors: int
    unchanged: int
    listings: int
    error: str = ""


class RentPrice(msgspec.Struct, frozen=True):
    """A GPU that could be rented, as listed and as it effectively costs (availability, interruption, lost work)."""

    feed: str
    product: str
    gpu: str
    gpu_count: int
    provider: str
    region: str
    spot: bool
    usd_per_gpu_hour: float
    observed_s: float
    effective_usd_per_gpu_hour: float | None = None
    pool: str = ""


class Incident(msgspec.Struct, frozen=True):
    """Something a person should know of now: a price in quarantine, refused, no longer listed, about to end, ..."""

    at_s: float
    feed: str
    product: str
    what: Literal["quarantined", "refused", "unlisted", "deprecated", "disagreement", "history"]
    text: str


class NodeReading(msgspec.Struct, frozen=True):
    """What the meter of one node last read, heard at ``at_s``; ``problem`` says why it reads no boards."""

    node: str
    at_s: float
    gpus: tuple[GpuReading, ...]
    host: HostReading
    problem: str = ""


class PriceReport(msgspec.Struct, frozen=True, tag="prices", tag_field="object"):
    """Everything on the board at ``as_of_s``."""

    as_of_s: float
    offers: tuple[OfferPrice, ...]
    unpriced: tuple[Unpriced, ...]
    local: tuple[LocalCost, ...]
    feeds: tuple[FeedState, ...]
    rents: tuple[RentPrice, ...] = ()
    incidents: tuple[Incident, ...] = ()
    nodes: tuple[NodeReading, ...] = ()
