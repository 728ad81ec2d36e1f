"""What the clairvoyant knows: every request with its work on every pool, and what each pool can take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scheduler.simulation.bound.dual import Work
from scheduler.simulation.bound.edf import Steps
from scheduler.simulation.bound.pool import constant


@dataclass(frozen=True, slots=True)
class BoundRequests:
    """What is known about n requests and K pools once everything is over.

    ``[n]``: ``arrival_s`` (ascending or not), ``ttft_s`` (limit on the time to the first token), ``late_s`` (when a late
    request has to be done, counted from its arrival), ``usd_elsewhere`` (the cheapest admissible API; infinite if the
    request may not leave). ``[n, K]``: ``energy_usd``, ``prefill_work_s`` and ``decode_work_s`` (replica-seconds),
    ``decode_s`` (what decoding may take after the limit of the first token), ``eligible``.
    """

    arrival_s: np.ndarray
    ttft_s: np.ndarray
    late_s: np.ndarray
    usd_elsewhere: np.ndarray
    energy_usd: np.ndarray
    prefill_work_s: np.ndarray
    decode_work_s: np.ndarray
    decode_s: np.ndarray
    eligible: np.ndarray

    def on_pool(self, pool: int, rows: np.ndarray) -> Work:
        """Those requests as work for one pool."""
        elsewhere, energy = self.usd_elsewhere[rows], self.energy_usd[rows, pool]
        forced = np.isinf(elsewhere)
        prefill = self.prefill_work_s[rows, pool]
        return Work(
            arrival_s=self.arrival_s[rows],
            ttft_s=self.ttft_s[rows],
            decode_s=self.decode_s[rows, pool],
            late_s=self.late_s[rows],
            prefill_work_s=prefill,
            decode_work_s=self.decode_work_s[rows, pool],
            usd_saved=np.where(forced, 0.0, elsewhere - energy),
            forced=forced,
            on_time=prefill <= self.ttft_s[rows],
        )


@dataclass(frozen=True, slots=True)
class BoundPools:
    """``capacity[k]``: replica-seconds per second of pool k (its replicas), over the time of the trace."""

    capacity: tuple[Steps, ...]

    @classmethod
    def fixed(cls, replicas: np.ndarray, from_s: float) -> BoundPools:
        """Pools whose replicas never change, from ``from_s`` on."""
        return cls(tuple(constant(float(count), from_s) for count in replicas))
