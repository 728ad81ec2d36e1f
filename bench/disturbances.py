"""What can be wrong or gone while the shipped policy dispatches, as settings of the simulator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scheduler.simulation.controller import UsdFactor
from scheduler.simulation.regret import Judged
from scheduler.simulation.scenario import EPOCH_S, Scenario
from scheduler.simulation.workload import Batch
from scheduler.simulation.world import Settings, World

DISTURBANCES = (
    "none", "forecast -50 %", "forecast +50 %", "engines 30 % slower", "engines 30 % faster", "snapshots at once",
    "snapshots 5 s old", "provider out for a tenth", "API prices x 3 from the middle", "a replica lost and started anew",
    "flash crowd x 10",
)  # fmt: skip
_USUAL = Settings(gateways=4, snapshot_age_s=1.0)
_CROWD_S = 10.0


def disturbed(name: str, scenario: Scenario, prices: Judged) -> tuple[Judged, Settings, list[Batch]]:
    """The requests, the settings, and what a clairvoyant would have known of them.

    The clairvoyant has the engines, prices and crowds as they were; an outage and a lost replica it is spared, so that those
    rows show what they cost.
    """
    window = scenario.judged
    middle_s = window.start_s + 0.5 * window.span_s
    batches = list(scenario.batches(window))
    simple = {
        "none": {},
        "forecast -50 %": {"demand_error": 0.5},
        "forecast +50 %": {"demand_error": 1.5},
        "snapshots at once": {"snapshot_age_s": 0.05},
        "snapshots 5 s old": {"snapshot_age_s": 5.0},
    }
    if name in simple:
        return prices, replace(_USUAL, **simple[name]), batches
    if name.startswith("engines"):
        error = 1.3 if "slower" in name else 0.7
        return slower(prices, error), replace(_USUAL, curve_error=error), batches
    if name.startswith("provider"):
        out = (middle_s, middle_s + 0.1 * window.span_s)
        offers = scenario.site.priced(EPOCH_S).offers
        dear = [offer.id for offer in offers if offer.kind == "api"][:1]
        return prices, replace(_USUAL, outages=dict.fromkeys(dear, (out,))), batches
    if name.startswith("API prices"):
        factor = _shock(middle_s)
        heard = ((middle_s, lambda world, now_s: world.controller.reprice(now_s, factor)),)
        return _shocked(prices, middle_s), replace(_USUAL, usd_factor=factor, calls=heard), batches
    if name.startswith("a replica"):
        return prices, replace(_USUAL, calls=((middle_s, _lose),)), batches
    return _crowded(scenario, prices, batches, middle_s)


def slower(prices: Judged, factor: float) -> Judged:
    """The same requests on engines that need ``factor`` times as long."""
    requests = prices.requests
    return replace(
        prices,
        requests=replace(
            requests,
            prefill_work_s=requests.prefill_work_s * factor,
            decode_work_s=requests.decode_work_s * factor,
            decode_s=requests.decode_s * factor,
        ),
    )


def _shock(from_s: float) -> UsdFactor:
    return lambda offer_id, now_s: 3.0 if now_s >= EPOCH_S + from_s else 1.0


def _shocked(prices: Judged, from_s: float) -> Judged:
    requests = prices.requests
    factor = np.where(requests.arrival_s >= from_s, 3.0, 1.0)
    return replace(prices, requests=replace(requests, usd_elsewhere=requests.usd_elsewhere * factor))


def _lose(world: World, now_s: float) -> None:
    """One engine of the first pool is gone at once; another one is started in its place."""
    name, pool = next(iter(world.pools.items()))
    start_s = next(spec.start_s for spec in world.site.pools if spec.name == name)
    world.lose(name, next(iter(pool.engines)), now_s)
    replica_id = pool.start(now_s, now_s + start_s)
    world.at(now_s + start_s, world.ready, name, replica_id)


def _crowded(
    scenario: Scenario, prices: Judged, batches: list[Batch], from_s: float
) -> tuple[Judged, Settings, list[Batch]]:
    """Ten times the requests for ten seconds: everything of the hundred seconds from there on arrives in the first ten."""
    squeezed = []
    for batch in batches:
        later = batch.arrival_s - from_s
        crowd = (later >= 0.0) & (later < 10.0 * _CROWD_S)
        arrival_s = np.where(crowd, from_s + later / 10.0, batch.arrival_s)
        squeezed.append(replace(batch, arrival_s=arrival_s))
    requests = replace(prices.requests, arrival_s=np.concatenate([batch.arrival_s for batch in squeezed]))
    return replace(prices, requests=requests), _USUAL, squeezed
