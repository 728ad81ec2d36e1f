"""litellm's map as a feed, and what one of its entries means."""

from __future__ import annotations

import csv
import gzip
import json
import logging
import math
import subprocess
import sys
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.feeds import FeedChanged, FeedOffline, FeedUnavailable, litellm_map, options_of
from pricing.feeds.litellm_fields import CONTEXT_TOKENS_MAX
from pricing.feeds.litellm_hours import windows
from pricing.feeds.litellm_prices import NoPrice, token_price
from pricing.listing import Listing, TokenPrice
from scheduler.core.supply import Rate, Tier, Usage

ROOT = Path(__file__).resolve().parents[3]
SNAPSHOT = ROOT.parent / "shared" / "data" / "prices" / "llm_api_prices_snapshot.csv.gz"
NOW_S = 1_790_000_000.0
PLAIN = {"input_cost_per_token": 1e-6, "output_cost_per_token": 4e-6, "mode": "chat", "litellm_provider": "p"}


class Answers:
    """An ``Http`` that gives, or raises, what it was told to."""

    def __init__(self, answer: bytes | Exception | None) -> None:
        self.answer, self.asked = answer, list[str]()

    def get(
        self, url: str, params: dict[str, str] | None = None, headers: dict[str, str] | None = None, **_: Any
    ) -> bytes | None:
        self.asked.append(url)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def fetched(document: Any, **options: Any) -> list[Listing]:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    found = litellm_map.feed(Answers(body), litellm_map.Options(**options), NOW_S)
    assert found is not None
    return found


def bundled_price(name: str) -> TokenPrice | None:
    """The bundled map's price, None where it has none."""
    price = litellm_map.bundled(name)
    return price if isinstance(price, TokenPrice) else None


def price_of(**fields: Any) -> TokenPrice:
    price = token_price({**PLAIN, **fields})
    assert isinstance(price, TokenPrice), price
    return price


def refusal(entry: Any) -> NoPrice:
    price = token_price(entry)
    assert isinstance(price, NoPrice), price
    return price


def test_every_kind_of_token_has_its_own_price_and_what_has_none_is_part_of_another() -> None:
    assert price_of().rates == {"standard": Rate(1e-6, 1e-6, 4e-6)}
    full = price_of(
        cache_read_input_token_cost=1e-7,
        cache_creation_input_token_cost=1.25e-6,
        cache_creation_input_token_cost_above_1hr=2e-6,
        output_cost_per_reasoning_token=5e-6,
        input_cost_per_request=0.005,
        search_context_cost_per_query={"search_context_size_low": 0.1, "search_context_size_medium": 0.2},
    )
    assert full.rates["standard"] == Rate(1e-6, 1e-7, 4e-6, 0.005, (), 1.25e-6, 2e-6, 5e-6, 0.2)


def test_a_service_tier_is_for_sale_only_with_a_price_for_input_and_output() -> None:
    assert set(price_of(input_cost_per_token_flex=5e-7).rates) == {"standard"}
    price = price_of(
        cache_read_input_token_cost=1e-7,
        output_cost_per_reasoning_token=5e-6,
        input_cost_per_token_priority=2e-6,
        output_cost_per_token_priority=8e-6,
        input_cost_per_token_batches=5e-7,
        output_cost_per_token_batches=2e-6,
    )
    assert price.rates["priority"] == Rate(2e-6, 1e-7, 8e-6)  # cached at the standard price, reasoning as its output
    assert price.rates["batch"] == Rate(5e-7, 5e-7, 2e-6)
    assert set(price.rates) == {"standard", "priority", "batch"}


def test_prices_above_a_context_length_replace_those_below_for_every_service_tier() -> None:
    price = price_of(
        cache_creation_input_token_cost=1.25e-6,
        cache_creation_input_token_cost_above_1hr=2e-6,
        input_cost_per_token_above_200k_tokens=2e-6,
        output_cost_per_token_above_200k_tokens=6e-6,
        cache_creation_input_token_cost_above_1hr_above_200k_tokens=4e-6,
        input_cost_per_token_above_500_tokens=1.5e-6,
        input_cost_per_token_flex=5e-7,
        output_cost_per_token_flex=2e-6,
        input_cost_per_token_above_200k_tokens_flex=1e-6,
        input_cost_per_token_batches=5e-7,
        output_cost_per_token_batches=2e-6,
    )
    standard = (
        Tier(500, 1.5e-6, 1.5e-6, 4e-6, 1.25e-6, 2e-6),
        Tier(200_000, 2e-6, 2e-6, 6e-6, 1.25e-6, 4e-6),
    )
    assert price.rates["standard"].tiers == standard
    assert price.rates["flex"].tiers[1] == Tier(200_000, 1e-6, 1e-6, 6e-6, 1.25e-6, 4e-6)
    assert price.rates["batch"].tiers == standard  # none of its own: never the short context's lower price


