"""Each hard filter alone: where it lets pass, where it does not, and the reason it names."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.core import constraints
from scheduler.core.market import Load, OfferLoad
from scheduler.core.supply import Usage
from tests.support.markets import NO_USE, NOW_S, offer, request


def load_of(**fields: Any) -> Load:
    return Load({"pool/small": OfferLoad(**fields)}, {})


@pytest.mark.parametrize(
    ("zones", "reason"),
    [({"home"}, None), ({"home", "cloud"}, None), ({"cloud"}, "zone not allowed"), (set(), "zone not allowed")],
)
def test_only_named_zones_are_allowed_and_an_empty_set_allows_none(zones: set[str], reason: str | None) -> None:
    assert constraints.zone(request(zones=frozenset(zones)), offer(), NO_USE, NOW_S) == reason


@pytest.mark.parametrize(
    ("models", "reason"),
    [
        (None, None),
        (frozenset({"small", "x"}), None),
        (frozenset({"x"}), "model not asked for"),
        (frozenset(), "model not asked for"),
    ],
)
def test_the_model_must_be_one_of_those_asked_for_and_none_means_any(models: Any, reason: str | None) -> None:
    assert constraints.model(request(models=models), offer(), NO_USE, NOW_S) == reason


def test_every_missing_ability_is_named() -> None:
    asked = request(needs=frozenset({"tools", "chat", "images"}))
    assert constraints.abilities(asked, offer(abilities=frozenset({"chat"})), NO_USE, NOW_S) == "lacks images, tools"
    assert constraints.abilities(asked, offer(), NO_USE, NOW_S) is None


@pytest.mark.parametrize(
    ("read", "written", "reason"), [(60, 40, None), (60, 41, "context too long"), (101, 0, "context too long")]
)
def test_prompt_and_answer_together_must_fit_the_context(read: int, written: int, reason: str | None) -> None:
    asked = request(usage=Usage(read, 0, 999), output_tokens_asked=written)
    assert constraints.context(asked, offer(context_tokens=100), NO_USE, NOW_S) == reason


@pytest.mark.parametrize(
    ("expires_s", "reason"), [(NOW_S + 0.1, None), (NOW_S, "price expired"), (NOW_S - 1, "price expired")]
)
def test_a_price_ends_with_its_time_to_live(expires_s: float, reason: str | None) -> None:
    assert constraints.price_fresh(request(), offer(expires_s=expires_s), NO_USE, NOW_S) == reason


@pytest.mark.parametrize(("until_s", "reason"), [(0.0, None), (NOW_S, None), (NOW_S + 0.1, "cooling down")])
def test_an_offer_rests_until_its_cooldown_is_over(until_s: float, reason: str | None) -> None:
    assert constraints.health(request(), offer(), load_of(cooldown_until_s=until_s), NOW_S) == reason


def test_an_offer_that_the_market_holds_for_dead_is_down_without_any_cooldown() -> None:
    assert constraints.health(request(), offer(healthy=False), NO_USE, NOW_S) == "down"


@pytest.mark.parametrize(
    ("inflight", "recent", "reason"), [(1, 4, None), (2, 0, "concurrency limit"), (0, 5, "rate limit")]
)
def test_the_providers_own_limits_hold(inflight: int, recent: int, reason: str | None) -> None:
    limited = offer(inflight_max=2, requests_per_min_max=5)
    load = load_of(inflight=inflight, requests_last_min=recent)
    assert constraints.rate_limit(request(), limited, load, NOW_S) == reason


def test_limits_of_zero_are_no_limits() -> None:
    assert constraints.rate_limit(request(), offer(), load_of(inflight=999, requests_last_min=999), NOW_S) is None


@pytest.mark.parametrize("only", ["inflight_max", "requests_per_min_max"])
def test_one_limit_alone_is_enforced_and_the_other_stays_open(only: str) -> None:
    busy = load_of(inflight=3, requests_last_min=3)
    assert constraints.rate_limit(request(), offer(**{only: 3}), busy, NOW_S) is not None
    assert constraints.rate_limit(request(), offer(**{only: 4}), busy, NOW_S) is None
