"""The model of an engine: nothing is lost or done twice, no step is shorter than its work, simple cases have closed forms."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.supply import ServiceCurve
from scheduler.simulation.engine import CHUNK_TOKENS, Engine

CURVE = ServiceCurve(44_500.0, 0.0062, 0.000081, 256)  # Llama-8B on an H100
NOW_S = 1_767_225_600.0  # a clock of this century


@dataclass
class Run:
    """What came out of an engine: when each ticket began and ended, and the counters at the end of every step."""

    first_s: dict[str, float] = field(default_factory=dict)
    done_s: dict[str, float] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    marks: list[tuple[float, float, float, int]] = field(default_factory=list)  # time, prefilled, decoded, begun
    calls: int = 0

    def proceed(self, engine: Engine) -> None:
        now_s = engine.next_s
        first, done = engine.proceed(now_s)
        self.calls += 1
        for ticket in first:
            assert ticket not in self.first_s
            self.first_s[ticket] = now_s
            self.order.append(ticket)
        for ticket in done:
            assert ticket not in self.done_s
            assert self.first_s[ticket] <= now_s
            self.done_s[ticket] = now_s
        self.marks.append((now_s, engine.prefilled_tokens, engine.decoded_tokens, len(self.first_s)))


Arrivals = list[tuple[float, int, int]]  # instant, prompt, answer


def played(engine: Engine, arrivals: Arrivals) -> Run:
    """All arrivals and then whatever is left; tickets are named by their place."""
    run = Run()
    for i, (at_s, prompt, answer) in enumerate(arrivals):
        while engine.next_s <= at_s:
            run.proceed(engine)
        engine.submit(str(i), prompt, answer, at_s)
    while not engine.idle:
        run.proceed(engine)
        assert run.calls <= 100_000, "the engine stands still"
    assert engine.next_s == math.inf
    return run


def bursts(gaps_s: list[float], sizes: list[tuple[int, int]], from_s: float = 0.0) -> Arrivals:
    instants = from_s + np.cumsum(gaps_s)
    return [(at_s, *size) for at_s, size in zip(instants.tolist(), sizes, strict=False)]


def together(answers: list[int]) -> Arrivals:
    """Requests 1, 2, ... begin in one step: they come while request 0, a single token, is computed."""
    return [(0.0, 1, 1), *((1e-4, 1, answer) for answer in answers)]


# Many come at once, some in a stream, and now and then the engine runs empty.
gaps = st.lists(
    st.sampled_from([0.0, 0.0, 1.0]).flatmap(lambda most_s: st.floats(0.0, most_s)), min_size=40, max_size=40
)
requests = st.lists(st.tuples(st.integers(1, 20_000), st.integers(1, 200)), min_size=1, max_size=40)
chunks = st.sampled_from([64, 512, 1024, CHUNK_TOKENS])
curves = st.builds(
    ServiceCurve, st.floats(500.0, 1e5), st.floats(1e-3, 0.05), st.floats(0.0, 1e-3), st.just(256)
)  # fmt: skip


@given(curves, gaps, requests, chunks)
def test_every_token_is_computed_once_and_no_request_is_lost(
    curve: ServiceCurve, gaps_s: list[float], sizes: list[tuple[int, int]], chunk: int
) -> None:
    engine = Engine(curve, chunk)
    run = played(engine, bursts(gaps_s, sizes))
    assert set(run.first_s) == set(run.done_s) == {str(i) for i in range(len(sizes))}
    assert engine.prefilled_tokens == sum(prompt for prompt, _ in sizes)
    assert engine.decoded_tokens == pytest.approx(sum(answer for _, answer in sizes), rel=2e-3)
    assert engine.running == 0


@given(curves, gaps, requests, chunks)
def test_prompts_are_computed_in_the_order_in_which_they_came(
    curve: ServiceCurve, gaps_s: list[float], sizes: list[tuple[int, int]], chunk: int
) -> None:
    run = played(Engine(curve, chunk), bursts(gaps_s, sizes))
    assert run.order == [str(i) for i in range(len(sizes))]


@given(curves, gaps, requests, chunks)
def test_no_stretch_of_time_is_shorter_than_the_work_done_in_it(
    curve: ServiceCurve, gaps_s: list[float], sizes: list[tuple[int, int]], chunk: int
) -> None:
    engine = Engine(curve, chunk)
    run = played(engine, bursts(gaps_s, sizes))
    marks = np.array([(bursts(gaps_s, sizes)[0][0], 0.0, 0.0, 0), *run.marks])
    took_s, prefilled, decoded, begun = np.diff(marks, axis=0).T
    # The first token of an answer comes out of the prompt's last step, so that only those after it are decoded.
    work_s = prefilled / curve.prefill_tokens_per_s + (decoded - begun) * curve.itl_per_seq_s
    assert (work_s <= took_s + 1e-6).all()
    assert work_s.sum() <= engine.busy_s + 1e-6


@given(curves, gaps, requests, chunks)
def test_an_engine_is_busy_whenever_it_has_something_to_do_and_only_then(
    curve: ServiceCurve, gaps_s: list[float], sizes: list[tuple[int, int]], chunk: int
) -> None:
    engine, arrivals = Engine(curve, chunk), bursts(gaps_s, sizes)
    run = played(engine, arrivals)
    # The union of the requests' stays.
    busy_s, until_s = 0.0, -math.inf
    for i, (at_s, _, _) in enumerate(arrivals):
        end_s = run.done_s[str(i)]
        busy_s += max(0.0, end_s - max(at_s, until_s))
        until_s = max(until_s, end_s)
    assert engine.busy_s == pytest.approx(busy_s, abs=1e-6)


@given(curves, st.integers(1, 30_000), st.integers(1, 500), chunks)
def test_a_request_alone_takes_its_chunks_and_then_one_step_for_each_further_token(
    curve: ServiceCurve, prompt: int, answer: int, chunk: int
) -> None:
    run = played(Engine(curve, chunk), [(3.0, prompt, answer)])
    parts = [chunk] * (prompt // chunk) + [prompt % chunk] * (prompt % chunk > 0)
    first_s = 3.0 + sum(max(curve.itl_base_s, part / curve.prefill_tokens_per_s) for part in parts)
    assert run.first_s["0"] == pytest.approx(first_s)
    assert run.done_s["0"] == pytest.approx(first_s + (answer - 1) * (curve.itl_base_s + curve.itl_per_seq_s))


@given(curves, st.integers(1, 64), st.integers(2, 300))
def test_sequences_that_only_decode_take_base_and_slope_for_every_token(
    curve: ServiceCurve, running: int, answer: int
) -> None:
    run = played(Engine(curve), together([answer] * running))
    begun_s = sum(max(curve.itl_base_s, prompts / curve.prefill_tokens_per_s) for prompts in (1, running))
    itl_s = curve.itl_base_s + curve.itl_per_seq_s * running
    assert itl_s == curve.itl_s(running)
    for ticket in map(str, range(1, running + 1)):
        assert run.first_s[ticket] == pytest.approx(begun_s)
        assert run.done_s[ticket] - run.first_s[ticket] == pytest.approx((answer - 1) * itl_s)


def test_shorter_answers_leave_and_the_rest_goes_faster() -> None:
    # Three together for 9 steps, two for 10 more, one for 20 more.
    run = played(Engine(CURVE), together([10, 20, 40]))
    ends_s = np.cumsum([9 * CURVE.itl_s(3), 10 * CURVE.itl_s(2), 20 * CURVE.itl_s(1)]) + 2 * 0.0062
    assert [run.done_s[ticket] for ticket in "123"] == pytest.approx(ends_s.tolist())


def test_a_prompt_waits_for_the_step_that_runs_and_then_makes_everybody_s_step_longer() -> None:
    engine, step_s = Engine(CURVE), CURVE.itl_s(1)
    # The first begins at 6.2 ms; in the middle of its fourth step after that a prompt of 4450 tokens (100 ms) comes.
    run = played(engine, [(0.0, 1, 10), (0.0062 + 3.5 * step_s, 4450, 1)])
    begins_s = 0.0062 + 4 * step_s
    assert run.first_s["1"] == pytest.approx(begins_s + 0.1 + CURVE.itl_per_seq_s)
    # Of nine steps after the first token one was longer.
    assert run.done_s["0"] == pytest.approx(0.0062 + 8 * step_s + 0.1 + CURVE.itl_per_seq_s)


def test_what_comes_while_a_step_runs_joins_the_next_one() -> None:
    run = played(Engine(CURVE), [(0.0, 4450, 1), (0.01, 890, 1), (0.02, 890, 1)])
    assert run.first_s == pytest.approx({"0": 0.1, "1": 0.14, "2": 0.14})


def test_a_long_prompt_is_cut_and_the_next_one_fills_the_rest_of_its_last_step() -> None:
    run = played(Engine(CURVE, 1000), [(0.0, 2500, 1), (0.0, 700, 1)])
    # 1000, 1000, 500 + 500, 200 (which takes no less than a step does).
    assert run.first_s == pytest.approx({"0": 3000 / 44_500, "1": 3000 / 44_500 + 0.0062})


@given(gaps, requests, st.floats(0.0, 2.0), chunks)
def test_dropping_everything_returns_whoever_was_not_done_and_leaves_a_fresh_engine(
    gaps_s: list[float], sizes: list[tuple[int, int]], until_s: float, chunk: int
) -> None:
    engine, run, submitted = Engine(CURVE, chunk), Run(), []
    for i, (at_s, prompt, answer) in enumerate(bursts(gaps_s, sizes)):
        while engine.next_s <= min(at_s, until_s):
            run.proceed(engine)
        if at_s > until_s:
            break
        submitted.append(str(i))
        engine.submit(str(i), prompt, answer, at_s)
    assert sorted(engine.drop_all()) == sorted(set(submitted) - set(run.done_s))
    assert engine.idle
    assert engine.next_s == math.inf
    again = played(engine, [(20.0, 50, 3)])
    assert again.done_s == pytest.approx({"0": 20.0 + 0.0062 + 2 * CURVE.itl_s(1)})


@given(gaps, requests, chunks)
def test_a_clock_of_this_century_changes_nothing_but_its_own_rounding(
    gaps_s: list[float], sizes: list[tuple[int, int]], chunk: int
) -> None:
    """A step that is shorter than what the clock resolves must not stand still, nor be done twice."""
    early = played(Engine(CURVE, chunk), bursts(gaps_s, sizes))
    late = played(Engine(CURVE, chunk), bursts(gaps_s, sizes, NOW_S))
    assert late.order == early.order
    assert late.calls <= early.calls + 3 * len(sizes)
    # An arrival just before or just after the end of a step may be a step early or late by rounding.
    most_s = len(sizes) * (chunk / CURVE.prefill_tokens_per_s + CURVE.itl_s(len(sizes)))
    for ticket, done_s in early.done_s.items():
        assert late.done_s[ticket] - NOW_S == pytest.approx(done_s, abs=most_s)


def test_thousands_of_steps_on_a_clock_of_this_century_add_up() -> None:
    rng = np.random.default_rng(5)
    gaps_s, prompts, answers = rng.exponential(0.05, 3000), rng.integers(1, 3000, 3000), rng.integers(1, 200, 3000)
    sizes = list(zip(prompts.tolist(), answers.tolist(), strict=True))
    engine = Engine(CURVE, 1024)
    run = played(engine, bursts(gaps_s.tolist(), sizes, NOW_S))
    assert len(run.done_s) == 3000
    assert engine.prefilled_tokens == prompts.sum()
    assert engine.decoded_tokens == pytest.approx(answers.sum(), rel=1e-4)
    assert run.calls < 12_000
