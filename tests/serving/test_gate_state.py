"""The gate's state under any order of events: one answer each, no slot lost, none given twice."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serving.gate.state import GateState, Messages
from serving.gate.wire import Bounced, EngineStats, Enter, Granted

OWNERS = ("g0", "g1", "g2")
REPLICAS = ("r0", "r1", "r2")
owners, replicas = st.sampled_from(OWNERS), st.sampled_from(REPLICAS)


class GateMachine(RuleBasedStateMachine):
    """``waiting`` (in order of arrival), ``held`` and ``engines`` are what the world outside knows of the gate."""

    @initialize(slots=st.integers(1, 2), waiting_max=st.sampled_from([8, 3, 0]))
    def start(self, slots: int, waiting_max: int) -> None:
        self.slots, self.waiting_max, self.now_s = slots, waiting_max, 100.0
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
        return GateState(self.slots, self.waiting_max, 0.5)

    def take(self, messages: Messages) -> None:
        """What the gate says goes to the ticket's owner, once, and a grant goes to the longest waiter."""
        for owner, message in messages:
            assert owner == self.owner[message.id]
            self.answers[message.id] = self.answers.get(message.id, 0) + 1
            assert message.id in self.waiting, f"{message} to a ticket that does not wait"
            if isinstance(message, Granted):
                assert self.waiting[0] == message.id, "a later ticket was served first"
                url, healthy, queues = self.engines[message.replica]
                assert healthy
                assert not queues
                assert message.url == url
                self.held[message.id] = message.replica
            else:
                assert isinstance(message, Bounced)
                assert message.retry_after_s >= 0
            self.waiting.remove(message.id)

    def of(self, owner: str) -> list[str]:
        return [i for i in (*self.waiting, *self.held) if self.owner[i] == owner]

    @rule(owner=owners, within_s=st.sampled_from([1e6, 1e6, 1e6, 5.0, 0.3, 0.0]))
    def enter(self, owner: str, within_s: float) -> None:
        ticket = f"t{len(self.owner)}"
        self.owner[ticket], self.start_by_s[ticket] = owner, self.now_s + within_s
        self.waiting.append(ticket)
        self.take(self.state.enter(owner, Enter(ticket, 0.1, 0.01, within_s), self.now_s))

    @precondition(lambda self: self.held or self.waiting)
    @rule(data=st.data())
    def enter_twice(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from([*self.waiting, *self.held]))
        assert self.state.enter(self.owner[ticket], Enter(ticket, 0.1, 0.01, 1.0), self.now_s) == []

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

    @rule(order=st.permutations(OWNERS))
    def restart(self, order: list[str]) -> None:
        """A new gate that knows nothing: replicas come up, gateways say what they hold and ask again for the rest."""
        self.state, self.known = self.new_state(), False
        waiting, self.waiting = self.waiting, []
        known, self.engines = self.engines, {}
        self.set_replicas(sorted(known), 0)
        self.overfull |= set(REPLICAS)
        for owner in order:
            mine = {i: r for i, r in self.held.items() if self.owner[i] == owner}
            self.take(self.state.hello(owner, mine, self.now_s))
            for ticket in [i for i in waiting if self.owner[i] == owner]:
                self.waiting.append(ticket)
                self.start_by_s[ticket] = self.now_s + 1.0
                self.take(self.state.enter(owner, Enter(ticket, 0.1, 0.01, 1.0), self.now_s))

    @rule()
    def survey(self) -> None:
        before, self.known = self.known, True
        self.take(self.state.surveyed(self.now_s))
        if not before:
            self.dead_engines_keep_nobody_waiting()

    def dead_engines_keep_nobody_waiting(self) -> None:
        if self.known and not any(healthy for _, healthy, _ in self.engines.values()):
            assert not self.waiting, "waiting for engines that are all dead"

    @rule(seconds=st.sampled_from([0.0, 0.25, 3.0]))
    def tick(self, seconds: float) -> None:
        self.now_s += seconds
        due = [i for i in self.waiting if self.start_by_s[i] <= self.now_s]
        messages = self.state.tick(self.now_s)
        assert [m.id for _, m in messages if isinstance(m, Bounced)] == due
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
        stats = EngineStats(waiting=float(queues)) if alive else None
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
        assert (self.state.running, self.state.waiting) == (len(self.held), len(self.waiting))
        healthy = [name for name, (_, alive, _) in self.engines.items() if alive]
        assert (self.state.healthy_replicas, self.state.slots) == (len(healthy), len(healthy) * self.slots)

    @invariant()
    def no_replica_holds_more_than_its_slots_and_the_queue_stays_within_its_bound(self) -> None:
        if not hasattr(self, "state"):
            return
        assert len(self.waiting) <= self.waiting_max
        for name in REPLICAS:
            if self.held_on(name) <= self.slots:
                self.overfull.discard(name)
            else:
                assert name in self.overfull

    @invariant()
    def nobody_waits_while_a_slot_is_free(self) -> None:
        if getattr(self, "waiting", None) and self.known:
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
        assert (self.state.running, self.state.waiting) == (0, 0)
        for ticket in self.owner:
            assert self.answers.get(ticket, 0) == (0 if ticket in self.excused else 1), ticket


