"""One run of one rule in the kernel: batches go in, bid prices are solved between them, a summary comes out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.core.market import Policy
from scheduler.core.supply import Offer
from scheduler.simulation import policies
from scheduler.simulation.controller import REPRICE_S
from scheduler.simulation.kernel import gateways
from scheduler.simulation.kernel.demand import solve
from scheduler.simulation.kernel.loop import advance
from scheduler.simulation.kernel.state import Arrivals, State
from scheduler.simulation.kernel.supply import Changes, state_of, tables_of
from scheduler.simulation.mix import Profile
from scheduler.simulation.scenario import EPOCH_S, Scenario, Window
from scheduler.simulation.site import Site
from scheduler.simulation.tally import Headline
from scheduler.simulation.workload import Batch

_KINDS = {
    "bid-price": gateways.BID,
    "overflow-queue": gateways.QUEUE,
    "greedy-perfect": gateways.QUEUE,
    "overflow-kv": gateways.KV,
    "static-price": gateways.STATIC,
    "quality-threshold": gateways.QUALITY,
    "all-api": gateways.ALL_API,
    "all-local": gateways.ALL_LOCAL,
    "given": gateways.GIVEN,
}
NAMES = tuple(_KINDS)
Priced = Callable[[float], tuple[Sequence[Offer], float]]
_GREEDY = 0.93  # of the objective: the threshold of greedy-perfect
_SNAPSHOT_FIRST_S = 2.0
_SLACK_S = 1e-9
_COLUMNS = (np.int32, np.int32, np.int16, np.float32, np.bool_)  # of Arrivals, after the instants


@dataclass(frozen=True, slots=True)
class KernelSettings:
    """How the world behaves, as ``world.Settings`` means it. ``changes``: (time, pool, replicas) on the clock of the run.

    ``kept``: for the rule ``given``, who stays at home, by the request's number. ``rows``: keep what came of each request.
    """

    gateways: int = 1
    snapshot_age_s: float = 1.0
    seed: int = 0
    bid_every_s: float = 15.0
    curve_error: float = 1.0
    demand_error: float = 1.0
    api_spread: float = 0.15
    changes: Changes = ()
    kept: np.ndarray | None = None
    rows: bool = True


@dataclass(frozen=True, slots=True)
class KernelTally(Headline):
    """What a run came to. Arrays are by the request's number: USD paid to APIs, seconds to the first token (nan: none).

    ``source``: 0 nobody, 1 own engines, 2 an API. ``in_time`` and ``requests_of`` are by profile. ``busy_s``: by engine.
    """

    requests: int
    served: int
    in_time: int
    local: int
    bounces: int
    usd_api: float
    usd_energy: float
    api_usd: np.ndarray
    ttft_s: np.ndarray
    source: np.ndarray
    in_time_of: np.ndarray
    requests_of: np.ndarray
    busy_s: np.ndarray
    solves: int
    solve_s: float

    def api_usd_by_request(self, requests: int) -> np.ndarray:
        """USD spent on APIs, by the request's number."""
        return self.api_usd[:requests]


