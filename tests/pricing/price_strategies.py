"""Prices to draw from: believable ones, lies of every kind, and series on a grid that an oracle can read slot by slot."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

from pricing.listing import GpuPrice, PowerPrice, Price, ServiceTier, Step, TokenPrice, Window
from scheduler.core.supply import Rate, Tier

SLOT_S = 900.0


def tokens(usd_per_mtok: float, output: float | None = None, **fields: Any) -> TokenPrice:
    """A price of tokens: input and cached alike, output at thrice that."""
    usd = usd_per_mtok / 1e6
    return TokenPrice({"standard": Rate(usd, usd, (3.0 * usd) if output is None else output / 1e6)}, **fields)


def gpu(usd_per_hour: float, count: int = 1) -> GpuPrice:
    """A rented instance."""
    return GpuPrice(usd_per_hour, "H100", count, "cloud", "here")


def power(slots: list[float | None], start_s: float = 0.0) -> PowerPrice:
    """A quarter of an hour a value; None is a gap."""
    return PowerPrice(steps_of(slots, start_s))


def steps_of(slots: list[float | None], start_s: float = 0.0) -> tuple[Step, ...]:
    """One step a value."""
    at = [start_s + i * SLOT_S for i in range(len(slots) + 1)]
    return tuple(Step(at[i], at[i + 1], value) for i, value in enumerate(slots) if value is not None)


def value_at(steps: tuple[Step, ...], at_s: float) -> float | None:
    """What a series says of an instant, by looking at every step."""
    held = [step.value for step in steps if step.start_s <= at_s < step.end_s]
    assert len(held) <= 1
    return held[0] if held else None


usd = st.sampled_from([0.0, 4e-12, 1e-7, 2.5e-7, 1e-6, 2e-6, 3e-6, 7e-6, 5e-5, 3e-4])
optional_usd = st.none() | usd


@st.composite
def rates(draw: st.DrawFn) -> Rate:
    """A believable rate, with up to two tiers."""
    above = sorted(draw(st.sets(st.sampled_from([1_000, 32_000, 128_000, 200_000]), max_size=2)))
    tiers = tuple(Tier(n, *(draw(usd) for _ in range(3)), *(draw(optional_usd) for _ in range(3))) for n in above)
    return Rate(draw(usd), draw(usd), draw(usd), draw(usd) * 1000, tiers, *(draw(optional_usd) for _ in range(3)))


service_tiers: st.SearchStrategy[ServiceTier] = st.sampled_from(["flex", "priority", "batch"])


def tables() -> st.SearchStrategy[dict[ServiceTier, Rate]]:
    """Rates by service tier, standard among them."""
    others = st.dictionaries(service_tiers, rates(), max_size=2)
    return st.builds(lambda rate, more: {"standard": rate, **more}, rates(), others)


hours_s = st.integers(0, 23).map(lambda hour: hour * 3600)
windows = st.builds(Window, hours_s, hours_s.map(lambda s: s + 1800), tables(), st.sampled_from([(), (1, 2), (7,)]))
token_prices = st.builds(TokenPrice, tables(), st.lists(windows, max_size=2).map(tuple))
plain_prices = st.sampled_from([0.0, 0.9, 1.0, 1.5, 2.5, 4.0, 4.3, 9.0, 28.0, 100.0, 600.0]).map(tokens)

LIES: list[Price] = [
    tokens(-1.0),
    tokens(math.nan),
    tokens(math.inf),
    tokens(1e6),
    tokens(2001.0, output=1.0),
    tokens(1.0, output=-0.1),
    tokens(1.0, deprecated_s=math.nan),
    TokenPrice({}),
    TokenPrice({"batch": Rate(1e-6, 1e-6, 1e-6)}),
    gpu(-1.0),
    gpu(2.0, 0),
    power([0.1, 1000.0]),
    PowerPrice((Step(0.0, 26 * 3600.0, 0.1),)),
    power([]),
]
lies = st.sampled_from(LIES)
slot_values = st.none() | st.sampled_from([-0.1, 0.0, 0.08, 0.2])
slot_lists = st.lists(slot_values, min_size=1, max_size=12).filter(lambda slots: any(v is not None for v in slots))
