"""Bid prices between the processes: gateways report demand, the controller solves, gates test on what they were told."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from scheduler.config import ClusterConfig
from scheduler.core import admission
from scheduler.core.bids import BidBook
from scheduler.core.capacity import price_usd
from serving import bidding
from serving.control import MarketRequest, Wanted
from serving.controller import Controller
from serving.gate.server import GateServer
from serving.gate.wire import Bounced, EngineStats, GateAnswer, Granted
from serving.view import Published
from tests.support.gates import enter
from tests.support.sites import pool, site

NOW_S = 1_000_000.0
TTFT_S = 2.0


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    for module in ("serving.controller", "serving.gate.server"):
        monkeypatch.setattr(f"{module}.now_s", made)
    yield made


class Town:
    """A controller and the gate of its one pool, told of each other by hand."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        classes = [{"name": "interactive", "ttft_s_max": TTFT_S}, {"name": "batch", "ttft_s_max": 60.0}]
        row = pool("own")
        self.config = ClusterConfig.model_validate(site(pools=[row], service_classes=classes))
        self.controller = Controller(self.config, "token", True)
        self.gate = GateServer(self.config, self.config.pools[0], "token")
        self.gate.state.heard("own-0", EngineStats(), clock())
        self.gate.state.surveyed(clock())

    def want(self, usd: float | None = 0.01, work_s: float = 0.4, seconds: int = 60) -> None:
        """More than the pool can serve, for ``seconds``: five requests a second of ``work_s`` each."""
        for _ in range(seconds):
            self.clock.now_s += 1.0
            wanted = {"own": [Wanted(usd, work_s, TTFT_S)] * 5, "nobody's": [Wanted(usd, work_s, TTFT_S)]}
            self.ask(wanted)
            self.report()

    def ask(self, wanted: dict[str, list[Wanted]] | None = None) -> Published:
        body = msgspec.json.encode(MarketRequest("g", NOW_S, {}, {}, wanted or {}))
        return again(self.controller._market(body), Published)

    def solve(self) -> None:
        asyncio.run(self.controller.solve_once())

    def report(self) -> GateAnswer:
        answer = again(self.controller._gate(msgspec.json.encode(self.gate.report())), GateAnswer)
        self.gate.hear(answer)
        return answer

    def verdict(self, ticket: str, usd: float | None) -> Any:
        hasty = {"ttft_s_max": TTFT_S, "ttft_within_s": TTFT_S, "work_s": 0.4, "usd_displaced": usd}
        ((_, message),) = enter(self.gate.state, "g", ticket, self.clock(), **hasty)
        return message


def again(message: Any, kind: Any) -> Any:
    """As it arrives on the other side."""
    return msgspec.json.decode(msgspec.json.encode(message), type=kind)


@pytest.fixture
def town(clock: Clock) -> Town:
    return Town(clock)


def test_the_gate_repeats_the_price_test_with_the_curves_that_the_controller_solved(town: Town) -> None:
    town.report()
    assert isinstance(town.verdict("before", 0.0001), Granted)  # nothing is known of any scarcity yet
    town.gate.state.leave("before", town.clock())
    town.want()
    town.solve()
    answer = town.report()
    assert answer.bids is not None and answer.bids.at_s == town.clock()
    assert [limit_s for limit_s, _ in answer.bids.levels] == [TTFT_S, 60.0]
    cheap = town.verdict("cheap", 0.0001)
    assert isinstance(cheap, Bounced) and cheap.reason == admission.WORTH_LESS
    assert isinstance(town.verdict("dear", 1.0), Granted)
    assert isinstance(town.verdict("nowhere else", None), Granted)


def test_curves_are_sent_once_to_a_gate_that_has_them(town: Town) -> None:
    town.report()
    town.want()
    town.solve()
    assert town.report().bids is not None
    assert town.report().bids is None
    town.clock.now_s += 15.0
    town.report()
    town.solve()
    assert town.report().bids is not None


def test_the_market_carries_the_lines_with_their_prices_and_when_they_were_solved(town: Town) -> None:
    town.report()
    town.controller.clear_once()
    [before] = [offer.capacity for offer in town.ask().market.offers if offer.kind == "base"]
    assert before is not None and [level.bid for level in before.levels] == [None, None]
    town.want()
    town.solve()
    town.report()
    town.controller.clear_once()
    published = town.ask()
    [capacity] = [offer.capacity for offer in published.market.offers if offer.kind == "base"]
    assert capacity is not None and price_usd(capacity.levels, TTFT_S, 0.4) > 0.0001
    assert published.bids.solved_at_s == {"own": town.clock()}
    assert published.bids.solve_s > 0.0


def test_a_controller_that_was_restarted_takes_no_price_from_a_gate_until_it_has_its_own(town: Town) -> None:
    town.report()
    town.want()
    town.solve()
    town.report()
    town.controller = Controller(town.config, "token", False)
    assert town.report().bids is None
    town.solve()  # nobody has told of any demand: there is nothing to solve
    assert town.report().bids is None
    assert isinstance(town.verdict("cheap", 0.0001), Bounced)
    town.want(usd=0.00001)
    town.report()
    town.solve()
    assert town.report().bids is not None
    assert isinstance(town.verdict("cheap again", 0.0001), Granted)


def test_demand_that_has_ended_leaves_no_price_behind(town: Town) -> None:
    town.report()
    town.want()
    town.solve()
    town.report()
    town.clock.now_s += 301.0
    town.report()
    town.solve()
    answer = town.report()
    assert answer.bids is not None and all(curve is None for _, curve in answer.bids.levels)
    assert isinstance(town.verdict("cheap", 0.0001), Granted)


def test_a_pool_that_is_away_for_a_moment_keeps_its_price(town: Town) -> None:
    town.report()
    town.want()
    town.solve()
    town.report()
    town.gate.state.heard("own-0", None, town.clock())
    town.report()
    town.solve()
    town.gate.state.heard("own-0", EngineStats(), town.clock())
    assert town.report().bids is None
    assert isinstance(town.verdict("cheap", 0.0001), Bounced)


def test_solving_does_not_stop_the_controller_from_answering(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_end = threading.Event(), threading.Event()
    solve = BidBook.solve

    def slowly(book: BidBook, *arguments: Any) -> None:
        begun.set()
        assert may_end.wait(60)
        solve(book, *arguments)

    monkeypatch.setattr(BidBook, "solve", slowly)
    town.report()
    town.want()

    async def run() -> None:
        solving = asyncio.create_task(town.controller.solve_once())
        while not begun.is_set():
            await asyncio.sleep(0.001)
        town.controller.clear_once()
        town.want(seconds=3)  # reports that come meanwhile are kept for the next time
        assert town.report().bids is None and not solving.done()
        may_end.set()
        await solving

    asyncio.run(run())
    assert town.report().bids is not None
    assert len(town.controller._bidding._reports) == 3


def test_what_is_no_sensible_demand_is_left_out() -> None:
    assert bidding.demand_of(Wanted(0.1, -1.0, 1.0)) is None
    assert bidding.demand_of(Wanted(0.1, 1.0, 1.0, 0.0)) is None
    found = bidding.demand_of(Wanted(None, 1.0, 2.0, 3.0))
    assert found is not None and found == (math.inf, 1.0, 2.0, 3.0)
