"""Where an offer is really served: the address, the name of the model there, and the key, by offer id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scheduler.config import ClusterConfig


@dataclass(frozen=True, slots=True)
class Route:
    """How to reach an offer. ``pool`` names the gate to pass first ('' for providers); its grant gives the address."""

    offer_id: str
    transport: str  # http | litellm
    upstream_model: str
    base_url: str = ""
    api_key: str = ""
    pool: str = ""
    zone: str = ""
    simulated: bool = False
    service_tier: str = ""  # '' for the standard one


def routes(config: ClusterConfig, control_token: str, simulated_urls: dict[str, str]) -> dict[str, Route]:
    """Every offer's route. ``simulated_urls`` says where the simulated providers of this run listen."""
    result: dict[str, Route] = {}
    for pool in config.pools:
        engine = pool.engine
        if engine.kind == "vllm":
            models = {pool.model: pool.model} | {adapter.model: adapter.model for adapter in engine.adapters}
            key = control_token
        else:
            models = {pool.model: engine.upstream_model or pool.model}
            key = (engine.api_key.value() or "") if engine.kind == "url" and engine.api_key else ""
        zone = next(site.zone for site in config.sites if site.name == pool.site)
        for model, upstream in models.items():
            offer_id = f"{pool.name}/{model}"
            result[offer_id] = Route(offer_id, "http", upstream, api_key=key, pool=pool.name, zone=zone)
    for provider in config.providers:
        for served in provider.models:
            offer_id = f"{provider.name}/{served.model}"
            result[offer_id] = Route(
                offer_id,
                "litellm" if provider.kind == "litellm" else "http",
                served.upstream,
                base_url=(simulated_urls.get(provider.name, "") if provider.kind == "simulated" else provider.base_url),
                api_key=(provider.api_key.value() or "") if provider.api_key else "",
                zone=provider.zone,
                simulated=provider.kind == "simulated",
                service_tier="" if served.service_tier == "standard" else served.service_tier,
            )
    return result


def model_path(config: ClusterConfig, path: str) -> str:
    """A model directory relative to cluster.yaml, as an absolute path; names of hub models are left alone."""
    local = Path(config.directory) / path
    return str(local) if local.exists() else path