class KernelRun:
    """``feed`` takes batches of ascending arrivals, however they are cut; ``finish`` plays to the end of the last answer.

    ``offers``: the site's at their prices; ``priced`` gives them as of an instant (the same sequence again: at the same
    prices), and the next one at which a price may be another one (both Unix seconds). ``watch`` reads a clock in seconds,
    and then ``solve_s`` of the tally is the time that bid prices took.
    """

    def __init__(
        self, site: Site, profiles: Sequence[Profile], rule: str, threshold: float, policy: Policy,
        settings: KernelSettings | None = None, *, from_s: float = 0.0, offers: Sequence[Offer] | None = None,
        priced: Priced | None = None, watch: Callable[[], float] | None = None,
    ) -> None:  # fmt: skip
        if rule not in _KINDS:
            raise KeyError(rule)
        self._settings = settings = settings or KernelSettings()
        self._policy, self._from_s, self._priced, self._watch = policy, from_s, priced, watch
        found = site.priced(EPOCH_S + from_s).offers if offers is None else offers
        self._tables = tables_of(site, profiles, found)
        self.state: State = state_of(
            site, self._tables, policy, settings.gateways, settings.curve_error, settings.changes
        )
        clock = self.state.clock
        clock["kind"], clock["threshold"] = _KINDS[rule], _GREEDY if rule == "greedy-perfect" else threshold
        clock["evicts"], clock["knows_lengths"] = rule in ("bid-price", "given"), rule in ("greedy-perfect", "given")
        clock["hold"], clock["prefilter"] = policies.rule("all-local").hold, policy.bid_prefilter
        clock["grant_ahead_s"], clock["margin_max"] = policy.grant_ahead_s, policy.ttft_margin
        clock["gateways"], clock["snapshot_age_s"] = settings.gateways, settings.snapshot_age_s
        clock["api_spread"] = settings.api_spread
        clock["seed"] = np.random.SeedSequence(settings.seed).generate_state(1, np.uint64)[0]
        self._solve_at_s = min(1.0, settings.bid_every_s) if rule == "bid-price" else math.inf
        self._reprice_at_s = self._change_s = math.inf
        self._solves, self._solve_s, self._fed = 0, 0.0, 0
        self._offers = found
        if priced is not None:
            self._reprice(priced, 0.0)

    def feed(self, batch: Batch) -> None:
        """The next requests. Raises ValueError where they come before the last ones."""
        arrival_s, kept = batch.arrival_s - self._from_s, self._settings.kept
        if len(batch) and (
            np.any(arrival_s[1:] < arrival_s[:-1]) or arrival_s[0] < self.state.clock["now_s"][0] - _SLACK_S
        ):
            raise ValueError("arrivals have to ascend, also from batch to batch")
        part = np.zeros(0, bool) if kept is None else np.asarray(kept, bool)[self._fed : self._fed + len(batch)]
        self._room(len(batch))
        self._fed += len(batch)
        columns = (batch.input_tokens, batch.output_tokens, batch.profile, batch.difficulty, part)
        made: Iterable[np.ndarray] = (np.array(column, kind) for column, kind in zip(columns, _COLUMNS, strict=True))
        self._advance(Arrivals(np.array(arrival_s, float), *made), last=False)

    def finish(self) -> KernelTally:
        """Play until everybody is served, and sum up."""
        self._advance(Arrivals(np.zeros(0), *(np.zeros(0, kind) for kind in _COLUMNS)), last=True)
        s, count = self.state, self._fed if self._settings.rows else 0
        clock = s.clock[0]
        return KernelTally(
            requests=int(clock["requests"]), served=int(clock["served"]), in_time=int(clock["in_time"]),
            local=int(clock["local"]), bounces=int(clock["bounces"]), usd_api=float(clock["usd_api"]),
            usd_energy=float(clock["usd_energy"]), api_usd=s.api_usd[:count].copy(), ttft_s=s.ttft_s[:count].copy(),
            source=s.source[:count].copy(), in_time_of=s.by_profile[:, 0].copy(), requests_of=s.by_profile[:, 1].copy(),
            busy_s=s.lanes["busy_s"].copy(), solves=self._solves, solve_s=self._solve_s,
        )  # fmt: skip

    def _room(self, requests: int) -> None:
        """Rows for so many more requests; twice as many as needed, so that they are moved seldom."""
        needed, s = self._fed + requests, self.state
        if not self._settings.rows or needed <= len(s.source):
            return
        rows = max(needed, 2 * len(s.source))
        self.state = s._replace(
            api_usd=_longer(s.api_usd, rows), ttft_s=_longer(s.ttft_s, rows), source=_longer(s.source, rows)
        )

    def _advance(self, of: Arrivals, last: bool) -> None:
        first, clock = 0, self.state.clock
        while True:
            until_s = min(self._solve_at_s, self._reprice_at_s)
            # At first a snapshot comes before the curves of the same instant, later after them, as in the exact engine:
            # so as many seconds of demand are counted as there were.
            stop_s = until_s if until_s <= _SNAPSHOT_FIRST_S else math.nextafter(until_s, 0.0)
            first = advance(self.state, of, first, stop_s, last)
            if first == len(of.arrival_s) and (not last or not clock["in_flight"][0]):
                return
            self._between(until_s)

    def _between(self, now_s: float) -> None:
        """What the controller does at ``now_s``."""
        if self._priced is not None and self._reprice_at_s <= now_s:
            self._reprice(self._priced, now_s)
        if self._solve_at_s <= now_s:
            began_s = self._watch() if self._watch is not None else 0.0
            solve(self.state, self._policy, self._settings.demand_error, now_s)
            self._solve_s += self._watch() - began_s if self._watch is not None else 0.0
            self._solves += 1
            # The first prices come soon and are made anew soon: little demand is better than none.
            self._solve_at_s = now_s + min(self._settings.bid_every_s, now_s)

    def _reprice(self, priced: Priced, now_s: float) -> None:
        changed = self._change_s - EPOCH_S - self._from_s <= now_s
        # The instant of a change as it was given: made from the clock of the run, it might lie a little before it.
        offers, self._change_s = priced(self._change_s if changed else EPOCH_S + self._from_s + now_s)
        if offers is not self._offers:
            self._tables.price(offers)
            self._offers = offers
        self.state = self.state._replace(tiers=self._tables.tiers)
        self._reprice_at_s = min(now_s + REPRICE_S, self._change_s - EPOCH_S - self._from_s)


def play(
    scenario: Scenario, rule: str, threshold: float = math.nan, window: Window | None = None,
    settings: KernelSettings | None = None, batches: Iterable[Batch] | None = None, watch: Callable[[], float] | None = None,
) -> KernelTally:  # fmt: skip
    """One run of a rule over a part of ``scenario`` (the judged one by default). ``batches``: that part's requests, if made.

    Raises KeyError for a rule that the kernel does not know, ValueError for a site that it cannot play.
    """
    window = window or scenario.judged
    run = KernelRun(
        scenario.site, scenario.profiles, rule, threshold, scenario.policy, settings, from_s=window.start_s,
        priced=_priced(scenario.site), watch=watch,
    )  # fmt: skip
    for batch in scenario.batches(window) if batches is None else batches:
        run.feed(batch)
    return run.finish()


def _priced(site: Site) -> Priced:
    """The prices of ``site``. Where neither a feed nor a history has a say, they are made anew only when they change."""
    offers: Sequence[Offer] = ()
    until_s = -math.inf

    def priced(now_s: float) -> tuple[Sequence[Offer], float]:
        nonlocal offers, until_s
        if now_s >= until_s or site.sheet.entries or site.history is not None:
            board, until_s = site.priced_until(now_s)
            offers = board.offers
        return offers, until_s

    return priced


def _longer(kept: np.ndarray, rows: int) -> np.ndarray:
    """The same, with zeros behind that take no memory until they are written."""
    longer = np.zeros(rows, kept.dtype)
    longer[: len(kept)] = kept
    return longer
