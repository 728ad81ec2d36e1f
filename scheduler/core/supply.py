"""The supply side of the market: what an offer is, what it costs and how fast it serves.

Units: USD, seconds, tokens; instants are Unix seconds. Two costs are never mixed: ``Rate`` is avoidable (what this request
adds to a bill), ``FixedCost`` is already spent. ``decide`` reads rates only; a ``FixedCost`` reaches it as a labelled floor
or not at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from scheduler.core.capacity import Capacity

Kind = Literal["base", "spot", "api"]


class Usage(NamedTuple):
    """Tokens of one request, estimated or actual.

    ``cached_tokens`` (read from a prompt cache), ``cache_write_tokens`` (written to it) and ``cache_write_long_tokens``
    (written to be kept for an hour) are disjoint parts of ``input_tokens``; ``reasoning_tokens`` are part of
    ``output_tokens``. ``searches`` counts calls of a search tool that the provider runs and bills.
    """

    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cache_write_tokens: int = 0
    cache_write_long_tokens: int = 0
    reasoning_tokens: int = 0
    searches: int = 0


class Tier(NamedTuple):
    """Prices that replace the base ones when the whole input is longer than ``input_tokens_above``."""

    input_tokens_above: int
    usd_per_input: float
    usd_per_cached: float
    usd_per_output: float
    usd_per_cache_write: float | None = None
    usd_per_cache_write_long: float | None = None
    usd_per_reasoning: float | None = None


@dataclass(frozen=True, slots=True)
class Rate:
    """Avoidable price in USD per token, request and search; ``tiers`` ascend by ``input_tokens_above``.

    None means that the source bills these tokens as what they are part of: cache writes as input, reasoning as output.
    """

    usd_per_input: float
    usd_per_cached: float
    usd_per_output: float
    usd_per_request: float = 0.0
    tiers: tuple[Tier, ...] = ()
    usd_per_cache_write: float | None = None
    usd_per_cache_write_long: float | None = None
    usd_per_reasoning: float | None = None
    usd_per_search: float = 0.0

    def usd(self, usage: Usage) -> float:
        """USD for ``usage``, each kind of token at its own price and in the tier of the whole input."""
        input_tokens, cached_tokens, output_tokens, write, write_long, reasoning, searches = usage
        prices: Rate | Tier = self
        for tier in self.tiers:
            if input_tokens > tier.input_tokens_above:
                prices = tier
        usd = (
            self.usd_per_request
            + (input_tokens - cached_tokens) * prices.usd_per_input
            + cached_tokens * prices.usd_per_cached
            + output_tokens * prices.usd_per_output
        )
        return usd + self._extra_usd(prices, usage) if write or write_long or reasoning or searches else usd

    def _extra_usd(self, prices: Rate | Tier, usage: Usage) -> float:
        """What rarer kinds of tokens cost above the plain input and output that they were counted as."""
        usd = usage.searches * self.usd_per_search
        if prices.usd_per_cache_write is not None:
            usd += usage.cache_write_tokens * (prices.usd_per_cache_write - prices.usd_per_input)
        long = prices.usd_per_cache_write_long
        if long is None:
            long = prices.usd_per_cache_write
        if long is not None:
            usd += usage.cache_write_long_tokens * (long - prices.usd_per_input)
        if prices.usd_per_reasoning is not None:
            usd += usage.reasoning_tokens * (prices.usd_per_reasoning - prices.usd_per_output)
        return usd


@dataclass(frozen=True, slots=True)
class FixedCost:
    """Amortized cost of one replica; ``basis`` says how it was made. Never an input of ``decide``."""

    usd_per_hour: float
    utilization_standard: float
    basis: str

    def usd(self, work_s: float) -> float:
        """Share of ``work_s`` replica-seconds, at the standard utilization (not the one of the moment)."""
        return work_s * self.usd_per_hour / 3600.0 / self.utilization_standard


@dataclass(frozen=True, slots=True)
class ServiceCurve:
    """How fast one replica (or a provider) serves: ITL(B) = itl_base_s + itl_per_seq_s * B for B running sequences."""

    prefill_tokens_per_s: float
    itl_base_s: float
    itl_per_seq_s: float
    seqs_max: int
    ttft_base_s: float = 0.0
    kv_tokens: int = 0

    def itl_s(self, running: float) -> float:
        """Seconds between two tokens of one sequence while ``running`` sequences share the replica."""
        return self.itl_base_s + self.itl_per_seq_s * running

    def prefill_s(self, usage: Usage) -> float:
        """Seconds from start to first token for the uncached part of the prompt."""
        return self.ttft_base_s + (usage.input_tokens - usage.cached_tokens) / self.prefill_tokens_per_s

    def service_s(self, usage: Usage, running: float) -> float:
        """Seconds a sequence occupies its slot among ``running`` others."""
        return self.prefill_s(usage) + usage.output_tokens * self.itl_s(running)

    def work_s(self, usage: Usage, slots_bound: float = 1.0) -> float:
        """Replica-seconds a request takes away from the others on a loaded replica.

        Compute: prefill plus the slope of the ITL (economics: ``w = input/prefill + b * output``; the base of the ITL is
        paid by steps that run anyway). Slots: a full replica completes one request each ``service_s / seqs_max``. KV cache:
        the same, where it holds fewer sequences than there are slots. One of them is scarce at a time, and which one is a
        matter of everybody's lengths, not of this request's: ``slots_bound`` is the share of the time in which slots or
        cache keep the line back; where nobody knows it (1), the scarcer of the two counts.
        """
        prefill_s = (usage.input_tokens - usage.cached_tokens) / self.prefill_tokens_per_s
        running: float = self.seqs_max
        if self.kv_tokens:
            fit = self.kv_tokens / (usage.input_tokens + 0.5 * usage.output_tokens + 1.0)
            if fit < running:
                running = fit if fit > 1.0 else 1.0
        compute_s = prefill_s + usage.output_tokens * self.itl_per_seq_s
        held_s = (prefill_s + usage.output_tokens * (self.itl_base_s + self.itl_per_seq_s * running)) / running
        return compute_s if compute_s > held_s else compute_s + slots_bound * (held_s - compute_s)


@dataclass(frozen=True, slots=True)
class Quality:
    """Probability of an answer that is good enough, at difficulty 0, 0.5 and 1; linear in between."""

    low: float
    medium: float
    high: float

    def at(self, difficulty: float) -> float:
        """Probability at ``difficulty`` in [0, 1]."""
        if difficulty <= 0.5:
            return self.low + (self.medium - self.low) * 2.0 * difficulty
        return self.medium + (self.high - self.medium) * (2.0 * difficulty - 1.0)


@dataclass(frozen=True, slots=True)
class Offer:
    """Something that can serve tokens: a pool (``base``), rented capacity (``spot``) or a provider's model (``api``)."""

    id: str
    kind: Kind
    model: str
    zone: str
    rate: Rate
    curve: ServiceCurve
    quality: Quality
    abilities: frozenset[str]
    context_tokens: int
    as_of_s: float
    expires_s: float
    capacity: Capacity | None = None
    healthy: bool = True
    floor: FixedCost | None = None  # set only by policy.local_floor: amortized; shown as its own term
    inflight_max: int = 0  # 0: no limit of the provider is known
    requests_per_min_max: int = 0
    reasoning_tokens: int = 0  # what the model usually thinks before it answers; billed and waited for
    tokens_ratio: float = 1.0  # tokens that its tokenizer makes of one counted by the gateway

    def expected(self, usage: Usage) -> Usage:
        """What ``usage``, as the gateway counts it, will be here: this tokenizer's tokens, and the reasoning."""
        ratio, reasoning = self.tokens_ratio, self.reasoning_tokens
        if ratio == 1.0 and not reasoning:
            return usage
        if ratio != 1.0:
            usage = Usage._make([*(math.ceil(tokens * ratio) for tokens in usage[:-1]), usage.searches])
        if reasoning and usage.output_tokens:
            usage = usage._replace(
                output_tokens=usage.output_tokens + reasoning, reasoning_tokens=usage.reasoning_tokens + reasoning
            )
        return usage
