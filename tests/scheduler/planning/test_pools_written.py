"""What is owned, reserved and rented of a technology becomes a pool each, and the next plan sees one technology again."""

from __future__ import annotations

import dataclasses
import difflib

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.config import ClusterConfig
from scheduler.planning.document import Plan
from scheduler.planning.policy import notes, written
from scheduler.planning.requests import homes_of
from scheduler.planning.technologies import PlanError, technologies_of
from scheduler.simulation.mix import default_mix, resolve
from tests.scheduler.planning import worlds
from tests.scheduler.planning.written_plans import AT, CLOUD, PLAIN, RENTED, TEXT, config_of, entry, parts, plan
from tests.support.sites import pool, provider, site

OWNED, RENT, RESERVED = "2xH200", 7.0, 5.0


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((2, 0, 0), {"": (2, 2, OWNED)}),
        ((0, 2, 0), {"": (2, 2, RESERVED)}),
        ((0, 0, 3), {"": (1, 3, RENT)}),
        ((2, 1, 0), {"": (2, 2, OWNED), "-reserved": (1, 1, RESERVED)}),
        ((2, 0, 3), {"": (2, 2, OWNED), "-cloud": (0, 3, RENT)}),
        ((0, 1, 3), {"": (1, 1, RESERVED), "-cloud": (0, 3, RENT)}),
        ((2, 1, 3), {"": (2, 2, OWNED), "-reserved": (1, 1, RESERVED), "-cloud": (0, 3, RENT)}),
    ],
)
def test_what_is_owned_reserved_and_rented_is_a_pool_each_with_its_own_price(
    counts: tuple[int, int, int], expected: dict[str, tuple[int, int, float | str]]
) -> None:
    """A candidate that is chosen, and the same GPU as a pool that is there, with an offer of a cloud."""
    config = config_of(TEXT)
    after = config_of(written(TEXT, config, plan(entry("llama-8b", 4), entry("llama-8b-h200", *counts))))
    assert list(parts(after).items()) == [
        ("llama-8b", (4, 4, "1xH100")),
        *((f"llama-8b-h200{name}", part) for name, part in expected.items()),
    ]
    again = config_of(written(CLOUD, config_of(CLOUD), plan(entry("llama-8b", *counts))))
    own = {"2xH200": "1xH100", 7.0: 2.5, 5.0: 2.0}
    assert parts(again) == {f"llama-8b{name}": (n, m, own[price]) for name, (n, m, price) in expected.items()}


def test_a_pool_beside_another_differs_from_it_in_name_number_and_price_only() -> None:
    main, reserved, cloud = config_of(written(CLOUD, config_of(CLOUD), plan(entry("llama-8b", 2, 1, 3)))).pools
    for other in (reserved, cloud):
        named = {"name": main.name, "replicas": main.replicas, "hardware": main.hardware, "rental": None}
        assert other.model_copy(update=named) == main
    assert reserved.rental is not None
    assert (reserved.rental.gpu, reserved.rental.gpu_count, reserved.rental.idle_watts) == ("gpu", 1.0, 90.0)
    assert cloud.rental == config_of(CLOUD).planning.cloud[0].rental


def test_a_pool_of_rented_replicas_has_the_name_that_the_file_gives_it() -> None:
    text = CLOUD.replace("pool: llama-8b, zone", "pool: llama-8b, cloud_pool: burst, zone")
    once = written(text, config_of(text), plan(entry("llama-8b", 4, 0, 2)))
    assert [p.name for p in config_of(once).pools] == ["llama-8b", "burst"]
    assert config_of(written(once, config_of(once), plan(entry("llama-8b", 4, 0, 3)))).pools[1].replicas.max == 3
    named = TEXT.replace("      engine_args: {tensor_parallel_size: 2}", "      cloud_pool: burst")
    chosen = written(named, config_of(named), plan(entry("llama-8b", 4), entry("llama-8b-h200", 1, 0, 2)))
    assert [p.name for p in config_of(chosen).pools] == ["llama-8b", "llama-8b-h200", "burst"]
    assert [t.name for t in technologies_of(config_of(chosen), 0.0)] == ["llama-8b", "llama-8b-h200", "llama-8b-l40s"]


