"""The requests of a batch one by one, as plain Python values: what the exact engine works on."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise, repeat
from typing import NamedTuple

from scheduler.simulation.prefix import session_blocks
from scheduler.simulation.workload import Batch


class Row(NamedTuple):
    """One request; ``blocks`` are those of its prompt, from the trace or from its session."""

    arrival_s: float
    input_tokens: int
    output_tokens: int
    profile: int
    difficulty: float
    session: str
    blocks: Sequence[Hashable]


def rows_of(batch: Batch) -> Iterable[Row]:
    """Every request of ``batch``, in order."""
    sessions = ["" if session < 0 else str(session) for session in batch.session.tolist()]
    blocks: Iterable[Sequence[Hashable]] = repeat(())
    if batch.prefix_offsets is not None and batch.prefix_blocks is not None:
        ends, flat = batch.prefix_offsets.tolist(), batch.prefix_blocks.tolist()
        blocks = [flat[begin:end] for begin, end in pairwise(ends)]
    elif any(sessions):
        blocks = map(session_blocks, sessions, batch.input_tokens.tolist())
    columns = (batch.arrival_s, batch.input_tokens, batch.output_tokens, batch.profile, batch.difficulty)
    return map(Row._make, zip(*(column.tolist() for column in columns), sessions, blocks, strict=False))
