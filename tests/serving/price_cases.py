"""Price reports and histories to show: a plausible site, and strategies for reports with names that attack."""

from __future__ import annotations

import math
import random

from hypothesis import strategies as st

from pricing.report import (
    FeedState,
    Incident,
    LocalCost,
    MtokPrice,
    OfferPrice,
    OtherSource,
    PriceReport,
    RentPrice,
    TierPrice,
    Unpriced,
)
from serving.price_report.history import Mark, PriceHistoryView, Series

NOW_S = 1_773_000_000.0  # 8 March 2026, 20:00 UTC
HOUR_S, DAY_S = 3600.0, 86_400.0
HOSTILE = (
    "[red]x[/]",
    "\x1b[2J\x1b]0;owned\x07",
    "<script>alert(1)</script>",
    '"><img src=http://evil.example/x onerror=alert(1)>',
    "--></svg><script>",
    "$\\frac{1}{$",
    "\u202egnp.exe",
    "模型🙂",
    "a" * 5000,
    "]]>&amp;\x00\ud800",
)


def mtok(input_usd: float, output_usd: float, cached: float | None = None) -> MtokPrice:
    """A price with the usual blend."""
    return MtokPrice(input_usd, output_usd, 0.75 * input_usd + 0.25 * output_usd, cached)


def offer(name: str, price: MtokPrice, **changes: object) -> OfferPrice:
    """An offer of an API that was seen 20 s ago and holds for a day."""
    fields: dict[str, object] = {
        "kind": "api",
        "model": name.rpartition("/")[2] or "m",
        "zone": "us-cloud",
        "source": "openrouter",
        "label": "listed",
        "observed_s": NOW_S - 20,
        "expires_s": NOW_S + DAY_S,
    }
    return OfferPrice(offer=name, usd_per_mtok=price, **{**fields, **changes})  # type: ignore[arg-type]


def local(pool: str, **changes: object) -> LocalCost:
    """A pool of H100s at half use."""
    fields: dict[str, object] = {
        "site": "rhine",
        "zone": "on-prem-eu",
        "gpu": "H100 SXM",
        "gpus": 8.0,
        "replicas": 2,
        "usd_per_gpu_hour": {
            "capital": 0.78,
            "maintenance": 0.23,
            "staff": 0.11,
            "rack": 0.04,
            "network": 0.02,
            "power": 0.15,
        },
        "bases": {
            "allocation": mtok(0.31, 1.25, 0.0),
            "usage": mtok(0.13, 0.52, 0.0),
            "avoidable": mtok(0.004, 0.031, 0.0),
        },
        "utilization": 0.42,
        "utilization_standard": 0.5,
        "standard_usd_per_mtok": mtok(0.26, 1.05),
        "input_share": 0.83,
        "tokens_per_hour": 31_200_000.0,
        "window_s": HOUR_S,
        "watts": 3650.0,
        "power_label": "measured",
        "power_at_s": NOW_S - 5,
        "usd_per_kwh": 0.184,
        "tariff": "day-ahead DE-LU plus 0.09",
        "pue": 1.25,
        "grams_co2_per_kwh": 312.0,
        "grams_co2_per_mtok": 22.5,
        "break_even_utilization": 0.21,
        "break_even_against": "frontier",
    }
    return LocalCost(pool=pool, **{**fields, **changes})  # type: ignore[arg-type]


