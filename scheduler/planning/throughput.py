"""What a request takes of a replica that may only be as full as the latency objectives allow, by the size of the request.

Mélange (arXiv:2404.14527) measures requests per second by bucket of sizes, at the largest batch that meets the SLO; here the
service curve says it. A replica with nothing but such requests, B at a time, spends on each of them

    work = prefill + output * ITL(B) / B,        ITL(B) = a + b * B

which falls with B towards prefill + b * output (``ServiceCurve.work_s``, compute): the fullest batch is the cheapest.
"""

from __future__ import annotations

import numpy as np

from scheduler.core.supply import ServiceCurve

_ROUNDING = 1e-9  # of a sequence: a limit that is met exactly is met


def batch_at_slo(
    curve: ServiceCurve,
    input_tokens: np.ndarray,
    output_tokens: np.ndarray,
    ttft_s_max: float | np.ndarray,
    tpot_s_max: float | np.ndarray,
) -> np.ndarray:
    """Sequences of this size that may run together (whole numbers; 0: not even one), arrays broadcast to one shape.

    Limits: slots; KV cache, with answers half written on average; ITL(B) <= ``tpot_s_max`` where there is a second token; and
    the first token in ``ttft_s_max``, prefill after the step of the others that runs at its arrival, which takes ITL(B).
    """
    prompt, answer = np.asarray(input_tokens, float), np.asarray(output_tokens, float)
    tpot_s = np.where(answer >= 2.0, tpot_s_max, np.inf)
    step_s = np.minimum(tpot_s, ttft_s_max - curve.ttft_base_s - prompt / curve.prefill_tokens_per_s)
    above_s = step_s - curve.itl_base_s
    if curve.itl_per_seq_s > 0.0:
        running = np.minimum(curve.seqs_max, above_s / curve.itl_per_seq_s)
    else:
        running = np.where(above_s >= 0.0, float(curve.seqs_max), 0.0)
    if curve.kv_tokens:
        running = np.minimum(running, curve.kv_tokens / (prompt + 0.5 * answer + 1.0))
    return np.maximum(0.0, np.floor(running + _ROUNDING))


def work_s_at_slo(
    curve: ServiceCurve,
    input_tokens: np.ndarray,
    output_tokens: np.ndarray,
    ttft_s_max: float | np.ndarray,
    tpot_s_max: float | np.ndarray,
) -> np.ndarray:
    """Replica-seconds of each request in the fullest batch (``batch_at_slo``); inf where one alone misses the SLO."""
    running = batch_at_slo(curve, input_tokens, output_tokens, ttft_s_max, tpot_s_max)
    together = np.maximum(1.0, running)
    step_s = curve.itl_base_s + curve.itl_per_seq_s * together
    work_s = np.asarray(input_tokens, float) / curve.prefill_tokens_per_s + output_tokens * step_s / together
    return np.where(running >= 1.0, work_s, np.inf)
