"""Whatever sites, requests, failing sources and vanishing clients do: one answer, one account, no zone crossed.

The real gateway application runs in virtual time between clients and sources in memory. Each example is a fresh site
with up to four requests in flight.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings

from pricing import board
from scheduler.core.capacity import BidCurve, Capacity, Level
from scheduler.core.clearing import Observation, clear
from scheduler.core.market import Lease
from scheduler.quality.triage import heuristic
from serving import sse
from serving.access import Access
from serving.accounting import Accountant
from serving.dispatcher import Services
from serving.gateway import Gateway
from serving.intake import Reader
from serving.learned import Learned
from serving.ledger.records import Begin, End
from serving.routes import routes
from serving.settings import core_policy
from serving.sse import DONE
from serving.status import Status
from serving.tickets import Wants
from serving.view import EMPTY, Published, View
from tests.support import virtual_time
from tests.support.clients import Exchange
from tests.support.dispatch_cases import BUDGETED, DEADLINES_S, MODELS, Ask, Case, cases, config_of
from tests.support.fake_sources import FakeGate, FakeJournal, FakeTransport
from tests.support.virtual_time import START_S

# What a pool's gate, a watcher or a client in memory may add to a deadline: none of them waits longer.
SLACK_S = 0.1


class World:
    """One gateway with everything around it, as a case says."""

    def __init__(self, case: Case) -> None:
        self.case, self.config = case, config_of(case.shape)
        clock = asyncio.get_running_loop().time
        priced = board.price(self.config, clock())
        self.offers = {o.id: o for o in priced.offers}
        ids = list(self.offers)
        curve = BidCurve((0.0, 1.0, 5.0), (0.0, -0.001, -0.1))
        levels = (Level(5.0, 0.05, curve),)
        up = Capacity(1, 8, 0, 0, 0.1, clock(), levels)
        states = {ids[i]: up for i, alive in enumerate(case.pools_up) if alive}
        lease = {} if case.lease is None else {BUDGETED: Lease(case.lease[0], START_S + case.lease[1])}
        policy = core_policy(self.config)
        self.market = clear(EMPTY, Observation(clock(), priced.offers, states, lease), policy)
        self.view = View(policy, self.config.policy.retry_share_max, clock)
        self.view.publish(Published(self.market, {}))
        self.transport = FakeTransport({ids[i]: list(listed) for i, listed in enumerate(case.sources)})
        self.gates = {p.name: FakeGate(list(case.gates[i])) for i, p in enumerate(self.config.pools)}
        self.journal = FakeJournal(case.begins_max)
        accountant = Accountant(self.journal, priced, "g")  # type: ignore[arg-type]
        access, self.learned = Access(self.config), Learned()
        services = Services(
            self.view,
            routes(self.config, "token", {}),
            {"http": self.transport},
            self.gates,
            accountant,
            policy,
            self.learned,
            Wants(),
            clock,  # type: ignore[arg-type]
        )
        reader = Reader(self.config, access, heuristic, self.learned, clock)
        self.app = Gateway(self.config, access, reader, services, Status(self.view, accountant))
        self.first_bytes_s: dict[str, int] = {}  # tag -> number of calls made when the first bytes of a stream left
        self.exchanges = [self.exchange(f"q{i}", ask) for i, ask in enumerate(case.asks)]

    def exchange(self, tag: str, ask: Ask) -> Exchange:
        body = ask.body(tag)
        parts = [body[: ask.split], body[ask.split :]] if ask.split else [body]
        made = Exchange(f"/v1/{ask.endpoint}", ask.headers(), parts, ask.gone_s)
        made.on_bytes = lambda data: self.first_bytes_s.setdefault(tag, len(self.calls_of(tag)))  # type: ignore[assignment]
        return made

    def calls_of(self, tag: str) -> list[Any]:
        return [call for call in self.transport.calls if call.tag == tag]

    async def run(self) -> None:
        async def one(ask: Ask, made: Exchange) -> None:
            await asyncio.sleep(ask.start_s)
            await made.run(self.app)

        await asyncio.gather(*(one(a, e) for a, e in zip(self.case.asks, self.exchanges, strict=True)))
        await asyncio.sleep(1.0)  # what was left running would show


async def live(case: Case) -> World:
    world = World(case)
    await world.run()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"still running: {left}"
    return world


@pytest.fixture(autouse=True)
def _small_events(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(sse, "_EVENT_BYTES_MAX", 2000)
    caplog.set_level(logging.CRITICAL + 1)


@settings(
    max_examples=2000,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(cases())
def test_every_request_gets_one_answer_one_account_and_no_zone_it_may_not_have(case: Case) -> None:
    world = virtual_time.run(live(case))
    journal = world.journal
    assert journal.begins.keys() == journal.ends.keys()
    begun = match_begins(world)
    for i, (ask, made) in enumerate(zip(case.asks, world.exchanges, strict=True)):
        tag = f"q{i}"
        check_zones(world, ask, tag)
        check_answer(ask, made)
        record = begun.get(tag)
        if record is None:
            assert not world.calls_of(tag), "tried without a record"
            continue
        event(f"ended {journal.ends[record.id].status}")
        check_chain(world, ask, made, tag, record, journal.ends[record.id])
        check_content(world, ask, made, tag, journal.ends[record.id])
    check_budget(world)
    check_nothing_leaks(world)


def match_begins(world: World) -> dict[str, Begin]:
    """Records by the tag of their request: by the answer's decision id, or by what is left."""
    by_tag: dict[str, Begin] = {}
    spare = dict(world.journal.begins)
    for i, made in enumerate(world.exchanges):
        decision_id = made.response_headers.get(b"x-baseload-decision-id", b"").decode()
        if decision_id:
            by_tag[f"q{i}"] = spare.pop(decision_id)
    silent = [
        f"q{i}" for i, made in enumerate(world.exchanges) if made.status is None and not world.case.asks[i].spoiled
    ]
    # Of requests that are alike: those that asked sources first, each the record that tells of most of the same.
    for tag in sorted(silent, key=lambda tag: -len(world.calls_of(tag))):
        ask, made = world.case.asks[int(tag[1:])], world.exchanges[int(tag[1:])]
        asked = (ask.tenant, ask.model, ask.is_stream, sorted(ask.zones_allowed()), ask.service_class)
        alike = [
            record
            for record in spare.values()
            if (record.tenant, record.model_requested, record.stream, record.zones, record.service_class) == asked
            and abs(record.at_s - made.began_s) < 0.005
        ]
        if alike:
            by_tag[tag] = spare.pop(min(alike, key=lambda record: apart(world, tag, made, record)).id)
    assert not spare, "a request was recorded that nobody made"
    return by_tag


