"""Requests as the simulator eats them: copies of a trace laid over each other, with a profile drawn for each request.

A workload is a pure function of trace, profiles, seed and copies. How it is cut into batches changes nothing: every draw is
keyed by the copy and by the request's place in the trace (``chance``). Only one batch is in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scheduler.simulation.chance import stream, uniform
from scheduler.simulation.mix import AssignBy, Profile
from scheduler.simulation.spool import gather
from scheduler.simulation.superposition import Superposition
from scheduler.simulation.traces import Trace

__all__ = ["Batch", "Work", "Workload", "copies_for", "offered_work"]

# Replica-seconds of local work, by index of profile and arrays of input and output tokens; nan or 0 where nothing local can.
Work = Callable[[int, NDArray[np.int32], NDArray[np.int32]], NDArray[np.float64]]

_THIN, _PROFILE, _DIFFICULTY = 1, 2, 3
_CHUNK_ROWS = 1 << 18


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Consecutive requests by ascending ``arrival_s`` (seconds on the clock of the trace), one row each.

    ``profile`` is an index into the profiles. ``client`` and ``session`` (-1: none) are never shared by two copies, and
    neither are block ids. The blocks of request i are ``prefix_blocks[prefix_offsets[i]:prefix_offsets[i + 1]]``.
    ``reusable_prefix_tokens`` is the source's figure, for the trace alone and an endless cache.
    """

    arrival_s: NDArray[np.float64]
    input_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    profile: NDArray[np.int16]
    difficulty: NDArray[np.float32]
    client: NDArray[np.int64]
    session: NDArray[np.int64]
    reusable_prefix_tokens: NDArray[np.int32]
    prefix_offsets: NDArray[np.int64] | None = None
    prefix_blocks: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.arrival_s)

    def head(self, requests: int) -> Batch:
        """The first ``requests`` of this batch."""
        offsets = self.prefix_offsets
        columns: dict[str, Any] = {name: getattr(self, name)[:requests] for name in _COLUMNS}
        if offsets is not None and self.prefix_blocks is not None:
            columns["prefix_offsets"] = offsets[: requests + 1]
            columns["prefix_blocks"] = self.prefix_blocks[: offsets[min(requests, len(self))]]
        return Batch(**columns)


_COLUMNS = [name for name in Batch.__dataclass_fields__ if not name.startswith("prefix_")]


