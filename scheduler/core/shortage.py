"""Since when, and for how much money, pools have been too small: the meter of the ski rental, one level a replica.

Level j is what the (j+1)th further replica would have taken. Each level is a ski rental of its own, so that a shortage of
five replicas is ended as soon as one of one (decomposition: Lu, Chen and Andrew, "Simple and effective dynamic provisioning
for power-proportional data centers", 2013). A shortage lasts as long as a replica would have earned its running cost: a
trickle that is worth less never adds up to a replica.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from scheduler.core.worth import Worth

LEVELS_MAX = 256


@dataclass(frozen=True, slots=True)
class Shortage:
    """By level: ``spent_usd`` elsewhere since the shortage began, ``net_usd`` of that above the cost of a replica running.

    ``since_s``: when the first level's shortage began, inf while there is none.
    """

    spent_usd: tuple[float, ...] = ()
    net_usd: tuple[float, ...] = ()
    since_s: float = math.inf

    def after(
        self, burst: Worth, span_s: float, covered: float, usable: float, usd_per_s: float, levels: int, now_s: float
    ) -> Shortage:
        """After ``span_s`` more seconds with ``burst`` elsewhere.

        ``covered``: replicas that are starting, to which the best of the burst is counted. ``usable``: replica-seconds that a
        replica does in a second. ``usd_per_s``: what a replica would have cost meanwhile. ``levels``: how many replicas more
        there may be.
        """
        spent, net = [], []
        for level in range(min(levels, LEVELS_MAX)):
            low_s = (covered + level) * usable * span_s
            usd = burst.between(low_s, low_s + usable * span_s)
            net_usd = _get(self.net_usd, level) + usd - usd_per_s * span_s
            is_short = net_usd > 0.0
            net.append(net_usd if is_short else 0.0)
            spent.append(_get(self.spent_usd, level) + usd if is_short else 0.0)
        since_s = math.inf
        if net and net[0] > 0.0:
            since_s = self.since_s if self.since_s < math.inf else now_s - span_s
        return Shortage(tuple(spent), tuple(net), since_s)

    def usd(self, replicas: float) -> tuple[float, float]:
        """Spent, and net, at the first ``replicas`` levels (a part of a replica: that part of its level)."""
        return _first(self.spent_usd, replicas), _first(self.net_usd, replicas)

    def less(self, replicas: float) -> Shortage:
        """What is left once ``replicas`` more are on their way."""
        spent, net = _rest(self.spent_usd, replicas), _rest(self.net_usd, replicas)
        return Shortage(spent, net, self.since_s if net and net[0] > 0.0 else math.inf)


def _get(values: Sequence[float], i: int) -> float:
    return values[i] if i < len(values) else 0.0


def _first(values: Sequence[float], width: float) -> float:
    return sum(value * min(1.0, width - i) for i, value in enumerate(values) if i < width)


def _rest(values: Sequence[float], width: float) -> tuple[float, ...]:
    """By level, what lies ``width`` levels further. A level may get the end of one and the beginning of the next."""
    sums = list(accumulate(values, initial=0.0))

    def until(level: float) -> float:
        i = int(level)
        return sums[i] + values[i] * (level - i) if i < len(values) else sums[-1]

    ends = [until(i + width) for i in range(len(values) + 1)]
    return tuple(max(0.0, high - low) for low, high in pairwise(ends))
