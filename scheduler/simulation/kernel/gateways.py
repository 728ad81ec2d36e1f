"""A gateway's decision: ``scheduler.core.dispatch`` and rules of ``scheduler.simulation.policies`` on arrays. Compiled."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from scheduler.core import tickets
from scheduler.simulation import policies
from scheduler.simulation.kernel.gates import enter
from scheduler.simulation.kernel.ledger import answered, expected_output, usd_of
from scheduler.simulation.kernel.prices import price
from scheduler.simulation.kernel.state import NOBODY, SAMPLES_MAX, Arrivals, L, State, tight

BID, QUEUE, KV, STATIC, QUALITY, ALL_API, ALL_LOCAL, GIVEN = range(8)
_LAST_USD, _ROUND_TRIP_S, _SPREAD = policies._LAST_USD, tickets.ROUND_TRIP_S, tickets._SPREAD


@tight
def _wrong(s: State, offer_row: int, profile_row: int, difficulty: float) -> float:
    offer = s.offers[offer_row]
    if difficulty <= 0.5:
        right = offer.low + (offer.medium - offer.low) * 2.0 * difficulty
    else:
        right = offer.medium + (offer.high - offer.medium) * (2.0 * difficulty - 1.0)
    return float(s.profiles[profile_row].usd_per_wrong_answer * (1.0 - right))


@tight
def _first_token_s(s: State, offer_row: int, input_tokens: float) -> float:
    offer = s.offers[offer_row]
    if offer.tokens_ratio != 1.0:
        input_tokens = math.ceil(input_tokens * offer.tokens_ratio)
    thinking_s = offer.reasoning_tokens * (offer.itl_base_s + offer.itl_per_seq_s)
    return float(offer.ttft_base_s + input_tokens / offer.prefill_tokens_per_s + thinking_s)


@tight
def _work_s(offer: Any, input_tokens: float, output_tokens: float, slots_bound: float) -> float:
    """``ServiceCurve.work_s``."""
    prefill_s = input_tokens / offer.prefill_tokens_per_s
    running = offer.seqs_max
    if offer.kv_tokens:
        running = min(running, max(1.0, offer.kv_tokens / (input_tokens + 0.5 * output_tokens + 1.0)))
    held_s = (prefill_s + output_tokens * (offer.itl_base_s + offer.itl_per_seq_s * running)) / running
    compute_s = prefill_s + output_tokens * offer.itl_per_seq_s
    return float(compute_s + slots_bound * max(0.0, held_s - compute_s))


@tight
def _elsewhere(
    s: State, profile_row: int, input_tokens: float, expected: float, difficulty: float
) -> tuple[int, float, float]:
    """The best provider (-1: none), its price with waiting and wrong answers, and the soonest first token of any."""
    profile = s.profiles[profile_row]
    found, found_usd, soonest_s = L(NOBODY), np.inf, np.inf
    for place in range(profile.api_first, profile.api_end):
        row = L(s.apis[place])
        offer = s.offers[row]
        if input_tokens + 1.0 > offer.context_tokens:
            continue
        usd = usd_of(s, row, input_tokens, expected)
        if usd > profile.usd_max:
            continue
        ttft_s = _first_token_s(s, row, input_tokens)
        usd += ttft_s * profile.usd_per_s_waiting + _wrong(s, row, profile_row, difficulty)
        if ttft_s > profile.ttft_s_max:
            usd += profile.usd_per_ttft_miss
        if usd < found_usd:
            found, found_usd = row, usd
        soonest_s = min(soonest_s, ttft_s)
    return found, found_usd, soonest_s


@tight
def _preferred(
    s: State, profile_row: int, work_s: float, sent_s: float, age_s: float, difficulty: float, kept: bool
) -> tuple[float, float, float]:
    """What a rule adds to the price of a home, its scarcity in that, and what it adds to the price of a provider."""
    clock, profile = s.clock[0], s.profiles[profile_row]
    line = s.lines[profile.line]
    pool = s.pools[line.pool]
    if clock.kind == BID:
        scarcity = clock.prefilter * price(s, profile.line, work_s / pool.seen_replicas, age_s, sent_s, True)
        return scarcity, scarcity, 0.0
    if clock.kind == STATIC:
        return clock.threshold * work_s, clock.threshold * work_s, 0.0
    if clock.kind == QUEUE:
        full = max(0.0, line.seen_wait_s - age_s) + sent_s > clock.threshold * profile.ttft_s_max
        return 2.0 * _LAST_USD if full else 0.0, 0.0, _LAST_USD
    if clock.kind == KV:
        full = pool.seen_usage > clock.threshold or pool.seen_waiting > pool.slots * pool.seen_replicas
        return 2.0 * _LAST_USD if full else 0.0, 0.0, _LAST_USD
    local = (
        (clock.kind == QUALITY and difficulty <= clock.threshold)
        or clock.kind == ALL_LOCAL
        or (clock.kind == GIVEN and kept)
    )
    return (0.0, 0.0, _LAST_USD) if local else (_LAST_USD, 0.0, 0.0)


@tight
def _sample(s: State, pool_row: int, usd: float, work_s: float, ttft_s_max: float) -> None:
    """One more request that this pool could serve (``bids.Sample``, for all gateways together)."""
    pool = s.pools[pool_row]
    most = SAMPLES_MAX * s.clock[0].gateways
    if pool.sample_every == 1 or pool.sample_seen % pool.sample_every == 0:
        if pool.sample_kept >= most:
            for i in range((most + 1) // 2):
                for j in range(3):
                    s.sample[pool_row, i, j] = s.sample[pool_row, 2 * i, j]
            pool.sample_kept, pool.sample_every = (most + 1) // 2, 2 * pool.sample_every
        if pool.sample_every == 1 or pool.sample_seen % pool.sample_every == 0:
            one = s.sample[pool_row, pool.sample_kept]
            one[0], one[1], one[2] = usd, work_s, ttft_s_max
            pool.sample_kept += 1
    pool.sample_seen += 1


@tight
def _ticket(s: State, of: Arrivals, i: int, api: int, soonest_s: float) -> int:
    """A row for the request in its profile's line; what it is worth and what it needs there is filled in later."""
    clock = s.clock[0]
    clock.free -= 1
    clock.in_flight += 1
    row = L(s.free[clock.free])
    ticket, profile, now_s = s.tickets[row], s.profiles[of.profile[i]], of.arrival_s[i]
    ticket.number, ticket.profile, ticket.line, ticket.api = clock.number, of.profile[i], profile.line, api
    ticket.input_tokens, ticket.output_tokens = of.input_tokens[i], of.output_tokens[i]
    ticket.left_tokens = max(1.0, ticket.input_tokens)
    ticket.arrived_s, ticket.ttft_by_s = now_s, now_s + profile.ttft_s_max
    leave_by_s = ticket.ttft_by_s - _SPREAD * soonest_s - _ROUND_TRIP_S
    ticket.leave_by_s = leave_by_s if clock.evicts else -np.inf
    if api == NOBODY:
        ticket.start_by_s = now_s + profile.deadline_s
    elif clock.evicts:
        ticket.start_by_s = ticket.ttft_by_s
    else:
        ticket.start_by_s = now_s + clock.hold * max(0.0, leave_by_s - now_s)
    return row


