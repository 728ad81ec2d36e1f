"""One name for one GPU, whichever feed speaks of it."""

from __future__ import annotations

# Sold with more than one size of memory under one name.
_SEVERAL_SIZES = ("A100", "V100")


def gpu_name(name: str, memory_gb: float | None) -> str:
    """The usual short name, with the memory (GB as printed on the box) where the name alone says too little.

    >>> gpu_name("A100", 80), gpu_name("A100", 39.6), gpu_name("H100", 80), gpu_name("A100", None)
    ('A100-80GB', 'A100-40GB', 'H100', 'A100')
    """
    return f"{name}-{round(memory_gb)}GB" if memory_gb and name in _SEVERAL_SIZES else name
