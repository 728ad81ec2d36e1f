"""Whose tickets they are: gateways, addresses and messages around ``scheduler.core.gate.PoolGate``, which judges.

Synchronous, no I/O; every call returns the messages to send. This class makes sure that each ticket gets exactly one answer,
that a vanished gateway frees what it held, and that nobody is sent away before the engines are known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from scheduler.core import admission
from scheduler.core.admission import Bounce, Ticket
from scheduler.core.gate import PoolGate, Verdicts
from scheduler.core.lanes import GateSettings, Grant
from scheduler.core.market import Policy
from serving.gate.tokens import TokenCounter
from serving.gate.wire import Bids, Bounced, EngineStats, Enter, Granted, ToGateway, ticket_of

Messages = list[tuple[str, ToGateway]]

_RETRY_AFTER_S_MAX = 60.0
_RATE_S = 5.0  # the window in which admitted work is averaged, fading


@dataclass(slots=True)
class _Engine:
    url: str
    stats: EngineStats = field(default_factory=EngineStats)


class GateState:
    """State of one pool's gate. ``now_s`` is any clock that does not go back.

    ``holds`` False: engines that others use as well. Then every ticket is granted at once, within the bounds, and the
    gate only counts: what waits, waits in the engine.
    """

    def __init__(self, settings: GateSettings, policy: Policy, hold_s_max: float = 3600.0, holds: bool = True) -> None:
        self.pool = PoolGate(settings, policy)
        self.holds, self.bids_at_s = holds, 0.0
        self._waiting_max, self._ttft_base_s, self._hold_s_max = settings.waiting_max, settings.ttft_base_s, hold_s_max
        self._engines: dict[str, _Engine] = {}
        self._owners: dict[str, str] = {}
        self._plain: set[str] = set()
        self._surveyed = False
        self._tokens = TokenCounter()
        self._admitted: tuple[float, float] | None = None
        self._admitted_per_s = 0.0

    @property
    def is_surveyed(self) -> bool:
        """Whether every engine that was known at the start has been asked once."""
        return self._surveyed

    def urls(self) -> dict[str, str]:
        """Every engine's url by replica id."""
        return {replica_id: engine.url for replica_id, engine in self._engines.items()}

    def stats(self) -> EngineStats:
        """Queues of the engines that answer, KV usage as their mean; tokens of all since they were first seen."""
        engines = [self._engines[replica_id].stats for replica_id, lane in self.pool.lanes.items() if lane.healthy]
        return EngineStats(
            running=sum(e.running for e in engines),
            waiting=sum(e.waiting for e in engines),
            kv_usage=sum(e.kv_usage for e in engines) / len(engines) if engines else 0.0,
            prompt_tokens=self._tokens.total.prompt,
            generation_tokens=self._tokens.total.generation,
            cached_tokens=self._tokens.total.cached,
            counts_tokens=any(e.counts_tokens for e in engines),
        )

    def levels(self, now_s: float) -> tuple[tuple[float, float, float], ...]:
        """TTFT objective, wait and load of each line; none without an engine. Engines of others queue by themselves."""
        pool = self.pool
        if not pool.healthy:
            return ()
        queued_s = 0.0
        if not self.holds:
            queued_s = sum(self._own_queue(replica_id) for replica_id in pool.lanes) * pool.service_s_mean / pool.slots
        return tuple((level.ttft_s_max, level.wait_s + queued_s, level.load) for level in pool.levels(now_s))

    def _own_queue(self, replica_id: str) -> float:
        lane = self.pool.lanes[replica_id]
        return max(0.0, self._engines[replica_id].stats.waiting - len(lane.begun)) if lane.healthy else 0.0

    def admitted_per_s(self, now_s: float) -> float:
        """Calibrated replica-seconds of work that entered per second, lately; asked for now and then."""
        work_s = self.pool.admitted_work_s
        if self._admitted is not None and now_s > self._admitted[0]:
            past_s = now_s - self._admitted[0]
            rate = (work_s - self._admitted[1]) / past_s
            self._admitted_per_s += (1.0 - math.exp(-past_s / _RATE_S)) * (rate - self._admitted_per_s)
        self._admitted = (now_s, work_s)
        return self._admitted_per_s * self.pool.calibration.work.value

    def enter(self, owner: str, message: Enter, now_s: float) -> Messages:
        """A ticket arrives: granted or bounced at once, or held until an engine can begin or its time runs out."""
        if self.pool.knows(message.id):
            return []
        self._owners[message.id] = owner
        if not message.stream:
            self._plain.add(message.id)
        self._assume(now_s)
        ticket = ticket_of(message, min(message.start_within_s, self._hold_s_max), now_s)
        if not self.holds:
            ticket = ticket._replace(leave_by_s=-math.inf)
        if not self._surveyed and self.pool.waiting < self._waiting_max:
            # Just started: nobody knows yet which engines live, and a bounce would burst what the pool can take.
            return self._say(self.pool.wait(ticket, now_s))
        if self.holds:
            return self._say(self.pool.enter(ticket, now_s))
        return self._say([self._at_once(ticket, now_s)])

    def _at_once(self, ticket: Ticket, now_s: float) -> tuple[str, Grant | Bounce]:
        """To the engine with the least to do, unless there is none or all have far too much."""
        pool, ratio = self.pool, self.pool.calibration.prefill.value
        healthy = [replica_id for replica_id, lane in pool.lanes.items() if lane.healthy]
        if not healthy:
            return ticket.id, Bounce(admission.NOBODY, 1.0)
        if pool.running >= pool.slots + self._waiting_max:
            return ticket.id, Bounce(admission.FULL, pool.service_s_mean)
        pool.admitted_work_s += ticket.work_s
        best = min(
            healthy, key=lambda i: (len(pool.lanes[i].held) + self._own_queue(i), pool.lanes[i].backlog_s(now_s, ratio))
        )
        return pool.give(ticket, best, now_s)

    def _assume(self, now_s: float) -> None:
        """Plain answers show no first token: theirs is taken to come as predicted, or others would be kept for it."""
        ratio = self.pool.calibration.prefill.value
        for lane in self.pool.lanes.values():
            while lane.begun:
                ticket_id, prefill_s = next(iter(lane.begun.items()))
                due_s = lane.since_s + (lane.step_s + prefill_s) * ratio
                if ticket_id not in self._plain or due_s > now_s:
                    break
                lane.first_token(ticket_id, due_s)

    def began(self, ticket_id: str, now_s: float) -> Messages:
        """Its first token was seen."""
        return self._say(self.pool.first_token(ticket_id, now_s))

    def leave(self, ticket_id: str, now_s: float, unreachable: bool = False) -> Messages:
        """A ticket is done or gives up. Unknown ids are forgotten tickets: no error."""
        self._assume(now_s)
        self._owners.pop(ticket_id, None)
        self._plain.discard(ticket_id)
        messages: Messages = []
        if unreachable:
            for replica_id, lane in self.pool.lanes.items():
                if ticket_id in lane.held:
                    messages = self._say(self.pool.heard(replica_id, False, 0, now_s))
        return messages + self._say(self.pool.leave(ticket_id, now_s, served=not unreachable))

    def hello(self, owner: str, held: dict[str, str], now_s: float) -> Messages:
        """A gateway (re)connects: what it holds is counted, what this gate thought it held and it does not is freed."""
        for ticket_id, replica_id in held.items():
            self._owners[ticket_id] = owner
            self.pool.hold(Ticket(ticket_id, 0.0, math.inf, now_s, math.inf), replica_id, now_s)
        waiting = {ticket.id for ticket in self.pool.tickets()}
        kept = waiting.union(held)
        return self._forget([i for i, who in self._owners.items() if who == owner and i not in kept], now_s)

    def gone(self, owner: str, now_s: float) -> Messages:
        """A gateway's connection broke: its engines' connections broke too, so all of its tickets are free."""
        mine = {ticket_id for ticket_id, who in self._owners.items() if who == owner}
        waiting = [ticket.id for ticket in self.pool.tickets() if ticket.id in mine]
        return self._forget([*waiting, *(mine - set(waiting))], now_s)  # those who wait first: nothing is given to them

    def _forget(self, ticket_ids: list[str], now_s: float) -> Messages:
        for ticket_id in ticket_ids:
            del self._owners[ticket_id]
            self._plain.discard(ticket_id)
        return [message for i in ticket_ids for message in self._say(self.pool.leave(i, now_s, served=False))]

    def tick(self, now_s: float) -> Messages:
        """Bounce those whose latest start has come, and those who make room; called some twenty times a second."""
        self._assume(now_s)
        return self._say(self.pool.tick(now_s))

    def set_bids(self, bids: Bids) -> None:
        """New bid curves from the controller."""
        self.bids_at_s = bids.at_s
        self.pool.set_bids(dict(bids.levels))

    def set_replicas(self, replicas: dict[str, str], now_s: float) -> Messages:
        """The replicas that exist, id to url; new ones, also at a known id, are silent until their first sign of life."""
        self.pool.set_replicas(replicas)
        engines, self._engines = self._engines, {}
        for replica_id, url in replicas.items():
            known = engines.get(replica_id)
            if known is None or known.url != url:
                known = _Engine(url)
                self.pool.lanes[replica_id].healthy = False
            self._engines[replica_id] = known
        self._tokens.keep({_place(replica_id, url) for replica_id, url in replicas.items()})
        return self._say(self.pool.pump(now_s))

    def surveyed(self, now_s: float) -> Messages:
        """Every engine that is known has been asked once: from now on a lack of engines is a fact."""
        if self._surveyed:
            return []
        self._surveyed = True
        return self._nobody_or(self.pool.pump(now_s))

    def unbegun(self, replica_id: str) -> int:
        """Tickets that the engine was given and has not begun, as far as is known."""
        lane = self.pool.lanes.get(replica_id)
        return len(lane.begun) if lane is not None else 0

    def heard(self, replica_id: str, stats: EngineStats | None, now_s: float, unbegun: int = 0) -> Messages:
        """Counters of an engine, or None where it did not answer. ``unbegun``: as it was when the engine was asked."""
        engine = self._engines.get(replica_id)
        if engine is None:
            return []
        queued = 0
        if stats is not None:
            engine.stats = stats
            self._tokens.heard(_place(replica_id, engine.url), stats)
            # What began while the answer was on its way may be in its count, and was ours.
            queued = int(stats.waiting) - max(0, unbegun - self.unbegun(replica_id)) if self.holds else 0
        return self._nobody_or(self.pool.heard(replica_id, stats is not None, queued, now_s))

    def _nobody_or(self, verdicts: Verdicts) -> Messages:
        """After a survey without any living engine whoever waits is told to go elsewhere."""
        if self._surveyed and not self.pool.healthy:
            return self._say(self.pool.bounce_all(admission.NOBODY))
        return self._say(verdicts)

    def _say(self, verdicts: Verdicts) -> Messages:
        messages: Messages = []
        for ticket_id, verdict in verdicts:
            if isinstance(verdict, Grant):
                granted = Granted(ticket_id, verdict.replica_id, self._engines[verdict.replica_id].url)
                messages.append((self._owners[ticket_id], granted))
            else:
                retry_after_s = min(_RETRY_AFTER_S_MAX, verdict.retry_after_s)
                self._plain.discard(ticket_id)
                messages.append((self._owners.pop(ticket_id), Bounced(ticket_id, verdict.reason, retry_after_s)))
        return messages


def _place(replica_id: str, url: str) -> str:
    """One at another address is another engine."""
    return f"{replica_id} {url}"
