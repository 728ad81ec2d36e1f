"""Small units for tests of planning: requests as columns, and surfaces of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scheduler.planning.surface import Floats, Surface, load_of, surface_of

HOUR_S = 3600.0


@dataclass(frozen=True)
class Columns:
    """Requests of one unit, as ``surface_of`` reads them."""

    at_s: Floats
    work_s: Floats
    elsewhere_usd: Floats
    energy_usd: Floats
    stands_for: float = 1.0


def columns(seed: int, count: int, span_s: float, must_share: float = 0.0, stands_for: float = 1.0) -> Columns:
    """Requests all over the span; some cost less elsewhere than the energy at home, and ``must_share`` of them must stay."""
    rng = np.random.default_rng(seed)
    work_s = rng.lognormal(4.0, 1.0, count)
    elsewhere_usd = work_s / HOUR_S * rng.lognormal(0.5, 1.0, count)
    elsewhere_usd[rng.random(count) < must_share] = np.inf
    energy_usd = work_s / HOUR_S * rng.uniform(0.1, 0.6, count)
    return Columns(np.sort(rng.random(count)) * span_s, work_s, elsewhere_usd, energy_usd, stands_for)


def surface(rows: Columns, edges_s: Floats, levels: int = 17) -> Surface:
    """Their surface, with levels up to the load of the busiest bin."""
    peak = max(1e-6, float(load_of(rows, edges_s).max()))
    return surface_of(rows, edges_s, np.linspace(0.0, peak * (1.0 + 1e-9), levels))
