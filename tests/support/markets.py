"""Builders and strategies for the core's types: small markets in which anything may happen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from scheduler.core.capacity import BidCurve, Capacity, Level
from scheduler.core.market import Lease, Load, Market, OfferLoad, Policy, Request, ServiceClass
from scheduler.core.supply import FixedCost, Offer, Quality, Rate, ServiceCurve, Tier, Usage

NOW_S = 1_000.0
ZONES = ("home", "cloud", "far")
MODELS = ("small", "large")
ABILITIES = ("chat", "tools", "images")

CURVE = ServiceCurve(prefill_tokens_per_s=1_000.0, itl_base_s=0.01, itl_per_seq_s=0.001, seqs_max=10, ttft_base_s=0.1)
FREE_CLASS = ServiceClass(
    "free", ttft_s_max=1e9, usd_per_ttft_miss=0.0, usd_per_s_waiting=0.0, usd_per_wrong_answer=0.0
)
POLICY = Policy()
NO_USE = Load({}, {})


def offer(offer_id: str = "pool/small", **fields: Any) -> Offer:
    """An offer that any plain request may use: healthy, fresh, at home, 1 USD per million tokens."""
    values: dict[str, Any] = {
        "kind": "base",
        "model": "small",
        "zone": "home",
        "rate": Rate(1e-6, 1e-6, 1e-6),
        "curve": CURVE,
        "quality": Quality(1.0, 1.0, 1.0),
        "abilities": frozenset(ABILITIES),
        "context_tokens": 10_000,
        "as_of_s": NOW_S,
        "expires_s": NOW_S + 1_000.0,
    }
    return Offer(id=offer_id, **(values | fields))


def api(offer_id: str, usd: float, **fields: Any) -> Offer:
    """A provider's offer at a flat ``usd`` per request."""
    return offer(offer_id, **({"kind": "api", "zone": "cloud", "rate": Rate(0.0, 0.0, 0.0, usd)} | fields))


def request(**fields: Any) -> Request:
    """A request that every plain offer may take."""
    values: dict[str, Any] = {
        "id": "r",
        "tenant": "t",
        "service_class": FREE_CLASS,
        "models": None,
        "usage": Usage(100, 0, 50),
        "difficulty": 0.5,
        "needs": frozenset({"chat"}),
        "zones": frozenset(ZONES),
        "usd_max": 1.0,
        "deadline_s": NOW_S + 60.0,
        "arrived_s": NOW_S,
    }
    return Request(**(values | fields))


def market(*offers: Offer, leases: dict[str, Lease] | None = None) -> Market:
    """A market of these offers."""
    return Market(7, NOW_S, offers, leases or {})


def usd(maximum: float) -> st.SearchStrategy[float]:
    """Money from nothing up, zero included."""
    return st.floats(0.0, maximum, allow_subnormal=False)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    read, written = draw(st.integers(0, 20_000)), draw(st.integers(0, 5_000))
    cached = draw(st.integers(0, read))
    write = draw(st.integers(0, read - cached))
    write_long = draw(st.integers(0, read - cached - write))
    return Usage(read, cached, written, write, write_long, draw(st.integers(0, written)), draw(st.integers(0, 3)))


@st.composite
def rates(draw: st.DrawFn) -> Rate:
    price = usd(1e-4)
    above = sorted(draw(st.sets(st.integers(0, 20_000), max_size=3)))
    extra = st.none() | price
    tiers = tuple(Tier(n, draw(price), draw(price), draw(price), draw(extra), draw(extra), draw(extra)) for n in above)
    rarer = (draw(extra), draw(extra), draw(extra))
    return Rate(draw(price), draw(price), draw(price), draw(usd(0.01)), tiers, *rarer, draw(usd(0.01)))


@st.composite
def curves(draw: st.DrawFn) -> ServiceCurve:
    return ServiceCurve(
        prefill_tokens_per_s=draw(st.floats(10.0, 1e5)),
        itl_base_s=draw(st.floats(0.0, 0.1)),
        itl_per_seq_s=draw(st.floats(0.0, 0.01)),
        seqs_max=draw(st.integers(1, 256)),
        ttft_base_s=draw(st.floats(0.0, 2.0)),
        kv_tokens=draw(st.sampled_from([0, 1_000, 1_000_000])),
    )


@st.composite
def bid_curves(draw: st.DrawFn) -> BidCurve:
    waits = sorted(draw(st.sets(st.floats(0.0, 300.0), min_size=2, max_size=5)))
    values = sorted((draw(st.floats(-1.0, 0.0)) for _ in waits), reverse=True)
    return BidCurve(tuple(waits), tuple(values))


