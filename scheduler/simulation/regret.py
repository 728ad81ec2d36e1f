"""What a run cost against the clairvoyant bound: savings captured, false bursts, and the chain that splits the regret."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scheduler.core.market import Load, Policy, Request
from scheduler.core.supply import Offer
from scheduler.simulation.bound.bound import Bound, BoundPools, BoundRequests, clairvoyant
from scheduler.simulation.controller import UsdFactor, offers_until
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
# Sums of the same amounts in another order differ by less than this share of the bill: nothing was saved then.
_ROUNDING_SHARE = 1e-9


@dataclass(frozen=True, slots=True)
class Judged:
    """The judged requests as arrays (one row each), and everything the bound wants to know of them."""

    requests: BoundRequests
    pools: BoundPools
    profile: np.ndarray

    def __len__(self) -> int:
        return len(self.profile)


def judged(scenario: Scenario, usd_factor: UsdFactor | None = None, *, billed_later: bool = False) -> Judged:
    """Prices, work and deadlines of every judged request, as they turn out to be: the policies' own prices and capacity.

    A request is priced as of its arrival, by cluster.yaml, a history and ``usd_factor`` as the controller of a world has
    them then. That is a bound for the exact engine, where a decision is made once, at the arrival, and every attempt of it
    costs what was quoted. The kernel bills an API when it is asked and energy when the answer ends: with ``billed_later``
    a request is priced at the least, source by source, of its arrival and all that follows until its deadline.
    """
    batches = list(scenario.batches(scenario.judged))
    if not batches:
        raise ValueError("the judged part of the trace has no request")
    arrival_s, profile, inputs, outputs, reusable = (
        np.concatenate([getattr(batch, name) for batch in batches])
        for name in ("arrival_s", "profile", "input_tokens", "output_tokens", "reusable_prefix_tokens")
    )
    tokens = _Tokens(inputs.astype(float), outputs.astype(float), reusable)
    count, names = len(arrival_s), [pool.name for pool in scenario.site.pools]
    shape = (count, len(names))
    eligible = np.zeros(shape, bool)
    prefill_s, decode_s, decode_max_s = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    ttft_s, late_s = np.zeros(count), np.zeros(count)
    offers = scenario.site.priced(EPOCH_S + scenario.judged.start_s).offers
    for index, of in enumerate(scenario.profiles):
        rows = np.flatnonzero(profile == index)
        ttft_s[rows], late_s[rows] = of.service_class.ttft_s_max, of.deadline_s
        for offer in local_offers(of, offers):
            pool = names.index(offer.id.partition("/")[0])
            uncached = tokens.inputs[rows] - _cached(scenario, pool, tokens, rows)
            eligible[rows, pool] = tokens.inputs[rows] + 1 <= offer.context_tokens
            prefill_s[rows, pool], decode_s[rows, pool] = work_parts(offer.curve, uncached, tokens.outputs[rows])
            chunk_tokens = scenario.site.pools[pool].chunk_tokens
            decode_max_s[rows, pool] = decode_s_max(offer.curve, tokens.outputs[rows], chunk_tokens)
    ahead_s = late_s if billed_later else np.zeros(count)
    elsewhere, energy = _least_usd(scenario, (EPOCH_S + arrival_s, ahead_s), profile, tokens, usd_factor)
    energy[~eligible] = 0.0
    requests = BoundRequests(arrival_s, ttft_s, late_s, elsewhere, energy, prefill_s, decode_s, decode_max_s, eligible)
    replicas = np.array([float(pool.replicas_max) for pool in scenario.site.pools])
    return Judged(requests, BoundPools.fixed(replicas, scenario.judged.start_s), profile)


class _Tokens(NamedTuple):
    inputs: np.ndarray
    outputs: np.ndarray
    reusable: np.ndarray


def _cached(scenario: Scenario, pool: int, tokens: _Tokens, rows: np.ndarray) -> np.ndarray:
    """Where prefixes are cached the clairvoyant has an endless cache in which everything was kept."""
    return tokens.reusable[rows] if scenario.site.pools[pool].prefix_tokens else np.zeros(len(rows))


def _least_usd(
    scenario: Scenario, window_s: tuple[np.ndarray, np.ndarray], profile: np.ndarray, tokens: _Tokens,
    usd_factor: UsdFactor | None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """USD of each request at the cheapest API (infinite: none), and at each pool, where they are least in its window.

    ``window_s``: arrivals (Unix seconds, ascending), and for how long after them.
    """
    at_s, ahead_s = window_s
    names = [pool.name for pool in scenario.site.pools]
    elsewhere, energy = np.full(len(at_s), np.inf), np.full((len(at_s), len(names)), np.inf)
    end_s = float((at_s + ahead_s).max())
    eras = offers_until(scenario.site, EPOCH_S + scenario.judged.start_s, np.nextafter(end_s, np.inf), usd_factor)
    for from_s, until_s, offers in eras:
        low, high = np.searchsorted(at_s, (from_s - float(ahead_s.max()), until_s))
        here = low + np.flatnonzero(at_s[low:high] + ahead_s[low:high] >= from_s)
        for index, of in enumerate(scenario.profiles):
            rows = here[profile[here] == index]
            for offer in local_offers(of, offers):
                pool = names.index(offer.id.partition("/")[0])
                cached = _cached(scenario, pool, tokens, rows)
                usd = usd_of(offer, tokens.inputs[rows] - cached, tokens.outputs[rows])
                energy[rows, pool] = np.minimum(energy[rows, pool], usd + cached * offer.rate.usd_per_cached)
            for offer in api_offers(of, offers):
                fits = rows[tokens.inputs[rows] + 1 <= offer.context_tokens]
                usd = usd_of(offer, tokens.inputs[fits], tokens.outputs[fits])
                elsewhere[fits] = np.minimum(elsewhere[fits], usd)
    return elsewhere, energy


def usd_of(offer: Offer, inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
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
    """The clairvoyant bound with at most that share of requests late."""
    return clairvoyant(of.requests, of.pools, max(0.0, allowance))


def savings_captured(tally: Tally, bound: Bound) -> float:
    """Share of what a clairvoyant saves against all-API that this run saved; 1 where there was nothing to save."""
    possible, saved = bound.usd_all_api - bound.usd_total, bound.usd_all_api - tally.usd_total
    if possible <= 1e-12:
        return 1.0
    return saved / possible if abs(saved) > _ROUNDING_SHARE * bound.usd_all_api else 0.0


def false_burst_usd_share(tally: Tally, bound: Bound) -> float:
    """Share of the API bill that went to requests which the clairvoyant serves locally."""
    usd = tally.api_usd_by_request(len(bound.accepted))
    total = float(usd.sum())
    kept = np.minimum(1.0, bound.accepted.sum(axis=1))
    return float(usd @ kept) / total if total > 0.0 else 0.0


def clairvoyant_rule(bound: Bound, fills: bool = False) -> Rule:
    """The clairvoyant's choice played through the simulator: whole requests, real engines (an integer replay).

    ``fills``: what the clairvoyant would buy may use what is left. What it serves itself then counts a thousand times as
    much, and so is never what makes room.
    """
    kept = np.minimum(1.0, bound.accepted.sum(axis=1)) >= 0.5

    def chosen(request: Request, offer: Offer, load: Load, policy: Policy, now_s: float) -> float:
        return 0.0 if (offer.kind != "api") == bool(kept[int(request.id)]) else 1e6

    def filled(request: Request, offer: Offer, load: Load, policy: Policy, now_s: float) -> float:
        return 1e3 * offer.rate.usd(request.usage) if offer.kind == "api" and kept[int(request.id)] else 0.0

    return Rule("clairvoyant-replay", preference(filled if fills else chosen), evicts=True, knows_lengths=True)
