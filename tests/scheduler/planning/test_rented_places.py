"""Where rented replicas may be: in the zone of the pool that they stand in for, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler.config import ConfigError, load

ROOT = Path(__file__).resolve().parents[3]
RENTAL = {"usd_per_hour": 1.5, "gpu": "H100"}
CURVE = {
    "prefill_tokens_per_s": 25000,
    "itl_base_s": 0.006,
    "itl_per_seq_s": 0.0001,
    "seqs_max": 256,
    "ttft_base_s": 0.02,
}
ENERGY = {"joules_per_input_token": 0.01, "joules_per_output_token": 0.07, "label": "modelled"}


def site(tmp_path: Path, example: str, **planning: Any) -> Path:
    path = tmp_path / "cluster.yaml"
    given = yaml.safe_load((ROOT / "examples" / example).read_text())
    path.write_text(yaml.safe_dump(given | {"planning": planning}))
    return path


def offer(**fields: Any) -> dict[str, Any]:
    return {"pool": "small", "zone": "vault"} | fields


def candidate(**fields: Any) -> dict[str, Any]:
    return offer(name="small-h200", gpus_per_replica=1, curve=CURVE, energy=ENERGY) | fields


@pytest.mark.parametrize(
    "planning",
    [
        {"cloud": [offer(rental=RENTAL)]},
        {"candidates": [candidate(rental=RENTAL)]},
        {"cloud": [offer(reserved_usd_per_hour=1.5)]},
    ],
)
def test_an_air_gapped_site_may_rent_what_stands_inside(tmp_path: Path, planning: dict[str, Any]) -> None:
    assert load(site(tmp_path, "air-gapped.yaml", **planning)).air_gapped


@pytest.mark.parametrize(("kind", "of"), [("candidates", candidate), ("cloud", offer)])
def test_what_is_rented_in_another_zone_than_its_pool_is_refused(tmp_path: Path, kind: str, of: Any) -> None:
    path = site(tmp_path, "air-gapped.yaml", **{kind: [of(zone="elsewhere", reserved_usd_per_hour=1.5)]})
    path.write_text(path.read_text().replace("zones:\n- vault\n", "zones:\n- vault\n- elsewhere\n", 1))
    with pytest.raises(ConfigError, match=rf"planning.{kind}\[0\].zone: 'elsewhere' is not 'vault'"):
        load(path)
