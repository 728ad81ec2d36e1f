"""OpenRouter's list of models as prices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing import guard
from pricing.feeds import FeedChanged, FeedError
from pricing.feeds.openrouter import KIND, Options, feed
from pricing.http import BoundedHttp
from pricing.listing import TokenPrice, Window
from scheduler.core.supply import Usage
from tests.pricing.hostile_source import Source, hostile

NOW_S = 1_790_000_000.0
DAY_S = 86_400


class Answers:
    """An Http that gives these bodies one after the other."""

    def __init__(self, *bodies: bytes | None) -> None:
        self.bodies = list(bodies)
        self.asked: list[tuple[str, dict[str, str] | None]] = []

    def get(
        self, url: str, params: dict[str, str] | None = None, headers: dict[str, str] | None = None, **_: Any
    ) -> bytes | None:
        self.asked.append((url, headers))
        return self.bodies.pop(0)


def listed(*models: dict[str, Any], **options: Any) -> dict[str, TokenPrice]:
    """The prices that a list of these models makes, by product."""
    body = json.dumps({"data": models}).encode()
    found = feed(Answers(body), Options(**options), NOW_S)
    assert found is not None
    prices = {}
    for listing in found:
        assert isinstance(listing.price, TokenPrice)
        assert guard.implausible(listing.price) is None
        assert listing.observed_s == NOW_S
        prices[listing.product] = listing.price
    return prices


def model(name: str = "a/b", prompt: Any = "0.000002", completion: Any = "0.00001", **pricing: Any) -> dict[str, Any]:
    return {"id": name, "name": "B", "pricing": {"prompt": prompt, "completion": completion, **pricing}, "more": [1]}


def usd(price: TokenPrice, usage: Usage) -> float:
    return price.rates["standard"].usd(usage)


def test_every_kind_of_token_has_the_price_that_the_list_states() -> None:
    price = listed(
        model(
            request="0.003",
            web_search="0.01",
            internal_reasoning="0.00002",
            input_cache_read="0.0000002",
            input_cache_write="0.0000025",
            input_cache_write_1h="0.000004",
            image="0.1",
            discount=0.5,
        )
    )["a/b"]
    usage = Usage(1000, 100, 50, cache_write_tokens=200, cache_write_long_tokens=300, reasoning_tokens=20, searches=2)
    expected = 0.003 + 2 * 0.01 + 400 * 2e-6 + 100 * 2e-7 + 200 * 2.5e-6 + 300 * 4e-6 + 30 * 1e-5 + 20 * 2e-5
    assert usd(price, usage) == pytest.approx(expected, rel=1e-12)


def test_what_the_list_leaves_out_is_billed_as_what_it_is_part_of() -> None:
    rate = listed(model())["a/b"].rates["standard"]
    assert rate.usd_per_cached == rate.usd_per_input == 2e-6
    assert (rate.usd_per_cache_write, rate.usd_per_reasoning, rate.usd_per_request) == (None, None, 0.0)


def test_reasoning_at_zero_is_billed_as_output_and_a_cheap_cache_write_on_top_of_input() -> None:
    rate = listed(model(internal_reasoning="0", input_cache_write="0.000000375"))["a/b"].rates["standard"]
    assert rate.usd_per_reasoning is None
    assert rate.usd_per_cache_write == pytest.approx(2.375e-6)


def test_an_explicit_zero_is_a_price() -> None:
    assert usd(listed(model("a/b:free", "0", "0"))["a/b:free"], Usage(1000, 10, 1000)) == 0.0


def test_a_price_that_varies_with_the_route_is_no_price() -> None:
    assert list(listed(model("openrouter/auto", "-1", "-1"), model())) == ["a/b"]


@pytest.mark.parametrize("value", ["n/a", "", "NaN", "Infinity", "1e999", True, [], {}, "1_0", "9" * 100])
@pytest.mark.parametrize("key", ["prompt", "completion", "input_cache_read", "request"])
def test_something_that_is_no_number_is_no_price_and_spoils_no_other(key: str, value: Any) -> None:
    assert list(listed(model("bad", **{key: value}), model())) == ["a/b"]


@pytest.mark.parametrize("entry", [{}, [], None, 7, {"id": "x"}, {"id": "", "pricing": {}}, {"id": "x", "pricing": []}])
def test_one_entry_that_is_no_model_spoils_no_other(entry: Any) -> None:
    assert list(listed(entry, model())) == ["a/b"]


def test_a_list_that_is_mostly_unreadable_has_changed_its_shape() -> None:
    with pytest.raises(FeedChanged, match=r"2 of 3 .*bad.*\$\.pricing\.prompt"):
        listed(model("bad", "x"), model("worse", "y"), model())
    with pytest.raises(FeedChanged, match=r"\$\.data\[0\]"):
        listed({"slug": "a/b"}, {"slug": "c/d"}, model())
    with pytest.raises(FeedChanged, match=r"pricing\.prompt"):
        listed(model(prompt="x"), model("c"), models=("a/b",))


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"data": {}}', b'{"data": []}', b"<html>", b"\xff", b"[" * 100_000]
)
def test_an_answer_of_another_shape_is_an_error(body: bytes) -> None:
    with pytest.raises(FeedChanged):
        feed(Answers(body), Options(), NOW_S)


def test_only_the_models_asked_for_are_listed_and_what_is_wrong_with_others_does_not_matter() -> None:
    bad = [model(f"bad{i}", "x") for i in range(3)]
    assert list(listed(*bad, model(), model("c/d"), models=("a/b", "not/there"))) == ["a/b"]


def test_a_model_that_will_go_says_when() -> None:
    assert listed({**model(), "expiration_date": "2026-12-31"})["a/b"].deprecated_s == 1_798_675_200.0
    for unclear in (None, "soon", 5):
        assert listed({**model(), "expiration_date": unclear})["a/b"].deprecated_s is None


def test_the_batch_variant_of_a_model_is_its_batch_tier() -> None:
    prices = listed(model(), model("a/b:batch", "0.000001", "0.000005"), model("c:batch", "0.1e-5", "0.1e-5"))
    assert set(prices) == {"a/b", "c:batch"}
    assert prices["a/b"].rates["batch"].usd_per_output == 5e-6
    assert prices["a/b"].rates["standard"].usd_per_output == 1e-5


def test_prices_above_a_prompt_length_replace_those_they_name() -> None:
    overrides = [
        {"min_prompt_tokens": 200_000, "prompt": "0.000004", "completion": "0.000015"},
        {"min_prompt_tokens": 500_000, "prompt": "0.000008"},
    ]
    price = listed(model(input_cache_read="0.0000002", overrides=overrides))["a/b"]
    assert usd(price, Usage(200_000, 0, 1)) == pytest.approx(200_000 * 2e-6 + 1e-5)
    assert usd(price, Usage(200_001, 1, 1)) == pytest.approx(200_000 * 4e-6 + 2e-7 + 1.5e-5)
    assert usd(price, Usage(500_001, 0, 1)) == pytest.approx(500_001 * 8e-6 + 1.5e-5)


def test_prices_of_certain_hours_hold_in_these_hours() -> None:
    overrides = [{"utc_start": 2230, "utc_end": 430, "utc_days": ["monday"], "prompt": "0.000001"}]
    windows = listed(model(overrides=overrides))["a/b"].off_peak
    assert {(w.start_s, w.end_s, w.days) for w in windows} == {(0, 16_200, (1,)), (81_000, DAY_S, (1,))}
    assert all(w.rates["standard"].usd_per_input == 1e-6 for w in windows)


@pytest.mark.parametrize(
    "override",
    [
        7,
        {"min_prompt_tokens": "many", "prompt": "1e-6"},
        {"min_prompt_tokens": -1, "prompt": "1e-6"},
        {"min_completion_tokens": 7, "prompt": "1e-6"},
        {"utc_start": 100, "prompt": "1e-6"},
        {"utc_start": 175, "utc_end": 200, "prompt": "1e-6"},
        {"utc_start": 100, "utc_end": 2500, "prompt": "1e-6"},
        {"utc_days": ["caturday"], "prompt": "1e-6"},
        {"utc_days": [[]], "prompt": "1e-6"},
        {"min_prompt_tokens": 5, "prompt": "cheap"},
    ],
)
def test_a_condition_that_is_not_understood_makes_no_price(override: Any) -> None:
    assert list(listed(model("bad", overrides=[override]), model())) == ["a/b"]


WEEKDAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
CLOCK = st.builds(lambda hour, minute: hour * 100 + minute, st.integers(0, 23), st.sampled_from([0, 30]))
PRICES = st.dictionaries(
    st.sampled_from(["prompt", "completion", "input_cache_read"]),
    st.integers(1, 99).map(lambda n: f"{n}e-7"),
    min_size=1,
)
HOURS = st.fixed_dictionaries({"utc_start": CLOCK, "utc_end": CLOCK})
DAYS = st.fixed_dictionaries({"utc_days": st.lists(st.sampled_from(WEEKDAYS), min_size=1, unique=True)})
LENGTH = st.fixed_dictionaries({"min_prompt_tokens": st.sampled_from([100, 200, 300])})
OVERRIDE = st.lists(st.sampled_from([HOURS, DAYS, LENGTH]), unique=True).flatmap(
    lambda parts: st.tuples(PRICES, *parts).map(lambda found: {k: v for part in found for k, v in part.items()})
)


def documented(
    base: dict[str, str], overrides: list[dict[str, Any]], day: int, second: int, tokens: int
) -> list[float]:
    """The documentation read word by word, for one instant and prompt length."""
    held = dict(base)
    clock = second // 3600 * 100 + second % 3600 // 60
    for item in overrides:
        start, end = item.get("utc_start"), item.get("utc_end")
        if start is None or end is None:
            inside = True
        elif start > end:
            inside = clock >= start or clock < end
        else:
            inside = start <= clock < end
        applies = inside and WEEKDAYS[day - 1] in item.get("utc_days", WEEKDAYS)
        if applies and tokens > item.get("min_prompt_tokens", -1):
            held.update({k: v for k, v in item.items() if k in ("prompt", "completion", "input_cache_read")})
    return [float(held["prompt"]), float(held["completion"]), float(held.get("input_cache_read", held["prompt"]))]


def in_force(price: TokenPrice, day: int, second: int) -> Any:
    def holds(window: Window) -> bool:
        return window.start_s <= second < window.end_s and (not window.days or day in window.days)

    return next((w.rates for w in price.off_peak if holds(w)), price.rates)["standard"]


@given(st.lists(OVERRIDE, max_size=4), st.integers(1, 7), st.integers(0, 47), st.sampled_from([1, 100, 101, 250, 301]))
def test_at_every_instant_and_length_the_price_is_what_the_documentation_says(
    overrides: list[dict[str, Any]], day: int, half_hour: int, tokens: int
) -> None:
    price = listed(model(overrides=overrides))["a/b"]
    rate = in_force(price, day, half_hour * 1800)
    prompt, completion, cached = documented(
        {"prompt": "0.000002", "completion": "0.00001"}, overrides, day, half_hour * 1800, tokens
    )
    assert rate.usd(Usage(tokens, 0, 0)) == pytest.approx(tokens * prompt)
    assert rate.usd(Usage(tokens, tokens, 7)) == pytest.approx(tokens * cached + 7 * completion)


def page(following: str | None, *models: dict[str, Any]) -> bytes:
    return json.dumps({"data": models, "links": {"next": following}}).encode()


def test_all_pages_are_read() -> None:
    http = Answers(page("/api/v1/models?offset=1&limit=1", model()), page(None, model("c/d")))
    found = feed(http, Options(), NOW_S)
    assert [listing.product for listing in found or ()] == ["a/b", "c/d"]
    assert http.asked[1][0] == "https://openrouter.ai/api/v1/models?offset=1&limit=1"


@pytest.mark.parametrize(
    "following", ["https://evil.invalid/models", "http://openrouter.ai/x", "//evil.invalid", "http://["]
)
def test_pages_elsewhere_are_not_followed(following: str) -> None:
    with pytest.raises(FeedChanged, match="elsewhere"):
        feed(Answers(page(following, model())), Options(), NOW_S)


def test_pages_together_list_no_more_than_one_may() -> None:
    full = json.dumps({"data": [0] * 12_000, "links": {"next": "/api/v1/models?offset=1"}}).encode()
    with pytest.raises(FeedChanged, match="more than 20000 models"):
        feed(Answers(full, full), Options(), NOW_S)


def test_pages_without_end_are_an_error() -> None:
    with pytest.raises(FeedChanged, match="pages"):
        feed(Answers(*[page("/api/v1/models", model())] * 50), Options(), NOW_S)


def test_a_key_comes_from_the_environment_and_is_missed_when_it_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENROUTER_KEY", "sk-1")
    http = Answers(page(None, model()))
    feed(http, Options(api_key_env="OPENROUTER_KEY"), NOW_S)
    assert http.asked[0][1] == {"Authorization": "Bearer sk-1"}
    monkeypatch.delenv("OPENROUTER_KEY")
    with pytest.raises(FeedError, match="OPENROUTER_KEY is not set"):
        feed(Answers(), Options(api_key_env="OPENROUTER_KEY"), NOW_S)


@pytest.fixture
def source() -> Iterator[Source]:
    with hostile() as running:
        yield running


def test_over_http_an_unchanged_list_is_not_read_again(source: Source) -> None:
    source.answer("/models", page(None, model()), etag='"1"')
    http, options = BoundedHttp(5.0, 100_000), Options(url=source.url + "/models")
    assert [listing.product for listing in KIND.feed(http, options, NOW_S) or ()] == ["a/b"]
    http.accept()
    assert KIND.feed(http, options, NOW_S) is None