def apart(world: World, tag: str, made: Exchange, record: Begin) -> tuple[int, float]:
    """How little a record tells of this request: sources that only one of them knows, and seconds between the two ends."""
    end = world.journal.ends[record.id]
    called = {call.offer_id for call in world.calls_of(tag)}
    named = {attempt.offer_id for attempt in end.attempts}
    return len(called ^ named), abs(record.at_s + end.duration_s - made.ended_s)


def check_zones(world: World, ask: Ask, tag: str) -> None:
    for call in world.calls_of(tag):
        used = world.offers[call.offer_id]
        assert used.zone in ask.zones_allowed(), f"{tag} reached {used.zone}"
        assert used.model in MODELS[ask.model]


def check_answer(ask: Ask, made: Exchange) -> None:
    assert made.answered_once() or (made.gone and not made.answered_once_too_often())
    if not made.gone:
        assert made.answered_once()
        assert made.ended_s - made.began_s <= DEADLINES_S[ask.service_class] + SLACK_S
    elif ask.gone_s is not None and made.status is None:
        assert made.ended_s - made.began_s <= ask.gone_s + SLACK_S, "work goes on for a client that has gone"
    for name, value in made.response_headers.items():
        assert b"\n" not in name + value
        assert b"\r" not in name + value
    if made.status is not None and made.status >= 400 and not made.gone:
        error = json.loads(made.body)["error"]
        assert error["message"]
        assert error["type"]
        if made.status in (429, 503) and error["code"] not in ("no_allowed_source",):
            assert int(made.response_headers[b"retry-after"]) > 0
    if ask.spoiled and not made.gone:
        assert made.status == (401 if ask.spoiled == "key" else 400)


