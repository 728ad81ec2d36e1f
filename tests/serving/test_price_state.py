"""The controller's price side: sheets and meters in, the board and the report out."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing import board
from pricing.book import Entry, Held
from pricing.desk import Sheet
from pricing.listing import TokenPrice
from pricing.meter.readings import GpuReading, HostReading, MeterReport, ReplicaReading
from pricing.report import LocalCost, PriceReport
from scheduler.config import ClusterConfig
from scheduler.core.supply import Rate
from serving.gate.wire import EngineStats
from serving.price_state import PriceState
from tests.support.sites import site

NOW_S = 1_800_000_000.0
KEY = ("list", "maker/large")
HOST = HostReading(NOW_S, 0.1, 1, 2)


def config(ttl_s: float = 3600.0) -> ClusterConfig:
    """One pool, and a provider priced by a feed."""
    text = site()
    text["feeds"] = [{"name": "list", "kind": "static", "ttl_s": ttl_s}]
    text["providers"][0]["models"][0]["price"] = [{"feed": KEY[0], "product": KEY[1]}]
    return ClusterConfig.model_validate(text)


def entry(usd: float, observed_s: float = NOW_S, **more: object) -> Entry:
    price = TokenPrice({"standard": Rate(usd, usd, usd)})
    return Entry(*KEY, price=price, since_s=observed_s, observed_s=observed_s, **more)  # type: ignore[arg-type]


def state(ttl_s: float = 3600.0) -> PriceState:
    return PriceState(config(ttl_s), NOW_S)


def bought(prices: PriceState) -> list[float]:
    return [offer.rate.usd_per_input for offer in prices.board.offers if offer.kind == "api"]


def test_a_price_counts_from_the_moment_that_the_desk_tells_it() -> None:
    prices = state()
    assert bought(prices) == []
    prices.told(Sheet(NOW_S, [entry(2e-6)]), NOW_S)
    assert bought(prices) == [2e-6]


def test_a_price_leaves_by_itself_when_the_desk_falls_silent() -> None:
    prices = state(ttl_s=100.0)
    prices.told(Sheet(NOW_S, [entry(2e-6)]), NOW_S)
    prices.keep_priced(NOW_S + 99.0)
    assert bought(prices) == [2e-6]
    prices.keep_priced(NOW_S + 106.0)
    assert bought(prices) == []
    assert "list: maker/large" in next(iter(prices.board.unpriced.values()))


@given(st.floats(-1e7, 1e7), st.floats(0.0, 7000.0))
def test_a_desk_whose_clock_is_not_ours_makes_no_price_younger(ahead_s: float, age_s: float) -> None:
    prices = state(ttl_s=3600.0)
    theirs_s = NOW_S + ahead_s
    prices.told(Sheet(theirs_s, [entry(2e-6, theirs_s - age_s)]), NOW_S)
    if abs(age_s - 3600.0) > 60.0:  # clocks that are within half a minute of each other are left alone
        assert bool(bought(prices)) == (age_s < 3600.0)
    for offer in prices.board.offers:
        assert offer.expires_s <= NOW_S + max(3600.0 - age_s + 31.0, 86_400.0 if offer.kind != "api" else 0.0)


def load(
    prices: PriceState, minutes: int, label: str = "measured", replicas: int = 1, gpus: tuple[GpuReading, ...] = ()
) -> float:
    """A pool of 100 W idle and 0.5 J per output token under a load that swings; the time at the end."""
    joules = tokens = 0.0
    for minute in range(minutes):
        rate = 400.0 * (1.0 + math.sin(minute))
        for _ in range(12):
            joules += 5.0 * (100.0 + 0.5 * rate)
            tokens += 5.0 * rate
        now_s = NOW_S + 60.0 * (minute + 1)
        reading = ReplicaReading("r1", "own", joules, 0.0, label, "energy counter")  # type: ignore[arg-type]
        prices.metered(MeterReport("node", NOW_S, now_s, gpus, HOST, (reading,), "no driver"), now_s)
        prices.observe({"own": EngineStats(0, 0, 0, 3.0 * tokens, tokens, 2.0 * tokens)}, {"own": replicas}, now_s)
        prices.keep_priced(now_s)
    return now_s


def test_a_measured_slope_replaces_what_cluster_yaml_says() -> None:
    prices = state()
    before = prices.board.pools["own"].energy
    load(prices, 45)
    energy = prices.board.pools["own"].energy
    assert (before.label, energy.label) == ("modelled", "measured")
    drawn = energy.joules_per_output_token + energy.joules_per_input_token  # an input token for each output token
    assert drawn == pytest.approx(0.5, rel=0.02)
    assert energy.idle_watts == pytest.approx(100.0, rel=0.02)


def test_modelled_power_never_replaces_anything() -> None:
    prices = state()
    load(prices, 45, label="modelled")
    assert prices.board.pools["own"].energy.label == "modelled"


def test_the_report_counts_tokens_from_the_prefix_cache_apart_from_those_computed() -> None:
    prices = state()
    now_s = load(prices, 10)
    local = next(cost for cost in prices.report({"own": 1}, now_s).local if cost.pool == "own")
    assert local.input_share == pytest.approx(0.75)  # three read, two of them from the cache, one written
    assert local.power_label == "measured"
    assert "allocation" in local.bases


def own(prices: PriceState, now_s: float, replicas: int = 1) -> LocalCost:
    return next(cost for cost in prices.report({"own": replicas}, now_s).local if cost.pool == "own")


def test_joules_of_one_replica_are_not_divided_by_the_tokens_of_two() -> None:
    prices = state()
    now_s = load(prices, 45, replicas=2)
    assert prices.board.pools["own"].energy.label == "modelled"
    local = own(prices, now_s, 2)
    assert "power of 1 of 2 replicas is seen by a meter: it is not counted" in local.notes
    assert (local.power_label, local.joules) == ("modelled", None)
    assert "allocation" in local.bases  # tokens count all the same
    assert local.tokens_per_hour > 0.0


def test_watts_are_of_the_time_and_the_label_of_the_windows_they_are_from() -> None:
    prices = state()
    ended_s = load(prices, 10)
    for second in range(1, 1200, 5):  # the meter has gone
        prices.observe({"own": EngineStats(0, 0, 0, 1e9, 1e9, 0.0)}, {"own": 1}, ended_s + second)
    local = own(prices, ended_s + 1200)
    assert (local.power_label, local.power_at_s) == ("measured", ended_s)
    assert 100.0 < local.watts < 600.0
    assert local.joules is None


def test_a_meter_that_falls_silent_leaves_no_window_in_which_its_pool_rests() -> None:
    prices, tokens = state(), 0.0
    for second in range(1, 600):
        now_s = NOW_S + second
        tokens += 100.0
        if second <= 300 and second % 5 == 0:
            reading = ReplicaReading("r1", "own", 200.0 * second, 0.0, "measured", "energy counter")
            prices.metered(MeterReport("node", NOW_S, now_s, (), HOST, (reading,)), now_s)
        prices.observe({"own": EngineStats(0, 0, 0, tokens, tokens)}, {"own": 1}, now_s)
    local = own(prices, now_s)
    assert local.watts == pytest.approx(200.0, rel=0.07)  # of five windows the last may lack three reports
    assert local.power_at_s <= NOW_S + 320.0


def test_readings_of_every_node_are_in_the_report_and_what_is_odd_with_them_in_the_notes() -> None:
    prices = state()
    gpus = tuple(GpuReading(f"GPU-{i}", i, "H100", NOW_S, 1.0, 2.0, "measured", "integrated power") for i in range(600))
    now_s = load(prices, 2, "modelled", gpus=gpus)
    prices.metered(MeterReport("other", NOW_S, now_s, gpus, HOST, ()), now_s)
    found = prices.report({}, now_s)
    assert [(node.node, node.at_s, node.problem) for node in found.nodes] == [
        ("node", now_s, "no driver"),
        ("other", now_s, ""),
    ]
    assert [gpu.uuid for node in found.nodes for gpu in node.gpus] == [f"GPU-{i}" for i in range(512)]
    assert "power: no driver" in own(prices, now_s).notes
    assert own(prices, now_s).joules_label == "modelled"
    assert msgspec.json.decode(msgspec.json.encode(found), type=PriceReport) == found


def test_the_report_tells_what_is_doubted_now_and_no_more() -> None:
    prices = state()
    held = Held(TokenPrice({"standard": Rate(1, 1, 1)}), "changed 5-fold", NOW_S - 60, 1, False)
    prices.told(Sheet(NOW_S, [entry(2e-6, held=held)], history_problem="no space"), NOW_S)
    assert [(i.what, i.text) for i in prices.report({}, NOW_S).incidents] == [
        ("history", "no space"),
        ("quarantined", "changed 5-fold"),
    ]
    prices.told(Sheet(NOW_S, [entry(2e-6)]), NOW_S)
    assert prices.report({}, NOW_S).incidents == ()


def test_a_sheet_of_which_no_board_can_be_made_leaves_the_old_prices_to_run_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prices = state(ttl_s=100.0)
    prices.told(Sheet(NOW_S, [entry(2e-6)]), NOW_S)
    with monkeypatch.context() as broken:
        broken.setattr(board, "price", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):  # the desk is answered with an error, and goes on
            prices.told(Sheet(NOW_S, [entry(3e-6)]), NOW_S)
        prices.keep_priced(NOW_S + 50.0)
        assert bought(prices) == [2e-6]
    prices.keep_priced(NOW_S + 60.0)
    assert bought(prices) == [2e-6]
    prices.keep_priced(NOW_S + 101.0)
    assert bought(prices) == []
