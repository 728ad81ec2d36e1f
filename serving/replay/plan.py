"""Which requests a replay sends, when, and for whom: from trace, mix and site file alone, before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from scheduler.config import ClusterConfig
from scheduler.simulation.mix import Mix, Profile, ProfileSpec, default_mix, load_mix, resolve
from scheduler.simulation.traces import TraceError, open_trace
from scheduler.simulation.workload import Workload
from serving.replay.errors import CONFIG, ReplayError
from serving.replay.keys import keys_of

REQUESTS_MAX = 100_000
TOKENS_MAX = 200_000_000
SECONDS_MAX = 24 * 3600.0
CONCURRENCY_MAX = 4096
_SPARE_S = 30.0
# What a chat can be made to need. Other abilities (images, audio, search, ...) want more than filler words.
_TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
_FIELDS: dict[str, dict[str, Any]] = {
    "chat": {},
    "logprobs": {"logprobs": True},
    "response_format": {"response_format": {"type": "json_object"}},
    "tools": {"tools": [_TOOL]},
}


@dataclass(frozen=True, slots=True)
class Given:
    """What the person asked for. ``start_s`` and ``seconds`` are on the clock of the trace; ``speed`` 2 halves the time.

    Tokens of the trace are scaled first and then cut. ``usd_max``: no more is sent once answers have cost this much.
    """

    trace: Path
    config: Path
    url: str
    key: str
    mix: Path | None = None
    start_s: float = 0.0
    seconds: float = 60.0
    speed: float = 1.0
    input_scale: float = 1.0
    output_scale: float = 1.0
    input_tokens_max: int | None = None
    output_tokens_max: int | None = None
    concurrency_max: int = 256
    usd_max: float = 10.0
    seed: int = 0


class Planned(NamedTuple):
    """One request: ``at_s`` after the replay's start, wanted tokens, whose it is (an index of ``Plan.kinds``)."""

    number: int
    at_s: float
    input_tokens: int
    output_tokens: int
    difficulty: float
    kind: int


