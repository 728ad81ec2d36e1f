"""A gateway in virtual time between a real gate's state, sources in memory and a market of one pool and one provider."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec

from pricing import board
from scheduler.config import ClusterConfig
from scheduler.core.capacity import Capacity, Level
from scheduler.core.clearing import Observation, clear
from scheduler.quality.triage import heuristic
from serving.access import Access
from serving.accounting import Accountant
from serving.dispatcher import Services
from serving.gate.client import GateBounce, Grant
from serving.gate.state import GateState, Messages
from serving.gate.wire import EngineStats, Enter, Granted, decode_to_gate, encode
from serving.gateway import Gateway
from serving.intake import Reader
from serving.learned import Learned
from serving.ledger.records import End
from serving.routes import routes
from serving.settings import core_policy
from serving.status import Status
from serving.tickets import Wants
from serving.view import EMPTY, BidState, Published, View
from tests.support.clients import Exchange
from tests.support.fake_sources import FakeJournal, FakeTransport, Plan
from tests.support.gates import gate_state
from tests.support.sites import KEY, pool, provider, site

TTFT_S = 1.0
POOL, CLOUD = "own/small", "cloud/small"


class LocalGate:
    """The gate's state without a socket between; it ticks as the server does while somebody waits."""

    def __init__(self, state: GateState) -> None:
        self.state = state
        self.asked: list[Enter] = []
        self._waiting: dict[str, asyncio.Future[Grant]] = {}

    async def enter(self, message: Enter) -> Grant:
        """As ``GateClient.enter``."""
        loop = asyncio.get_running_loop()
        asked = decode_to_gate(encode(message))
        assert isinstance(asked, Enter)
        self.asked.append(asked)
        future = self._waiting[message.id] = loop.create_future()
        self.tell(self.state.enter("g", asked, loop.time()))
        while not future.done():
            await asyncio.sleep(0.05)
            self.tell(self.state.tick(loop.time()))
        return await future

    def tell(self, messages: Messages) -> None:
        """The gate's answers to those who wait for them."""
        for _, message in messages:
            future = self._waiting.pop(message.id)
            if isinstance(message, Granted):
                future.set_result(Grant(message.replica, message.url))
            else:
                future.set_exception(GateBounce(message.reason, message.retry_after_s))

    def began(self, ticket_id: str) -> None:
        """As ``GateClient.began``."""
        self.tell(self.state.began(ticket_id, asyncio.get_running_loop().time()))

    async def leave(self, ticket_id: str, unreachable: bool = False) -> None:
        """As ``GateClient.leave``."""
        self.tell(self.state.leave(ticket_id, asyncio.get_running_loop().time(), unreachable))


class LocalTown:
    """``plans`` by offer; the pool has one engine with ``slots``. To be made inside a running loop."""

    def __init__(self, plans: dict[str, list[Plan]], slots: int = 1, levels: tuple[Level, ...] = ()) -> None:
        self.config = config = ClusterConfig.model_validate(
            site(
                pools=[pool("own")],
                providers=[provider("cloud", model="small")],
                service_classes=[{"name": "interactive", "ttft_s_max": TTFT_S, "usd_max": 1.0}, {"name": "batch"}],
            )
        )
        self.clock = clock = asyncio.get_running_loop().time
        self.policy = policy = core_policy(config)
        priced = board.price(config, clock())
        levels = levels or (Level(TTFT_S, 0.0), Level(5.0, 0.0))
        observed = Capacity(1, slots, 0, 0, 0.1, clock(), levels)
        market = clear(EMPTY, Observation(clock(), priced.offers, {POOL: observed}), policy)
        self.view = View(policy, 0.1, clock)
        self.view.publish(Published(market, {}, bids=BidState({"own": clock() - 3.0}, 0.02)))
        state = gate_state(slots, ttft_s_max=(TTFT_S, 5.0), service_s_guess=0.1)
        state.set_replicas({"r": "http://r"}, clock())
        state.heard("r", EngineStats(), clock())
        state.surveyed(clock())
        self.gate, self.transport, self.journal = LocalGate(state), FakeTransport(plans), FakeJournal()
        self.learned, self.wants = Learned(), Wants()
        accountant, access = Accountant(self.journal, priced, "g"), Access(config)  # type: ignore[arg-type]
        services = Services(
            self.view,
            routes(config, "token", {}),
            {"http": self.transport},
            {"own": self.gate},  # type: ignore[dict-item]
            accountant,
            policy,
            self.learned,
            self.wants,
            clock,
        )
        reader = Reader(config, access, heuristic, self.learned, clock)
        self.app = Gateway(config, access, reader, services, Status(self.view, accountant))

    async def ask(self, path: str = "/v1/chat/completions", session: str = "", **fields: Any) -> Exchange:
        """One chat request, to its end."""
        body = {"model": "small", "user": "q", "messages": [{"role": "user", "content": "classify: hello"}]} | fields
        headers = [(b"authorization", f"Bearer {KEY}".encode()), (b"x-session-id", session.encode())]
        made = Exchange(path, headers, [json.dumps(body).encode()])
        await made.run(self.app)
        return made

    async def explain(self, session: str = "", **fields: Any) -> dict[str, Any]:
        """The decision that ``ask`` would make now."""
        made = await self.ask("/v1/explain", session, **fields)
        assert made.status == 200, made.body
        return dict(msgspec.json.decode(made.body))

    def end_of(self, made: Exchange) -> End:
        """The record of an answered request."""
        return self.journal.ends[made.response_headers[b"x-baseload-decision-id"].decode()]
