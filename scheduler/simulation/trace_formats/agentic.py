"""Sessions of coding agents (after callanjfox/kv-cache-tester, Apache-2.0): ``session_t_s`` counts from each session's start.

The sessions have no common clock. Their starts are drawn here as a Poisson process of ``Options.sessions_per_hour``, in the
order of the file and by ``Options.seed``: the pattern inside a session is real, how sessions overlap is modelled.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scheduler.simulation.trace_formats.block import Block
from scheduler.simulation.trace_formats.burstgpt import Numbers
from scheduler.simulation.trace_formats.csv_file import Columns, CsvFormat, Options
from scheduler.simulation.trace_formats.normalised import whole


def _reader(options: Options) -> Callable[[Columns], Block]:
    if not options.sessions_per_hour > 0:
        raise ValueError(f"sessions_per_hour must be above 0, not {options.sessions_per_hour}")
    rng = np.random.default_rng(options.seed)
    sessions = Numbers()
    starts_s = np.zeros(1)  # the first session starts with the trace

    def block(columns: Columns) -> Block:
        nonlocal starts_s
        session = sessions.of(columns["session"])
        gaps_s = rng.exponential(3600.0 / options.sessions_per_hour, max(0, len(sessions) - len(starts_s)))
        starts_s = np.concatenate([starts_s, starts_s[-1] + np.cumsum(gaps_s)])
        return Block(
            arrival_s=starts_s[session] + columns["session_t_s"].to_numpy(),
            input_tokens=whole(columns["input_tokens"]),
            output_tokens=whole(columns["output_tokens"]),
            session=session,
            reusable_prefix_tokens=whole(columns["cached_input_tokens"]) if "cached_input_tokens" in columns else None,
        )

    return block


AGENTIC = CsvFormat(
    name="agentic sessions",
    columns={"session": "text", "session_t_s": "seconds", "input_tokens": "count", "output_tokens": "count"},
    optional={"cached_input_tokens": "count"},
    reader=_reader,
    ordered=False,
)