@tight
def _at_home(
    s: State, of: Arrivals, i: int, gateway: int, kept: bool, expected: float, elsewhere: tuple[int, float, float]
) -> bool:
    """Try the request's pool; False where it cannot, or where a provider (``_elsewhere``) comes first."""
    clock, profile_row, now_s = s.clock[0], L(of.profile[i]), of.arrival_s[i]
    profile = s.profiles[profile_row]
    home = profile.home
    input_tokens, difficulty = float(of.input_tokens[i]), float(of.difficulty[i])
    api, api_usd, soonest_s = elsewhere
    offer, pool_row, line = s.offers[home], s.offers[home].pool, s.lines[profile.line]
    usd = usd_of(s, home, input_tokens, expected)
    if not s.pools[pool_row].seen_replicas or input_tokens + 1.0 > offer.context_tokens or usd > profile.usd_max:
        return False
    if offer.tokens_ratio != 1.0:
        input_tokens, expected = math.ceil(input_tokens * offer.tokens_ratio), math.ceil(expected * offer.tokens_ratio)
    expected += offer.reasoning_tokens
    work_s = _work_s(offer, input_tokens, expected, s.pools[pool_row].seen_slots_bound)
    age_s = max(0.0, now_s - (clock.clear_s - clock.snapshot_age_s))
    sent_s = max(0.0, s.sent_s[gateway, pool_row] - (now_s - s.sent_at_s[gateway, pool_row]))
    extra_usd, scarcity, api_extra_usd = _preferred(s, profile_row, work_s, sent_s, age_s, difficulty, kept)
    alone_s = _first_token_s(s, home, float(of.input_tokens[i]))
    line_usd, alone_usd = 0.0, alone_s * profile.usd_per_s_waiting
    if alone_s > profile.ttft_s_max:
        alone_usd += profile.usd_per_ttft_miss
    else:
        wait_s = max(0.0, line.seen_wait_s - age_s) + sent_s
        line_usd = min(wait_s, profile.ttft_s_max - alone_s) * profile.usd_per_s_waiting
    usd += alone_usd + _wrong(s, home, profile_row, difficulty) + offer.floor_usd_per_s * work_s
    api_usd += api_extra_usd
    displaced_usd = api_usd - (usd + extra_usd - scarcity)
    if clock.kind == BID:
        _sample(s, pool_row, displaced_usd, work_s, profile.ttft_s_max)
    if usd + line_usd + extra_usd > api_usd:
        return False
    s.sent_s[gateway, pool_row] = sent_s + work_s / s.pools[pool_row].seen_replicas
    s.sent_at_s[gateway, pool_row] = now_s
    row = _ticket(s, of, i, api, soonest_s)
    ticket = s.tickets[row]
    ticket.work_s, ticket.prefill_s = work_s, input_tokens / offer.prefill_tokens_per_s
    ticket.kv_tokens, ticket.usd_displaced = input_tokens + expected, displaced_usd
    clock.number += 1
    enter(s, row, now_s)
    return True


@tight
def arrive(s: State, of: Arrivals, i: int, kept: bool) -> None:
    """A request comes in: decided once, then tried at home or asked of a provider."""
    clock, profile_row = s.clock[0], L(of.profile[i])
    input_tokens, output_tokens = float(of.input_tokens[i]), float(of.output_tokens[i])
    gateway = clock.number % clock.gateways
    expected = output_tokens if clock.knows_lengths else expected_output(s, gateway, profile_row, input_tokens)
    elsewhere = _elsewhere(s, profile_row, input_tokens, expected, float(of.difficulty[i]))
    if s.profiles[profile_row].home != NOBODY and _at_home(s, of, i, gateway, kept, expected, elsewhere):
        return
    now_s, number = of.arrival_s[i], clock.number
    clock.number += 1
    answered(s, number, profile_row, elsewhere[0], (input_tokens, output_tokens), now_s, now_s)
