"""genai-prices as prices, against its own calculator."""

from __future__ import annotations

import copy
import json
import random
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import Any

import pytest
from genai_prices import Usage as TheirUsage
from genai_prices.data import providers
from genai_prices.types import ModelInfo, ModelPrice, Provider

from pricing import guard
from pricing.feeds import FeedChanged
from pricing.feeds.genai import KIND, Options, feed
from pricing.http import BoundedHttp, OfflineHttp
from pricing.listing import ServiceTier, TokenPrice, Window
from scheduler.core.supply import Rate, Usage
from tests.pricing.hostile_source import hostile

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
NOW_S = NOW.timestamp()
USAGES = 20_000
# What genai-prices bills and Usage does not count: audio, images, video, characters, pages, hours and messages are no
# tokens of text; citations and storage searches are things that only one provider bills and no response reports to us.
# Their prices are not read, and both sides are asked about usages without them.
OTHER_UNITS = ("audio", "image", "video", "mchars", "hours", "pages", "messages", "citation", "storage_searches")
# Request contexts that are no service tier: another speed, route or kind of search is another product.
TIERS: dict[ServiceTier, dict[str, str]] = {
    "batch": {"processing": "batch"},
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
}


class Answer:
    """An Http with one answer."""

    def __init__(self, body: bytes | None) -> None:
        self.body = body

    def get(
        self, url: str, params: dict[str, str] | None = None, headers: dict[str, str] | None = None, **_: Any
    ) -> bytes | None:
        return self.body


@cache
def ours(now_s: float = NOW_S) -> dict[str, TokenPrice]:
    """The bundled list by product."""
    found = feed(OfflineHttp(), Options(), now_s)
    assert found is not None
    return {listing.product: listing.price for listing in found if isinstance(listing.price, TokenPrice)}


@cache
def theirs() -> dict[str, tuple[Provider, ModelInfo]]:
    return {f"{one.id}/{model.id}": (one, model) for one in providers for model in one.models}


def in_force(price: TokenPrice, at: datetime) -> dict[ServiceTier, Rate]:
    second = at.hour * 3600 + at.minute * 60 + at.second

    def holds(window: Window) -> bool:
        return window.start_s <= second < window.end_s

    return next((window.rates for window in price.off_peak if holds(window)), price.rates)


def some_usage(chance: random.Random) -> Usage:
    input_tokens = chance.choice([0, 1, 999, 32_000, 100_000, 128_000, 128_001, 200_000, 200_001, 272_001, 900_000])
    parts = sorted(chance.randint(0, input_tokens) for _ in range(3))
    cached, write, long = parts[0], parts[1] - parts[0], parts[2] - parts[1]
    output_tokens = chance.randint(0, 50_000)
    reasoning = chance.randint(0, output_tokens)
    return Usage(input_tokens, cached, output_tokens, write, long, reasoning, chance.randint(0, 3))


def their_usage(usage: Usage, output: bool) -> TheirUsage:
    return TheirUsage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens + usage.cache_write_long_tokens,
        cache_write_1h_tokens=usage.cache_write_long_tokens,
        output_tokens=usage.output_tokens if output else 0,
        output_reasoning_tokens=usage.reasoning_tokens if output else 0,
        web_searches=usage.searches,
    )


def their_usd(product: str, usage: Usage, at: datetime, tier: ServiceTier = "standard") -> Decimal:
    provider, model = theirs()[product]
    context = TIERS.get(tier)
    priced = model.get_prices(at, context)
    return model.calc_price(
        their_usage(usage, priced.output_mtok is not None),
        provider,
        genai_request_timestamp=at,
        price_context=context,
    ).total_price


def test_random_usages_cost_what_genai_prices_calculates_for_every_model_hour_and_tier() -> None:
    chance, compared = random.Random(7), {"standard": 0, "batch": 0, "flex": 0, "priority": 0}
    products = sorted(ours())
    picks = products + [chance.choice(products) for _ in range(USAGES - len(products))]
    picks += [product for product in products if ours()[product].off_peak or len(ours()[product].rates) > 1] * 10
    for product in picks:
        at = NOW.replace(hour=chance.randrange(24), minute=chance.choice([0, 29, 30, 59]))
        for tier, rate in in_force(ours()[product], at).items():
            usage = some_usage(chance)
            expected = float(their_usd(product, usage, at, tier))
            assert rate.usd(usage) == pytest.approx(expected, rel=1e-9, abs=1e-15), (product, tier, usage, at)
            compared[tier] += 1
    assert compared["standard"] >= USAGES
    assert all(compared[tier] > 100 for tier in TIERS), compared


