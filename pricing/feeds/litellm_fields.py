"""The fields of litellm's price map as numbers: ``<part>[_above_<context>_tokens][_<service tier>]``, USD per token."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pricing.feeds.reading import TIERS_MAX
from pricing.listing import ServiceTier

USD_PER_TOKEN_MAX = 0.1  # the dearest one that is published is 0.0006; from here up somebody has mistaken the unit
USD_PER_CALL_MAX = 100.0
CONTEXT_TOKENS_MAX = 10**9
SERVICE_TIERS: dict[str | None, ServiceTier] = {
    None: "standard",
    "flex": "flex",
    "priority": "priority",
    "batches": "batch",
}
_PARTS = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached",
    "cache_creation_input_token_cost_above_1hr": "write_long",
    "cache_creation_input_token_cost": "write",
    "output_cost_per_reasoning_token": "reasoning",
}
_FIELD = re.compile(rf"({'|'.join(_PARTS)})(?:_above_(\d{{1,9}})(k?)_tokens)?(?:_(flex|priority|batches))?")
_UNIT = re.compile(r"(?:(?:input|output|ocr|annotation)_)?cost_per_(?!token|reasoning)([a-z]+(?:_token)?).*")


class Malformed(ValueError):
    """A field holds something that no price is."""


class Parts(NamedTuple):
    """USD per token by kind of token, None where the entry has no price for it."""

    input: float | None = None
    output: float | None = None
    cached: float | None = None
    write: float | None = None
    write_long: float | None = None
    reasoning: float | None = None

    def over(self, below: Parts) -> Parts:
        """These prices, and ``below``'s where there are none."""
        return Parts(*(mine if mine is not None else other for mine, other in zip(self, below, strict=True)))


def table(fields: Mapping[str, Any]) -> dict[tuple[ServiceTier, int], Parts]:
    """Prices by service tier and context length above which they hold (0: from the first token). Raises Malformed."""
    found: dict[tuple[ServiceTier, int], dict[str, float]] = {}
    contexts: set[int] = set()
    for field, value in fields.items():
        match = _FIELD.fullmatch(field)
        if match is None or value is None:
            continue
        part, digits, k, suffix = match.groups()
        above = int(digits or 0) * (1000 if k else 1)
        if digits is not None and not 0 < above <= CONTEXT_TOKENS_MAX:
            raise Malformed(f"{field}: no context has this length")
        contexts.add(above)
        if len(contexts) > TIERS_MAX + 1:
            raise Malformed(f"more than {TIERS_MAX} context lengths")
        found.setdefault((SERVICE_TIERS[suffix], above), {})[_PARTS[part]] = number(field, value, USD_PER_TOKEN_MAX)
    return {key: Parts(**parts) for key, parts in found.items()}


def plain(fields: Mapping[str, Any]) -> Parts:
    """The standard prices from the first token."""
    return table(fields).get(("standard", 0), Parts())


def bracketed(entry: Mapping[str, Any]) -> bool:
    """Whether ``tiered_pricing`` prices tokens; that of a search engine goes by results."""
    tiers = entry.get("tiered_pricing")
    if not isinstance(tiers, list):
        return tiers is not None
    return not tiers or any(not isinstance(tier, dict) or "input_cost_per_token" in tier for tier in tiers)


def brackets(entry: Mapping[str, Any]) -> Iterator[tuple[int, Parts]]:
    """``tiered_pricing``, as (tokens above which it holds, prices): the bracket of the whole input prices every token.

    Brackets must adjoin from zero up (raises Malformed); beyond the last one its prices go on. Nothing is taken over from
    the bracket below.
    """
    tiers, flat, due = entry["tiered_pricing"], plain(entry), 0.0
    if not isinstance(tiers, list) or not tiers or not all(isinstance(tier, dict) for tier in tiers):
        raise Malformed("tiered_pricing is no list of objects")
    if len(tiers) > TIERS_MAX:
        raise Malformed(f"tiered_pricing: more than {TIERS_MAX} brackets")
    for tier in tiers:
        bounds = tier.get("range")
        if not isinstance(bounds, list) or len(bounds) != 2:
            raise Malformed("tiered_pricing: a bracket without a range of two numbers")
        start, end = (number("tiered_pricing: range", bound, CONTEXT_TOKENS_MAX) for bound in bounds)
        if start != due or end <= start or not end.is_integer():
            raise Malformed(f"tiered_pricing: a bracket from {start:g} to {end:g} where one from {due:g} up was due")
        due, parts = end, plain(tier)
        if parts.input is None:
            raise Malformed("tiered_pricing: a bracket without a price for input")
        if parts.output is None:
            parts = parts._replace(output=flat.output, reasoning=flat.reasoning)
        yield int(start), parts


def number(field: str, value: Any, most: float) -> float:
    """``value`` as a float. Raises Malformed unless it is a finite number from 0 to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Malformed(f"{field} is a {type(value).__name__}, no number")
    if not 0 <= value <= most:
        raise Malformed(
            f"{field} is {value:.6g}, not from 0 to {most:g}" if abs(value) < 1e300 else f"{field} is no price"
        )
    return float(value)


def other_unit(entry: Mapping[str, Any]) -> str:
    """The unit of the first price of an entry that is not per token, e.g. ``second``; empty where there is none."""
    for field, value in entry.items():
        match = _UNIT.fullmatch(field)
        if match and isinstance(value, int | float) and value:
            return match[1].replace("_", " ")
    return ""
