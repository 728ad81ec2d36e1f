"""Journal records, one JSON line each: what was decided (``Begin``), and how it ended (``End``).

Units: USD, seconds, tokens; instants are Unix seconds. No record carries text of a prompt or of an answer. Decoding
refuses what the store could not keep (ids over 256 characters, negative or huge counts and instants, another version),
so that one odd line never stops a load. Numbers must be finite: JSON has no infinity.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Instant = Annotated[float, msgspec.Meta(ge=0, le=1e11)]
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
EndStatus = Literal["complete", "failed", "cancelled", "interrupted", "unserved"]
Source = Literal["base", "spot", "api", ""]

END_STATUSES: frozenset[str] = frozenset(get_args(EndStatus))

# Names of the terms in a quote that are avoidable money; all others (waiting, scarcity, …) are preferences in USD.
CASH_TERMS = ("tokens", "energy")


class QuoteLine(msgspec.Struct, frozen=True, gc=False):
    """One offer of the merit order; ``terms`` (name to USD) sum to ``usd``."""

    offer_id: str
    usd: float
    terms: dict[str, float] = {}

    @property
    def usd_avoidable(self) -> float:
        """The avoidable money in the quote: its cash terms, or all of it where no term says."""
        cash = [self.terms[name] for name in CASH_TERMS if name in self.terms]
        return sum(cash) if cash else self.usd


class RejectionLine(msgspec.Struct, frozen=True, gc=False):
    """An offer that was not eligible, and the name of the constraint that said so."""

    offer_id: str
    reason: str


class AttemptLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One try at one offer; ``ttft_s`` is None when no first token came."""

    offer_id: str
    status: str
    started_s: float
    duration_s: float
    http_status: Count = 0
    error: str = ""
    ttft_s: float | None = None
    usd_avoidable: float = 0.0
    input_tokens: Count = 0
    cached_tokens: Count = 0
    output_tokens: Count = 0


class Begin(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="kind", tag="begin"):
    """A request and the whole decision on it, written before the first attempt; token counts are estimates.

    ``v`` and all else is always written, defaults too: a line explains itself without this file.
    """

    v: Literal[1] = 1
    id: Id
    at_s: Instant
    writer: str
    tenant: str
    service_class: str
    model_requested: str
    session: str = ""
    zones: list[str] = []
    labels: list[str] = []
    stream: bool = False
    market_version: Count = 0
    difficulty: float = 0.0
    input_tokens: Count = 0
    cached_tokens: Count = 0
    output_tokens: Count = 0
    merit_order: list[QuoteLine] = []
    rejected: list[RejectionLine] = []


class End(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="kind", tag="end"):
    """How a request ended, with the actual tokens and money. ``unserved``: no source could take it.

    ``usd_avoidable`` is money this request added to a bill; ``usd_fixed_share`` is amortized and never added to it.
    """

    v: Literal[1] = 1
    id: Id
    at_s: Instant
    writer: str
    status: EndStatus
    http_status: Count
    reason: str = ""
    offer_id: str = ""
    source: Source = ""
    model: str = ""
    attempts: list[AttemptLine] = []
    input_tokens: Count = 0
    cached_tokens: Count = 0
    output_tokens: Count = 0
    usd_avoidable: float = 0.0
    usd_fixed_share: float = 0.0
    usd_counterfactual: float = 0.0
    ttft_s: float | None = None
    duration_s: float = 0.0

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for an unknown status where it is made: a loader could only count the line as bad."""
        if self.status not in END_STATUSES:
            raise ValueError(f"status {self.status!r} is none of {', '.join(sorted(END_STATUSES))}")


Record = Begin | End

_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


def decode(line: bytes) -> Record:
    """Record of one line, with or without its line feed.

    Raises ``msgspec.DecodeError`` (``ValidationError`` is one) for a line that is no record of this version.
    """
    if b"\\u0000" in line:  # PostgreSQL cannot store NUL in text; the replacement character can be seen
        line = line.replace(b"\\u0000", b"\\ufffd")
    return _decoder.decode(line)