def test_xai_bills_the_longer_context_from_its_length_on() -> None:
    tiered = {"input_cost_per_token_above_200k_tokens": 2e-6}
    assert price_of(**tiered).rates["standard"].usd(Usage(200_000, 0, 0)) == pytest.approx(0.2)
    assert price_of(**tiered, litellm_provider="xai").rates["standard"].usd(Usage(200_000, 0, 0)) == pytest.approx(0.4)


def test_a_bracket_prices_the_whole_request_and_brackets_have_to_adjoin() -> None:
    first = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6, "range": [0, 32e3]}
    second = {**first, "input_cost_per_token": 3e-6, "cache_read_input_token_cost": 1e-7, "range": [32e3, 1e6]}
    price = token_price({"mode": "chat", "tiered_pricing": [first, second]})
    assert isinstance(price, TokenPrice)
    assert price.rates == {"standard": Rate(1e-6, 1e-6, 2e-6, tiers=(Tier(32_000, 3e-6, 1e-7, 2e-6),))}
    for broken in (
        [second],
        [first, {**second, "range": [64e3, 1e6]}],
        [first, "x"],
        [],
        {},
        [{**first, "range": [0]}],
    ):
        assert refusal({"mode": "chat", "tiered_pricing": broken}).malformed, broken


def test_off_peak_hours_are_windows_of_the_utc_day_with_the_prices_that_the_block_names() -> None:
    block = {"input_cost_per_token": 5e-7, "hours_utc": "16:30-00:30"}
    price = price_of(off_peak_pricing=block, cache_read_input_token_cost=1e-7)
    assert [(w.start_s, w.end_s, w.days) for w in price.off_peak] == [(59_400, 86_400, ()), (0, 1_800, ())]
    assert price.off_peak[0].rates == {"standard": Rate(5e-7, 1e-7, 4e-6)}


def test_weekdays_of_another_calendar_are_cut_where_its_day_begins() -> None:
    rule = {"hours_utc": "10:00-20:00", "weekdays": ["Mon"]}
    found = list(windows({"weekday_timezone": "Asia/Shanghai", "windows": [rule]}))
    # Monday in Shanghai is from Sunday 16:00 to Monday 16:00 UTC.
    assert found == [(36_000, 57_600, (1,)), (57_600, 72_000, (7,))]


@pytest.mark.parametrize(
    "block",
    [
        {},
        {"hours_utc": "25:00-26:00"},
        {"hours_utc": 5},
        {"windows": [{"weekdays": [1]}]},
        {"windows": [{"hours_utc": "00:00-01:00", "weekdays": []}]},
        {"windows": [{"hours_utc": "00:00-01:00", "weekdays": [8]}]},
        {"windows": "always"},
        {"hours_utc": ["00:00-01:00"] * 101},
        {"hours_utc": "00:00-01:00", "weekday_timezone": "Europe/Berlin"},
        {"hours_utc": "00:00-01:00", "weekday_timezone": "../passwd"},
        {"hours_utc": "00:00-01:00", "input_cost_per_token": "cheap"},
        "at night",
    ],
)
def test_off_peak_hours_that_cannot_be_read_make_no_price_rather_than_the_dear_one(block: Any) -> None:
    assert refusal({**PLAIN, "off_peak_pricing": block}).malformed


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -1e-9, "1e-6", True, [], {}, 0.11, pytest.param(10**400, id="huge")]
)
@pytest.mark.parametrize("field", ["input_cost_per_token", "cache_read_input_token_cost_priority"])
def test_what_is_no_number_or_no_price_is_refused_and_the_field_named(field: str, value: Any) -> None:
    found = refusal({**PLAIN, field: value})
    assert found.malformed
    assert found.reason.startswith(field)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"input_cost_per_token": 1e-6, "mode": "chat"}, "the map has no price per token of output"),
        ({"output_cost_per_token": 1e-6, "mode": "embedding"}, "the map has no price per token of input"),
        ({"input_cost_per_second": 1e-3, "mode": "chat"}, "priced by second, not by token"),
        ({"input_cost_per_character": 1e-6, "output_cost_per_character": 1e-6}, "priced by character, not by token"),
        ({"ocr_cost_per_page": 0.004}, "priced by page, not by token"),
        (
            {"input_cost_per_token": 0, "output_cost_per_token": 0, "input_cost_per_query": 0.002},
            "priced by query; its tokens are only counted",
        ),
        ({}, "the map has no price per token of input and output"),
    ],
)
def test_an_entry_without_a_token_price_says_why(entry: dict[str, Any], reason: str) -> None:
    assert refusal(entry) == NoPrice(reason)


