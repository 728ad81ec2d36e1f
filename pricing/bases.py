"""What tokens cost, on three bases that are never mixed, and at the standard that dispatch charges. Arithmetic only.

    allocation = (fixed + power) / tokens served              what they did cost, idle hours included
    usage      = (fixed + power at full load) / tokens of a full replica
    avoidable  = joules per token * PUE * tariff              what one more token adds to a bill
    standard   = fixed and idle power at the standard utilization, and the avoidable part

Costs by the hour are split between input and output by the replica-seconds that each takes, energy by the joules that each
draws, so that price times tokens is the cost again. The definitions and the worked example: docs/costs.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from pricing.meter.readings import Label
from pricing.report import BLEND_INPUT_SHARE, MtokPrice
from scheduler.core.supply import FixedCost, ServiceCurve, Usage

_MTOK = 1e6
_JOULES_MIN = 1e-6  # of a whole window: below it the slope is nothing to split a bill by
USUAL = Usage(round(BLEND_INPUT_SHARE * _MTOK), 0, round((1.0 - BLEND_INPUT_SHARE) * _MTOK))


class EnergyInUse(NamedTuple):
    """The figures that dispatch uses for one replica: slope in joules per token, idle power at its boards."""

    joules_per_input_token: float
    joules_per_output_token: float
    idle_watts: float
    label: Label
    at_s: float


@dataclass(frozen=True, slots=True)
class Mix:
    """Tokens, the replica-seconds they take, and the weights by which hours are split among them."""

    usage: Usage
    work_s: float
    energy: EnergyInUse
    input_weight: float
    output_weight: float

    @property
    def tokens(self) -> int:
        """All of them, those read from a cache included."""
        return self.usage.input_tokens + self.usage.output_tokens

    @property
    def uncached(self) -> int:
        """Input that had to be computed."""
        return self.usage.input_tokens - self.usage.cached_tokens

    @property
    def joules(self) -> float:
        """What the tokens draw above idle."""
        energy = self.energy
        return self.uncached * energy.joules_per_input_token + self.usage.output_tokens * energy.joules_per_output_token

    @property
    def mtok_per_hour(self) -> float:
        """Throughput of one full replica at this mix."""
        return self.tokens / self.work_s * 3600.0 / _MTOK if self.work_s else math.inf


def mix_of(curve: ServiceCurve, energy: EnergyInUse, usage: Usage = USUAL, work_s: float | None = None) -> Mix:
    """``usage`` (many requests together) on ``curve``. Raises ValueError where no token was computed.

    ``work_s`` is the replica-seconds of work as settled request by request. Without it the core's rule is asked once for
    all, without the base of a request's time to first token and without the KV cache (a window counts tokens, and knows
    neither requests nor how long each is): at most the former, since the rule takes the larger of two sums.
    """
    uncached = usage.input_tokens - usage.cached_tokens
    if uncached + usage.output_tokens <= 0:
        raise ValueError("no token was computed: there is nothing to spread a cost over")
    # Prefill has the replica to itself; a token of a full batch takes its share of one step.
    weights = 1.0 / curve.prefill_tokens_per_s, curve.itl_s(curve.seqs_max) / curve.seqs_max
    if not uncached and not weights[1]:
        weights = 1.0, 1.0
    return Mix(usage, work_s or replace(curve, ttft_base_s=0.0, kv_tokens=0).work_s(usage), energy, *weights)


def _price(mix: Mix, usd_by_time: float, usd_per_input: float, usd_per_output: float) -> MtokPrice:
    """USD per million tokens: the hours by weight, on top of what each token draws; read from a cache it costs nothing."""
    by_weight = usd_by_time / (mix.uncached * mix.input_weight + mix.usage.output_tokens * mix.output_weight)
    usd_per_input += by_weight * mix.input_weight
    usd_per_output += by_weight * mix.output_weight
    blended = (usd_per_input * mix.uncached + usd_per_output * mix.usage.output_tokens) / mix.tokens
    return MtokPrice(input=usd_per_input * _MTOK, output=usd_per_output * _MTOK, blended=blended * _MTOK, cached=0.0)


def _modelled(mix: Mix, usd_by_time: float, usd_per_joule: float) -> MtokPrice:
    """Tokens draw what the slope of power says."""
    energy = mix.energy
    joules = energy.joules_per_input_token, energy.joules_per_output_token
    return _price(mix, usd_by_time, joules[0] * usd_per_joule, joules[1] * usd_per_joule)


def avoidable(mix: Mix, usd_per_joule: float) -> MtokPrice:
    """The slope of power alone; below zero where the tariff is."""
    return _modelled(mix, 0.0, usd_per_joule)


def full(mix: Mix, usd_per_s: float, usd_per_joule: float) -> MtokPrice:
    """The basis "usage": a replica that is never idle. ``usd_per_s`` is one replica's, without power."""
    return _modelled(mix, mix.work_s * (usd_per_s + mix.energy.idle_watts * usd_per_joule), usd_per_joule)


def allocation(
    mix: Mix, usd_per_s: float, usd_per_joule: float, replicas: int, watts: float, seconds: float
) -> MtokPrice:
    """Everything that ``replicas`` cost in the window over its tokens, at the ``watts`` that they drew together.

    Power up to idle goes with the hours; what is above it goes by the joules, where tokens draw any.
    """
    idle_watts = min(watts, mix.energy.idle_watts * replicas)
    usd_drawn = (watts - idle_watts) * seconds * usd_per_joule
    usd_by_time = seconds * (usd_per_s * replicas + idle_watts * usd_per_joule)
    if mix.joules < _JOULES_MIN:
        return _modelled(mix, usd_by_time + usd_drawn, usd_per_joule)
    input_share = mix.energy.joules_per_input_token / mix.joules
    output_share = mix.energy.joules_per_output_token / mix.joules
    return _price(mix, usd_by_time, usd_drawn * input_share, usd_drawn * output_share)


def standard(mix: Mix, cost: FixedCost, usd_per_joule: float) -> MtokPrice:
    """What dispatch charges under ``local_floor: amortized``, floor and cash; no utilization of the moment is in it."""
    return _modelled(mix, cost.usd(mix.work_s), max(0.0, usd_per_joule))


def break_even_utilization(
    usd_per_hour: float, mtok_per_hour: float, api_usd_per_mtok: float, avoidable_usd_per_mtok: float = 0.0
) -> float | None:
    """Utilization at which a token costs here what the API asks; above 1 it never does, None: not at any utilization.

    ``usd_per_hour`` runs whether or not there is work (idle power included), ``mtok_per_hour`` is the full throughput that
    it buys. Solves usd_per_hour / (u * mtok_per_hour) + avoidable = api.

    >>> round(break_even_utilization(1.12, 6.1, 0.88), 2), round(break_even_utilization(1.12, 6.1 / 2, 0.88), 2)
    (0.21, 0.42)
    """
    margin_usd = api_usd_per_mtok - avoidable_usd_per_mtok
    if margin_usd <= 0.0 or mtok_per_hour <= 0.0:
        return None
    return max(0.0, usd_per_hour / (mtok_per_hour * margin_usd))
