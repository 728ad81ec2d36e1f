"""Reading an engine's own counters from its Prometheus text, by vLLM's metric names."""

from __future__ import annotations

import math

from serving.gate.wire import EngineStats

_NAMES = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv_usage",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "generation_tokens",
    "vllm:prefix_cache_hits_total": "cached_tokens",
}
_VALUE_MAX = 1e18


def parse(text: str) -> EngineStats:
    """Sum each metric over its label sets; metrics that are not there, or hold no sensible number, stay zero."""
    sums: dict[str, float] = {}
    for line in text.splitlines():
        if not line.startswith("vllm:"):
            continue
        name = line.partition("{")[0].partition(" ")[0]
        field = _NAMES.get(name)
        if field is None:
            continue
        try:
            value = float(line.rpartition(" ")[2])
        except ValueError:
            continue
        if math.isfinite(value) and 0.0 <= value <= _VALUE_MAX:
            sums[field] = sums.get(field, 0.0) + value
    return EngineStats(**sums, counts_tokens="prompt_tokens" in sums or "generation_tokens" in sums)