def test_the_price_is_the_one_in_force_at_the_instant_of_the_poll() -> None:
    chance = random.Random(11)
    dated = [
        product
        for product, (_, model) in sorted(theirs().items())
        if product in ours() and not isinstance(model.prices, ModelPrice) and not ours()[product].off_peak
    ]
    assert len(dated) > 100
    for year in (2024, 2025, 2026):
        at = datetime(year, 7, 1, 12, tzinfo=UTC)
        then = ours(at.timestamp())
        for product in dated:
            if product in then:
                usage = some_usage(chance)
                expected = float(their_usd(product, usage, at))
                assert then[product].rates["standard"].usd(usage) == pytest.approx(expected, rel=1e-9, abs=1e-15), (
                    product
                )


def test_every_model_that_is_not_listed_has_no_price_by_the_token() -> None:
    for product in set(theirs()) - set(ours()):
        price = theirs()[product][1].get_prices(NOW)
        assert price.input_mtok is None or price.output_mtok is None, product


def test_the_only_prices_left_unread_are_of_units_that_usage_does_not_count() -> None:
    read = {"input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_1h_mtok"}
    read |= {"output_reasoning_mtok", "requests_kcount", "web_searches_kcount"}
    for _, model in theirs().values():
        for key in vars(model.get_prices(NOW)):
            assert key in read or any(unit in key for unit in OTHER_UNITS), key


def test_a_model_without_an_output_price_is_listed_only_if_it_returns_no_tokens() -> None:
    assert ours()["openai/text-embedding-3-small"].rates["standard"].usd_per_output == 0.0
    assert theirs()["azure/davinci"][1].get_prices(NOW).output_mtok is None
    assert "azure/davinci" not in ours()


def test_no_bundled_price_is_implausible() -> None:
    assert {name: reason for name, price in ours().items() if (reason := guard.implausible(price))} == {}
    assert len(ours()) > 1000


def one(**model: Any) -> bytes:
    return json.dumps([{"id": "p", "models": [{"id": "m", **model}]}]).encode()


def listed(body: bytes, now_s: float = NOW_S, **options: Any) -> dict[str, TokenPrice]:
    found = feed(Answer(body), Options(**options), now_s)
    return {listing.product: listing.price for listing in found or () if isinstance(listing.price, TokenPrice)}


PRICES = {"input_mtok": 2, "output_mtok": 8}


def test_the_fetched_list_is_read_like_the_bundled_one() -> None:
    price = {"base": 3, "tiers": [{"start": 200_000, "price": 6}]}
    conditional = [
        {"prices": PRICES},
        {"constraint": {"start_date": "2026-01-01"}, "prices": {"input_mtok": price, "output_mtok": 15}},
        {"constraint": {"start_time": "16:30:00Z", "end_time": "00:30:00Z"}, "prices": PRICES},
        {"constraint": {"start_date": "2027-01-01"}, "prices": {"input_mtok": 99, "output_mtok": 99}},
    ]
    found = listed(one(prices=conditional, name="M", match={"equals": "m"}))["p/m"]
    rate = found.rates["standard"]
    assert (rate.usd_per_input, rate.tiers[0].input_tokens_above, rate.tiers[0].usd_per_input) == (3e-6, 200_000, 6e-6)
    assert rate.tiers[0].usd_per_output == 1.5e-5
    assert [(window.start_s, window.end_s) for window in found.off_peak] == [(0, 1800), (59_400, 86_400)]
    assert found.off_peak[0].rates["standard"].usd_per_output == 8e-6


