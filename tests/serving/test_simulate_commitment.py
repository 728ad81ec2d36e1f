"""``baseload simulate`` where replicas come and go: what is rented by need is on the bill, and only that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from scheduler.config import ClusterConfig, load
from scheduler.simulation.fleet import scaled_alone
from scheduler.simulation.policies import KNOWN, NAMES
from scheduler.simulation.site import site_of
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
    rents_usd = always["usd_fixed"] - by_need["usd_fixed"]
    assert 0.0 < rents_usd < 4 * hours * (RENT_USD_PER_HOUR + idle_usd)
    owned_usd = always["usd_fixed"] - 4 * hours * (RENT_USD_PER_HOUR + idle_usd)
    assert by_need["usd_fixed"] > owned_usd
    assert by_need["slo_attainment"] >= 0.99
    assert 0.5 < by_need["local_share"] < always["local_share"] + 1e-9


def test_where_policies_rent_differently_the_table_has_all_of_the_money(asked: tuple[str, ...]) -> None:
    text = " ".join(said(*asked).split())
    assert "with hardware" in text
    assert "With hardware and rent commitment is the cheapest that meets its objectives" in text
    assert "since hpa and commitment rent as they need" in text


def test_of_all_policies_commitment_is_one_where_the_site_file_enforces_it() -> None:
    assert names_of("all", "enforce") == list(KNOWN)
    assert names_of("all", "advisory") == list(NAMES)
    assert "commitment" in names_of("all,commitment", "off")
    assert "commitment" not in names_of("all-api,all", "off")
    assert names_of("commitment", "off") == ["commitment"]


def test_what_is_not_ours_to_start_and_stop_keeps_all_its_replicas(tmp_path: Path) -> None:
    config = load(sited(tmp_path))
    document = config.model_dump(mode="json")
    document["pools"][0] |= {
        "engine": {"kind": "url", "urls": ["http://10.0.0.1:8000"]},
        "replicas": {"min": 1, "max": 3},
    }
    site = scaled_alone(site_of(ClusterConfig.model_validate(document), (), 0.0))
    assert {p.name: (p.replicas_min, p.replicas_max) for p in site.pools} == {"llama-8b": (3, 3), "cloud": (0, 4)}
