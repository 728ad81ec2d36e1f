"""A pool's scarce time: how long a new request would wait for it, and what that time is worth to others.

Units: USD, seconds, replica-seconds (work of one replica for a second). ``x`` is the wait of a new request at the end of the
line: work of all waiters over the replicas that share it, plus what the engines have not begun.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class BidCurve:
    """V(x): USD that the pool's remaining time is worth when a new request would wait ``x`` seconds.

    Piecewise linear over ``wait_s`` (ascending); V falls as the backlog grows.
    """

    wait_s: tuple[float, ...]
    usd: tuple[float, ...]

    def at(self, x_s: float) -> float:
        """V at ``x_s``, flat beyond both ends (bisection: a tenth of numpy's cost for one point)."""
        wait_s, usd = self.wait_s, self.usd
        if x_s <= wait_s[0]:
            return usd[0]
        if x_s >= wait_s[-1]:
            return usd[-1]
        i = bisect_right(wait_s, x_s)
        return usd[i - 1] + (usd[i] - usd[i - 1]) * (x_s - wait_s[i - 1]) / (wait_s[i] - wait_s[i - 1])

    def price_usd(self, wait_s: float, added_s: float) -> float:
        """Value of the time a request takes away: V(x) - V(x + added)."""
        usd = self.at(wait_s) - self.at(wait_s + added_s)
        return usd if usd > 0.0 else 0.0


_ROUNDS = 40


class Level(NamedTuple):
    """One step of a pool's deadline staircase: the requests whose TTFT objective is at most ``ttft_s_max``.

    ``wait_s``: predicted wait of a new one of them, who stands behind all of them, if nobody overtakes. ``bid``: value of
    that line's time, None while nothing is known. ``load``: share of the pool's time that this step's own requests (not
    those of faster steps) were given lately. Levels ascend; every request counts in its own level and in all above.
    """

    ttft_s_max: float
    wait_s: float
    bid: BidCurve | None = None
    load: float = 0.0


def overtaken_s(levels: Sequence[Level], level: int) -> float:
    """Wait at the end of line ``level`` when faster requests go on arriving as they did: earliest deadline first.

    One with objective d overtakes one with objective D who has been waiting for less than D - d, so w = x + sum of
    load * min(w, D - d); the smallest such w, nearly, by rounds from below.
    """
    limit_s, x_s = levels[level].ttft_s_max, levels[level].wait_s
    wait_s = x_s
    for _ in range(_ROUNDS):
        longer_s = x_s
        for fast in levels[:level]:
            gap_s = limit_s - fast.ttft_s_max
            longer_s += fast.load * (wait_s if wait_s < gap_s else gap_s)
        if longer_s - wait_s < 1e-3:
            return longer_s
        wait_s = longer_s
    return wait_s


def room_s(levels: Sequence[Level], level: int, margin: float) -> float:
    """The longest line at ``level`` that still meets its objective, planned with ``margin``: the inverse of the above."""
    limit_s = levels[level].ttft_s_max
    taken_s = sum(min(1.0, fast.load) * (limit_s - fast.ttft_s_max) for fast in levels[:level])
    floor_s = margin * levels[0].ttft_s_max
    return max(floor_s, margin * limit_s - taken_s)


def price_usd(
    levels: tuple[Level, ...], ttft_s_max: float, added_s: float, age_s: float = 0.0, sent_s: float = 0.0
) -> float:
    """Bid price of ``added_s`` seconds of wait for a request with objective ``ttft_s_max``.

    The request takes time from its own line and from every slower one; the dearest of them sets the price. ``age_s``: how
    long ago the lines were seen (they drain one second a second); ``sent_s``: what has joined them since, as far as known.
    """
    usd = 0.0
    last = levels[-1].ttft_s_max if levels else 0.0
    for limit_s, wait_s, bid, _ in levels:
        if bid is not None and (limit_s >= ttft_s_max or limit_s == last):
            left_s = wait_s - age_s
            price = bid.price_usd(left_s + sent_s if left_s > 0.0 else sent_s, added_s)
            if price > usd:
                usd = price
    return usd


@dataclass(frozen=True, slots=True)
class Capacity:
    """State of a limited pool at ``as_of_s``, summed over its replicas.

    ``gated``: a gate of ours asks again on exact state; without one the gateways' forecast is the last word, and
    ``admitted_per_s`` (replica-seconds that all gateways together send it per second) is what they forecast with.
    ``kv_usage``: share of the KV cache in use. ``slots_bound``: share of the time in which slots or cache, not compute, keep
    the line back.
    """

    replicas: int
    slots: int
    running: int
    waiting: int
    service_s_mean: float
    as_of_s: float
    levels: tuple[Level, ...] = ()
    gated: bool = True
    admitted_per_s: float = 0.0
    kv_usage: float = 0.0
    slots_bound: float = 1.0

    def wait_s(self, ttft_s_max: float, age_s: float = 0.0, sent_s: float = 0.0) -> float:
        """Predicted wait of a new request with objective ``ttft_s_max``; ``age_s`` and ``sent_s`` as in ``price_usd``."""
        if not self.levels:
            return sent_s
        found_s = self.levels[-1].wait_s
        for limit_s, wait_s, _, _ in self.levels:
            if limit_s >= ttft_s_max:
                found_s = wait_s
                break
        return max(0.0, found_s - age_s) + sent_s

    def joined_s(self, sent_s: float, age_s: float) -> float:
        """What has joined the lines since ``as_of_s`` (they drain by ``age_s``): this gateway's own work, ``sent_s``.

        Without a gate it is a forecast of what all gateways sent; what a gate lets in it will see by itself.
        """
        if self.gated or self.replicas <= 0 or age_s <= 0.0:
            return sent_s
        return max(sent_s, self.admitted_per_s / self.replicas * age_s)
