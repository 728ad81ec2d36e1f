"""Is a price to be believed? Bounds that no honest price crosses, and how far a new price is from the last good one.

A refused price is a lie or an error of units; a jump may be either, or the market: it waits until it is confirmed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from pricing.listing import CarbonIntensity, GpuPrice, PowerPrice, Price, ServiceTier, Step, TokenPrice, Window
from scheduler.core.supply import Rate, Tier

# The dearest tokens on sale in 2026 cost 600 USD per million: room for what is to come, none for a 1000-fold error.
USD_PER_TOKEN_MAX = 0.01
USD_PER_CALL_MAX = 100.0
USD_PER_GPU_HOUR_MAX = 200.0
# The European day-ahead auction is capped at 4,000 EUR/MWh and floored at -500 EUR/MWh (harmonised limits, ACER).
USD_PER_KWH_MIN, USD_PER_KWH_MAX = -1.0, 10.0
GRAMS_PER_KWH_MAX = 3000.0
STEPS_MAX = 10_000  # five-minute steps of a month
GPUS_MAX = 1024
TIER_TOKENS_MAX = 1_000_000_000
TEXT_MAX = 200
INSTANT_S_MAX = 1e11  # of Unix time, in the year 5138; the calendar ends soon after

_TOKEN_FIELDS = ("usd_per_input", "usd_per_cached", "usd_per_output")
# Billed at the price of what they are part of where they have none of their own, as in ``Rate.usd``; the order counts.
_PART_OF = {
    "usd_per_cache_write": "usd_per_input",
    "usd_per_cache_write_long": "usd_per_cache_write",
    "usd_per_reasoning": "usd_per_output",
}
_CALL_FIELDS = ("usd_per_request", "usd_per_search")


def implausible(price: Price) -> str | None:
    """Why ``price`` cannot be one, or None. Zero is possible for tokens (and a jump from anything else)."""
    if isinstance(price, TokenPrice):
        return _implausible_tokens(price)
    if isinstance(price, GpuPrice):
        if not 1 <= price.gpu_count <= GPUS_MAX:
            return f"not between 1 and {GPUS_MAX} GPUs"
        if not all(is_name(text or "-") for text in (price.gpu, price.provider, price.region, price.instance)):
            return "names that are none"
        usd = price.usd_per_hour / price.gpu_count
        return None if 0 < usd <= USD_PER_GPU_HOUR_MAX else f"{usd:g} USD per GPU-hour"
    if isinstance(price, PowerPrice):
        return _implausible_steps(price.steps, USD_PER_KWH_MIN, USD_PER_KWH_MAX, "USD per kWh")
    return _implausible_steps(price.steps, 0.0, GRAMS_PER_KWH_MAX, "g per kWh")


def _implausible_tokens(price: TokenPrice) -> str | None:
    if "standard" not in price.rates:
        return "no price for the standard service tier"
    tables = [price.rates, *(window.rates for window in price.off_peak)]
    for rates in tables:
        for rate in rates.values():
            above = [tier.input_tokens_above for tier in rate.tiers]
            if above != sorted(set(above)) or not all(1 <= tokens <= TIER_TOKENS_MAX for tokens in above):
                return "tiers that do not ascend"
            for name, usd in components(rate).items():
                most = USD_PER_CALL_MAX if name in _CALL_FIELDS else USD_PER_TOKEN_MAX
                if not 0 <= usd <= most:  # NaN fails this as well
                    return f"{name} is {usd:g}"
    for window in price.off_peak:
        if not (0 <= window.start_s < 86_400 and 0 <= window.end_s <= 86_400 and window.start_s != window.end_s):
            return f"off-peak hours from {window.start_s} s to {window.end_s} s of a day"
        if not all(1 <= day <= 7 for day in window.days):
            return "off-peak hours on a day that is none"
    if price.deprecated_s is not None and not 0 <= price.deprecated_s <= INSTANT_S_MAX:
        return f"an end at {price.deprecated_s:g}"
    return None


def is_name(text: str) -> bool:
    """Fit to be shown and recorded: not empty, not long, no control characters and no halves of surrogate pairs."""
    return 0 < len(text) <= TEXT_MAX and text.isprintable()


def _implausible_steps(steps: tuple[Step, ...], least: float, most: float, unit: str) -> str | None:
    if not steps or len(steps) > STEPS_MAX:
        return f"{len(steps)} steps"
    end_s = 0.0
    for step in steps:
        if not end_s <= step.start_s < step.end_s <= INSTANT_S_MAX:
            return f"steps that do not ascend at {step.start_s:g}"
        if not least <= step.value <= most:
            return f"{step.value:g} {unit}"
        end_s = step.end_s
    return None


def components(rate: Rate, above: Iterable[int] | None = None) -> dict[str, float]:
    """Every price in ``rate`` by name, what is billed as part of something else at that price.

    ``above``: the input lengths beyond which prices are wanted, the rate's own tiers where None.
    """
    found = {name: getattr(rate, name) for name in _CALL_FIELDS}
    places: list[tuple[str, Rate | Tier]] = [("", rate)]
    for tokens in [tier.input_tokens_above for tier in rate.tiers] if above is None else above:
        places.append((f" above {tokens}", _beyond(rate, tokens)))
    for suffix, place in places:
        for name in _TOKEN_FIELDS:
            found[name + suffix] = getattr(place, name)
        for name, whole in _PART_OF.items():
            usd = getattr(place, name)
            found[name + suffix] = found[whole + suffix] if usd is None else usd
    return found


def _beyond(rate: Rate, tokens: int) -> Rate | Tier:
    """What holds for inputs just longer than ``tokens``."""
    place: Rate | Tier = rate
    for tier in rate.tiers:
        if tier.input_tokens_above <= tokens:
            place = tier
    return place


def jump(old: Price, new: Price) -> float:
    """Largest factor by which a part of the price has changed, up or down; infinite to or from zero, 1 for none.

    A part is a kind of token in a service tier, above a context length, in its off-peak hours: a tier or a window that is
    new is compared with what held there before. Power and carbon have no jump: they swing by nature, and the bounds of
    ``implausible`` hold them.
    """
    if isinstance(old, TokenPrice) and isinstance(new, TokenPrice):
        return max((_ratio(a, b) for a, b in _pairs(old, new)), default=1.0)
    if isinstance(old, GpuPrice) and isinstance(new, GpuPrice):
        return _ratio(old.usd_per_hour / old.gpu_count, new.usd_per_hour / new.gpu_count)
    return 1.0 if type(old) is type(new) else math.inf


def is_free(price: Price) -> bool:
    """A service tier, or its off-peak hours, with all tokens for nothing: as often an error as a gift."""
    if not isinstance(price, TokenPrice):
        return False
    rates = [rate for table in (price.rates, *(w.rates for w in price.off_peak)) for rate in table.values()]
    return any(not any(usd for name, usd in components(rate).items() if name != "usd_per_search") for rate in rates)


def _pairs(old: TokenPrice, new: TokenPrice) -> Iterator[tuple[float, float]]:
    hours = {_hours(window) for window in (*old.off_peak, *new.off_peak)}
    tables = [(old.rates, new.rates), *((_rates_in(old, at), _rates_in(new, at)) for at in hours)]
    for before, after in tables:
        for tier in before.keys() & after.keys():
            above = {t.input_tokens_above for t in (*before[tier].tiers, *after[tier].tiers)}
            was, will = components(before[tier], above), components(after[tier], above)
            yield from ((was[name], will[name]) for name in was)


def _hours(window: Window) -> tuple[int, int, tuple[int, ...]]:
    return window.start_s, window.end_s, window.days


def _rates_in(price: TokenPrice, hours: tuple[int, int, tuple[int, ...]]) -> Mapping[ServiceTier, Rate]:
    """What holds in these hours: a window need not say what it leaves as it is."""
    return price.rates | next((window.rates for window in price.off_peak if _hours(window) == hours), {})


def _ratio(a: float, b: float) -> float:
    if a == b:
        return 1.0
    low, high = sorted((a, b))
    return high / low if low > 0 else math.inf


def merged(old: tuple[Step, ...], new: tuple[Step, ...]) -> tuple[Step, ...]:
    """``new`` steps, and of the old ones what lies before the first and after the last of them."""
    start_s, end_s = new[0].start_s, new[-1].end_s
    before = [step._replace(end_s=min(step.end_s, start_s)) for step in old if step.start_s < start_s]
    after = [step._replace(start_s=max(step.start_s, end_s)) for step in old if step.end_s > end_s]
    return (*before, *new, *after)


def revised(old: tuple[Step, ...], new: tuple[Step, ...]) -> tuple[Step, ...]:
    """The part of ``new`` that changes what ``old`` says: merging it alone says all that merging ``new`` does.

    From the first to the last step that differs; where steps are only gone, their neighbours, between which nothing is.
    """
    start_s, end_s = new[0].start_s, new[-1].end_s
    cut = [Step(max(s.start_s, start_s), min(s.end_s, end_s), s.value) for s in old]
    had = [step for step in cut if step.start_s < step.end_s]
    shorter, first, last = min(len(had), len(new)), 0, 0
    while first < shorter and had[first] == new[first]:
        first += 1
    if first == len(had) == len(new):
        return ()
    while last < shorter - first and had[-1 - last] == new[-1 - last]:
        last += 1
    low, high, gone = first, len(new) - last, had[first : len(had) - last]
    if low == high:
        return new[low - 1 : high + 1]
    before = bool(gone) and gone[0].start_s < new[low].start_s
    after = bool(gone) and gone[-1].end_s > new[high - 1].end_s
    return new[low - before : high + after]


def steps_of(price: Price) -> tuple[Step, ...] | None:
    """The steps of a price over time, None for prices of the moment."""
    return price.steps if isinstance(price, PowerPrice | CarbonIntensity) else None
