"""Supply side of cluster.yaml: sites, models, pools, providers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, model_validator

from scheduler.config.base import Count, Fraction, Model, Name, NonNegative, Positive, Secret
from scheduler.config.prices import Electricity, Hardware, Hours, Listed, Rental

Ability = Literal[
    "chat", "completions", "embeddings", "tools", "response_format", "logprobs", "images", "audio", "search"
]


class Site(Model):
    """A place with hardware of ours. ``zone`` is what sovereignty rules name."""

    name: Name
    zone: Name
    electricity: Electricity


class QualityPoints(Model):
    """Probability that an answer is good enough at low, medium and high difficulty."""

    low: Fraction
    medium: Fraction
    high: Fraction


class ModelSpec(Model):
    """A model by the name that aliases, pools and providers use for it."""

    name: Name
    context_tokens: Count
    abilities: frozenset[Ability] = frozenset({"chat", "completions"})
    quality: QualityPoints


class Curve(Model):
    """Service curve of one replica (pools) or of one connection (providers)."""

    prefill_tokens_per_s: Positive
    itl_base_s: NonNegative
    itl_per_seq_s: NonNegative = 0.0
    seqs_max: Count = 1
    ttft_base_s: NonNegative = 0.0
    kv_tokens: Annotated[int, Field(ge=0, strict=True)] = 0


class Energy(Model):
    """Slope of power against load: what one more token draws at the board, not the idle power.

    ``live``: once the meter has measured the slope well enough, that replaces the figures given here.
    """

    joules_per_input_token: NonNegative
    joules_per_output_token: NonNegative
    label: Literal["measured", "calibrated", "modelled"]
    live: StrictBool = True


class Adapter(Model):
    """A LoRA adapter: ``model`` is the name under which it is served, ``path`` its weights."""

    model: Name
    path: str = Field(min_length=1)
    quality: QualityPoints | None = None


class VllmEngine(Model):
    """vLLM under Ray Serve. ``args`` are vLLM's own engine arguments (tensor_parallel_size, quantization, ...).

    ``resources``: of Ray, beside GPUs and CPUs, by name; a replica is placed on nodes that have them, such as rented ones.
    """

    kind: Literal["vllm"]
    path: str = Field(min_length=1)
    args: dict[str, Any] = Field(default_factory=dict)
    env: dict[str, str] = Field(default_factory=dict)
    gpus_per_replica: NonNegative = 0
    cpus_per_replica: NonNegative = 1
    resources: dict[str, Positive] = Field(default_factory=dict)
    adapters: tuple[Adapter, ...] = ()


class RayServeLlmEngine(Model):
    """A pool built by ``ray.serve.llm``; ``llm_config`` is its own LLMConfig, passed through."""

    kind: Literal["ray-serve-llm"]
    llm_config: dict[str, Any]
    upstream_model: str = Field(min_length=1)


class UrlEngine(Model):
    """OpenAI-compatible vLLM servers that run already, one URL a replica."""

    kind: Literal["url"]
    urls: tuple[Annotated[str, Field(pattern=r"^https?://[^/?#]+$")], ...] = Field(min_length=1)
    upstream_model: str = ""
    api_key: Secret | None = None


class Gate(Model):
    """Bounds of the gate in front of a pool.

    ``holds`` False: an engine that others use as well. Gateways decide alone, by forecast; the gate only counts, and
    bounces what comes above the slots and ``waiting_max`` more.
    """

    waiting_max: Annotated[int, Field(ge=0, le=100_000, strict=True)] = 1024
    hold_s_max: Positive = 30.0
    holds: StrictBool = True


class Replicas(Model):
    """Bounds between which a pool may be scaled; it starts with ``min``. 0: it is empty until the commitment clock starts a
    replica, which takes a pool of the same model and zone that is never empty (``ClusterConfig``).
    """

    min: Annotated[int, Field(ge=0, strict=True)] = 1
    max: Count = 1

    @model_validator(mode="after")
    def _ordered(self) -> Replicas:
        if self.max < self.min:
            raise ValueError(f"max ({self.max}) is below min ({self.min})")
        return self


class Pool(Model):
    """Replicas of one model on a site: the base load (or, with ``kind: spot``, rented capacity).

    ``start_s``: how long a replica takes from being asked for to its first answer.
    """

    name: Name
    site: Name
    model: Name
    kind: Literal["base", "spot"] = "base"
    engine: Annotated[VllmEngine | RayServeLlmEngine | UrlEngine, Field(discriminator="kind")]
    replicas: Replicas = Replicas()
    start_s: NonNegative = 120.0
    curve: Curve
    energy: Energy
    hardware: Hardware | None = None
    rental: Rental | None = None
    gate: Gate = Gate()

    @model_validator(mode="after")
    def _owned_or_rented(self) -> Pool:
        if self.hardware is not None and self.rental is not None:
            raise ValueError("a pool is owned (hardware) or rented (rental), not both")
        return self


class PriceTier(Model):
    """Prices above a context length, USD per million tokens; they replace the base ones for the whole request."""

    input_tokens_above: Count
    input: NonNegative
    output: NonNegative
    cached: NonNegative | None = None
    cache_write: NonNegative | None = None
    cache_write_long: NonNegative | None = None
    reasoning: NonNegative | None = None


class OffPeak(Model):
    """Hours (UTC) in which every price is multiplied by ``factor``."""

    hours_utc: Hours
    factor: Fraction


class Price(Model):
    """USD per million tokens. What is missing is billed as what it is part of: cached as input, reasoning as output."""

    input: NonNegative
    output: NonNegative
    cached: NonNegative | None = None
    cache_write: NonNegative | None = None
    cache_write_long: NonNegative | None = None
    reasoning: NonNegative | None = None
    tiers: tuple[PriceTier, ...] = ()
    off_peak_pricing: tuple[OffPeak, ...] = ()
    usd_per_request: NonNegative = 0.0
    usd_per_search: NonNegative = 0.0


class ProviderModel(Model):
    """A model at a provider: ``upstream`` is the provider's own name for it.

    ``price``: one's own; ``litellm`` for litellm's map (bundled, or of a feed of that kind); or products of feeds, the
    first with a good price counts and the others are compared with it. No known price: no offer. ``reasoning_tokens``:
    what the model usually thinks before it answers, billed and waited for. ``tokens_ratio``: tokens its tokenizer makes
    of one that the gateway counts.
    """

    model: Name
    upstream: str = Field(min_length=1)
    price: Price | Literal["litellm"] | Annotated[tuple[Listed, ...], Field(min_length=1)]
    service_tier: Literal["standard", "flex", "priority"] = "standard"
    reasoning_tokens: Annotated[int, Field(ge=0, strict=True)] = 0
    tokens_ratio: Annotated[float, Field(ge=0.1, le=10, strict=True)] = 1.0
    curve: Curve
    quality: QualityPoints | None = None


class Limits(Model):
    """The provider's own limits, 0 where none is known."""

    concurrent: Annotated[int, Field(ge=0, strict=True)] = 0
    requests_per_min: Annotated[int, Field(ge=0, strict=True)] = 0


