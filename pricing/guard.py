"""Is a price to be believed? Bounds that no honest price crosses, and how far a new price is from the last good one.

A refused price is a lie or an error of units; a jump may be either, or the market: it waits until it is confirmed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from pricing.listing import GpuPrice, PowerPrice, Price, ServiceTier, Step, TokenPrice, Window
from scheduler.core.supply import Rate, Tier

# The dearest tokens on sale in 2026 cost 600 USD per million; no honest price is a thousand times a usual one.
USD_PER_TOKEN_MAX = 0.002
# A hundred-thousandth of a USD per million tokens: below it a price is a gift, or an error of units.
USD_PER_TOKEN_FREE = 1e-11
USD_PER_CALL_USUAL = 0.05
TIERS_MAX = 32
WINDOWS_MAX = 100
STEP_S_MAX = 25 * 3600.0  # the longest day of a change of clocks
USD_PER_CALL_MAX = 2.0
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
    if len(price.off_peak) > WINDOWS_MAX:
        return f"{len(price.off_peak)} off-peak windows"
    if "standard" not in price.rates:
        return "no price for the standard service tier"
    tables = [price.rates, *(window.rates for window in price.off_peak)]
    for rates in tables:
        for rate in rates.values():
            above = [tier.input_tokens_above for tier in rate.tiers]
            if len(above) > TIERS_MAX:
                return f"{len(above)} context tiers"
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
        if step.end_s - step.start_s > STEP_S_MAX:
            return f"one price for {(step.end_s - step.start_s) / 3600.0:.0f} hours"
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

    A part is a kind of token in a service tier, above a context length, in its off-peak hours: a context tier or a window
    that is new is compared with what held there before, a service tier that is new with the standard one. A fee of a
    usual size that comes or goes counts as one usual fee. Other GPUs under the same name are another product: infinite.
    Power and carbon have no jump: they swing by nature, and the bounds of ``implausible`` hold them.
    """
    if isinstance(old, TokenPrice) and isinstance(new, TokenPrice):
        return max((_change(name, a, b) for _, name, a, b in _parts(old, new)), default=1.0)
    if isinstance(old, GpuPrice) and isinstance(new, GpuPrice):
        same = all(getattr(old, name) == getattr(new, name) for name in ("gpu", "gpu_count", "spot", "region"))
        return _ratio(old.usd_per_hour, new.usd_per_hour) if same else math.inf
    return 1.0 if type(old) is type(new) else math.inf


def agree(price: Price, other: Price, ratio_max: float) -> bool:
    """Two sources say the same of what is mostly bought: input, cached and output of the standard tier, at every length.

    Lists differ in what else they know (fees, batches, cache writes): that is no reason to doubt either.
    """
    if isinstance(price, TokenPrice) and isinstance(other, TokenPrice):
        here, there = price.rates["standard"], other.rates["standard"]
        above = {tier.input_tokens_above for rate in (here, there) for tier in rate.tiers}
        mine, theirs = components(here, above), components(there, above)
        names = [name for name in mine if name.startswith(_TOKEN_FIELDS)]
        return max(_ratio(mine[name], theirs[name]) for name in names) <= ratio_max
    if isinstance(price, GpuPrice) and isinstance(other, GpuPrice):
        # Feeds spell regions and instances in their own ways: a GPU-hour is what they can both mean.
        return _ratio(price.usd_per_hour / price.gpu_count, other.usd_per_hour / other.gpu_count) <= ratio_max
    return jump(price, other) <= ratio_max


def unvouched(old: Price | None, new: Price) -> float:
    """The jump in what ``agree`` does not compare, where another source's word says nothing.

    A part that has moved with the standard input price has not moved by itself. At first sight a service tier is compared
    with the standard one.
    """
    if not isinstance(new, TokenPrice):
        is_other = isinstance(old, GpuPrice) and jump(old, new) == math.inf
        return math.inf if is_other else 1.0
    standard = new.rates["standard"]
    before = old if isinstance(old, TokenPrice) else TokenPrice({"standard": standard})
    was = before.rates["standard"].usd_per_input
    scale = standard.usd_per_input / was if was > 0.0 else 1.0
    return max(
        (
            min(_change(name, a, b), _ratio(a * scale, b))
            for tier, name, a, b in _parts(before, new)
            if not (tier == "standard" and name.startswith(_TOKEN_FIELDS))
        ),
        default=1.0,
    )


def _change(name: str, old: float, new: float) -> float:
    if name in _CALL_FIELDS and not (old and new) and max(old, new) <= USD_PER_CALL_USUAL:
        return 1.0
    return _ratio(old, new)


def is_free(price: Price) -> bool:
    """A service tier, or its off-peak hours, with all tokens for nothing: as often an error as a gift."""
    if not isinstance(price, TokenPrice):
        return False
    rates = [rate for table in (price.rates, *(w.rates for w in price.off_peak)) for rate in table.values()]
    return any(
        max(usd for name, usd in components(rate).items() if name != "usd_per_search") <= USD_PER_TOKEN_FREE
        for rate in rates
    )


def _parts(old: TokenPrice, new: TokenPrice) -> Iterator[tuple[str, str, float, float]]:
    """Service tier, name, old and new price of every part."""
    hours = {_hours(window) for window in (*old.off_peak, *new.off_peak)}
    tables = [(old.rates, new.rates), *((_rates_in(old, at), _rates_in(new, at)) for at in hours)]
    for before, after in tables:
        for tier, rate in after.items():
            was_rate = before.get(tier, after.get("standard", rate))
            above = {t.input_tokens_above for t in (*was_rate.tiers, *rate.tiers)}
            was, will = components(was_rate, above), components(rate, above)
            yield from ((tier, name, was[name], will[name]) for name in was)


def _hours(window: Window) -> tuple[int, int, tuple[int, ...]]:
    return window.start_s, window.end_s, window.days


def _rates_in(price: TokenPrice, hours: tuple[int, int, tuple[int, ...]]) -> Mapping[ServiceTier, Rate]:
    """What holds in these hours: a window need not say what it leaves as it is."""
    return price.rates | next((window.rates for window in price.off_peak if _hours(window) == hours), {})


def _ratio(a: float, b: float) -> float:
    low, high = sorted((a, b))
    if low == high or high <= USD_PER_TOKEN_FREE:
        return 1.0
    return high / low if low > USD_PER_TOKEN_FREE else math.inf
