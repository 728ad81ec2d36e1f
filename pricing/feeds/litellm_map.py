"""litellm's bundled price map, read as data: importing litellm takes seconds and 170 MB, its JSON file 50 ms."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from scheduler.core.supply import Rate, Tier

_FILE = "model_prices_and_context_window_backup.json"
_TIER = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")


@cache
def price_map() -> dict[str, dict[str, Any]]:
    """The map by litellm's model name; empty when litellm is not installed."""
    spec = importlib.util.find_spec("litellm")
    for place in (spec.submodule_search_locations or []) if spec else []:
        path = Path(place) / _FILE
        if path.is_file():
            entries: dict[str, dict[str, Any]] = msgspec.json.decode(path.read_bytes())
            entries.pop("sample_spec", None)
            return entries
    return {}


def rate(upstream: str) -> Rate | None:
    """USD per token of litellm's model ``upstream``; None when the map has no price for it (never a default).

    An explicit zero is a price. Entries without an output price (embeddings) cost zero for output only where the map
    says so or the mode has no output.
    """
    entry = price_map().get(upstream)
    if entry is None:
        return None
    usd_input, usd_output = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
    if usd_output is None and entry.get("mode") in ("embedding", "rerank"):
        usd_output = 0.0
    if usd_input is None or usd_output is None:
        return None
    usd_cached = entry.get("cache_read_input_token_cost")
    tiers = []
    for key, usd in entry.items():
        match = _TIER.fullmatch(key)
        if match and usd is not None:
            k = match[1]
            cached = entry.get(f"cache_read_input_token_cost_above_{k}k_tokens")
            output = entry.get(f"output_cost_per_token_above_{k}k_tokens", usd_output)
            tiers.append(Tier(int(k) * 1000, usd, usd if cached is None else cached, output))
    return Rate(
        usd_per_input=usd_input,
        usd_per_cached=usd_input if usd_cached is None else usd_cached,
        usd_per_output=usd_output,
        tiers=tuple(sorted(tiers)),
    )
