"""Messages between gateways and a gate: JSON over one WebSocket per gateway."""

from __future__ import annotations

import msgspec


class Enter(msgspec.Struct, tag="enter", tag_field="op", omit_defaults=True):
    """A request asks for a slot; times are relative, so that clocks need not agree."""

    id: str
    work_s: float
    usd_displaced: float
    start_within_s: float


class Leave(msgspec.Struct, tag="leave", tag_field="op", omit_defaults=True):
    """A request gives its slot back, or stops waiting. ``unreachable``: its replica refused the connection."""

    id: str
    unreachable: bool = False


class Hello(msgspec.Struct, tag="hello", tag_field="op"):
    """First message of a (re)connected gateway: what it holds already, by ticket id and replica id."""

    gateway: str
    held: dict[str, str]


ToGate = Enter | Leave | Hello


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
    """

    pool: str
    url: str
    surveyed: bool
    replicas: int
    slots: int
    running: int
    waiting: int
    service_s_mean: float
    demand: list[tuple[float, float]]
    demand_span_s: float
    engine: EngineStats


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
