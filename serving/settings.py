"""cluster.yaml's policy as the core's type."""

from __future__ import annotations

from scheduler.config import ClusterConfig
from scheduler.core.market import Policy


def ttft_limits(config: ClusterConfig) -> tuple[float, ...]:
    """Every TTFT objective of the site, ascending: the levels of a gate."""
    return tuple(sorted({spec.ttft_s_max for spec in config.service_classes}))


def core_policy(config: ClusterConfig) -> Policy:
    """The settings that the pure functions read."""
    policy = config.policy
    return Policy(
        attempts_max=policy.attempts_max,
        local_floor=policy.local_floor,
        bid_prefilter=policy.bid_prefilter,
        ttft_margin=policy.ttft_margin,
        grant_ahead_s=policy.grant_ahead_s,
        breaker_base_s=policy.breaker_base_s,
        breaker_max_s=policy.breaker_max_s,
        lease_ttl_s=policy.lease_ttl_s,
    )
