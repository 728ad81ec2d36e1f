"""The requests of a plan as columns: what each would cost at the cheapest API and on every technology that could serve it.

Fluid arithmetic needs no more than a few million rows: of a larger load a share is taken, and each row stands for more
than one request (``weight``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from scheduler.config import ClusterConfig
from scheduler.planning.preferred import by_policy
from scheduler.planning.sizes import input_tokens_max
from scheduler.planning.technologies import PlanError, Technology, expanded, homes
from scheduler.planning.throughput import work_s_at_slo
from scheduler.simulation.mix import Profile
from scheduler.simulation.regret import judged
from scheduler.simulation.scenario import EPOCH_S, Scenario, Window, local_offers
from scheduler.simulation.site import site_of

ROWS_MAX = 1_500_000
_CHUNK_ROWS = 150_000
_OBJECTIVES = ("ttft_s_max", "tpot_s_max")

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True, eq=False)
class PoolRequests:
    """Requests whose home is one pool, by ascending arrival. One row each; technologies are those of the pool, in order.

    ``at_s`` on the clock of the trace, ``elsewhere_usd`` at the cheapest API (inf: it may not leave), ``work_s`` and
    ``energy_usd`` [technology, request] in replica-seconds (inf: it cannot be served in time) and USD; ``stands_for``
    requests each. ``refused_share``: of the USD of all that fits, what the policy would rather buy (``preferred``).
    """

    pool: str
    technologies: tuple[Technology, ...]
    at_s: np.ndarray
    profile: np.ndarray
    input_tokens: np.ndarray
    output_tokens: np.ndarray
    elsewhere_usd: np.ndarray
    work_s: np.ndarray
    energy_usd: np.ndarray
    stands_for: float
    refused_share: float = 0.0

    def __len__(self) -> int:
        return len(self.at_s)


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """All requests of a window: those with a home by pool, and the cost of those that only an API can serve.

    ``homeless`` and ``stranded`` count requests: those without a home, and those of them that no API may serve either.
    ``homeless_at_s`` and ``homeless_usd`` are rows, each of which stands for ``stands_for`` requests that are bought.
    """

    window: Window
    pools: tuple[PoolRequests, ...]
    stands_for: float
    count: float
    input_tokens_mean: float
    output_tokens_mean: float
    homeless_usd_per_hour: float
    homeless: float
    stranded: float
    homeless_at_s: np.ndarray
    homeless_usd: np.ndarray

    @property
    def hours(self) -> float:
        """Length of the window."""
        return self.window.span_s / 3600.0


def homes_of(
    config: ClusterConfig, profiles: Sequence[Profile], technologies: Sequence[Technology]
) -> tuple[Profile, ...]:
    """The profiles, each bound to the technologies of its home: that of the pool which serves it with the least work."""
    offers, family = site_of(config, tuple(profiles), EPOCH_S).priced(EPOCH_S).offers, homes(config)
    bound = []
    for profile in profiles:
        own = local_offers(profile, offers)
        home = family[own[0].id.partition("/")[0]] if own else ""
        bound.append(replace(profile, pools=frozenset(t.name for t in technologies if t.pool == home)))
    return tuple(bound)


def requests_of(
    scenario: Scenario,
    config: ClusterConfig,
    technologies: Sequence[Technology],
    window: Window,
    progress: Progress = lambda share: None,
    rows_max: int = ROWS_MAX,
) -> Requests:
    """Every request of ``window`` (or a share of them, if there are more than ``rows_max``), priced.

    Raises PlanError where the window is empty or nothing in it could be served at home.
    """
    expected = scenario.requests_expected(window)
    if expected < 1:
        raise PlanError(
            f"no request between {window.start_s:.0f} s and {window.end_s:.0f} s: there is nothing to plan for"
        )
    stands_for = max(1.0, expected / rows_max)
    profiles = homes_of(config, scenario.profiles, technologies)
    whole = replace(
        scenario,
        site=site_of(expanded(config), profiles, EPOCH_S),
        profiles=profiles,
        copies=scenario.copies / stands_for,
    )
    chunks = max(1, round(expected / stands_for / _CHUNK_ROWS))
    edges = np.linspace(window.start_s, window.end_s, chunks + 1)
    parts = []
    for first, last in pairwise(edges):
        part = _chunk(whole, technologies, Window(float(first), float(last)))
        parts += [part] if part is not None else []
        progress((last - window.start_s) / window.span_s)
    if not parts:
        raise PlanError("no request of the trace falls into the planned part")
    return _gathered(parts, whole, technologies, window, stands_for)


@dataclass(slots=True)
class _Chunk:
    """Columns of one chunk; [technology, request] for the last three."""

    at_s: np.ndarray
    profile: np.ndarray
    input_tokens: np.ndarray
    output_tokens: np.ndarray
    elsewhere_usd: np.ndarray
    fits: np.ndarray
    at_home: np.ndarray
    energy_usd: np.ndarray


def _chunk(whole: Scenario, technologies: Sequence[Technology], window: Window) -> _Chunk | None:
    batches = list(whole.batches(window))
    if not batches:
        return None
    priced = judged(replace(whole, judged=window))
    of = priced.requests
    inputs, outputs = (
        np.concatenate([getattr(batch, name) for batch in batches]) for name in ("input_tokens", "output_tokens")
    )
    difficulty = np.concatenate([batch.difficulty for batch in batches])
    offers = whole.site.priced(EPOCH_S + window.start_s).offers
    names = [technology.name for technology in technologies]
    elsewhere, at_home = by_policy(
        whole.profiles, offers, names, priced.profile, (inputs, outputs), difficulty, of.usd_elsewhere, of.energy_usd
    )
    # In the order of the technologies, which is that of the pools of the expanded site.
    longest = np.array([[input_tokens_max(t, profile) for t in technologies] for profile in whole.profiles])
    in_time = inputs[:, None] <= longest[priced.profile]
    return _Chunk(
        of.arrival_s, priced.profile, inputs, outputs, elsewhere.astype(np.float32),
        (of.eligible & in_time).T, at_home.T, of.energy_usd.T.astype(np.float32),
    )  # fmt: skip


def _gathered(
    parts: Sequence[_Chunk], whole: Scenario, technologies: Sequence[Technology], window: Window, stands_for: float
) -> Requests:
    at_s, profile, inputs, outputs, elsewhere = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("at_s", "profile", "input_tokens", "output_tokens", "elsewhere_usd")
    )
    fits, at_home, energy = (
        np.concatenate([getattr(part, name) for part in parts], axis=1) for name in ("fits", "at_home", "energy_usd")
    )
    eligible = fits & at_home
    pools, homeless = [], np.ones(len(at_s), bool)
    for name in dict.fromkeys(technology.pool for technology in technologies):
        columns = np.array([i for i, technology in enumerate(technologies) if technology.pool == name])
        own = [technologies[i] for i in columns]
        bound = {i for i, p in enumerate(whole.profiles) if p.pools and own[0].name in p.pools}
        mine = np.isin(profile, list(bound)) & fits[columns].any(axis=0)
        rows = np.flatnonzero(mine & eligible[columns].any(axis=0))
        usd = [float(elsewhere[of][np.isfinite(elsewhere[of])].sum(dtype=float)) for of in (rows, mine)]
        homeless[rows] = False
        classes = [p.service_class for p in whole.profiles]
        ttft_s, tpot_s = (np.array([getattr(of, name) for of in classes])[profile[rows]] for name in _OBJECTIVES)
        work = np.array([_work_s(t, inputs[rows], outputs[rows], ttft_s, tpot_s) for t in own])
        work = work.reshape(len(own), len(rows))
        work[~eligible[np.ix_(columns, rows)]] = np.inf
        pools.append(
            PoolRequests(
                name, tuple(own), at_s[rows], profile[rows], inputs[rows], outputs[rows], elsewhere[rows], work,
                energy[np.ix_(columns, rows)], stands_for, 1.0 - usd[0] / usd[1] if usd[1] else 0.0,
            )
        )  # fmt: skip
    hours = window.span_s / 3600.0
    stranded = homeless & ~np.isfinite(elsewhere)
    bought = np.flatnonzero(homeless & ~stranded)
    usd_per_hour = float(elsewhere[bought].sum(dtype=float)) * stands_for / hours
    if not any(len(pool) for pool in pools):
        raise PlanError("no request of the trace can be served by any pool in time: there is nothing to plan")
    return Requests(
        window, tuple(pools), stands_for, len(at_s) * stands_for, float(inputs.mean()), float(outputs.mean()),
        usd_per_hour, float(homeless.sum()) * stands_for, float(stranded.sum()) * stands_for, at_s[bought],
        elsewhere[bought],
    )  # fmt: skip


def _work_s(
    technology: Technology, inputs: np.ndarray, outputs: np.ndarray, ttft_s_max: np.ndarray, tpot_s_max: np.ndarray
) -> np.ndarray:
    """Replica-seconds of each request where everything is busy: compute, or slots and cache if those bind over all.

    As ``ServiceCurve.work_s``: which of the two is scarce is a matter of everybody's lengths. Where tokens have an objective
    of their own (TPOT), a batch is only as full as it allows.
    """
    curve = technology.curve
    prefill_s = inputs / curve.prefill_tokens_per_s
    running = np.full(len(inputs), float(curve.seqs_max))
    if curve.kv_tokens:
        running = np.clip(curve.kv_tokens / (inputs + 0.5 * outputs + 1.0), 1.0, running)
    compute_s = prefill_s + outputs * curve.itl_per_seq_s
    held_s = (prefill_s + outputs * (curve.itl_base_s + curve.itl_per_seq_s * running)) / running
    work_s = held_s if held_s.sum() > compute_s.sum() else compute_s
    paced = np.isfinite(tpot_s_max)
    if paced.any():
        slower_s = work_s_at_slo(curve, inputs[paced], outputs[paced], ttft_s_max[paced], tpot_s_max[paced])
        work_s[paced] = np.maximum(work_s[paced], slower_s)
    return work_s