def test_the_next_plan_changes_the_pools_that_the_last_one_made() -> None:
    once = written(CLOUD, config_of(CLOUD), plan(entry("llama-8b", 4, 1, 3)))
    more = written(once, config_of(once), plan(entry("llama-8b", 4, 1, 5), made_at="later"))
    changed = [line[1:] for line in difflib.ndiff(once.splitlines(), more.splitlines()) if line[0] in "+-"]
    replicas = [line.strip() for line in changed if "replicas:" in line]
    assert replicas == [
        "replicas: {min: 0, max: 3}", "replicas: {min: 0, max: 5}  # plan of later: up to 5 rented; before: 0 to 3",
    ]  # fmt: skip
    assert all("replicas" in line or "plan_made_at" in line for line in changed)
    assert written(more, config_of(more), plan(entry("llama-8b", 4, 1, 5), made_at="later")) == more
    less = written(more, config_of(more), plan(entry("llama-8b", 4), made_at="last"))
    assert [p.name for p in config_of(less).pools] == ["llama-8b"]
    assert "  # plan of last: none of llama-8b-cloud" in less
    assert config_of(less).planning == config_of(CLOUD).planning


def test_a_written_file_has_each_technology_once_and_its_requests_go_to_it() -> None:
    after = config_of(written(CLOUD, config_of(CLOUD), plan(entry("llama-8b", 4, 1, 3))))
    (before,), (found,) = technologies_of(config_of(CLOUD), 0.0), technologies_of(after, 0.0)
    assert dataclasses.replace(found, replicas_now=before.replicas_now) == before
    assert (before.replicas_now, found.replicas_now) == (4, 5)
    profiles = resolve(default_mix(after), after)
    assert {names for p in homes_of(after, profiles, (found,)) if (names := p.pools)} == {frozenset({"llama-8b"})}


def test_what_is_no_longer_owned_can_be_owned_again() -> None:
    config = config_of(CLOUD)
    reserved = written(CLOUD, config, plan(entry("llama-8b", 0, 2, 3)))
    assert "    hardware: null  # plan of" in reserved
    (offer,) = config_of(reserved).planning.cloud
    assert (offer.hardware, offer.reserved_pool) == (config.pools[0].hardware, "llama-8b")
    (found,) = technologies_of(config_of(reserved), 0.0)
    assert found.replicas_now == 2
    assert dataclasses.replace(found, replicas_now=4) == technologies_of(config, 0.0)[0]
    again = config_of(written(reserved, config_of(reserved), plan(entry("llama-8b", 4, 2, 3))))
    assert parts(again) == {
        "llama-8b": (4, 4, "1xH100"), "llama-8b-reserved": (2, 2, 2.0), "llama-8b-cloud": (0, 3, 2.5),
    }  # fmt: skip


def test_what_may_be_rented_stays_in_its_zone_while_pools_become_candidates_and_candidates_pools() -> None:
    text = TEXT + CLOUD[len(PLAIN) :].replace("\nplanning:\n", "")
    once = written(text, config_of(text), plan(entry("llama-8b"), entry("llama-8b-h200", 2, 0, 1)))
    after = config_of(once)
    assert {c.name: c.zone for c in after.planning.candidates} == {"llama-8b-l40s": "on-prem", "llama-8b": "on-prem"}
    assert [(offer.pool, offer.zone) for offer in after.planning.cloud] == [("llama-8b-h200", "on-prem")]
    back = config_of(written(once, after, plan(entry("llama-8b", 2, 0, 1), entry("llama-8b-h200"))))
    zones = {"llama-8b-l40s": "on-prem", "llama-8b-h200": "on-prem"}
    assert {c.name: c.zone for c in back.planning.candidates} == zones
    assert [(offer.pool, offer.zone) for offer in back.planning.cloud] == [("llama-8b", "on-prem")]


def test_whatever_is_rented_comes_and_goes_unless_the_file_says_otherwise() -> None:
    rents, bounds = plan(entry("llama-8b", 4, 0, 2)), "policy:\n  bounds: {concurrent_max: 4096}"
    assert bounds in CLOUD
    after = written(CLOUD, config_of(CLOUD), rents)
    assert config_of(after).policy.commitment.mode == "enforce"
    assert f"commitment: {{mode: enforce}}  # plan of {AT}: rented replicas come and go" in after
    assert not any("commitment" in note for note in notes(config_of(CLOUD), rents))
    for kept in (plan(entry("llama-8b", 4, 1)), plan(entry("llama-8b", rented=1))):  # nothing of it comes and goes
        assert config_of(written(CLOUD, config_of(CLOUD), kept)).policy.commitment.mode == "advisory"
    some = CLOUD.replace(bounds, f"{bounds}\n  commitment: {{every_s: 30.0}}")
    assert config_of(written(some, config_of(some), rents)).policy.commitment.mode == "enforce"
    without = CLOUD.replace(bounds, "").replace("policy:\n", "")
    assert config_of(written(without, config_of(without), rents)).policy.commitment.mode == "enforce"
    told = CLOUD.replace(bounds, f"{bounds}\n  commitment: {{mode: advisory}}")
    left = config_of(written(told, config_of(told), rents))
    assert (left.policy.commitment.mode, [p.name for p in left.pools]) == ("advisory", ["llama-8b", "llama-8b-cloud"])
    assert "mode: enforce; the file says advisory, and that stays" in " ".join(notes(config_of(told), rents))