@dataclass(frozen=True, slots=True)
class Kind:
    """What all requests of a profile have in common; ``timeout_s`` is a little more than the gateway's own deadline."""

    profile: Profile
    model: str
    headers: Mapping[str, str]
    fields: Mapping[str, Any]
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that will be sent. ``short_answers``: providers that would refuse to be told how long to write."""

    requests: tuple[Planned, ...]
    kinds: tuple[Kind, ...]
    seconds: float
    concurrency_max: int
    seed: int
    usd_max: float
    short_answers: tuple[str, ...] = ()

    def in_words(self, url: str) -> str:
        """What is about to happen, for the person who pays for it."""
        read = sum(request.input_tokens for request in self.requests)
        written = sum(request.output_tokens for request in self.requests)
        text = (
            f"Replaying {len(self.requests):,} requests in {self.seconds:,.0f} s at {url}: {read:,} input and {written:,} "
            f"output tokens wanted, at most {self.concurrency_max:,} at a time. No more are sent once answers have cost "
            f"${self.usd_max:g}. Ctrl-C stops it and shows what was seen."
        )
        if self.short_answers:
            names = ", ".join(self.short_answers)
            text += f" Answers may be shorter than in the trace: {names} would refuse to write on past the end."
        return text


def make(given: Given, config: ClusterConfig, environment: Mapping[str, str]) -> Plan:
    """The plan. Raises ReplayError, with the bound that it would break, and ConfigError for the mix."""
    _check(given)
    mix = load_mix(given.mix) if given.mix is not None else default_mix(config)
    profiles = resolve(mix, config)
    keys = keys_of(config, {profile.tenant for profile in profiles}, given.key, environment)
    short_answers = tuple(provider.name for provider in config.providers if provider.kind != "simulated")
    kinds = tuple(
        _kind(spec, profile, keys[profile.tenant], exact=not short_answers)
        for spec, profile in zip(mix.profiles, profiles, strict=True)
    )
    requests = _requests(given, mix, profiles, config.policy.bounds.output_tokens_max)
    seconds = given.seconds / given.speed
    return Plan(requests, kinds, seconds, given.concurrency_max, given.seed, given.usd_max, short_answers)


def _check(given: Given) -> None:
    address = urlsplit(given.url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ReplayError(f"--url {given.url}: not an address of a gateway (http://host:port)", CONFIG)
    if given.concurrency_max > CONCURRENCY_MAX:
        raise ReplayError(f"--concurrency-max {given.concurrency_max:,} is above {CONCURRENCY_MAX:,}", CONFIG)
    if given.seconds / given.speed > SECONDS_MAX:
        raise ReplayError(f"this would take {given.seconds / given.speed / 3600.0:,.1f} hours, at most 24 are", CONFIG)


def _kind(spec: ProfileSpec, profile: Profile, key: str, exact: bool) -> Kind:
    if unknown := sorted(set(profile.needs) - _FIELDS.keys()):
        known = ", ".join(sorted(_FIELDS))
        raise ReplayError(f"profile {spec.name} needs {', '.join(unknown)}: a replay sends {known}", CONFIG)
    headers = {"authorization": f"Bearer {key}", "x-baseload-class": profile.service_class.name}
    if spec.labels:
        headers["x-baseload-labels"] = ",".join(spec.labels)
    if spec.zones is not None:
        headers["x-baseload-zones"] = ",".join(spec.zones)
    fields: dict[str, Any] = {}
    for need in sorted(profile.needs):
        fields |= _FIELDS[need]
    if exact:
        fields |= {"ignore_eos": True, "temperature": 0}  # a model that thinks may refuse any temperature
    return Kind(profile, spec.model, headers, fields, profile.deadline_s + _SPARE_S)


def _requests(given: Given, mix: Mix, profiles: tuple[Profile, ...], output_bound: int) -> tuple[Planned, ...]:
    try:
        trace = open_trace(given.trace)
    except (OSError, TraceError) as error:
        # A TraceError begins with the path; there is no option here that sorts.
        text = str(error).replace(" (sort=True accepts that)", "")
        raise ReplayError(f"--trace {text}", CONFIG) from None
    with trace:
        try:
            workload = Workload(
                trace, profiles, given.seed, start_s=given.start_s, end_s=given.start_s + given.seconds,
                assign_by=mix.assign_by,
            )  # fmt: skip
        except ValueError as error:
            raise ReplayError(f"--trace {given.trace}: {error}", CONFIG) from None
        if workload.requests_expected > REQUESTS_MAX:
            raise ReplayError(
                f"{workload.requests_expected:,.0f} requests lie in these {given.seconds:g} s of the trace, and one replay "
                f"sends at most {REQUESTS_MAX:,}: take fewer --seconds",
                CONFIG,
            )
        found: list[Planned] = []
        for batch in workload:
            at_s = (batch.arrival_s - given.start_s) / given.speed
            read = _fitted(batch.input_tokens, given.input_scale, given.input_tokens_max)
            written = _fitted(batch.output_tokens, given.output_scale, given.output_tokens_max)
            most = np.array([min(profile.output_tokens_max or output_bound, output_bound) for profile in profiles])
            written = np.minimum(written, most[batch.profile])
            columns = (at_s, read, written, batch.difficulty, batch.profile)
            rows = zip(*(column.tolist() for column in columns), strict=True)
            found += [Planned(number, *row) for number, row in enumerate(rows, len(found))]
    tokens = sum(request.input_tokens + request.output_tokens for request in found)
    if not found:
        raise ReplayError(f"--trace {given.trace}: no request in these {given.seconds:g} s", CONFIG)
    if tokens > TOKENS_MAX:
        raise ReplayError(
            f"{tokens:,} tokens lie in these {given.seconds:g} s of the trace, and one replay moves at most {TOKENS_MAX:,}: "
            "take fewer --seconds, or scale or cut the lengths",
            CONFIG,
        )
    return tuple(found)


def _fitted(tokens: NDArray[np.int32], scale: float, most: int | None) -> NDArray[np.int64]:
    """Tokens scaled, then cut, at least one."""
    scaled = np.maximum(1, np.rint(tokens * scale)).astype(np.int64)
    return scaled if most is None else np.minimum(scaled, most)
