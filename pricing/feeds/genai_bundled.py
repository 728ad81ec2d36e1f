"""The price list that is bundled with the installed genai-prices, in the shape of the one in its repository.

Importing the package costs 36 MB and half a second: this module is for processes that end afterwards.
"""

from __future__ import annotations

import dataclasses
from datetime import date, time
from decimal import Decimal
from typing import Any

import msgspec

from pricing.feeds import FeedUnavailable

_FIELDS = ("id", "prices", "price_variants")


def bundled() -> bytes:
    """The list as JSON. Raises FeedUnavailable where genai-prices is not installed."""
    try:
        from genai_prices.data import providers
    except ImportError:
        raise FeedUnavailable("genai-prices is not installed, and there is no network to fetch its list from") from None
    return msgspec.json.encode(
        [
            {"id": one.id, "models": [{name: _plain(getattr(model, name)) for name in _FIELDS} for model in one.models]}
            for one in providers
        ]
    )


def _plain(value: Any) -> Any:
    """Dataclasses and price objects as what they are in JSON; None is left out, as the repository does."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, date | time) or value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    # A ModelPrice keeps its prices as attributes, whichever keys its registry knows.
    names = (
        [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else list(vars(value))
    )
    return {name: _plain(item) for name in names if (item := getattr(value, name)) is not None}
