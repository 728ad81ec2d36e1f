"""The book takes in what is believable, holds back what is not, and can be rebuilt from what it has told."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing import book
from pricing.book import Change, Entry, Rules
from pricing.listing import CarbonIntensity, Listing, PowerPrice, Price
from tests.pricing.price_strategies import LIES, SLOT_S, gpu, power, slot_lists, steps_of, tokens, value_at

RULES = Rules(jump_ratio_max=3.0, jump_ratio_never=20.0, confirmations=2)
DAY_S = 86_400.0
T0_S = 100 * DAY_S


def take(
    entry: Entry | None, price: Price, now_s: float, observed_s: float | None = None, agrees: bool = False
) -> tuple[Entry, list[str]]:
    listing = Listing("p", price, now_s if observed_s is None else observed_s)
    taken, changes = book.take(entry, "f", listing, RULES, now_s, lambda _: agrees)
    return taken, [change.what for change in changes]


def known(usd_per_mtok: float = 1.0) -> Entry:
    return take(None, tokens(usd_per_mtok), T0_S)[0]


def test_a_first_price_counts_at_once_unless_it_is_free() -> None:
    assert take(None, tokens(1.0), T0_S) == (Entry("f", "p", tokens(1.0), T0_S, T0_S), ["price"])
    entry, told = take(None, tokens(0.0), T0_S)
    assert (entry.price, told) == (None, ["quarantined"])
    for i in range(1, 10):
        entry, told = take(entry, tokens(0.0), T0_S + i)
        assert (entry.price, told) == (None, [])
    entry, told = take(entry, tokens(0.0), T0_S + 10, agrees=True)
    assert (entry.price, told) == (tokens(0.0), ["confirmed", "price"])


def test_a_small_change_counts_at_once_and_the_same_price_only_makes_it_younger() -> None:
    entry, told = take(known(), tokens(3.0), T0_S + 10)
    assert (entry.price, entry.since_s, told) == (tokens(3.0), T0_S + 10, ["price"])
    entry, told = take(entry, tokens(3.0), T0_S + 20)
    assert (entry.since_s, entry.observed_s, told) == (T0_S + 10, T0_S + 20, [])


def test_a_jump_waits_until_as_many_polls_as_asked_for_have_repeated_it() -> None:
    entry, told = take(known(), tokens(4.0), T0_S + 1)
    assert (entry.price, entry.observed_s, told) == (tokens(1.0), T0_S, ["quarantined"])
    entry, told = take(entry, tokens(4.0), T0_S + 2)
    assert (entry.price, entry.observed_s, told) == (tokens(1.0), T0_S, [])
    entry, told = take(entry, tokens(4.0), T0_S + 3)
    assert (entry.price, entry.held, told) == (tokens(4.0), None, ["confirmed", "price"])


@pytest.mark.parametrize("usd", [0.0, 0.01, 100.0])
def test_a_jump_too_far_is_believed_by_nobody_but_another_source(usd: float) -> None:
    entry = known()
    for i in range(20):
        entry, _ = take(entry, tokens(usd), T0_S + i)
        assert entry.price == tokens(1.0)
    entry, told = take(entry, tokens(usd), T0_S + 20, agrees=True)
    assert (entry.price, told) == (tokens(usd), ["confirmed", "price"])


def test_a_quarantine_ends_when_the_source_takes_it_back() -> None:
    entry, _ = take(known(), tokens(4.0), T0_S + 1)
    entry, told = take(entry, tokens(1.0), T0_S + 2)
    assert (entry.held, entry.observed_s, told) == (None, T0_S + 2, ["withdrawn"])


@pytest.mark.parametrize("between", ["lie", "gone", "other"])
def test_what_was_not_said_in_a_row_begins_anew(between: str) -> None:
    entry, _ = take(known(), tokens(4.0), T0_S + 1)
    entry, _ = take(entry, tokens(4.0), T0_S + 2)
    if between == "gone":
        entry, _ = book.unlist(entry, T0_S + 3)
    else:
        entry, _ = take(entry, tokens(-1.0 if between == "lie" else 5.0), T0_S + 3)
    for i in (4, 5):
        entry, _ = take(entry, tokens(4.0), T0_S + i)
        assert entry.price == tokens(1.0)
    assert take(entry, tokens(4.0), T0_S + 6)[0].price == tokens(4.0)


@pytest.mark.parametrize("price", [*LIES, gpu(1.0)])
def test_a_lie_never_displaces_a_price_nor_makes_it_younger_and_is_told_once(price: Price) -> None:
    entry, told = take(known(), price, T0_S + 1)
    assert (entry.price, entry.observed_s, told) == (tokens(1.0), T0_S, ["refused"])
    assert entry.refused
    assert take(entry, price, T0_S + 2) == (entry, [])
    entry, told = take(entry, tokens(1.0), T0_S + 3)
    assert (entry.refused, entry.observed_s, told) == ("", T0_S + 3, ["relisted"])


def test_what_is_no_longer_listed_ages_and_is_told_once_when_it_goes_and_when_it_is_back() -> None:
    entry, changes = book.unlist(known(), T0_S + 1)
    assert [change.what for change in changes] == ["unlisted"]
    assert (entry.price, entry.observed_s) == (tokens(1.0), T0_S)
    assert book.unlist(entry, T0_S + 2) == (entry, [])
    assert book.unchanged(entry, RULES, T0_S + 3) == (entry, [])
    assert take(entry, tokens(1.0), T0_S + 4)[1] == ["relisted"]


def test_unchanged_repeats_what_was_said_be_it_good_or_in_quarantine() -> None:
    entry, _ = book.unchanged(known(), RULES, T0_S + 5)
    assert entry.observed_s == T0_S + 5
    entry, _ = take(entry, tokens(4.0), T0_S + 6)
    entry, _ = book.unchanged(entry, RULES, T0_S + 7)
    assert (entry.price, entry.observed_s) == (tokens(1.0), T0_S + 5)
    assert book.unchanged(entry, RULES, T0_S + 8)[0].price == tokens(4.0)


@pytest.mark.parametrize("said_s", [T0_S + 1, T0_S + 119, T0_S + 1e9, math.nan, math.inf])
def test_a_source_whose_clock_is_ahead_makes_no_price_of_the_future(said_s: float) -> None:
    assert take(None, tokens(1.0), T0_S, said_s)[0].observed_s == T0_S


def test_a_source_that_says_since_when_a_price_has_not_been_looked_at_is_taken_at_its_word() -> None:
    listing = Listing("p", tokens(1.0), T0_S - 500)
    entry, changes = book.take(None, "f", listing, RULES, T0_S)
    assert (entry.observed_s, changes[0].observed_s) == (T0_S - 500, T0_S - 500)
    assert take(entry, tokens(1.0), T0_S + 1, T0_S - 900)[0].observed_s == T0_S - 500
    assert take(None, tokens(1.0), T0_S, -math.inf)[0].observed_s == 0.0


half_days = st.integers(0, 8)
revisions = st.lists(st.tuples(half_days, st.integers(0, 10), slot_lists, st.booleans()), min_size=1, max_size=8)


@settings(deadline=None)
@given(st.booleans(), revisions)
def test_the_recorded_parts_of_a_series_rebuild_its_steps_whatever_was_revised_or_left_out(
    carbon: bool, drawn: list[tuple[int, int, list[float | None], bool]]
) -> None:
    entry: Entry | None = None
    rebuilt: Entry | None = None
    now_s = T0_S
    for pause, offset, slots, forecast in drawn:
        now_s += pause * DAY_S / 2
        steps = steps_of([None if value is None else abs(value) for value in slots], T0_S + offset * SLOT_S)
        price = CarbonIntensity(steps, forecast) if carbon else PowerPrice(steps)
        entry, changes = book.take(entry, "f", Listing("p", price, now_s), RULES, now_s)
        for change in changes:
            rebuilt = book.apply(rebuilt, msgspec.json.decode(msgspec.json.encode(change), type=Change))
        assert rebuilt is not None
        assert rebuilt.observed_s <= entry.observed_s == now_s
        lately = now_s - 8 * DAY_S
        assert recent(rebuilt, lately) == recent(entry, lately)
        assert book.take(entry, "f", Listing("p", price, now_s), RULES, now_s)[1] == []


def recent(entry: Entry, since_s: float) -> Price:
    assert isinstance(entry.price, PowerPrice | CarbonIntensity)
    return msgspec.structs.replace(entry.price, steps=tuple(s for s in entry.price.steps if s.end_s > since_s))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10), slot_lists), min_size=1, max_size=6))
def test_a_series_says_of_every_instant_what_the_last_listing_that_spans_it_said(
    drawn: list[tuple[int, list[float | None]]],
) -> None:
    entry: Entry | None = None
    truth: dict[int, float | None] = {}
    for offset, slots in drawn:
        price = power(slots, T0_S + offset * SLOT_S)
        entry, _ = book.take(entry, "f", Listing("p", price, T0_S), RULES, T0_S)
        spanned = range(
            *(int((s - T0_S) / SLOT_S) for s in (price.steps[0].start_s, price.steps[-1].end_s)),
        )
        truth |= {i: value_at(price.steps, T0_S + i * SLOT_S) for i in spanned}
    assert entry is not None
    assert isinstance(entry.price, PowerPrice)
    assert {i: value_at(entry.price.steps, T0_S + i * SLOT_S) for i in truth} == truth


def test_a_series_that_goes_back_further_than_the_board_is_recorded_once_and_does_not_grow() -> None:
    price = power([0.1] * 2700, T0_S - 2000 * SLOT_S)
    entry, told = take(None, price, T0_S)
    assert told == ["price"]
    for i in range(1, 5):
        entry, told = take(entry, price, T0_S + i * SLOT_S)
        assert told == []
    assert isinstance(entry.price, PowerPrice)
    assert len(entry.price.steps) <= 16 * 96


def test_a_series_of_another_century_each_time_does_not_fill_the_memory() -> None:
    entry: Entry | None = None
    for i in range(20):
        entry, _ = take(entry, power([0.1] * 500, T0_S + (20 - i) * 1000 * DAY_S), T0_S)
    assert entry is not None
    assert isinstance(entry.price, PowerPrice)
    assert len(entry.price.steps) <= 500
    entry, _ = take(entry, power([0.2], T0_S), T0_S)
    assert entry.price == power([0.2], T0_S)


def test_a_forecast_that_has_come_true_is_recorded_although_its_figures_are_the_same() -> None:
    steps = steps_of([100.0, 200.0], T0_S)
    entry, _ = take(None, CarbonIntensity(steps, True), T0_S)
    entry, told = take(entry, CarbonIntensity(steps), T0_S + 1)
    assert (entry.price, told) == (CarbonIntensity(steps), ["price"])


def test_a_lie_that_comes_back_after_an_absence_is_told_again() -> None:
    entry, _ = take(known(), tokens(-1.0), T0_S + 1)
    entry, _ = book.unlist(entry, T0_S + 2)
    assert take(entry, tokens(-1.0), T0_S + 3)[1] == ["refused"]


def test_what_is_back_is_restored_as_old_as_its_source_said() -> None:
    entry, _ = book.unlist(known(), T0_S + 1)
    _, (change,) = book.take(entry, "f", Listing("p", tokens(1.0), T0_S + 50), RULES, T0_S + 100)
    assert change.what == "relisted"
    assert book.apply(entry, change).observed_s == T0_S + 50