def plausible() -> PriceReport:
    """Two pools, spot capacity, some APIs, and a few things that went wrong."""
    flagship = offer(
        "frontier/gpt-flagship",
        MtokPrice(2.5, 15.0, 5.625, 0.25, 3.125),
        tiers=(TierPrice(200_000, mtok(5.0, 22.5, 0.5)),),
        others=(
            OtherSource("litellm", 4.1, 0.73, False, "cached input"),
            OtherSource("genai-prices", 5.625, 1.0, True),
        ),
        usd_per_search=0.01,
        batch_usd_per_mtok=mtok(1.25, 7.5),
    )
    offers = (
        flagship,
        offer("frontier/gpt-small", mtok(0.15, 0.6, 0.075), observed_s=NOW_S - 3 * HOUR_S, expires_s=NOW_S + 600),
        offer("openrouter/deepseek/deepseek-chat", mtok(0.27, 1.1, 0.07), off_peak=True, zone="cn-cloud"),
        offer("openrouter/meta-llama/llama-3.3-70b-instruct", mtok(0.12, 0.3), deprecated_s=NOW_S + 20 * DAY_S),
        offer("bedrock/claude-large", mtok(15.0, 75.0, 1.5), source="bedrock", service_tier="priority"),
        offer("rhine-70b", mtok(0.004, 0.031, 0.0), kind="base", zone="on-prem-eu", source="meter", label="measured"),
        offer(
            "rhine-8b", mtok(0.0003, 0.0021, 0.0), kind="base", zone="on-prem-eu", source="profile", label="modelled"
        ),
        offer("spot-32b", mtok(0.02, 0.11, 0.0), kind="spot", zone="eu-cloud", source="profile", label="calibrated"),
    )
    rented = {"rent": 1.92, "staff": 0.05, "power": 0.0}
    pools = (
        local("rhine-70b"),
        local(
            "rhine-8b",
            gpus=1.0,
            gpu="L40S",
            watts=240.0,
            power_label="modelled",
            utilization=None,
            usd_per_gpu_hour={"capital": 0.19, "maintenance": 0.05, "staff": 0.11, "rack": 0.02, "power": 0.05},
            bases={"usage": mtok(0.02, 0.08), "avoidable": mtok(0.0003, 0.0021)},
            break_even_utilization=None,
            notes=("no tokens were counted yet",),
        ),
        local(
            "spot-32b", site="spot-eu", usd_per_gpu_hour=rented, power_label="calibrated", tariff="included in the rent"
        ),
    )
    feeds = (
        FeedState("openrouter", "openrouter", NOW_S - 20, NOW_S + 880, 132, 3, 90, 341),
        FeedState("spot", "gpuhunt", NOW_S - 3 * HOUR_S, NOW_S + 120, 40, 12, 0, 1204, "503 from the catalogue's host"),
        FeedState("day-ahead", "energy-charts", None, NOW_S - 1, 1, 1, 0, 0, "timeout after 30 s"),
    )
    rents = (
        RentPrice("spot", "h100-8", "H100", 8, "runpod", "eu-nl", True, 1.49, NOW_S - 3 * HOUR_S, 1.92, "spot-32b"),
        RentPrice("spot", "h100-1", "H100", 1, "lambda", "us-west", False, 2.49, NOW_S - 3 * HOUR_S),
    )
    incidents = (
        Incident(NOW_S - 2 * HOUR_S, "openrouter", "mistral/large", "quarantined", "output fell 12 × at once"),
        Incident(NOW_S - DAY_S, "litellm", "gpt-flagship", "disagreement", "cached input 0.25 and 0.18"),
    )
    missing = (Unpriced("vertex/gemini", "no feed lists it"), Unpriced("mistral/large", "price in quarantine"))
    return PriceReport(NOW_S, offers, missing, pools, feeds, rents, incidents)


def walk(
    seed: int, start: float, days: int, step_s: float, size: float, gaps: bool = False
) -> tuple[tuple[float, float | None], ...]:
    """A price that moves now and then; with ``gaps`` it is not known for a while."""
    chance = random.Random(seed)
    points: list[tuple[float, float | None]] = []
    value, at_s = start, NOW_S - days * DAY_S
    while at_s < NOW_S:
        if chance.random() < 0.2:
            value *= math.exp(chance.gauss(0, size))
        points.append((at_s, None if gaps and 0.4 < (NOW_S - at_s) / DAY_S / days < 0.5 else value))
        at_s += step_s
    return tuple(points)


