"""What a closed loop of requests costs on an engine with continuous batching, from first principles. Pure numpy.

R sequences decode together. A step reads the weights it needs (of a mixture of experts those that R tokens reach) and R
contexts of keys and values, and pays a fixed time per layer; arithmetic rarely binds. Each sequence that ends brings a new
prompt, whose prefill all others wait for:

    step(R) = weights / bandwidth + layers * overhead + R * context * kv / bandwidth + R * per_sequence
    TPOT    = step(R) + R / output_tokens * prefill(input_tokens)
    TTFT    = base + c * step + prefill * (1 + q * R) + (B / R - 1) * time of a whole request
    R       = B * decode time / (decode time + TTFT), at most what fits into the memory left for keys and values

The last part of TTFT is the queue where fewer than B fit. The constants (``PRIOR``: name to value) are few and global or one
per backend; ``fit`` finds them. Sources: Yu et al., Orca (OSDI 2022); Kwon et al., vLLM (SOSP 2023); Agrawal et al.,
Sarathi-Serve (OSDI 2024) for prefill among decodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from scheduler.simulation.curves import facts
from scheduler.simulation.curves.rows import Configuration

BACKENDS = ("vllm", "trtllm", "sglang")
# Factors on ideal times; microseconds per layer; milliseconds. The prior mean of each, in the logarithm.
_GLOBAL = {"weights": 1.3, "kv": 1.3, "communication_us": 20.0, "step_wait": 2.0, "memory": 1.0, "interference": 1.0}
_PER_BACKEND = {
    "layer_us": 100.0,
    "utilization": 0.5,
    "prefill_ms": 5.0,
    "queue": 0.1,
    "base_ms": 20.0,
    "sequence_us": 0.17,
}
PRIOR = _GLOBAL | {f"{name}/{backend}": value for name, value in _PER_BACKEND.items() for backend in BACKENDS}

MEMORY_SHARE = 0.9  # vLLM's gpu_memory_utilization
WORKSPACE_BYTES = 4e9  # activations, graphs and libraries on one GPU
_ROUNDS = 12


class Table(NamedTuple):
    """Configurations as columns, one entry each."""

    concurrency: np.ndarray
    input_tokens: np.ndarray
    output_tokens: np.ndarray
    gpus: np.ndarray
    replicas: np.ndarray
    layers: np.ndarray
    dense_bytes: np.ndarray
    expert_bytes: np.ndarray
    expert_idle: np.ndarray  # share of the experts that one token leaves alone
    kv_bytes: np.ndarray  # of one token of context, all layers
    kv_gpus: np.ndarray  # over how many of the GPUs one context is split, times the attention replicas
    kv_room: np.ndarray  # tokens of context that fit
    token_s: np.ndarray  # arithmetic of one token, without attention, at full utilization
    attention_s: np.ndarray  # arithmetic of attention over the prompt
    bytes_per_s: np.ndarray  # of all GPUs
    backend: np.ndarray  # index in BACKENDS; len(BACKENDS) for another


class State(NamedTuple):
    """What the physics says of each configuration; ``waiting_s`` is the part of ``ttft_s`` spent in a full queue."""

    ttft_s: np.ndarray
    tpot_s: np.ndarray
    step_s: np.ndarray
    prefill_s: np.ndarray
    waiting_s: np.ndarray
    running: np.ndarray


def kv_bytes_per_token(model: str, width_bytes: float = 2.0) -> float:
    """Bytes of keys and values of one token of context, all layers; vLLM keeps two bytes each unless told otherwise."""
    a = facts.architecture(model)
    return a.kv_layers * a.kv_values * width_bytes


def kv_tokens(model: str, gpu: str, gpus: int, precision: str, replicas: int = 1) -> int:
    """Tokens of context that fit beside the weights: 90 % of memory less 4 GB of workspace per GPU. At least 0."""
    a, b = facts.architecture(model), facts.board(gpu)
    dense = (a.parameters - a.expert_parameters) * replicas
    weights = (dense + a.expert_parameters) * facts.WEIGHT_BYTES[precision]
    room = gpus * (MEMORY_SHARE * b.memory_bytes - WORKSPACE_BYTES) - weights
    shards = replicas * min(max(1, gpus // replicas), a.kv_shards)
    return max(0, int(room * shards / gpus / kv_bytes_per_token(model)))


def table(configurations: Sequence[Configuration]) -> Table:
    """Facts of each configuration; ValueError for a model, GPU or precision that is not known."""
    return Table(*(np.array(column, float) for column in zip(*map(_record, configurations), strict=True)))


def _record(c: Configuration) -> tuple[float, ...]:
    a, b = facts.architecture(c.model), facts.board(c.gpu)
    if c.precision not in facts.WEIGHT_BYTES:
        raise ValueError(f"{c.precision}: unknown precision; known are {', '.join(facts.WEIGHT_BYTES)}")
    width, experts = facts.WEIGHT_BYTES[c.precision], a.expert_parameters
    ops = {"fp8": b.ops_fp8, "fp4": b.ops_fp4}.get(c.precision, b.ops_bf16) * c.gpus
    pairs = c.input_tokens**2 / 2.0 * a.kv_layers * a.heads
    return (
        c.concurrency,
        c.input_tokens,
        c.output_tokens,
        c.gpus,
        c.attention_replicas,
        a.layers,
        # Each attention replica has weights of its own; most of what is not in experts belongs to attention.
        (a.parameters - experts) * width * c.attention_replicas,
        experts * width,
        1.0 - a.experts_used / a.experts if a.experts > 1 else 0.0,
        kv_bytes_per_token(c.model),
        c.attention_replicas * min(max(1, c.gpus // c.attention_replicas), a.kv_shards),
        # A model that does not seem to fit was served all the same: leave it a little.
        max(kv_tokens(c.model, c.gpu, c.gpus, c.precision, c.attention_replicas), 20_000),
        2.0 * a.active / ops,
        2.0 * pairs * a.attention_width / (c.gpus * min(ops / c.gpus, b.ops_bf16)),
        c.gpus * b.bytes_per_s,
        BACKENDS.index(c.backend) if c.backend in BACKENDS else len(BACKENDS),
    )


def simulate(constants: Mapping[str, float], t: Table) -> State:
    """TTFT and TPOT of every configuration: the fixed point of R and the times that follow from it."""

    def of_backend(name: str) -> np.ndarray:
        values = [constants[f"{name}/{backend}"] for backend in BACKENDS]
        return np.array([*values, np.exp(np.mean(np.log(values)))])[t.backend.astype(int)]

    utilization, queue = of_backend("utilization"), of_backend("queue")
    overhead_s = t.layers * (of_backend("layer_us") + constants["communication_us"] * (t.gpus > 1)) / 1e6
    prefill_s = (t.token_s * t.input_tokens + t.attention_s) / utilization + of_backend("prefill_ms") / 1e3
    context = t.input_tokens + t.output_tokens / 2.0
    context_s = constants["kv"] * context * t.kv_bytes * t.gpus / t.kv_gpus / t.bytes_per_s
    per_sequence_s = context_s + of_backend("sequence_us") * t.layers / 1e6 + t.token_s / utilization
    fits = np.maximum(1.0, constants["memory"] * t.kv_room / context)
    running = np.minimum(t.concurrency, fits)
    for _ in range(_ROUNDS):
        reached = 1.0 - t.expert_idle ** np.maximum(running, 1.0)
        weights_s = constants["weights"] * (t.dense_bytes + t.expert_bytes * reached) / t.bytes_per_s
        step_s = weights_s + overhead_s + running * per_sequence_s
        tpot_s = step_s + running / t.output_tokens * prefill_s * constants["interference"]
        first_s = of_backend("base_ms") / 1e3 + constants["step_wait"] * step_s + prefill_s * (1.0 + queue * running)
        decode_s = t.output_tokens * tpot_s
        wanted = t.concurrency * decode_s / (decode_s + first_s)
        running = 0.5 * (running + np.minimum(wanted, fits))
    waiting_s = np.maximum(wanted / fits - 1.0, 0.0) * (decode_s + prefill_s)
    return State(first_s + waiting_s, tpot_s, step_s, prefill_s, waiting_s, running)
