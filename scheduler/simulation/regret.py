"""What a run cost against the clairvoyant bound: savings captured, false bursts, and the chain that splits the regret."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scheduler.core.market import Load, Policy, Request
from scheduler.core.supply import Offer
from scheduler.simulation.bound.bound import Bound, BoundPools, BoundRequests, clairvoyant
from scheduler.simulation.policies import Rule, preference
from scheduler.simulation.scenario import (
    EPOCH_S,
    Scenario,
    api_offers,
    decode_s_max,
    local_offers,
    work_parts,
)
from scheduler.simulation.tally import Tally

SLO_ALLOWANCE_MAX = 0.01


@dataclass(frozen=True, slots=True)
class Judged:
    """The judged requests as arrays (one row each), and everything the bound wants to know of them."""

    requests: BoundRequests
    pools: BoundPools
    profile: np.ndarray

    def __len__(self) -> int:
        return len(self.profile)


def judged(scenario: Scenario) -> Judged:
    """Prices, work and deadlines of every judged request, as they turn out to be: the policies' own prices and capacity."""
    batches = list(scenario.batches(scenario.judged))
    if not batches:
        raise ValueError("the judged part of the trace has no request")
    arrival_s, profile, inputs, outputs, reusable = (
        np.concatenate([getattr(batch, name) for batch in batches])
        for name in ("arrival_s", "profile", "input_tokens", "output_tokens", "reusable_prefix_tokens")
    )
    inputs, outputs = inputs.astype(float), outputs.astype(float)
    count, names = len(arrival_s), [pool.name for pool in scenario.site.pools]
    shape = (count, len(names))
    eligible, energy = np.zeros(shape, bool), np.zeros(shape)
    prefill_s, decode_s, decode_max_s = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    elsewhere, ttft_s, late_s = np.full(count, np.inf), np.zeros(count), np.zeros(count)
    offers = scenario.site.priced(EPOCH_S + scenario.judged.start_s).offers
    for index, of in enumerate(scenario.profiles):
        rows = np.flatnonzero(profile == index)
        ttft_s[rows], late_s[rows] = of.service_class.ttft_s_max, of.deadline_s
        for offer in local_offers(of, offers):
            pool = names.index(offer.id.partition("/")[0])
            eligible[rows, pool] = inputs[rows] + 1 <= offer.context_tokens
            # Where prefixes are cached the clairvoyant has an endless cache in which everything was kept.
            cached = reusable[rows] if scenario.site.pools[pool].prefix_tokens else np.zeros(len(rows))
            energy[rows, pool] = _usd(offer, inputs[rows] - cached, outputs[rows]) + cached * offer.rate.usd_per_cached
            prefill_s[rows, pool], decode_s[rows, pool] = work_parts(offer.curve, inputs[rows] - cached, outputs[rows])
            decode_max_s[rows, pool] = decode_s_max(offer.curve, outputs[rows], scenario.site.pools[pool].chunk_tokens)
        for offer in api_offers(of, offers):
            fits = rows[inputs[rows] + 1 <= offer.context_tokens]
            elsewhere[fits] = np.minimum(elsewhere[fits], _usd(offer, inputs[fits], outputs[fits]))
    requests = BoundRequests(arrival_s, ttft_s, late_s, elsewhere, energy, prefill_s, decode_s, decode_max_s, eligible)
    replicas = np.array([float(pool.replicas_max) for pool in scenario.site.pools])
    return Judged(requests, BoundPools.fixed(replicas, scenario.judged.start_s), profile)


def _usd(offer: Offer, inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """``Rate.usd`` for arrays, with the tier of each input and this offer's own tokens and reasoning."""
    inputs = np.ceil(inputs * offer.tokens_ratio)
    outputs = np.ceil(outputs * offer.tokens_ratio)
    rate = offer.rate
    thinking = np.where(outputs > 0, offer.reasoning_tokens, 0)
    per_input, per_output = np.full(len(inputs), rate.usd_per_input), np.full(len(inputs), rate.usd_per_output)
    for tier in rate.tiers:
        above = inputs > tier.input_tokens_above
        per_input[above], per_output[above] = tier.usd_per_input, tier.usd_per_output
    per_thinking = per_output if rate.usd_per_reasoning is None else rate.usd_per_reasoning
    return np.asarray(rate.usd_per_request + inputs * per_input + outputs * per_output + thinking * per_thinking)


def bound_of(of: Judged, allowance: float) -> Bound:
    """The clairvoyant bound with at most that share of requests late (never more than one in a hundred)."""
    return clairvoyant(of.requests, of.pools, min(SLO_ALLOWANCE_MAX, max(0.0, allowance)))


def savings_captured(tally: Tally, bound: Bound) -> float:
    """Share of what a clairvoyant saves against all-API that this run saved; 1 where there was nothing to save."""
    possible = bound.usd_all_api - bound.usd_total
    return (bound.usd_all_api - tally.usd_total) / possible if possible > 1e-12 else 1.0


def false_burst_usd_share(tally: Tally, bound: Bound) -> float:
    """Share of the API bill that went to requests which the clairvoyant serves locally."""
    usd = tally.api_usd_by_request(len(bound.accepted))
    total = float(usd.sum())
    kept = np.minimum(1.0, bound.accepted.sum(axis=1))
    return float(usd @ kept) / total if total > 0.0 else 0.0


def clairvoyant_rule(bound: Bound) -> Rule:
    """The clairvoyant's choice played through the simulator: whole requests, real engines (the integer replay)."""
    kept = np.minimum(1.0, bound.accepted.sum(axis=1)) >= 0.5

    def prefers(request: Request, offer: Offer, load: Load, policy: Policy, now_s: float) -> float:
        return 0.0 if (offer.kind != "api") == bool(kept[int(request.id)]) else 1e6

    return Rule("clairvoyant-replay", preference(prefers), evicts=True, knows_lengths=True)
