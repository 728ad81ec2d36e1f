"""How long ``decide`` takes, by number of offers: microseconds at the median and at the 99th percentile."""

from __future__ import annotations

import gc
import time

from scheduler.core.capacity import BidCurve, Capacity, Level
from scheduler.core.dispatch import decide
from scheduler.core.market import Load, Market, OfferLoad, Policy, Request, ServiceClass
from scheduler.core.supply import Offer, Quality, Rate, ServiceCurve, Tier, Usage

_OFFERS = (1, 3, 12, 30)
_ROUNDS = 20_000
_WARM_UP = 2_000
_CURVE = BidCurve(tuple(0.01 * i for i in range(192)), tuple(-1e-6 * i * i for i in range(192)))


def market(offers: int) -> Market:
    """A third pools with three priced lines, the rest APIs with tiers: all are eligible, which is the dearest case."""
    made = []
    for i in range(offers):
        pool = i % 3 == 0
        levels = (Level(1.0, 0.1, _CURVE), Level(2.0, 0.3 + 0.01 * i, _CURVE), Level(60.0, 1.0, _CURVE))
        capacity = Capacity(2, 128, 100 + i, i, 1.0, 0.9, levels)
        made.append(
            Offer(
                id=f"source-{i}/model",
                kind="base" if pool else "api",
                model=f"model-{i}",
                zone="eu",
                rate=Rate(1e-6 * i, 1e-7, 2e-6 * i, 0.0, () if pool else (Tier(200_000, 2e-6, 2e-7, 4e-6),)),
                curve=ServiceCurve(5000.0, 0.006, 0.0001, 64),
                quality=Quality(0.95, 0.8, 0.6),
                abilities=frozenset({"chat", "tools", "response_format"}),
                context_tokens=128_000,
                as_of_s=0.0,
                expires_s=1e12,
                capacity=capacity if pool else None,
                inflight_max=0 if pool else 1000,
                requests_per_min_max=0 if pool else 10_000,
            )
        )
    return Market(1, 0.0, tuple(made))


def run() -> dict[str, dict[str, float]]:
    """{"12 offers": {"cpu_p50_us": ..., "cpu_p99_us": ..., "wall_p50_us": ..., "wall_p99_us": ...}, ...}."""
    service_class = ServiceClass("interactive", 2.0, 0.01, 0.0001, 0.01)
    request = Request(
        id="r", tenant="t", service_class=service_class, models=None, usage=Usage(500, 100, 100), difficulty=0.3,
        needs=frozenset({"chat"}), zones=frozenset({"eu"}), usd_max=1.0, deadline_s=60.0, arrived_s=0.0,
    )  # fmt: skip
    results = {}
    gc.disable()
    for offers in _OFFERS:
        made = market(offers)
        load = Load({offer.id: OfferLoad(3, 0.01, 0.95) for offer in made.offers}, {})
        policy = Policy()
        row = {}
        # On a shared machine the wall clock also counts the time of others; the thread's own CPU time does not.
        for clock_name, clock in (("cpu", time.thread_time), ("wall", time.perf_counter)):
            took_us = []
            for i in range(_ROUNDS + _WARM_UP):
                began = clock()
                decide(request, made, load, policy, 1.0)
                if i >= _WARM_UP:
                    took_us.append((clock() - began) * 1e6)
            took_us.sort()
            row[f"{clock_name}_p50_us"] = took_us[len(took_us) // 2]
            row[f"{clock_name}_p99_us"] = took_us[int(len(took_us) * 0.99)]
        results[f"{offers} offers"] = row
    gc.enable()
    return results
