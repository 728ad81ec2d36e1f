"""Power of boards and pools that no sensor tells: idle and thermal design power, always labelled modelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # the meter's process need not load pydantic to know a type
    from scheduler.config.supply import Pool

# A board at rest draws around a tenth of its TDP (an H100 SXM about 70 of 700 W); it is only used where nothing is measured.
_IDLE_SHARE = 0.1

# TDP or total board power in watts, from NVIDIA's data sheets of each product. By parts of NVML's names, most special first.
_TDP_WATTS = (
    (("B200",), 1000.0),
    (("H200", "NVL"), 600.0),
    (("H200",), 700.0),
    (("H100", "PCIe"), 350.0),
    (("H100", "NVL"), 400.0),
    (("H100",), 700.0),
    (("H20",), 400.0),
    (("A100", "PCIe", "40GB"), 250.0),
    (("A100", "PCIe"), 300.0),
    (("A100", "PCIE", "40GB"), 250.0),
    (("A100", "PCIE"), 300.0),
    (("A100",), 400.0),
    (("L40S",), 350.0),
    (("L40",), 300.0),
    (("L4",), 72.0),
    (("A40",), 300.0),
    (("A30",), 165.0),
    (("A10G",), 150.0),
    (("A10",), 150.0),
    (("V100", "SXM"), 300.0),
    (("V100",), 250.0),
    (("T4",), 70.0),
    (("RTX", "PRO", "6000", "Server"), 600.0),
    (("RTX", "6000", "Ada"), 300.0),
    (("RTX", "A6000"), 300.0),
    (("RTX", "5090"), 575.0),
    (("RTX", "4090"), 450.0),
    (("RTX", "3090"), 350.0),
)


class PowerProfile(NamedTuple):
    """Watts at rest and at full use of a board, or of all hardware under one replica; ``cpus`` that a replica may use."""

    idle_watts: float
    tdp_watts: float
    cpus: float = 0.0

    def watts(self, utilization: float | None) -> float:
        """Linear between the two; at rest where the utilization is unknown.

        >>> PowerProfile(70.0, 700.0).watts(0.5), PowerProfile(70.0, 700.0).watts(None)
        (385.0, 70.0)
        """
        if utilization is None:
            return self.idle_watts
        return self.idle_watts + max(0.0, self.tdp_watts - self.idle_watts) * min(1.0, max(0.0, utilization))


def of_gpu(name: str, tdp_watts: float | None = None) -> PowerProfile | None:
    """Profile of a board by NVML's name; ``tdp_watts``: the board's own default limit, which is better. None: unknown.

    >>> of_gpu("NVIDIA H100 80GB HBM3"), of_gpu("NVIDIA A100-PCIE-40GB").tdp_watts, of_gpu("another")
    (PowerProfile(idle_watts=70.0, tdp_watts=700.0, cpus=0.0), 250.0, None)
    """
    if tdp_watts is None:
        words = set(name.replace("-", " ").split())
        tdp_watts = next((watts for parts, watts in _TDP_WATTS if _named(parts, words)), None)
    return None if tdp_watts is None else PowerProfile(tdp_watts * _IDLE_SHARE, tdp_watts)


def _named(parts: tuple[str, ...], words: set[str]) -> bool:
    """Whole words, so that an L4 is no L40; SXM2 to SXM5 are SXM."""
    return all(part in words or (part == "SXM" and any(word.startswith("SXM") for word in words)) for part in parts)


def of_pool(pool: Pool) -> PowerProfile | None:
    """Profile of the hardware under one replica as cluster.yaml gives it; None where it gives no watts."""
    cpus = float(getattr(pool.engine, "cpus_per_replica", 0.0))
    if pool.hardware is not None and (pool.hardware.idle_watts or pool.hardware.tdp_watts):
        return PowerProfile(pool.hardware.idle_watts, pool.hardware.tdp_watts, cpus)
    if pool.rental is not None and pool.rental.idle_watts:
        return PowerProfile(pool.rental.idle_watts, 0.0, cpus)
    return None
