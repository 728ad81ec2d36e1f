"""The desk under every mixture of good, lying, empty, unchanged and failing polls, with a clock that jumps."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pricing import guard, timeline
from pricing.book import Change, Entry
from pricing.desk import PRODUCTS_MAX, Key, PriceDesk
from pricing.listing import GpuPrice, Listing, Price, TokenPrice
from tests.pricing.desk_cases import FEEDS, NOW_S, RULES, TTL_S, config, feed, listed
from tests.pricing.price_strategies import gpu, lies, plain_prices, power, slot_lists, tokens
from tests.support.sites import provider

CONFIG = config()
PEER = {"a": "b", "b": "a"}
AGREE_MAX = CONFIG.prices.disagreement_ratio_max

prices: dict[str, st.SearchStrategy[Price]] = {
    "m": plain_prices | lies,
    "gpu": st.sampled_from([0.5, 1.0, 2.0, 50.0]).map(gpu) | lies,
    "series": slot_lists.map(lambda slots: power(slots, NOW_S)) | lies,
}
ages_s = st.sampled_from([0.0, 0.0, 30.0, TTL_S / 2, -60.0, -1e9, math.nan])
polls = st.fixed_dictionaries({}, optional={name: st.tuples(price, ages_s) for name, price in prices.items()})


class Desks(RuleBasedStateMachine):
    """Beside the desk: every word that a source has said, and every line that the desk has told."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = PriceDesk(CONFIG)
        self.now_s = NOW_S
        self.lines: list[bytes] = []
        self.words: dict[Key, list[Price | None]] = {}  # one a good poll; None: said nothing of it
        self.last: dict[str, list[Listing]] = {}
        self.anchors: dict[Key, tuple[Price, float]] = {}  # from where the steps of a day are counted, and since when
        self.clock_went_back = False

    @initialize()
    def first(self) -> None:
        self.said("a", [Listing("m", tokens(1.0), self.now_s)])

    def said(self, name: str, listings: list[Listing] | None) -> None:
        before = dict(self.desk.entries)
        if listings is None:
            changes = self.desk.unchanged(name, self.now_s)
        else:
            self.last[name] = listings
            changes = self.desk.polled(name, listings, self.now_s)
        spoken: dict[str, Price] = {}
        for listing in self.last.get(name, []):
            spoken.setdefault(listing.product, listing.price)
        for product in ("m", "gpu", "series"):
            self.words.setdefault((name, product), []).append(spoken.get(product))
        self.lines += [msgspec.json.encode(change) for change in changes]
        for key, entry in self.desk.entries.items():
            known = before.get(key)
            old = None if known is None else known.price
            if isinstance(entry.price, TokenPrice | GpuPrice) and old != entry.price:
                self.check_why(key, old, entry.price, before)

    def check_why(self, key: Key, old: Price | None, new: Price, before: dict[Key, Entry]) -> None:
        words = self.words[key]
        assert words[-1] == new, "a price that its source does not say now"
        peer = [(PEER[key[0]], "m")] if key[0] in PEER and key[1] == "m" else []
        heard = [
            word for k in peer for word in self.words.get(k, []) if word is not None and not guard.implausible(word)
        ]
        backed = any(guard.agree(word, new, AGREE_MAX) for word in heard)
        ratio = self.ratio(key, old, new)
        denied = old is None and any(before[k].observed_s >= self.now_s - TTL_S for k in peer if in_use_of(before, k))
        if ratio > RULES["jump_ratio_never"]:
            assert backed, f"{ratio}-fold, on its own word alone"
        elif ratio > RULES["jump_ratio_max"] or denied:
            again = words[-int(RULES["confirmations"]) - 1 :]
            assert backed or (len(again) > RULES["confirmations"] and is_one_price(again)), (
                f"{ratio}-fold, not repeated"
            )
        if key not in self.anchors or ratio > RULES["jump_ratio_max"]:
            self.anchors[key] = (new, self.now_s)
        elif not self.counts(key):
            assert old is not None
            self.anchors[key] = (old, self.now_s)
        entry = self.desk.entries[key]
        assert (entry.anchor, entry.anchor_s) == self.anchors[key]

    def counts(self, key: Key) -> bool:
        """Its price of up to a day ago is known."""
        return key in self.anchors and 0 <= self.now_s - self.anchors[key][1] <= 86_400.0

    def ratio(self, key: Key, old: Price | None, new: Price) -> float:
        """How far ``new`` is from the price before it and from that of up to a day ago."""
        if old is None:
            return math.inf if guard.is_free(new) else 1.0
        return max(guard.jump(price, new) for price in [old, *([self.anchors[key][0]] if self.counts(key) else [])])

    @rule(name=st.sampled_from(FEEDS), said=polls, twice=st.booleans())
    def poll(self, name: str, said: dict[str, tuple[Price, float]], twice: bool) -> None:
        listings = [Listing(product, price, self.now_s - age_s) for product, (price, age_s) in said.items()]
        self.said(name, listings * (5 if twice else 1))

    @precondition(lambda self: self.last)
    @rule(data=st.data(), times=st.integers(1, 3))
    def repeat(self, data: st.DataObject, times: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.last)))
        for _ in range(times):
            self.now_s += 1.0
            self.said(name, [msgspec.structs.replace(known, observed_s=self.now_s) for known in self.last[name]])

    @precondition(lambda self: self.last)
    @rule(data=st.data())
    def not_modified(self, data: st.DataObject) -> None:
        self.said(data.draw(st.sampled_from(sorted(self.last))), None)

    @rule(name=st.sampled_from(FEEDS))
    def fail(self, name: str) -> None:
        before = dict(self.desk.entries)
        self.desk.failed(name, "x" * 1000)
        assert self.desk.entries == before
        assert len(self.desk.states[name].error) <= 300

    @rule(by_s=st.sampled_from([1.0, 700.0, TTL_S, 80_000.0, 30 * 86_400.0, -5.0, -3 * TTL_S]))
    def clock(self, by_s: float) -> None:
        self.now_s += by_s
        self.clock_went_back = self.clock_went_back or by_s < 0

    @invariant()
    def nothing_in_use_is_a_lie_or_of_the_future(self) -> None:
        for entry in self.desk.sheet(self.now_s).entries:
            if entry.price is not None:
                assert guard.implausible(entry.price) is None
                assert entry.observed_s <= self.now_s
                if isinstance(entry.price, TokenPrice | GpuPrice):
                    assert entry.price in self.words[(entry.feed, entry.product)]
        assert len(self.desk.entries) <= 3 * len(FEEDS)

    @invariant()
    def the_lines_rebuild_the_desk(self) -> None:
        changes = [msgspec.json.decode(line, type=Change) for line in self.lines]
        rebuilt = PriceDesk(CONFIG)
        assert rebuilt.restore(changes) == len(changes)
        for key, entry in self.desk.entries.items():
            if entry.price is None:
                assert key not in rebuilt.entries or rebuilt.entries[key].price is None
                continue
            found = rebuilt.entries[key]
            assert (found.listed, found.refused) == (entry.listed, entry.refused)
            assert (found.held and found.held.since_s) == (entry.held and entry.held.since_s)
            if entry.held is not None and entry.held.seen == 1:
                assert found.held is not None
                assert found.held.price == entry.held.price
            assert (found.anchor, found.anchor_s) == (entry.anchor, entry.anchor_s)
            if timeline.steps_of(entry.price) is None:
                assert found.price == entry.price
            if not self.clock_went_back:
                assert recent(found.price, self.now_s) == recent(entry.price, self.now_s)
                assert found.observed_s <= entry.observed_s