class SimulatedSettings(Model):
    """Behaviour of the built-in simulated provider at start; it can be changed while it runs."""

    port: Annotated[int, Field(ge=0, le=65535, strict=True)] = 0
    ttft_s: NonNegative = 0.3
    tokens_per_s: Positive = 80.0
    concurrency_max: Annotated[int, Field(ge=0, strict=True)] = 0
    requests_per_min_max: Annotated[int, Field(ge=0, strict=True)] = 0
    seed: Annotated[int, Field(strict=True)] = 0


class Provider(Model):
    """Where the peak is bought. ``openai``: raw pass-through; ``litellm``: any of its providers; ``simulated``."""

    name: Name
    kind: Literal["openai", "litellm", "simulated"]
    zone: Name
    base_url: str = Field("", pattern=r"^(https?://[^?#]+)?$")
    api_key: Secret | None = None
    models: tuple[ProviderModel, ...] = Field(min_length=1)
    limits: Limits = Limits()
    simulated: SimulatedSettings | None = None
    litellm_params: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> Provider:
        if self.kind == "openai" and not self.base_url:
            raise ValueError("kind openai needs base_url")
        if (self.kind == "simulated") != (self.simulated is not None):
            raise ValueError("the section `simulated` belongs to kind simulated, and to no other")
        return self