TestGateMachine = GateMachine.TestCase
TestGateMachine.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)


def gate(slots: int = 1) -> GateState:
    state = GateState(slots, 8, 1.0)
    state.set_replicas({"r": "http://r"}, 0.0)
    state.heard("r", EngineStats(), 0.0)
    state.surveyed(0.0)
    return state


def enter(state: GateState, owner: str, ticket: str, now_s: float = 0.0) -> Messages:
    return state.enter(owner, Enter(ticket, 0.1, 0.02, 60.0), now_s)


def test_a_gateway_that_vanishes_frees_its_slot_for_another_gateways_waiter() -> None:
    state = gate()
    assert enter(state, "a", "1") == [("a", Granted("1", "r", "http://r"))]
    assert enter(state, "b", "2") == []
    assert state.gone("a", 1.0) == [("b", Granted("2", "r", "http://r"))]


def test_a_gateway_that_comes_back_with_a_ticket_fewer_frees_its_slot_for_a_waiter() -> None:
    state = gate(slots=2)
    enter(state, "a", "1")
    enter(state, "a", "2")
    enter(state, "b", "3")
    enter(state, "b", "4")
    assert state.hello("a", {"2": "r"}, 1.0) == [("b", Granted("3", "r", "http://r"))]
    assert state.waiting == 1


def test_a_replica_that_moves_to_another_address_still_counts_what_it_holds() -> None:
    state = gate()
    enter(state, "a", "1")
    enter(state, "a", "2")
    assert state.set_replicas({"r": "http://elsewhere"}, 1.0) == []
    assert state.heard("r", EngineStats(), 1.0) == []
    assert state.leave("1", 2.0) == [("a", Granted("2", "r", "http://elsewhere"))]


def test_a_new_replica_gets_nothing_before_its_first_sign_of_life() -> None:
    state = GateState(4, 8, 1.0)
    state.set_replicas({"r": "http://r"}, 0.0)
    state.surveyed(0.0)
    assert state.slots == 0
    ((_, answer),) = enter(state, "a", "1")
    assert isinstance(answer, Bounced)
    assert answer.reason == "no healthy replica"


def test_a_gate_that_has_just_started_bounces_nobody_before_it_knows_its_engines() -> None:
    state = GateState(1, 1, 1.0)
    state.set_replicas({"r": "http://r", "s": "http://s"}, 0.0)
    assert enter(state, "a", "1") == []
    ((_, full),) = enter(state, "a", "2")
    assert isinstance(full, Bounced)
    assert state.heard("r", None, 0.0) == []
    assert state.heard("s", EngineStats(), 0.0) == [("a", Granted("1", "s", "http://s"))]
    dead = GateState(1, 8, 1.0)
    assert enter(dead, "a", "1") == []
    assert dead.surveyed(0.0) == [("a", Bounced("1", "no healthy replica", 1.0))]
    assert dead.surveyed(0.0) == []


def test_the_mean_time_of_service_is_learned_from_those_that_leave_and_not_from_broken_ones() -> None:
    state = gate()
    enter(state, "a", "1")
    state.leave("1", 3.0)
    assert state.service_s_mean == pytest.approx(1.0 + 0.05 * 2.0)
    enter(state, "a", "2", 3.0)
    state.leave("2", 90.0, unreachable=True)
    assert state.service_s_mean == pytest.approx(1.1)


def test_demand_is_a_bounded_and_recent_sample_with_the_seconds_it_spans() -> None:
    state = gate()
    assert state.demand(5.0) == ([], 0.0)
    for i in range(300):
        enter(state, "a", str(i), i * 0.0625)
    sample, span_s = state.demand(300 * 0.0625)
    assert sample == [(0.02, 0.1)] * 256
    assert span_s == (300 - 44) * 0.0625
    sample, span_s = state.demand(30.0 + 298 * 0.0625)
    assert (sample, span_s) == ([(0.02, 0.1)] * 2, 30.0)
    assert state.demand(100.0) == ([], 0.0)


def test_queues_of_engines_add_up_and_sick_ones_do_not_count() -> None:
    state = GateState(4, 8, 1.0)
    state.set_replicas({"a": "u", "b": "v", "c": "w"}, 0.0)
    state.heard("a", EngineStats(1, 2, 0.5), 0.0)
    state.heard("b", EngineStats(3, 4, 0.1), 0.0)
    assert state.stats() == EngineStats(4, 6, pytest.approx(0.3))
    state.heard("b", None, 0.0)
    assert state.stats() == EngineStats(1, 2, 0.5)
    assert state.heard("nobody", EngineStats(), 0.0) == []
