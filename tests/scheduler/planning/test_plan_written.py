"""A plan becomes the file that an operator runs: the planned pools, what is expected of them, and comments still there."""

from __future__ import annotations

import difflib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.config import ClusterConfig, load
from scheduler.planning.document import Costs, Expected, Plan, PoolPlan, Spread, TraceFacts
from scheduler.planning.policy import notes, written
from scheduler.planning.technologies import PlanError, technologies_of
from scheduler.simulation.site import site_of
from tests.support.sites import pool, provider, site

ROOT = Path(__file__).resolve().parents[3]
BASELOAD = Path(sys.executable).with_name("baseload")
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
      gpus_per_replica: 2
      curve: {CURVE}
      energy: {ENERGY}
      hardware: {{gpu: 2xH200, gpu_count: 2, purchase_price_usd: 75000, amortization_years: 5}}
      rental: {{gpu: 2xH200, gpu_count: 2, usd_per_hour: 7.0}}
      reserved_usd_per_hour: 5.0
      engine_args: {{tensor_parallel_size: 2}}
    - name: llama-8b-l40s # cheap
      pool: llama-8b
      gpus_per_replica: 1
      curve: {CURVE}
      energy: {ENERGY}
      rental: {{gpu: L40S, usd_per_hour: 0.9}}
