"""What becomes of a request: the bill, the time to its first token, what is learnt from its length. Compiled."""

from __future__ import annotations

import math

import numpy as np

from scheduler.core.learning import OutputLengths, magnitude
from scheduler.simulation.kernel.state import FREE, INPUT_KINDS, NOBODY, L, State, inner, tight

_PRIOR, _MEMORY = OutputLengths._PRIOR, OutputLengths._MEMORY
_STEP, _MIX_1, _MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_GUESS = 256.0
_NOWHERE, _HERE, _ELSEWHERE = np.int8(0), np.int8(1), np.int8(2)
_magnitude = tight(magnitude)


@tight
def usd_of(s: State, offer_row: int, input_tokens: float, output_tokens: float) -> float:
    """``Rate.usd`` of plain tokens as the gateway counts them, at this offer's tokens, reasoning and tier."""
    offer = s.offers[offer_row]
    if offer.tokens_ratio != 1.0:
        input_tokens = math.ceil(input_tokens * offer.tokens_ratio)
        output_tokens = math.ceil(output_tokens * offer.tokens_ratio)
    per_input, per_output, per_thinking = offer.usd_per_input, offer.usd_per_output, offer.usd_per_thinking
    for row in range(offer.tier_first, offer.tier_end):
        if input_tokens > s.tiers[row].input_tokens_above:
            per_input, per_output = s.tiers[row].usd_per_input, s.tiers[row].usd_per_output
            per_thinking = s.tiers[row].usd_per_thinking
    thinking = offer.reasoning_tokens * per_thinking if output_tokens > 0.0 else 0.0
    return float(offer.usd_per_request + input_tokens * per_input + output_tokens * per_output + thinking)


@tight
def factor(seed: np.uint64, number: int, spread: float) -> float:
    """A log-normal factor with median 1 that only depends on seed and number (SplitMix64, Box and Muller)."""
    x = (np.uint64(number) + np.uint64(1)) * _STEP + seed
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    x ^= x >> np.uint64(31)
    one = (float(x >> np.uint64(32)) + 0.5) * 2.0**-32
    other = float(x & np.uint64(0xFFFFFFFF)) * 2.0**-32
    return math.exp(spread * math.sqrt(-2.0 * math.log(one)) * math.cos(2.0 * math.pi * other))


@tight
def _kind(s: State, input_tokens: float) -> int:
    return int(min(_magnitude(int(input_tokens)), INPUT_KINDS - 1))


@tight
def expected_output(s: State, gateway: int, profile_row: int, input_tokens: float) -> float:
    """Expected output tokens of the next answer, as one gateway has seen them."""
    whole, own = s.tenant_lengths[gateway, s.profiles[profile_row].tenant], s.profile_lengths[gateway, profile_row]
    mean = (whole[1] + _PRIOR * _GUESS) / (whole[0] + _PRIOR)
    mean = (own[0, 1] + _PRIOR * mean) / (own[0, 0] + _PRIOR)
    kind = own[_kind(s, input_tokens)]
    return max(1.0, np.rint((kind[1] + _PRIOR * mean) / (kind[0] + _PRIOR)))


@tight
def _add(seen: np.ndarray, output_tokens: float) -> None:
    seen[0], seen[1] = seen[0] * _MEMORY + 1.0, seen[1] * _MEMORY + output_tokens


@tight
def _learn(s: State, number: int, profile_row: int, input_tokens: float, output_tokens: float) -> None:
    gateway = number % s.clock[0].gateways
    own = s.profile_lengths[gateway, profile_row]
    _add(s.tenant_lengths[gateway, s.profiles[profile_row].tenant], output_tokens)
    _add(own[0], output_tokens)
    _add(own[_kind(s, input_tokens)], output_tokens)


@tight
def _over(s: State, number: int, profile_row: int, ttft_s: float, source: int, api_usd: float) -> None:
    clock, counts = s.clock[0], s.by_profile[profile_row]
    clock.requests += 1
    counts[1] += 1.0
    if source:
        clock.served += 1
        if ttft_s <= s.profiles[profile_row].ttft_s_max:
            clock.in_time += 1
            counts[0] += 1.0
    if len(s.source):
        s.source[number], s.api_usd[number], s.ttft_s[number] = source, api_usd, ttft_s


@inner
def answered(
    s: State, number: int, profile_row: int, api: int, tokens: tuple[float, float], arrived_s: float, now_s: float
) -> None:
    """A request goes to that provider (-1: there is none, and nobody serves it); what follows is known at once."""
    clock = s.clock[0]
    if api == NOBODY:
        _over(s, number, profile_row, np.nan, _NOWHERE, 0.0)
        return
    input_tokens, output_tokens = tokens
    offer = s.offers[api]
    usd = usd_of(s, api, input_tokens, output_tokens)
    clock.usd_api += usd
    prompt = input_tokens if offer.tokens_ratio == 1.0 else math.ceil(input_tokens * offer.tokens_ratio)
    ttft_s = offer.ttft_base_s + prompt / offer.prefill_tokens_per_s
    if clock.api_spread > 0.0:
        ttft_s *= factor(clock.seed, number, clock.api_spread)
    _learn(s, number, profile_row, input_tokens, output_tokens)
    _over(s, number, profile_row, now_s + ttft_s - arrived_s, _ELSEWHERE, usd)


@inner
def in_time_here(s: State, row: int) -> None:
    """A ticket's answer has ended."""
    ticket, clock = s.tickets[row], s.clock[0]
    profile_row = L(ticket.profile)
    clock.usd_energy += usd_of(s, s.profiles[profile_row].home, ticket.input_tokens, ticket.output_tokens)
    clock.local += 1
    _learn(s, ticket.number, profile_row, ticket.input_tokens, ticket.output_tokens)
    _over(s, ticket.number, profile_row, ticket.ttft_s, _HERE, 0.0)


@inner
def send_on(s: State, row: int, now_s: float) -> None:
    """The gate does not want this ticket: its gateway takes the next source."""
    ticket, clock = s.tickets[row], s.clock[0]
    clock.bounces += 1
    s.sent_s[ticket.number % clock.gateways, s.lines[ticket.line].pool] = 0.0
    tokens = (ticket.input_tokens, ticket.output_tokens)
    answered(s, ticket.number, L(ticket.profile), L(ticket.api), tokens, ticket.arrived_s, now_s)


@inner
def free(s: State, row: int) -> None:
    """The ticket is over, and its row may be used again."""
    clock, ticket = s.clock[0], s.tickets[row]
    ticket.state, ticket.number = FREE, NOBODY
    s.free[clock.free] = row
    clock.free += 1
    clock.in_flight -= 1
