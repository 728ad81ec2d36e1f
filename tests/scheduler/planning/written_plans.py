"""Small plans, and the site files that they are written into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from scheduler.config import ClusterConfig
from scheduler.planning.document import Costs, Expected, Plan, PoolPlan, Spread, TraceFacts

ROOT = Path(__file__).resolve().parents[3]
AT = "2026-11-22T08:00:00Z"
CURVE = "{prefill_tokens_per_s: 16000, itl_base_s: 0.0143, itl_per_seq_s: 0.0001, seqs_max: 256}"
ENERGY = "{joules_per_input_token: 0.06, joules_per_output_token: 0.1, label: modelled}"
CANDIDATES = f"""
planning:
  horizon_years: 3.0
  candidates:
    # a newer one
    - name: llama-8b-h200
      pool: llama-8b
      zone: on-prem
      gpus_per_replica: 2
      curve: {CURVE}
      energy: {ENERGY}
      hardware: {{gpu: 2xH200, gpu_count: 2, purchase_price_usd: 75000, amortization_years: 5}}
      rental: {{gpu: 2xH200, gpu_count: 2, usd_per_hour: 7.0}}
      reserved_usd_per_hour: 5.0
      engine_args: {{tensor_parallel_size: 2}}
    - name: llama-8b-l40s # cheap
      pool: llama-8b
      zone: on-prem
      gpus_per_replica: 1
      curve: {CURVE}
      energy: {ENERGY}
      rental: {{gpu: L40S, usd_per_hour: 0.9}}
"""
PLAIN = (ROOT / "examples" / "h100-site.yaml").read_text(encoding="utf-8")
TEXT = PLAIN + CANDIDATES
CLOUD = (
    PLAIN
    + """
planning:
  cloud:
    - {pool: llama-8b, zone: on-prem, rental: {gpu: H100, usd_per_hour: 2.5}, reserved_usd_per_hour: 2.0} # as of May
"""
)
RENTED = {"rental": {"gpu": "g", "usd_per_hour": 1.5}, "reserved_usd_per_hour": 1.0}
EXPECTED = Expected(33.3333333, 12.0, 1.25, 3600.0, 0.12, 0.995, 1000.0, 200.0, 2.5)


def config_of(text: str) -> ClusterConfig:
    """The site file as it is read."""
    return ClusterConfig.model_validate(yaml.safe_load(text))


def entry(name: str, owned: int = 0, reserved: int = 0, rented: int = 0) -> PoolPlan:
    """So many replicas of a technology."""
    return PoolPlan(name, "p", "m", "gpu", 1.0, owned, reserved, rented, 0, 1.0, 1.0, 1.0, 0.1, 0.5, 0.3, 1000.0)


def plan(*pools: PoolPlan, **fields: Any) -> Plan:
    """A plan of nothing but these."""
    trace = TraceFacts("t.csv", "requests", 100, 7 * 86_400.0, 1.0, 0, 1000.0, 200.0, 1.0, 3.0)
    rest: dict[str, Any] = {"made_at": AT, "partial": False, "warnings": (), "trace": trace, "expected": EXPECTED}
    rest |= {"horizon_years": 3.0, "costs": Costs(1, 1, 1, 1, 1), "usd_per_hour": Spread(5, 4, 5, 6, 7)}
    return Plan(pools=pools, all_api_usd_per_hour=50.0, **{**rest, **fields})


def parts(config: ClusterConfig) -> dict[str, tuple[int, int, float | str]]:
    """Pools with their bounds, and USD an hour where they are rented, the GPU where they are owned."""
    return {
        p.name: (p.replicas.min, p.replicas.max, p.rental.usd_per_hour if p.rental else p.hardware and p.hardware.gpu)  # type: ignore[misc]
        for p in config.pools
    }