def in_use_of(entries: dict[Key, Entry], key: Key) -> bool:
    return key in entries and entries[key].price is not None


def is_one_price(words: list[Price | None]) -> bool:
    """Believable every time, and never more than a tenth away from the time before."""
    said = [word for word in words if word is not None and guard.implausible(word) is None]
    return len(said) == len(words) and all(guard.jump(a, b) <= 1.1 for a, b in pairwise(said))


def recent(price: Price | None, now_s: float) -> object:
    steps = timeline.steps_of(price) if price is not None else None
    return price if steps is None else [step for step in steps if step.end_s > now_s - 8 * 86_400.0]


Desks.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestDesks = Desks.TestCase


def polled(desk: PriceDesk, name: str, now_s: float, **listings: Price) -> list[str]:
    return [c.what for c in desk.polled(name, [Listing(p, price, now_s) for p, price in listings.items()], now_s)]


def in_use(desk: PriceDesk, name: str, product: str = "m") -> Price | None:
    return desk.entries[(name, product)].price


def test_a_source_that_repeats_itself_in_one_poll_confirms_nothing() -> None:
    desk = PriceDesk(CONFIG)
    polled(desk, "a", NOW_S, m=tokens(1.0))
    desk.polled("a", [Listing("m", tokens(5.0), NOW_S + 1)] * 50, NOW_S + 1)
    assert in_use(desk, "a") == tokens(1.0)


