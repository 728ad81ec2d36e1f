"""The ``ServiceCurve`` of one replica, which dispatch, the simulator and cluster.yaml use, from measurements or from a fit.

Measured TPOT is ITL plus the prefill of those who come meanwhile. With R running sequences (Little's law: concurrency times
the share of time spent decoding) and n tokens of context each,

    TPOT = itl_base + R * (b + c * n) + R * input / output / prefill_rate      itl_per_seq = b + c * n
    TTFT = ttft_base + input / prefill_rate * (1 + q * R)                      q: others' prefills that came first

all coefficients not below zero, errors counted in parts of what is measured. Prompts and answers of different lengths tell
prefill from decode: a TTFT alone cannot, since most of it is waiting for others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

from scheduler.core.supply import ServiceCurve
from scheduler.simulation.curves import fit as fits
from scheduler.simulation.curves import physics
from scheduler.simulation.curves.fit import Fit
from scheduler.simulation.curves.rows import Configuration, Row

# Loads at which a fit is asked, within those that are measured for most configurations.
_CONCURRENCY = (4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
_LENGTHS = (0.5, 1.0, 2.0)
_ROUNDS = 10
# Rows whose requests wait longer than this part of their time measure a queue, not the engine.
_WAITING_SHARE_MAX = 0.2


def service_curve(
    source: Fit | Sequence[Row],
    model: str,
    gpu: str,
    gpus: int,
    precision: str,
    *,
    backend: str = "vllm",
    version: str = "",
    input_tokens: float = 1024.0,
    output_tokens: float = 512.0,
    seqs_max: int = 256,
) -> ServiceCurve:
    """Curve of one replica on ``gpus`` GPUs for requests of about this length; ``kv_tokens`` is what fits beside the weights.

    From rows: those of this engine, all versions. ValueError where there are none, or where they do not tell prefill from
    decode; also for a model, GPU or precision nothing is known about. ``seqs_max`` is the engine's own limit, not measured.
    ``version`` matters to a fit only: one with which this engine was measured, or none.
    """
    asked = Configuration(gpu, backend, model, precision, gpus, input_tokens, output_tokens, 1.0, version=version)
    room = physics.kv_tokens(model, gpu, gpus, precision)
    rows = _asked(source, asked, room) if isinstance(source, Fit) else _of_engine(source, asked)
    base_s, per_seq_s, per_context_s, per_prompt_s = _decode(rows)
    return ServiceCurve(
        prefill_tokens_per_s=1.0 / per_prompt_s,
        itl_base_s=base_s,
        itl_per_seq_s=per_seq_s + per_context_s * (input_tokens + output_tokens / 2.0),
        seqs_max=seqs_max,
        ttft_base_s=_ttft_base_s(rows, per_prompt_s),
        kv_tokens=room,
    )


def _of_engine(rows: Sequence[Row], asked: Configuration) -> list[Row]:
    """Rows of the engine asked for."""
    return [row for row in rows if row.configuration.engine == asked.engine]


def _asked(fitted: Fit, asked: Configuration, room: int) -> list[Row]:
    """What a fit predicts around the lengths asked for, as if measured, as far as the contexts fit."""
    configurations = [
        asked._replace(
            input_tokens=asked.input_tokens * prompt,
            output_tokens=asked.output_tokens * answer,
            concurrency=concurrency,
        )
        for concurrency in _CONCURRENCY
        for prompt in _LENGTHS
        for answer in _LENGTHS
    ]
    fitting = [c for c in configurations if c.concurrency * (c.input_tokens + c.output_tokens) <= max(room, 1)]
    if not fitting:
        raise ValueError(
            f"{asked.model} on {asked.gpus} {asked.gpu}: no room for four such requests beside the weights"
        )
    return [
        Row(*row) for row in zip(fitting, *(map(float, x) for x in fits.predict_many(fitted, fitting)), strict=True)
    ]


def _running(rows: Sequence[Row]) -> np.ndarray:
    """Sequences that decode at a time."""
    decode_s = np.array([row.tpot_s * row.configuration.output_tokens for row in rows])
    return (
        np.array([row.configuration.concurrency for row in rows])
        * decode_s
        / (decode_s + np.array([row.ttft_s for row in rows]))
    )


def _decode(rows: Sequence[Row]) -> tuple[float, float, float, float]:
    """Seconds: base, per running sequence, per token of its context, per token of prompt."""
    if len(rows) < 4:
        raise ValueError(f"a curve needs four rows of its engine or more, not {len(rows)}")
    loads = [row.configuration for row in rows]
    tpot_s, running = np.array([row.tpot_s for row in rows]), _running(rows)
    context = np.array([c.input_tokens + c.output_tokens / 2.0 for c in loads])
    per_answer = np.array([c.input_tokens / c.output_tokens for c in loads])
    columns = np.column_stack([np.ones(len(rows)), running, running * context, running * per_answer])
    found = _relative(columns, tpot_s)
    if found[3] <= 0.0:
        raise ValueError("these rows do not tell prefill from decode: more lengths of prompts and answers are needed")
    return float(found[0]), float(found[1]), float(found[2]), float(found[3])


def _ttft_base_s(rows: Sequence[Row], per_prompt_s: float) -> float:
    """Seconds of TTFT that neither the own prompt nor those of others explain."""
    decode_s = np.array([row.tpot_s * row.configuration.output_tokens for row in rows])
    ttft_s = np.array([row.ttft_s for row in rows])
    calm = ttft_s <= np.maximum(_WAITING_SHARE_MAX * decode_s, np.min(ttft_s))
    own_s = np.array([row.configuration.input_tokens * per_prompt_s for row in rows])
    columns = np.column_stack([np.ones(len(rows)), own_s * _running(rows)])[calm]
    beyond_s = np.maximum(ttft_s - own_s, 0.0)[calm]
    weight = 1.0 / ttft_s[calm]
    return float(nnls(columns * weight[:, None], beyond_s * weight)[0][0])


def _relative(columns: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Non-negative least squares on errors in parts of the fitted value (of the measured one, fast outliers would rule)."""
    scale = columns.max(axis=0)
    fitted = measured
    for _ in range(_ROUNDS):
        solution = nnls(columns / scale / fitted[:, None], measured / fitted)[0]
        fitted = np.maximum(columns / scale @ solution, measured / 10.0)
    return np.asarray(solution / scale)
