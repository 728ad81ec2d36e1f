"""Prices on their way from a source that may lie, hang or vanish to the requests priced by them: all of it running."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from running_gateway import KEY, KEY_HOME, Running, Site, free_port, provider_yaml, serving, simulated, wait_until
from running_provider import running

from pricing.report import OfferPrice, PriceReport
from tests.pricing.hostile_source import Source, hostile

OFFER = "east/frontier"
TTL_S = 3.0


@dataclass
class Market:
    """A gateway whose provider is priced by a list on ``source``."""

    gateway: Running
    source: Source

    def lists(self, usd_per_mtok: float) -> None:
        """The source asks this for the model from now on."""
        pricing = {"prompt": f"{usd_per_mtok / 1e6:.12f}", "completion": f"{usd_per_mtok / 1e6:.12f}"}
        self.source.answer("/models", json.dumps({"data": [{"id": "maker/large", "pricing": pricing}]}).encode())

    def board(self) -> PriceReport:
        return msgspec.json.decode(self.gateway.call("GET", "/v1/prices").body, type=PriceReport)

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
        first, _, second = east.rpartition("price: {input: 1, output: 1}")
        east = f"{first}price: [{{feed: list, product: maker/large}}]{second}"
        more = (
            f"feeds:\n  - {{name: list, kind: openrouter, every_s: 1, ttl_s: {TTL_S}, timeout_s: 1, confirmations: 5,"
            f" options: {{url: '{source.url}/models'}}}}\nprices: {{history: {directory}/prices, meter_every_s: 1}}\n"
        )
        west = provider_yaml("west", "west", 50, simulated(free_port()))
        town = Market(None, source)  # type: ignore[arg-type]
        town.lists(2.0)
        with serving(directory, Site(pool.url, [east, west], more=more)) as gateway:
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


@pytest.mark.parametrize("lie", [-1.0, 0.0, 2000.0, float("nan")])
def test_a_lie_is_not_believed_and_the_last_good_price_ages_out(market: Market, lie: float) -> None:
    market.lists(lie)
    wait_until(lambda: market.offer() is None, 3 * TTL_S + 15, "no price past its time to live")
    assert market.quoted() is None
    reason = next(each.reason for each in market.board().unpriced if each.offer == OFFER)
    assert "maker/large" in reason
    assert market.gateway.chat(model="frontier").headers["x-baseload-offer"] == "west/frontier"


def test_a_source_that_hangs_breaks_off_or_changes_its_shape_stops_no_request(market: Market) -> None:
    def answered() -> int:
        return market.gateway.chat(model="small").status

    for spoil in (
        lambda: market.source.silent("/models"),
        lambda: market.source.truncate("/models", b'{"data": [', 1000),
        lambda: market.source.answer("/models", b"[1, 2", 200),
        lambda: market.source.answer("/models", b"no", 500),
        lambda: market.source.busy("/models"),
    ):
        spoil()
        polls = market.board().feeds[0].errors
        assert [answered() for _ in range(5)] == [200] * 5
        wait_until(lambda polls=polls: market.board().feeds[0].errors > polls, 40, "the board says so")
        assert market.board().feeds[0].error
        market.lists(2.0)
    samples = market.gateway.metrics()
    assert samples['baseload_feed_polls{feed="list",result="error"}'] >= 5


def test_a_killed_prices_process_comes_back_with_its_history(market: Market) -> None:
    old = market.gateway.child("prices")
    assert old is not None
    old.kill()
    assert market.gateway.chat(model="frontier").status == 200
    wait_until(lambda: (new := market.gateway.child("prices")) is not None and new.pid != old.pid, 15)
    wait_until(lambda: market.board().feeds[0].polls >= 1 and market.asks(2.0), 20, "asked again")


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
