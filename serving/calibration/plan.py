"""What a calibration will do and at most cost, from the site file alone; and the bounds that hold whatever happens."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.config import ClusterConfig
from scheduler.config.supply import Pool
from serving.calibration.ask import CalibrationError

CONFIG = 2
LENGTHS_MAX = 6
ROUNDS_MIN, ROUNDS_MAX = 3, 20
PROMPT_TOKENS_MAX = 32_768
DECODE_PROMPT_TOKENS = 32
OUTPUT_TOKENS_MIN, OUTPUT_TOKENS_MAX = 16, 256
REQUEST_S_MAX = 300.0
SECONDS_PER_STEP_MAX = 60.0
REQUESTS_MAX = 50_000
TOKENS_MAX = 50_000_000
# The other half is for those who use the gateway meanwhile: beyond concurrent_max it turns everybody away.
_CONCURRENT_PART = 2
_OVERRUN = 4.0
_SPARE_S = 60.0
# The gateway counts a token as four bytes of JSON, engines count their own: neither may find a prompt too long.
_CONTEXT_USED = 0.8
_BYTES_PER_TOKEN_MAX = 8


class Exhausted(Exception):
    """A bound of the calibration is reached; what was measured so far stands."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps of a calibration. Lengths in prompt tokens, levels in concurrent requests over all replicas.

    ``cut_from``: slots of the pool where the highest level is fewer, to leave the gateway room; else 0.
    """

    pool: Pool
    zone: str
    context_tokens: int
    lengths: tuple[int, ...]
    levels: tuple[int, ...]
    replicas: int
    seconds_per_step: float
    path: str
    output_tokens_max: int
    cut_from: int = 0

    @property
    def offer(self) -> str:
        """The one offer that is measured."""
        return f"{self.pool.name}/{self.pool.model}"

    @property
    def seconds(self) -> float:
        """What it should take."""
        return self.seconds_per_step * (len(self.lengths) + len(self.levels)) + 3.0

    @property
    def seconds_max(self) -> float:
        """What it takes at most: on a slow engine a step lasts until every client has been answered twice."""
        return _OVERRUN * self.seconds + _SPARE_S

    def in_words(self) -> str:
        """What is about to happen, for the person who pays for it."""
        guess = self.requests_guess()
        cut = f" (half of concurrent_max; the pool has {self.cut_from:,} slots)" if self.cut_from else ""
        return (
            f"Calibrating {self.offer} ({self.replicas} replica(s)): prompts of {_ends(self.lengths)} tokens one by one, "
            f"then {_ends(self.levels)} requests at a time{cut}. About {_minutes(self.seconds)} "
            f"(at most {_minutes(self.seconds_max)}) and {guess:,} requests (at most {REQUESTS_MAX:,}); "
            f"its own requests stay in zone {self.zone} and cost the pool's power. While it runs the pool is busy: other "
            "requests to this gateway may wait, or be sent elsewhere and cost money. Once it sees any it stops after the "
            "step, unless --force. Ctrl-C stops it and shows what was measured."
        )

    def requests_guess(self) -> int:
        """Requests if the pool is as fast as the site file says."""
        curve = self.pool.curve
        by_length = [curve.ttft_base_s + length / curve.prefill_tokens_per_s for length in self.lengths]
        rounds = self.seconds_per_step * len(self.lengths) / max(1e-3, sum(by_length))
        total = len(self.lengths) * min(ROUNDS_MAX, max(ROUNDS_MIN, rounds))
        output_tokens = self.output_tokens(curve.itl_base_s + curve.itl_per_seq_s)
        for level in self.levels:
            itl_s = curve.itl_base_s + curve.itl_per_seq_s * level / self.replicas
            service_s = max(1e-3, curve.ttft_base_s + output_tokens * itl_s)
            total += level * max(2.0, self.seconds_per_step / service_s + 1.0)
        return min(REQUESTS_MAX, round(total))

    def output_tokens(self, itl_s: float) -> int:
        """Length of the answers of all decode steps: about a third of a step for a lone sequence, within the bounds."""
        wanted = self.seconds_per_step / 3.0 / max(itl_s, 1e-6)
        return max(2, int(min(max(wanted, OUTPUT_TOKENS_MIN), OUTPUT_TOKENS_MAX, self.output_tokens_max)))


def make(config: ClusterConfig, pool_name: str, seconds_per_step: float, replicas: int = 1) -> Plan:
    """The plan for one pool. Raises CalibrationError with status 2 where the site file has no such pool to measure."""
    pool = next((pool for pool in config.pools if pool.name == pool_name), None)
    if pool is None:
        known = ", ".join(pool.name for pool in config.pools) or "none"
        raise CalibrationError(f"there is no pool {pool_name!r} in the site file (known: {known})", CONFIG)
    model = next(model for model in config.models if model.name == pool.model)
    if not model.abilities & {"chat", "completions"}:
        raise CalibrationError(f"pool {pool.name}: {model.name} makes no text, so there is no curve to measure", CONFIG)
    if not seconds_per_step <= SECONDS_PER_STEP_MAX:
        raise CalibrationError(
            f"--seconds-per-step {seconds_per_step:g} is more than {SECONDS_PER_STEP_MAX:g}: others would have to do "
            "without the pool for too long",
            CONFIG,
        )
    bounds = config.policy.bounds
    room = min(int(model.context_tokens * _CONTEXT_USED), bounds.body_bytes_max // _BYTES_PER_TOKEN_MAX)
    longest = min(room, PROMPT_TOKENS_MAX)
    if longest < 4 * DECODE_PROMPT_TOKENS:
        raise CalibrationError(f"pool {pool.name}: a context of {model.context_tokens} tokens is too short", CONFIG)
    slots, at_most = pool.curve.seqs_max * replicas, bounds.concurrent_max // _CONCURRENT_PART
    if at_most < 1:
        raise CalibrationError(
            f"policy.bounds.concurrent_max is {bounds.concurrent_max}: there is no room beside other requests", CONFIG
        )
    return Plan(
        pool=pool,
        zone=next(site.zone for site in config.sites if site.name == pool.site),
        context_tokens=model.context_tokens,
        lengths=lengths(longest),
        levels=levels(min(slots, at_most), replicas),
        replicas=replicas,
        seconds_per_step=seconds_per_step,
        path="/v1/chat/completions" if "chat" in model.abilities else "/v1/completions",
        output_tokens_max=min(bounds.output_tokens_max, room - 2 * DECODE_PROMPT_TOKENS),
        cut_from=slots if slots > at_most else 0,
    )


def lengths(longest: int) -> tuple[int, ...]:
    """Up to six prompt lengths, evenly spread from near nothing to ``longest``: a line is best seen from its ends."""
    shortest = DECODE_PROMPT_TOKENS
    step = (longest - shortest) / (LENGTHS_MAX - 1)
    return tuple(sorted({round(shortest + step * i) for i in range(LENGTHS_MAX)}))


def levels(slots: int, replicas: int) -> tuple[int, ...]:
    """One sequence a replica, two, four, ... and all of ``slots``."""
    found, level = [], replicas
    while level < slots:
        found.append(level)
        level *= 2
    return (*found, slots)


class Bounds:
    """Requests, tokens and time that a calibration may still use."""

    def __init__(self, until_s: float, requests: int = REQUESTS_MAX, tokens: int = TOKENS_MAX) -> None:
        self._until_s, self._requests, self._tokens = until_s, requests, tokens

    def spend(self, now_s: float, tokens: int) -> float:
        """Before a request of at most ``tokens``: seconds it may take. Raises Exhausted, naming the bound."""
        left_s = self._until_s - now_s
        if left_s <= 0.0:
            raise Exhausted("the time for it is over")
        if self._requests < 1 or self._tokens < tokens:
            raise Exhausted("the most requests or tokens for one calibration were sent")
        self._requests -= 1
        self._tokens -= tokens
        return min(REQUEST_S_MAX, left_s)


def _ends(values: tuple[int, ...]) -> str:
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100.0 else f"{seconds / 60.0:.0f} min"