class Workload:
    """``copies`` of ``trace`` over each other, as batches of about ``batch_requests``. Iterate as often as you like.

    The first copy is the trace as it is. Further ones are turned round on the span of the trace by offsets spread evenly over
    ``shift_s_max`` (None: the whole span) with a random part of up to half their distance, so that bursts of two copies never
    meet by construction. Spread over the span they level out the hours of the day; a small ``shift_s_max`` keeps those.
    The fraction of ``copies`` is one more copy of which each request is kept with that probability; below 1 it is the first.

    Requests from ``start_s`` up to ``end_s`` (None: the span) are produced, at most ``requests_max``. ``assign_by`` says what
    draws a profile: each request, or all requests of a client or session (those without a session, each on its own);
    ``given``: none is drawn, the client of a request is the number of its profile.
    Difficulty is drawn for each request in the range of its profile. Raises ValueError for what makes no sense.
    """

    def __init__(
        self,
        trace: Trace,
        profiles: Sequence[Profile],
        seed: int,
        copies: float = 1.0,
        start_s: float = 0.0,
        end_s: float | None = None,
        *,
        assign_by: AssignBy | Literal["given"] = "request",
        requests_max: int | None = None,
        shift_s_max: float | None = None,
        batch_requests: int = 10_000,
    ) -> None:
        self.trace, self.profiles, self.assign_by = trace, tuple(profiles), assign_by
        self.start_s, self.end_s = start_s, trace.span_s if end_s is None else min(end_s, trace.span_s)
        self.requests_max, self._batch_requests = requests_max, batch_requests
        self._check(copies, seed)
        whole = math.floor(copies)
        self._fraction = copies - whole
        self._copies = math.ceil(copies)
        self._superposition = Superposition(trace.arrival_s, trace.span_s, self._copies, seed, shift_s_max)
        self._thin = stream(seed, _THIN, whole)
        self._profile_starts = _streams(seed, _PROFILE, self._copies)
        self._difficulty_starts = _streams(seed, _DIFFICULTY, self._copies)
        self._clients = _ids(trace.client) if trace.has_clients else 1
        self._sessions = _ids(trace.session) if trace.has_sessions else 1
        self._blocks = _ids(trace.prefix_blocks) if trace.prefix_blocks is not None else 1
        shares = np.array([profile.share for profile in self.profiles])
        self._cumulated = np.cumsum(shares / shares.sum())[:-1]
        self._low = np.array([profile.difficulty_low for profile in self.profiles], np.float32)
        self._width = np.array([p.difficulty_high - p.difficulty_low for p in self.profiles], np.float32)

    def _check(self, copies: float, seed: int) -> None:
        if not (math.isfinite(copies) and copies > 0.0):
            raise ValueError(f"copies must be above 0, not {copies}")
        if not self.profiles:
            raise ValueError("a workload needs at least one profile")
        if seed < 0:
            raise ValueError(f"the seed must not be negative, as {seed} is")
        if not 0.0 <= self.start_s < self.end_s:
            raise ValueError(
                f"nothing lies between {self.start_s} s and {self.end_s} s of a span of {self.trace.span_s} s"
            )
        if self.assign_by == "client" and not self.trace.has_clients:
            raise ValueError(f"{self.trace.name} names no clients, so that profiles cannot be drawn by client")
        if self.assign_by == "session" and not self.trace.has_sessions:
            raise ValueError(f"{self.trace.name} names no sessions, so that profiles cannot be drawn by session")

    @property
    def requests_expected(self) -> float:
        """How many requests will come: exact without a fraction of a copy, else the mean over seeds."""
        counts = self._superposition.counts(self.start_s, self.end_s).astype(np.float64)
        if self._fraction:
            counts[-1] *= self._fraction
        return min(float(counts.sum()), float(self.requests_max or math.inf))

    def __iter__(self) -> Iterator[Batch]:
        left = math.inf if self.requests_max is None else self.requests_max
        # A thinned copy alone loses most of a window: take larger windows, within reason.
        rows = round(self._batch_requests / max(self._fraction, 0.125)) if self._copies == 1 and self._fraction else 0
        for arrival_s, copy, index in self._superposition.windows(
            self.start_s, self.end_s, rows or self._batch_requests
        ):
            if left <= 0:
                return
            kept = self._kept(copy, index)
            batch = self._batch(
                *((arrival_s, copy, index) if kept is None else (arrival_s[kept], copy[kept], index[kept]))
            )
            if len(batch) > left:
                batch = batch.head(int(left))
            left -= len(batch)
            if len(batch):
                yield batch

    def _kept(self, copy: NDArray[np.int64], index: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        if not self._fraction:
            return None
        kept = np.ones(len(index), np.bool_)
        thinned = np.flatnonzero(copy == self._copies - 1)
        kept[thinned] = uniform(self._thin, index[thinned]) < self._fraction
        return kept

    def _batch(self, arrival_s: NDArray[np.float64], copy: NDArray[np.int64], index: NDArray[np.int64]) -> Batch:
        trace = self.trace
        session = trace.session[index]
        if trace.has_sessions:
            session = np.where(session < 0, session, session + copy * self._sessions)
        profile = self._profile(copy, index, session)
        offsets = blocks = None
        if trace.prefix_offsets is not None and trace.prefix_blocks is not None:
            offsets, blocks = gather(trace.prefix_offsets, trace.prefix_blocks, index)
            blocks = blocks + np.repeat(copy * self._blocks, np.diff(offsets))
        return Batch(
            arrival_s=arrival_s,
            input_tokens=trace.input_tokens[index],
            output_tokens=trace.output_tokens[index],
            profile=profile,
            difficulty=self._difficulty(copy, index, profile),
            client=trace.client[index] + copy * self._clients,
            session=session,
            reusable_prefix_tokens=trace.reusable_prefix_tokens[index],
            prefix_offsets=offsets,
            prefix_blocks=blocks,
        )

    def _profile(
        self, copy: NDArray[np.int64], index: NDArray[np.int64], session: NDArray[np.int64]
    ) -> NDArray[np.int16]:
        if len(self.profiles) == 1:
            return np.zeros(len(index), np.int16)
        if self.assign_by == "given":
            return self.trace.client[index].astype(np.int16)
        key = index
        if self.assign_by == "client":
            key = self.trace.client[index].astype(np.int64)
        elif self.assign_by == "session":
            # Odd numbers for requests without a session, even ones for sessions: the two never share a draw.
            key = np.where(session < 0, 2 * index + 1, 2 * (session - copy * self._sessions))
        drawn = uniform(self._profile_starts[copy], key)
        return np.searchsorted(self._cumulated, drawn, side="right").astype(np.int16)

    def _difficulty(
        self, copy: NDArray[np.int64], index: NDArray[np.int64], profile: NDArray[np.int16]
    ) -> NDArray[np.float32]:
        if not self._width.any():
            return self._low[profile]
        drawn = uniform(self._difficulty_starts[copy], index).astype(np.float32)
        return self._low[profile] + self._width[profile] * drawn


def offered_work(trace: Trace, profiles: Sequence[Profile], work: Work, given: bool = False) -> float:
    """Replica-seconds of local work that one copy of ``trace`` brings per second, as the mean over all draws of profiles.

    ``work`` is asked for each profile in turn; what it answers with nan counts as nothing. ``given``: none is drawn, the
    client of a request is the number of its profile.
    """
    shares = np.array([profile.share for profile in profiles])
    shares = shares / shares.sum()
    total_s = 0.0
    for first in range(0, trace.requests, _CHUNK_ROWS):
        rows = slice(first, first + _CHUNK_ROWS)
        inputs, outputs, client = trace.input_tokens[rows], trace.output_tokens[rows], trace.client[rows]
        for i, share in enumerate(shares):
            own = client == i if given else slice(None)
            total_s += (1.0 if given else share) * float(np.nansum(work(i, inputs[own], outputs[own])))
    return total_s / trace.span_s


def copies_for(load_factor: float, capacity: float, offered: float) -> float:
    """Copies whose local work is ``load_factor`` times ``capacity`` replicas, where one copy brings ``offered`` per second.

    Raises ValueError where ``offered`` is 0.
    """
    if not offered > 0.0:
        raise ValueError("no request of this trace can be served locally, so no number of copies makes a load")
    return load_factor * capacity / offered


def _streams(seed: int, purpose: int, copies: int) -> NDArray[np.uint64]:
    return np.array([stream(seed, purpose, copy) for copy in range(copies)], np.uint64)


def _ids(column: NDArray[Any]) -> int:
    """One more than the largest id, found in pieces."""
    starts = range(0, len(column), _CHUNK_ROWS)
    return 1 + max((int(column[start : start + _CHUNK_ROWS].max()) for start in starts), default=0)
