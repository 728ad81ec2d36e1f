"""What one more replica costs while it is there, whether or not it is asked: effective rent and idle power. Hardware that was
bought is not in it, since no decision about a replica changes what it cost.
"""

from __future__ import annotations

from typing import NamedTuple

from pricing import onprem
from pricing.board import Board
from pricing.local_cost import Rent
from scheduler.config import ClusterConfig
from scheduler.config.prices import Rental


class Holding(NamedTuple):
    """USD per replica-hour. ``held``: effective rent with idle power; ``rent``: as billed; ``standby``: idle power alone.

    ``unknown``: why the rent of a rented pool is not known, '' where it is; then it is not in the figures.
    """

    held: float
    rent: float
    standby: float
    unknown: str = ""


def holdings(config: ClusterConfig, board: Board) -> dict[str, Holding]:
    """By pool, at the prices of ``board``; pools that it does not price are left out."""
    sites = {site.name: site for site in config.sites}
    found = {}
    for pool in config.pools:
        priced = board.pools.get(pool.name)
        if priced is None:
            continue
        watts, pue = priced.energy.idle_watts or 0.0, sites[pool.site].electricity.pue
        idle_usd = onprem.power_usd_per_hour(watts, priced.tariff.usd_per_kwh, pue)
        effective_usd = priced.rent.usd_per_hour if isinstance(priced.rent, Rent) else 0.0
        unknown = priced.rent if isinstance(priced.rent, str) else ""
        found[pool.name] = Holding(effective_usd + idle_usd, _billed(pool.rental, effective_usd), idle_usd, unknown)
    return found


def _billed(rental: Rental | None, effective_usd_per_hour: float) -> float:
    """The listed rent behind an effective one, which has interruptions and starts in it."""
    if rental is None:
        return 0.0
    lost_usd = rental.interruptions_per_hour * rental.usd_lost_per_interruption
    return (effective_usd_per_hour - lost_usd) * rental.availability * (1.0 - rental.restart_share)
