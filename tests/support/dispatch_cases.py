"""Random sites, sources, requests and clients for the property test of the dispatcher."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from hypothesis import strategies as st

from scheduler.config import ClusterConfig
from serving.sse import DONE
from tests.support.fake_sources import GatePlan, Plan
from tests.support.sites import CURVE, pool, provider, site

ZONES = ("home", "annex", "cloud-a", "cloud-b")
LABELS: dict[str, frozenset[str] | None] = {
    "restricted": frozenset({"home"}),
    "eu": frozenset({"home", "annex", "cloud-a"}),
    "nowhere": frozenset(),
    "public": None,
}
TENANTS = {"open": frozenset(ZONES), "tight": frozenset(ZONES), "inland": frozenset({"home", "annex", "cloud-a"})}
BUDGETED = "tight"
MODELS = {"small": {"small"}, "large": {"large"}, "both": {"small", "large"}, "auto": {"small", "large"}}
DEADLINES_S = {"hasty": 0.3, "calm": 20.0}


def event(fields: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


WORDS = [event({"choices": [{"delta": {"content": word}}]}) for word in ("one", "two", "three")]
USAGE = {"prompt_tokens": 12, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}
USAGE_EVENT = event({"choices": [], "usage": USAGE})
ERROR_EVENT = event({"error": {"message": "a secret of the source", "code": 500}})
TEXT = b"".join(WORDS)
ANSWER = json.dumps({"choices": [{"message": {"content": "hi"}}], "usage": USAGE}).encode()
REFUSAL = json.dumps({"error": {"message": "no", "type": "some_error"}}).encode()
NO_USAGE = json.dumps({"choices": []}).encode()

STREAMS = [
    Plan("stream", parts=(*WORDS, USAGE_EVENT, DONE), whole=TEXT),
    Plan("stream slowly", parts=(*WORDS, USAGE_EVENT, DONE), whole=TEXT, gap_s=0.05),
    Plan(
        "stream in odd pieces",
        parts=(TEXT[:7], TEXT[7:50], TEXT[50:] + USAGE_EVENT[:9], USAGE_EVENT[9:] + DONE),
        whole=TEXT,
    ),
    Plan("stream without usage", parts=(*WORDS, DONE), whole=TEXT),
    Plan("stream of nothing", parts=(DONE,), whole=b""),
    Plan("stream cut at once", end="cut"),
    Plan("stream cut inside an event", parts=(WORDS[0][:9],), end="cut"),
    Plan("stream cut after a word", parts=(WORDS[0],), end="cut"),
    Plan("stream that ends without its end", parts=(*WORDS, USAGE_EVENT)),
    Plan("stream that is empty"),
    Plan("stream that hangs after a word", parts=(WORDS[0],), end="hang"),
    Plan("stream that begins with an error", parts=(ERROR_EVENT, DONE)),
    Plan("stream with an error inside", parts=(WORDS[0], ERROR_EVENT, DONE)),
    Plan("stream of garbage", parts=(b"\x00\xff garbage", b"{]\n\n")),
    Plan("stream with an event beyond all reason", parts=(b"data: " + b"x" * 3000,)),
]
PLAINS = [
    Plan("answer", parts=(ANSWER,), whole=ANSWER),
    Plan("answer in pieces", parts=(ANSWER[:5], ANSWER[5:]), whole=ANSWER, gap_s=0.05),
    Plan("answer without usage", parts=(NO_USAGE,), whole=NO_USAGE),
    Plan("answer of garbage", parts=(b"\xff\x00not json",), whole=b"\xff\x00not json"),
    Plan("answer that breaks off", parts=(ANSWER[:9],), end="cut"),
    Plan("answer that hangs", parts=(ANSWER[:9],), end="hang"),
]
FAULTS = [
    Plan("unreachable", head="unreachable"),
    Plan("broken", head="broken"),
    Plan("hang", head="hang"),
    *(Plan(f"HTTP {s}", status=s, parts=(REFUSAL,)) for s in (400, 401, 403, 404, 408, 422, 500, 503)),
    *(
        Plan(f"HTTP 429, again in {after!r}", status=429, headers={"retry-after": after})
        for after in ("1", "0", "-3", "soon", "1e12", "nan", "inf")
    ),
    Plan("HTTP 400 for its length", status=400, parts=(b"maximum context length is 5",)),
    Plan("HTTP 500 that breaks off", status=500, end="cut"),
    Plan("HTTP 502 that hangs", status=502, end="hang"),
]
# Sound answers often enough that chains end in every way.
PLANS = STREAMS[:4] * 3 + PLAINS[:2] * 5 + STREAMS * 2 + PLAINS + FAULTS
delays = st.sampled_from([0.0, 0.0, 0.0, 0.01, 0.5, 5.0])
plans = st.builds(lambda plan, delay_s: replace(plan, delay_s=delay_s), st.sampled_from(PLANS), delays)
gate_plans = st.sampled_from([GatePlan()] * 4 + [GatePlan("grant", 0.2), GatePlan("bounce"), GatePlan("silence")])


@dataclass(frozen=True)
class Shape:
    """Which site."""

    pools: tuple[tuple[str, str, str], ...]  # kind, site, model
    providers: tuple[tuple[str, str, float], ...]  # zone, model, USD per million tokens
    attempts_max: int
    concurrent: int
    requests_per_min: int


shapes = st.builds(
    Shape,
    st.lists(
        st.tuples(
            st.sampled_from(["base", "spot"]), st.sampled_from(["here", "there"]), st.sampled_from(["small", "large"])
        ),
        max_size=2,
    ).map(tuple),
    st.lists(
        st.tuples(
            st.sampled_from(["cloud-a", "cloud-b"]),
            st.sampled_from(["small", "large"]),
            st.sampled_from([0.0, 2.0, 2.0, 900.0]),
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
    st.sampled_from([4, 2, 1]),
    st.sampled_from([0, 0, 1]),
    st.sampled_from([0, 0, 2]),
)


def key_of(tenant: str) -> str:
    return f"key-of-{tenant}"


@lru_cache(maxsize=512)
def config_of(shape: Shape) -> ClusterConfig:
    """The site file of ``shape``."""
    classes = [
        {"name": "calm", "deadline_s": DEADLINES_S["calm"], "usd_max": 0.5, "usd_per_wrong_answer": 0.05},
        {"name": "hasty", "deadline_s": DEADLINES_S["hasty"], "ttft_s_max": 0.05, "usd_max": 0.002},
    ]
    electricity = {"usd_per_kwh": 0.3}
    abilities = ["chat", "completions", "embeddings"]
    quality = {"low": 0.9, "medium": 0.8, "high": 0.5}
    limits = {"concurrent": shape.concurrent, "requests_per_min": shape.requests_per_min}
    return ClusterConfig.model_validate(
        site(
            zones=list(ZONES),
            sites=[
                {"name": n, "zone": z, "electricity": electricity} for n, z in (("here", "home"), ("there", "annex"))
            ],
            models=[
                {"name": "small", "context_tokens": 2_000, "quality": quality, "abilities": abilities},
                {"name": "large", "context_tokens": 90_000, "quality": quality, "abilities": abilities},
            ],
            aliases=[{"name": "both", "models": ["small", "large"]}],
            pools=[pool(f"p{i}", where, model, kind=kind) for i, (kind, where, model) in enumerate(shape.pools)],
            providers=[
                provider(f"c{i}", zone, model, price={"input": usd, "output": usd * 3}, curve=CURVE)
                | {"limits": limits}
                for i, (zone, model, usd) in enumerate(shape.providers)
            ],
            service_classes=classes,
            labels=[{"name": n, "zones": "any" if z is None else sorted(z)} for n, z in LABELS.items()],
            tenants=[
                {
                    "name": name,
                    "keys": [{"sha256": hashlib.sha256(key_of(name).encode()).hexdigest()}],
                    "zones": sorted(zones),
                    "service_classes": ["calm", "hasty"],
                    "budget": {"usd": 1.0} if name == BUDGETED else None,
                }
                for name, zones in TENANTS.items()
            ],
            policy={"attempts_max": shape.attempts_max},
        )
    )


@dataclass(frozen=True)
class Ask:
    """One request of a client, and what the client does."""

    tenant: str
    model: str
    endpoint: str
    stream: bool
    service_class: str
    labels: tuple[str, ...]
    tags: tuple[str, ...]
    zones: tuple[str, ...] | None
    start_s: float
    gone_s: float | None
    split: int
    include_usage: bool
    spoiled: str

    def zones_allowed(self) -> frozenset[str]:
        """By hand: what the tenant may reach, narrowed by each label and by the header."""
        allowed = set(TENANTS[self.tenant])
        for label in (*self.labels, *self.tags):
            only = LABELS[label]
            allowed = {zone for zone in allowed if only is None or zone in only}
        return frozenset(allowed if self.zones is None else allowed & set(self.zones))

    def headers(self) -> list[tuple[bytes, bytes]]:
        key = "nobody" if self.spoiled == "key" else key_of(self.tenant)
        pairs = [("authorization", f"Bearer {key}"), ("x-baseload-class", self.service_class)]
        names = ("x-baseload-labels", "x-litellm-tags")
        pairs += [(names[i % 2], label) for i, label in enumerate(self.labels)]
        if self.spoiled == "label":
            pairs.append(("x-baseload-labels", "never-heard-of"))
        if self.zones is not None:
            pairs.append(("x-baseload-zones", ",".join(self.zones)))
        return [(name.encode(), value.encode()) for name, value in pairs]

    def body(self, tag: str) -> bytes:
        fields: dict[str, Any] = {"model": self.model, "user": tag, "metadata": {"tags": list(self.tags)}}
        fields |= {
            "chat/completions": {"messages": [{"role": "user", "content": "classify: hello"}], "max_tokens": 20},
            "completions": {"prompt": "hello", "max_tokens": 20},
            "embeddings": {"input": "hello"},
        }[self.endpoint]
        if self.is_stream:
            fields |= {"stream": True, "stream_options": {"include_usage": self.include_usage}}
        return b"{" if self.spoiled == "json" else json.dumps(fields).encode()

    @property
    def is_stream(self) -> bool:
        return self.stream and self.endpoint != "embeddings"


some_labels = st.sampled_from(
    [(), (), (), (), (), ("public",), ("eu",), ("eu", "public"), ("restricted",), ("nowhere",)]
)
some_zones = st.sampled_from(
    [None, None, None, ZONES, ("home", "cloud-b"), ("annex", "cloud-a"), ("cloud-a", "cloud-b"), ()]
)
asks = st.builds(
    Ask,
    tenant=st.sampled_from(["open", "open", "inland", "tight", "tight"]),
    model=st.sampled_from(["auto", "auto", "auto", "both", "small", "large"]),
    endpoint=st.sampled_from(["chat/completions", "chat/completions", "completions", "embeddings"]),
    stream=st.sampled_from([True, True, False]),
    service_class=st.sampled_from(["calm", "calm", "hasty"]),
    labels=some_labels,
    tags=some_labels,
    zones=some_zones,
    start_s=st.sampled_from([0.0, 0.0, 0.02, 1.0, 30.0]),
    gone_s=st.none() | st.sampled_from([0.0, 0.01, 0.06, 0.51, 4.0]),
    split=st.sampled_from([0, 0, 9]),
    include_usage=st.booleans(),
    spoiled=st.sampled_from([""] * 12 + ["key", "label", "json"]),
)


@dataclass(frozen=True)
class Case:
    """Everything that one run of the gateway meets."""

    shape: Shape
    asks: tuple[Ask, ...]
    sources: tuple[tuple[Plan, ...], ...]  # by offer, pools first
    gates: tuple[tuple[GatePlan, ...], ...]
    pools_up: tuple[bool, ...]
    lease: tuple[float, float] | None  # USD, seconds that it holds
    begins_max: int


LEASES = [None, (0.0, 100.0), (1e-4, 100.0), (0.01, 100.0), (1.0, 100.0), (1.0, 10.0), (1.0, 0.0)]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    shape = draw(shapes)
    n = len(shape.pools) + len(shape.providers)
    return Case(
        shape,
        tuple(draw(st.lists(asks, min_size=1, max_size=4))),
        tuple(tuple(draw(st.lists(plans, min_size=1, max_size=3))) for _ in range(n)),
        tuple(tuple(draw(st.lists(gate_plans, min_size=1, max_size=2))) for _ in shape.pools),
        tuple(draw(st.sampled_from([True] * 5 + [False])) for _ in shape.pools),
        draw(st.sampled_from(LEASES)),
        draw(st.sampled_from([10**9] * 12 + [0, 1])),
    )
