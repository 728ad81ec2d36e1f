"""A site, a mix and a trace put together: what is played, how many copies, and which part tunes and which judges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scheduler.config import ClusterConfig
from scheduler.core.market import Policy
from scheduler.core.supply import Offer, ServiceCurve
from scheduler.simulation.mix import AssignBy, Profile
from scheduler.simulation.price_history import PriceHistory
from scheduler.simulation.site import Site, site_of
from scheduler.simulation.traces import Trace
from scheduler.simulation.workload import Batch, Workload, copies_for, offered_work

EPOCH_S = 1_767_225_600.0  # 2026-01-01 00:00 UTC: where the clock of a trace begins
REQUESTS_MAX = 600_000
TUNING_SHARE = 0.2
# A world has events even while nothing comes: clearings, bid prices. Times in another unit would be played for days.
SPAN_S_MAX = 366 * 86_400.0
_SHIFT_S, _DAY_S = 3 * 3600.0, 86_400.0


@dataclass(frozen=True, slots=True)
class Window:
    """A part of the trace, on its clock."""

    start_s: float
    end_s: float

    @property
    def span_s(self) -> float:
        """Seconds."""
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that a run needs but the policy. ``tuning`` comes before ``judged``; the two share no request.

    ``shift_s_max``: within how many seconds the copies lie (None: the span, which levels out the hours of the day).
    """

    site: Site
    profiles: tuple[Profile, ...]
    assign_by: AssignBy | Literal["given"]
    trace: Trace
    copies: float
    load_factor: float
    seed: int
    tuning: Window
    judged: Window
    policy: Policy
    shift_s_max: float | None = None

    def __post_init__(self) -> None:
        if self.judged.end_s > SPAN_S_MAX:
            raise ValueError(
                f"{self.trace.name}: {self.judged.end_s:.4g} s are to be played, more than a year "
                "(are its times in another unit than seconds?)"
            )

    def batches(self, window: Window) -> Iterator[Batch]:
        """The requests of a part."""
        return iter(self._workload(window))

    def requests_expected(self, window: Window) -> int:
        """About how many requests a part has."""
        return round(self._workload(window).requests_expected)

    def _workload(self, window: Window) -> Workload:
        return Workload(
            self.trace, self.profiles, self.seed, self.copies, window.start_s, window.end_s, assign_by=self.assign_by,
            shift_s_max=self.shift_s_max,
        )  # fmt: skip


def scenario_of(
    config: ClusterConfig,
    profiles: tuple[Profile, ...],
    assign_by: AssignBy | Literal["given"],
    trace: Trace,
    load_factor: float,
    policy: Policy,
    seed: int = 0,
    requests_max: int = REQUESTS_MAX,
    history: PriceHistory | None = None,
) -> Scenario:
    """Copies of ``trace`` whose local work is ``load_factor`` of the pools, cut to ``requests_max`` from its beginning.

    Pools that may be empty do not count: renting more, should that pay, is no reason to play more.
    ``history``: what things cost meanwhile, for a trace that begins at ``EPOCH_S``. Raises SiteError for a site without
    prices, ValueError where no request can be served locally, where a profile can be served by nobody, or where more than
    ``SPAN_S_MAX`` is to be played.
    """
    site = site_of(config, profiles, EPOCH_S, history=history)
    offers = site.priced(EPOCH_S).offers
    homes = [local_offers(profile, offers) for profile in profiles]
    for profile, own in zip(profiles, homes, strict=True):
        if not own and not api_offers(profile, offers):
            raise ValueError(
                f"profile {profile.name!r}: no pool and no API serves such requests (its model, zones and needs together)"
            )

    def work(index: int, input_tokens: np.ndarray, output_tokens: np.ndarray) -> np.ndarray:
        if not homes[index]:
            return np.zeros(len(input_tokens))
        offer = homes[index][0]
        fits = input_tokens.astype(np.int64) + output_tokens <= offer.context_tokens  # the sum may exceed 32 bits
        return np.where(fits, sum(work_parts(offer.curve, input_tokens, output_tokens)), 0.0)

    offered = offered_work(trace, profiles, work, assign_by == "given")
    capacity = sum(site.capacity[pool.name] for pool in site.pools if pool.replicas_min)
    copies = copies_for(load_factor, capacity, offered)
    rate = copies * trace.requests / trace.span_s
    end_s = min(trace.span_s, requests_max / rate)
    split_s = TUNING_SHARE * end_s
    return Scenario(
        site,
        profiles,
        assign_by,
        trace,
        copies,
        load_factor,
        seed,
        Window(0.0, split_s),
        Window(split_s, end_s),
        policy,
    )


def shift_s_max(span_s: float) -> float | None:
    """Within how many seconds copies of a trace lie: three hours where it has days, whose hours they would level out.

    Less would lay the bursts of one client over each other, as if all clients of a large fleet burst together.
    """
    return _SHIFT_S if span_s >= _DAY_S else None


def local_offers(profile: Profile, offers: tuple[Offer, ...]) -> list[Offer]:
    """Own offers that a profile's requests may use, the one with the least work first."""
    pools = profile.pools
    found = [
        o for o in offers
        if o.kind != "api" and _admits(profile, o) and (pools is None or o.id.partition("/")[0] in pools)
    ]  # fmt: skip
    return sorted(found, key=lambda o: 1.0 / o.curve.prefill_tokens_per_s)


def api_offers(profile: Profile, offers: tuple[Offer, ...]) -> list[Offer]:
    """Providers' offers that a profile's requests may use."""
    return [o for o in offers if o.kind == "api" and _admits(profile, o)]


def _admits(profile: Profile, offer: Offer) -> bool:
    asked = profile.models is None or offer.model in profile.models
    return asked and offer.zone in profile.zones and profile.needs <= offer.abilities


def work_parts(
    curve: ServiceCurve, input_tokens: np.ndarray, output_tokens: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Replica-seconds that no schedule can save: prefill, and the slope of decoding all tokens but the first.

    The first comes with its prompt. Slots and KV cache are left out.
    """
    return input_tokens / curve.prefill_tokens_per_s, np.maximum(output_tokens - 1, 0) * curve.itl_per_seq_s


def decode_s_max(curve: ServiceCurve, output_tokens: np.ndarray, chunk_tokens: int) -> np.ndarray:
    """Seconds that decoding may take at most after the first token: every step full, and with a full chunk of prompts."""
    step_s = max(curve.itl_base_s, chunk_tokens / curve.prefill_tokens_per_s) + curve.itl_per_seq_s * curve.seqs_max
    return np.asarray(output_tokens * step_s)
