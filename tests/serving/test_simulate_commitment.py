"""``baseload simulate`` where replicas come and go: what is rented by need is on the bill, and only that."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from pricing.holding import holdings
from scheduler.config import ClusterConfig, load
from scheduler.core.market import Policy
from scheduler.simulation.fleet import scaled_alone
from scheduler.simulation.mix import default_mix, resolve
from scheduler.simulation.policies import KNOWN, NAMES, rule
from scheduler.simulation.scenario import EPOCH_S, Window, scenario_of
from scheduler.simulation.simulate import usd_fixed
from scheduler.simulation.site import site_of
from scheduler.simulation.traces import open_trace
from scheduler.simulation.tuning import play
from scheduler.simulation.world import Settings
from serving.cli import app
from serving.commands.simulate import names_of

SITE = Path(__file__).resolve().parents[2] / "examples" / "h100-site.yaml"
SLOW = {"prefill_tokens_per_s": 2_000, "itl_base_s": 0.03, "itl_per_seq_s": 0.002, "seqs_max": 16, "ttft_base_s": 0.05}
RENT_USD_PER_HOUR = 0.3
SPAN_S = 3600.0


def sited(directory: Path, **changed: Any) -> Path:
    """Two small engines that are owned, and up to four of the same in a pool that is rented while that pays."""
    site = yaml.safe_load(SITE.read_text())
    (own,) = site["pools"]
    own |= {"curve": SLOW, "start_s": 60.0, "replicas": {"min": 2, "max": 2}}
    own["hardware"] |= {"purchase_price_usd": 600.0, "idle_watts": 20.0}
    cloud = {key: value for key, value in own.items() if key != "hardware"} | {"name": "cloud"}
    cloud |= {"rental": {"usd_per_hour": RENT_USD_PER_HOUR, "gpu": "g", "idle_watts": 20.0}, **changed}
    site["pools"].append(cloud | {"replicas": {"min": 0, "max": 4}})
    site["policy"] = site.get("policy", {}) | {"commitment": {"mode": "enforce"}}
    path = directory / "cluster.yaml"
    path.write_text(yaml.safe_dump(site))
    return path


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """An hour in which load comes after a third of it and goes again."""
    directory = tmp_path_factory.mktemp("commitment")
    rng = np.random.default_rng(7)
    quiet, busy = rng.uniform(0.0, SPAN_S, 300), rng.uniform(0.35 * SPAN_S, 0.75 * SPAN_S, 1_500)
    rows = [f"{at:.3f},1500,{rng.integers(600, 2400)}" for at in np.sort(np.concatenate([quiet, busy]))]
    trace = directory / "busy.csv"
    trace.write_text("\n".join(["arrival_s,input_tokens,output_tokens", *rows]) + "\n")
    policies = "bid-price,commitment"
    return ("--config", str(sited(directory)), "--trace", str(trace), "--policy", policies, "--no-chain")


def said(*arguments: str) -> str:
    found = CliRunner().invoke(app, ["simulate", *arguments])
    assert found.exit_code == 0, found.stderr
    return found.stdout


def test_rent_is_paid_while_replicas_are_there_and_hardware_all_the_time(asked: tuple[str, ...]) -> None:
    document = json.loads(said(*asked, "--json"))
    by_need, always = (document["policies"][name] for name in ("commitment", "bid-price"))
    hours = document["trace"]["span_s"] / 3600.0
    idle_usd = 0.001 * 20.0 * 0.3 * 1.5  # at most, per replica and hour
    there, whole = (document["replica_hours"][name] for name in ("commitment", "bid-price"))
    assert 0.0 < there["cloud"] < 0.9 * whole["cloud"]
    assert there["llama-8b"] == pytest.approx(2.0 * hours, rel=0.1)
    rents_usd = always["usd_fixed"] - by_need["usd_fixed"]
    assert 0.0 < rents_usd < 4 * hours * (RENT_USD_PER_HOUR + idle_usd)
    owned_usd = always["usd_fixed"] - 4 * hours * (RENT_USD_PER_HOUR + idle_usd)
    assert by_need["usd_fixed"] > owned_usd
    assert by_need["slo_attainment"] >= 0.99
    assert 0.5 < by_need["local_share"] < always["local_share"] + 1e-9


def test_where_policies_rent_differently_the_table_has_all_of_the_money(asked: tuple[str, ...]) -> None:
    text = " ".join(said(*asked).split())
    assert "Policies, cheapest with hardware first" in text
    assert "With hardware and rent commitment is the cheapest that meets its objectives" in text
    assert "commitment * " in text
    assert "as commitment starts and stops replicas" in text


def test_where_nothing_comes_and_goes_hardware_costs_the_same_in_any_case(asked: tuple[str, ...]) -> None:
    given = (*asked[:4], "--policy", "bid-price,all-api", "--no-chain", "--requests-max", "300")
    text = " ".join(said(*given).split())
    assert "over the same time in any case" in text
    assert "with hardware" not in text
    fixed = {each["usd_fixed"] for each in json.loads(said(*given, "--json"))["policies"].values()}
    assert len(fixed) == 1


def test_commitment_alone_says_what_an_hour_costs_with_its_rents(asked: tuple[str, ...]) -> None:
    given = (*asked[:4], "--policy", "commitment", "--no-chain")
    document = json.loads(said(*given, "--json"))
    figures, hours = document["policies"]["commitment"], document["trace"]["span_s"] / 3600.0
    [paid] = re.findall(
        r"With hardware and rent that is \$[\d.]+ \(\$([\d.]+) per hour\)", " ".join(said(*given).split())
    )
    assert float(paid) == pytest.approx((figures["usd_total"] + figures["usd_fixed"]) / hours, rel=1e-3)


def test_rent_is_what_is_billed_whatever_it_takes_to_get_a_replica(tmp_path: Path, asked: tuple[str, ...]) -> None:
    """Every fifth replica is not to be had: that is played, and no reason to pay more for those that are."""
    rental = {"usd_per_hour": RENT_USD_PER_HOUR, "gpu": "g", "idle_watts": 20.0, "availability": 0.8}
    config = load(sited(tmp_path, rental=rental))
    with open_trace(Path(asked[3])) as trace:
        profiles = resolve(default_mix(config), config)
        made = scenario_of(config, profiles, "request", trace, 1.0, Policy())
        whole = Window(0.0, trace.span_s)
        made = replace(made, copies=1.0, judged=whole)
        tally = play(made, rule("commitment"), Settings(), whole, list(made.batches(whole)))
    hours = tally.replica_s["cloud"] / 3600.0
    power_usd_per_hour = holdings(config, made.site.priced(EPOCH_S))["cloud"].standby
    assert hours > 0.3
    assert tally.usd_held["cloud"] == pytest.approx(hours * (RENT_USD_PER_HOUR + power_usd_per_hour), rel=0.05)
    owned_usd = usd_fixed(made, tally) - tally.usd_held["cloud"]
    assert owned_usd == pytest.approx(2.0 * made.site.pools[0].fixed.usd_per_hour * whole.span_s / 3600.0, rel=0.01)


def test_of_all_policies_commitment_is_one_where_the_site_file_enforces_it() -> None:
    assert names_of("all", comes_and_goes=True) == list(KNOWN)
    assert names_of("all", comes_and_goes=False) == list(NAMES)
    assert "commitment" in names_of("all,commitment", comes_and_goes=False)
    assert "commitment" not in names_of("all-api,all", comes_and_goes=False)
    assert names_of("commitment", comes_and_goes=False) == ["commitment"]


def test_what_is_not_ours_to_start_and_stop_keeps_all_its_replicas(tmp_path: Path) -> None:
    config = load(sited(tmp_path))
    document = config.model_dump(mode="json")
    document["pools"][0] |= {
        "engine": {"kind": "url", "urls": ["http://10.0.0.1:8000"]},
        "replicas": {"min": 1, "max": 3},
    }
    site = scaled_alone(site_of(ClusterConfig.model_validate(document), (), 0.0))
    assert {p.name: (p.replicas_min, p.replicas_max) for p in site.pools} == {"llama-8b": (3, 3), "cloud": (0, 4)}
