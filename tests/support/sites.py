"""Small site files as plain dictionaries, for tests to bend."""

from __future__ import annotations

import hashlib
from typing import Any

KEY = "a-key-of-the-tests"
CURVE = {"prefill_tokens_per_s": 10_000, "itl_base_s": 0.01, "itl_per_seq_s": 0.001, "seqs_max": 8, "ttft_base_s": 0.05}
QUALITY = {"low": 0.9, "medium": 0.8, "high": 0.5}


def pool(name: str, site_name: str = "here", model: str = "small", **fields: Any) -> dict[str, Any]:
    """A pool of one server that runs already."""
    return {
        "name": name,
        "site": site_name,
        "model": model,
        "engine": {"kind": "url", "urls": [f"http://{name}.test:8000"]},
        "curve": dict(CURVE),
        "energy": {"joules_per_input_token": 0.01, "joules_per_output_token": 0.1, "label": "modelled"},
        "hardware": {"gpu": "g", "purchase_price_usd": 1_000, "amortization_years": 4},
        **fields,
    }


def provider(name: str, zone: str = "cloud", model: str = "large", **served: Any) -> dict[str, Any]:
    """A provider of one model; ``served`` goes to that model (price, upstream, ...)."""
    row = {"model": model, "upstream": f"{name}-{model}", "price": {"input": 2.0, "output": 10.0}, "curve": dict(CURVE)}
    return {
        "name": name,
        "kind": "openai",
        "zone": zone,
        "base_url": f"http://{name}.test",
        "models": [row | served],
    }


def site(**sections: Any) -> dict[str, Any]:
    """One site at home with one pool, one provider in the cloud, one tenant whose key is ``KEY``."""
    document: dict[str, Any] = {
        "version": 1,
        "zones": ["home", "cloud"],
        "sites": [{"name": "here", "zone": "home", "electricity": {"usd_per_kwh": 0.3, "pue": 1.2}}],
        "models": [
            {"name": "small", "context_tokens": 8_000, "quality": dict(QUALITY)},
            {"name": "large", "context_tokens": 100_000, "quality": dict(QUALITY)},
        ],
        "pools": [pool("own")],
        "providers": [provider("cloud")],
        "service_classes": [{"name": "interactive"}, {"name": "batch", "deadline_s": 300}],
        "labels": [{"name": "restricted", "zones": ["home"]}, {"name": "public", "zones": "any"}],
        "tenants": [
            {
                "name": "t",
                "keys": [{"sha256": hashlib.sha256(KEY.encode()).hexdigest()}],
                "zones": ["home", "cloud"],
                "service_classes": ["interactive", "batch"],
            }
        ],
    }
    return document | sections
