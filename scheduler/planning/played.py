"""Plans played by the real policy: windows of the trace through the compiled kernel, or the exact engine.

Each window begins with empty engines and without prices; its first minutes are played but not counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from scheduler.config import ClusterConfig
from scheduler.core.supply import Rate
from scheduler.planning.technologies import Technology, expanded
from scheduler.planning.units import Placement, Relabelled
from scheduler.simulation.kernel import KernelRun, KernelSettings, KernelTally
from scheduler.simulation.mix import Profile
from scheduler.simulation.policies import rule
from scheduler.simulation.scenario import EPOCH_S, Scenario, Window
from scheduler.simulation.site import Site, site_of
from scheduler.simulation.tally import Tally
from scheduler.simulation.tuning import play
from scheduler.simulation.workload import Batch
from scheduler.simulation.world import Settings

SHIPPED = "bid-price"
WARM_S = 300.0
_WARM_SHARE_MAX = 0.25
_COUNTED_S_MIN = 300.0
# However few requests there are: prices are solved for every minute that is played.
_WINDOW_S_MAX, WINDOWS_MAX = 1800.0, 16
BID_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Windows of a trace, of which the first ``warm_s`` are not counted. ``shares``: of all time, that each stands for."""

    windows: tuple[Window, ...]
    shares: tuple[float, ...]
    warm_s: float

    @property
    def hours(self) -> float:
        """Hours that count."""
        return sum(window.span_s - self.warm_s for window in self.windows) / 3600.0


@dataclass(frozen=True, slots=True)
class Played:
    """What came of it, per hour that counts. ``api_usd_per_hour`` and ``energy_usd_per_hour`` are by unit ('': no home).

    ``bought_mtok_per_hour``: millions of tokens of requests that an API served.
    """

    hours: float
    requests: int
    api_usd_per_hour: Mapping[str, float]
    energy_usd_per_hour: Mapping[str, float]
    burst_share: float
    slo_attainment: float
    bought_mtok_per_hour: float = 0.0

    @property
    def usd_per_hour(self) -> float:
        """API and energy."""
        return sum(self.api_usd_per_hour.values()) + sum(self.energy_usd_per_hour.values())


def sample_of(
    scenario: Scenario, window: Window, load: np.ndarray, edges_s: np.ndarray, requests_max: int,
    windows_max: int = WINDOWS_MAX, pieces: int = 1,
) -> Sample:  # fmt: skip
    """The whole of ``window`` where it has few enough requests, else stretches over the range of its load.

    ``load`` [bin] between ``edges_s``. Stretches stand for parts of the load-duration curve, thinner ones where the load is
    high, since that is where replicas run short. The whole is played in as many ``pieces`` at most, one after the other.
    """
    span_s = min(window.span_s * requests_max / max(1, scenario.requests_expected(window)), windows_max * _WINDOW_S_MAX)
    if span_s >= window.span_s:
        pieces = max(1, min(pieces, int(window.span_s / (_COUNTED_S_MIN + WARM_S))))
        edges = np.linspace(window.start_s, window.end_s, pieces + 1).tolist()
        whole = tuple(Window(begin_s, end_s) for begin_s, end_s in pairwise(edges))
        return Sample(whole, (1.0 / pieces,) * pieces, min(WARM_S, _WARM_SHARE_MAX * window.span_s / pieces))
    count = max(1, min(windows_max, int(span_s / (_COUNTED_S_MIN + WARM_S))))
    length_s = span_s / count
    warm_s = min(WARM_S, _WARM_SHARE_MAX * length_s)
    bounds = 1.0 - (1.0 - np.arange(count + 1) / count) ** 2
    middles = 0.5 * (bounds[:-1] + bounds[1:])
    starts = _spread(load, edges_s, middles, window, length_s - warm_s)
    begins = [max(window.start_s, start_s - warm_s) for start_s in starts]
    return Sample(
        tuple(Window(begin_s, begin_s + length_s) for begin_s in begins), tuple(map(float, np.diff(bounds))), warm_s
    )


def _spread(
    load: np.ndarray, edges_s: np.ndarray, quantiles: np.ndarray, window: Window, length_s: float
) -> list[float]:
    """Starts of stretches of ``length_s`` whose mean loads are at these quantiles of all such means."""
    cumulated = np.concatenate([[0.0], np.cumsum(load * np.diff(edges_s))])
    starts = np.arange(window.start_s, window.end_s - length_s, max(length_s / 4.0, 1.0))
    if not len(starts):
        return [window.start_s] * len(quantiles)
    mean = (np.interp(starts + length_s, edges_s, cumulated) - np.interp(starts, edges_s, cumulated)) / length_s
    order = np.argsort(mean, kind="stable")
    return [float(starts[order[int(q * len(order))]]) for q in quantiles]