@st.composite
def levels(draw: st.DrawFn) -> tuple[Level, ...]:
    """A staircase: objectives ascend, and whoever is less urgent waits as long or longer."""
    limits = sorted(draw(st.sets(st.sampled_from([0.5, 1.0, 2.0, 5.0, 30.0, 1e9]), max_size=3)))
    waits = sorted(draw(st.floats(0.0, 60.0)) for _ in limits)
    return tuple(
        Level(limit_s, wait_s, draw(st.none() | bid_curves())) for limit_s, wait_s in zip(limits, waits, strict=True)
    )


@st.composite
def capacities(draw: st.DrawFn) -> Capacity:
    count = st.integers(0, 50)
    return Capacity(
        replicas=draw(st.integers(0, 5)),
        slots=draw(count),
        running=draw(count),
        waiting=draw(count),
        service_s_mean=draw(st.floats(0.0, 20.0)),
        as_of_s=NOW_S - draw(st.sampled_from([0.0, 0.5, 3.0])),
        levels=draw(levels()),
        gated=draw(st.booleans()),
        admitted_per_s=draw(st.floats(0.0, 10.0)),
        kv_usage=draw(st.floats(0.0, 1.0)),
    )


@st.composite
def offers(draw: st.DrawFn, offer_id: str) -> Offer:
    kind = draw(st.sampled_from(["base", "spot", "api"]))
    return Offer(
        id=offer_id,
        kind=kind,
        model=draw(st.sampled_from(MODELS)),
        zone=draw(st.sampled_from(ZONES)),
        rate=draw(rates()),
        curve=draw(curves()),
        quality=Quality(*(draw(st.floats(0.0, 1.0)) for _ in range(3))),
        abilities=draw(st.frozensets(st.sampled_from(ABILITIES))),
        context_tokens=draw(st.integers(1, 30_000)),
        as_of_s=NOW_S,
        expires_s=draw(st.sampled_from([NOW_S - 1.0, NOW_S, NOW_S + 100.0])),
        capacity=None if kind == "api" else draw(st.none() | capacities()),
        healthy=draw(st.booleans()),
        floor=draw(st.none() | st.just(FixedCost(2.0, 0.5, "standard"))),
        inflight_max=draw(st.sampled_from([0, 1, 5])),
        requests_per_min_max=draw(st.sampled_from([0, 1, 5])),
    )


@st.composite
def loads(draw: st.DrawFn, offer_ids: list[str]) -> Load:
    here = {
        offer_id: OfferLoad(
            inflight=draw(st.integers(0, 6)),
            sent_s=draw(st.floats(0.0, 20.0)),
            sent_at_s=NOW_S - draw(st.sampled_from([0.0, 1.0])),
            requests_last_min=draw(st.integers(0, 6)),
            cooldown_until_s=draw(st.sampled_from([0.0, NOW_S, NOW_S + 1.0])),
            ttft_ratio=draw(st.floats(0.1, 10.0)),
        )
        for offer_id in offer_ids
        if draw(st.booleans())
    }
    return Load(here, {"t": draw(usd(1.0))})


@st.composite
def requests(draw: st.DrawFn) -> Request:
    service_class = ServiceClass("c", draw(st.floats(0.0, 10.0)), draw(usd(0.1)), draw(usd(0.01)), draw(usd(1.0)))
    return request(
        service_class=service_class,
        models=draw(st.none() | st.frozensets(st.sampled_from(MODELS))),
        usage=draw(usages()),
        difficulty=draw(st.floats(0.0, 1.0)),
        needs=draw(st.frozensets(st.sampled_from(ABILITIES), max_size=2)),
        zones=draw(st.frozensets(st.sampled_from(ZONES))),
        usd_max=draw(st.sampled_from([0.0, 0.001, 0.1, 10.0])),
        budgeted=draw(st.booleans()),
        output_tokens_asked=draw(st.integers(0, 1_000)),
    )


@st.composite
def markets(draw: st.DrawFn) -> Market:
    ids = [f"o{i}" for i in range(draw(st.integers(0, 6)))]
    leases = {}
    if draw(st.booleans()):
        leases["t"] = Lease(draw(usd(2.0)), draw(st.sampled_from([NOW_S - 1.0, NOW_S, NOW_S + 5.0])))
    return Market(3, NOW_S, tuple(draw(offers(i)) for i in ids), leases)


def generous(given: Offer) -> Offer:
    """``given`` with every obstacle but its zone taken away."""
    return replace(
        given,
        abilities=frozenset(ABILITIES),
        context_tokens=10**9,
        expires_s=NOW_S + 1e6,
        healthy=True,
        inflight_max=0,
        requests_per_min_max=0,
    )
