"""Units: every request in one place, and the profiles of the simulator say the same of it as the columns do."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.config import ClusterConfig
from scheduler.planning.requests import PoolRequests, Requests, homes_of
from scheduler.planning.sizes import BUCKETS, bucket_of
from scheduler.planning.technologies import Technology, technologies_of
from scheduler.planning.units import Placement, Relabelled, placed, units_of
from scheduler.simulation.scenario import EPOCH_S, Scenario, Window
from scheduler.simulation.workload import Batch
from tests.support.planning_sites import BIG_GPU, SMALL_GPU, document, priced, scenario, window

SEEDS = st.integers(0, 2**32 - 1)
# Begins late and then reads fast: of who can wait it takes longer prompts than the slow GPU, of who cannot shorter ones.
LATE = SMALL_GPU | {"name": "late", "curve": SMALL_GPU["curve"] | {"prefill_tokens_per_s": 12_000, "ttft_base_s": 4.0}}
SLOW = SMALL_GPU["curve"] | {"prefill_tokens_per_s": 5_000}


def site() -> ClusterConfig:
    """The fleet with the slow GPU under its smallest model, and candidates that take other sizes."""
    found = document()
    found["pools"][0]["curve"] = SLOW
    return ClusterConfig.model_validate(found | {"planning": {"candidates": [LATE, BIG_GPU]}})


CONFIG = site()
PROFILES = 14


@cache
def made() -> Scenario:
    """The trace of the tests."""
    return scenario(CONFIG)


@cache
def technologies() -> tuple[Technology, ...]:
    """Of the fleet."""
    return technologies_of(CONFIG, EPOCH_S)


@cache
def real() -> Requests:
    """Its requests."""
    return priced(CONFIG, made())


def columns(seed: int, count: int, stands_for: float = 1.0) -> PoolRequests:
    """Requests of four profiles on two technologies: some do not fit one of them, some may not leave."""
    rng = np.random.default_rng(seed)
    work = rng.lognormal(0.0, 1.0, (2, count))
    lost = rng.integers(0, 8, count)  # 0, 1: does not fit there; 2: nowhere
    work[lost[lost < 2], np.flatnonzero(lost < 2)] = math.inf
    work[:, lost == 2] = math.inf
    elsewhere = np.where(rng.random(count) < 0.3, math.inf, rng.lognormal(-5.0, 1.0, count)).astype(np.float32)
    return PoolRequests(
        "llama-8b", technologies()[:1] + technologies()[3:4], np.sort(rng.random(count)), rng.integers(0, 4, count),
        rng.integers(1, 20_000, count), rng.integers(1, 500, count), elsewhere, work, rng.random((2, count)), stands_for,
    )  # fmt: skip


def requests(*pools: PoolRequests) -> Requests:
    """An hour of these."""
    return Requests(
        Window(0.0, 3_600.0),
        pools,
        pools[0].stands_for,
        sum(map(len, pools)),
        1.0,
        1.0,
        0.0,
        0.0,
        0.0,
        np.zeros(0),
        np.zeros(0),
    )


def placement(seed: int, of: int = 2, share: float = 1.0) -> Placement:
    """Anything goes anywhere; a ``share`` of profiles and buckets is placed at all."""
    rng = np.random.default_rng(seed)
    pairs = [(profile, bucket) for profile in range(PROFILES) for bucket in range(BUCKETS)]
    return {pair: int(rng.integers(of)) for pair in pairs if rng.random() < share}


@given(SEEDS, st.integers(0, 60), SEEDS, st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([1.0, 3.5]))
def test_placements_put_every_request_into_one_unit_or_let_it_stray(
    seed: int, count: int, other: int, share: float, stands_for: float
) -> None:
    pool, where = columns(seed, count, stands_for), placement(other, share=share)
    units, stray_usd = units_of(requests(pool), {"llama-8b": where})
    bucket, expected, strays = bucket_of(pool.input_tokens), {0: list[int](), 1: list[int]()}, 0.0
    for row in range(count):
        technology = where.get((int(pool.profile[row]), int(bucket[row])), 0)
        if not math.isfinite(pool.work_s[technology, row]):
            technology = 1 - technology
        if math.isfinite(pool.work_s[technology, row]):
            expected[technology].append(row)
        elif math.isfinite(pool.elsewhere_usd[row]):
            strays += float(pool.elsewhere_usd[row]) * stands_for
    assert stray_usd == pytest.approx(strays)
    assert [unit.name for unit in units] == [pool.technologies[i].name for i in (0, 1) if expected[i]]
    for unit in units:
        place = [t.name for t in pool.technologies].index(unit.name)
        rows = expected[place]
        np.testing.assert_array_equal(unit.at_s, pool.at_s[rows])
        np.testing.assert_array_equal(unit.work_s, pool.work_s[place, rows])
        np.testing.assert_array_equal(unit.energy_usd, pool.energy_usd[place, rows])
        np.testing.assert_array_equal(unit.elsewhere_usd, pool.elsewhere_usd[rows])
        assert unit.tokens == pool.input_tokens[rows].sum() + pool.output_tokens[rows].sum()
        assert unit.stands_for == stands_for


def test_without_placements_everything_goes_to_the_first_technology_of_its_pool_that_it_fits() -> None:
    units, stray_usd = units_of(real(), {})
    counts = {unit.name: len(unit.at_s) for unit in units}
    for pool in real().pools:
        first = [technology.name for technology in pool.technologies]
        assert counts[first[0]] == np.isfinite(pool.work_s[0]).sum()
        assert sum(counts.get(name, 0) for name in first) == len(pool)
    assert counts["late"] > 0
    assert stray_usd == 0.0


def test_placements_of_profiles_that_no_request_has_are_passed_over() -> None:
    pool = columns(1, 40)
    where = {(profile, bucket): 1 for profile in range(4, PROFILES) for bucket in range(BUCKETS)}
    assert placed(pool, where).tolist() == placed(pool, {}).tolist()
    assert placed(columns(1, 0), where).tolist() == []


@given(SEEDS)
@settings(max_examples=20)
def test_the_simulator_plays_every_request_where_the_columns_have_it(seed: int) -> None:
    where = {"llama-8b": placement(seed), "qwen-32b": placement(seed + 1, share=0.7)}
    units, _ = units_of(real(), where)
    labels = Relabelled(homes_of(CONFIG, made().profiles, technologies()), technologies(), where)
    unit_of = np.array(labels.unit_of)
    batches = [labels.batch(batch) for batch in made().batches(window(made()))]
    at_s, name = np.concatenate([b.arrival_s for b in batches]), np.concatenate([unit_of[b.profile] for b in batches])
    for unit in units:
        np.testing.assert_array_equal(at_s[name == unit.name], unit.at_s)
    assert set(name) <= {"", *(unit.name for unit in units)}


def test_a_relabelled_batch_has_everything_but_its_profiles_from_the_original() -> None:
    profiles = homes_of(CONFIG, made().profiles, technologies())
    labels = Relabelled(profiles, technologies(), {"llama-8b": placement(5)})
    for batch in made().batches(window(made())):
        found = labels.batch(batch)
        for field in fields(Batch):
            if field.name != "profile":
                assert getattr(found, field.name) is getattr(batch, field.name)
        assert found.profile.dtype == batch.profile.dtype
        for before, after in zip(batch.profile.tolist(), found.profile.tolist(), strict=True):
            assert replace(labels.profiles[after], pools=None) == made().profiles[before]


def test_each_label_is_bound_to_the_one_technology_that_it_names() -> None:
    profiles = homes_of(CONFIG, made().profiles, technologies())
    labels = Relabelled(profiles, technologies(), {"llama-8b": placement(5)})
    assert (
        len(labels.profiles)
        == len(labels.unit_of)
        == len({(p.name, u) for p, u in zip(labels.profiles, labels.unit_of, strict=True)})
    )
    pool_of = {technology.name: technology.pool for technology in technologies()}
    home_of = {p.name: {pool_of[name] for name in p.pools or ()} for p in profiles}
    for profile, name in zip(labels.profiles, labels.unit_of, strict=True):
        assert profile.pools == ({name} if name else set())
        assert not name or {pool_of[name]} == home_of[profile.name]


def test_profiles_without_a_home_keep_none() -> None:
    profiles = [replace(profile, pools=frozenset()) for profile in made().profiles]
    labels = Relabelled(profiles, technologies(), {})
    assert labels.unit_of == [""] * PROFILES
    assert labels.profiles == profiles
    (batch, *_) = made().batches(window(made()))
    np.testing.assert_array_equal(labels.batch(batch).profile, batch.profile)
