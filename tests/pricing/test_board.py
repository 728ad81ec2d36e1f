"""The price board: what has a price makes an offer, what has none makes none."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pricing import board
from pricing.book import Entry
from pricing.bought import GRACE_S
from pricing.desk import Sheet
from pricing.feeds import litellm_map
from pricing.listing import PowerPrice, Price, Step, TokenPrice, Window
from pricing.local_cost import Rent
from pricing.meter.slope import EnergyFit
from scheduler.config import ClusterConfig
from scheduler.core.supply import Offer, Rate, Usage
from tests.pricing import desk_cases
from tests.pricing.desk_cases import TTL_S
from tests.pricing.price_strategies import gpu, tokens
from tests.support.sites import pool, provider, site

NOW_S = 1_000.0


def priced(price: Any, upstream: str = "up", **policy: Any) -> board.Board:
    document = site(providers=[provider("cloud", price=price, upstream=upstream)])
    document["policy"] = policy
    return board.price(ClusterConfig.model_validate(document), NOW_S)


def bundled() -> dict[str, Any]:
    """litellm's own file, found and read another way."""
    spec = importlib.util.find_spec("litellm")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "model_prices_and_context_window_backup.json"
    entries: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return entries


def test_a_model_without_a_known_price_makes_no_offer_and_the_board_says_why() -> None:
    seen = priced("litellm", upstream="nobody/has-heard-of-this")
    assert [o.id for o in seen.offers] == ["own/small"]
    assert "nobody/has-heard-of-this" in seen.unpriced["cloud/large"]
    assert "cloud/large" not in seen.sources


def test_an_explicit_zero_is_a_price() -> None:
    seen = priced({"input": 0, "output": 0})
    assert {o.id: o.rate for o in seen.offers}["cloud/large"] == Rate(0.0, 0.0, 0.0, 0.0)
    assert seen.unpriced == {}


def test_prices_are_per_million_tokens_and_cached_input_without_a_price_costs_the_full_one() -> None:
    rates = {o.id: o.rate for o in priced({"input": 2.5, "output": 15, "usd_per_request": 0.01}).offers}
    assert rates["cloud/large"] == Rate(2.5e-6, 2.5e-6, 15e-6, 0.01)
    rates = {o.id: o.rate for o in priced({"input": 2.5, "cached": 0, "output": 15}).offers}
    assert rates["cloud/large"].usd_per_cached == 0.0


def test_every_offer_carries_its_zone_source_time_and_time_to_live() -> None:
    seen = priced({"input": 1, "output": 1}, price_ttl_s=60.0)
    assert {o.id: (o.kind, o.zone, o.as_of_s, o.expires_s) for o in seen.offers} == {
        "own/small": ("base", "home", NOW_S, NOW_S + 60.0),
        "cloud/large": ("api", "cloud", NOW_S, NOW_S + 60.0),
    }
    assert set(seen.sources) == {"own/small", "cloud/large"}


def test_the_amortized_cost_reaches_an_offer_only_as_the_floor_that_the_policy_asks_for() -> None:
    plain = priced({"input": 1, "output": 1})
    floored = priced({"input": 1, "output": 1}, local_floor="amortized")
    assert [o.floor for o in plain.offers] == [None, None]
    assert {o.id: o.floor for o in floored.offers} == {"own/small": floored.fixed["own/small"], "cloud/large": None}
    assert plain.fixed == floored.fixed


def test_an_adapter_is_an_offer_of_its_own_on_the_same_engines_with_its_own_quality() -> None:
    document = site(providers=[])
    quality = {"low": 0.1, "medium": 0.2, "high": 0.3}
    document["pools"][0]["engine"] = {
        "kind": "vllm",
        "path": "weights",
        "adapters": [{"model": "large", "path": "lora", "quality": quality}],
    }
    base, adapter = board.price(ClusterConfig.model_validate(document), NOW_S).offers
    assert (base.id, adapter.id) == ("own/small", "own/large")
    assert (adapter.quality.low, adapter.quality.medium, adapter.quality.high) == (0.1, 0.2, 0.3)
    assert (base.rate, base.curve) == (adapter.rate, adapter.curve)


