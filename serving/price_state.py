"""The controller's price side: what the desk and the meters have told, the board made of it, and the report for people."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

import msgspec

from pricing import board, board_report, desk
from pricing.board import Board
from pricing.desk import Sheet
from pricing.local_cost import Served
from pricing.meter.pool_power import PoolJoules, PoolMeter, pool_joules
from pricing.meter.readings import MeterReport
from pricing.meter.slope import EnergyFit, trustworthy
from pricing.report import LocalCost, NodeReading, PriceReport
from scheduler.config import ClusterConfig
from serving.gate.wire import EngineStats

log = logging.getLogger("baseload.controller")

_REPRICE_S = 5.0  # off-peak hours and tariffs change by the clock; prices carry a grace of ten seconds
# Reports that a meter may miss: meanwhile its joules stand still, which a window of a minute must not take for rest.
_REPORTS_MISSED_MAX = 3
_METER_TTL_S_MIN = 10.0
_FIT_S = 60.0
_CLOCK_S_MAX = 30.0
_GPUS_MAX = 512  # in one report
_NOBODY = PoolJoules(0.0, frozenset(), "modelled")


def _on_our_clock(sheet: Sheet, now_s: float) -> Sheet:
    """The sheet with its ages kept, where the desk's clock is not ours: a price must not live longer for that."""
    ahead_s = sheet.at_s - now_s
    if abs(ahead_s) < _CLOCK_S_MAX:
        return sheet
    entries = [msgspec.structs.replace(entry, observed_s=entry.observed_s - ahead_s) for entry in sheet.entries]
    return msgspec.structs.replace(sheet, at_s=now_s, entries=entries)


class PriceState:
    """Soft state: everything in it is told again within seconds, but for the last hour's power and tokens."""

    def __init__(self, config: ClusterConfig, now_s: float) -> None:
        self._config = config
        self._sheet: Sheet = desk.EMPTY
        self._meters: dict[str, tuple[float, MeterReport]] = {}
        self._meter_ttl_s = max(_METER_TTL_S_MIN, _REPORTS_MISSED_MAX * config.prices.meter_every_s)
        configured = {
            pool.name: (pool.energy.joules_per_input_token, pool.energy.joules_per_output_token)
            for pool in config.pools
        }
        self._pool_meter = PoolMeter(configured)
        self._fits: dict[str, EnergyFit] = {}
        self._fitted_s = now_s
        self._unpriced: dict[str, str] = {}
        self.board: Board = board.price(config, now_s)
        self._priced_s = now_s
        self._tell_unpriced()

    def told(self, sheet: Sheet, now_s: float) -> None:
        """The desk's newest sheet: it counts from now on, if a board can be made of it."""
        ours = _on_our_clock(sheet, now_s)
        self._take(board.price(self._config, now_s, ours, self._fits), now_s)
        self._sheet = ours

    def metered(self, report: MeterReport, now_s: float) -> None:
        """One node's newest readings."""
        self._meters[report.node] = (now_s, report)

    def observe(self, engines: Mapping[str, EngineStats], replicas: Mapping[str, int], now_s: float) -> None:
        """Tokens of every pool beside the joules of the same moment; ``replicas`` that live, by pool."""
        for node in [node for node, (at_s, _) in self._meters.items() if now_s - at_s > self._meter_ttl_s]:
            del self._meters[node]
        joules = self._joules()
        for pool, engine in engines.items():
            drawn = joules.get(pool, _NOBODY)
            computed = max(0.0, engine.prompt_tokens - engine.cached_tokens)
            self._pool_meter.observe(
                pool,
                now_s,
                drawn.joules,
                computed,
                engine.generation_tokens,
                drawn.members,
                drawn.label,
                engine.cached_tokens,
                replicas.get(pool, 0),
            )

    def keep_priced(self, now_s: float) -> None:
        """Price anew where the last time is a while ago: tariffs, off-peak hours and times to live move by themselves."""
        if now_s - self._fitted_s >= _FIT_S:
            self._fitted_s = now_s
            found = {pool.name: self._pool_meter.fit(pool.name, now_s) for pool in self._config.pools}
            self._fits = {name: fit for name, fit in found.items() if fit is not None and trustworthy(fit)}
        if now_s - self._priced_s >= _REPRICE_S:
            try:
                self._take(board.price(self._config, now_s, self._sheet, self._fits), now_s)
            except Exception:  # leases and health must not stop for a price: the old ones run out by themselves
                log.exception("prices could not be brought up to date")
                self._priced_s = now_s

    def _take(self, priced: Board, now_s: float) -> None:
        self.board, self._priced_s = priced, now_s
        self._tell_unpriced()

    def _tell_unpriced(self) -> None:
        for offer_id, reason in self.board.unpriced.items():
            if offer_id not in self._unpriced:
                log.warning("no offer without a price", extra={"offer": offer_id, "reason": reason})
        for offer_id in self._unpriced.keys() - self.board.unpriced.keys():
            log.info("the offer has a price again", extra={"offer": offer_id})
        self._unpriced = dict(self.board.unpriced)

    def report(self, replicas: Mapping[str, int], now_s: float) -> PriceReport:
        """The board as people see it; ``replicas`` that live, by pool."""
        served = {pool.name: found for pool in self._config.pools if (found := self._served(pool.name, now_s))}
        report = board_report.report(self._config, self.board, self._sheet, now_s, served, replicas)
        joules = self._joules()
        local = tuple(self._metered(cost, joules.get(cost.pool)) for cost in report.local)
        return msgspec.structs.replace(report, local=local, nodes=tuple(self._nodes()))

    def _metered(self, cost: LocalCost, drawn: PoolJoules | None) -> LocalCost:
        """The cost with what meters say of its pool now, and what they do not see of it."""
        seen, living = self._pool_meter.coverage(cost.pool)
        if 0 < seen < living:  # a part of the joules beside all of the tokens would mislead whoever divides them
            note = f"power of {seen} of {living} replicas is seen by a meter: it is not counted"
            return msgspec.structs.replace(cost, notes=(*cost.notes, note))
        if drawn is None:
            return cost
        notes = (*cost.notes, *(f"power: {remark}" for remark in drawn.remarks))
        return msgspec.structs.replace(cost, joules=drawn.joules, joules_label=drawn.label, notes=notes)

    def _nodes(self) -> Iterator[NodeReading]:
        left = _GPUS_MAX
        for node, (at_s, report) in sorted(self._meters.items()):
            yield NodeReading(node, at_s, report.gpus[:left], report.host, report.problem)
            left -= len(report.gpus[:left])

    def _joules(self) -> dict[str, PoolJoules]:
        return pool_joules(report for _, report in self._meters.values())

    def _served(self, pool: str, now_s: float) -> Served | None:
        found = self._pool_meter.served(pool, now_s)
        if found is None:
            return None
        return Served(
            input_tokens=round(found.input_tokens + found.cached_tokens),
            cached_tokens=round(found.cached_tokens),
            output_tokens=round(found.output_tokens),
            seconds=found.seconds,
            watts=found.watts_mean,
            label=found.label,
            at_s=found.watts_at_s,
        )
