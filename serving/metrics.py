"""Every metric, declared once. Names follow OpenTelemetry's gen_ai conventions where they have one.

Never labelled by session or request id. Children are cached, since looking one up costs more than counting.
"""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()

REGISTRY = CollectorRegistry()

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)
_SOURCE = ("gen_ai_request_model", "gen_ai_response_model", "gen_ai_provider_name")


def _histogram(name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
    return Histogram(name, text, labels, buckets=buckets, registry=REGISTRY)


TOKEN_USAGE = _histogram(
    "gen_ai_client_token_usage", "Tokens per request", (*_SOURCE, "gen_ai_token_type"), tuple(map(float, _TOKENS))
)
DURATION = _histogram("gen_ai_client_operation_duration_seconds", "Request to last byte", _SOURCE, _SECONDS)
TTFT = _histogram("gen_ai_server_time_to_first_token_seconds", "Request to first byte of the answer", _SOURCE, _SECONDS)
TPOT = _histogram(
    "gen_ai_server_time_per_output_token_seconds", "Seconds per output token after the first", _SOURCE, _SECONDS
)
OVERHEAD = _histogram(
    "baseload_overhead_seconds",
    "Time in the gateway before the first attempt",
    (),
    (1e-4, 2e-4, 5e-4, 1e-3, 5e-3, 0.02),
)
REQUESTS = Counter(
    "baseload_requests", "Requests by outcome", ("tenant", "service_class", "source", "status"), registry=REGISTRY
)
USD = Counter("baseload_usd", "USD by cost basis", ("tenant", "source", "cost_basis"), registry=REGISTRY)
ATTEMPTS = Counter("baseload_attempts", "Attempts by offer and how they ended", ("offer", "status"), registry=REGISTRY)
REJECTED = Counter("baseload_refused_requests", "Requests refused before a decision", ("code",), registry=REGISTRY)
INFLIGHT = Gauge("baseload_inflight_requests", "Requests being served by this gateway", registry=REGISTRY)
MARKET_VERSION = Gauge("baseload_market_version", "Version of the market in use", registry=REGISTRY)
MARKET_AGE = Gauge("baseload_market_age_seconds", "Age of the market in use", registry=REGISTRY)
OFFER_UP = Gauge(
    "baseload_offer_up",
    "1 while the market holds the offer as healthy; none while its pool is empty and may be",
    ("offer",),
    registry=REGISTRY,
)
POOL = Gauge(
    "baseload_pool_state",
    "State of a pool: replicas, slots, running and waiting at its gate; engine_* from the engines' own counters; "
    "work_ratio: seconds of work that they need over those of the curve",
    ("pool", "what"),
    registry=REGISTRY,
)
BID_PRICE = Gauge(
    "baseload_bid_usd_per_replica_second",
    "Bid price of a pool's time at its current wait",
    ("pool",),
    registry=REGISTRY,
)
BID_SOLVE = Gauge("baseload_bid_solve_seconds", "How long the controller's last solving took", registry=REGISTRY)
COMMITMENT_DESIRED = Gauge(
    "baseload_commitment_desired_replicas", "Replicas that a pool should have", ("pool",), registry=REGISTRY
)
COMMITMENT_ACTIONS = Counter(
    "baseload_commitment_actions",
    "Advice of the commitment clock, as the controller counts it; every gateway tells the same",
    ("pool", "direction", "applied"),
    registry=REGISTRY,
)
BOUNCES = Counter("baseload_gate_bounces", "Requests that a pool's gate sent on", ("pool", "reason"), registry=REGISTRY)
COST = Gauge(
    "llm_cost_per_million_tokens",
    "USD per million tokens: of our pools by cost basis (allocation, usage, avoidable), of bought offers as listed",
    ("offer", "gen_ai_token_type", "cost_basis"),
    registry=REGISTRY,
)
GPU_HOUR = Gauge("baseload_usd_per_gpu_hour", "Cost of a GPU-hour by part", ("pool", "part"), registry=REGISTRY)
POOL_WATTS = Gauge("baseload_pool_watts", "Power of a pool at its boards", ("pool", "label"), registry=REGISTRY)
POOL_JOULES = Gauge(
    "baseload_pool_joules", "Counted by the meters since they started", ("pool", "label"), registry=REGISTRY
)
_READ = ("node", "gpu", "how", "label")
GPU_WATTS = Gauge("baseload_gpu_watts", "Power of a GPU board", _READ, registry=REGISTRY)
GPU_JOULES = Gauge("baseload_gpu_joules", "Of a GPU board since its node's meter started", _READ, registry=REGISTRY)
GPU_UTILIZATION = Gauge(
    "baseload_gpu_utilization", "Share of time in which a kernel ran on the board", ("node", "gpu"), registry=REGISTRY
)
GPU_MEMORY = Gauge(
    "baseload_gpu_memory_bytes", "Memory of a GPU board: used, total", ("node", "gpu", "what"), registry=REGISTRY
)
GPU_THROTTLED = Gauge(
    "baseload_gpu_throttled", "1 while the board is slowed down", ("node", "gpu", "reason"), registry=REGISTRY
)
HOST_WATTS = Gauge(
    "baseload_host_watts", "Power of a node's CPU packages and memory", ("node", "how", "label"), registry=REGISTRY
)
UTILIZATION = Gauge("baseload_pool_utilization", "Usage over allocation", ("pool",), registry=REGISTRY)
TARIFF = Gauge("baseload_usd_per_kwh", "Power price at a pool's site now", ("pool",), registry=REGISTRY)
PRICE_AGE = Gauge(
    "baseload_price_age_seconds", "Since the price was last seen at its source", ("offer",), registry=REGISTRY
)
FEED_AGE = Gauge("baseload_feed_age_seconds", "Since the feed's last good poll", ("feed",), registry=REGISTRY)
FEED_POLLS = Gauge("baseload_feed_polls", "Polls since the start, by result", ("feed", "result"), registry=REGISTRY)
PRICES_AGE = Gauge("baseload_prices_age_seconds", "Since the price board was made", registry=REGISTRY)
LEDGER_HEALTHY = Gauge("baseload_ledger_healthy", "1 while the journal takes records", registry=REGISTRY)


@lru_cache(maxsize=4096)
def source_children(
    asked: str, model: str, provider: str
) -> tuple[Histogram, Histogram, Histogram, Histogram, Histogram]:
    """Children for one source: duration, TTFT, TPOT, input tokens, output tokens."""
    labels = (asked, model, provider)
    return (
        DURATION.labels(*labels),
        TTFT.labels(*labels),
        TPOT.labels(*labels),
        TOKEN_USAGE.labels(*labels, "input"),
        TOKEN_USAGE.labels(*labels, "output"),
    )


@lru_cache(maxsize=4096)
def request_counter(tenant: str, service_class: str, source: str, status: str) -> Counter:
    """Child of REQUESTS."""
    return REQUESTS.labels(tenant, service_class, source, status)


@lru_cache(maxsize=4096)
def usd_counters(tenant: str, source: str) -> tuple[Counter, Counter]:
    """Children of USD: avoidable, amortized."""
    return USD.labels(tenant, source, "avoidable"), USD.labels(tenant, source, "amortized")


@lru_cache(maxsize=4096)
def bounce_counter(pool: str, reason: str) -> Counter:
    """Child of BOUNCES."""
    return BOUNCES.labels(pool, reason)


@lru_cache(maxsize=4096)
def attempt_counter(offer: str, status: str) -> Counter:
    """Child of ATTEMPTS."""
    return ATTEMPTS.labels(offer, status)
