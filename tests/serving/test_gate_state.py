"""The gate's state under any order of events: one answer each, no slot lost, none given twice, no deadline passed over."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scheduler.core import admission
from serving.gate.state import GateState, Messages
from serving.gate.wire import Bounced, EngineStats, Granted
from tests.support.gates import enter, gate_state, steep

OWNERS = ("g0", "g1", "g2")
REPLICAS = ("r0", "r1", "r2")
LEVELS = (1.0, 4.0)
owners, replicas = st.sampled_from(OWNERS), st.sampled_from(REPLICAS)
QUEUED = 1000.0  # more than the gate ever gave


class GateMachine(RuleBasedStateMachine):
    """``waiting`` (in order of arrival), ``held`` and ``engines`` are what the world outside knows of the gate.

    ``asked``: what each ticket said of itself. ``prefill_s``: without it an engine begins at once with all it is given.
    """

    @initialize(
        slots=st.integers(1, 2),
        waiting_max=st.sampled_from([8, 3, 0]),
        prefill_s=st.sampled_from([0.0, 0.0, 0.2]),
        holds=st.sampled_from([True, True, True, False]),
    )
    def start(self, slots: int, waiting_max: int, prefill_s: float, holds: bool) -> None:
        self.slots, self.waiting_max, self.now_s = slots, waiting_max, 100.0
        self.prefill_s, self.holds = prefill_s, holds
        self.asked: dict[str, dict[str, Any]] = {}
        self.by_s: dict[str, float] = {}
        self.leave_by_s: dict[str, float] = {}
        self.state = self.new_state()
        self.owner: dict[str, str] = {}
        self.start_by_s: dict[str, float] = {}
        self.waiting: list[str] = []
        self.held: dict[str, str] = {}
        self.answers: dict[str, int] = {}
        self.excused: set[str] = set()  # left, or lost with their gateway, before an answer
        self.engines: dict[str, tuple[str, bool, bool]] = {}  # url, healthy, queues by itself
        self.overfull: set[str] = set()
        self.known = False  # whether the gate has asked every engine once since it started
        self.set_replicas(["r0"], 0)
        self.heard("r0", True, False)
        self.survey()

    def new_state(self) -> GateState:
        return gate_state(self.slots, self.waiting_max, 0.5, LEVELS, self.holds)

    def take(self, messages: Messages) -> None:
        """What the gate says goes to the ticket's owner, once; a grant to the earliest deadline, in order of arrival."""
        for owner, message in messages:
            assert owner == self.owner[message.id]
            self.answers[message.id] = self.answers.get(message.id, 0) + 1
            assert message.id in self.waiting, f"{message} to a ticket that does not wait"
            if isinstance(message, Granted):
                if self.holds:
                    assert self.next_of(self.level(message.id)) == message.id, "a later ticket was served first"
                    heads = [self.next_of(level) for level in LEVELS]
                    assert self.by_s[message.id] <= min(self.by_s[head] for head in heads if head)
                url, healthy, queues = self.engines[message.replica]
                assert healthy
                assert not queues or not self.holds
                assert message.url == url
                self.held[message.id] = message.replica
            else:
                assert isinstance(message, Bounced)
                assert 0.0 <= message.retry_after_s <= 60.0
                if message.reason == admission.EVICTED:
                    assert self.leave_by_s[message.id] >= self.now_s, "sent on when it was too late for that"
            self.waiting.remove(message.id)

    def level(self, ticket: str) -> float:
        return float(self.asked[ticket]["ttft_s_max"])

    def next_of(self, level: float) -> str | None:
        return next((ticket for ticket in self.waiting if self.level(ticket) == level), None)

    def ask(self, owner: str, ticket: str) -> None:
        """``ticket`` (again) asks for its slot; its times count from now."""
        fields = self.asked[ticket]
        self.waiting.append(ticket)
        self.start_by_s[ticket] = self.now_s + fields["start_within_s"]
        self.by_s[ticket] = self.now_s + fields["ttft_within_s"]
        leave_s = fields["leave_within_s"]
        self.leave_by_s[ticket] = -math.inf if leave_s is None else self.now_s + leave_s
        self.take(enter(self.state, owner, ticket, self.now_s, **fields))

    def of(self, owner: str) -> list[str]:
        return [i for i in (*self.waiting, *self.held) if self.owner[i] == owner]

    @rule(
        owner=owners,
        within_s=st.sampled_from([1e6, 1e6, 1e6, 5.0, 0.3, 0.0]),
        level=st.sampled_from(LEVELS),
        leave_s=st.sampled_from([None, 0.5, 3.0]),
        usd=st.sampled_from([None, 0.02, 0.001, -0.01]),
        work_s=st.sampled_from([0.1, 1.0]),
        stream=st.booleans(),
    )
    def enter(
        self,
        owner: str,
        within_s: float,
        level: float,
        leave_s: float | None,
        usd: float | None,
        work_s: float,
        stream: bool,
    ) -> None:
        ticket = f"t{len(self.owner)}"
        self.owner[ticket] = owner
        self.asked[ticket] = {
            "start_within_s": within_s,
            "usd_displaced": usd,
            "prefill_s": self.prefill_s,
            "ttft_s_max": level,
            "ttft_within_s": level,
            "leave_within_s": leave_s,
            "work_s": work_s,
            "stream": stream,
        }
        self.ask(owner, ticket)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def began(self, data: st.DataObject) -> None:
        self.take(self.state.began(data.draw(st.sampled_from([*self.held])), self.now_s))

    @rule(usd_per_s=st.sampled_from([0.0, 0.1, 1.0]), level=st.sampled_from(LEVELS))
    def priced(self, usd_per_s: float, level: float) -> None:
        self.state.set_bids(steep(usd_per_s, level))

    @precondition(lambda self: self.held or self.waiting)
    @rule(data=st.data())
    def enter_twice(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from([*self.waiting, *self.held]))
        assert enter(self.state, self.owner[ticket], ticket, self.now_s) == []

    @precondition(lambda self: self.held or self.waiting)
    @rule(data=st.data(), unreachable=st.booleans())
    def leave(self, data: st.DataObject, unreachable: bool) -> None:
        ticket = data.draw(st.sampled_from([*self.waiting, *self.held]))
        replica = self.held.pop(ticket, None)
        if replica is None:
            self.waiting.remove(ticket)
            self.excused.add(ticket)
        elif unreachable and replica in self.engines:
            url, _, queues = self.engines[replica]
            self.engines[replica] = (url, False, queues)
        self.take(self.state.leave(ticket, self.now_s, unreachable))

    @rule()
    def leave_unknown(self) -> None:
        assert self.state.leave("never-seen", self.now_s) == []
        assert self.state.began("never-seen", self.now_s) == []

    @rule(owner=owners)
    def gone(self, owner: str) -> None:
        for ticket in self.of(owner):
            if self.held.pop(ticket, None) is None:
                self.waiting.remove(ticket)
                self.excused.add(ticket)
        self.take(self.state.gone(owner, self.now_s))

    @rule(owner=owners, data=st.data())
    def reconnect(self, owner: str, data: st.DataObject) -> None:
        """Before the gate has seen the old connection close; some tickets were given back meanwhile."""
        mine = {i: r for i, r in self.held.items() if self.owner[i] == owner}
        kept = {i: r for i, r in mine.items() if data.draw(st.booleans())}
        for ticket in mine.keys() - kept.keys():
            del self.held[ticket]
        self.take(self.state.hello(owner, kept, self.now_s))

    @rule(order=st.permutations(OWNERS), told_late=st.booleans())
    def restart(self, order: list[str], told_late: bool) -> None:
        """A new gate that knows nothing: replicas come up, gateways say what they hold and ask again for the rest."""
        self.state, self.known = self.new_state(), False
        waiting, self.waiting = self.waiting, []
        known, self.engines = self.engines, {}
        self.overfull |= set(REPLICAS)
        if not told_late:
            self.set_replicas(sorted(known), 0)
        for owner in order:
            mine = {i: r for i, r in self.held.items() if self.owner[i] == owner}
            self.take(self.state.hello(owner, mine, self.now_s))
            for ticket in [i for i in waiting if self.owner[i] == owner]:
                self.ask(owner, ticket)
        if told_late:
            self.set_replicas(sorted(known), 0)

    @rule()
    def survey(self) -> None:
        before, self.known = self.known, True
        self.take(self.state.surveyed(self.now_s))
        if not before:
            self.dead_engines_keep_nobody_waiting()

    def dead_engines_keep_nobody_waiting(self) -> None:
        if self.known and not any(healthy for _, healthy, _ in self.engines.values()):
            assert not self.waiting, "waiting for engines that are all dead"

    @rule(seconds=st.sampled_from([0.0, 0.25, 0.9, 3.0]))
    def tick(self, seconds: float) -> None:
        self.now_s += seconds
        due = {i for i in self.waiting if self.start_by_s[i] <= self.now_s}
        messages = self.state.tick(self.now_s)
        assert {m.id for _, m in messages if isinstance(m, Bounced) and m.reason != admission.EVICTED} == due
        self.take(messages)

    @rule(
        names=st.sampled_from([["r0"], ["r0", "r1"], list(REPLICAS), ["r1"], []]), moved=st.sampled_from([0, 0, 0, 1])
    )
    def set_replicas(self, names: list[str], moved: int) -> None:
        urls = {name: f"http://{name}:{moved}" for name in names}
        self.engines = {
            name: self.engines[name] if self.engines.get(name, ("",))[0] == url else (url, False, False)
            for name, url in urls.items()
        }
        self.take(self.state.set_replicas(urls, self.now_s))
        assert self.state.urls() == urls

    @rule(name=replicas, alive=st.sampled_from([True, True, True, False]), queues=st.sampled_from([False, False, True]))
    def heard(self, name: str, alive: bool, queues: bool) -> None:
        stats = EngineStats(waiting=QUEUED * queues) if alive else None
        if name in self.engines:
            url, _, before = self.engines[name]
            self.engines[name] = (url, alive, queues if alive else before)
        self.take(self.state.heard(name, stats, self.now_s))
        if name in self.engines:
            self.dead_engines_keep_nobody_waiting()

    def held_on(self, name: str) -> int:
        return sum(1 for replica in self.held.values() if replica == name)

    @invariant()
    def no_ticket_is_answered_twice_and_the_counts_agree(self) -> None:
        if not hasattr(self, "state"):
            return
        assert all(n == 1 for n in self.answers.values())
        pool = self.state.pool
        assert (pool.running, pool.waiting) == (len(self.held), len(self.waiting))
        assert self.state._owners.keys() == {*self.held, *self.waiting}
        assert self.state._plain <= self.state._owners.keys()
        assert pool.calibration.margin <= 0.93
        healthy = [name for name, (_, alive, _) in self.engines.items() if alive]
        assert (pool.healthy, pool.slots) == (len(healthy), len(healthy) * self.slots)

    @invariant()
    def no_replica_holds_more_than_its_slots_and_the_queue_stays_within_its_bound(self) -> None:
        if not hasattr(self, "state"):
            return
        assert len(self.waiting) <= self.waiting_max
        for name in REPLICAS if self.holds else ():
            if self.held_on(name) <= self.slots:
                self.overfull.discard(name)
            else:
                assert name in self.overfull

    @invariant()
    def nobody_waits_while_a_slot_is_free(self) -> None:
        if getattr(self, "waiting", None) and self.known and self.prefill_s == 0.0:
            free = [
                n for n, (_, up, queues) in self.engines.items() if up and not queues and self.held_on(n) < self.slots
            ]
            assert not free

    def teardown(self) -> None:
        if not hasattr(self, "state"):
            return
        for ticket in list(self.held):
            del self.held[ticket]
            self.take(self.state.leave(ticket, self.now_s))
        self.now_s += 1e7
        self.take(self.state.tick(self.now_s))
        for ticket in list(self.held):
            del self.held[ticket]
            self.take(self.state.leave(ticket, self.now_s))
        assert (self.state.pool.running, self.state.pool.waiting) == (0, 0)
        for ticket in self.owner:
            assert self.answers.get(ticket, 0) == (0 if ticket in self.excused else 1), ticket


TestGateMachine = GateMachine.TestCase
TestGateMachine.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)
