"""The mix file: who the requests of a trace are, since no public trace says. Strict like cluster.yaml.

load_mix(path) -> Mix               read and check the file alone
resolve(mix, config) -> profiles    check it against a cluster.yaml, and turn names into what the core works with
default_mix(config) -> Mix          each tenant once, with its first class and any model

Every field: docs/simulation-inputs.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, model_validator

from scheduler.config.base import Count, Fraction, Model, Name, Positive
from scheduler.config.cluster import AUTO, ClusterConfig
from scheduler.config.demand import ServiceClassSpec, Tenant
from scheduler.config.document import ConfigError, read_document
from scheduler.config.supply import Ability
from scheduler.core.market import ServiceClass

AssignBy = Literal["request", "client", "session"]


class DifficultyRange(Model):
    """Difficulty between two bounds, every value as likely."""

    low: Fraction
    high: Fraction

    @model_validator(mode="after")
    def _ordered(self) -> DifficultyRange:
        if self.high < self.low:
            raise ValueError(f"high ({self.high}) is below low ({self.low})")
        return self


class Tokens(Model):
    """How long prompts or answers are: median and 95th percentile of a lognormal distribution."""

    median: Count
    p95: Count

    @model_validator(mode="after")
    def _ordered(self) -> Tokens:
        if self.p95 < self.median:
            raise ValueError(f"p95 ({self.p95}) is below the median ({self.median})")
        return self


class ProfileSpec(Model):
    """One kind of request: ``share`` is a weight, all shares together are everything.

    ``model_class``, ``input_tokens`` and ``output_tokens`` are for traces of mere rates (``scheduler.planning.rates``).
    """

    name: Name
    share: Positive
    tenant: Name
    service_class: Name | None = None
    model: Name = AUTO
    zones: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    labels: tuple[str, ...] = ()
    difficulty: Fraction | DifficultyRange = 0.2
    needs: frozenset[Ability] = frozenset({"chat"})
    output_tokens_max: Count | None = None
    model_class: Name | None = None
    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None


class Mix(Model):
    """Profiles, and what draws one: each request by itself, or all requests of a client or session together."""

    version: Literal[1]
    assign_by: AssignBy = "request"
    profiles: tuple[ProfileSpec, ...] = Field(min_length=1)
    _path: Path = PrivateAttr(default=Path("(default mix)"))

    @model_validator(mode="after")
    def _distinct(self) -> Mix:
        seen: set[str] = set()
        problems = []
        for i, profile in enumerate(self.profiles):
            if profile.name in seen:
                problems.append(f"profiles[{i}].name: {profile.name!r} is there twice")
            seen.add(profile.name)
        if problems:
            raise ValueError("; ".join(problems))
        return self


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of request in the core's terms. ``models`` None means any; ``deadline_s`` counts from arrival.

    ``output_tokens_max`` is the ``max_tokens`` that the client sends, None if it sends none. ``pools``: those that plans and
    the kernel may serve it from, None for all that have its model; the exact engine decides as the live gateway does.
    """

    name: str
    share: float
    tenant: str
    service_class: ServiceClass
    models: frozenset[str] | None
    zones: frozenset[str]
    difficulty_low: float
    difficulty_high: float
    needs: frozenset[str]
    budgeted: bool
    usd_max: float
    deadline_s: float
    output_tokens_max: int | None = None
    pools: frozenset[str] | None = None


def load_mix(path: str | Path) -> Mix:
    """Read and check ``path`` by itself. Raises ConfigError naming path and reason of every problem."""
    path = Path(path)
    mix = read_document(path, Mix)
    mix._path = path
    return mix


def default_mix(config: ClusterConfig) -> Mix:
    """Without a mix file: each tenant in equal shares, with its first class and ``auto``."""
    profiles = tuple(ProfileSpec(name=tenant.name, share=1.0, tenant=tenant.name) for tenant in config.tenants)
    return Mix(version=1, profiles=profiles)


