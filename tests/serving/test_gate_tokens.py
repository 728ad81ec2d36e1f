"""Tokens of engines that come, go, restart and fall silent: none is counted twice, and none before it was seen."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.gate.engine_stats import parse
from serving.gate.state import GateState
from serving.gate.wire import EngineStats
from tests.support.gates import gate_state


def counted(prompt: float, generated: float, cached: float = 0.0) -> EngineStats:
    return EngineStats(0, 0, 0, prompt, generated, cached, counts_tokens=True)


def gate(*names: str) -> GateState:
    state = gate_state(4)
    state.set_replicas({name: f"http://{name}" for name in names}, 0.0)
    return state


def tokens(state: GateState) -> tuple[float, float, float]:
    stats = state.stats()
    return stats.prompt_tokens, stats.generation_tokens, stats.cached_tokens


def test_an_engine_that_misses_a_scrape_brings_no_tokens_back_with_it() -> None:
    state = gate("a", "b")
    state.heard("a", counted(0, 0), 0.0)
    state.heard("b", counted(0, 0), 0.0)
    state.heard("a", counted(1000, 500, 100), 1.0)
    state.heard("b", counted(10, 5), 1.0)
    state.heard("a", None, 2.0)
    assert tokens(state) == (1010, 505, 100)
    assert state.stats().counts_tokens
    state.heard("a", counted(1007, 503, 101), 3.0)
    assert tokens(state) == (1017, 508, 101)


def test_what_an_engine_served_before_the_gate_saw_it_is_not_counted() -> None:
    state = gate("a")
    state.heard("a", counted(1e9, 1e8, 1e7), 0.0)
    assert tokens(state) == (0, 0, 0)
    state.heard("a", counted(1e9 + 3, 1e8 + 2, 1e7 + 1), 1.0)
    state.set_replicas({"a": "http://a", "b": "http://b"}, 1.0)
    state.heard("b", counted(5e9, 5e8), 2.0)
    assert tokens(state) == (3, 2, 1)


def test_a_page_without_counters_is_no_restart() -> None:
    state = gate("a")
    for stats in (EngineStats(), counted(900, 90), EngineStats(), counted(901, 92)):
        state.heard("a", stats, 0.0)
    assert tokens(state) == (1, 2, 0)


@pytest.mark.parametrize("way", ["restart", "moves", "leaves and returns"])
def test_an_engine_that_begins_anew_neither_takes_tokens_back_nor_adds_any(way: str) -> None:
    state = gate("a")
    state.heard("a", counted(100, 10), 0.0)
    state.heard("a", counted(200, 20), 1.0)
    if way == "moves":
        state.set_replicas({"a": "http://elsewhere"}, 2.0)
    if way == "leaves and returns":
        state.set_replicas({}, 2.0)
        assert tokens(state) == (100, 10, 0)
        state.set_replicas({"a": "http://a"}, 3.0)
    state.heard("a", counted(50, 5), 4.0)
    assert tokens(state) == (100, 10, 0)
    state.heard("a", counted(60, 7), 5.0)
    assert tokens(state) == (110, 12, 0)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["ask", "ask", "miss", "blank"]), st.integers(0, 1000)))
)
def test_with_engines_that_do_not_restart_every_token_after_the_first_answer_counts_once(
    steps: list[tuple[str, str, int]],
) -> None:
    state, own, first = gate("a", "b"), {"a": 7e6, "b": 3.0}, dict[str, float]()
    last = dict[str, float]()
    for name, what, served in steps:
        own[name] += served
        if what == "ask":
            first.setdefault(name, own[name])
            last[name] = own[name]
        answer = {"ask": counted(0, own[name]), "miss": None, "blank": EngineStats()}[what]
        state.heard(name, answer, 0.0)
        assert tokens(state)[1] == sum(last[one] - first[one] for one in first)


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-5", "1e300", "many", ""])
def test_a_metric_that_is_no_number_does_not_spoil_the_gates_report(value: str) -> None:
    text = f'vllm:generation_tokens_total{{engine="0"}} {value}\nvllm:generation_tokens_total{{engine="1"}} 7\n'
    stats = parse(text + f"vllm:kv_cache_usage_perc {value}\n")
    assert (stats.generation_tokens, stats.kv_usage, stats.counts_tokens) == (7.0, 0.0, True)
    assert msgspec.json.decode(msgspec.json.encode(stats), type=EngineStats) == stats


def test_a_page_of_zeros_holds_counters_and_an_empty_page_does_not() -> None:
    assert parse('vllm:prompt_tokens_total{model_name="m"} 0.0').counts_tokens
    assert not parse("vllm:num_requests_running 3").counts_tokens
    assert not parse("").counts_tokens
