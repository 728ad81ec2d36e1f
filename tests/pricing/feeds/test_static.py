"""A price list in a file: taken whole, or refused with path and reason."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pricing import guard
from pricing.feeds import FeedChanged, FeedUnavailable
from pricing.feeds.static import BYTES_MAX, KIND, Options, feed
from pricing.http import OfflineHttp
from pricing.listing import CarbonIntensity, GpuPrice, Listing, PowerPrice, Step, TokenPrice, Window
from scheduler.core.supply import Rate, Usage

NOW_S = 1_790_000_000.0
EXAMPLE = Path(__file__).resolve().parents[3] / "examples/feeds/price-list.yaml"
PRICES = {"input": 2.0, "output": 8.0}
SMALL = {"product": "p", "usd_per_mtok": PRICES}
STEPS = [{"start": "2026-01-01", "end": "2026-01-02", "usd_per_kwh": -0.1}]


def read(path: Path, now_s: float = NOW_S) -> dict[str, Listing]:
    found = feed(OfflineHttp(), Options(file=path.name, directory=str(path.parent)), now_s)
    return {listing.product: listing for listing in found or ()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "prices.yaml"


def refused(file: Path, text: str) -> str:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(FeedChanged) as caught:
        read(file)
    assert str(caught.value).startswith(("prices.yaml: ", f"{file}: "))
    return str(caught.value)


def test_the_example_holds_every_kind_of_price() -> None:
    listings = read(EXAMPLE, now_s=1_795_000_000.0)
    assert {listing.observed_s for listing in listings.values()} == {1_793_491_200.0}
    assert [guard.implausible(listing.price) for listing in listings.values()] == [None] * 5
    large = listings["example/large"].price
    assert isinstance(large, TokenPrice)
    rate, usage = large.rates["standard"], Usage(1000, 100, 50, 200, 300, 20, searches=2)
    assert rate.usd(usage) == pytest.approx((400 * 2.0 + 100 * 0.2 + 200 * 2.5 + 300 * 4.0 + 50 * 8.0) / 1e6 + 0.02)
    assert rate.usd(Usage(300_000, 100_000, 10)) == pytest.approx((200_000 * 4.0 + 100_000 * 0.4 + 10 * 12.0) / 1e6)
    assert large.rates["batch"].usd(usage) == pytest.approx((1000 * 1.0 + 50 * 4.0) / 1e6)
    assert large.off_peak == (Window(79_200, 21_600, {"standard": Rate(1.5e-6, 1.5e-6, 6e-6)}, (1, 2, 3, 4, 5)),)
    assert large.deprecated_s == 1_830_211_200.0
    assert listings["example/8x-h100-spot"].price == GpuPrice(16.0, "H100", 8, "example", "eu-1", spot=True)
    power, carbon = listings["example/day-ahead"].price, listings["example/grid"].price
    assert isinstance(power, PowerPrice)
    assert power.steps[0] == Step(1_793_487_600.0, 1_793_509_200.0, 0.06)
    assert carbon == CarbonIntensity((Step(1_793_491_200.0, 1_793_577_600.0, 320.0),), forecast=True)


def test_a_million_tokens_cost_what_the_list_says(file: Path) -> None:
    file.write_text(json.dumps({"observed": "2026-01-01", "tokens": [SMALL]}))
    price = read(file)["p"].price
    assert isinstance(price, TokenPrice)
    assert price.rates["standard"].usd(Usage(1_000_000, 0, 1_000_000)) == pytest.approx(10.0)
    assert price.rates["standard"].usd(Usage(1_000_000, 500_000, 0)) == pytest.approx(2.0)


def test_json_is_read_as_well_and_needs_no_network(file: Path) -> None:
    assert KIND.needs_network is False
    file.write_text(json.dumps({"observed": "2026-01-01T00:00:00Z", "power": [{"product": "x", "steps": STEPS}]}))
    assert read(file)["x"].observed_s == 1_767_225_600.0


def test_a_relative_file_is_sought_in_the_working_directory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(json.dumps({"observed": "2026-01-01", "tokens": [SMALL]}))
    monkeypatch.chdir(file.parent)
    assert [one.product for one in feed(OfflineHttp(), Options(file=file.name), NOW_S) or ()] == ["p"]


def test_a_changed_file_is_seen_at_the_next_poll(file: Path) -> None:
    for product in ("a", "b"):
        file.write_text(json.dumps({"observed": "2026-01-01", "tokens": [{**SMALL, "product": product}]}))
        assert list(read(file)) == [product]


def test_a_list_of_today_is_not_from_the_future_east_of_greenwich(file: Path) -> None:
    file.write_text(json.dumps({"observed": "2026-09-22", "tokens": [SMALL]}))  # NOW_S is the 21st, 13:33 UTC
    assert read(file)["p"].observed_s == NOW_S
    assert "future" in refused(file, json.dumps({"observed": "2026-09-23", "tokens": [SMALL]}))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"observed": None}, "observed: must be a date"),
        ({"observed": "yesterday"}, "observed: must be a date"),
        ({"price": []}, "price: unknown field"),
        ({"tokens": []}, "lists nothing"),
        ({"tokens": [SMALL, SMALL]}, "product 'p' is there twice"),
        ({"tokens": [{"product": "p"}]}, "tokens[0].usd_per_mtok: Field required"),
        ({"tokens": [{**SMALL, "usd_per_mtok": {"input": 1.0}}]}, "tokens[0].usd_per_mtok.output: Field required"),
        ({"tokens": [{**SMALL, "usd_per_mtok": {**PRICES, "input": "2"}}]}, "tokens[0].usd_per_mtok.input: "),
        ({"tokens": [{**SMALL, "usd_per_mtok": {**PRICES, "input": -2.0}}]}, "tokens[0].usd_per_mtok.input: "),
        ({"tokens": [{**SMALL, "usd_per_mtok": {**PRICES, "input": True}}]}, "tokens[0].usd_per_mtok.input: "),
        ({"tokens": [{**SMALL, "service_tiers": {"gold": {}}}]}, "tokens[0].service_tiers.gold"),
        (
            {"tokens": [{**SMALL, "tiers": [{"input_tokens_above": 5, "usd_per_mtok": PRICES}] * 2}]},
            "tokens[0]: tiers must ascend",
        ),
        (
            {"tokens": [{**SMALL, "off_peak": [{"hours": "25:00-26:00", "usd_per_mtok": PRICES}]}]},
            "off_peak[0].hours: ",
        ),
        ({"tokens": [{**SMALL, "off_peak": [{"hours": "01:00-01:00", "usd_per_mtok": PRICES}]}]}, "off_peak[0]: hours"),
        ({"gpus": [{"product": "g", "usd_per_hour": 1.0}]}, "gpus[0].gpu: Field required"),
        ({"power": [{"product": "x", "steps": []}]}, "power[0].steps: "),
        ({"power": [{"product": "x", "steps": STEPS * 2}]}, "steps of 'x' must ascend"),
        ({"power": [{"product": "x", "steps": [{**STEPS[0], "end": "2025-01-01"}]}]}, "power[0].steps[0]: must end"),
        ({"power": [{"product": "x", "steps": [{**STEPS[0], "usd_per_kwh": "cheap"}]}]}, "steps[0].usd_per_kwh: "),
    ],
)
def test_a_fault_is_named_with_its_path(file: Path, change: dict[str, Any], problem: str) -> None:
    document: dict[str, Any] = {"observed": "2026-01-01", "tokens": [SMALL], **change}
    assert problem in refused(file, json.dumps(document))


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf", "1e999"])
def test_a_number_that_is_not_finite_is_no_price(file: Path, number: str) -> None:
    step = f"{{start: 2026-01-01, end: 2026-01-02, usd_per_kwh: {number}}}"
    assert "power[0].steps[0].usd_per_kwh" in refused(
        file, f"observed: 2026-01-01\npower: [{{product: x, steps: [{step}]}}]"
    )
    assert "tokens[0].usd_per_mtok.input" in refused(
        file, f"observed: 2026-01-01\ntokens: [{{product: x, usd_per_mtok: {{input: {number}, output: 1.0}}}}]"
    )


BOMB = "a: &a [1]\n" + "\n".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 10)}]" for i in range(9)
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "Input should be"),
        ("- 1", "Input should be"),
        ("{", "not YAML"),
        ("observed: 2026-13-01", "not YAML"),
        ("observed: 2026-01-01\nobserved: 2026-01-02", "is there twice"),
        ("!!python/object/apply:os.getcwd []", "not YAML"),
        ("[" * 5000, "not YAML"),
        (BOMB, "aliases are not allowed"),
        ("? [a]\n: 1", "not YAML"),
    ],
)
def test_something_that_is_no_list_is_refused(file: Path, text: str, problem: str) -> None:
    assert problem in refused(file, text)


def test_many_faults_make_a_short_text(file: Path) -> None:
    text = refused(file, json.dumps({"observed": "2026-01-01", "tokens": [{"x" * 500: 1}] * 100}))
    assert "more" in text
    assert len(text) < 1000


def test_a_file_that_cannot_be_read_is_unavailable(file: Path) -> None:
    with pytest.raises(FeedUnavailable, match="No such file"):
        read(file)
    with pytest.raises(FeedUnavailable):
        read(file.parent)
    os.mkfifo(file)  # which would otherwise block for ever
    with pytest.raises(FeedUnavailable, match="no regular file"):
        read(file)


def test_a_file_that_is_too_large_or_no_text_is_refused(file: Path) -> None:
    file.write_bytes(b" " * (BYTES_MAX + 1))
    with pytest.raises(FeedChanged, match="larger than"):
        read(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(FeedChanged, match="UTF-8"):
        read(file)