def resolve(mix: Mix, config: ClusterConfig) -> tuple[Profile, ...]:
    """The profiles as ``config`` means them. Raises ConfigError naming every name that it does not know or allow."""
    problems: list[str] = []
    profiles = [_profile(spec, f"profiles[{i}]", config, problems) for i, spec in enumerate(mix.profiles)]
    if problems:
        raise ConfigError(mix._path, problems)
    return tuple(profile for profile in profiles if profile is not None)


def _profile(spec: ProfileSpec, at: str, config: ClusterConfig, problems: list[str]) -> Profile | None:
    before = len(problems)
    tenant = next((tenant for tenant in config.tenants if tenant.name == spec.tenant), None)
    models: dict[str, frozenset[str] | None] = {model.name: frozenset({model.name}) for model in config.models}
    models |= {alias.name: frozenset(alias.models) for alias in config.aliases}
    models[AUTO] = None
    if spec.model not in models:
        problems.append(f"{at}.model: {spec.model!r} is no model or alias ({_known(models)})")
    bound = config.policy.bounds.output_tokens_max
    if spec.output_tokens_max is not None and spec.output_tokens_max > bound:
        problems.append(f"{at}.output_tokens_max: above policy.bounds.output_tokens_max ({bound})")
    if tenant is None:
        problems.append(f"{at}.tenant: {spec.tenant!r} is not a tenant ({_known(t.name for t in config.tenants)})")
        return None
    service_class = _service_class(spec, at, tenant, config, problems)
    zones = _zones(spec, at, tenant, config, problems)
    if service_class is None or len(problems) > before:
        return None
    difficulty = spec.difficulty
    low, high = (difficulty.low, difficulty.high) if isinstance(difficulty, DifficultyRange) else (difficulty,) * 2
    return Profile(
        name=spec.name,
        share=spec.share,
        tenant=tenant.name,
        service_class=service_class.core(),
        models=models[spec.model],
        zones=zones,
        difficulty_low=low,
        difficulty_high=high,
        needs=frozenset(spec.needs),
        budgeted=tenant.budget is not None,
        usd_max=service_class.usd_max,
        deadline_s=min(service_class.deadline_s, config.policy.bounds.total_s_max),
        output_tokens_max=spec.output_tokens_max,
    )


def _service_class(
    spec: ProfileSpec, at: str, tenant: Tenant, config: ClusterConfig, problems: list[str]
) -> ServiceClassSpec | None:
    name = spec.service_class or tenant.service_classes[0]
    if name not in tenant.service_classes:
        problems.append(
            f"{at}.service_class: {name!r} is no class of tenant {tenant.name!r} ({_known(tenant.service_classes)})"
        )
    return next((known for known in config.service_classes if known.name == name), None)


def _zones(spec: ProfileSpec, at: str, tenant: Tenant, config: ClusterConfig, problems: list[str]) -> frozenset[str]:
    """The tenant's zones, narrowed by labels and zones as the gateway does; here all must be known, and one be left."""
    before = len(problems)
    labels = {label.name: label.zones for label in config.labels}
    zones = frozenset(tenant.zones)
    for i, name in enumerate(spec.labels):
        if name not in labels:
            problems.append(f"{at}.labels[{i}]: {name!r} is not declared under labels ({_known(labels)})")
        elif labels[name] != "any":
            zones &= frozenset(labels[name])
    for i, name in enumerate(spec.zones or ()):
        if name not in config.zones:
            problems.append(f"{at}.zones[{i}]: {name!r} is not declared under zones ({_known(config.zones)})")
        elif name not in tenant.zones:
            problems.append(f"{at}.zones[{i}]: {name!r} is no zone of tenant {tenant.name!r} ({_known(tenant.zones)})")
    if spec.zones is not None:
        zones &= frozenset(spec.zones)
    if not zones and len(problems) == before:
        problems.append(f"{at}: labels and zones leave tenant {tenant.name!r} no zone at all")
    return zones


def _known(names: Iterable[str]) -> str:
    return f"known: {', '.join(sorted(names)) or 'none'}"
