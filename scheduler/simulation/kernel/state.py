"""Everything that the kernel remembers between two calls, as arrays of records: requests stream by, this stays.

Units: USD, seconds on the clock of the run (0 at its start), tokens, replica-seconds. Indices are plain row numbers; -1 is
nobody. The numbers of records are fixed when a run is made, so that a run's memory does not grow with its requests.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from scheduler.core.learning import magnitude

# For functions that only the kernel calls. Without reference counts: nothing here makes or keeps an array, and counting
# would take most of the time of small functions. Without wrappers for Python: those take most of the time of compiling.
inner = njit(error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
# Inlined wherever they are called: left to the compiler, a run takes a quarter longer.
tight = njit(error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)

# Row numbers are I where there are many of them, and are made L before a function gets them, which then is compiled once.
F, I = np.float64, np.int32  # noqa: E741 - the short names keep the tables readable
L: Any = np.int64

TICK_S = 0.05  # how often gates look who has to go
INPUT_KINDS = 1 + magnitude(2**20)  # all longer inputs are of the last

DEMAND_MAX = 8192  # demand that is kept for the next bid curves, as scheduler.core.bids keeps it
SAMPLES_MAX = 256  # by gateway and snapshot
NOBODY = -1
FREE, WAITING, HELD = 0, 1, 2


def _record(**fields: Any) -> np.dtype[Any]:
    return np.dtype([(name, kind) for kinds, kind in fields.values() for name in kinds.split()], align=True)


# One row: the rule that is played, the settings of the run, the clock, and what it came to.
CLOCK = _record(
    rule=("kind evicts knows_lengths gateways", I),
    tuned=("threshold hold prefilter grant_ahead_s margin_max snapshot_age_s api_spread", F),
    seed=("seed", np.uint64),
    times=("now_s clear_s change_s news_s", F),
    counts=("tick number waiting free changes changed in_flight news_pool", L),
    tally=("requests served in_time local bounces", L),
    usd=("usd_api usd_energy", F),
)
# What a kind of request may use: ``home`` is an offer of ours or -1, its APIs are ``apis[api_first : api_end]``.
PROFILE = _record(
    indices=("tenant home line api_first api_end", L),
    limits=("ttft_s_max deadline_s usd_max usd_per_s_waiting usd_per_ttft_miss usd_per_wrong_answer", F),
)
OFFER = _record(
    indices=("pool tier_first tier_end", L),
    rate=("usd_per_request usd_per_input usd_per_output usd_per_thinking floor_usd_per_s", F),
    tokens=("context_tokens reasoning_tokens tokens_ratio", F),
    curve=("prefill_tokens_per_s itl_base_s itl_per_seq_s seqs_max ttft_base_s kv_tokens", F),
    quality=("low medium high", F),
)
TIER = _record(usd=("input_tokens_above usd_per_input usd_per_output usd_per_thinking", F))
# A pool and its gate; ``true_*`` is how its engines behave. ``seen_*``: the snapshot that gateways have.
# ``first``: who is first of all its lines, -1 until that is asked. ``news_s``: when its gate hears the next news.
POOL = _record(
    indices=("lane_first lane_end line_first line_end first ring_mask", L),
    counts=("healthy slots waiting waiting_max held", L),
    ring=("ring_head ring_tail", L),
    news=("news_s", F),
    engine=("true_base_s true_per_seq_s true_per_token_s chunk_tokens kv_tokens", F),
    gate=("ttft_base_s step_base_s step_per_seq_s service_s_mean margin", F),
    prefill=("prefill_ratio prefill_actual_s prefill_predicted_s", F),
    work=("work_ratio work_actual_s work_predicted_s began_s began_work_s faded_s slots_bound", F),
    seen=("seen_waiting seen_replicas", L),
    seen_shares=("seen_usage seen_slots_bound", F),
    sample=("sample_kept sample_every sample_seen", L),
    demand=("demand_head demand_kept window_head window_kept", L),
    since=("since_s", F),
)
# Those who wait with one TTFT objective: a chained list, and a heap of those who may make room, the least worth first.
LINE = _record(
    indices=("pool head tail count heap_size points", L),
    line=("ttft_s_max work_s flow_s flow_at_s step_s wait_s load seen_wait_s", F),
)
# What a line knows of a slower one: the work in it whose deadlines come before ``by_s``, in whole parts of a second (so it
# can be added and taken away without a trace), and the first ticket after those.
EARLIER = _record(indices=("ticket", L), parts=("work", L), times=("by_s", F))
# One engine, and what the gate knows of it. ``ring``: tickets in the order given; prompts and first tokens follow it.
LANE = _record(
    indices=("pool healthy held running in_step steps_at_once", L),
    ring=("begun_head prompt_head tail", L),
    gate=("kv_held begun_s since_s step_s", F),
    engine=("steps anchor_s chunk busy_s decoded_tokens prefilled_tokens", F),
)
TICKET = _record(
    indices=("state profile line lane before after api", I),
    timeout=("timeout timeout_before timeout_after", I),
    counts=("number place", L),
    tokens=("input_tokens output_tokens left_tokens kv_tokens", F),
    worth=("work_s prefill_s usd_displaced", F),
    times=("arrived_s granted_s ttft_s start_by_s ttft_by_s leave_by_s", F),
)


class State(NamedTuple):
    """All of it. ``due_s`` and ``first`` are a tournament over engines.

    ``timeouts``: those whose time is out at the same tick, in order of arrival, for some minutes to come; at the last of them
    stands whoever has more time.
    """

    clock: np.ndarray  # [1]
    profiles: np.ndarray
    offers: np.ndarray
    tiers: np.ndarray
    apis: np.ndarray  # offers' rows
    pools: np.ndarray
    lines: np.ndarray
    lanes: np.ndarray
    tickets: np.ndarray
    free: np.ndarray  # [tickets]: a stack of free rows
    due_s: np.ndarray  # [2 * leaves]: the instant of each winner
    first: np.ndarray  # [2 * leaves]: each winner
    lane_ring: np.ndarray  # [lanes, a power of 2]: tickets
    ends_step: np.ndarray  # [lanes, slots]: heap of the steps at which answers end
    ends_ticket: np.ndarray
    news_s: np.ndarray  # [pools, a power of 2]: first tokens and ends on their way to the gate
    news: np.ndarray  # 2 * ticket, and 1 more if it is the end
    earlier: np.ndarray  # [lines, lines of the same pool]
    timeouts: np.ndarray  # [lines, a power of 2, 2]: by tick, the first and the last of them
    room_usd: np.ndarray  # [lines, ...]: heap of USD per second of work
    room_ticket: np.ndarray
    room_number: np.ndarray
    bid_usd: np.ndarray  # [lines, POINTS_MAX]
    sent_s: np.ndarray  # [gateways, pools]
    sent_at_s: np.ndarray
    tenant_lengths: np.ndarray  # [gateways, tenants, 2]: count and sum, both fading
    profile_lengths: np.ndarray  # [gateways, profiles, 1 + kinds of input, 2]: of all inputs, and by their magnitude
    sample: np.ndarray  # [pools, SAMPLES_MAX * gateways, 3]: USD, work, TTFT objective
    demand: np.ndarray  # [pools, DEMAND_MAX, 5]: time, USD, work, TTFT objective, weight
    windows: np.ndarray  # [pools, DEMAND_MAX, 3]: end, seconds, work
    changes: np.ndarray  # [changes, 3]: time, pool, replicas
    by_profile: np.ndarray  # [profiles, 2]: in time, requests
    # What came of each request, by its number; empty where that is not kept.
    api_usd: np.ndarray
    ttft_s: np.ndarray  # nan: no first token
    source: np.ndarray  # i1: 0 nobody, 1 own engines, 2 an API


class Arrivals(NamedTuple):
    """Consecutive requests by ascending arrival; ``kept`` is read by the rule that plays a given choice."""

    arrival_s: np.ndarray  # f8
    input_tokens: np.ndarray  # i4
    output_tokens: np.ndarray  # i4
    profile: np.ndarray  # i2
    difficulty: np.ndarray  # f4
    kept: np.ndarray  # bool
