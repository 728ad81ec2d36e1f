"""The book takes in what is believable, holds back what is not, and can be rebuilt from what it has told."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing import book
from pricing.book import Change, Entry, Rules
from pricing.listing import CarbonIntensity, Listing, PowerPrice, Price, TokenPrice
from scheduler.core.supply import Rate
from tests.pricing.price_strategies import LIES, SLOT_S, gpu, power, slot_lists, steps_of, tokens, value_at

RULES = Rules(jump_ratio_max=3.0, jump_ratio_never=20.0, confirmations=2)
DAY_S = 86_400.0
T0_S = 100 * DAY_S


def take(
    entry: Entry | None, price: Price, now_s: float, observed_s: float | None = None, agrees: bool | None = None
) -> tuple[Entry, list[str]]:
    listing = Listing("p", price, now_s if observed_s is None else observed_s)
    taken, changes = book.take(entry, "f", listing, RULES, now_s, lambda _: agrees)
    return taken, [change.what for change in changes]


def known(usd_per_mtok: float = 1.0) -> Entry:
    return take(None, tokens(usd_per_mtok), T0_S)[0]


def test_a_first_price_counts_at_once_unless_it_is_free() -> None:
    first = Entry("f", "p", tokens(1.0), T0_S, T0_S, anchor=tokens(1.0), anchor_s=T0_S)
    assert take(None, tokens(1.0), T0_S) == (first, ["price"])
    entry, told = take(None, tokens(0.0), T0_S)
    assert (entry.price, told) == (None, ["quarantined"])
    for i in range(1, 10):
        entry, told = take(entry, tokens(0.0), T0_S + i)
        assert (entry.price, told) == (None, [])
    entry, told = take(entry, tokens(0.0), T0_S + 10, agrees=True)
    assert (entry.price, told) == (tokens(0.0), ["confirmed", "price"])


def test_a_first_price_that_another_source_denies_waits_for_its_own_repetition() -> None:
    entry, told = take(None, tokens(1.0), T0_S, agrees=False)
    assert (entry.price, told, entry.held and entry.held.final) == (None, ["quarantined"], False)
    entry, told = take(entry, tokens(1.0), T0_S + 1, agrees=False)
    assert (entry.price, told) == (None, [])
    assert take(entry, tokens(1.0), T0_S + 2, agrees=True)[0].price == tokens(1.0)
    assert take(entry, tokens(1.0), T0_S + 2)[1] == ["price"]  # the other one has fallen silent
    entry, told = take(entry, tokens(1.0), T0_S + 2, agrees=False)
    assert (entry.price, entry.anchor, told) == (tokens(1.0), tokens(1.0), ["confirmed", "price"])


def test_a_source_that_has_been_believed_before_may_move_a_little_whatever_the_others_say() -> None:
    assert take(known(), tokens(2.9), T0_S + 1, agrees=False)[1] == ["price"]


def test_a_price_in_quarantine_that_moves_a_little_is_still_the_same_and_the_newest_is_taken() -> None:
    entry, _ = take(known(), tokens(4.0), T0_S + 1)
    entry, told = take(entry, tokens(4.39), T0_S + 2)
    assert (entry.price, told) == (tokens(1.0), [])
    assert entry.held == book.Held(tokens(4.39), "changed 4.39-fold", T0_S + 1, 2, False, T0_S + 2)
    entry, told = take(entry, tokens(4.1), T0_S + 3)
    assert (entry.price, entry.held, told) == (tokens(4.1), None, ["confirmed", "price"])


def test_a_price_in_quarantine_that_creeps_beyond_belief_is_not_confirmed_by_its_own_source() -> None:
    entry, _ = take(known(), tokens(17.0), T0_S + 1)
    for i, usd in enumerate([18.6, 20.4, 22.4, 22.4, 22.4, 22.4]):
        entry, _ = take(entry, tokens(usd), T0_S + 2 + i)
        assert entry.price == tokens(1.0)
        assert entry.held is not None
        assert entry.held.final == (usd > 20.0)


@pytest.mark.parametrize("factor", [2.9, 1 / 2.9])
def test_steps_that_are_each_small_do_not_add_up_unseen_within_a_day(factor: float) -> None:
    entry, told = take(known(), tokens(factor), T0_S + 60)
    assert told == ["price"]
    entry, told = take(entry, tokens(factor**2), T0_S + DAY_S)
    assert (entry.price, told) == (tokens(factor), ["quarantined"])
    assert entry.held is not None
    assert entry.held.reason == "changed 8.41-fold in a day"
    assert take(entry, tokens(factor), T0_S + DAY_S)[1] == ["withdrawn"]
    far = entry
    for usd in (factor**2, factor**3):
        far, _ = take(far, tokens(usd), T0_S + DAY_S)
    assert far.held is not None
    assert far.held.final  # 24-fold, though no step was more than 2.9-fold


def test_a_confirmed_jump_is_where_the_next_steps_are_counted_from() -> None:
    entry = known()
    for i in range(3):
        entry, _ = take(entry, tokens(10.0), T0_S + i)
    assert (entry.price, entry.anchor, entry.anchor_s) == (tokens(10.0), tokens(10.0), T0_S + 2)
    entry, told = take(entry, tokens(25.0), T0_S + 3)
    assert (entry.price, told) == (tokens(25.0), ["price"])
    assert take(entry, tokens(31.0), T0_S + 4)[1] == ["quarantined"]
    entry, told = take(entry, tokens(1.0), T0_S + 4, agrees=True)
    assert (entry.anchor, told) == (tokens(1.0), ["confirmed", "price"])


def test_after_a_day_steps_are_counted_from_the_last_good_price_anew() -> None:
    entry, _ = take(known(), tokens(2.5), T0_S + DAY_S / 2)
    assert (entry.anchor, entry.anchor_s) == (tokens(1.0), T0_S)
    later_s = T0_S + 2 * DAY_S
    entry, told = take(entry, tokens(6.0), later_s)
    assert (entry.anchor, entry.anchor_s, told) == (tokens(2.5), later_s, ["price"])
    assert take(entry, tokens(8.0), later_s + 1)[1] == ["quarantined"]


def test_a_day_that_the_clock_takes_back_counts_for_nothing() -> None:
    entry, _ = take(known(), tokens(2.5), T0_S + 1)
    entry, told = take(entry, tokens(6.0), T0_S - 10)
    assert (entry.anchor, entry.anchor_s, told) == (tokens(2.5), T0_S - 10, ["price"])


price_polls = st.lists(
    st.tuples(
        st.sampled_from([1.0, 3600.0, DAY_S / 2, DAY_S, 2 * DAY_S, -5.0]),
        st.sampled_from([0.0, 0.5, 1.0, 1.05, 2.5, 4.0, 4.3, 9.0, 28.0, -1.0]).map(tokens) | st.none(),
        st.none() | st.booleans(),
    ),
    min_size=1,
    max_size=25,
)


@settings(deadline=None)
@given(price_polls)
def test_what_is_told_rebuilds_a_price_with_the_mark_from_which_its_steps_are_counted(
    drawn: list[tuple[float, Price | None, bool | None]],
) -> None:
    entry, rebuilt, now_s = known(), known(), T0_S
    for pause_s, price, says in drawn:
        now_s += pause_s
        if price is None:
            entry, changes = book.unlist(entry, now_s)
        else:
            entry, changes = book.take(entry, "f", Listing("p", price, now_s), RULES, now_s, said(says))
        for change in changes:
            rebuilt = book.apply(rebuilt, msgspec.json.decode(msgspec.json.encode(change), type=Change))
        assert (rebuilt.anchor, rebuilt.anchor_s) == (entry.anchor, entry.anchor_s)
        assert (rebuilt.price, rebuilt.since_s) == (entry.price, entry.since_s)
        assert (rebuilt.listed, rebuilt.refused) == (entry.listed, entry.refused)
        assert (rebuilt.held and rebuilt.held.since_s) == (entry.held and entry.held.since_s)


def said(word: bool | None) -> book.Agrees:
    return lambda _: word


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
        assert rebuilt.anchor is entry.anchor is None  # a series has no jumps, and is too long to be kept twice
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
    price = power([0.1] * 2200, T0_S - 2000 * SLOT_S)
    entry, told = take(None, price, T0_S)
    assert told == ["price"]
    for i in range(1, 5):
        entry, told = take(entry, price, T0_S + i * SLOT_S)
        assert told == []
    assert isinstance(entry.price, PowerPrice)
    assert len(entry.price.steps) <= 11 * 96


def test_what_a_series_says_of_the_far_future_is_recorded_once_when_it_comes_near() -> None:
    price = power([0.1 + i / 1e4 for i in range(10 * 96)], T0_S)
    entry, told = None, 0
    for hour in range(8 * 24):
        entry, changes = book.take(entry, "f", Listing("p", price, T0_S), RULES, T0_S + hour * 3600.0)
        told += sum(
            len(steps) for change in changes if isinstance(change.price, PowerPrice) for steps in [change.price.steps]
        )
        assert isinstance(entry.price, PowerPrice)
        assert entry.price.steps[-1].end_s == min(T0_S + hour * 3600.0 + 3 * DAY_S, price.steps[-1].end_s)
    assert told == len(price.steps)


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


def test_another_source_vouches_only_for_what_both_of_them_list() -> None:
    """It says the same of input, cached and output; of a fee or of batches it may know nothing."""
    good = TokenPrice({"standard": Rate(1e-6, 1e-7, 2e-6), "batch": Rate(5e-7, 5e-8, 1e-6)})
    dear = TokenPrice({"standard": Rate(1e-6, 1e-7, 2e-6, usd_per_request=1.5), "batch": Rate(5e-7, 5e-8, 1e-6)})
    free = TokenPrice({"standard": Rate(1e-6, 1e-7, 2e-6), "batch": Rate(0.0, 0.0, 0.0)})
    cut = TokenPrice({"standard": Rate(4e-8, 4e-9, 8e-8), "batch": Rate(2e-8, 2e-9, 4e-8)})
    known, _ = take(None, good, T0_S)
    for price, is_taken in ((dear, False), (free, False), (cut, True)):
        entry, told = take(known, price, T0_S + 1, agrees=True)
        assert (entry.price == price) == is_taken, told
    assert take(None, free, T0_S, agrees=True)[0].price is None
