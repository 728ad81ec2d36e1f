"""Demand side of cluster.yaml: service classes, labels, tenants, and the policy."""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, Literal

from pydantic import Field, StrictBool, model_validator

from scheduler.config.base import Count, Fraction, Model, Name, NonNegative, Positive, Secret
from scheduler.config.expected import ExpectedSpec
from scheduler.core.fleet import CommitmentPolicy
from scheduler.core.market import ServiceClass

# Published in README: it must never open a door that others can reach.
DEMO_KEY_SHA256 = hashlib.sha256(b"local-demo").hexdigest()


class ServiceClassSpec(Model):
    """What time and errors are worth, in USD, to requests of this class. No ``tpot_s_max``: any pace will do."""

    name: Name
    ttft_s_max: Positive = 5.0
    usd_per_ttft_miss: NonNegative = 0.01
    tpot_s_max: Positive | None = None  # seconds per output token after the first
    usd_per_tpot_miss: NonNegative = 0.01
    usd_per_s_waiting: NonNegative = 0.0001
    usd_per_wrong_answer: NonNegative = 0.01
    deadline_s: Positive = 120.0
    usd_max: Positive = 1.0

    def core(self) -> ServiceClass:
        """As decisions read it."""
        return ServiceClass(
            self.name,
            self.ttft_s_max,
            self.usd_per_ttft_miss,
            self.usd_per_s_waiting,
            self.usd_per_wrong_answer,
            self.tpot_s_max or math.inf,
            self.usd_per_tpot_miss,
        )


class Label(Model):
    """A tag that requests may carry. ``zones``: only these may serve it; ``any``: the label restricts nothing."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", max_length=100)
    zones: tuple[Name, ...] | Literal["any"]


class Key(Model):
    """One API key, by its SHA-256 (hex) or by the environment variable that holds it; never in clear."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    env: str | None = Field(None, min_length=1)
    loopback_only: StrictBool = False

    @model_validator(mode="after")
    def _one(self) -> Key:
        if (self.sha256 is None) == (self.env is None):
            raise ValueError("give exactly one of sha256 and env")
        if self.sha256 == DEMO_KEY_SHA256 and not self.loopback_only:
            raise ValueError("the demonstration key local-demo is public: it needs loopback_only: true")
        return self

    def digest(self) -> str | None:
        """SHA-256 of the key in hex, or None while its environment variable is not set (then nobody can use it)."""
        if self.sha256 is not None:
            return self.sha256
        value = Secret(env=self.env or "").value()
        return hashlib.sha256(value.encode()).hexdigest() if value else None


class Budget(Model):
    """USD of avoidable money a tenant may spend in one UTC day or month."""

    usd: Positive
    per: Literal["day", "month"] = "day"


class Tenant(Model):
    """Who asks. ``service_classes``: the first is the default, the others may be chosen by header.

    ``sees_costs``: its keys may read what our own hardware costs, feeds and incidents on ``/v1/prices``, not offers alone.
    """

    name: Name
    keys: tuple[Key, ...] = Field(min_length=1)
    zones: tuple[Name, ...] = Field(min_length=1)
    service_classes: tuple[Name, ...] = Field(min_length=1)
    budget: Budget | None = None
    sees_costs: StrictBool = False


class RequestBounds(Model):
    """Limits of the gateway: over a bound the answer is a prompt 4xx, 429 or 503."""

    body_bytes_max: Count = 8 * 1024 * 1024
    concurrent_max: Count = 512
    connections_max: Count = 2048
    header_s_max: Positive = 10.0
    body_s_max: Positive = 30.0
    total_s_max: Positive = 600.0
    output_tokens_max: Count = 131_072


class CommitmentSpec(Model):
    """The commitment clock: how many replicas pools have between their bounds, judged every ``every_s``.

    ``advisory`` keeps a record of what it would do; ``enforce`` does it, where the engine can be scaled; ``off``: neither.
    ``hold_s``: how long a replica that was started stays at least, and so what it has to pay for. ``down_share``: it goes
    when it is worth less than this share of its avoidable cost, for ``down_after_s``. ``usable_share``: how busy a replica
    can be. ``usd_unserved``: what serving a request is worth that nobody else may serve. ``spread_ratio``: how much dearer a
    replica in another failure domain may be. ``swap_ratio``: how much dearer one must be to be replaced by another.
    """

    mode: Literal["off", "advisory", "enforce"] = "advisory"
    every_s: Annotated[float, Field(ge=1, le=3600, strict=True)] = 60.0
    hold_s: Positive = 600.0
    down_after_s: NonNegative = 300.0
    down_share: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.8
    usable_share: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.9
    usd_unserved: NonNegative = 0.01
    spread_ratio: Annotated[float, Field(ge=1, le=10, strict=True)] = 1.15
    swap_ratio: Annotated[float, Field(ge=1, le=10, strict=True)] = 1.25

    def policy(self) -> CommitmentPolicy:
        """The core's settings: all but who acts on them, and when."""
        return CommitmentPolicy(**self.model_dump(exclude={"mode", "every_s"}))


class PolicySpec(Model):
    """How base and peak are played.

    ``bid_prefilter``: share of the bid price at which gateways already look elsewhere (a gate asks for all of it).
    ``bid_every_s``: how often the curves behind it are solved anew. ``ttft_margin``: share of a TTFT objective that gates
    plan with, until they have learnt better. ``grant_ahead_s``: work that an engine is given before it has begun what it has.
    ``expected``: what the plan behind this file expects; only ``baseload status`` reads it.
    """

    local_floor: Literal["none", "amortized"] = "none"
    attempts_max: Count = 4
    bid_prefilter: Fraction = 0.6
    bid_every_s: Positive = 15.0
    ttft_margin: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.93
    grant_ahead_s: NonNegative = 0.1
    retry_share_max: Fraction = 0.1
    price_ttl_s: Positive = 86_400.0
    clearing_s: Positive = 1.0
    lease_ttl_s: Annotated[float, Field(ge=2, allow_inf_nan=False, strict=True)] = 10.0  # renewed every 0.5 s
    breaker_base_s: Positive = 1.0
    breaker_max_s: Positive = 60.0
    triage: str = Field(default="scheduler.quality.triage:heuristic", pattern=r"^[\w.]+:\w+$")
    bounds: RequestBounds = RequestBounds()
    commitment: CommitmentSpec = CommitmentSpec()
    expected: ExpectedSpec | None = None
