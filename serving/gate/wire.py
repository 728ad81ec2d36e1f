"""Messages between gateways and a gate: JSON over one WebSocket per gateway."""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec

from scheduler.core.admission import Ticket
from scheduler.core.capacity import BidCurve


class Enter(msgspec.Struct, tag="enter", tag_field="op", omit_defaults=True):
    """A request asks for a slot; times are relative to now, so that clocks need not agree.

    The fields are those of ``scheduler.core.admission.Ticket``. JSON knows no infinity, so None is what has no end:
    ``usd_displaced`` None can go nowhere else, ``ttft_*`` None has no objective, ``leave_within_s`` None is never sent on
    to be in time elsewhere. ``stream``: whether ``Began`` will follow.
    """

    id: str
    work_s: float
    usd_displaced: float | None
    start_within_s: float
    prefill_s: float = 0.0
    kv_tokens: int = 0
    ttft_s_max: float | None = None
    ttft_within_s: float | None = None
    leave_within_s: float | None = None
    usd_per_s_waiting: float = 0.0
    stream: bool = True

    def after(self, seconds: float) -> Enter:
        """The same, asked ``seconds`` later."""
        ttft_s, leave_s = self.ttft_within_s, self.leave_within_s
        return msgspec.structs.replace(
            self,
            start_within_s=max(0.0, self.start_within_s - seconds),
            ttft_within_s=None if ttft_s is None else ttft_s - seconds,
            leave_within_s=None if leave_s is None else leave_s - seconds,
        )


def ticket_of(message: Enter, start_within_s: float, now_s: float) -> Ticket:
    """The message as the core's type, by this gate's clock. A part of its objective may have passed before it came here."""
    ttft_s_max = math.inf if message.ttft_s_max is None else message.ttft_s_max
    ttft_by_s = math.inf if message.ttft_within_s is None else now_s + message.ttft_within_s
    return Ticket(
        id=message.id,
        work_s=message.work_s,
        usd_displaced=math.inf if message.usd_displaced is None else message.usd_displaced,
        arrived_s=now_s if math.inf in (ttft_by_s, ttft_s_max) else min(now_s, ttft_by_s - ttft_s_max),
        start_by_s=now_s + start_within_s,
        prefill_s=message.prefill_s,
        kv_tokens=message.kv_tokens,
        ttft_s_max=ttft_s_max,
        ttft_by_s=ttft_by_s,
        leave_by_s=-math.inf if message.leave_within_s is None else now_s + message.leave_within_s,
        usd_per_s_waiting=message.usd_per_s_waiting,
    )


class Began(msgspec.Struct, tag="began", tag_field="op"):
    """The first token of a granted request has reached its gateway. Only streams show it."""

    id: str


class Leave(msgspec.Struct, tag="leave", tag_field="op", omit_defaults=True):
    """A request gives its slot back, or stops waiting. ``unreachable``: its replica refused the connection."""

    id: str
    unreachable: bool = False


class Hello(msgspec.Struct, tag="hello", tag_field="op"):
    """First message of a (re)connected gateway: what it holds already, by ticket id and replica id."""

    gateway: str
    held: dict[str, str]


ToGate = Enter | Began | Leave | Hello


class Granted(msgspec.Struct, tag="granted", tag_field="op"):
    """Start now, at ``url``."""

    id: str
    replica: str
    url: str


class Bounced(msgspec.Struct, tag="bounced", tag_field="op"):
    """Not here."""

    id: str
    reason: str
    retry_after_s: float


ToGateway = Granted | Bounced

encode = msgspec.json.Encoder().encode
decode_to_gate = msgspec.json.Decoder(ToGate).decode
decode_to_gateway = msgspec.json.Decoder(ToGateway).decode


class ReplicaInfo(msgspec.Struct, frozen=True):
    """An engine that has announced itself, or is named in cluster.yaml.

    For the meter, where it is known: the node (as Ray names it), the root of the engine's processes there, and its GPUs
    (UUIDs, or numbers as text).
    """

    id: str
    url: str
    node: str = ""
    pid: int = 0
    gpus: tuple[str, ...] = ()


class GateReport(msgspec.Struct, frozen=True):
    """What a gate tells the controller, several times a second.

    Until it is ``surveyed``, its counts of replicas and slots are of those heard so far, which may be none yet.
    ``levels``: TTFT objective, wait at the end of its line in seconds, and its load; none without an engine. ``ratio``:
    seconds of work that engines need over those of the curve. ``admitted_per_s``: calibrated replica-seconds that enter
    per second. ``slots_bound``: share of a line's time in which slots or cache keep it back. ``bids_at_s``: which bid
    curves it has, by the controller's clock when they were solved; 0 for none.
    """

    pool: str
    url: str
    surveyed: bool
    replicas: int
    slots: int
    running: int
    waiting: int
    service_s_mean: float
    engine: EngineStats
    levels: tuple[tuple[float, float, float], ...] = ()
    ratio: float = 1.0
    admitted_per_s: float = 0.0
    slots_bound: float = 1.0
    gated: bool = True
    bids_at_s: float = 0.0


class LevelBid(NamedTuple):
    """The bid curve of a TTFT objective; None where nothing of that line is scarce."""

    ttft_s_max: float
    curve: BidCurve | None


class Bids(msgspec.Struct, frozen=True):
    """A pool's bid curves, solved at ``at_s`` (the controller's clock)."""

    at_s: float
    levels: tuple[LevelBid, ...]


class GateAnswer(msgspec.Struct, frozen=True):
    """What the controller tells a gate: who has announced itself, and bid curves that the gate does not have yet.

    ``bids`` None tells nothing: the gate keeps what it has.
    """

    replicas: list[ReplicaInfo]
    bids: Bids | None = None


class EngineStats(msgspec.Struct, frozen=True):
    """Read from the engines' own counters, summed over replicas; zeros where an engine has none.

    In a gate's report tokens count from when the gate first saw each engine, and never go back while it runs.
    """

    running: float = 0.0
    waiting: float = 0.0
    kv_usage: float = 0.0
    prompt_tokens: float = 0.0
    generation_tokens: float = 0.0
    cached_tokens: float = 0.0  # of the prompts: taken from the prefix cache, not computed
    counts_tokens: bool = False  # whether there are counters of tokens at all
