"""A site file as the simulator needs it: offers with their prices over time, and the pools behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pricing import board
from pricing.board import Board
from pricing.desk import EMPTY, Sheet
from scheduler.config import ClusterConfig
from scheduler.config.supply import Pool
from scheduler.core.gate import PoolGate
from scheduler.core.lanes import GateSettings
from scheduler.core.market import Policy
from scheduler.core.supply import FixedCost, Offer, ServiceCurve, Usage
from scheduler.simulation.engine import CHUNK_TOKENS
from scheduler.simulation.mix import Profile
from scheduler.simulation.price_history import PriceHistory, holds_until_s

_TYPICAL = Usage(256, 0, 128)


class SiteError(ValueError):
    """The site file cannot be simulated; says what is missing."""


@dataclass(frozen=True, slots=True)
class SitePool:
    """A pool: its offers (one, or one for each adapter), its curve, how many replicas it has and may have."""

    name: str
    offer_ids: tuple[str, ...]
    kind: str
    curve: ServiceCurve
    replicas_min: int
    replicas_max: int
    waiting_max: int
    gated: bool
    start_s: float
    interruptions_per_hour: float
    fixed: FixedCost | None
    chunk_tokens: int = CHUNK_TOKENS
    prefix_tokens: int = 0  # that the prefix caches hold together; 0: none is counted on


@dataclass(frozen=True, slots=True)
class Site:
    """Everything about supply that does not change while a trace is played; prices may (``priced``).

    With a ``history`` they are those of it, else those of cluster.yaml and the ``sheet``.
    """

    config: ClusterConfig
    pools: tuple[SitePool, ...]
    ttft_s_max: tuple[float, ...]
    sheet: Sheet = EMPTY
    history: PriceHistory | None = None

    def priced(self, now_s: float) -> Board:
        """Offers and fixed costs at their prices of that moment."""
        return self.priced_until(now_s)[0]

    def priced_until(self, now_s: float) -> tuple[Board, float]:
        """The same, and the next instant at which a price may be another one (Unix seconds, infinity: never)."""
        if self.history is not None:
            return self.history.board_until(now_s)
        priced = board.price(self.config, now_s, self.sheet)
        return priced, holds_until_s(priced, now_s)

    @property
    def capacity(self) -> dict[str, float]:
        """Replica-seconds per second, by pool."""
        return {pool.name: float(pool.replicas_max) for pool in self.pools}


def site_of(
    config: ClusterConfig,
    profiles: tuple[Profile, ...],
    now_s: float,
    sheet: Sheet = EMPTY,
    history: PriceHistory | None = None,
) -> Site:
    """The site of ``config``. Raises SiteError where a source has no price: an unknown price is never a default."""
    priced = board.price(config, now_s, sheet) if history is None else history.board_until(now_s)[0]
    if priced.unpriced:
        reasons = "; ".join(f"{offer_id}: {reason}" for offer_id, reason in sorted(priced.unpriced.items()))
        raise SiteError(f"no price is known for some sources, so that nothing can be compared ({reasons})")
    pools = tuple(_site_pool(pool, priced.offers, priced.fixed) for pool in config.pools)
    limits = tuple(sorted({profile.service_class.ttft_s_max for profile in profiles}))
    return Site(config, pools, limits, sheet, history)


def _site_pool(pool: Pool, offers: tuple[Offer, ...], fixed: Mapping[str, FixedCost]) -> SitePool:
    own = [offer for offer in offers if offer.id.partition("/")[0] == pool.name]
    return SitePool(
        name=pool.name,
        offer_ids=tuple(offer.id for offer in own),
        kind=pool.kind,
        curve=own[0].curve,
        replicas_min=pool.replicas.min,
        replicas_max=pool.replicas.max,
        waiting_max=pool.gate.waiting_max,
        gated=pool.gate.holds,
        start_s=pool.start_s,
        interruptions_per_hour=pool.rental.interruptions_per_hour if pool.rental else 0.0,
        fixed=fixed.get(own[0].id),
        prefix_tokens=_prefix_tokens(pool, own[0].curve),
        chunk_tokens=int(getattr(pool.engine, "args", {}).get("max_num_batched_tokens", CHUNK_TOKENS)),
    )


def _prefix_tokens(pool: Pool, curve: ServiceCurve) -> int:
    """vLLM caches prefixes unless told not to; the simulator counts on it only where the site file asks for it."""
    asked = getattr(pool.engine, "args", {}).get("enable_prefix_caching", False)
    return curve.kv_tokens * pool.replicas.max if asked else 0


def gate_of(pool: SitePool, ttft_s_max: tuple[float, ...], policy: Policy) -> PoolGate:
    """A gate for the pool, as the live one is made."""
    curve = pool.curve
    settings = GateSettings(
        slots=curve.seqs_max,
        waiting_max=pool.waiting_max,
        service_s_guess=curve.service_s(_TYPICAL, curve.seqs_max),
        kv_tokens=curve.kv_tokens,
        ttft_base_s=curve.ttft_base_s,
        step_base_s=curve.itl_base_s,
        step_per_seq_s=curve.itl_per_seq_s,
        ttft_s_max=ttft_s_max,
    )
    return PoolGate(settings, policy)
