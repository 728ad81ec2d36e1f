"""Reading an engine's own counters from its Prometheus text, by vLLM's metric names."""

from __future__ import annotations

from serving.gate.wire import EngineStats

_NAMES = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv_usage",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "generation_tokens",
    "vllm:prefix_cache_hits_total": "cached_tokens",
}


def parse(text: str) -> EngineStats:
    """Sum each metric over its label sets; metrics that are not there stay zero."""
    sums: dict[str, float] = {}
    for line in text.splitlines():
        if not line.startswith("vllm:"):
            continue
        name = line.partition("{")[0].partition(" ")[0]
        field = _NAMES.get(name)
        if field is None:
            continue
        try:
            sums[field] = sums.get(field, 0.0) + float(line.rpartition(" ")[2])
        except ValueError:
            continue
    return EngineStats(**sums)