def check_chain(world: World, ask: Ask, made: Exchange, tag: str, begin: Begin, end: End) -> None:
    order = [quote.offer_id for quote in begin.merit_order]
    attempts = [attempt.offer_id for attempt in end.attempts]
    assert set(begin.zones) == ask.zones_allowed()
    assert len(set(attempts)) == len(attempts)
    assert [i for i in order if i in attempts] == attempts, "a fallback left the merit order"
    failed = [a for a in end.attempts if a.status != "bounced"]
    assert len(failed) <= world.case.shape.attempts_max
    called = [call.offer_id for call in world.calls_of(tag)]
    assert [i for i in attempts if i in called] == called, "a source was asked that is in no record"
    assert all(a.status != "bounced" for a in end.attempts if a.offer_id in called)
    for attempt in end.attempts[:-1]:
        assert attempt.status in ("bounced", "failed", "timeout")
    if ask.is_stream and made.status == 200:
        assert world.first_bytes_s.get(tag, len(called)) == len(called), "a source was asked after the first byte"
    assert end.usd_avoidable == pytest.approx(sum(a.usd_avoidable for a in end.attempts), abs=1e-12)
    assert {r.offer_id for r in begin.rejected} | set(order) == set(world.offers)


def check_content(world: World, ask: Ask, made: Exchange, tag: str, end: End) -> None:
    """A whole answer is recorded as complete, and only a whole answer is."""
    calls = world.calls_of(tag)
    streamed = bool(calls) and calls[-1].plan.name.startswith("stream")
    if end.status == "complete":
        plan = calls[-1].plan
        assert calls[-1].offer_id == end.offer_id
        if made.gone:
            return
        assert made.status == 200
        if ask.is_stream:
            assert plan.whole is not None, plan
            assert made.body.startswith(plan.whole)
            assert made.body.endswith(DONE)
            tail = made.body[len(plan.whole) : -len(DONE)]
            assert bool(tail) == (ask.include_usage and b"usage" in b"".join(plan.parts))
        else:
            assert made.body == b"".join(plan.parts)
    elif end.status == "interrupted":
        assert ask.is_stream
        assert streamed
        assert made.gone or made.body.endswith(b"\n\n")
        assert made.gone or b"stream_interrupted" in made.body
        assert DONE not in made.body
        assert b"a secret of the source" not in made.body
    elif end.status == "cancelled":
        assert made.gone
    else:
        assert made.status != 200


def check_budget(world: World) -> None:
    """A decision never goes above what the lease leaves; so only what is in flight can."""
    lease = world.market.leases.get(BUDGETED)
    for record in world.journal.begins.values():
        if record.tenant != BUDGETED:
            continue
        for quote in record.merit_order:
            if lease is None or record.at_s >= lease.expires_s:
                assert world.offers[quote.offer_id].kind == "base", "spending without a lease"
            else:
                assert world.journal.usd_ended_before[record.id] + quote.usd_avoidable <= lease.usd + 1e-12


def check_nothing_leaks(world: World) -> None:
    for load in world.view.load.offers.values():
        assert load.inflight == 0
        assert load.sent_s >= 0.0
    for tenant, usd in world.view.spent_usd().items():
        assert usd == pytest.approx(world.journal.usd_ended[tenant], abs=1e-9), "spent and recorded differ"
    assert all(not gate.held for gate in world.gates.values()), "a slot was kept"
    assert all(reply.closed for reply in world.transport.replies), "a connection was left open"
    assert world.app._inflight == 0
    assert 0.0 <= world.view.retry_tokens <= 50.0