@pytest.mark.parametrize("mode", ["off", "advisory"])
def test_of_what_is_only_rented_one_replica_runs_where_nothing_starts_another(mode: str) -> None:
    told = TEXT.replace("policy:\n", f"policy:\n  commitment: {{mode: '{mode}'}}\n")
    config, made = config_of(told), plan(entry("llama-8b", 4), entry("llama-8b-l40s", rented=3))
    assert notes(config, made) == (
        "llama-8b-l40s: nothing of it is owned or reserved, so that one of up to 3 rented replicas runs, all the time",
        f"replicas are rented by the hour only with policy.commitment.mode: enforce; the file says {mode}, and that stays",
    )
    left = config_of(written(told, config, made))
    assert (left.policy.commitment.mode, parts(left)["llama-8b-l40s"]) == (mode, (1, 3, 0.9))
    assert notes(config, plan(entry("llama-8b", 4), entry("llama-8b-l40s", rented=1))) == (
        "llama-8b-l40s: nothing of it is owned or reserved, so that one rented replica stays all the time",
    )


def test_a_pool_that_nobody_would_fill_is_not_written() -> None:
    told = CLOUD.replace("policy:\n", "policy:\n  commitment: {mode: 'off'}\n")
    with pytest.raises(PlanError, match=r"usable site file: (.|\n)*'llama-8b-cloud' cannot be empty"):
        written(told, config_of(told), plan(entry("llama-8b", 4, 0, 2)))


def test_a_written_file_scales_a_trace_as_the_one_that_it_was_made_of() -> None:
    trace, before = worlds.hours(200), config_of(CLOUD)
    for counts in ((4, 0, 3), (3, 1, 9), (0, 4, 5), (0, 0, 4)):  # four that stay, and four that are only rented
        after = config_of(written(CLOUD, before, plan(entry("llama-8b", *counts))))
        assert worlds.scenario(after, trace).copies == pytest.approx(worlds.scenario(before, trace).copies)


def test_a_name_that_belongs_to_something_else_is_refused_before_planning() -> None:
    document = yaml.safe_load(CLOUD)
    document["pools"].append(document["pools"][0] | {"name": "llama-8b-cloud", "start_s": 60})
    assert [t.name for t in technologies_of(ClusterConfig.model_validate(document), 0.0)] == ["llama-8b"]
    document["pools"][1]["curve"] = document["pools"][0]["curve"] | {"seqs_max": 64}
    with pytest.raises(PlanError, match="rented of llama-8b needs a pool llama-8b-cloud, and that name belongs to"):
        technologies_of(ClusterConfig.model_validate(document), 0.0)
    document["planning"]["cloud"][0]["cloud_pool"] = "burst"
    assert len(technologies_of(ClusterConfig.model_validate(document), 0.0)) == 2
    taken = TEXT.replace("name: llama-8b-h200", "name: llama-8b-cloud") + CLOUD[len(PLAIN) :].replace("planning:\n", "")
    with pytest.raises(PlanError, match="belongs to something else"):
        technologies_of(config_of(taken), 0.0)
    with pytest.raises(ValueError, match=r"cloud\[0\].cloud_pool: 'llama-8b-l40s' is there twice"):
        config_of(taken.replace("{pool: llama-8b, zone", "{pool: llama-8b, cloud_pool: llama-8b-l40s, zone"))
    with pytest.raises(ValueError, match="is the pool itself"):
        config_of(CLOUD.replace("pool: llama-8b, zone", "pool: llama-8b, cloud_pool: llama-8b, zone"))


