"""Prices that change while a trace is played: the bill to the cent, the bound below every policy, and two engines alike."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pricing import bought
from pricing.book import Change
from pricing.history import History, Line
from pricing.listing import GpuPrice, PowerPrice, Price, Step, TokenPrice
from scheduler.config import ClusterConfig
from scheduler.core.supply import Rate, Tier
from scheduler.simulation import price_reader
from scheduler.simulation.bound.bound import clairvoyant
from scheduler.simulation.kernel import KernelSettings
from scheduler.simulation.kernel import play as play_kernel
from scheduler.simulation.price_reader import HistoryError, load
from scheduler.simulation.regret import judged
from scheduler.simulation.scenario import EPOCH_S, Scenario
from scheduler.simulation.traces import Trace, trace_of
from scheduler.simulation.world import Settings
from tests.support.small_worlds import apis, config, own, play, scenario

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
FROM_S = 1_700_000_000.0  # where the recorded histories of this file begin
KWH = 1 / 3.6e6  # of a joule
PUE, JOULES_IN, JOULES_OUT = 1.2, 0.01, 0.1  # tests.support.sites


def tokens(usd_per_mtok: float, *tiers: Tier) -> TokenPrice:
    """Output costs four times what input does, as ``apis`` has it."""
    per = usd_per_mtok / 1e6
    return TokenPrice({"standard": Rate(per, per, 4.0 * usd_per_mtok / 1e6, tiers=tiers)})


def power(*steps: tuple[float, float, float]) -> PowerPrice:
    """Seconds after ``FROM_S``, and USD per kWh."""
    return PowerPrice(tuple(Step(FROM_S + start_s, FROM_S + end_s, usd) for start_s, end_s, usd in steps))


def written(path: Path, rows: Sequence[tuple[float, str, str, Price]]) -> Path:
    """A file of lines; times are seconds after ``FROM_S``."""
    lines = [Line(i, Change(FROM_S + row[0], row[1], row[2], "price", row[3])) for i, row in enumerate(rows, 1)]
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return path


def site(**usd_per_mtok: float) -> ClusterConfig:
    """One pool, and an API for each name; whoever asks for ``any`` may use all of them."""
    return config(pools=[own()], providers=apis(**usd_per_mtok))


def evenly(count: int, every_s: float, seed: int = 0) -> Trace:
    rng = np.random.default_rng(seed)
    inputs, outputs = rng.integers(1, 3000, count), rng.integers(1, 200, count)
    return trace_of("even", every_s * np.arange(count), inputs, outputs)


def priced_by(scene: Scenario, path: Path, from_s: float | None = None) -> Scenario:
    """The same scene at the prices of a history."""
    found = load(path, scene.site.config, EPOCH_S, scene.trace.span_s, from_s)
    return replace(scene, site=replace(scene.site, history=found))


def api_usd(trace: Trace, usd_per_mtok: np.ndarray | float) -> float:
    return float(np.sum((trace.input_tokens + 4.0 * trace.output_tokens) * usd_per_mtok) / 1e6)


def energy_usd(trace: Trace, usd_per_kwh: np.ndarray | float) -> float:
    joules = JOULES_IN * trace.input_tokens + JOULES_OUT * trace.output_tokens
    return float(np.sum(joules * PUE * KWH * usd_per_kwh))


def constant(of: ClusterConfig, path: Path) -> Path:
    """A history that says again and again what cluster.yaml says."""
    models = [(provider.name, served.model, served.price) for provider in of.providers for served in provider.models]
    rows: list[tuple[float, str, str, Price]] = []
    for at_s in (0.0, 40.0, 333.25):
        rows += [(at_s, name, model, bought.own_price(price)) for name, model, price in models]  # type: ignore[arg-type]
    return written(path, [*rows, (400.0, "here", "electricity", power((0.0, 9e4, 0.3), (9e4, 18e4, 0.3)))])


@pytest.mark.parametrize("name", ["bid-price", "all-api", "all-local"])
def test_a_history_that_says_what_the_site_file_says_changes_no_byte(name: str, tmp_path: Path) -> None:
    of = site(cheap=0.5, dear=5.0)
    scene = scenario(of, evenly(1500, 0.3))
    same = priced_by(scene, constant(of, tmp_path / "h.jsonl"))
    plain, played = (play(each, name, Settings(gateways=2)).tally for each in (scene, same))
    assert msgspec.json.encode([played.usd_total, played.ttft_s, played.api_usd, played.number]) == msgspec.json.encode(
        [plain.usd_total, plain.ttft_s, plain.api_usd, plain.number]
    )
    for column in ("usd_elsewhere", "energy_usd", "eligible", "prefill_work_s"):
        here, there = (getattr(judged(each).requests, column) for each in (scene, same))
        assert here.tobytes() == there.tobytes()


@pytest.mark.parametrize("rise_s", [0.5, 100.0, 317.0, 899.5])
def test_a_price_that_rises_in_the_middle_makes_the_bill_that_arithmetic_says(rise_s: float, tmp_path: Path) -> None:
    """Whoever comes at the very instant pays the new price."""
    scene = scenario(site(only=1.0), evenly(1000, 1.0))
    found = priced_by(
        scene, written(tmp_path / "h", [(0.0, "only", "only", tokens(1.0)), (rise_s, "only", "only", tokens(3.0))])
    )
    paid = np.where(scene.trace.arrival_s < rise_s, 1.0, 3.0)
    expected = api_usd(scene.trace, paid)
    assert play(found, "all-api", Settings(gateways=3)).tally.usd_total == pytest.approx(expected, rel=1e-12)
    assert play_kernel(found, "all-api").usd_total == pytest.approx(expected, rel=1e-12)
    known = judged(found)
    assert float(known.requests.usd_elsewhere.sum()) == pytest.approx(expected, rel=1e-12)
    assert clairvoyant(known.requests, known.pools, 0.0).usd_all_api == pytest.approx(expected, rel=1e-12)


def test_a_recorded_tariff_is_paid_by_the_hour_and_the_site_s_own_outside_of_it(tmp_path: Path) -> None:
    scene = scenario(site(), evenly(900, 10.0))
    steps = power((1000.0, 3600.0, 0.1), (3600.0, 7200.0, -0.05))
    found = priced_by(scene, written(tmp_path / "h", [(0.0, "here", "electricity", steps)]))
    at_s = scene.trace.arrival_s
    # Below zero counts as zero, as live.
    paid = np.select([at_s < 1000.0, at_s < 3600.0, at_s < 7200.0], [0.3, 0.1, 0.0], 0.3)
    expected = energy_usd(scene.trace, paid)
    assert play(found, "all-local").tally.usd_total == pytest.approx(expected, rel=1e-9)
    assert float(judged(found).requests.energy_usd.sum()) == pytest.approx(expected, rel=1e-9)


def test_a_time_of_use_tariff_is_priced_by_arrival_in_the_bound_too() -> None:
    """No history: the tariff changes at 01:00, which no multiple of five minutes after the start is."""
    cheap = {"days": ["thu"], "hours": "00:59-02:00", "usd_per_kwh": 0.1}
    electricity = {"pue": PUE, "time_of_use": {"timezone": "UTC", "usd_per_kwh": 0.3, "periods": [cheap]}}
    of = config(pools=[own()], providers=[], sites=[{"name": "here", "zone": "home", "electricity": electricity}])
    scene = scenario(of, evenly(800, 10.0))
    at_s = scene.trace.arrival_s
    expected = energy_usd(scene.trace, np.where((at_s >= 3540.0) & (at_s < 7200.0), 0.1, 0.3))
    assert play(scene, "all-local").tally.usd_total == pytest.approx(expected, rel=1e-12)
    known = judged(scene)
    assert clairvoyant(known.requests, known.pools, 0.0).usd_total == pytest.approx(expected, rel=1e-9)


def test_the_trace_begins_where_the_history_does_or_where_it_is_told_to(tmp_path: Path) -> None:
    scene = scenario(site(only=1.0), evenly(100, 1.0))
    path = written(tmp_path / "h", [(7.0, "only", "only", tokens(2.0)), (57.0, "only", "only", tokens(3.0))])
    at_s = scene.trace.arrival_s
    for from_s, edges in (
        (None, (0.0, 50.0)),
        (FROM_S + 7.0, (0.0, 50.0)),
        (FROM_S + 17.0, (-10.0, 40.0)),
        (FROM_S, (7.0, 57.0)),
    ):
        paid = np.select([at_s < edges[0], at_s < edges[1]], [1.0, 2.0], 3.0)
        found = play(priced_by(scene, path, from_s), "all-api").tally.usd_total
        assert found == pytest.approx(api_usd(scene.trace, paid), rel=1e-12)
    early = priced_by(scene, path, FROM_S - 1e6)
    assert play(early, "all-api").tally.usd_total == pytest.approx(api_usd(scene.trace, 1.0), rel=1e-12)


def of_feeds(tmp_path: Path, **electricity: Any) -> ClusterConfig:
    """A site that takes the prices of its API, its power and its rent from feeds."""
    listed = [{"feed": "map", "product": "m1"}]
    tariff = {"pue": PUE, "day_ahead": {"feed": "market", "product": "DE", "surcharge_usd_per_kwh": 0.1} | electricity}
    rental = {"listed": [{"feed": "map", "product": "gpu"}]}
    return config(
        feeds=[{"name": name, "kind": "static", "options": {"path": str(tmp_path)}} for name in ("map", "market")],
        sites=[{"name": "here", "zone": "home", "electricity": tariff}],
        pools=[own(hardware=None, rental=rental)],
        providers=[apis(only=1.0)[0] | {"models": [apis(only=1.0)[0]["models"][0] | {"price": listed}]}],
    )


def recorded(folder: Path) -> Path:
    """What a running site has recorded: two feeds that were heard of one after the other, and a clock that was set back."""
    kept = History(folder)
    gpu = GpuPrice(2.0, "H100", 1, "p", "r")
    said: list[tuple[float, float, str, str, str, Price | None]] = [
        (0.0, 0.0, "map", "m1", "price", tokens(1.0)),
        (20.0, 20.0, "map", "gpu", "price", gpu),
        (30.0, 30.0, "market", "DE", "price", power((-3000.0, -480.0, 0.2), (-480.0, 3000.0, 0.4))),
        (40.0, 40.0, "map", "other", "price", tokens(9.0)),
        (60.0, 60.0, "map", "m1", "quarantined", tokens(900.0)),
        (70.0, 70.0, "map", "", "seen", None),
        (-530.0, 80.0, "map", "m1", "price", tokens(2.0)),  # the clock was ten minutes fast: 80 s, as time passed
    ]
    for at_s, monotonic_s, feed, product, what, price in said:
        kept.append([Change(FROM_S + at_s, feed, product, what, price)], FROM_S + at_s, monotonic_s)  # type: ignore[arg-type]
    assert kept.problem == ""
    return folder


def test_what_a_site_has_recorded_of_its_feeds_prices_it(tmp_path: Path) -> None:
    """From the instant on at which all is priced. Power was listed for hours ahead; nothing has to be seen again to hold."""
    of = of_feeds(tmp_path)
    played = load(recorded(tmp_path / "prices"), of, EPOCH_S, 300.0)
    usd = []
    for at_s in (0.0, 49.0, 51.0, 99.0, 299.0):
        priced, _ = played.board_until(EPOCH_S + at_s)
        rates = {offer.id: offer.rate for offer in priced.offers}
        usd_per_kwh = rates["own/small"].usd_per_output / (JOULES_OUT * PUE * KWH)
        usd.append((rates["only/only"].usd_per_input * 1e6, usd_per_kwh))
        assert priced.pools["own"].rent is not None
    assert np.array(usd) == pytest.approx(np.array([(1.0, 0.3), (1.0, 0.3), (2.0, 0.3), (2.0, 0.3), (2.0, 0.5)]))
    # The steps end 3,580 s after the trace begins.
    with pytest.raises(HistoryError, match=r"3,580 s into the trace \(own/small: no power price for site here now"):
        load(tmp_path / "prices", of, EPOCH_S, 4000.0)
    fallback = of_feeds(tmp_path, fallback_usd_per_kwh=0.7)
    priced, _ = load(tmp_path / "prices", fallback, EPOCH_S, 4000.0).board_until(EPOCH_S + 3590.0)
    assert priced.pools["own"].tariff.usd_per_kwh == 0.7


def random_history(seed: int, scene: Scenario, path: Path) -> Path:
    """A dozen changes of prices and tariffs, some at the instant of an arrival."""
    rng = np.random.default_rng(seed)
    span_s = scene.trace.span_s
    at_s = np.sort(np.where(rng.random(12) < 0.5, rng.uniform(0.0, span_s, 12), rng.choice(scene.trace.arrival_s, 12)))
    rows: list[tuple[float, str, str, Price]] = [(0.0, "cheap", "cheap", tokens(0.5))]
    edges_s = [0.0, *np.sort(rng.uniform(0.0, span_s, 3)), span_s + 10.0]
    steps = [(float(a), float(b), float(rng.uniform(-0.2, 3.0))) for a, b in pairwise(edges_s)]
    rows.append((0.0, "here", "electricity", power(*steps)))
    for when_s in at_s:
        name = str(rng.choice(["cheap", "dear"]))
        rows.append((float(when_s), name, name, tokens(float(rng.choice([0.1, 1.0, 5.0, 20.0])))))
    return written(path, rows)


def rush(seed: int) -> Scenario:
    """Half as much again as one engine can do, for most of a minute; two APIs for whoever may leave, one objective each."""
    rng = np.random.default_rng(seed)
    of = config(
        pools=[own()],
        providers=apis(cheap=0.5, dear=5.0),
        aliases=[{"name": f"or-{name}", "models": ["small", name]} for name in ("cheap", "dear")],
    )
    # Eighths of a second are numbers that no clock rounds, so that changes and arrivals may meet.
    at_s = np.sort(np.round(rng.uniform(0.0, 320.0, 160))) / 8.0
    sizes = (np.ceil(rng.lognormal(9.0, 0.8, 160)).astype(int), np.ceil(rng.exponential(100.0, 160)).astype(int))
    profiles = (
        {"model": "or-cheap", "service_class": "batch"},
        {"model": "or-dear"},
        {"share": 0.2, "zones": ["home"]},
    )
    return scenario(of, trace_of("rush", at_s - at_s[0], *sizes), profiles, seed=seed)


def shock(offer_id: str, now_s: float) -> float:
    return 3.0 if now_s >= EPOCH_S + 20.0 else 1.0


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), shocked=st.booleans())
def test_no_policy_pays_less_than_the_bound_however_prices_move(seed: int, shocked: bool, tmp_path: Path) -> None:
    scene = rush(seed)
    found = priced_by(scene, random_history(seed, scene, tmp_path / f"{seed}.jsonl"))
    usd_factor = shock if shocked else None
    known = judged(found, usd_factor)
    for name in ("bid-price", "lowest-cost", "greedy-perfect", "all-api", "all-local"):
        tally = play(found, name, Settings(gateways=3, usd_factor=usd_factor)).tally
        bound = clairvoyant(known.requests, known.pools, 1.0 - tally.slo_attainment)
        assert tally.served == tally.requests
        assert tally.usd_total >= bound.usd_total - 1e-9, name
        if name == "all-api":
            assert tally.usd_total == pytest.approx(bound.usd_all_api, rel=1e-9)
    if shocked:
        return
    later = judged(found, billed_later=True)
    assert np.all(later.requests.usd_elsewhere <= known.requests.usd_elsewhere)
    assert np.all(later.requests.energy_usd <= known.requests.energy_usd)
    for name in ("bid-price", "greedy-perfect", "all-api", "all-local"):
        fast = play_kernel(found, name, settings=KernelSettings(gateways=3))
        bound = clairvoyant(later.requests, later.pools, 1.0 - fast.slo_attainment)
        assert fast.usd_total >= bound.usd_total - 1e-9, name


@pytest.mark.parametrize("seed", range(4))
def test_the_kernel_pays_what_the_exact_engine_pays_where_all_go_to_the_api(seed: int, tmp_path: Path) -> None:
    scene = rush(seed)
    found = priced_by(scene, random_history(seed, scene, tmp_path / "h"))
    exact, fast = play(found, "all-api"), play_kernel(found, "all-api")
    leave = ~np.isnan(fast.ttft_s) & (fast.source == 2)
    assert leave.sum() > 100
    assert fast.api_usd[leave] == pytest.approx(exact.by_request("api_usd")[leave], rel=1e-12)


def test_a_price_may_gain_and_lose_tiers_in_both_engines(tmp_path: Path) -> None:
    scene = scenario(site(only=1.0), evenly(500, 1.0))
    dearer = tokens(1.0, Tier(1000, 2e-6, 2e-6, 8e-6), Tier(2000, 3e-6, 3e-6, 12e-6))
    rows = [(0.0, "only", "only", tokens(1.0)), (100.0, "only", "only", dearer), (333.0, "only", "only", tokens(1.0))]
    found = priced_by(scene, written(tmp_path / "h", rows))  # type: ignore[arg-type]
    at_s, inputs = scene.trace.arrival_s, scene.trace.input_tokens
    tiered = np.where(inputs > 2000, 3.0, np.where(inputs > 1000, 2.0, 1.0))
    expected = api_usd(scene.trace, np.where((at_s >= 100.0) & (at_s < 333.0), tiered, 1.0))
    for bill in (play(found, "all-api").tally, play_kernel(found, "all-api")):
        assert bill.usd_total == pytest.approx(expected, rel=1e-12)


@given(st.lists(st.floats(0.0, 40.0), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_prices_do_not_depend_on_what_was_asked_before_and_hold_as_long_as_is_said(
    tmp_path: Path, at_s: list[float]
) -> None:
    scene = rush(1)
    path = random_history(1, scene, tmp_path / "h")
    played = load(path, scene.site.config, EPOCH_S, scene.trace.span_s)
    for after_s in at_s:
        fresh = load(path, scene.site.config, EPOCH_S, scene.trace.span_s)
        (here, until_s), (there, _) = (each.board_until(EPOCH_S + after_s) for each in (played, fresh))
        rates = [offer.rate for offer in here.offers]
        assert rates == [offer.rate for offer in there.offers]
        if math.isfinite(until_s):
            last, _ = played.board_until(float(np.nextafter(until_s, 0.0)))
            assert rates == [offer.rate for offer in last.offers]


def test_of_a_long_history_only_the_span_of_the_trace_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(price_reader, "KEPT_MAX", 10)
    rows = [(float(i), "only", "only", tokens(1.0 + i % 7)) for i in range(2000)]
    path, of = written(tmp_path / "h", rows), site(only=1.0)  # type: ignore[arg-type]
    priced, until_s = load(path, of, EPOCH_S, 9.0, FROM_S + 1000.5).board_until(EPOCH_S)
    rate = next(offer.rate for offer in priced.offers if offer.kind == "api")
    assert rate.usd_per_input * 1e6 == pytest.approx(1.0 + 1000 % 7)
    assert until_s == EPOCH_S + 0.5
    with pytest.raises(HistoryError, match="more than 10 changes of price in the span of the trace"):
        load(path, of, EPOCH_S, 20.0, FROM_S + 1000.5)


BAD: dict[str, tuple[Sequence[tuple[float, str, str, Price]], str]] = {
    "nothing": ((), "has no line of a price history"),
    "an unknown source": (
        ((0.0, "onyl", "only", tokens(1.0)),),
        r"seq 1: no feed, provider or site is 'onyl' \(known: here, only\)",
    ),
    "an unknown model": (((0.0, "only", "gpt", tokens(1.0)),), r"seq 1: only has no 'gpt' \(known: only\)"),
    "an unknown tariff": (((0.0, "here", "gas", tokens(1.0)),), r"seq 1: here has no 'gas' \(known: electricity\)"),
    "times that go back": (
        ((100.0, "only", "only", tokens(1.0)), (0.0, "only", "only", tokens(2.0))),
        "not sorted: at seq 2, 2023-11-14T22:13:20Z comes after 2023-11-14T22:15:00Z",
    ),
    "another kind": (((0.0, "only", "only", power((0.0, 9.0, 0.1))),), "must be a TokenPrice, not a PowerPrice"),
    "no price": (((0.0, "only", "only", tokens(-1.0)),), "only: only at 2023-11-14T22:13:20Z: usd_per_input is -1e-06"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_played_is_said_in_a_sentence(what: str, tmp_path: Path) -> None:
    rows, said = BAD[what]
    with pytest.raises(HistoryError, match=said):
        load(written(tmp_path / "h", rows), site(only=1.0), EPOCH_S, 100.0)


def test_lines_out_of_order_are_refused_but_not_those_that_a_failed_write_has_left_twice(tmp_path: Path) -> None:
    rows = [(float(i), "only", "only", tokens(1.0 + i)) for i in range(4)]
    lines = written(tmp_path / "h", rows).read_bytes().splitlines(keepends=True)  # type: ignore[arg-type]
    twice, swapped = tmp_path / "twice", tmp_path / "swapped"
    twice.write_bytes(b"".join([*lines[:3], lines[2][:20], b"\n", *lines[1:]]))
    swapped.write_bytes(b"".join([lines[0], lines[2], lines[1], lines[3]]))
    usd = []
    for path in (tmp_path / "h", twice):
        priced, _ = load(path, site(only=1.0), EPOCH_S, 9.0).board_until(EPOCH_S + 5.0)
        usd += [offer.rate.usd_per_input * 1e6 for offer in priced.offers if offer.kind == "api"]
    assert usd == pytest.approx([4.0, 4.0])
    with pytest.raises(HistoryError, match="not sorted: the line with seq 2 comes after that with 3"):
        load(swapped, site(only=1.0), EPOCH_S, 9.0)


@pytest.mark.evaluate
def test_a_week_of_german_day_ahead_power_is_paid_by_the_quarter_of_an_hour(tmp_path: Path) -> None:
    begin_s = datetime(2025, 10, 6, tzinfo=UTC).timestamp()
    with gzip.open(DATA / "energy" / "de_lu_day_ahead.csv.gz", "rt") as rows:
        known = [
            (datetime.fromisoformat(r["utc"]).timestamp(), float(r["price_eur_mwh"])) for r in csv.DictReader(rows)
        ]
    week = [(at_s, usd / 1000.0) for at_s, usd in known if begin_s <= at_s < begin_s + 7 * 86_400]
    steps = power(*((at_s - FROM_S, at_s - FROM_S + 900.0, usd) for at_s, usd in week))
    assert len(week) == 7 * 96
    scene, calm = scenario(site(), evenly(2000, 300.0)), Settings(snapshot_age_s=60.0)
    found = priced_by(scene, written(tmp_path / "h", [(begin_s - FROM_S, "here", "electricity", steps)]))
    paid = np.maximum(0.0, [usd for _, usd in week])[(scene.trace.arrival_s // 900.0).astype(int)]
    assert play(found, "all-local", calm).tally.usd_total == pytest.approx(energy_usd(scene.trace, paid), rel=1e-9)
    assert float(judged(found).requests.energy_usd.sum()) == pytest.approx(energy_usd(scene.trace, paid), rel=1e-9)
