"""Who else asks the gateway while a pool is measured, from the gateway's own counters.

A request that is not ours was either counted when it ended or is still in flight, so both are looked at between two steps.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from serving.calibration.ask import CalibrationError, Gateway
from serving.calibration.load import Tally
from serving.calibration.plan import Exhausted

_ENDED = {("baseload_requests_total", None), ("baseload_refused_requests_total", "overloaded")}
_TRIES = 3
_TRY_S = 0.1


class Seen(NamedTuple):
    """The gateway at one scrape. ``ended``: requests since it started, with those it turned away for want of room."""

    ended: float
    inflight: float
    at_pool: float


async def look(gateway: Gateway, pool: str) -> Seen:
    """Scrape the gateway. Raises CalibrationError where it does not answer."""
    ended = inflight = at_pool = 0.0
    for name, labels, value in await gateway.samples():
        if (name, labels.get("code")) in _ENDED:
            ended += value
        elif name == "baseload_inflight_requests":
            inflight = value
        elif name == "baseload_pool_state" and labels.get("pool") == pool:
            at_pool += value if labels.get("what") in ("running", "waiting") else 0.0
    return Seen(ended, inflight, at_pool)


class Others:
    """Counts what is not ours since ``before``. ``force``: counts only, and never stops the run."""

    def __init__(self, gateway: Gateway, pool: str, tally: Tally, before: Seen, force: bool) -> None:
        self._gateway, self._pool, self._tally = gateway, pool, tally
        self._before, self._force = before, force
        self.requests = 0

    async def count(self, clients: int) -> int:
        """Requests of others so far, while none of ours is in flight; ``clients``: how many of ours were, a step ago."""
        inflight = float("inf")
        for _ in range(_TRIES):  # our last answer may be whole before the gateway has put it away
            try:
                seen = await look(self._gateway, self._pool)
            except CalibrationError:
                return self.requests  # whether the gateway still answers, the next request will tell
            inflight = min(inflight, seen.inflight)
            if not inflight:
                break
            await asyncio.sleep(_TRY_S)
        ended = seen.ended - self._before.ended - self._tally.requests
        # The gate's state is a second or two behind: ours of the last step may still be in it, and those that failed. So may
        # others that have ended meanwhile: whoever is seen at the pool and not here came by another gateway, or was counted.
        at_pool = seen.at_pool - clients - self._tally.failed.total()
        self.requests = max(self.requests, round(max(max(0.0, ended) + inflight, at_pool)))
        return self.requests

    async def stop_if_any(self, clients: int) -> None:
        """Between two steps. Raises Exhausted once others were seen, unless forced."""
        if await self.count(clients) and not self._force:
            raise Exhausted(
                f"others use the gateway ({self.requests:,} request(s) were not ours): "
                "measure when it is idle, or say --force"
            )