def test_two_products_of_one_feed_do_not_vouch_for_each_other() -> None:
    providers = document_of_two_products()
    desk = PriceDesk(config(providers=providers))
    for i in range(10):
        polled(desk, "a", NOW_S + i, m=tokens(1.0 if i == 0 else 600.0), n=tokens(600.0))
    assert in_use(desk, "a") == tokens(1.0)
    assert in_use(desk, "a", "n") == tokens(600.0)


def document_of_two_products() -> list[dict[str, Any]]:
    return [provider("cloud", price=[*listed("a"), *listed("a", product="n")])]


def test_two_sources_that_say_the_same_new_price_confirm_each_other_whoever_says_it_first() -> None:
    desk = PriceDesk(CONFIG)
    for name in ("a", "b"):
        polled(desk, name, NOW_S, m=tokens(0.0 if name == "a" else 50.0))
    assert in_use(desk, "a") is None
    polled(desk, "b", NOW_S + 1, m=tokens(0.0))
    assert in_use(desk, "b") == tokens(0.0)
    polled(desk, "a", NOW_S + 2, m=tokens(0.0))
    assert in_use(desk, "a") == tokens(0.0)


@pytest.mark.parametrize("polls_of_b", [1, 3])
@pytest.mark.parametrize(("pause_s", "believed"), [(TTL_S, True), (TTL_S + 1, False)])
def test_a_peer_counts_as_long_as_it_is_believed_itself(pause_s: float, believed: bool, polls_of_b: int) -> None:
    desk = PriceDesk(CONFIG)
    polled(desk, "a", NOW_S - 3, m=tokens(1.0))
    for i in range(polls_of_b):
        polled(desk, "b", NOW_S - polls_of_b + 1 + i, m=tokens(100.0))
    assert in_use(desk, "b") == (tokens(100.0) if polls_of_b == 3 else None)  # in quarantine: a says otherwise
    polled(desk, "a", NOW_S + pause_s, m=tokens(100.0))
    assert in_use(desk, "a") == tokens(100.0 if believed else 1.0)


def test_a_first_price_that_a_peer_denies_waits_and_one_that_it_shares_or_that_nobody_else_lists_does_not() -> None:
    desk = PriceDesk(CONFIG)
    polled(desk, "a", NOW_S, m=tokens(1.0))
    assert polled(desk, "b", NOW_S + 1, m=tokens(50.0))[0] == "quarantined"
    assert polled(desk, "b", NOW_S + 2, m=tokens(1.0)) == ["price", "seen"]
    assert polled(desk, "alone", NOW_S + 3, m=tokens(50.0)) == ["price", "seen"]


def test_a_peer_that_has_grown_old_denies_nothing() -> None:
    desk = PriceDesk(CONFIG)
    polled(desk, "a", NOW_S, m=tokens(1.0))
    assert polled(desk, "b", NOW_S + TTL_S + 1, m=tokens(50.0)) == ["price", "seen"]


def test_a_quarantine_of_a_first_price_is_restored_as_such() -> None:
    desk = PriceDesk(CONFIG)
    lines = desk.polled("a", [Listing("m", tokens(1.0), NOW_S)], NOW_S)
    lines += desk.polled("b", [Listing("m", tokens(50.0), NOW_S)], NOW_S + 1)
    again = PriceDesk(CONFIG)
    again.restore(lines)
    assert again.entries == desk.entries


def test_a_poll_with_something_that_is_no_listing_counts_for_nothing_at_all() -> None:
    desk = PriceDesk(CONFIG)
    polled(desk, "a", NOW_S, m=tokens(1.0))
    before, state = dict(desk.entries), desk.states["a"]
    for broken in ("text", Listing("gpu", GpuPrice("2", "g", 1, "c", "r"), NOW_S)):  # type: ignore[arg-type]
        with pytest.raises((AttributeError, TypeError)):
            desk.polled("a", [Listing("m", tokens(2.0), NOW_S), broken], NOW_S)  # type: ignore[list-item]
        assert (desk.entries, desk.states["a"]) == (before, state)


