"""Supply side of cluster.yaml: sites, models, pools, providers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, model_validator

from scheduler.config.base import Count, Fraction, Model, Name, NonNegative, Positive, Secret

Ability = Literal["chat", "completions", "embeddings", "tools", "response_format", "logprobs", "images", "audio"]


class Electricity(Model):
    """Tariff and overhead of a site. The camelCase names are those of InferCost and are accepted as well."""

    usd_per_kwh: NonNegative = Field(validation_alias=AliasChoices("usd_per_kwh", "ratePerKWh"))
    pue: Annotated[float, Field(ge=1, le=3, strict=True)] = Field(
        1.0, validation_alias=AliasChoices("pue", "pueFactor")
    )


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
    """Slope of power against load: what one more token draws at the board, not the idle power."""

    joules_per_input_token: NonNegative
    joules_per_output_token: NonNegative
    label: Literal["measured", "calibrated", "modelled"]


class Hardware(Model):
    """Price of the hardware under one replica. InferCost's camelCase names are accepted as well."""

    gpu: str = Field(min_length=1)
    purchase_price_usd: NonNegative = Field(validation_alias=AliasChoices("purchase_price_usd", "purchasePriceUSD"))
    amortization_years: Annotated[float, Field(gt=0, le=100, strict=True)] = Field(
        validation_alias=AliasChoices("amortization_years", "amortizationYears")
    )
    maintenance_percent_per_year: NonNegative = Field(
        0.0, validation_alias=AliasChoices("maintenance_percent_per_year", "maintenancePercentPerYear")
    )
    idle_watts: NonNegative = 0.0
    tdp_watts: NonNegative = Field(0.0, validation_alias=AliasChoices("tdp_watts", "tdpWatts"))
    financing_rate: Fraction = 0.0
    residual_share: Fraction = 0.0
    utilization_standard: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.5


class Adapter(Model):
    """A LoRA adapter: ``model`` is the name under which it is served, ``path`` its weights."""

    model: Name
    path: str = Field(min_length=1)
    quality: QualityPoints | None = None


class VllmEngine(Model):
    """vLLM under Ray Serve. ``args`` are vLLM's own engine arguments (tensor_parallel_size, quantization, ...)."""

    kind: Literal["vllm"]
    path: str = Field(min_length=1)
    args: dict[str, Any] = Field(default_factory=dict)
    env: dict[str, str] = Field(default_factory=dict)
    gpus_per_replica: NonNegative = 0
    cpus_per_replica: NonNegative = 1
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
    """Bounds of the gate in front of a pool."""

    waiting_max: Annotated[int, Field(ge=0, le=100_000, strict=True)] = 64
    hold_s_max: Positive = 30.0


class Replicas(Model):
    """Bounds between which a pool may be scaled; it starts with ``min``."""

    min: Count = 1
    max: Count = 1

    @model_validator(mode="after")
    def _ordered(self) -> Replicas:
        if self.max < self.min:
            raise ValueError(f"max ({self.max}) is below min ({self.min})")
        return self


class Pool(Model):
    """Replicas of one model on a site: the base load (or, with ``kind: spot``, rented capacity)."""

    name: Name
    site: Name
    model: Name
    kind: Literal["base", "spot"] = "base"
    engine: Annotated[VllmEngine | RayServeLlmEngine | UrlEngine, Field(discriminator="kind")]
    replicas: Replicas = Replicas()
    curve: Curve
    energy: Energy
    hardware: Hardware | None = None
    gate: Gate = Gate()


class Price(Model):
    """USD per million tokens. A missing cached price means that cached input costs the full input price."""

    input: NonNegative
    output: NonNegative
    cached: NonNegative | None = None
    usd_per_request: NonNegative = 0.0


class ProviderModel(Model):
    """A model at a provider: ``upstream`` is the provider's own name for it.

    ``price: litellm`` reads the price from litellm's bundled map; a model that the map does not know makes no offer.
    """

    model: Name
    upstream: str = Field(min_length=1)
    price: Price | Literal["litellm"]
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
