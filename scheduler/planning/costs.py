"""What a plan costs, by where the money goes."""

from __future__ import annotations

import msgspec


class Costs(msgspec.Struct, frozen=True):
    """USD per hour, by part. ``total`` is their sum.

    ``rented``: effective rents, interruptions and idle power in them, as far as the rehearsed clock is billed for them.
    ``starting``: what is bought, or waits, until rented replicas answer; the latter is weighed and comes on no bill.
    """

    owned: float
    reserved: float
    rented: float
    energy: float
    api: float
    starting: float = 0.0

    @property
    def total(self) -> float:
        """USD per hour of everything."""
        return self.owned + self.reserved + self.rented + self.energy + self.api + self.starting
