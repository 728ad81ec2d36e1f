"""Who waits and who is held in front of one pool: synchronous, no I/O; every call returns the messages to send.

The judgement is ``scheduler.core.admission.admit``; this class keeps the exact state that it judges and makes sure that
each ticket gets exactly one answer, that a freed slot wakes the next, and that a vanished gateway frees what it held.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from scheduler.core.admission import Admit, Bounce, Queue, Replica, Ticket, admit, least_loaded
from serving.gate.tokens import TokenCounter
from serving.gate.wire import Bounced, EngineStats, Enter, Granted, ToGateway

Messages = list[tuple[str, ToGateway]]

_DEMAND_MAX = 256
_DEMAND_S = 30.0
_SERVICE_WEIGHT = 0.05


@dataclass(slots=True)
class _Engine:
    url: str
    slots: int
    healthy: bool = False
    held: set[str] = field(default_factory=set)
    stats: EngineStats = field(default_factory=EngineStats)


@dataclass(slots=True)
class _Held:
    owner: str
    replica: str
    since_s: float


class GateState:
    """State of one pool's gate. ``now_s`` is any clock that does not go back."""

    def __init__(
        self, slots_per_replica: int, waiting_max: int, service_s_guess: float, hold_s_max: float = 3600.0
    ) -> None:
        self._slots, self._waiting_max, self._hold_s_max = slots_per_replica, waiting_max, hold_s_max
        self.service_s_mean = service_s_guess
        self._engines: dict[str, _Engine] = {}
        self._held: dict[str, _Held] = {}
        self._waiting: OrderedDict[str, tuple[Ticket, str]] = OrderedDict()
        self._surveyed = False
        self._demand: deque[tuple[float, float, float]] = deque(maxlen=_DEMAND_MAX)
        self._tokens = TokenCounter()

    @property
    def running(self) -> int:
        """Tickets that hold a slot."""
        return len(self._held)

    @property
    def waiting(self) -> int:
        """Tickets that wait for one."""
        return len(self._waiting)

    @property
    def healthy_replicas(self) -> int:
        """Engines that answer."""
        return sum(1 for engine in self._engines.values() if engine.healthy)

    @property
    def slots(self) -> int:
        """Slots of the engines that answer."""
        return sum(engine.slots for engine in self._engines.values() if engine.healthy)

    @property
    def is_surveyed(self) -> bool:
        """Whether every engine that was known at the start has been asked once."""
        return self._surveyed

    def urls(self) -> dict[str, str]:
        """Every engine's url by replica id."""
        return {replica_id: engine.url for replica_id, engine in self._engines.items()}

    def stats(self) -> EngineStats:
        """Queues of the engines that answer, KV usage as their mean; tokens of all since they were first seen."""
        engines = [engine.stats for engine in self._engines.values() if engine.healthy]
        return EngineStats(
            running=sum(e.running for e in engines),
            waiting=sum(e.waiting for e in engines),
            kv_usage=sum(e.kv_usage for e in engines) / len(engines) if engines else 0.0,
            prompt_tokens=self._tokens.total.prompt,
            generation_tokens=self._tokens.total.generation,
            cached_tokens=self._tokens.total.cached,
            counts_tokens=any(e.counts_tokens for e in engines),
        )

    def demand(self, now_s: float) -> tuple[list[tuple[float, float]], float]:
        """Recent (usd_displaced, work_s) and the seconds they span."""
        while self._demand and self._demand[0][0] < now_s - _DEMAND_S:
            self._demand.popleft()
        if not self._demand:
            return [], 0.0
        return [(usd, work_s) for _, usd, work_s in self._demand], max(1e-3, now_s - self._demand[0][0])

    def enter(self, owner: str, message: Enter, now_s: float) -> Messages:
        """A ticket arrives: admitted or bounced at once, or held until a slot frees or its time runs out."""
        if message.id in self._held or message.id in self._waiting:
            return []
        self._demand.append((now_s, message.usd_displaced, message.work_s))
        ticket = Ticket(
            message.id,
            message.work_s,
            message.usd_displaced,
            now_s,
            now_s + min(message.start_within_s, self._hold_s_max),
        )
        if not self._surveyed and len(self._waiting) < self._waiting_max:
            # Just started: nobody knows yet which engines live, and a bounce would burst what the pool can take.
            self._waiting[ticket.id] = (ticket, owner)
            return []
        verdict = admit(ticket, self._queue(), now_s)
        if isinstance(verdict, Admit):
            return [self._grant(ticket.id, owner, verdict.replica_id, now_s)]
        if isinstance(verdict, Bounce):
            return [(owner, Bounced(ticket.id, verdict.reason, verdict.retry_after_s))]
        self._waiting[ticket.id] = (ticket, owner)
        return []

    def leave(self, ticket_id: str, now_s: float, unreachable: bool = False) -> Messages:
        """A ticket is done or gives up. Unknown ids are forgotten tickets: no error."""
        self._waiting.pop(ticket_id, None)
        return self._pump(now_s) if self._release(ticket_id, now_s, unreachable) else []

    def _release(self, ticket_id: str, now_s: float, unreachable: bool = False) -> bool:
        """Free a held slot without giving it to anybody yet; False where nothing was held."""
        held = self._held.pop(ticket_id, None)
        if held is None:
            return False
        engine = self._engines.get(held.replica)
        if engine is not None:
            engine.held.discard(ticket_id)
            if unreachable:
                engine.healthy = False
        if not unreachable:
            self.service_s_mean += _SERVICE_WEIGHT * (now_s - held.since_s - self.service_s_mean)
        return True

    def hello(self, owner: str, held: dict[str, str], now_s: float) -> Messages:
        """A gateway (re)connects: what it holds is counted, what this gate thought it held and it does not is freed."""
        for ticket_id in [i for i, h in self._held.items() if h.owner == owner and i not in held]:
            self._release(ticket_id, now_s)
        for ticket_id, replica in held.items():
            self._held[ticket_id] = _Held(owner, replica, now_s)
            if replica in self._engines:
                self._engines[replica].held.add(ticket_id)
        return self._pump(now_s)

    def gone(self, owner: str, now_s: float) -> Messages:
        """A gateway's connection broke: its engines' connections broke too, so all of its tickets are free."""
        for ticket_id in [i for i, (_, who) in self._waiting.items() if who == owner]:
            del self._waiting[ticket_id]
        return self.hello(owner, {}, now_s)

    def tick(self, now_s: float) -> Messages:
        """Bounce those whose latest start has come; called some ten times a second."""
        late = [(i, who) for i, (ticket, who) in self._waiting.items() if ticket.start_by_s <= now_s]
        for ticket_id, _ in late:
            del self._waiting[ticket_id]
        wait_s = self._queue().wait_s() if self._engines else 1.0
        late_messages: Messages = [(who, Bounced(i, "waited too long", min(wait_s, 60.0))) for i, who in late]
        return late_messages + self._pump(now_s)

    def set_replicas(self, replicas: dict[str, str], now_s: float) -> Messages:
        """The replicas that exist, id to url; new ones start unhealthy until their first sign of life."""
        for gone in self._engines.keys() - replicas.keys():
            del self._engines[gone]
        for replica_id, url in replicas.items():
            known = self._engines.get(replica_id)
            if known is None or known.url != url:
                held = {i for i, h in self._held.items() if h.replica == replica_id}
                self._engines[replica_id] = _Engine(url, self._slots, held=held)
        self._tokens.keep({_place(replica_id, url) for replica_id, url in replicas.items()})
        return self._pump(now_s)

    def surveyed(self, now_s: float) -> Messages:
        """Every engine that is known has been asked once: from now on a lack of engines is a fact."""
        if self._surveyed:
            return []
        self._surveyed = True
        return self._nobody() if not self.healthy_replicas else self._pump(now_s)

    def heard(self, replica_id: str, stats: EngineStats | None, now_s: float) -> Messages:
        """Counters of an engine, or None where it did not answer."""
        engine = self._engines.get(replica_id)
        if engine is None:
            return []
        engine.healthy = stats is not None
        if stats is not None:
            engine.stats = stats
            self._tokens.heard(_place(replica_id, engine.url), stats)
        if not self.healthy_replicas and self._surveyed:
            return self._nobody()
        return self._pump(now_s)

    def _nobody(self) -> Messages:
        """No engine lives: whoever waits is told to go elsewhere."""
        waiting, self._waiting = self._waiting, OrderedDict()
        return [(who, Bounced(i, "no healthy replica", 1.0)) for i, (_, who) in waiting.items()]

    def _pump(self, now_s: float) -> Messages:
        messages: Messages = []
        while self._waiting:
            best = least_loaded(self._queue().replicas)
            if best is None:
                break
            ticket_id, (_, owner) = self._waiting.popitem(last=False)
            messages.append(self._grant(ticket_id, owner, best.id, now_s))
        return messages

    def _grant(self, ticket_id: str, owner: str, replica_id: str, now_s: float) -> tuple[str, ToGateway]:
        engine = self._engines[replica_id]
        engine.held.add(ticket_id)
        self._held[ticket_id] = _Held(owner, replica_id, now_s)
        return owner, Granted(ticket_id, replica_id, engine.url)

    def _queue(self) -> Queue:
        replicas = tuple(
            Replica(i, e.slots, len(e.held), int(e.stats.waiting), e.healthy) for i, e in self._engines.items()
        )
        return Queue(replicas, len(self._waiting), self._waiting_max, self.service_s_mean)


def _place(replica_id: str, url: str) -> str:
    """One at another address is another engine."""
    return f"{replica_id} {url}"
