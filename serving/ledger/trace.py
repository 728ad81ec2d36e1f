"""The ledger as a trace to plan with: requests as they were offered, whoever answered them, if anybody did.

A plan for what was served would own too little: what was bought, turned away, failed or cut off counts as well (economics.md,
sections 4 and 6). What never got as far as a decision (a gateway over its bounds, a request that nobody could read) is in no
ledger, and so not here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import String, case, cast, select

from scheduler.config import ClusterConfig
from scheduler.simulation.mix import Profile
from scheduler.simulation.scenario import EPOCH_S
from scheduler.simulation.site import site_of
from scheduler.simulation.spool import Spool
from scheduler.simulation.trace_formats.block import COUNT_MAX, Block
from scheduler.simulation.traces import Trace
from serving.ledger.kinds import Kind, Kinds
from serving.ledger.schema import requests
from serving.ledger.seen import is_there
from serving.ledger.store import Store
from serving.ledger.window import SIZES, LedgerTraceError, Sizes, window
from serving.report.words import count

__all__ = ["LedgerTrace", "LedgerTraceError", "read"]

SPAN_S_MIN = 60.0
_ROWS_PER_BATCH = 10_000
_REASONS_MAX = 8  # that are told one by one

_PARTS = ("input", "output", "cached")
_REJECTED = cast(requests.c.rejected, String)
_COLUMNS = (
    *(requests.c[name] for name in ("at_s", "status", "offer_id", "tenant", "service_class", "difficulty")),
    *(requests.c[name] for name in (*SIZES, "cached_tokens", "cached_tokens_estimate")),
    requests.c.model_requested.label("model"),
    cast(requests.c.zones, String).label("zones"),
    cast(requests.c.labels, String).label("labels"),
    # Most requests lack nothing, and their long list of rejections need not be fetched.
    case((_REJECTED.contains('"lacks '), _REJECTED), else_="").label("rejected"),
)


class LedgerTrace(NamedTuple):
    """``trace`` owns temporary files: close it. The client of a request is the number of its profile (``assign_by="given"``).

    ``begins_s``: Unix seconds of its first request, which is second 0 of its clock. ``notes``: what was assumed and what was
    left out, each without a full stop.
    """

    trace: Trace
    profiles: tuple[Profile, ...]
    notes: tuple[str, ...]
    begins_s: float


def read(
    url: str | None,
    since_s: float,
    until_s: float,
    config: ClusterConfig,
    progress: Callable[[float], None] = lambda share: None,
) -> LedgerTrace:
    """Requests that arrived in [since_s, until_s), Unix seconds, the last 52 weeks at most, from the ledger at ``url``.

    None: from that of ``config``. Streamed: memory holds some thousands of requests. Raises LedgerTraceError where too
    little is left to plan with, StoreError for the database, SiteError for a site without prices.
    """
    with closing(Store(url or config.ledger.url)) as store:
        if not is_there(store):
            raise LedgerTraceError(f"{store.name}: there is no ledger")
        priced, holds_until_s = site_of(config, (), EPOCH_S).priced_until(EPOCH_S)
        taken = window(store, since_s, until_s)
        reader = _Reader(Kinds(config, priced.offers), taken.sizes)
        owned = TemporaryDirectory(prefix="trace-")
        spool = Spool(Path(owned.name))
        try:
            query = select(*_COLUMNS).where(taken.within).order_by(requests.c.at_s, requests.c.id)
            with (
                store.reading() as connection,
                connection.execution_options(yield_per=_ROWS_PER_BATCH).execute(query) as rows,
            ):
                names = list(rows.keys())
                for part in rows.partitions():
                    spool.append(reader.block(dict(zip(names, zip(*part, strict=True), strict=True))))
                    progress(min(1.0, reader.rows / taken.rows))
            notes = (*taken.notes, *reader.notes())
            _check(store.name, reader, notes)
            columns = spool.columns()
        except BaseException:
            spool.close()
            owned.cleanup()
            raise
    name = f"ledger, {_utc(reader.first_s)} to {_utc(reader.last_s)} UTC"
    trace = Trace(
        name=name,
        arrival_s=columns["arrival_s"],
        input_tokens=columns["input_tokens"],
        output_tokens=columns["output_tokens"],
        client=columns["client"],
        session=np.broadcast_to(np.int64(-1), reader.kept),
        reusable_prefix_tokens=columns["reusable_prefix_tokens"],
        has_clients=True,
        directory=owned,
    )
    if holds_until_s < math.inf:
        text = f"prices by the hour take {_utc(reader.first_s)} UTC, where the trace begins, for a Thursday, 00:00"
        notes = (*notes, text)
    return LedgerTrace(trace, reader.kinds.profiles(), notes, float(reader.first_s))


def _check(name: str, reader: _Reader, notes: Sequence[str]) -> None:
    if not reader.kept:
        raise LedgerTraceError(f"{name}: no request in it can be planned with ({'; '.join(notes)})")
    span_s = reader.last_s - reader.first_s
    if span_s < SPAN_S_MIN:
        raise LedgerTraceError(
            f"{name}: {count(reader.kept, 'request')} in {span_s:.3g} s, too little to plan with (at least a minute)"
        )


def _utc(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M}"


class _Reader:
    """Rows of the ledger as blocks of a trace, and what is to be told of them."""

    def __init__(self, kinds: Kinds, sizes: Sizes) -> None:
        self.kinds, self._sizes = kinds, sizes
        self.rows = self.kept = 0
        self.first_s = self.last_s = math.nan
        self._left: Counter[int] = Counter()  # by number of the reason
        self._expected: Counter[str] = Counter()  # by status
        self._meant = 0

    def block(self, of: Mapping[str, Sequence[Any]]) -> Block:
        """The next rows, by column; numbers of profiles as clients."""
        number = np.array(self.kinds.numbers(zip(*(of[name] for name in Kind._fields), strict=True)), np.int64)
        at_s, kept = np.array(of["at_s"]), number >= 0
        inputs, outputs, cached = self._tokens(of, kept)
        self.kinds.count(number[kept], np.array(of["difficulty"])[kept])
        self._left.update((-1 - number[~kept]).tolist())
        if kept.any():
            self.first_s = at_s[kept][0] if not self.kept else self.first_s
            self.last_s = at_s[kept][-1]
        self.rows, self.kept = self.rows + len(at_s), self.kept + int(kept.sum())
        return Block(at_s, inputs, outputs, client=number, reusable_prefix_tokens=cached, kept=kept)

    def _tokens(self, of: Mapping[str, Sequence[Any]], kept: np.ndarray) -> list[np.ndarray]:
        """Input, output and cached tokens as the gateway counts them.

        Of what was answered, those that were measured; a client that went away has had what it wanted. Of all else what
        was expected, if that is more than what was there when it broke off.
        """
        status = np.array(of["status"])
        there = self.kinds.uncounted(of["offer_id"], *(np.array(of[f"{name}_tokens"], float) for name in _PARTS))
        expected = [np.array(of[f"{name}_tokens_estimate"], float) for name in _PARTS]
        answered = np.isin(status, ("complete", "cancelled")) & (there[0] + there[1] > 0.0)
        found = [np.where(answered, a, np.maximum(a, b)) for a, b in zip(there, expected, strict=True)]
        unsized = np.flatnonzero(kept & (found[0] + found[1] == 0.0))
        for row in unsized:
            kind = (of["tenant"][row], of["service_class"][row], of["model"][row])
            found[0][row], found[1][row] = self._sizes.get(kind) or self._sizes.get((), (0.0, 0.0))
        self._meant += len(unsized)
        answered[unsized] = True  # told apart
        self._expected.update(status[kept & ~answered].tolist())
        found[2] = np.minimum(found[2], found[0])
        return [np.minimum(COUNT_MAX, np.round(column)).astype(np.int32) for column in found]

    def notes(self) -> list[str]:
        """What was left out and assumed."""
        reasons = self.kinds.reasons()
        most = self._left.most_common(_REASONS_MAX)
        notes = [f"left out: {count(amount, 'request')}, since {reasons[number]}" for number, amount in most]
        if len(self._left) > len(most):
            rest = self._left.total() - sum(amount for _, amount in most)
            notes.append(
                f"left out: {count(rest, 'request')} for {count(len(self._left) - len(most), 'more such reason')}"
            )
        if self._expected:
            how = ", ".join(f"{amount:,} {status}" for status, amount in self._expected.most_common())
            notes.append(
                f"{self._expected.total():,} of {count(self.kept, 'request')} were not measured to their end ({how}): "
                "they count with the tokens that were expected of them, and each further try as one more request"
            )
        if self._meant:
            notes.append(
                f"{count(self._meant, 'request')} without any word of the length: each is taken for the mean of its kind"
            )
        return notes + self.kinds.assumed
