"""Prices on their way from a source that may lie, hang or vanish to the requests priced by them: all of it running."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from running_gateway import KEY, KEY_HOME, Running, Site, free_port, provider_yaml, serving, simulated, wait_until
from running_market import openai
from running_provider import running

from pricing.report import FeedState, OfferPrice, PriceReport
from tests.pricing.hostile_source import Source, hostile

OFFER = "east/frontier"
TTL_S = 6.0  # a good price is up to three seconds old when the next one is told
# What providers of ``frail`` are said to ask at once, in USD per million tokens, each a lie of its own.
LIES = {"below": -1.0, "free": 0.0, "above": 2000.0, "none": float("nan")}
# How a source can fail, each on a path and for a feed of its own.
FAILURES: dict[str, Callable[[Source, str], None]] = {
    "hangs": lambda source, path: source.silent(path),
    "breaks-off": lambda source, path: source.truncate(path, b'{"data": [', 1000),
    "other-shape": lambda source, path: source.answer(path, b"[1, 2", 200),
    "broken": lambda source, path: source.answer(path, b"no", 500),
    "busy": lambda source, path: source.busy(path),
}


def _listing(usd_per_mtok: Mapping[str, float]) -> bytes:
    prices = {name: f"{usd / 1e6:.12f}" for name, usd in usd_per_mtok.items()}
    rows = [{"id": f"maker/{name}", "pricing": {"prompt": usd, "completion": usd}} for name, usd in prices.items()]
    return json.dumps({"data": rows}).encode()


def _feed(name: str, url: str) -> str:
    return (
        f"\n  - {{name: {name}, kind: openrouter, every_s: 1, ttl_s: {TTL_S}, timeout_s: 1, confirmations: 5,"
        f" options: {{url: '{url}'}}}}"
    )


@dataclass
class Market:
    """A gateway whose provider is priced by a list on ``source``."""

    gateway: Running
    source: Source

    def lists(self, usd_per_mtok: float, lies: Mapping[str, float] | None = None) -> None:
        """The source asks this for the model from now on, and of each liar the same or what ``lies`` says."""
        asked = {"large": usd_per_mtok, **dict.fromkeys(LIES, usd_per_mtok), **(lies or {})}
        self.source.answer("/models", _listing(asked))

    def board(self) -> PriceReport:
        return msgspec.json.decode(self.gateway.call("GET", "/v1/prices").body, type=PriceReport)

    def feed(self) -> FeedState:
        """The list."""
        return next(feed for feed in self.board().feeds if feed.feed == "list")

    def offer(self) -> OfferPrice | None:
        return next((offer for offer in self.board().offers if offer.offer == OFFER), None)

    def asks(self, usd_per_mtok: float) -> Any:
        offer = self.offer()
        return offer is not None and offer.usd_per_mtok.input == pytest.approx(usd_per_mtok) and offer

    def quoted(self) -> float | None:
        """What a request would be quoted for it at most, or None where it is not on the market."""
        order = self.gateway.explain(model="frontier", max_tokens=100)["merit_order"]
        return next((quote["usd_at_most"] for quote in order if quote["offer"] == OFFER), None)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    directory = tmp_path_factory.mktemp("live-prices")
    with running() as pool, hostile() as source:
        east = provider_yaml("east", "east", 1, simulated(free_port()), models=["taped", "frontier"])
        first, own, second = east.rpartition("price: {input: 1, output: 1}")
        east = f"{first}price: [{{feed: list, product: maker/large}}]{second}"
        liars = [
            provider_yaml(name, "east", 1, openai(f"http://127.0.0.1:{free_port()}"), ["frail"]).replace(
                own, f"price: [{{feed: list, product: maker/{name}}}]"
            )
            for name in LIES
        ]
        feeds = [_feed("list", f"{source.url}/models"), *(_feed(name, f"{source.url}/{name}") for name in FAILURES)]
        more = f"feeds:{''.join(feeds)}\nprices: {{history: {directory}/prices, meter_every_s: 1}}\n"
        west = provider_yaml("west", "west", 50, simulated(free_port()), ["frontier", "frail"])
        town = Market(None, source)  # type: ignore[arg-type]
        town.lists(2.0)
        for name in FAILURES:
            source.answer(f"/{name}", _listing({"large": 2.0}))
        with serving(directory, Site(pool.url, [east, *liars, west], more=more)) as gateway:
            town.gateway = gateway
            yield town
            assert gateway.errors() == []


@pytest.fixture(autouse=True)
def at_two_dollars(market: Market) -> None:
    market.lists(2.0)
    wait_until(lambda: market.asks(2.0), 40, "the list's own price")


def test_a_price_of_a_feed_is_what_requests_are_quoted_and_charged(market: Market) -> None:
    quoted = wait_until(market.quoted, 10)
    prompt_usd = 2e-6 * market.gateway.explain(model="frontier", max_tokens=100)["request"]["input_tokens"]
    assert quoted == pytest.approx(prompt_usd + 100 * 2e-6)
    reply = market.gateway.chat(max_tokens=100)
    assert reply.headers["x-baseload-offer"] == OFFER
    usage = reply.json["usage"]
    tokens = usage["prompt_tokens"] + usage["completion_tokens"]
    assert float(reply.headers["x-baseload-usd"]) == pytest.approx(tokens * 2e-6)


def test_a_small_change_counts_at_once_and_a_jump_only_when_it_stays(market: Market) -> None:
    market.lists(2.5)
    wait_until(lambda: market.asks(2.5), 15, "the new price")
    market.lists(12.5)
    wait_until(lambda: [i for i in market.board().incidents if i.what == "quarantined"], 15, "in quarantine")
    assert not market.asks(12.5)
    wait_until(lambda: market.asks(12.5), 40, "confirmed by repetition")
    market.lists(4.5)
    wait_until(lambda: market.asks(4.5), 15, "a third is no jump")


def test_lies_are_not_believed_and_the_last_good_prices_age_out(market: Market) -> None:
    offers = {f"{name}/frail": f"maker/{name}" for name in LIES}

    def on_offer() -> set[str]:
        return offers.keys() & {offer.offer for offer in market.board().offers}

    wait_until(lambda: on_offer() == offers.keys(), 40, "all are believed while they ask what the others do")
    market.lists(2.0, LIES)
    wait_until(lambda: not on_offer(), 3 * TTL_S + 15, "no price past its time to live")
    quoted = {quote["offer"] for quote in market.gateway.explain(model="frail")["merit_order"]}
    assert quoted == {"west/frail"}
    reasons = {each.offer: each.reason for each in market.board().unpriced}
    assert all(product in reasons[offer] for offer, product in offers.items())
    assert market.gateway.chat(model="frail").headers["x-baseload-offer"] == "west/frail"
    assert market.asks(2.0)


def test_a_source_that_hangs_breaks_off_or_changes_its_shape_stops_no_request(market: Market) -> None:
    def failing() -> set[str]:
        return {feed.feed for feed in market.board().feeds if feed.feed in FAILURES and feed.errors and feed.error}

    wait_until(lambda: {f.feed for f in market.board().feeds if f.polls} >= FAILURES.keys(), 40, "all have been asked")
    assert failing() == set()
    for name, spoil in FAILURES.items():
        spoil(market.source, f"/{name}")
        assert [market.gateway.chat(model="small").status for _ in range(5)] == [200] * 5
    wait_until(lambda: failing() == FAILURES.keys(), 40, "the board says so")
    assert [market.gateway.chat(model="small").status for _ in range(5)] == [200] * 5
    samples = market.gateway.metrics()
    assert all(samples[f'baseload_feed_polls{{feed="{name}",result="error"}}'] >= 1 for name in FAILURES)
    assert market.asks(2.0)


def test_a_killed_prices_process_comes_back_with_its_history(market: Market) -> None:
    old = market.gateway.child("prices")
    assert old is not None
    old.kill()
    killed_s = time.time()
    assert market.gateway.chat(model="frontier").status == 200
    wait_until(lambda: (new := market.gateway.child("prices")) is not None and new.pid != old.pid, 15)
    wait_until(lambda: (market.feed().last_ok_s or 0.0) > killed_s and market.asks(2.0), 20, "asked again")


def test_prices_are_shown_to_holders_of_a_key_only(market: Market) -> None:
    assert market.gateway.call("GET", "/v1/prices", key="").status == 401
    assert market.gateway.call("POST", "/v1/prices", {}).status == 405
    local = market.board().local[0]
    assert (local.pool, local.power_label) == ("local", "modelled")


def test_metrics_tell_costs_by_basis_and_the_age_of_prices_and_feeds(market: Market) -> None:
    samples = market.gateway.metrics()
    name = f'llm_cost_per_million_tokens{{cost_basis="list",gen_ai_token_type="output",offer="{OFFER}"}}'
    assert samples[name] == pytest.approx(2.0)
    avoidable = 'llm_cost_per_million_tokens{cost_basis="avoidable",gen_ai_token_type="output",offer="local"}'
    assert samples[avoidable] == pytest.approx(0.003 / 3.6e6 * 1.2 * 0.30 * 1e6)
    assert 0 <= samples[f'baseload_price_age_seconds{{offer="{OFFER}"}}'] < 60
    assert 0 <= samples['baseload_feed_age_seconds{feed="list"}'] < 60


def baseload(market: Market, *options: str, key: str = KEY) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving.cli", "prices", "--url", market.gateway.url, "--key", key, *options]
    config = market.gateway.directory / "cluster.yaml"
    command += ["--config", str(config)]
    environment = {**os.environ, "COLUMNS": "160"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)


def test_the_command_shows_the_running_board_as_tables_json_and_a_page(market: Market, tmp_path: Path) -> None:
    shown = baseload(market)
    assert shown.returncode == 0 and OFFER in shown.stdout and "list: maker/large" in shown.stdout
    report = msgspec.json.decode(baseload(market, "--json").stdout, type=PriceReport)
    assert OFFER in {offer.offer for offer in report.offers}
    page = tmp_path / "prices.html"
    written = baseload(market, "--html", str(page), "--since", "1h")
    assert written.returncode == 0 and OFFER in page.read_text()


def test_the_command_works_from_the_recorded_history_alone(market: Market) -> None:
    deadline_s = time.monotonic() + 20  # a price that was last written down as seen a moment ago
    while OFFER not in (shown := baseload(market, "--offline")).stdout.partition("Without a price")[0]:
        assert time.monotonic() < deadline_s, shown.stdout
        market.lists(2.0 + 0.1 * (deadline_s - time.monotonic()) / 20)
        time.sleep(0.5)


def test_the_command_says_what_is_wrong(market: Market, tmp_path: Path) -> None:
    refused = baseload(market, key="nobody")
    assert (refused.returncode, refused.stdout) == (1, "") and "401" in refused.stderr
    away = baseload(market, "--url", f"http://127.0.0.1:{free_port()}")
    assert away.returncode == 3 and "--offline" in away.stderr
    nowhere = baseload(market, "--html", str(tmp_path / "no" / "such" / "page.html"))
    assert nowhere.returncode == 2 and "page.html" in nowhere.stderr
    assert baseload(market, "--since", "soon").returncode == 2


def test_a_key_of_a_tenant_that_may_not_see_costs_sees_offers_only(market: Market) -> None:
    seen = msgspec.json.decode(market.gateway.call("GET", "/v1/prices", key=KEY_HOME).body, type=PriceReport)
    assert OFFER in {offer.offer for offer in seen.offers}
    assert (seen.local, seen.feeds, seen.incidents, seen.rents, seen.unpriced) == ((), (), (), (), ())