def rate_of(name: str) -> Rate | None:
    """The bundled map's standard rate."""
    price = litellm_map.bundled(name)
    return price.rates["standard"] if isinstance(price, TokenPrice) else None


def test_long_prompts_are_charged_at_the_tier_that_litellms_map_names() -> None:
    entries = bundled()
    name = next(n for n, e in entries.items() if e.get("input_cost_per_token_above_200k_tokens") and rate_of(n))
    entry, rate = entries[name], rate_of(name)
    assert rate is not None
    output = entry.get("output_cost_per_token_above_200k_tokens", entry["output_cost_per_token"])
    assert rate.usd(Usage(200_001, 0, 10)) == pytest.approx(
        200_001 * entry["input_cost_per_token_above_200k_tokens"] + 10 * output
    )
    assert rate.usd(Usage(200_000, 0, 10)) == pytest.approx(
        200_000 * entry["input_cost_per_token"] + 10 * entry["output_cost_per_token"]
    )


def test_the_example_row_of_the_map_is_no_model() -> None:
    assert rate_of("sample_spec") is None


def test_pricing_never_imports_litellm() -> None:
    code = (
        "import sys\n"
        "from pricing import board\n"
        "from pricing.feeds import litellm_map\n"
        "assert litellm_map.bundled('gpt-4o').rates\n"
        "sys.exit('litellm' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


DAY_S = 86_400.0


def entry(feed: str, price: Price, age_s: float = 0.0, product: str = "m") -> Entry:
    return Entry(feed, product, price, desk_cases.NOW_S - age_s, desk_cases.NOW_S - age_s)


def on_board(*entries: Entry, now_s: float = desk_cases.NOW_S, **sections: Any) -> board.Board:
    return board.price(desk_cases.config(**sections), now_s, Sheet(now_s, list(entries)))


def offers(seen: board.Board) -> dict[str, Offer]:
    return {offer.id: offer for offer in seen.offers}


def test_a_feeds_price_is_as_old_as_it_was_last_seen_and_goes_with_its_own_time_to_live() -> None:
    listed = entry("a", tokens(2.0), age_s=1000.0)
    seen = on_board(listed)
    offer = offers(seen)["cloud/large"]
    assert (offer.as_of_s, offer.expires_s) == (desk_cases.NOW_S - 1000.0, desk_cases.NOW_S - 1000.0 + TTL_S)
    assert (offer.rate, seen.sources["cloud/large"]) == (tokens(2.0).rates["standard"], "a: m")
    late = on_board(listed, now_s=offer.expires_s)
    assert "cloud/large" not in offers(late)
    assert "last seen 1.0 h ago" in late.unpriced["cloud/large"]
    assert set(late.sources) == set(offers(late)) == {"own/small", "rented/small"}


def test_without_any_feed_heard_of_nothing_bought_is_on_the_market_and_all_of_it_is_said() -> None:
    seen = on_board()
    assert seen.unpriced == {
        "cloud/large": "a: m: not heard of yet; b: m: not heard of yet",
        "other/small": "alone: m: not heard of yet",
    }


def test_off_peak_hours_are_in_force_to_the_second_and_the_offer_expires_with_them() -> None:
    cheap = Rate(1e-7, 1e-7, 1e-7)
    price = tokens(2.0, off_peak=(Window(79_200, 21_600, {"standard": cheap}),))
    day_s = desk_cases.NOW_S // DAY_S * DAY_S
    for second, expected, ends in [(79_199, False, 79_200), (79_200, True, 108_000), (108_000, False, 165_600)]:
        now_s = day_s + second
        seen = on_board(Entry("a", "m", price, now_s, now_s), now_s=now_s)
        offer = offers(seen)["cloud/large"]
        assert offer.rate == (cheap if expected else price.rates["standard"])
        assert seen.off_peak == (frozenset({"cloud/large"}) if expected else frozenset())
        assert offer.expires_s == min(now_s + TTL_S, day_s + ends + GRACE_S)


def test_the_service_tier_asked_for_is_the_one_that_is_paid_for() -> None:
    flex = Rate(1e-6, 1e-6, 2e-6)
    price = TokenPrice({**tokens(2.0).rates, "flex": flex})
    for tier, rate in (("standard", price.rates["standard"]), ("flex", flex), ("priority", None)):
        bought = [provider("cloud", price=desk_cases.listed("a"), service_tier=tier)]
        seen = on_board(entry("a", price), providers=bought)
        if rate is None:
            assert "no price for the service tier 'priority'" in seen.unpriced["cloud/large"]
        else:
            assert offers(seen)["cloud/large"].rate == rate


def test_a_model_leaves_the_market_when_its_provider_ends_it() -> None:
    end_s = desk_cases.NOW_S + 60.0
    ending = entry("a", tokens(2.0, deprecated_s=end_s))
    assert offers(on_board(ending))["cloud/large"].expires_s == end_s + GRACE_S
    assert "has ended this model" in on_board(ending, now_s=end_s).unpriced["cloud/large"]


def day_ahead(**market: Any) -> list[dict[str, Any]]:
    power = {"feed": "a", "product": "power", "surcharge_usd_per_kwh": 0.1, **market}
    return [{"name": "here", "zone": "home", "electricity": {"day_ahead": power, "pue": 1.2}}]


def test_power_of_the_day_ahead_market_prices_the_energy_of_the_hour_and_expires_with_it() -> None:
    hour_s = desk_cases.NOW_S // 3600.0 * 3600.0
    steps = PowerPrice((Step(hour_s, hour_s + 3600.0, 0.05), Step(hour_s + 3600.0, hour_s + 7200.0, -0.3)))
    known = Entry("a", "power", steps, hour_s, hour_s)
    for now_s, usd_per_kwh in ((desk_cases.NOW_S, 0.15), (hour_s + 3600.0, 0.0)):  # below zero counts as nothing
        known = msgspec.structs.replace(known, observed_s=now_s)
        seen = on_board(known, now_s=now_s, sites=day_ahead(), providers=[])
        rate = offers(seen)["own/small"].rate
        assert rate.usd_per_output == pytest.approx(0.1 * 1.2 * usd_per_kwh / 3.6e6)
        assert offers(seen)["own/small"].expires_s == min(now_s + 86_400.0, now_s // 3600 * 3600 + 3600.0 + GRACE_S)
        assert "day-ahead a/power" in seen.sources["own/small"]


def test_a_site_without_a_power_price_has_no_pools_on_the_market_unless_a_fallback_is_declared() -> None:
    silent = on_board(sites=day_ahead(), providers=[])
    assert silent.offers == ()
    assert set(silent.unpriced) == {"own/small", "rented/small"}
    assert "no power price for site here" in silent.unpriced["own/small"]
    fallback = on_board(sites=day_ahead(fallback_usd_per_kwh=0.4), providers=[])
    assert offers(fallback)["own/small"].rate.usd_per_output == pytest.approx(0.1 * 1.2 * 0.4 / 3.6e6)
    assert "fallback: feed a silent" in fallback.sources["own/small"]


def test_rent_is_what_it_effectively_costs_and_the_second_source_stands_in_for_the_first() -> None:
    rented = desk_cases.rented(
        listed=[*desk_cases.listed("a", product="gpu"), *desk_cases.listed("b", product="gpu")],
        availability=0.8,
        interruptions_per_hour=0.5,
        usd_lost_per_interruption=0.2,
    )
    sections = {"pools": [rented], "providers": []}
    dear, cheap = entry("a", gpu(16.0, 8), product="gpu"), entry("b", gpu(4.0), product="gpu")
    seen = on_board(dear, cheap, **sections)
    assert rent_of(seen) == (pytest.approx(16.0 / 0.8 + 0.1), "H100", 8.0)
    assert offers(seen)["rented/small"].kind == "spot"
    assert seen.fixed["rented/small"].usd_per_hour == pytest.approx(20.1)
    late = on_board(msgspec.structs.replace(dear, observed_s=desk_cases.NOW_S - TTL_S), cheap, **sections)
    assert rent_of(late) == (pytest.approx(4.0 / 0.8 + 0.1), "H100", 1.0)


def rent_of(seen: board.Board) -> tuple[float, str, float]:
    rent = seen.pools["rented"].rent
    assert isinstance(rent, Rent)
    return rent.usd_per_hour, rent.gpu, rent.gpu_count


def test_without_a_known_rent_a_pool_is_dispatched_but_has_no_amortized_cost_and_under_a_floor_no_offer() -> None:
    seen = on_board(providers=[])
    assert "rented/small" in offers(seen)
    assert "rented/small" not in seen.fixed
    floored = on_board(providers=[], policy={"local_floor": "amortized"})
    assert "no rent to make the floor of: a: gpu: not heard of yet" in floored.unpriced["rented/small"]
    assert offers(floored)["own/small"].floor == floored.fixed["own/small"]
    priced = on_board(entry("a", gpu(2.0), product="gpu"), providers=[], policy={"local_floor": "amortized"})
    assert offers(priced)["rented/small"].floor == priced.fixed["rented/small"]


def test_a_measured_slope_replaces_the_declared_one_unless_the_file_says_that_it_must_not() -> None:
    fit = EnergyFit(50.0, 0.02, 0.4, 0.99, 40, "measured", desk_cases.NOW_S - 30.0)
    for live in (True, False):
        energy = {"joules_per_input_token": 0.01, "joules_per_output_token": 0.1, "label": "modelled", "live": live}
        config = desk_cases.config(pools=[pool("own", energy=energy)], providers=[])
        seen = board.price(config, desk_cases.NOW_S, fits={"own": fit})
        joules = 0.4 if live else 0.1
        assert offers(seen)["own/small"].rate.usd_per_output == pytest.approx(joules * 1.2 * 0.3 / 3.6e6)
        assert ("measured" if live else "modelled") in seen.sources["own/small"]
        assert seen.pools["own"].energy.at_s == (fit.at_s if live else None)


def test_a_product_of_the_wrong_kind_is_no_price() -> None:
    seen = on_board(entry("a", gpu(2.0)), entry("a", tokens(1.0), product="gpu"), sites=day_ahead(product="gpu"))
    assert seen.offers == ()
    assert "a: m: no price of tokens" in seen.unpriced["cloud/large"]
    rented = on_board(entry("a", tokens(1.0), product="gpu"), policy={"local_floor": "amortized"})
    assert "a: gpu: no price of GPUs" in rented.unpriced["rented/small"]


def test_a_power_price_is_believed_no_longer_than_its_feed_is(ttl_s: float = desk_cases.TTL_S) -> None:
    hour_s = desk_cases.NOW_S // 3600.0 * 3600.0
    day = PowerPrice(tuple(Step(hour_s + 3600.0 * i, hour_s + 3600.0 * (i + 1), 0.05) for i in range(24)))
    known = Entry("a", "power", day, hour_s, hour_s)
    fresh = on_board(known, now_s=hour_s + ttl_s - 1.0, sites=day_ahead(), providers=[])
    assert offers(fresh)["own/small"].as_of_s == hour_s
    assert offers(fresh)["own/small"].expires_s <= hour_s + ttl_s + GRACE_S
    assert on_board(known, now_s=hour_s + ttl_s, sites=day_ahead(), providers=[]).offers == ()
