"""What feeds share when they read an answer."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.feeds import FeedChanged, FeedError
from pricing.feeds.hours import DAY_S, Span, TooMany, windows
from pricing.feeds.reading import (
    Entries,
    Problems,
    decode,
    decode_entry,
    from_environment,
    instant,
    number,
    plain,
    readable,
)
from scheduler.core.supply import Rate


@given(st.floats(allow_nan=True) | st.integers() | st.text() | st.booleans() | st.none())
def test_a_number_is_finite_or_none(value: object) -> None:
    found = number(value)
    assert found is None or (math.isfinite(found) and not isinstance(value, bool) and found == float(str(value)))


@pytest.mark.parametrize("value", ["1_000", "0x10", "", " ", "1,5", "9" * 65, 10**400, True, None, [1], "nan", "-inf"])
def test_what_is_no_number_is_none(value: object) -> None:
    assert number(value) is None


def test_an_instant_without_a_zone_is_utc() -> None:
    assert instant("2026-01-01") == instant("2026-01-01T00:00:00Z") == instant("2026-01-01T01:00:00+01:00")
    assert [instant(text) for text in ("", "now", "2026-01-01T99:00", 5, "2026-13-01", "x" * 99)] == [None] * 6


def test_a_wrong_shape_names_its_path() -> None:
    assert decode(b'{"a": [1]}', dict[str, list[int]]) == {"a": [1]}
    with pytest.raises(FeedChanged, match=r"\$\[\.\.\.\]\[0\]"):
        decode(b'{"a": ["x"]}', dict[str, list[int]])


@given(st.text())
def test_plain_text_fits_a_log(text: str) -> None:
    shown = plain(text, 20)
    assert len(shown) <= 20
    assert all(c.isprintable() for c in shown)


def test_half_of_the_entries_may_be_unreadable_and_not_more() -> None:
    problems = Problems()
    assert readable([], problems) == []
    problems.append("a")
    problems.append("b")
    assert readable([1, 2], problems) == [1, 2]
    problems.append("c")
    with pytest.raises(FeedChanged, match=r"3 of 5 .* first a"):
        readable([1, 2], problems)


def test_of_many_problems_only_a_few_are_kept_in_words() -> None:
    problems = Problems()
    for i in range(1000):
        problems.append(f"{i}" + "x" * 1000)
    assert (len(problems), len(problems.first)) == (1000, 3)
    assert all(len(text) <= 160 for text in (*problems.first, problems.last))


def test_a_secret_that_is_not_set_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEED_KEY", " k\n")
    assert from_environment("FEED_KEY") == "k"
    monkeypatch.setenv("FEED_KEY", " ")
    with pytest.raises(FeedError, match="FEED_KEY is not set"):
        from_environment("FEED_KEY")


def test_hours_that_make_more_windows_than_anyone_sells_by_are_an_error() -> None:
    spans = [Span(n * 600, n * 600 + 300) for n in range(101)]
    with pytest.raises(TooMany, match="more than 100 windows"):
        windows(spans, lambda active: {"standard": Rate(float(sum(active) + 1), 0.0, 0.0)})
    assert len(windows(spans[:99], lambda active: {"standard": Rate(float(sum(active) + len(active)), 0.0, 0.0)})) == 99


def test_an_entry_that_is_long_is_not_decoded() -> None:
    short, long = decode(b'[["a"], "' + b"x" * 70_000 + b'"]', Entries)
    assert decode_entry(short, list[str]) == ["a"]
    with pytest.raises(FeedChanged, match="70002 bytes"):
        decode_entry(long, str)


def test_a_list_of_more_entries_than_anyone_sells_is_refused() -> None:
    assert len(decode(b"[0" + b",0" * 19_999 + b"]", Entries)) == 20_000
    with pytest.raises(FeedChanged, match="20000"):
        decode(b"[0" + b",0" * 20_000 + b"]", Entries)


SPANS = st.lists(
    st.builds(
        Span,
        st.integers(0, 47).map(lambda n: n * 1800),
        st.integers(0, 48).map(lambda n: n * 1800),
        st.frozensets(st.integers(1, 7), min_size=1),
    ),
    max_size=4,
)


@given(SPANS, st.integers(1, 7), st.integers(0, 47))
def test_exactly_the_spans_that_hold_make_the_rates_of_an_instant(spans: list[Span], day: int, half_hour: int) -> None:
    def rates_when(active: frozenset[int]) -> dict[str, Rate]:
        return {"standard": Rate(float(sum(2**i for i in active)), 0.0, 0.0)}

    second = half_hour * 1800
    found = windows(spans, rates_when)  # type: ignore[arg-type]
    held = [w for w in found if w.start_s <= second < w.end_s and (not w.days or day in w.days)]
    expected = sum(2**i for i, span in enumerate(spans) if span.holds(second, day))
    assert len(held) <= 1
    assert (held[0].rates["standard"].usd_per_input if held else 0) == expected
    assert all(0 <= w.start_s < w.end_s <= DAY_S for w in found)
