"""A plan becomes the file that an operator runs: the planned pools, what is expected of them, and comments still there."""

from __future__ import annotations

import difflib
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import yaml

from scheduler.config import load
from scheduler.planning.policy import notes, written
from scheduler.planning.technologies import PlanError, technologies_of
from scheduler.simulation.site import site_of
from tests.scheduler.planning.written_plans import AT, EXPECTED, TEXT, config_of, entry, plan
from tests.support.sites import site

BASELOAD = Path(sys.executable).with_name("baseload")


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


def test_what_each_hour_of_the_week_brings_is_in_the_file_where_the_plan_knows_it() -> None:
    of_week = tuple(100.0 + hour / 3.0 for hour in range(168))
    known = msgspec.structs.replace(EXPECTED, requests_by_hour_of_week=of_week)
    once = written(TEXT, config_of(TEXT), plan(entry("llama-8b", 4), expected=known))
    expected = config_of(once).policy.expected
    assert expected is not None
    assert expected.requests_by_hour_of_week == pytest.approx(of_week, rel=1e-3)
    assert len(once.splitlines()) - len(TEXT.splitlines()) < 30
    again = config_of(written(once, config_of(once), plan(entry("llama-8b", 4)))).policy.expected
    assert again is not None
    assert again.requests_by_hour_of_week == ()


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
    told = " ".join(notes(config_of(TEXT), plan(entry("llama-8b-h200", 1, 1, 2), entry("llama-8b-l40s", rented=2))))
    assert told == "llama-8b-l40s: nothing of it is owned or reserved, so that one rented replica stays all the time"
    assert notes(config_of(TEXT), plan(entry("llama-8b", 4))) == ()
    urls = config_of(yaml.safe_dump(site()))
    assert "3 servers are planned, engine.urls names 1" in notes(urls, plan(entry("own", 3)))[0]
    assert "expects nothing" in notes(urls, plan(entry("own", 1), expected=None))[0]
    assert not any(note.endswith(".") for note in (*notes(urls, plan(entry("own", 3), expected=None)), told))


def test_a_written_file_boots_and_can_be_simulated(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(TEXT, encoding="utf-8")
    made = plan(entry("llama-8b"), entry("llama-8b-h200", 2, 1, 2), entry("llama-8b-l40s", rented=1))
    path.write_text(written(TEXT, load(path), made), encoding="utf-8")
    names = ("llama-8b-h200", "llama-8b-h200-reserved", "llama-8b-h200-cloud", "llama-8b-l40s")
    assert site_of(load(path), (), 0.0).capacity == dict(zip(names, (2.0, 1.0, 2.0, 1.0), strict=True))
    checked = subprocess.run([BASELOAD, "check", path], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "4 pool(s)" in checked.stdout
    assert "no offer" not in checked.stdout