"""
TEXT = (ROOT / "examples" / "h100-site.yaml").read_text(encoding="utf-8") + CANDIDATES
EXPECTED = Expected(33.3333333, 12.0, 1.25, 3600.0, 0.12, 0.995, 1000.0, 200.0, 2.5)


def config_of(text: str) -> ClusterConfig:
    return ClusterConfig.model_validate(yaml.safe_load(text))


def entry(name: str, owned: int = 0, reserved: int = 0, rented: int = 0) -> PoolPlan:
    return PoolPlan(name, "p", "m", "gpu", 1.0, owned, reserved, rented, 0, 1.0, 1.0, 1.0, 0.1, 0.5, 0.3, 1000.0)


def plan(*pools: PoolPlan, **fields: Any) -> Plan:
    trace = TraceFacts("t.csv", "requests", 100, 7 * 86_400.0, 1.0, 0, 1000.0, 200.0, 1.0, 3.0)
    rest: dict[str, Any] = {"made_at": AT, "partial": False, "warnings": (), "trace": trace, "expected": EXPECTED}
    rest |= {"horizon_years": 3.0, "costs": Costs(1, 1, 1, 1, 1), "usd_per_hour": Spread(5, 4, 5, 6, 7)}
    return Plan(pools=pools, all_api_usd_per_hour=50.0, **{**rest, **fields})


def test_a_pool_has_what_stays_at_least_and_what_is_rented_on_top() -> None:
    config = config_of(TEXT)
    made = plan(entry("llama-8b", owned=5), entry("llama-8b-h200", 2, 1, 3))
    pools = {p.name: p for p in config_of(written(TEXT, config, made)).pools}
    assert (pools["llama-8b"].replicas.min, pools["llama-8b"].replicas.max) == (5, 5)
    assert (pools["llama-8b-h200"].replicas.min, pools["llama-8b-h200"].replicas.max) == (3, 6)


def test_a_chosen_candidate_is_the_pool_that_it_was_planned_as() -> None:
    config = config_of(TEXT)
    after = config_of(written(TEXT, config, plan(entry("llama-8b", 4), entry("llama-8b-h200", 2))))
    origin, made = after.pools
    assert (made.name, made.model, made.site, made.start_s, made.gate) == (
        "llama-8b-h200", origin.model, origin.site, origin.start_s, origin.gate,
    )  # fmt: skip
    assert made.engine.kind == "vllm"
    assert (made.engine.path, made.engine.gpus_per_replica) == ("/srv/models/llama-8b", 2)
    assert made.engine.args == {"tensor_parallel_size": 2, "max_num_seqs": 256, "max_num_batched_tokens": 512}
    candidate = config.planning.candidates[0]
    assert (made.curve, made.energy, made.hardware, made.rental) == (
        candidate.curve,
        candidate.energy,
        candidate.hardware,
        None,
    )
    assert [c.name for c in after.planning.candidates] == ["llama-8b-l40s"]
    before = {t.name: t for t in technologies_of(config, 0.0)}["llama-8b-h200"]
    planned = {t.name: t for t in technologies_of(after, 0.0)}["llama-8b-h200"]
    assert planned.owned_usd_per_hour == before.owned_usd_per_hour
    assert (planned.curve, planned.gpus_per_replica) == (before.curve, before.gpus_per_replica)


def test_what_is_rented_or_reserved_is_priced_by_its_rent() -> None:
    config = config_of(TEXT)
    rented = config_of(written(TEXT, config, plan(entry("llama-8b", 4), entry("llama-8b-h200", 1, 0, 2)))).pools[1]
    assert rented.rental == config.planning.candidates[0].rental
    assert rented.hardware is None
    reserved = config_of(written(TEXT, config, plan(entry("llama-8b", 4), entry("llama-8b-h200", 0, 2)))).pools[1]
    assert reserved.rental is not None
    assert reserved.rental.usd_per_hour == 5.0
    assert reserved.rental.gpu_count == 2.0


def test_a_pool_that_goes_stays_open_as_a_candidate_of_its_heir() -> None:
    config = config_of(TEXT)
    after = config_of(written(TEXT, config, plan(entry("llama-8b"), entry("llama-8b-h200", 2))))
    assert [p.name for p in after.pools] == ["llama-8b-h200"]
    assert {c.name: c.pool for c in after.planning.candidates} == {
        "llama-8b-l40s": "llama-8b-h200",
        "llama-8b": "llama-8b-h200",
    }
    back = {t.name: t for t in technologies_of(after, 0.0)}["llama-8b"]
    assert back.owned_usd_per_hour == {t.name: t for t in technologies_of(config, 0.0)}["llama-8b"].owned_usd_per_hour


def test_with_nothing_at_home_no_pool_and_no_candidate_of_one_is_left() -> None:
    after = config_of(written(TEXT, config_of(TEXT), plan(entry("llama-8b"), entry("llama-8b-h200"))))
    assert after.pools == ()
    assert after.planning.candidates == ()
    assert len(after.providers) == 2


def test_what_the_plan_expects_is_in_the_file_and_tolerances_that_were_set_stay() -> None:
    config = config_of(TEXT)
    once = written(TEXT, config, plan(entry("llama-8b", 4)))
    expected = config_of(once).policy.expected
    assert expected is not None
    assert (expected.plan_made_at, expected.usd_per_hour, expected.trace_hours) == (AT, 33.3333, 168.0)
    assert (expected.requests_per_hour, expected.burst_share, expected.api_usd_per_mtok) == (3600.0, 0.12, 2.5)
    narrow = once.replace("{load: 0.2,", "{load: 0.3,")
    assert narrow != once
    again = config_of(written(narrow, config_of(narrow), plan(entry("llama-8b", 4), made_at="later"))).policy.expected
    assert again is not None
    assert (again.plan_made_at, again.tolerances.load) == ("later", 0.3)


def test_what_an_earlier_plan_expected_is_gone_where_this_one_expects_nothing() -> None:
    once = written(TEXT, config_of(TEXT), plan(entry("llama-8b", 4)))
    again = written(once, config_of(once), plan(entry("llama-8b", 6), made_at="later", expected=None))
    assert config_of(again).policy.expected is None
    assert "plan_made_at" not in again
    assert "  expected: null  # the plan of later expects nothing" in again
    assert {line for line in TEXT.splitlines() if "#" in line} - {"    replicas: {min: 4, max: 4} # 4 GPUs"} <= set(
        again.splitlines()
    )
    untouched = written(TEXT, config_of(TEXT), plan(entry("llama-8b", 4), expected=None))
    assert untouched == TEXT


def test_only_what_the_plan_changes_is_changed() -> None:
    after = written(TEXT, config_of(TEXT), plan(entry("llama-8b", 6), entry("llama-8b-h200", 2)))
    diff = list(difflib.unified_diff(TEXT.splitlines(), after.splitlines(), lineterm="", n=0))[2:]
    chosen = TEXT[TEXT.index("    - name: llama-8b-h200") : TEXT.index("    - name: llama-8b-l40s")].splitlines()
    gone = [line[1:] for line in diff if line.startswith("-")]
    assert gone == ["    replicas: {min: 4, max: 4} # 4 GPUs", *chosen]
    assert f"+    replicas: {{min: 6, max: 6}}  # plan of {AT}: 6 owned; before: 4 to 4" in diff
    assert f"+    # llama-8b-h200 is a pool by the plan of {AT}" in diff


def test_a_plan_that_changes_nothing_adds_what_it_expects_and_nothing_else() -> None:
    after = written(TEXT, config_of(TEXT), plan(entry("llama-8b", 4)))
    expected = after.index("  expected: #")
    end = after.index("\n\nplanning:")
    assert after[: expected - 1] + after[end:] == TEXT


def test_windows_line_ends_are_read() -> None:
    text = TEXT.replace("\n", "\r\n")
    after = config_of(written(text, config_of(text), plan(entry("llama-8b", 6))))
    assert after.pools[0].replicas.min == 6


def test_a_plan_of_another_file_is_refused() -> None:
    with pytest.raises(PlanError, match="another site file: this one knows no other-pool"):
        written(TEXT, config_of(TEXT), plan(entry("llama-8b", 4), entry("other-pool", 1)))


def test_a_price_that_the_file_does_not_give_is_refused() -> None:
    with pytest.raises(PlanError, match="llama-8b-l40s: the plan has 1 owned, the site file gives no price for that"):
        written(TEXT, config_of(TEXT), plan(entry("llama-8b", 4), entry("llama-8b-l40s", 1)))


def test_notes_say_what_is_left_to_do() -> None:
    told = " ".join(notes(config_of(TEXT), plan(entry("llama-8b-h200", 1, 0, 2), entry("llama-8b-l40s", rented=2))))
    assert "llama-8b-h200: some replicas are rented" in told
    assert "llama-8b-l40s: a pool is never empty" in told
    assert "policy.commitment.mode: enforce" in told
    assert notes(config_of(TEXT), plan(entry("llama-8b", 4))) == ()
    urls = config_of(yaml.safe_dump(site()))
    assert "3 servers are planned, engine.urls names 1" in notes(urls, plan(entry("own", 3)))[0]
    assert "expects nothing" in notes(urls, plan(entry("own", 1), expected=None))[0]
    assert not any(note.endswith(".") for note in (*notes(urls, plan(entry("own", 3), expected=None)), told))


def test_notes_say_of_a_pool_with_hardware_that_it_gets_no_rental() -> None:
    text = (
        TEXT + "  cloud:\n    - {pool: llama-8b, rental: {gpu: H100, usd_per_hour: 2.5}, reserved_usd_per_hour: 2.0}\n"
    )
    config, made = config_of(text), plan(entry("llama-8b", 3, 1, 2))
    pool_after = config_of(written(text, config, made)).pools[0]
    assert (pool_after.hardware, pool_after.rental) == (config.pools[0].hardware, None)
    told = notes(config, made)
    assert any("keeps its hardware and gets no rental" in note for note in told)
    assert any("reserved replicas count as owned" in note for note in told)
    assert not any("at the rent" in note for note in told)


replicas = st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 3))


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(st.tuples(replicas, replicas, replicas, replicas), st.sampled_from([None, True, False]))
def test_whatever_is_planned_the_file_can_be_used_and_has_it(
    counts: tuple[tuple[int, int, int], ...], flow: bool | None
) -> None:
    """A small site in three layouts; two pools of one model, one of another, each with its own hardware or rent."""
    rented = {"rental": {"gpu": "g", "usd_per_hour": 1.5}, "reserved_usd_per_hour": 1.0}
    hardware = {"gpu": "h", "purchase_price_usd": 2000, "amortization_years": 3}
    base = pool("own")
    made = {
        "pool": "own",
        "gpus_per_replica": 1,
        "curve": base["curve"],
        "energy": base["energy"],
        "hardware": hardware,
    }
    document = site(pools=[pool("own"), pool("other", model="large")], providers=[provider("cloud")])
    document["planning"] = {"candidates": [{"name": "new", **made, **rented}, {"name": "newer", **made, **rented}]}
    text = yaml.safe_dump(document, default_flow_style=flow, sort_keys=False)
    names = ("own", "other", "new", "newer")
    entries = [entry(name, *each) for name, each in zip(names, counts, strict=True)]
    after = config_of(written(text, config_of(text), plan(*entries)))
    assert {p.name: (p.replicas.min, p.replicas.max) for p in after.pools} == {
        e.name: (max(1, e.owned + e.reserved), e.owned + e.reserved + e.rented_max)
        for e in entries
        if e.owned + e.reserved + e.rented_max
    }
    assert {p.name: p.model for p in after.pools}.items() <= {**dict.fromkeys(names, "small"), "other": "large"}.items()
    assert after.policy.expected is not None


def test_a_written_file_boots_and_can_be_simulated(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(TEXT, encoding="utf-8")
    made = plan(entry("llama-8b"), entry("llama-8b-h200", 2, 1, 2), entry("llama-8b-l40s", rented=1))
    path.write_text(written(TEXT, load(path), made), encoding="utf-8")
    assert site_of(load(path), (), 0.0).capacity == {"llama-8b-h200": 5.0, "llama-8b-l40s": 1.0}
    checked = subprocess.run([BASELOAD, "check", path], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "2 pool(s)" in checked.stdout
    assert "no offer" not in checked.stdout
