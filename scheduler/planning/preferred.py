"""Where the policy would have a request by what an answer there is likely to be worth, not by USD alone.

Bills stay USD. But a pool whose answers are too often wrong for a request does not get it, however idle it is, and the API
that stands for "elsewhere" is the one that the policy would take (terms: cash and ``usd_per_wrong_answer * (1 - quality)``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scheduler.core.supply import Offer, Quality
from scheduler.simulation.mix import Profile
from scheduler.simulation.regret import usd_of
from scheduler.simulation.scenario import api_offers, local_offers


def by_policy(
    profiles: Sequence[Profile], offers: tuple[Offer, ...], pools: Sequence[str], profile: np.ndarray,
    tokens: tuple[np.ndarray, np.ndarray], difficulty: np.ndarray, elsewhere_usd: np.ndarray, energy_usd: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """USD elsewhere [request] as the policy would buy it, and whether it would rather serve it at home [request, pool].

    ``tokens``: read and written, ``energy_usd`` [request, pool], ``elsewhere_usd`` at the cheapest API (inf: none). Profiles
    to whom a wrong answer costs nothing, or to whom all sources are alike, keep what they have.
    """
    bought, at_home = elsewhere_usd.copy(), np.ones(energy_usd.shape, bool)
    for index, of in enumerate(profiles):
        own, apis = local_offers(of, offers), api_offers(of, offers)
        wrong_usd = of.service_class.usd_per_wrong_answer
        rows = np.flatnonzero((profile == index) & np.isfinite(elsewhere_usd))
        if (
            not own
            or not apis
            or not wrong_usd
            or len({offer.quality for offer in (*own, *apis)}) == 1
            or not len(rows)
        ):
            continue
        hard = difficulty[rows].astype(float)
        inputs, outputs = (column[rows].astype(float) for column in tokens)
        usd = np.array([usd_of(offer, inputs, outputs) for offer in apis])
        usd[np.array([inputs + 1 > offer.context_tokens for offer in apis])] = np.inf
        worth = usd + wrong_usd * np.array([1.0 - _at(offer.quality, hard) for offer in apis])
        best = np.argmin(worth, axis=0)
        each = np.arange(len(rows))
        bought[rows] = usd[best, each]
        for offer in own:
            pool = list(pools).index(offer.id.partition("/")[0])
            here = energy_usd[rows, pool] + wrong_usd * (1.0 - _at(offer.quality, hard))
            at_home[rows, pool] = here <= worth[best, each]
    return bought, at_home


def _at(quality: Quality, difficulty: np.ndarray) -> np.ndarray:
    """``Quality.at`` for arrays."""
    return np.interp(difficulty, (0.0, 0.5, 1.0), (quality.low, quality.medium, quality.high))
