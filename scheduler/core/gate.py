"""One pool's gate: who waits, who is held, which engine begins with whom. A state machine without clock or I/O.

The shell (``serving.gate``, or the simulator) tells it what happens; every call returns the verdicts that became due.
Within a level (one TTFT objective) tickets are served in order of arrival, across levels the earliest deadline first.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping

from scheduler.core import admission
from scheduler.core.admission import Bounce, Queue, Ticket, admit, is_late, least_valuable
from scheduler.core.capacity import BidCurve, Level, overtaken_s
from scheduler.core.engines import Engines
from scheduler.core.lanes import GateSettings, Grant, Lane, Line
from scheduler.core.learning import Calibration
from scheduler.core.market import Policy

Verdicts = list[tuple[str, Grant | Bounce]]

_SERVICE_WEIGHT = 0.05


class PoolGate(Engines):
    """State of one gate; ``now_s`` is any clock that does not go back."""

    def __init__(self, settings: GateSettings, policy: Policy) -> None:
        super().__init__(settings)
        self._policy = policy
        self.service_s_mean = settings.service_s_guess
        self.lines = [Line(limit_s) for limit_s in sorted(set(settings.ttft_s_max)) or [math.inf]]
        self._limits = [line.ttft_s_max for line in self.lines]
        self.calibration = Calibration(policy.ttft_margin)
        self.admitted_work_s = 0.0
        self.waiting = 0
        self._place: dict[str, Lane | Line] = {}

    def tickets(self) -> Iterable[Ticket]:
        """Those that wait, by level."""
        for line in self.lines:
            yield from line.tickets.values()

    def knows(self, ticket_id: str) -> bool:
        """Whether it waits or is held."""
        return ticket_id in self._place

    def set_bids(self, bids: Mapping[float, BidCurve | None]) -> None:
        """New bid curves by TTFT objective; a level that is not named keeps its own."""
        for line in self.lines:
            line.bid = bids.get(line.ttft_s_max, line.bid)

    def levels(self, now_s: float) -> tuple[Level, ...]:
        """Wait at the end of every line, and its bid curve."""
        begun_s = slots = held = replicas = 0.0
        for lane in self.lanes.values():
            if lane.healthy:
                replicas += 1
                begun_s += lane.backlog_s(now_s, self.calibration.prefill.value)
                slots, held = slots + lane.slots, held + len(lane.held)
        if not replicas:
            return tuple(Level(line.ttft_s_max, math.inf, line.bid) for line in self.lines)
        ahead_s, share = begun_s / replicas, self.calibration.work.value / replicas
        if held >= slots:  # the next slot must come free first
            ahead_s += self.service_s_mean / slots
        found = []
        for line in self.lines:
            ahead_s += line.work_s * share
            found.append(Level(line.ttft_s_max, ahead_s, line.bid, min(1.0, line.flow(now_s) * share)))
        return tuple(found)

    def queue(self, ticket: Ticket, now_s: float) -> Queue:
        """The pool as ``ticket`` finds it."""
        replicas, own, levels = self.healthy, self._level(ticket), self.levels(now_s)
        wait_s, share = levels[own].wait_s, self.calibration.work.value / max(1, replicas)
        for line in self.lines[own + 1 :]:  # of slower classes only those whose deadlines come first
            wait_s += share * line.work_before_s(ticket.ttft_by_s)
        free = not self.waiting and self._best(ticket, now_s) is not None
        return Queue(
            replicas, free, self.waiting, self._settings.waiting_max, wait_s, levels[own:], self.calibration.work.value
        )

    def _level(self, ticket: Ticket) -> int:
        return min(bisect_left(self._limits, ticket.ttft_s_max), len(self.lines) - 1)

    def _best(self, ticket: Ticket, now_s: float) -> str | None:
        """The engine that would begin first; the one with the most free slots among equals."""
        ahead_s, ratio = self._policy.grant_ahead_s, self.calibration.prefill.value
        best, best_key = None, (math.inf, 0)
        for replica_id, lane in self.lanes.items():
            if lane.takes(ticket.kv_tokens, ahead_s, now_s, ratio):
                key = (lane.backlog_s(now_s, ratio), len(lane.held) - lane.slots)
                if key < best_key:
                    best, best_key = replica_id, key
        return best

    def enter(self, ticket: Ticket, now_s: float) -> Verdicts:
        """A ticket arrives; its seconds of work are those of the service curve."""
        if self.knows(ticket.id):
            return []
        verdict = admit(ticket, self.queue(ticket, now_s), now_s)
        if isinstance(verdict, Bounce):
            return [(ticket.id, verdict)]
        return self.wait(ticket, now_s)

    def wait(self, ticket: Ticket, now_s: float) -> Verdicts:
        """The ticket takes its place in line whatever the price; whoever is late by that makes room."""
        level = self._level(ticket)
        line = self.lines[level]
        line.add(ticket)
        self._place[ticket.id], self.waiting = line, self.waiting + 1
        self.admitted_work_s += ticket.work_s
        verdicts = self.pump(now_s)
        return verdicts + self._make_room(level, now_s) if self.waiting else verdicts

    def _make_room(self, first: int, now_s: float) -> Verdicts:
        """While the last of a line (from level ``first`` up) is late, the least valuable who may leave goes."""
        verdicts: Verdicts = []
        base_s, ratio = self._settings.ttft_base_s, self.calibration.prefill.value
        share, margin = self.calibration.work.value / max(1, self.healthy), self.calibration.margin
        level = first
        if not self.healthy:
            return verdicts  # without an engine nothing is known of anybody's wait
        while level < len(self.lines):
            line = self.lines[level]
            if line.tickets:
                last = next(reversed(line.tickets.values()))
                wait_s = overtaken_s(self.levels(now_s), level) - last.work_s * share + base_s
                own_s = last.prefill_s * ratio
                if is_late(last, wait_s + own_s, margin, now_s):
                    alone = is_late(last, base_s + own_s, margin, now_s)
                    ahead = (last,) if alone else (t for ln in self.lines[: level + 1] for t in ln.tickets.values())
                    worst = least_valuable(ahead, now_s)
                    if worst is not None:
                        verdicts.append(self._out(worst, admission.EVICTED, wait_s))
                        continue
            level += 1
        return verdicts

    def _out(self, ticket: Ticket, reason: str, retry_after_s: float) -> tuple[str, Bounce]:
        line = self._place.pop(ticket.id)
        assert isinstance(line, Line)  # noqa: S101 - only those who wait are put out
        line.remove(ticket.id)
        self.waiting -= 1
        if not self.waiting:
            self.calibration.ran_empty()
        return ticket.id, Bounce(reason, max(0.0, retry_after_s))

    def _next(self) -> Ticket:
        heads = [next(iter(line.tickets.values())) for line in self.lines if line.tickets]
        return min(heads, key=lambda head: head.ttft_by_s) if len(heads) > 1 else heads[0]

    def pump(self, now_s: float) -> Verdicts:
        """Give engines that can begin the tickets with the earliest deadlines."""
        verdicts: Verdicts = []
        while self.waiting:
            ticket = self._next()
            best = self._best(ticket, now_s)
            if best is None:
                break
            line = self._place[ticket.id]
            assert isinstance(line, Line)  # noqa: S101 - it was found in one
            line.remove(ticket.id)
            line.served(ticket.work_s, now_s)
            self.waiting -= 1
            self.calibration.began(ticket.work_s, self.waiting, self.healthy, now_s)
            verdicts.append(self.give(ticket, best, now_s))
        return verdicts

    def give(self, ticket: Ticket, replica_id: str, now_s: float) -> tuple[str, Grant]:
        """The ticket gets a slot of that engine now, whatever the price and whoever waits."""
        lane, settings = self.lanes[replica_id], self._settings
        lane.give(
            ticket,
            settings.step_base_s + settings.step_per_seq_s * len(lane.held),
            now_s,
            self.calibration.prefill.value,
        )
        self._place[ticket.id] = lane
        return ticket.id, Grant(replica_id)

    def first_token(self, ticket_id: str, now_s: float) -> Verdicts:
        """The engine of a held ticket has begun to answer it."""
        lane = self._place.get(ticket_id)
        if not isinstance(lane, Lane):
            return []
        # The news took its time; the engine has been at the next prompt since.
        took = lane.first_token(ticket_id, now_s - self._settings.ttft_base_s)
        if took is None:
            return []
        self.calibration.prefill.took(*took)
        ticket, _ = lane.held[ticket_id]
        if ticket.ttft_by_s < math.inf:
            self.calibration.judged(now_s > ticket.ttft_by_s)
        return self.pump(now_s)

    def leave(self, ticket_id: str, now_s: float, served: bool = True) -> Verdicts:
        """A ticket is done or gives up. Unknown ids are forgotten tickets: no error."""
        place = self._place.get(ticket_id)
        if place is None:
            return []
        if isinstance(place, Line):
            self._out(place.tickets[ticket_id], "", 0.0)
            return []
        del self._place[ticket_id]
        _, granted_s = place.release(ticket_id, now_s)
        if served:
            self.service_s_mean += _SERVICE_WEIGHT * (now_s - granted_s - self.service_s_mean)
        return self.pump(now_s)

    def tick(self, now_s: float) -> Verdicts:
        """Some twenty times a second: those whose time is out are bounced, and those who are late make room."""
        self.calibration.rest(now_s)
        late = [ticket for ticket in self.tickets() if ticket.start_by_s <= now_s] if self.waiting else []
        verdicts: Verdicts = [self._out(ticket, "waited too long", 1.0) for ticket in late]
        verdicts += self.pump(now_s)
        if self.waiting:
            self._look(now_s)
            verdicts += self._make_room(0, now_s)
        return verdicts

    def _look(self, now_s: float) -> None:
        """What keeps the line back."""
        kv_tokens, ahead_s = self._next().kv_tokens, self._policy.grant_ahead_s
        lanes = [lane for lane in self.lanes.values() if lane.healthy and not lane.others]
        idle = [lane for lane in lanes if lane.backlog_s(now_s, self.calibration.prefill.value) <= ahead_s]
        self.calibration.kept_back(sum(not lane.has_room(kv_tokens) for lane in idle), len(lanes))

    def heard(self, replica_id: str, healthy: bool, engine_waiting: int, now_s: float) -> Verdicts:
        """An engine's sign of life or none, and its own queue; without any engine whoever waits is sent on."""
        lane = self.lanes.get(replica_id)
        if lane is None:
            return []
        lane.healthy, lane.others = healthy, max(0, engine_waiting - len(lane.begun)) if healthy else 0
        return self.pump(now_s)

    def hold(self, ticket: Ticket, replica_id: str, now_s: float) -> None:
        """A ticket that holds a slot already, as its gateway says after one of the two was restarted."""
        if not self.knows(ticket.id):
            lane = self.lanes.get(replica_id) or self._away.setdefault(replica_id, self._lane())
            lane.hold(ticket, now_s)
            self._place[ticket.id] = lane

    def bounce_all(self, reason: str) -> Verdicts:
        """Whoever waits is told to go elsewhere."""
        return [self._out(ticket, reason, 1.0) for ticket in list(self.tickets())]
