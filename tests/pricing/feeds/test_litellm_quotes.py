"""Our quotes against litellm's own cost calculator, over every chat model of its map that has a price.

The oracle is ``litellm.completion_cost`` of the installed litellm with its bundled map, as a user of litellm would call it
with the model's name. Models and service tiers on which we do not follow it are listed in docs/litellm-differences.md: every
one that is not listed there has to agree, and every one that is has to differ, so that the list cannot rot.
"""

from __future__ import annotations

import logging
import math
import os
import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from pricing.feeds import litellm_map
from pricing.listing import TokenPrice, Window
from scheduler.core.supply import Rate, Usage

ROOT = Path(__file__).resolve().parents[3]
LISTED = ROOT / "docs" / "litellm-differences.md"
RELATIVE = 1e-9
USAGES_MIN = 50_000
# A Wednesday at 08:00 UTC: off-peak nowhere in the map.
PEAK = datetime(2026, 7, 1, 8, tzinfo=UTC)
DAY_S = 86_400
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydantic")  # litellm's own types, as it imports them


@pytest.fixture(scope="module")
def litellm() -> Any:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm as module
    from litellm import _internal_context
    from litellm.litellm_core_utils.llm_cost_calc.tool_call_cost_tracking import StandardBuiltInToolCostTracking
    from litellm.llms import get_cost_for_web_search_request
    from litellm.types import utils

    module.suppress_debug_info = True
    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)
    return SimpleNamespace(
        types=utils,
        completion_cost=module.completion_cost,
        get_llm_provider=module.get_llm_provider,
        get_model_info=module.get_model_info,
        billed_at=_internal_context.pinned_billing_time,
        cost_of_search=get_cost_for_web_search_request,
        default_cost_of_search=StandardBuiltInToolCostTracking.get_cost_for_web_search,
        response=utils.ModelResponse(),
    )


def bundled_price(name: str) -> TokenPrice | None:
    """The bundled map's price, None where it has none."""
    price = litellm_map.bundled(name)
    return price if isinstance(price, TokenPrice) else None


@pytest.fixture(scope="module")
def entries() -> dict[str, dict[str, Any]]:
    """The bundled map's chat models that we have a price for."""
    decoded = {name: msgspec.json.decode(raw) for name, raw in litellm_map.bundled_entries().items()}
    chat = {name: entry for name, entry in decoded.items() if entry.get("mode") in ("chat", "responses", "completion")}
    return {name: entry for name, entry in chat.items() if bundled_price(name) is not None}


def listed() -> dict[str, set[str]]:
    """The documented differences: models by service tier."""
    found: dict[str, set[str]] = {}
    for section in re.split(r"^## ", LISTED.read_text(encoding="utf-8"), flags=re.MULTILINE):
        for tiers, names in re.findall(
            r"^Differ \(([a-z, ]+)\):\n+```text\n(.*?)```", section, re.MULTILINE | re.DOTALL
        ):
            for tier in tiers.split(", "):
                found.setdefault(tier, set()).update(names.split())
    return found


def usages(name: str, price: TokenPrice) -> Iterator[Usage]:
    """Seeded: short and long, on both sides of every context length, with caches, writes of both kinds and reasoning."""
    rng = random.Random(f"2026 {name}")
    lengths = {tier.input_tokens_above for rate in price.rates.values() for tier in rate.tiers}
    sizes = [1, rng.randint(2, 20_000), rng.randint(20_000, 127_000)]
    sizes += [size for length in lengths for size in (length, length + 1, length + 2, length + rng.randint(2, 50_000))]
    for tokens in sizes:
        cached = rng.randint(0, tokens)
        written = rng.randint(0, tokens - cached)
        written_long = rng.randint(0, tokens - cached - written)
        output = rng.randint(1, 8_000)
        reasoning = rng.randint(0, output)
        yield Usage(tokens, 0, output)
        yield Usage(tokens, cached, output)
        yield Usage(tokens, cached, output, written)
        yield Usage(tokens, 0, output, 0, 0, reasoning)
        yield Usage(tokens, cached, output, written, written_long, reasoning)


def reported(litellm: Any, usage: Usage) -> Any:
    """``usage`` as litellm would read it from a provider's answer."""
    types = litellm.types
    return types.Usage(
        prompt_tokens=usage.input_tokens,
        completion_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
        prompt_tokens_details=types.PromptTokensDetailsWrapper(
            cached_tokens=usage.cached_tokens,
            cache_creation_tokens=usage.cache_write_tokens + usage.cache_write_long_tokens,
            cache_creation_token_details=types.CacheCreationTokenDetails(
                ephemeral_5m_input_tokens=usage.cache_write_tokens,
                ephemeral_1h_input_tokens=usage.cache_write_long_tokens,
            ),
        ),
        completion_tokens_details=types.CompletionTokensDetailsWrapper(reasoning_tokens=usage.reasoning_tokens),
    )


def charged(litellm: Any, name: str, provider: str, usage: Any, service_tier: str) -> float:
    """USD that litellm charges for a chat completion, or for one of a batch."""
    litellm.response.usage, litellm.response.model = usage, name
    batch, standard = service_tier == "batch", service_tier == "standard"
    usd: float = litellm.completion_cost(
        completion_response=litellm.response,
        model=name,
        custom_llm_provider=provider,
        call_type="retrieve_batch" if batch else "completion",
        service_tier=None if batch or standard else service_tier,
    )
    return usd


