"""Sizes of requests: the buckets by which they are placed, and what a replica can take at all."""

from __future__ import annotations

import numpy as np

from scheduler.planning.technologies import Technology
from scheduler.simulation.mix import Profile

# Upper bounds of the size buckets, in input tokens: short questions, documents, books. The answer's length is not yet known
# where a request has to be placed.
BUCKET_TOKENS = (1024, 8192)
BUCKETS = len(BUCKET_TOKENS) + 1
TTFT_SHARE_MAX = 0.95  # of the objective: a prompt that alone takes longer does not keep it


def bucket_of(input_tokens: np.ndarray) -> np.ndarray:
    """Number of the size bucket of each request."""
    return np.searchsorted(BUCKET_TOKENS, input_tokens, side="right").astype(np.int16)


def input_tokens_max(technology: Technology, profile: Profile) -> float:
    """The longest prompt that a replica takes: with one token more its context is full, or its first token is late."""
    in_time_s = TTFT_SHARE_MAX * profile.service_class.ttft_s_max - technology.curve.ttft_base_s
    return min(technology.context_tokens - 1.0, in_time_s * technology.curve.prefill_tokens_per_s)