def week() -> PriceHistoryView:
    """Seven days of the site above."""
    prices = {"frontier/gpt-small": 0.2625, "openrouter/deepseek/deepseek-chat": 0.48, "spot-32b": 0.04}
    offers = [
        Series(name, "USD/Mtok", walk(i, usd, 7, HOUR_S, 0.05, i == 1)) for i, (name, usd) in enumerate(prices.items())
    ]
    flagship = ((NOW_S - 7 * DAY_S, 7.03), (NOW_S - 5.3 * DAY_S, 5.625))
    power = tuple((NOW_S - 7 * DAY_S + h * HOUR_S, 0.19 + 0.08 * math.sin(h / 3.8)) for h in range(7 * 24 + 4))
    carbon = tuple((at_s, 300 + 900 * (usd - 0.19)) for at_s, usd in power)
    return PriceHistoryView(
        offers=(
            Series("frontier/gpt-flagship", "USD/Mtok", flagship),
            Series("bedrock/claude-large", "USD/Mtok", ((NOW_S - 7 * DAY_S, 30.0),)),
            Series(
                "rhine-70b",
                "USD/Mtok",
                tuple((at_s, 0.005 + 0.03 * (usd - 0.1)) for at_s, usd in power if at_s <= NOW_S),
            ),
            *offers,
        ),
        power=(Series("rhine", "USD/kWh", power),),
        carbon=(Series("rhine", "g CO2/kWh", carbon),),
        rents=(
            Series("H100 spot runpod eu-nl", "USD/GPU-hour", walk(7, 1.5, 7, 6 * HOUR_S, 0.08)),
            Series("H100 on demand lambda", "USD/GPU-hour", ((NOW_S - 7 * DAY_S, 2.49),)),
        ),
        marks=(
            Mark(NOW_S - 2 * HOUR_S, "mistral/large: quarantined, output fell 12 × at once"),
            Mark(NOW_S - DAY_S, "gpt-flagship: litellm disagrees, cached input 0.25 and 0.18"),
        ),
    )


names = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40))
usd = st.floats(0, 1e4, allow_subnormal=False)
prices = st.builds(mtok, usd, usd, st.none() | usd)
instants = st.floats(NOW_S - 30 * DAY_S, NOW_S)
offers = st.builds(
    OfferPrice,
    offer=names,
    kind=st.sampled_from(["base", "spot", "api"]),
    model=names,
    zone=names,
    source=names,
    label=st.sampled_from(["measured", "calibrated", "modelled", "listed"]),
    observed_s=instants,
    expires_s=st.floats(NOW_S - DAY_S, NOW_S + DAY_S),
    usd_per_mtok=prices,
    tiers=st.lists(st.builds(TierPrice, st.integers(1, 10**6), prices), max_size=2).map(tuple),
    off_peak=st.booleans(),
    deprecated_s=st.none() | instants,
    others=st.lists(st.builds(OtherSource, names, st.none() | usd, st.none() | usd, st.booleans()), max_size=2).map(
        tuple
    ),
)
locals_ = st.builds(
    local,
    names,
    site=names,
    gpu=names,
    usd_per_gpu_hour=st.dictionaries(names, st.floats(-1, 100), max_size=4),
    bases=st.dictionaries(st.sampled_from(["allocation", "usage", "avoidable"]), prices),
    utilization=st.none() | st.floats(0, 1),
    tariff=names,
    notes=st.lists(names, max_size=2).map(tuple),
)
incidents = st.builds(Incident, instants, names, names, st.sampled_from(["quarantined", "refused"]), names)
reports = st.builds(
    PriceReport,
    as_of_s=st.just(NOW_S),
    offers=st.lists(offers, max_size=6).map(tuple),
    unpriced=st.lists(st.builds(Unpriced, names, names), max_size=3).map(tuple),
    local=st.lists(locals_, max_size=3).map(tuple),
    feeds=st.lists(
        st.builds(FeedState, names, names, st.none() | instants, instants, *[st.integers(0, 99)] * 4, names), max_size=2
    ).map(tuple),
    rents=st.lists(
        st.builds(
            RentPrice,
            names,
            names,
            names,
            st.integers(1, 8),
            names,
            names,
            st.booleans(),
            usd,
            instants,
            st.none() | usd,
            names,
        ),
        max_size=3,
    ).map(tuple),
    incidents=st.lists(incidents, max_size=4).map(tuple),
)
series = st.builds(
    Series,
    names,
    st.just("USD/Mtok"),
    st.lists(st.tuples(instants, st.none() | usd), max_size=30).map(tuple),
)
histories = st.builds(
    PriceHistoryView,
    *[st.lists(series, max_size=3).map(tuple)] * 4,
    st.lists(st.builds(Mark, instants, names), max_size=4).map(tuple),
)