def provider_of(litellm: Any, name: str, entry: dict[str, Any]) -> str:
    """The provider that litellm takes a name for, or the entry's own where litellm then knows no price."""
    own = str(entry["litellm_provider"])
    if name.startswith(f"{own}/"):  # and litellm's own look-up would ask some of them over the network
        return own
    try:
        provider = str(litellm.get_llm_provider(name)[1])
        charged(litellm, name, provider, reported(litellm, Usage(1, 0, 1)), "standard")
    except Exception:  # it raises a bare one
        return own
    return provider


def test_every_quote_equals_litellms_own_except_where_the_documented_list_says_that_it_differs(
    litellm: Any, entries: dict[str, dict[str, Any]]
) -> None:
    differ: dict[str, set[str]] = {"standard": set(), "flex": set(), "priority": set(), "batch": set()}
    examples: dict[tuple[str, str], str] = {}
    compared = 0
    with litellm.billed_at(PEAK):
        for name, entry in entries.items():
            price = bundled_price(name)
            assert price is not None
            provider = provider_of(litellm, name, entry)
            for usage in usages(name, price):
                usage_of_litellm = reported(litellm, usage)
                for service_tier, rate in price.rates.items():
                    theirs = charged(litellm, name, provider, usage_of_litellm, service_tier)
                    ours = rate.usd(usage)
                    compared += 1
                    if not math.isclose(ours, theirs, rel_tol=RELATIVE, abs_tol=1e-18):
                        differ[service_tier].add(name)
                        examples.setdefault((service_tier, name), f"{usage}: {ours} here, {theirs} there")
    documented = listed()
    for service_tier, names in differ.items():
        undocumented = names - documented.get(service_tier, set())
        assert not undocumented, [examples[service_tier, name] for name in sorted(undocumented)]
        agree = documented.get(service_tier, set()) - names
        assert not agree, f"listed as different, but equal for {service_tier}: {sorted(agree)}"
    assert compared > USAGES_MIN
    assert len(entries) > 2_500
    assert sum(len(names) for names in differ.values()) < 0.05 * len(entries)


def test_a_search_costs_what_litellm_charges_for_one(litellm: Any, entries: dict[str, dict[str, Any]]) -> None:
    compared = 0
    for name, entry in entries.items():
        price = bundled_price(name)
        assert price is not None
        ours = price.rates["standard"].usd_per_search
        if not ours:
            continue
        provider = provider_of(litellm, name, entry)
        plain, searched = (reported(litellm, Usage(10, 0, 10)) for _ in range(2))
        searched.server_tool_use = litellm.types.ServerToolUse(web_search_requests=1, browser_open_requests=0)
        searched.prompt_tokens_details.web_search_requests = 1
        info = litellm.get_model_info(name, custom_llm_provider=provider)
        if provider == "perplexity":  # billed by its calculator of tokens
            theirs = charged(litellm, name, provider, searched, "standard")
            theirs -= charged(litellm, name, provider, plain, "standard")
        else:
            theirs = litellm.cost_of_search(custom_llm_provider=provider, usage=searched, model_info=info)
            if theirs is None:
                theirs = litellm.default_cost_of_search(model_info=info)
        compared += 1
        assert ours == pytest.approx(theirs, rel=RELATIVE), name
    assert compared > 250


def holding(price: TokenPrice, at_s: int) -> Rate:
    """The standard rate at an instant, straight from what ``Window`` says of itself."""
    day, second = divmod(at_s, DAY_S)

    def holds(window: Window) -> bool:
        if window.start_s > window.end_s:
            started = day if second >= window.start_s else day - 1
            inside = second >= window.start_s or second < window.end_s
        else:
            started, inside = day, window.start_s <= second < window.end_s
        weekday = datetime.fromtimestamp(started * DAY_S, UTC).isoweekday()
        return inside and (not window.days or weekday in window.days)

    windows = (window for window in price.off_peak if holds(window))
    return next((window.rates["standard"] for window in windows), price.rates["standard"])


def test_off_peak_hours_begin_and_end_when_litellm_says_so(litellm: Any, entries: dict[str, dict[str, Any]]) -> None:
    names = [name for name, entry in entries.items() if "off_peak_pricing" in entry]
    assert len(names) >= 8
    rng = random.Random(7)
    monday_s = int(datetime(2026, 6, 29, tzinfo=UTC).timestamp())
    hours = [monday_s + hour * 3600 + step for hour in range(7 * 24) for step in (-1, 0)]
    instants = hours + [monday_s + rng.randrange(7 * DAY_S) for _ in range(50)]
    usage = Usage(12_000, 5_000, 900, 0, 0, 300)
    seen = set()
    for name in names:
        price = bundled_price(name)
        assert price is not None
        provider, theirs_of = provider_of(litellm, name, entries[name]), reported(litellm, usage)
        for at_s in instants:
            with litellm.billed_at(datetime.fromtimestamp(at_s, UTC)):
                theirs = charged(litellm, name, provider, theirs_of, "standard")
            assert holding(price, at_s).usd(usage) == pytest.approx(theirs, rel=RELATIVE), (name, at_s)
            seen.add((name, theirs))
    assert len(seen) == 2 * len(names)  # dear hours and cheap ones were both met
