"""Which pools a technology of a plan has: what is owned, what is reserved and what is rented by the hour are one each.

A pool has one price. The first of them has the technology's name, the others are beside it, on the same site, model, engine
and curve. Servers that are not ours to start (``url``, ``ray-serve-llm``) cannot be given to a second pool: they stay one,
unless somebody has made the other.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from scheduler.config import ClusterConfig
from scheduler.config.planning import Beside
from scheduler.planning.document import PoolPlan
from scheduler.planning.technologies import companions

Kind = Literal["owned", "reserved", "rented"]
_Way = tuple[Kind, int, str]  # how many, and the name of the pool where they have one of their own


class Share(NamedTuple):
    """A pool of a technology; several ``kinds`` only where its engine cannot be given to a second pool."""

    pool: str
    kinds: tuple[Kind, ...]
    replicas_min: int
    replicas_max: int
    words: str

    @property
    def bounds(self) -> dict[str, int]:
        """As in the file."""
        return {"min": self.replicas_min, "max": self.replicas_max}


def total(entry: PoolPlan) -> int:
    """Replicas of every kind."""
    return entry.owned + entry.reserved + entry.rented_max


def shares_in(config: ClusterConfig, entry: PoolPlan) -> tuple[Share, ...]:
    """The pools of a planned technology of ``config``, the one with its name first; () where nothing is planned.

    Raises PlanError where the name of a pool is taken.
    """
    candidate = next((c for c in config.planning.candidates if c.name == entry.name), None)
    origin = candidate.pool if candidate is not None else entry.name
    is_ours = next(pool for pool in config.pools if pool.name == origin).engine.kind == "vllm"
    there = {name for name, owner in companions(config).items() if owner == entry.name}
    beside = beside_of(config, entry.name)
    ways: list[_Way] = [
        ("owned", entry.owned, entry.name), ("reserved", entry.reserved, beside.reserved),
        ("rented", entry.rented_max, beside.rented),
    ]  # fmt: skip
    ways = [way for way in ways if way[1]]
    apart = [way for way in ways[1:] if is_ours or way[2] in there]
    main = [way for way in ways if way not in apart]
    others = [_share(way[2], [way], 0 if is_ours else 1) for way in apart]
    return (_share(entry.name, main, 1), *others) if main else ()


def beside_of(config: ClusterConfig, name: str) -> Beside:
    """Names of the pools beside that of a technology, whether they are there or not."""
    of_pools = {offer.pool: offer.beside for offer in config.planning.cloud}
    of_candidates = {candidate.name: candidate.beside for candidate in config.planning.candidates}
    return (of_pools | of_candidates).get(name, Beside.of(name))


def _share(pool: str, ways: list[_Way], least: int) -> Share:
    words = ", ".join(f"up to {count} rented" if kind == "rented" else f"{count} {kind}" for kind, count, _ in ways)
    stays = sum(count for kind, count, _ in ways if kind != "rented")
    return Share(pool, tuple(way[0] for way in ways), max(least, stays), sum(way[1] for way in ways), words)
