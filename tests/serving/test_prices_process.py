"""The prices process against sources that fail in every way: the last good price stays, ages, goes, and all of it is said."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from pricing import board, feeds, history, isolated, schedule
from pricing.board import Board
from pricing.desk import PriceDesk, Sheet
from pricing.feeds import FeedChanged, FeedError, FeedKind, FeedUnavailable, Http
from pricing.history import History
from pricing.isolated import Answer, Question
from pricing.listing import GpuPrice, Listing, TokenPrice
from scheduler.core.supply import Rate
from serving import control, prices_process
from serving.prices_process import Poller
from tests.pricing.desk_cases import FEEDS, NOW_S, TTL_S, config, feed
from tests.pricing.hostile_source import Source, hostile
from tests.pricing.price_strategies import gpu, tokens

PATIENT_S, IMPATIENT_S = 20.0, 0.3


class Options(msgspec.Struct, frozen=True):
    url: str = ""


def listing_feed(http: Http, options: Options, now_s: float) -> Iterable[Listing] | None:
    """A map of product to USD per million tokens."""
    body = http.get(options.url)
    if body is None:
        return None
    try:
        found = json.loads(body)
        return [Listing(product, tokens(float(usd)), now_s) for product, usd in found["prices"].items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FeedChanged(f"not the document that was promised: {error}") from None


class Site:
    """One desk, its history and its pollers, on a clock that only the test moves."""

    def __init__(self, folder: Path, source: Source, patch: pytest.MonkeyPatch) -> None:
        self.now_s, self.source, self.folder = NOW_S, source, folder
        kinds: dict[str, FeedKind] = {"map": FeedKind(listing_feed, Options)}
        patch.setattr(feeds, "kind", kinds.__getitem__)
        patch.setattr(prices_process, "now_s", lambda: self.now_s)
        options = {"url": f"{source.url}/a"}
        self.config = config(feeds=[feed(name, "map", timeout_s=PATIENT_S, options=options) for name in FEEDS])
        self.desk, self.kept = PriceDesk(self.config), History(folder)
        self.wait(PATIENT_S)

    def wait(self, timeout_s: float) -> None:
        asked = self.config.feeds[0].model_copy(update={"timeout_s": timeout_s})
        self.poller = Poller(self.config, asked, self.desk, self.kept)

    def say(self, usd: float, etag: str | None = None) -> None:
        self.source.answer("/a", json.dumps({"prices": {"m": usd}}).encode(), etag=etag)

    def poll(self, after_s: float = 10.0) -> float:
        self.now_s += after_s
        return asyncio.run(self.poller.poll())

    def board(self) -> Board:
        return board.price(self.config, self.now_s, self.desk.sheet(self.now_s))

    def usd_per_mtok(self) -> float | None:
        rates = {offer.id: offer.rate for offer in self.board().offers}
        return rates["cloud/large"].usd_per_input * 1e6 if "cloud/large" in rates else None


@pytest.fixture
def source() -> Iterator[Source]:
    with hostile() as running:
        yield running


@pytest.fixture
def here(tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, source, monkeypatch)


Bad = Callable[[Source], object]
FAILURES: dict[str, tuple[Bad, str]] = {
    "timeout": (lambda s: s.silent("/a"), "no complete answer within"),
    "trickle": (lambda s: s.trickle("/a", b" " * 50, 0.1), "no complete answer within"),
    "truncation": (lambda s: s.truncate("/a", b'{"prices": {"m": 9', 500), "/a"),
    "no connection": (lambda s: s.hang_up("/a"), "no connection"),
    "304 to nothing asked": (lambda s: s.not_modified("/a"), "304"),
    "429": (lambda s: s.busy("/a", "77"), "429"),
    "500": (lambda s: s.broken("/a"), "500"),
    "404": (lambda s: s.clear(), "404"),
    "no JSON": (lambda s: s.answer("/a", b"<html>sorry</html>"), "not the document"),
    "other schema": (lambda s: s.answer("/a", b'{"models": []}'), "not the document"),
    "a bomb": (lambda s: s.gzip("/a", b" " * 40_000_000), "larger"),
}
LIES = {
    "negative": -1.0,
    "zero": 0.0,
    "NaN": math.nan,
    "endless": math.inf,
    "a hundredfold": 200.0,
    "a thousandfold": 2000.0,
}


@pytest.mark.parametrize("how", FAILURES)
def test_a_source_that_fails_leaves_the_last_good_price_to_age_and_to_go_after_its_time(here: Site, how: str) -> None:
    here.say(2.0)
    assert here.poll() == 0.0
    assert here.usd_per_mtok() == pytest.approx(2.0)
    seen_s = here.now_s
    break_it, why = FAILURES[how]
    break_it(here.source)
    here.wait(IMPATIENT_S if how in ("timeout", "trickle") else PATIENT_S)
    retry_after_s = here.poll(600.0)
    assert retry_after_s == (77.0 if how == "429" else 0.0)
    sheet = here.desk.sheet(here.now_s)
    assert why in sheet.feeds[0].error
    assert (sheet.feeds[0].errors, sheet.feeds[0].last_ok_s) == (1, seen_s)
    assert [entry.observed_s for entry in sheet.entries] == [seen_s]
    assert here.usd_per_mtok() == pytest.approx(2.0)
    here.now_s = seen_s + TTL_S
    assert here.usd_per_mtok() is None
    assert "last seen 1.0 h ago" in here.board().unpriced["cloud/large"]
    here.say(2.5)
    here.wait(PATIENT_S)
    here.poll()
    assert (here.usd_per_mtok(), here.desk.states["a"].error) == (pytest.approx(2.5), "")


@pytest.mark.parametrize("lie", LIES)
def test_a_source_that_lies_is_kept_out_and_reported_and_its_last_good_price_goes_after_its_time(
    here: Site, lie: str
) -> None:
    here.say(2.0)
    here.poll()
    seen_s = here.now_s
    here.say(LIES[lie])
    while here.now_s < seen_s + TTL_S - 600.0:
        here.poll(600.0)
        assert here.usd_per_mtok() == pytest.approx(2.0)
    expected = "quarantined" if lie in ("zero", "a hundredfold") else "refused"
    doubt = here.desk.sheet(here.now_s).entries[0]
    assert ("quarantined" if doubt.held else "refused" if doubt.refused else "") == expected
    here.poll(600.0)
    assert here.usd_per_mtok() is None
    assert here.desk.states["a"].errors == 0


def test_not_modified_makes_the_price_younger_and_is_asked_for_only_after_an_answer_that_was_used(here: Site) -> None:
    here.say(2.0, etag='"1"')
    here.poll()
    here.poll(TTL_S - 1)
    assert here.desk.states["a"].unchanged == 1
    here.poll(TTL_S - 1)
    assert here.usd_per_mtok() == pytest.approx(2.0)
    assert [asked.headers.get("if-none-match") for asked in here.source.asked] == [None, '"1"', '"1"']
    here.source.answer("/a", b"rubbish", etag='"2"')
    here.poll()
    here.poll()
    assert here.desk.states["a"].errors == 2
    assert [asked.headers.get("if-none-match") for asked in here.source.asked[3:]] == ['"1"', None]


def test_an_answer_that_the_desk_could_not_use_is_not_taken_for_unchanged(
    here: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.say(2.0, etag='"1"')
    with monkeypatch.context() as patch:
        patch.setattr(here.desk, "polled", lambda *_: 1 / 0)
        here.poll()
    assert here.desk.states["a"].error == "ZeroDivisionError"
    here.poll()
    assert here.usd_per_mtok() == pytest.approx(2.0)


def test_a_restart_goes_on_with_the_recorded_prices_at_their_age(here: Site) -> None:
    here.say(2.0)
    here.poll()
    seen_s = here.now_s
    here.source.broken("/a")
    here.poll(600.0)
    again = PriceDesk(here.config)
    assert again.restore(history.replay(here.folder)) > 0
    assert [(e.price, e.observed_s) for e in again.sheet(here.now_s).entries] == [(tokens(2.0), seen_s)]


ANYTHING: list[object] = [
    ValueError("x"),
    RecursionError(),
    MemoryError(),
    SystemExit(3),
    KeyboardInterrupt(),
    StopIteration(),
    GeneratorExit(),
    asyncio.CancelledError(),
    FeedError("no"),
    17,
    "text",
    [1, 2],
    [Listing("m", "dear", 0.0)],  # type: ignore[arg-type]
    [Listing("m", TokenPrice({"standard": Rate("1", 0.0, 0.0)}), 0.0)],  # type: ignore[arg-type]
    [Listing("gpu", GpuPrice(1.0, "H100", 10**30, "c", "r"), 0.0)],
    [Listing("gpu", GpuPrice(1.0, "H100", 1, "c", "r", spot="yes"), 0.0)],  # type: ignore[arg-type]
    [Listing("\ud800", gpu(1.0), 0.0)],
]


@pytest.mark.parametrize("what", ANYTHING, ids=lambda what: type(what).__name__)
def test_whatever_a_feed_raises_or_returns_the_others_go_on(
    here: Site, monkeypatch: pytest.MonkeyPatch, what: object
) -> None:
    def wild(http: Http, options: Options, now_s: float) -> Any:
        if isinstance(what, BaseException):
            raise what
        return what

    kinds = {"map": FeedKind(listing_feed, Options), "wild": FeedKind(wild, Options)}
    monkeypatch.setattr(feeds, "kind", kinds.__getitem__)
    monkeypatch.setattr(schedule, "first_poll_s", lambda chance: 0.0)
    monkeypatch.setattr(schedule, "next_poll_s", lambda *_: 0.01)
    monkeypatch.setattr(prices_process, "_TELL_S", 0.01)
    here.say(2.0)
    sheets: list[Sheet] = []
    enough = threading.Event()

    def tell(base: str, path: str, sheet: Sheet, *_: Any) -> None:
        sheets.append(msgspec.json.decode(msgspec.json.encode(sheet), type=Sheet))
        polls = {state.feed: state for state in sheet.feeds}
        good = min(polls[name].polls - polls[name].errors for name in ("a", "alone"))
        if polls["b"].errors >= 2 and good >= 2:
            enough.set()

    monkeypatch.setattr(control, "tell", tell)
    rows = [feed(name, "wild" if name == "b" else "map", options={"url": f"{here.source.url}/a"}) for name in FEEDS]
    site = config(feeds=rows, prices={"history": str(here.folder / "kept")})

    async def run() -> None:
        task = asyncio.create_task(prices_process.run(site))
        async with asyncio.timeout(30):
            while not enough.is_set() and not task.done():
                await asyncio.sleep(0.01)
        assert not task.done(), task
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(run())
    offers = {offer.id for offer in board.price(site, here.now_s, sheets[-1]).offers}
    assert {"cloud/large", "other/small"} <= offers
    assert sheets[-1].feeds[1].error
    assert {change.feed for change in history.replay(here.folder / "kept")} == {"a", "alone"}


def question(kind: str, timeout_s: float = PATIENT_S, **options: Any) -> Question:
    return Question(kind, options, NOW_S, timeout_s, 1_000_000, False)


MAP = {"some/model": {"mode": "chat", "input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}}


def test_a_feed_in_a_process_of_its_own_brings_prices_and_the_conditions_for_the_next_time(source: Source) -> None:
    source.answer("/map", json.dumps(MAP).encode(), etag='"7"')
    asked = question("litellm-map", url=f"{source.url}/map")
    first = asyncio.run(isolated.ask(asked))
    assert first.listings is not None
    assert [(found.product, found.observed_s) for found in first.listings] == [("some/model", NOW_S)]
    second = asyncio.run(isolated.ask(msgspec.structs.replace(asked, validators=first.validators)))
    assert second.listings is None
    assert second.validators == first.validators != {}


def test_what_goes_wrong_in_a_process_of_its_own_is_an_error_here_and_the_process_is_gone(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(psutil.Process().children())
    source.busy("/map", "33")
    with pytest.raises(FeedUnavailable) as caught:
        asyncio.run(isolated.ask(question("litellm-map", url=f"{source.url}/map")))
    assert caught.value.retry_after_s == 33.0
    with pytest.raises(FeedError, match="no kind of feed"):
        asyncio.run(isolated.ask(question("nobody's")))
    monkeypatch.setattr(isolated, "EXTRA_S", 0.0)
    source.silent("/slow")
    with pytest.raises(FeedUnavailable, match=r"longer than 0\.05 s"):
        asyncio.run(isolated.ask(question("litellm-map", 0.05, url=f"{source.url}/slow")))
    assert set(psutil.Process().children()) <= before


def test_a_price_that_is_not_a_number_passes_between_the_processes_as_what_it_is() -> None:
    answer = Answer([Listing("p", tokens(math.nan), NOW_S), Listing("q", tokens(1.0), NOW_S)])
    there = msgspec.msgpack.decode(msgspec.msgpack.encode(answer), type=Answer)
    assert there.listings is not None
    first, second = there.listings
    assert isinstance(first.price, TokenPrice)
    assert math.isnan(first.price.rates["standard"].usd_per_input)
    assert second == Listing("q", tokens(1.0), NOW_S)
