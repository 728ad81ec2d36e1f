"""The price board: what has a price makes an offer, what has none makes none."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pricing import board
from pricing.feeds import litellm_map
from scheduler.config import ClusterConfig
from scheduler.core.supply import Rate, Usage
from tests.support.sites import provider, site

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


def test_litellms_map_read_as_data_agrees_with_litellms_own_file() -> None:
    entries = bundled()
    del entries["sample_spec"]
    assert len(entries) > 1_000
    known = 0
    for name, entry in entries.items():
        rate = litellm_map.rate(name)
        usd_input, usd_output = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
        if usd_output is None and entry.get("mode") in ("embedding", "rerank"):
            usd_output = 0.0
        if usd_input is None or usd_output is None:
            assert rate is None, name
            continue
        known += 1
        assert rate is not None, name
        cached = entry.get("cache_read_input_token_cost")
        expected = (usd_input, usd_input if cached is None else cached, usd_output)
        assert (rate.usd_per_input, rate.usd_per_cached, rate.usd_per_output) == expected, name
        bounds = [tier.input_tokens_above for tier in rate.tiers]
        assert bounds == sorted(set(bounds)), name
        assert math.isfinite(rate.usd(Usage(300_000, 100_000, 1_000))), name
        assert rate.usd(Usage(300_000, 100_000, 1_000)) >= 0.0, name
    assert known > 500


def test_long_prompts_are_charged_at_the_tier_that_litellms_map_names() -> None:
    entries = bundled()
    name = next(
        n for n, e in entries.items() if e.get("input_cost_per_token_above_200k_tokens") and litellm_map.rate(n)
    )
    entry, rate = entries[name], litellm_map.rate(name)
    assert rate is not None
    output = entry.get("output_cost_per_token_above_200k_tokens", entry["output_cost_per_token"])
    assert rate.usd(Usage(200_001, 0, 10)) == pytest.approx(
        200_001 * entry["input_cost_per_token_above_200k_tokens"] + 10 * output
    )
    assert rate.usd(Usage(200_000, 0, 10)) == pytest.approx(
        200_000 * entry["input_cost_per_token"] + 10 * entry["output_cost_per_token"]
    )


def test_the_example_row_of_the_map_is_no_model() -> None:
    assert litellm_map.rate("sample_spec") is None


def test_pricing_never_imports_litellm() -> None:
    code = (
        "import sys\n"
        "from pricing import board\n"
        "from pricing.feeds import litellm_map\n"
        "assert litellm_map.rate('gpt-4o') is not None\n"
        "sys.exit('litellm' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
