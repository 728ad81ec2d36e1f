"""What is published about models and boards: the physics of a service curve begins with these numbers.

Models: the configuration and model card of each on Hugging Face (parameters, layers, heads, experts). Boards: NVIDIA data
sheets of A100, H100, H200, B200, B300 (dense arithmetic, without sparsity). Bytes, bytes per second, operations per second.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple


class Architecture(NamedTuple):
    """A decoder. ``kv_layers`` keep keys and values of the whole context (sliding-window and linear layers do not).

    ``kv_values``: numbers kept per token and such layer. ``kv_shards``: over how many GPUs tensor parallelism can split
    them (KV heads; 1 for latent attention). ``attention_width``: multiply-adds per head, query and key, scores and values.
    ``experts`` and ``experts_used`` are 1 for dense models.
    """

    parameters: float
    active: float
    layers: int
    kv_layers: int
    heads: int
    kv_values: int
    kv_shards: int
    attention_width: int
    experts: int = 1
    experts_used: int = 1

    @property
    def expert_parameters(self) -> float:
        """Parameters in routed experts: what a token does not use is the rest of them."""
        if self.experts == 1:
            return 0.0
        return (self.parameters - self.active) / (1.0 - self.experts_used / self.experts)


_LATENT = 512 + 64  # compressed KV and the rotary part (DeepSeek-V3 technical report, section 2.1)

ARCHITECTURES = {
    "Llama-3.1-8B": Architecture(8.03e9, 8.03e9, 32, 32, 32, 2 * 8 * 128, 8, 2 * 128),
    "Llama-3.1-70B": Architecture(70.55e9, 70.55e9, 80, 80, 64, 2 * 8 * 128, 8, 2 * 128),
    "Qwen3-32B": Architecture(32.76e9, 32.76e9, 64, 64, 64, 2 * 8 * 128, 8, 2 * 128),
    "Qwen3-235B-A22B": Architecture(235.1e9, 22.2e9, 94, 94, 64, 2 * 4 * 128, 4, 2 * 128, 128, 8),
    "gpt-oss-120b": Architecture(116.8e9, 5.13e9, 36, 18, 64, 2 * 8 * 64, 8, 2 * 64, 128, 4),
    "DeepSeek-V3": Architecture(671e9, 37e9, 61, 61, 128, _LATENT, 1, 192 + 128, 256, 8),
    "Kimi-K2": Architecture(1040e9, 32.6e9, 61, 61, 64, _LATENT, 1, 192 + 128, 384, 8),
    "GLM-5": Architecture(744e9, 40e9, 78, 78, 64, _LATENT, 1, 192 + 128, 256, 8),
    "Qwen3.5-397B-A17B": Architecture(397e9, 17e9, 60, 15, 32, 2 * 2 * 256, 2, 2 * 256, 512, 10),
    "MiniMax-M2": Architecture(229e9, 10e9, 62, 62, 48, 2 * 8 * 128, 8, 2 * 128, 256, 8),
}
# The same decoder under another name.
_ALIASES = {"DeepSeek-R1": "DeepSeek-V3"}


class Board(NamedTuple):
    """One GPU: memory as the driver reports it, memory bandwidth, operations per second at each width of operands."""

    memory_bytes: float
    bytes_per_s: float
    ops_bf16: float
    ops_fp8: float
    ops_fp4: float


BOARDS = {
    "h100": Board(85.5e9, 3.35e12, 0.989e15, 1.979e15, 0.989e15),  # four-bit weights are computed with in bf16
    "h200": Board(150e9, 4.8e12, 0.989e15, 1.979e15, 0.989e15),
    "b200": Board(192e9, 7.7e12, 2.25e15, 4.5e15, 9e15),
    "gb200": Board(192e9, 8e12, 2.5e15, 5e15, 10e15),
    "b300": Board(288e9, 8e12, 2.25e15, 4.5e15, 13.5e15),
    "gb300": Board(288e9, 8e12, 2.5e15, 5e15, 15e15),
    "a100": Board(85.9e9, 2.04e12, 0.312e15, 0.312e15, 0.312e15),  # 80 GB; no arithmetic narrower than bf16
}
# Four-bit formats carry a scale for each block of 16 or 32 weights.
WEIGHT_BYTES = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.56, "int4": 0.53}


def family(model: str) -> str:
    """The name in ``ARCHITECTURES`` that ``model`` (a path, a fine-tune, a quantised copy) belongs to, or its own name.

    >>> family("nvidia/Llama-3.1-8B-Instruct-FP8"), family("deepseek-ai/DeepSeek-R1"), family("acme/Foo-13B")
    ('Llama-3.1-8B', 'DeepSeek-V3', 'foo-13b')
    """
    name = model.rpartition("/")[2].lower()
    known = {**{key: key for key in ARCHITECTURES}, **_ALIASES}
    found = [key for key in known if name.startswith(key.lower())]
    return known[max(found, key=len)] if found else name


def architecture(model: str) -> Architecture:
    """Facts of ``model``; of an unknown one a guess from the sizes in its name (``7B``, ``120B-A12B``), scaled from the
    known model that is nearest in size. ValueError where the name says no size."""
    name = family(model)
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    total, active = (re.search(pattern, name) for pattern in (r"(?<![a-z\d.])([\d.]+)b(?![a-z])", r"-a([\d.]+)b"))
    if total is None:
        raise ValueError(f"{model}: unknown model; known are {', '.join(ARCHITECTURES)}, or a name with its size (7B)")
    parameters = float(total[1]) * 1e9
    used = float(active[1]) * 1e9 if active else parameters
    alike = [a for a in ARCHITECTURES.values() if (a.experts > 1) == (active is not None)]
    near = min(alike, key=lambda a: abs(math.log(a.parameters / parameters)))
    return near._replace(parameters=parameters, active=used)


def board_name(gpu: str) -> str:
    """The name in ``BOARDS`` of a GPU called something like ``h100_sxm`` or ``NVIDIA H100 80GB HBM3``; ValueError if none.

    >>> board_name("h100_sxm"), board_name("NVIDIA H200"), board_name("gb200")
    ('h100', 'h200', 'gb200')
    """
    for word in re.findall(r"[a-z]+\d+", gpu.lower()):
        if word in BOARDS:
            return str(word)
    raise ValueError(f"{gpu}: unknown GPU; known are {', '.join(BOARDS)}")


def board(gpu: str) -> Board:
    """Facts of a GPU by any of its names; ValueError for one unknown."""
    return BOARDS[board_name(gpu)]