def test_zero_is_a_price_and_an_embedding_needs_none_for_output() -> None:
    assert price_of(input_cost_per_token=0, output_cost_per_token=0).rates == {"standard": Rate(0.0, 0.0, 0.0)}
    embedding = token_price({"input_cost_per_token": 1e-7, "mode": "embedding"})
    assert isinstance(embedding, TokenPrice)
    assert embedding.rates == {"standard": Rate(1e-7, 1e-7, 0.0)}


def test_a_deprecation_is_utc_midnight_and_a_date_that_cannot_be_read_takes_no_price_away() -> None:
    assert price_of(deprecation_date="2026-09-30").deprecated_s == datetime(2026, 9, 30, tzinfo=UTC).timestamp()
    assert [price_of(deprecation_date=d).deprecated_s for d in ("soon", "2026-02-30", 5, None)] == [None] * 4


fields = st.sampled_from(
    [
        f"{part}{above}{tier}"
        for part in ("input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost")
        for above in ("", "_above_1k_tokens", "_above_200k_tokens")
        for tier in ("", "_flex", "_priority", "_batches")
    ]
    + ["mode", "litellm_provider", "tiered_pricing", "off_peak_pricing", "deprecation_date", "input_cost_per_request"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.floats(0, 1e-3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fields | st.just("range"), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(fields, values, max_size=12), st.integers(0, 10**6), st.integers(0, 10**6))
def test_whatever_an_entry_holds_it_gives_a_reason_or_finite_prices(
    entry: dict[str, Any], read: int, wrote: int
) -> None:
    price = token_price(entry)
    if isinstance(price, NoPrice):
        assert price.reason
        return
    for rate in [*price.rates.values(), *(rate for window in price.off_peak for rate in window.rates.values())]:
        lengths = [tier.input_tokens_above for tier in rate.tiers]
        assert lengths == sorted(set(lengths))
        assert all(0 <= length <= CONTEXT_TOKENS_MAX for length in lengths)
        assert 0.0 <= rate.usd(Usage(read + wrote, read, 7, wrote)) < math.inf


def test_the_newest_map_is_asked_for_and_yields_what_was_wanted() -> None:
    http = Answers(json.dumps({"sample_spec": PLAIN, "a": PLAIN, "b": PLAIN, "c": {"mode": "ocr"}}).encode())
    found = litellm_map.feed(http, litellm_map.Options(models=("b", "unheard-of", "b")), NOW_S)
    assert found == [Listing("b", price_of(), NOW_S)]
    assert http.asked == [litellm_map.URL]
    assert [listing.product for listing in fetched({"sample_spec": PLAIN, "a": PLAIN, "b": PLAIN})] == ["a", "b"]


def test_a_map_that_has_not_changed_says_so_and_a_source_that_fails_is_not_papered_over() -> None:
    assert litellm_map.feed(Answers(None), litellm_map.Options(), NOW_S) is None
    with pytest.raises(FeedUnavailable, match="503"):
        litellm_map.feed(Answers(FeedUnavailable("503")), litellm_map.Options(), NOW_S)


@pytest.mark.parametrize("refresh", [True, False])
def test_without_a_network_the_bundled_map_answers(refresh: bool) -> None:
    http = Answers(FeedOffline("air-gapped"))
    found = litellm_map.feed(http, litellm_map.Options(refresh=refresh, models=("gpt-4o",)), NOW_S)
    assert found == [Listing("gpt-4o", bundled_price("gpt-4o"), NOW_S)]  # type: ignore[arg-type]
    assert bool(http.asked) is refresh


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"a": {"input_cost_per_token": 1e-6',
        b"<html>429</html>",
        b"\xff\xfe{}",
        b'{"a": ' + b"[" * 100_000,
        b"{}",
        b'{"a": [], "b": 3}',
        b'{"a": {"mode": "ocr"}}',
        b'{"a": {"input_cost_per_token": 1e999, "output_cost_per_token": 1}}',
        b'{"a": {"input_cost_per_token": "1e-6", "output_cost_per_token": "2e-6"}, "b": {"mode": "ocr"}, "c": 1}',
    ],
)
def test_an_answer_of_another_shape_is_a_change_of_the_source(body: bytes) -> None:
    with pytest.raises(FeedChanged) as caught:
        fetched(body)
    assert 0 < len(str(caught.value)) < 1_000


@pytest.mark.parametrize(
    "fields",
    [
        {f"input_cost_per_token_above_{n}_tokens": 1e-6 for n in range(1, 20_000)},
        {"tiered_pricing": [{"range": [n, n + 1], **PLAIN} for n in range(33)]},
        {"off_peak_pricing": {"hours_utc": [f"{n % 24:02}:{n % 60:02}-{n % 24:02}:59" for n in range(101)]}},
    ],
)
def test_an_entry_with_more_tiers_or_windows_than_anyone_sells_by_is_malformed(fields: dict[str, Any]) -> None:
    found = token_price({**PLAIN, **fields})
    assert isinstance(found, NoPrice)
    assert found.malformed
    assert "more than" in found.reason


def test_an_entry_of_many_context_lengths_is_a_price() -> None:
    price = price_of(**{f"input_cost_per_token_above_{n}_tokens": 1e-6 for n in range(1, 33)})
    assert len(price.rates["standard"].tiers) == 32


def test_one_bad_entry_does_not_spoil_the_others_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    map_ = {"a": PLAIN, "b\n": {**PLAIN, "input_cost_per_token": -1}, "c": PLAIN, "d" * 201: PLAIN}
    with caplog.at_level(logging.WARNING, "baseload.feeds"):
        found = fetched(map_)
    assert [listing.product for listing in found] == ["a", "c"]
    (record,) = caplog.records
    assert "2 of 4 entries left out" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_options_are_checked_by_name_and_shape() -> None:
    assert options_of(litellm_map.KIND, {"models": ["a"]}) == litellm_map.Options(models=("a",))
    for wrong in ({"url": "file:///etc/passwd"}, {"refresh": "yes"}, {"model": ["a"]}):
        with pytest.raises(ValueError, match=r"url|refresh|model"):
            options_of(litellm_map.KIND, wrong)


def test_the_bundled_map_is_the_installed_litellms_own_file() -> None:
    spec = find_spec("litellm")
    assert spec is not None
    assert spec.origin is not None
    file = Path(spec.origin).with_name("model_prices_and_context_window_backup.json")
    theirs = json.loads(file.read_text(encoding="utf-8"))
    assert set(litellm_map.bundled_entries()) == set(theirs) - {"sample_spec"}
    assert litellm_map.bundled("sample_spec").reason == "litellm's map does not know it"  # type: ignore[union-attr]
    flat = {n: e for n, e in theirs.items() if e.get("mode") == "chat" and e.get("output_cost_per_token") is not None}
    assert len(flat) > 2_500
    missing = [n for n, e in flat.items() if e.get("input_cost_per_token") and bundled_price(n) is None]
    assert missing == []
    distributions = [path.name for path in file.parents[1].glob("litellm-*.dist-info")]
    assert distributions == [f"litellm-{litellm_map.version()}.dist-info"]


def test_reading_the_bundled_map_neither_imports_litellm_nor_keeps_it_decoded() -> None:
    code = (
        "import sys, tracemalloc\n"
        "from pricing.feeds import litellm_map\n"
        "tracemalloc.start()\n"
        "assert litellm_map.bundled('gpt-4o').rates\n"
        "kept = tracemalloc.get_traced_memory()[0]\n"
        "file = sum(len(raw) for raw in map(bytes, litellm_map.bundled_entries().values()))\n"
        "sys.exit('litellm' in sys.modules or kept > 1.5 * file)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


@pytest.mark.evaluate
def test_the_bundled_map_agrees_with_the_snapshot_of_a_later_litellm_but_for_what_was_repriced_between() -> None:
    with gzip.open(SNAPSHOT, "rt", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["input_usd_mtok"] and row["output_usd_mtok"]]
    known = [(row, price) for row in rows if (price := bundled_price(row["model"])) is not None]
    differ = [row["model"] for row, price in known if not _same(row, price)]
    print(f"{len(known)} of {len(rows)} rows known, {len(differ)} differ: {differ}")
    assert len(known) > 0.9 * len(rows)
    assert len(differ) < 0.05 * len(known)


def _same(row: dict[str, str], price: TokenPrice) -> bool:
    rate, batch = price.rates["standard"], price.rates.get("batch")
    pairs = [(row["input_usd_mtok"], rate.usd_per_input), (row["output_usd_mtok"], rate.usd_per_output)]
    pairs += [
        (row["cache_read_usd_mtok"], rate.usd_per_cached),
        (row["cache_write_usd_mtok"], rate.usd_per_cache_write),
    ]
    if batch is not None:
        pairs += [
            (row["batch_input_usd_mtok"], batch.usd_per_input),
            (row["batch_output_usd_mtok"], batch.usd_per_output),
        ]
    return all(
        not text or (usd is not None and math.isclose(float(text), usd * 1e6, rel_tol=1e-6, abs_tol=1e-9))
        for text, usd in pairs
    )