class Stage:
    """A scenario with every technology in it, to be played with any number of replicas of each.

    ``profiles``: bound to their homes (``requests.homes_of``).
    """

    def __init__(
        self, scenario: Scenario, config: ClusterConfig, profiles: Sequence[Profile],
        technologies: Sequence[Technology], placements: Mapping[str, Placement],
    ) -> None:  # fmt: skip
        self._labels = Relabelled(profiles, technologies, placements)
        self._site = site_of(expanded(config), tuple(self._labels.profiles), EPOCH_S)
        self._scenario = scenario
        self._made: dict[Window, list[Batch]] = {}

    def site(self, replicas: Mapping[str, int]) -> Site:
        """The site with so many replicas; technologies without any are not there."""
        pools = tuple(
            replace(pool, replicas_min=replicas[pool.name], replicas_max=replicas[pool.name])
            for pool in self._site.pools
            if replicas.get(pool.name, 0) > 0
        )
        kept = tuple(pool for pool in self._site.config.pools if replicas.get(pool.name, 0) > 0)
        return replace(self._site, config=self._site.config.model_copy(update={"pools": kept}), pools=pools)

    def kernel(
        self, replicas: Mapping[str, int], sample: Sample, settings: KernelSettings,
        rented: Sequence[Mapping[str, int]] = (),
    ) -> Played:  # fmt: skip
        """The shipped policy with ``replicas`` in the compiled kernel, over every window of ``sample``.

        ``rented``: by window, replicas on top of them. Prices are those of a window's beginning.
        """
        sums = _Sums(self._labels.unit_of)
        more = rented or [dict[str, int]()] * len(sample.windows)
        for window, share, extra in zip(sample.windows, sample.shares, more, strict=True):
            site = self.site({name: replicas.get(name, 0) + extra.get(name, 0) for name in {*replicas, *extra}})
            offers = site.priced(EPOCH_S + window.start_s).offers
            run = KernelRun(
                site, self._labels.profiles, SHIPPED if site.pools else "all-api", math.nan, self._scenario.policy,
                settings, from_s=window.start_s, offers=offers,
            )  # fmt: skip
            batches = self._batches(window)
            for batch in batches:
                run.feed(batch)
            tally = run.finish()
            rates = {offer.id.partition("/")[0]: offer.rate for offer in offers if offer.kind != "api"}
            sums.add(batches, tally, Window(window.start_s + sample.warm_s, window.end_s), share, rates)
        return sums.played(sample.hours)

    def _batches(self, window: Window) -> list[Batch]:
        """Requests of a window; a stage plays the same ones again and again."""
        if window not in self._made:
            self._made[window] = [self._labels.batch(batch) for batch in self._scenario.batches(window)]
        return self._made[window]

    def exact(self, replicas: Mapping[str, int], sample: Sample, settings: Settings) -> Tally:
        """The same in the engine that calls the live functions, one window after the other; nothing is left out."""
        scenario = replace(self._scenario, site=self.site(replicas), profiles=tuple(self._labels.profiles))
        window = sample.windows[0]
        return play(scenario, rule(SHIPPED), settings, window, self._batches(window))


_FREE = Rate(0.0, 0.0, 0.0)


class _Sums:
    """Money and counts of several windows, by unit."""

    def __init__(self, unit_of: Sequence[str]) -> None:
        self._units = list(dict.fromkeys(unit_of))
        self._unit_of = np.array([self._units.index(name) for name in unit_of])
        self._api, self._energy = np.zeros(len(self._units)), np.zeros(len(self._units))
        self._requests, self._per_hour, self._local, self._in_time, self._mtok = 0, 0.0, 0.0, 0.0, 0.0

    def add(
        self, batches: Sequence[Batch], tally: KernelTally, counted: Window, share: float, rates: Mapping[str, Rate]
    ) -> None:
        """One window that stands for ``share`` of the time; requests outside ``counted`` do not count. ``rates``: by unit.

        But for the objectives, which the kernel sums over all.
        """
        at_s, profile, inputs, outputs = (
            np.concatenate([getattr(batch, name) for batch in batches])
            for name in ("arrival_s", "profile", "input_tokens", "output_tokens")
        )
        counts = at_s >= counted.start_s
        unit, local, size = self._unit_of[profile], counts & (tally.source == 1), len(self._units)
        each = share * 3600.0 / counted.span_s
        self._api += each * np.bincount(unit[counts], tally.api_usd[counts], size)
        of = [rates.get(name, _FREE) for name in self._units]
        per_input, per_output = (np.array([getattr(r, n) for r in of]) for n in ("usd_per_input", "usd_per_output"))
        usd = inputs * per_input[unit] + outputs * per_output[unit]
        self._energy += each * np.bincount(unit[local], usd[local], size)
        self._requests += int(counts.sum())
        self._per_hour += each * float(counts.sum())
        self._local += each * float(local.sum())
        self._in_time += each * float(counts.sum()) * tally.slo_attainment
        bought = counts & (tally.source == 2)
        self._mtok += each * float((inputs[bought].sum(dtype=float) + outputs[bought].sum(dtype=float)) / 1e6)

    def played(self, hours: float) -> Played:
        """What was added, per hour of all time."""
        return Played(
            hours, self._requests, dict(zip(self._units, self._api.tolist(), strict=True)),
            dict(zip(self._units, self._energy.tolist(), strict=True)),
            1.0 - self._local / max(1e-9, self._per_hour),
            self._in_time / self._per_hour if self._per_hour else 1.0, self._mtok,
        )  # fmt: skip