def test_hours_with_an_offset_are_those_of_the_utc_day() -> None:
    conditional = [
        {"prices": PRICES},
        {
            "constraint": {"start_time": "08:00:00+08:00", "end_time": "10:00:00+08:00"},
            "prices": {**PRICES, "input_mtok": 1},
        },
    ]
    assert [(w.start_s, w.end_s) for w in listed(one(prices=conditional))["p/m"].off_peak] == [(0, 7200)]


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"prices": 7},
        {"prices": {"input_mtok": "free", "output_mtok": 1}},
        {"prices": {"input_mtok": {"base": 1}, "output_mtok": 1}},
        {"prices": {"input_mtok": {"base": 1, "tiers": [{"start": -5, "price": 1}]}, "output_mtok": 1}},
        {"prices": {**PRICES, "requests_kcount": {"base": 1, "tiers": []}}},
        {"prices": [{"constraint": {"weekday": "monday"}, "prices": PRICES}]},
        {"prices": [{"constraint": {}, "prices": PRICES}]},
        {"prices": [{"constraint": {"start_date": "someday"}, "prices": PRICES}]},
        {"prices": [{"prices": PRICES}] * 51},
        {"prices": {**PRICES, "input_mtok": {"base": 1, "tiers": [{"start": n, "price": 1} for n in range(1, 34)]}}},
        {
            "prices": {
                key: {"base": 1, "tiers": [{"start": n, "price": 1} for n in range(first, first + 20)]}
                for key, first in (("input_mtok", 1), ("output_mtok", 100))
            }
        },
    ],
)
def test_a_price_that_is_not_understood_is_no_price_and_spoils_no_other(model: dict[str, Any]) -> None:
    good = [{"id": "good", "prices": PRICES}]
    body = json.dumps([{"id": "p", "models": [{"id": "bad", **model}, *good]}]).encode()
    assert list(listed(body)) == ["p/good"]
    with pytest.raises(FeedChanged, match=r"bad|models\[0\]"):
        listed(json.dumps([{"id": "p", "models": [{"id": "bad", **model}]}]).encode())
    assert listed(body, models=("p/good",)).keys() == {"p/good"}


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"[7]", b'[{"id": "p"}]', b'[{"id": "p", "models": []}]', b"\xff"])
def test_an_answer_of_another_shape_is_an_error(body: bytes) -> None:
    with pytest.raises(FeedChanged):
        listed(body)


def test_models_can_be_chosen_and_one_that_is_chosen_must_be_readable() -> None:
    chosen = feed(OfflineHttp(), Options(models=("openai/gpt-4.1", "no/thing")), NOW_S) or ()
    assert [listing.product for listing in chosen] == ["openai/gpt-4.1"]
    bad = {"id": "bad", "prices": {"input_mtok": "free", "output_mtok": 1}}
    body = json.dumps([{"id": "p", "models": [bad, *[{"id": f"m{i}", "prices": PRICES} for i in range(9)]]}]).encode()
    with pytest.raises(FeedChanged, match=r"p/bad\.prices\.input_mtok"):
        listed(body, models=("p/bad",))


def test_a_price_from_a_later_date_on_arrives_although_the_list_has_not_changed() -> None:
    conditional = [
        {"prices": PRICES},
        {"constraint": {"start_date": "2027-01-01"}, "prices": {"input_mtok": 99, "output_mtok": 99}},
    ]
    http = BoundedHttp(5.0, 100_000)
    found = []
    with hostile() as source:
        source.answer("/data.json", one(prices=conditional), etag='"1"')
        for at in (NOW, datetime(2027, 1, 2, tzinfo=UTC)):
            [listing] = feed(http, Options(url=source.url + "/data.json"), at.timestamp()) or ()
            assert isinstance(listing.price, TokenPrice)
            found.append(listing.price.rates["standard"].usd_per_input)
            http.accept()
    assert found == [2e-6, 99e-6]


def test_without_refresh_the_bundled_list_is_read_and_the_network_left_alone() -> None:
    assert {listing.product for listing in feed(Answer(b"never read"), Options(refresh=False), NOW_S) or ()} == set(
        ours()
    )


def test_the_fetching_process_never_imports_genai_prices() -> None:
    code = "import sys, pricing.feeds.genai; sys.exit('genai_prices' in sys.modules or 'pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert (KIND.isolated, KIND.needs_network) == (True, False)


def test_the_oracle_would_notice_a_wrong_price() -> None:
    price = copy.copy(ours()["openai/gpt-4.1"].rates["standard"])
    usage = Usage(1000, 0, 10)
    expected = float(their_usd("openai/gpt-4.1", usage, NOW))
    assert Rate(price.usd_per_input * 1.001, price.usd_per_cached, price.usd_per_output).usd(usage) != pytest.approx(
        expected, rel=1e-9
    )
