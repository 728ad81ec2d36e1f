"""Units: the part of a pool's requests that one technology serves. Independent of each other, each with its own load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scheduler.planning.requests import PoolRequests, Requests
from scheduler.planning.sizes import BUCKETS, bucket_of, input_tokens_max
from scheduler.planning.technologies import Technology
from scheduler.simulation.mix import Profile
from scheduler.simulation.workload import Batch

# (profile, bucket) -> index of the technology among those of the pool.
Placement = Mapping[tuple[int, int], int]


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """Requests of one pool on one technology; columns as in ``PoolRequests``."""

    technology: Technology
    at_s: np.ndarray
    work_s: np.ndarray
    elsewhere_usd: np.ndarray
    energy_usd: np.ndarray
    tokens: float
    stands_for: float

    @property
    def name(self) -> str:
        """That of its technology."""
        return self.technology.name

    @property
    def api_usd_per_work_s(self) -> float:
        """What the cheapest APIs ask for a replica-second of its work, mean over what may leave."""
        may = np.isfinite(self.elsewhere_usd)
        work_s = float(self.work_s[may].sum(dtype=float))
        return float(self.elsewhere_usd[may].sum(dtype=float)) / max(1e-9, work_s)

    @property
    def energy_usd_per_work_s(self) -> float:
        """What energy a replica-second of its work draws, in USD."""
        return float(self.energy_usd.sum(dtype=float)) / max(1e-9, float(self.work_s.sum(dtype=float)))


def units_of(requests: Requests, placements: Mapping[str, Placement]) -> tuple[tuple[Unit, ...], float]:
    """Every technology that gets requests, in order, and USD of requests that fit none of their pool.

    A request goes where its profile and bucket are placed (without a placement: to the first technology of its pool), or if
    it does not fit there, to the first that it fits.
    """
    units, stray_usd = [], 0.0
    for pool in requests.pools:
        chosen = placed(pool, placements.get(pool.pool, {}))
        for index, technology in enumerate(pool.technologies):
            rows = chosen == index
            fits = rows & np.isfinite(pool.work_s[index])
            stray = rows & ~fits
            stray_usd += (
                float(pool.elsewhere_usd[stray & np.isfinite(pool.elsewhere_usd)].sum(dtype=float)) * pool.stands_for
            )
            if fits.any():
                units.append(
                    Unit(
                        technology, pool.at_s[fits], pool.work_s[index, fits], pool.elsewhere_usd[fits],
                        pool.energy_usd[index, fits],
                        float(pool.input_tokens[fits].sum(dtype=float) + pool.output_tokens[fits].sum(dtype=float)),
                        pool.stands_for,
                    )
                )  # fmt: skip
    return tuple(units), stray_usd


def placed(pool: PoolRequests, placement: Placement) -> np.ndarray:
    """Index of the technology of each request; of one that does not fit where it is placed, the first that it fits."""
    table = np.zeros((int(pool.profile.max(initial=0)) + 1, BUCKETS), np.int16)
    for (profile, bucket), technology in placement.items():
        if profile < len(table):
            table[profile, bucket] = technology
    chosen = table[pool.profile, bucket_of(pool.input_tokens)]
    fits = np.isfinite(pool.work_s)
    return np.where(fits[chosen, np.arange(len(pool))], chosen, np.argmax(fits, axis=0)).astype(np.int16)


class Relabelled:
    """Profiles bound to one technology each, and batches in which every request has the one of its size.

    ``profiles[k]`` is one of the original ones with a single pool, or without any; ``unit_of[k]`` names it ('': none).
    Requests that do not fit where they are placed (``input_tokens_max``) go where ``placed`` puts them, or have no home.
    """

    def __init__(
        self, profiles: Sequence[Profile], technologies: Sequence[Technology], placements: Mapping[str, Placement]
    ) -> None:
        by_pool = {pool: [t for t in technologies if t.pool == pool] for pool in {t.pool for t in technologies}}
        most = max(map(len, by_pool.values()))
        self.profiles: list[Profile] = []
        self.unit_of: list[str] = []
        # By technology of the pool; the label behind the last one is that of requests without a home.
        self._label = np.zeros((len(profiles), most + 1), np.int16)
        self._longest = np.full((len(profiles), most), -np.inf)
        self._placed = np.zeros((len(profiles), BUCKETS), np.int16)
        for index, profile in enumerate(profiles):
            home = next((pool for pool, own in by_pool.items() if profile.pools and own[0].name in profile.pools), "")
            own = by_pool.get(home, [])
            self._label[index] = self._made(profile, "")
            self._label[index, : len(own)] = [self._made(profile, technology.name) for technology in own]
            self._longest[index, : len(own)] = [input_tokens_max(technology, profile) for technology in own]
            for bucket in range(BUCKETS):
                self._placed[index, bucket] = placements.get(home, {}).get((index, bucket), 0)

    def _made(self, profile: Profile, name: str) -> int:
        self.profiles.append(replace(profile, pools=frozenset({name} if name else ())))
        self.unit_of.append(name)
        return len(self.profiles) - 1

    def batch(self, batch: Batch) -> Batch:
        """The same requests with their profiles of here."""
        of = batch.profile
        chosen = self._placed[of, bucket_of(batch.input_tokens)]
        fits = batch.input_tokens[:, None] <= self._longest[of]
        otherwise = np.where(fits.any(axis=1), np.argmax(fits, axis=1), fits.shape[1])
        where = np.where(fits[np.arange(len(of)), chosen], chosen, otherwise)
        return replace(batch, profile=self._label[of, where])
