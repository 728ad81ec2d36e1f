"""A site and a mix as tables of the kernel: profiles, the offers that each may use, pools, lines and engines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scheduler.core.market import Policy
from scheduler.core.supply import Offer
from scheduler.core.value import POINTS_MAX
from scheduler.simulation.kernel import state
from scheduler.simulation.kernel.lanes import PREFILL_PRIOR_S, WORK_PRIOR_S
from scheduler.simulation.kernel.state import DEMAND_MAX, INPUT_KINDS, NOBODY, SAMPLES_MAX, State
from scheduler.simulation.mix import Profile
from scheduler.simulation.scenario import api_offers, local_offers
from scheduler.simulation.site import Site, gate_of
from scheduler.simulation.sources import slower

_TIMEOUT_S_MAX = 600.0  # who may wait for longer is looked at again then
Changes = Sequence[tuple[float, str, int]]


@dataclass(slots=True)
class Tables:
    """What does not change while a run goes on, but for prices (``price``), whose ``tiers`` may become more or fewer."""

    profiles: np.ndarray
    offers: np.ndarray
    tiers: np.ndarray
    apis: np.ndarray

    def price(self, offers: Sequence[Offer]) -> None:
        """New prices for the same offers in the same order. Raises ValueError if they are others."""
        if len(offers) != len(self.offers):
            raise ValueError("the offers are not those that the run began with")
        count, place = sum(len(offer.rate.tiers) for offer in offers), 0
        if count != len(self.tiers):
            self.tiers = np.zeros(count, state.TIER)
        for row, offer in zip(self.offers, offers, strict=True):
            rate = offer.rate
            for name in ("usd_per_request", "usd_per_input", "usd_per_output"):
                row[name] = getattr(rate, name)
            row["usd_per_thinking"] = _thinking(rate)
            if offer.floor is not None:
                row["floor_usd_per_s"] = offer.floor.usd(1.0)
            row["tier_first"] = place
            for tier in rate.tiers:
                self.tiers[place] = (tier.input_tokens_above, tier.usd_per_input, tier.usd_per_output, _thinking(tier))
                place += 1
            row["tier_end"] = place


def _thinking(prices: Any) -> float:
    return float(prices.usd_per_output if prices.usd_per_reasoning is None else prices.usd_per_reasoning)


def tables_of(site: Site, profiles: Sequence[Profile], offers: Sequence[Offer]) -> Tables:
    """Profiles and offers. A profile that may use several pools uses the one that needs the least work.

    Raises ValueError for a TPOT objective, which only the exact engine judges.
    """
    paced = [profile.service_class.name for profile in profiles if profile.service_class.tpot_s_max < math.inf]
    if paced:
        raise ValueError(f"{paced[0]}: the kernel judges no tpot_s_max")
    names, rows = [pool.name for pool in site.pools], {offer.id: i for i, offer in enumerate(offers)}
    tenants = {name: i for i, name in enumerate(dict.fromkeys(profile.tenant for profile in profiles))}
    made, apis = np.zeros(len(profiles), state.PROFILE), list[int]()
    for row, profile in zip(made, profiles, strict=True):
        homes, of = local_offers(profile, tuple(offers)), profile.service_class
        pool = names.index(homes[0].id.partition("/")[0]) if homes else NOBODY
        row["tenant"], row["home"] = tenants[profile.tenant], rows[homes[0].id] if homes else NOBODY
        row["line"] = pool * len(site.ttft_s_max) + site.ttft_s_max.index(of.ttft_s_max)
        row["api_first"] = len(apis)
        apis += [rows[offer.id] for offer in api_offers(profile, tuple(offers))]
        row["api_end"], row["deadline_s"], row["usd_max"] = len(apis), profile.deadline_s, profile.usd_max
        for name in ("ttft_s_max", "usd_per_s_waiting", "usd_per_ttft_miss", "usd_per_wrong_answer"):
            row[name] = getattr(of, name)
    table = np.zeros(len(offers), state.OFFER)
    for row, offer in zip(table, offers, strict=True):
        row["pool"] = names.index(offer.id.partition("/")[0]) if offer.kind != "api" else NOBODY
        for name in ("context_tokens", "reasoning_tokens", "tokens_ratio"):
            row[name] = getattr(offer, name)
        for name in ("prefill_tokens_per_s", "itl_base_s", "itl_per_seq_s", "seqs_max", "ttft_base_s", "kv_tokens"):
            row[name] = getattr(offer.curve, name)
        row["low"], row["medium"], row["high"] = offer.quality.low, offer.quality.medium, offer.quality.high
    tiers = np.zeros(sum(len(offer.rate.tiers) for offer in offers), state.TIER)
    found = Tables(made, table, tiers, np.array(apis, np.int32))
    found.price(offers)
    return found


def state_of(
    site: Site, tables: Tables, policy: Policy, gateways: int, curve_error: float = 1.0, changes: Changes = ()
) -> State:
    """A site at rest: all engines of every pool are there and idle. Raises ValueError for a pool without a gate of ours."""
    levels, count = len(site.ttft_s_max), len(site.pools)
    pools, lines = np.zeros(count, state.POOL), np.zeros(count * levels, state.LINE)
    lanes = np.zeros(sum(pool.replicas_max for pool in site.pools), state.LANE)
    first, waiting = 0, 0
    for i, (row, spec) in enumerate(zip(pools, site.pools, strict=True)):
        if not spec.gated:
            raise ValueError(f"{spec.name}: the kernel plays only pools whose requests wait at their gate")
        curve, gate = slower(spec.curve, curve_error), gate_of(spec, site.ttft_s_max, policy)
        last = first + spec.replicas_max
        lanes["pool"][first:last], lanes["healthy"][first:last] = i, 1
        row["lane_first"], row["lane_end"], row["healthy"] = first, last, spec.replicas_max
        row["line_first"], row["line_end"] = i * levels, (i + 1) * levels
        lines["pool"][i * levels : (i + 1) * levels] = i
        lines["ttft_s_max"][i * levels : (i + 1) * levels] = site.ttft_s_max
        row["slots"], row["waiting_max"], row["chunk_tokens"] = curve.seqs_max, spec.waiting_max, spec.chunk_tokens
        row["true_base_s"], row["true_per_seq_s"] = curve.itl_base_s, curve.itl_per_seq_s
        row["true_per_token_s"], row["kv_tokens"] = 1.0 / curve.prefill_tokens_per_s, curve.kv_tokens
        row["ttft_base_s"], row["service_s_mean"] = curve.ttft_base_s, gate.service_s_mean
        row["step_base_s"], row["step_per_seq_s"] = spec.curve.itl_base_s, spec.curve.itl_per_seq_s
        row["margin"], row["prefill_ratio"], row["work_ratio"] = policy.ttft_margin, 1.0, 1.0
        row["prefill_actual_s"] = row["prefill_predicted_s"] = PREFILL_PRIOR_S
        row["work_actual_s"] = row["work_predicted_s"] = WORK_PRIOR_S
        row["slots_bound"] = row["seen_slots_bound"] = 1.0
        row["began_s"] = row["since_s"] = row["faded_s"] = -1.0
        row["sample_every"], first, waiting = 1, last, waiting + spec.waiting_max
    lines["head"] = lines["tail"] = NOBODY
    pools["first"] = NOBODY
    return _allocated(site, tables, pools, lines, lanes, waiting, gateways, _changed(site, changes))


def _changed(site: Site, changes: Changes) -> np.ndarray:
    names = [pool.name for pool in site.pools]
    rows = sorted((at_s, names.index(name), replicas) for at_s, name, replicas in changes)
    return np.array(rows, float).reshape(len(rows), 3)


def _power(count: int) -> int:
    return 1 << max(1, count - 1).bit_length()


def _allocated(
    site: Site, tables: Tables, pools: np.ndarray, lines: np.ndarray, lanes: np.ndarray, waiting: int, gateways: int,
    changes: np.ndarray,
) -> State:  # fmt: skip
    count, slots = len(pools), max((pool.curve.seqs_max for pool in site.pools), default=1)
    held = max((pool.curve.seqs_max * pool.replicas_max for pool in site.pools), default=1)
    rows = waiting + sum(pool.curve.seqs_max * pool.replicas_max for pool in site.pools) + 1
    longest_s = max(tables.profiles[name].max(initial=0.0) for name in ("deadline_s", "ttft_s_max"))
    ticks = _power(int(min(longest_s, _TIMEOUT_S_MAX) / state.TICK_S) + 3)
    earlier = np.zeros((len(lines), len(site.ttft_s_max)), state.EARLIER)
    earlier["ticket"] = NOBODY
    leaves, room = _power(len(lanes)), 2 * max((pool.waiting_max for pool in site.pools), default=0) + 128
    pools["ring_mask"], pools["news_s"] = _power(2 * held + 2) - 1, np.inf
    tickets, tenants = np.zeros(rows, state.TICKET), int(tables.profiles["tenant"].max(initial=0)) + 1
    tickets["number"] = NOBODY
    clock = np.zeros(1, state.CLOCK)
    clock["free"], clock["changes"], clock["news_s"] = rows, len(changes), np.inf
    clock["change_s"] = changes[0, 0] if len(changes) else np.inf
    return State(
        clock=clock, profiles=tables.profiles, offers=tables.offers, tiers=tables.tiers, apis=tables.apis,
        pools=pools, lines=lines, lanes=lanes, tickets=tickets, free=np.arange(rows, dtype=np.int32),
        due_s=np.full(2 * leaves, np.inf), first=_winners(leaves),
        lane_ring=np.zeros((len(lanes), _power(slots + 1)), np.int32),
        ends_step=np.zeros((len(lanes), slots)), ends_ticket=np.zeros((len(lanes), slots), np.int32),
        news_s=np.zeros((count, _power(2 * held + 2))), news=np.zeros((count, _power(2 * held + 2)), np.int32),
        earlier=earlier, timeouts=np.full((len(lines), ticks, 2), NOBODY, np.int32),
        room_usd=np.zeros((len(lines), room)), room_ticket=np.zeros((len(lines), room), np.int32),
        room_number=np.zeros((len(lines), room), np.int64), bid_usd=np.zeros((len(lines), POINTS_MAX)),
        sent_s=np.zeros((gateways, count)), sent_at_s=np.zeros((gateways, count)),
        tenant_lengths=np.zeros((gateways, tenants, 2)),
        profile_lengths=np.zeros((gateways, len(tables.profiles), INPUT_KINDS, 2)),
        sample=np.zeros((count, SAMPLES_MAX * gateways, 3)), demand=np.zeros((count, DEMAND_MAX, 5)),
        windows=np.zeros((count, DEMAND_MAX, 3)), changes=changes, by_profile=np.zeros((len(tables.profiles), 2)),
        api_usd=np.zeros(0), ttft_s=np.zeros(0), source=np.zeros(0, np.int8),
    )  # fmt: skip


def _winners(leaves: int) -> np.ndarray:
    """A tournament in which nobody has played: the leftmost leaf is ahead everywhere."""
    first = np.zeros(2 * leaves, np.int32)
    first[leaves:] = np.arange(leaves)
    for node in range(leaves - 1, 0, -1):
        first[node] = first[2 * node]
    return first
