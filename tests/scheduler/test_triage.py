"""The rule that guesses difficulty: explicit wishes win, and no text breaks it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.ports import Features
from scheduler.quality.triage import heuristic


def features(text: str, **fields: object) -> Features:
    values = {"input_tokens": 50, "turns": 1, "reasoning_effort": "", "has_tools": False} | fields
    return Features(text=text, **values)  # type: ignore[arg-type]


@given(
    st.text(),
    st.integers(0, 10**9),
    st.integers(0, 10**4),
    st.text(max_size=10) | st.sampled_from(["none", "low", "high", "xhigh"]),
    st.booleans(),
)
def test_difficulty_is_always_a_fraction(text: str, tokens: int, turns: int, effort: str, tools: bool) -> None:
    assert 0.0 <= heuristic(Features(text, tokens, turns, effort, tools)) <= 1.0


@given(st.text(), st.booleans())
def test_an_explicit_effort_wins_over_every_guess_and_more_effort_is_never_easier(text: str, tools: bool) -> None:
    efforts = ["none", "minimal", "low", "medium", "high", "xhigh"]
    asked = [heuristic(features(text, reasoning_effort=effort, has_tools=tools)) for effort in efforts]
    assert asked == sorted(set(asked))
    assert (asked[0], asked[-1]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("easy", "hard"),
    [
        ("Classify this ticket: my invoice is wrong", "Prove that the square root of 2 is irrational"),
        ("Translate to French: good morning", "Design a distributed lock and analyse its trade-offs"),
        ("Is this positive? yes or no", "Find the root cause of this deadlock, step by step"),
        ("Tell me about cats", "Implement an LRU cache"),
    ],
)
def test_wording_tells_easy_from_hard(easy: str, hard: str) -> None:
    assert heuristic(features(easy)) < 0.5 <= heuristic(features(hard))


@pytest.mark.parametrize(
    "harder",
    [{"input_tokens": 4001}, {"turns": 7}, {"has_tools": True}],
)
def test_length_turns_and_tools_each_make_it_harder(harder: dict[str, object]) -> None:
    assert heuristic(features("hello", **harder)) > heuristic(features("hello"))


def test_code_makes_it_harder() -> None:
    assert heuristic(features("what does this do?\n```\nx\n```")) > heuristic(features("what does this do?"))


def test_an_unknown_effort_is_no_wish() -> None:
    assert heuristic(features("hello", reasoning_effort="enormous")) == heuristic(features("hello"))


def test_what_stands_beyond_the_first_pages_is_not_read() -> None:
    assert heuristic(features("a " * 1000 + "prove the theorem")) == heuristic(features("a " * 1000))
