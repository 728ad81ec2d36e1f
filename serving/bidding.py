"""The controller's bid prices: hears what gateways' requests would displace, solves the curves beside the event loop.

Soft state. A controller that has just started has no curves and says nothing of them; gates keep those they have.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence

from scheduler.core.bids import BidBook, Demand
from scheduler.core.capacity import BidCurve, Level
from scheduler.core.market import Policy
from serving.control import Wanted
from serving.gate.wire import Bids, LevelBid
from serving.view import NO_BIDS, BidState

Curves = Mapping[float, BidCurve | None]

# Reports that wait for the next solving: some seconds of a hundred gateways.
_REPORTS_MAX = 4096
DEMAND_MAX = 256  # lines of one pool in one report


class Bidding:
    """Demand by pool, and the curves that were last solved from it.

    The book belongs to whoever solves: reports wait beside it meanwhile, so that two threads never share it.
    """

    def __init__(self, policy: Policy, pools: Collection[str]) -> None:
        self._book, self._pools = BidBook(policy), frozenset(pools)
        self._reports: deque[tuple[float, str, list[Demand]]] = deque(maxlen=_REPORTS_MAX)
        self._wanted: set[str] = set()  # pools with demand that may still count
        self.curves: dict[str, Curves] = {}
        self.state: BidState = NO_BIDS

    def heard(self, wanted: Mapping[str, Sequence[Wanted]], now_s: float) -> None:
        """A gateway's report. What is no sensible figure, or of no pool of ours, is left out; how requests ended, too."""
        for pool in wanted.keys() & self._pools:
            decided = [one for one in wanted[pool] if not one.end][:DEMAND_MAX]
            if decided:
                self._reports.append((now_s, pool, [found for one in decided if (found := demand_of(one)) is not None]))

    async def solve(
        self,
        levels: Mapping[str, Sequence[Level]],
        replicas: Mapping[str, int],
        ratios: Mapping[str, float],
        now_s: float,
    ) -> None:
        """New curves for every pool with ``levels``, replicas and demand, in a thread: it takes tens of milliseconds."""
        while self._reports:
            at_s, pool, demand = self._reports.popleft()
            self._book.heard(pool, demand, at_s)
            self._wanted.add(pool)
        living = {pool: lines for pool, lines in levels.items() if lines and replicas[pool] and pool in self._wanted}
        if not living:
            return
        began_s = time.perf_counter()
        await asyncio.to_thread(self._book.solve, living, replicas, ratios, now_s)
        for pool, lines in living.items():
            nothing: Curves = dict.fromkeys(line.ttft_s_max for line in lines)
            self.curves[pool] = self._book.curves.get(pool, nothing)
            if pool not in self._book.curves:
                self._wanted.discard(pool)
        solved_at_s = self.state.solved_at_s | dict.fromkeys(living, now_s)
        self.state = BidState(solved_at_s, time.perf_counter() - began_s)

    def bids(self, pool: str) -> Bids | None:
        """What its gate should have; None before the first solving."""
        curves = self.curves.get(pool)
        if curves is None:
            return None
        return Bids(self.state.solved_at_s[pool], tuple(LevelBid(limit_s, bid) for limit_s, bid in curves.items()))


def demand_of(one: Wanted) -> Demand | None:
    """A line of a report as the core's type; None where it is no sensible figure."""
    if one.work_s < 0.0 or one.weight <= 0.0:
        return None
    usd = math.inf if one.usd_displaced is None else one.usd_displaced
    return Demand(usd, one.work_s, one.ttft_s_max, one.weight)