@pytest.mark.parametrize("name", ["", "\ud800", "x" * 201, "a\nb", "a\x00"])
def test_a_product_with_a_name_that_cannot_be_recorded_is_left_out(name: str) -> None:
    desk = PriceDesk(CONFIG)
    changes = desk.polled("a", [Listing(name, gpu(1.0), NOW_S), Listing("m", tokens(1.0), NOW_S)], NOW_S)
    assert [change.product for change in changes if change.what == "price"] == ["m"]


def test_of_what_nobody_asked_for_tokens_are_left_out_and_the_rest_is_bounded_but_what_is_named_has_room() -> None:
    desk = PriceDesk(CONFIG)
    many = [Listing(f"g{i}", gpu(1.0), NOW_S) for i in range(PRODUCTS_MAX + 50)]
    unwanted = [Listing(f"t{i}", tokens(1.0), NOW_S) for i in range(10)]
    changes = desk.polled("a", [*unwanted, *many, Listing("m", tokens(1.0), NOW_S)], NOW_S)
    assert len(desk.entries) == PRODUCTS_MAX + 1
    assert ("a", "m") in desk.entries
    assert not [key for key in desk.entries if key[1].startswith("t")]
    assert desk.states["a"].listings == len(many) + len(unwanted) + 1
    again = PriceDesk(CONFIG)
    again.restore(changes)
    assert again.entries == desk.entries


def test_an_empty_answer_leaves_every_price_to_age_and_says_so() -> None:
    desk = PriceDesk(CONFIG)
    polled(desk, "a", NOW_S, m=tokens(1.0))
    assert polled(desk, "a", NOW_S + 10) == ["unlisted"]
    assert in_use(desk, "a") == tokens(1.0)
    left = desk.sheet(NOW_S + 10).entries[0]
    assert (left.listed, left.doubted_s, left.observed_s) == (False, NOW_S + 10, NOW_S)


def test_a_clock_that_is_set_back_lets_prices_age_from_then_on() -> None:
    desk = PriceDesk(CONFIG)
    polled(desk, "a", NOW_S, m=tokens(1.0))
    early_s = NOW_S - 86_400.0
    assert desk.sheet(early_s).entries[0].observed_s == early_s
    assert desk.sheet(early_s + 50).entries[0].observed_s == early_s


def test_now_and_then_a_line_tells_until_when_the_prices_held_and_how_old_the_oldest_was() -> None:
    desk = PriceDesk(CONFIG)
    lines: list[Change] = []
    for i in range(100):
        now_s = NOW_S + 60.0 * i
        age_s = 900.0 if i > 50 else 0.0
        lines += desk.polled("a", [Listing("m", tokens(1.0), now_s - age_s), Listing("gpu", gpu(1.0), now_s)], now_s)
    seen = [change for change in lines if change.what == "seen"]
    assert [change.at_s - NOW_S for change in seen] == [600.0 * i for i in range(10)]
    assert [change.observed_s for change in seen] == [None] * 6 + [
        max(c.at_s - 900.0, NOW_S + 3000.0) for c in seen[6:]
    ]
    again = PriceDesk(CONFIG)
    again.restore(lines)
    assert NOW_S + 4000 < again.entries[("a", "m")].observed_s <= desk.entries[("a", "m")].observed_s


def test_a_history_of_feeds_that_are_gone_from_the_site_file_counts_for_nothing() -> None:
    desk = PriceDesk(config(feeds=[feed("a"), feed("b"), feed("alone"), feed("old")]))
    lines = desk.polled("old", [Listing("g", gpu(1.0), NOW_S)], NOW_S)
    again = PriceDesk(CONFIG)
    assert again.restore(lines) == 0
    assert again.entries == {}


def test_states_count_polls_and_the_error_is_that_of_the_last_one() -> None:
    desk = PriceDesk(CONFIG)
    polled(desk, "a", NOW_S, m=tokens(1.0))
    desk.failed("a", "down")
    assert (desk.states["a"].polls, desk.states["a"].errors, desk.states["a"].error) == (2, 1, "down")
    desk.unchanged("a", NOW_S + 5)
    state = desk.states["a"]
    assert (state.polls, state.unchanged, state.error, state.last_ok_s, state.listings) == (3, 1, "", NOW_S + 5, 1)
