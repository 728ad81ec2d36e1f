"""What the simulated provider can be told, and what it counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

FractionOfOne = Annotated[float, Meta(ge=0.0, le=1.0)]
NotNegative = Annotated[float, Meta(ge=0.0, le=1e9)]
Positive = Annotated[float, Meta(gt=0.0, le=1e9)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]
HeaderSafe = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Behaviour of one simulated provider; a request keeps the settings it arrived under.

    ``slow_factor`` stretches both the time to the first token and the gap between tokens: slow, but alive.
    ``jitter`` is the fraction by which first-token time and gaps vary, drawn from a generator seeded by ``seed``.
    A count of 0 means "no limit" (``concurrency_max``, ``requests_per_min_max``), "never" (``cut_after_tokens``)
    or "not offered" (``embedding_dimensions``).
    """

    name: HeaderSafe = "simulated"
    models: Annotated[tuple[str, ...], Meta(min_length=1)] = ("simulated-frontier",)
    api_key: str = ""  # "" accepts any key, or none
    seed: int = 0

    ttft_s: NotNegative = 0.3  # from the request's last byte to its first token
    tokens_per_s: Positive = 80.0  # of one choice of one answer
    jitter: FractionOfOne = 0.0
    slow_factor: Positive = 1.0
    output_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] = 128  # where max_tokens is larger or absent

    concurrency_max: Count = 0
    requests_per_min_max: Count = 0  # over the last 60 s
    outage: Literal["", "503", "500", "hang", "refuse"] = ""
    cut_after_tokens: Count = 0  # tokens of each choice before the connection breaks
    error_rate: FractionOfOne = 0.0  # of admitted requests, answered 500

    usd_per_mtok_input: NotNegative = 0.0
    usd_per_mtok_cached: NotNegative = 0.0
    usd_per_mtok_output: NotNegative = 0.0
    prompt_cache: bool = True
    embedding_dimensions: Annotated[int, Meta(ge=0, le=16_384)] = 256

    @property
    def priced(self) -> bool:
        """Whether answers carry ``usage.cost``: an unpriced provider reports none rather than a cost of zero."""
        return self.usd_per_mtok_input + self.usd_per_mtok_cached + self.usd_per_mtok_output > 0


def merged(settings: Settings, changes: dict[str, Any], *, strict: bool = True) -> Settings:
    """``settings`` with ``changes`` applied and checked; ``strict=False`` also reads numbers written as text.

    Raises msgspec.ValidationError for an unknown field, a wrong type or a value out of bounds.
    """
    return msgspec.convert({**msgspec.to_builtins(settings), **changes}, Settings, strict=strict)


def public_view(settings: Settings) -> dict[str, Any]:
    """Settings as shown to whoever asks: all but the key, which can be set and never read."""
    shown: dict[str, Any] = msgspec.to_builtins(settings)
    del shown["api_key"]
    return {"simulated": True, **shown}


class Counters(Struct):
    """What happened to the POST requests under /v1 since the last reset.

    ``requests`` is the sum of the outcomes and of ``in_flight``, as long as nothing was in flight at the reset.
    """

    requests: int = 0
    completed: int = 0
    cancelled: int = 0  # the client went away, generation stopped at once
    rejected_429: int = 0
    rejected_4xx: int = 0  # any other client error
    failed_5xx: int = 0
    refused: int = 0  # closed without an answer
    cut: int = 0  # broken in the middle of an answer
    tokens_out: int = 0  # generated, of whatever became of the answer
    in_flight: int = 0
    in_flight_max: int = 0

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Counts one request as in flight."""
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        try:
            yield
        finally:
            self.in_flight -= 1

    def reset(self) -> None:
        """Sets everything to zero but what is in flight; in place, as requests under way hold this object."""
        live = self.in_flight
        for field in self.__struct_fields__:
            setattr(self, field, 0)
        self.in_flight = self.in_flight_max = live