def test_servers_that_are_not_ours_to_start_stay_one_pool_unless_there_is_a_second() -> None:
    document = site()
    document["planning"] = {"cloud": [{"pool": "own", "zone": "home", **RENTED}]}
    config, made = ClusterConfig.model_validate(document), plan(entry("own", 1, 1, 2))
    assert parts(config_of(written(yaml.safe_dump(document), config, made))) == {"own": (2, 4, "g")}
    assert "so that reserved and rented replicas count as owned in reports" in notes(config, made)[0]
    document["pools"].append(pool("own-cloud", hardware=None, rental=RENTED["rental"]))
    both = ClusterConfig.model_validate(document)
    assert parts(config_of(written(yaml.safe_dump(document), both, made))) == {
        "own": (2, 2, "g"),
        "own-cloud": (1, 2, 1.5),
    }
    assert [note.partition(":")[0] for note in notes(both, made)] == ["own", "own", "own-cloud"]
    assert [t.replicas_now for t in technologies_of(both, 0.0)] == [2]


replicas = st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 3))
fleets = st.tuples(replicas, replicas, replicas, replicas)
NAMES = ("own", "other", "new", "newer")


def planned(config: ClusterConfig, counts: tuple[tuple[int, int, int], ...]) -> Plan:
    """What a plan made of this file would say: of its own technologies."""
    known = {t.name for t in technologies_of(config, 0.0)} if config.pools else set()
    return plan(*(entry(name, *each) for name, each in zip(NAMES, counts, strict=True) if name in known))


def small(flow: bool | None, kind: str) -> str:
    """Two pools of one model, one of another, each with its own hardware, and two candidates; everything can be rented."""
    engine = {"kind": "vllm", "path": "/w", "args": {"max_num_seqs": 8}, "gpus_per_replica": 1}
    pools = [pool("own"), pool("other", model="large")]
    if kind == "vllm":
        pools = [each | {"engine": engine} for each in pools]
    document = site(pools=pools, providers=[provider("cloud")])
    hardware = {"gpu": "h", "purchase_price_usd": 2000, "amortization_years": 3, "idle_watts": 80}
    made = {"pool": "own", "zone": "home", "gpus_per_replica": 1, "hardware": hardware, **RENTED}
    candidates = [{"name": name, **made, **{key: pools[0][key] for key in ("curve", "energy")}} for name in NAMES[2:]]
    document["planning"] = {
        "candidates": candidates,
        "cloud": [{"pool": "own", "zone": "home", **RENTED}, {"pool": "other", "zone": "home", **RENTED}],
    }
    return yaml.safe_dump(document, default_flow_style=flow, sort_keys=False)


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(fleets, st.sampled_from([None, True, False]))
def test_whatever_is_planned_the_file_can_be_used_and_has_it(
    counts: tuple[tuple[int, int, int], ...], flow: bool | None
) -> None:
    """Servers that are not ours to start, so that each technology is one pool, in three layouts of the file."""
    text = small(flow, "url")
    made = planned(config_of(text), counts)
    after = config_of(written(text, config_of(text), made))
    assert {p.name: (p.replicas.min, p.replicas.max) for p in after.pools} == {
        e.name: (max(1, e.owned + e.reserved), e.owned + e.reserved + e.rented_max)
        for e in made.pools
        if e.owned + e.reserved + e.rented_max
    }
    assert {p.name: p.model for p in after.pools}.items() <= {**dict.fromkeys(NAMES, "small"), "other": "large"}.items()
    assert after.policy.expected is not None


@settings(max_examples=6, suppress_health_check=[HealthCheck.too_slow])
@given(fleets, fleets, st.sampled_from([None, True, False]))
def test_a_plan_of_a_written_file_is_written_as_if_it_were_the_first(
    first: tuple[tuple[int, int, int], ...], second: tuple[tuple[int, int, int], ...], flow: bool | None
) -> None:
    text = small(flow, "vllm")
    once = written(text, config_of(text), planned(config_of(text), first))
    after = config_of(once)
    again = written(once, after, planned(after, first))
    assert yaml.safe_load(again) == yaml.safe_load(once)
    prices = (
        "owned_usd_per_hour",
        "reserved_usd_per_hour",
        "rented_usd_per_hour",
        "idle_usd_per_hour",
        "curve",
        "model",
    )
    before = {t.name: t for t in technologies_of(config_of(text), 0.0)}
    had = {t.name: t for t in technologies_of(after, 0.0)} if after.pools else {}
    for name, technology in had.items():
        assert all(getattr(technology, of) == getattr(before[name], of) for of in prices)
    for name, each in zip(NAMES, first, strict=True):
        assert name not in had or had[name].replicas_now == (sum(each[:2]) or each[2])
    twice = config_of(written(once, after, planned(after, second)))
    direct = config_of(written(text, config_of(text), planned(config_of(text), second)))
    assert parts(twice).items() <= parts(direct).items()
    if len(had) == len(NAMES):
        assert parts(twice) == parts(direct)
