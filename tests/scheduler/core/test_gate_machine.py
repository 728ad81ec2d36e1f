"""Whatever happens to a gate and in whatever order: nobody is lost, nobody is answered twice, nothing is overbooked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scheduler.core.admission import EVICTED, WORTH_LESS, Bounce, Ticket
from scheduler.core.capacity import BidCurve
from scheduler.core.gate import PoolGate, Verdicts
from scheduler.core.lanes import GateSettings, Grant
from tests.support.markets import POLICY

SLOTS, KV_TOKENS, WAITING_MAX = 3, 100, 8
LIMITS = (0.5, 2.0, 20.0)
REPLICAS = ("a", "b")
BIDS = [None, BidCurve((0.0, 20.0), (0.0, -1.0)), BidCurve((0.0, 0.5, 20.0), (0.0, 0.0, -40.0))]

replicas = st.sampled_from(REPLICAS)
picks = st.integers(0, 100)


@dataclass
class Told:
    """A ticket as this model of the gate knows it: it waits (no replica) or is held by one."""

    ticket: Ticket
    replica: str | None = None
    given: bool = False  # by the gate itself, not remembered from before a restart


@st.composite
def tickets(draw: st.DrawFn) -> Ticket:
    """All but the id and the instants, which are relative to the arrival here."""
    limit_s = draw(st.sampled_from([0.3, *LIMITS, 60.0]))
    forced = draw(st.sampled_from([False, False, True]))
    return Ticket(
        "",
        work_s=draw(st.sampled_from([0.0, 0.1, 0.25, 1.0])),
        usd_displaced=math.inf if forced else draw(st.sampled_from([-0.1, 0.0, 0.1, 0.5, 1.0, 2.0])),
        arrived_s=0.0,
        start_by_s=draw(st.sampled_from([limit_s, 1e9])),
        prefill_s=draw(st.sampled_from([0.0, 0.05, 0.1, 0.5])),
        kv_tokens=draw(st.sampled_from([0, 10, 60, 500])),
        ttft_s_max=limit_s,
        ttft_by_s=draw(st.sampled_from([limit_s, limit_s, math.inf])),
        leave_by_s=draw(st.sampled_from([-1.0, 0.5 * limit_s, limit_s])),
        usd_per_s_waiting=draw(st.sampled_from([0.0, 0.01])),
    )


class GateMachine(RuleBasedStateMachine):
    """The model holds who waits in which order and who is held where, from the verdicts alone."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = PoolGate(GateSettings(SLOTS, WAITING_MAX, 1.0, KV_TOKENS, 0.01, 0.01, 0.001, LIMITS), POLICY)
        self.known: dict[str, Told] = {}  # in order of entry
        self.now_s, self.entries = 0.0, 0
        self.gate.set_replicas(REPLICAS)
        for replica in REPLICAS:
            self.gate.heard(replica, True, 0, 0.0)

    # ---- what the verdicts must be ----

    def waiters(self) -> list[Ticket]:
        return [told.ticket for told in self.known.values() if told.replica is None]

    @staticmethod
    def level(ticket: Ticket) -> int:
        return next((i for i, limit_s in enumerate(LIMITS) if ticket.ttft_s_max <= limit_s), len(LIMITS) - 1)

    def judge(self, verdicts: Verdicts) -> None:
        """Each verdict in turn, against who waits at that moment."""
        for ticket_id, verdict in verdicts:
            told = self.known[ticket_id]
            assert told.replica is None, "only those who wait get a verdict, and only one"
            if isinstance(verdict, Grant):
                self.judge_grant(told, verdict)
            else:
                del self.known[ticket_id]
                self.judge_bounce(told.ticket, verdict)

    def judge_grant(self, told: Told, verdict: Grant) -> None:
        ticket, level = told.ticket, self.level(told.ticket)
        heads: dict[int, Ticket] = {}
        for other in self.waiters():
            heads.setdefault(self.level(other), other)
        assert heads[level].id == ticket.id, "first come, first served within an objective"
        assert ticket.ttft_by_s == min(head.ttft_by_s for head in heads.values()), "earliest deadline first across them"
        assert self.gate.lanes[verdict.replica_id].healthy
        assert self.gate.lanes[verdict.replica_id].others == 0
        told.replica, told.given = verdict.replica_id, True

    def judge_bounce(self, ticket: Ticket, verdict: Bounce) -> None:
        assert 0.0 <= verdict.retry_after_s < math.inf
        if ticket.usd_displaced == math.inf:
            assert verdict.reason not in (WORTH_LESS, EVICTED)
        if verdict.reason != EVICTED:
            return
        assert ticket.leave_by_s >= self.now_s
        rivals = [one for one in self.waiters() if one.leave_by_s >= self.now_s and one.work_s > 0.0]
        own, worth = self.level(ticket), ticket.usd_displaced / ticket.work_s
        behind = [one for one in self.waiters() if self.level(one) == own and self.entry(one) > self.entry(ticket)]
        dearer = [one.usd_displaced / one.work_s >= worth for one in rivals if self.level(one) <= own]
        # The least of its line and all before it; or the last of its line, late whoever else goes.
        assert all(dearer) or not behind

    @staticmethod
    def entry(ticket: Ticket) -> int:
        return int(ticket.id)

    # ---- what happens ----

    @rule(ticket=tickets())
    def enter(self, ticket: Ticket) -> None:
        ticket = ticket._replace(
            id=str(self.entries),
            arrived_s=self.now_s,
            start_by_s=self.now_s + ticket.start_by_s,
            ttft_by_s=self.now_s + ticket.ttft_by_s,
            leave_by_s=self.now_s + ticket.leave_by_s,
        )
        self.entries += 1
        self.known[ticket.id] = Told(ticket)
        self.judge(self.gate.enter(ticket, self.now_s))
        assert self.gate.waiting <= WAITING_MAX

    @precondition(lambda self: self.known)
    @rule(pick=picks)
    def enter_again(self, pick: int) -> None:
        told = list(self.known.values())[pick % len(self.known)]
        assert self.gate.enter(told.ticket, self.now_s) == []

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.1, 0.5, 3.0]), ticks=st.booleans())
    def time_passes(self, seconds: float, ticks: bool) -> None:
        self.now_s += seconds
        if ticks:
            self.judge(self.gate.tick(self.now_s))
            assert all(ticket.start_by_s > self.now_s for ticket in self.waiters())

    @rule(pick=picks)
    def first_token(self, pick: int) -> None:
        names = [*self.known, "nobody"]
        self.judge(self.gate.first_token(names[pick % len(names)], self.now_s))

    @rule(pick=picks, served=st.booleans())
    def leave(self, pick: int, served: bool) -> None:
        names = [*self.known, "nobody"]
        name = names[pick % len(names)]
        self.known.pop(name, None)
        self.judge(self.gate.leave(name, self.now_s, served))
        assert not self.gate.knows(name)

    @rule(replica=replicas, healthy=st.sampled_from([True, True, False]), waiting=st.sampled_from([0, 0, 0, 1, 5]))
    def heard(self, replica: str, healthy: bool, waiting: int) -> None:
        self.judge(self.gate.heard(replica, healthy, waiting, self.now_s))

    @rule(there=st.sampled_from([(), ("a",), REPLICAS, REPLICAS]))
    def replicas_change(self, there: tuple[str, ...]) -> None:
        self.gate.set_replicas(there)

    @rule(ticket=tickets(), replica=replicas)
    def remember(self, ticket: Ticket, replica: str) -> None:
        ticket = ticket._replace(id=str(self.entries), arrived_s=self.now_s)
        self.entries += 1
        self.gate.hold(ticket, replica, self.now_s)
        self.known[ticket.id] = Told(ticket, replica)

    @rule(bids=st.dictionaries(st.sampled_from(LIMITS), st.sampled_from(BIDS)))
    def new_bids(self, bids: dict[float, BidCurve | None]) -> None:
        self.gate.set_bids(bids)

    @rule()
    def send_all_on(self) -> None:
        self.judge(self.gate.bounce_all("nobody is left"))
        assert self.gate.waiting == 0

    # ---- what always holds ----

    @invariant()
    def nobody_is_lost(self) -> None:
        waiting = self.waiters()
        assert sorted(t.id for t in self.gate.tickets()) == sorted(t.id for t in waiting)
        assert self.gate.waiting == len(waiting)
        assert self.gate.running == len(self.known) - len(waiting)
        assert all(self.gate.knows(name) for name in self.known)

    @invariant()
    def lines_hold_the_work_of_those_who_wait_in_order_of_arrival(self) -> None:
        for i, line in enumerate(self.gate.lines):
            own = [ticket for ticket in self.waiters() if self.level(ticket) == i]
            assert list(line.tickets) == [ticket.id for ticket in own]
            assert line.work_s == pytest.approx(sum(ticket.work_s for ticket in own), abs=1e-9)

    @invariant()
    def no_engine_is_overbooked(self) -> None:
        for name, lane in self.gate.lanes.items():
            held = [told for told in self.known.values() if told.replica == name]
            assert set(lane.held) == {told.ticket.id for told in held}
            assert lane.kv_held == sum(told.ticket.kv_tokens for told in held)
            # What is remembered from before a restart is a fact, whatever the bounds say.
            if all(told.given for told in held):
                assert len(held) <= SLOTS
                assert lane.kv_held <= KV_TOKENS or len(held) == 1

    @invariant()
    def backlogs_and_waits_are_times(self) -> None:
        for lane in self.gate.lanes.values():
            assert lane.backlog_s(self.now_s, self.gate.calibration.prefill.value) >= 0.0
            assert lane.begun_s == pytest.approx(sum(lane.begun.values()), abs=1e-9)
            assert lane.begun.keys() <= lane.held.keys()
            assert lane.step_s >= 0.0
        learnt = self.gate.calibration
        assert 0.2 <= learnt.prefill.value <= 5.0
        assert 0.2 <= learnt.work.value <= 5.0
        assert all(0.0 <= level.load <= 1.0 for level in self.gate.levels(self.now_s))
        waits = [level.wait_s for level in self.gate.levels(self.now_s)]
        assert waits == sorted(waits)
        assert waits[0] >= 0.0
        assert math.isfinite(waits[-1]) or not self.gate.healthy

    def teardown(self) -> None:
        for name in list(self.known):
            del self.known[name]
            self.judge(self.gate.leave(name, self.now_s))
        assert (self.gate.running, self.gate.waiting) == (0, 0)
        assert all(line.work_s == 0.0 and not line.tickets for line in self.gate.lines)
        for lane in self.gate.lanes.values():
            assert (lane.held, lane.kv_held, lane.begun, lane.begun_s) == ({}, 0, {}, 0.0)


TestGateMachine = GateMachine.TestCase
TestGateMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
