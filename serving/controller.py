"""The controller: observes, clears and publishes about once a second; registry of gates and replicas; soft state only.

Everything it knows is told to it again within a second, so it may die and restart at any time. Meanwhile gateways go on
with the last market: prices run to their time to live, leases run out, and then only what is ours is left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from pricing.desk import Sheet
from pricing.meter.readings import MeterReport
from pricing.report import PriceReport
from scheduler.config import ClusterConfig
from scheduler.core.capacity import Capacity, Level
from scheduler.core.clearing import Observation, clear
from scheduler.core.market import Market
from serving import control
from serving.bidding import Bidding
from serving.budgets import BudgetBook
from serving.clock import now_s
from serving.commitment import Commitment
from serving.control import Announcement, Desired, MarketRequest, MeterReplica, Scaled, Spent
from serving.gate.wire import GateAnswer, GateReport, ReplicaInfo
from serving.price_state import PriceState
from serving.settings import core_policy
from serving.view import EMPTY, Published

log = logging.getLogger("baseload.controller")

_REPLICA_TTL_S = 6.0
_GATE_TTL_S = 5.0
_BODY_BYTES_MAX = 16 * 1024 * 1024  # a sheet of prices is the largest


def _levels(report: GateReport) -> tuple[Level, ...]:
    return tuple(Level(limit_s, wait_s, None, load) for limit_s, wait_s, load in report.levels)


class Controller:
    """State and loops of the controller; ``routes`` are its HTTP face."""

    def __init__(self, config: ClusterConfig, token: str, fresh_start: bool) -> None:
        self._config, self._token = config, token
        self._policy = core_policy(config)
        self._prices = PriceState(config, now_s())
        self.market: Market = EMPTY
        self._bidding = Bidding(self._policy, {pool.name for pool in config.pools})
        self._commitment = Commitment(config, now_s())
        self._gates: dict[str, tuple[float, GateReport]] = {}
        self._replicas: dict[str, dict[str, tuple[float, ReplicaInfo]]] = {}
        budgets = {t.name: t.budget for t in config.tenants if t.budget is not None}
        self._budgets = BudgetBook(budgets, config.policy.lease_ttl_s, now_s())
        self._fresh_start = fresh_start
        if fresh_start:
            self._budgets.opens_at_once()
        self._spent: dict[tuple[str, str], float] | None = (
            None  # until the ledger has told: nothing new is granted before
        )

    def app(self) -> web.Application:
        """The HTTP application."""
        app = web.Application(client_max_size=_BODY_BYTES_MAX)
        app.router.add_post("/market", self._guarded(self._market))
        app.router.add_post("/gates", self._guarded(self._gate))
        app.router.add_post("/replicas", self._guarded(self._replica))
        app.router.add_post("/spent", self._guarded(self._spending))
        app.router.add_post("/prices", self._guarded(self._priced))
        app.router.add_post("/meters", self._guarded(self._metered))
        app.router.add_post("/report", self._guarded(self._report))
        app.router.add_post("/scale", self._guarded(self._scale))
        app.router.add_get("/commitment", self._guarded(lambda _: self._commitment.report(now_s())))
        app.router.add_get("/healthz", self._health)
        return app

    async def run(self) -> None:
        """Serve and clear until cancelled."""
        runner = web.AppRunner(self.app(), access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, self._config.controller.host, self._config.controller.port, reuse_address=True)
        await site.start()
        log.info("controller ready", extra={"url": control.url(self._config)})
        solving = asyncio.create_task(self._solve_for_ever())
        try:
            while True:
                self.clear_once()
                await asyncio.sleep(self._config.policy.clearing_s)
        finally:
            solving.cancel()
            await runner.cleanup()

    async def _solve_for_ever(self) -> None:
        """At a fresh start soon, since little demand is better than none; gates that run already have better curves."""
        every_s = self._config.policy.bid_every_s
        pause_s = self._config.policy.clearing_s if self._fresh_start else every_s
        while True:
            await asyncio.sleep(min(pause_s, every_s))
            pause_s *= 2.0
            try:
                await self.solve_once()
            except Exception:  # a price that could not be solved must not end the prices: the old curves stay
                log.exception("bid curves could not be solved")

    async def solve_once(self) -> None:
        """New bid curves, from what has been heard so far."""
        now = now_s()
        living = self._living(now)
        reports = {pool: self._gates[pool][1] for pool in living}
        levels = {pool: _levels(report) for pool, report in reports.items()}
        await self._bidding.solve(levels, living, {pool: report.ratio for pool, report in reports.items()}, now)

    def clear_once(self) -> None:
        """One clearing, from what has been heard so far."""
        now = now_s()
        self._prices.observe(self._engines(now), self._living(now), now)
        self._prices.keep_priced(now)
        observation = Observation(
            now, self._prices.board.offers, self._pool_states(now), bids=self._bids(), stale_after_s=_GATE_TTL_S
        )
        self.market = clear(self.market, observation, self._policy)
        self._commitment.keep(self.market, self._prices.board, self._known(now), self._living(now), now)

    def _bids(self) -> dict[str, Any]:
        """The curves of every pool, for each of its offers."""
        curves = self._bidding.curves
        pools = {offer.id: offer.id.partition("/")[0] for offer in self._prices.board.offers if offer.kind != "api"}
        return {offer_id: curves[pool] for offer_id, pool in pools.items() if pool in curves}

    def _pool_states(self, now: float) -> dict[str, Capacity]:
        states: dict[str, Capacity] = {}
        for offer in self._prices.board.offers:
            pool, _, _ = offer.id.partition("/")
            heard = self._gates.get(pool)
            if offer.kind == "api" or heard is None:
                continue
            heard_s, report = heard
            states[offer.id] = Capacity(
                replicas=report.replicas,
                slots=report.slots,
                running=report.running,
                waiting=report.waiting,
                service_s_mean=report.service_s_mean,
                as_of_s=heard_s,
                levels=_levels(report),
                gated=report.gated,
                admitted_per_s=report.admitted_per_s,
                kv_usage=report.engine.kv_usage,
                slots_bound=report.slots_bound,
            )
        return states

    def _guarded(self, handler: Callable[[bytes], Any]) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def guarded(request: web.Request) -> web.Response:
            if not control.authorized(request.headers.get("authorization", ""), self._token):
                return web.Response(status=401)
            try:
                answer = handler(await request.read())
            except control.UNREADABLE as error:
                return web.Response(status=400, text=str(error))
            return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

        return guarded

    def _market(self, body: bytes) -> Published:
        asked = msgspec.json.decode(body, type=MarketRequest)
        now = now_s()
        self._bidding.heard(asked.wanted, now)
        self._commitment.heard(asked.wanted)
        leases = self._budgets.leases(asked.gateway, asked.started_s, asked.spent, self._spent, now, asked.held)
        market = self.market
        gates = {pool: report.url for pool, (heard_s, report) in self._gates.items() if now - heard_s < _GATE_TTL_S}
        published = Market(market.version, market.as_of_s, market.offers, leases)
        ratios = {pool: self._gates[pool][1].ratio for pool in gates}
        bids = msgspec.structs.replace(self._bidding.state, ratios=ratios)
        fixed, fleet = self._prices.board.fixed, self._commitment.state
        return Published(published, gates, self._engines(now), fixed, now, bids, fleet)

    def _engines(self, now: float) -> dict[str, Any]:
        return {pool: report.engine for pool, (heard_s, report) in self._gates.items() if now - heard_s < _GATE_TTL_S}

    def _living(self, now: float) -> dict[str, int]:
        """Replicas that answer their gate, by pool."""
        return {pool: report.replicas for pool, (at_s, report) in self._gates.items() if now - at_s < _GATE_TTL_S}

    def _known(self, now: float) -> dict[str, dict[str, ReplicaInfo]]:
        """Replicas that have announced themselves lately, by pool and id."""
        return {
            pool: {i: info for i, (heard_s, info) in known.items() if now - heard_s <= _REPLICA_TTL_S}
            for pool, known in self._replicas.items()
        }

    def _gate(self, body: bytes) -> GateAnswer:
        report = msgspec.json.decode(body, type=GateReport)
        now, bids_at_s = now_s(), report.bids_at_s
        before = self._gates.get(report.pool)
        if before is not None and not report.surveyed:
            # A gate that has just restarted has not heard of its engines yet: they are what they were.
            report = msgspec.structs.replace(before[1], url=report.url)
        self._gates[report.pool] = (now, report)
        replicas = self._replicas.get(report.pool, {})
        for replica_id in [i for i, (heard_s, _) in replicas.items() if now - heard_s > _REPLICA_TTL_S]:
            del replicas[replica_id]
        bids = self._bidding.bids(report.pool)
        known = [info for _, info in replicas.values()]
        return GateAnswer(known, bids if bids is not None and bids.at_s != bids_at_s else None)

    def _replica(self, body: bytes) -> dict[str, bool]:
        announced = msgspec.json.decode(body, type=Announcement)
        known, replica = self._replicas.setdefault(announced.pool, {}), announced.replica
        if announced.leaves:  # its gate gives it nothing new; what it has, it finishes
            known.pop(replica.id, None)
        else:
            known[replica.id] = (now_s(), replica)
        return {"ok": True}

    def _scale(self, body: bytes) -> Desired:
        """Who deploys pools asks how many replicas they should have."""
        return self._commitment.scaled(msgspec.json.decode(body, type=Scaled), now_s())

    def _priced(self, body: bytes) -> dict[str, bool]:
        """The price desk's sheet."""
        self._prices.told(msgspec.json.decode(body, type=Sheet), now_s())
        return {"ok": True}

    def _metered(self, body: bytes) -> list[MeterReplica]:
        """A node's meter reports; the answer is who runs where, so that it can say whose joules they are."""
        now = now_s()
        self._prices.metered(msgspec.json.decode(body, type=MeterReport), now)
        return [MeterReplica(pool, info) for pool, known in self._known(now).items() for info in known.values()]

    def _report(self, body: bytes) -> PriceReport:
        now = now_s()
        return self._prices.report(self._living(now), now)

    def _spending(self, body: bytes) -> dict[str, float]:
        """The ledger's loader says what was spent; the answer is from when it shall sum, by tenant."""
        spent = msgspec.json.decode(body, type=list[Spent] | None)
        if spent is not None:
            self._spent = {(s.tenant, s.writer): s.usd for s in spent}
        return self._budgets.window_starts(now_s())

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"market_version": self.market.version, "pools": sorted(self._gates)})
