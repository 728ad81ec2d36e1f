"""cluster.yaml is strict: whatever is wrong with it, the error names where and why, and nothing else is ever raised."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.config import ClusterConfig, ConfigError, load
from scheduler.config.demand import DEMO_KEY_SHA256
from tests.support.sites import pool, provider, site

EMBEDDED = Path(__file__).parents[2] / "cluster.yaml"
EMBEDDED_DOCUMENT: dict[str, Any] = yaml.safe_load(EMBEDDED.read_text(encoding="utf-8"))


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def written(content: Any) -> Path:
        path = tmp_path / "site.yaml"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
        return path

    return written


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems


def bent(where: str, value: Any, **sections: Any) -> dict[str, Any]:
    """The small site with ``value`` at the dotted path ``where``."""
    document = site(**sections)
    at: Any = document
    *parents, last = [int(part) if part.isdigit() else part for part in where.split(".")]
    for part in parents:
        at = at.setdefault(part, {}) if isinstance(at, dict) else at[part]
    at[last] = value
    return document


def test_a_sound_file_loads_and_knows_its_directory(write: Any) -> None:
    path = write(site())
    config = load(str(path))
    assert [p.name for p in config.pools] == ["own"]
    assert config.directory == str(path.parent.resolve())


@pytest.mark.parametrize(
    ("where", "path"),
    [
        ("colour", "colour: unknown field"),
        ("sites.0.colour", "sites[0].colour: unknown field"),
        ("pools.0.engine.colour", "pools[0].engine.url.colour: unknown field"),
        ("policy.bounds.colour", "policy.bounds.colour: unknown field"),
    ],
)
def test_an_unknown_field_is_named_with_its_path(write: Any, where: str, path: str) -> None:
    assert problems(write(bent(where, 1))) == [path]


@pytest.mark.parametrize(
    ("where", "path"),
    [
        ("sites.0.zone", "sites[0].zone: 'nowhere' is not declared under zones"),
        ("pools.0.site", "pools[0].site: 'nowhere' is not declared under sites"),
        ("pools.0.model", "pools[0].model: 'nowhere' is not declared under models"),
        ("providers.0.zone", "providers[0].zone: 'nowhere' is not declared under zones"),
        ("providers.0.models.0.model", "providers[0].models[0].model: 'nowhere' is not declared under models"),
        ("labels.0.zones.0", "labels[0].zones[0]: 'nowhere' is not declared under zones"),
        ("tenants.0.zones.1", "tenants[0].zones[1]: 'nowhere' is not declared under zones"),
        (
            "tenants.0.service_classes.0",
            "tenants[0].service_classes[0]: 'nowhere' is not declared under service_classes",
        ),
        ("aliases.0.models.0", "aliases[0].models[0]: 'nowhere' is not declared under models"),
    ],
)
def test_a_name_that_nothing_declares_is_named_with_its_path_and_what_is_known(
    write: Any, where: str, path: str
) -> None:
    document = bent(where, "nowhere", aliases=[{"name": "any-of", "models": ["small"]}])
    found = problems(write(document))
    assert any(problem.startswith(path) and "known: " in problem for problem in found), found


def test_an_adapter_must_serve_a_declared_model(write: Any) -> None:
    engine = {"kind": "vllm", "path": "w", "adapters": [{"model": "nowhere", "path": "p"}]}
    (problem,) = problems(write(bent("pools.0.engine", engine)))
    assert problem.startswith("pools[0].engine.adapters[0].model: 'nowhere'")


def test_every_dangling_name_is_listed_not_only_the_first(write: Any) -> None:
    document = bent("sites.0.zone", "one")
    document["pools"][0]["model"] = "two"
    found = problems(write(document))
    assert any("'one'" in problem for problem in found)
    assert any("'two'" in problem for problem in found)


@pytest.mark.parametrize(
    "section", ["sites", "models", "aliases", "pools", "providers", "service_classes", "labels", "tenants"]
)
def test_no_section_holds_a_name_twice(write: Any, section: str) -> None:
    document = site(aliases=[{"name": "any-of", "models": ["small"]}])
    document[section] = [*document[section], copy.deepcopy(document[section][0])]
    last = len(document[section]) - 1
    assert f"{section}[{last}].name: {document[section][0]['name']!r} is there twice" in problems(write(document))


def test_one_key_cannot_open_two_tenants(write: Any) -> None:
    document = site()
    document["tenants"].append(document["tenants"][0] | {"name": "u"})
    assert problems(write(document)) == ["tenants[1].keys[0]: the same key also opens tenant 't'"]


@pytest.mark.parametrize(
    "text", ["version: 1\nzones: [a]\nzones: [b]\n", "version: 1\nsites:\n - {name: a, name: b}\n"]
)
def test_a_key_given_twice_in_one_mapping_is_refused(write: Any, text: str) -> None:
    (problem,) = problems(write(text))
    assert "is there twice" in problem
    assert "line " in problem


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("version", 2),
        ("zones", []),
        ("zones.0", "Not A Name"),
        ("sites.0.electricity.usd_per_kwh", -0.1),
        ("sites.0.electricity.usd_per_kwh", float("inf")),
        ("sites.0.electricity.usd_per_kwh", float("nan")),
        ("sites.0.electricity.pue", 0.9),
        ("models.0.context_tokens", 0),
        ("models.0.quality.low", 1.01),
        ("models.0.quality.low", float("nan")),
        ("pools.0.curve.prefill_tokens_per_s", 0),
        ("pools.0.curve.seqs_max", 0),
        ("pools.0.replicas", {"min": 3, "max": 2}),
        ("pools.0.replicas", {"min": -1, "max": 2}),
        ("pools.0.replicas", {"min": 0, "max": 0}),
        ("pools.0.gate", {"waiting_max": -1}),
        ("pools.0.engine.kind", "telepathy"),
        ("pools.0.engine.urls", []),
        ("pools.0.engine.urls.0", "ftp://x"),
        ("pools.0.hardware.amortization_years", 0),
        ("pools.0.hardware.amortization_years", 1e6),
        ("pools.0.hardware.utilization_standard", 0),
        ("providers.0.base_url", ""),
        ("providers.0.models", []),
        ("providers.0.models.0.price", "free"),
        ("providers.0.models.0.price.input", -1),
        ("providers.0.simulated", {}),
        ("service_classes.0.deadline_s", 0),
        ("tenants.0.keys", []),
        ("tenants.0.keys.0.sha256", "abc"),
        ("tenants.0.keys.0.env", "BOTH_GIVEN"),
        ("tenants.0.budget", {"usd": 0}),
        ("tenants.0.budget", {"usd": 1, "per": "week"}),
        ("policy.bid_prefilter", 1.5),
        ("policy.triage", "no-colon"),
        ("policy.bounds.concurrent_max", 0),
        ("controller.port", 70_000),
    ],
)
def test_an_impossible_value_is_refused_at_its_path(write: Any, where: str, value: Any) -> None:
    first = where.split(".")[0]
    found = problems(write(bent(where, value)))
    assert len(found) >= 1
    assert all(problem.startswith(first) for problem in found), found


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("policy.attempts_max", "4"),
        ("policy.attempts_max", True),
        ("policy.attempts_max", 4.0),
        ("sites.0.electricity.usd_per_kwh", "0.3"),
        ("policy.lease_ttl_s", True),
        ("air_gapped", "off"),
        ("controller.port", "8081"),
    ],
)
def test_no_value_is_read_as_another_type(write: Any, where: str, value: Any) -> None:
    assert all(problem.startswith(where.replace(".0", "[0]")) for problem in problems(write(bent(where, value))))


def test_the_published_demonstration_key_must_stay_on_this_machine(write: Any) -> None:
    (problem,) = problems(write(bent("tenants.0.keys", [{"sha256": DEMO_KEY_SHA256}])))
    assert problem.startswith("tenants[0].keys[0]")
    assert "loopback_only" in problem
    load(write(bent("tenants.0.keys", [{"sha256": DEMO_KEY_SHA256, "loopback_only": True}])))


def test_an_air_gapped_site_has_no_provider_but_a_simulated_one(write: Any) -> None:
    assert problems(write(bent("air_gapped", True))) == ["providers[0]: air_gapped is on, so 'cloud' may not be here"]
    simulated = provider("cloud") | {"kind": "simulated", "base_url": "", "simulated": {}}
    assert load(write(bent("air_gapped", True, providers=[simulated]))).air_gapped


def test_a_provider_may_not_claim_a_zone_of_our_own_sites(write: Any) -> None:
    (problem,) = problems(write(site(providers=[provider("cloud", zone="home")])))
    assert problem.startswith("providers[0].zone: 'home' is a zone of our own sites")


CARD = {"name": "card", "gpus_per_replica": 1, **{key: pool("own")[key] for key in ("curve", "energy")}}


@pytest.mark.parametrize(("section", "item"), [("cloud", {}), ("candidates", CARD)])
def test_what_a_plan_may_rent_is_in_the_zone_of_the_pool_that_it_stands_in_for(
    write: Any, section: str, item: dict[str, Any]
) -> None:
    offered = item | {"pool": "own", "rental": {"usd_per_hour": 1.0}}
    load(write(bent(f"planning.{section}", [offered | {"zone": "home"}])))
    for zone in ("cloud", "nowhere"):  # the second is declared nowhere
        (problem,) = problems(write(bent(f"planning.{section}", [offered | {"zone": zone}])))
        assert problem.startswith(f"planning.{section}[0].zone: {zone!r} is not 'home', where 'own' is")


@pytest.mark.parametrize("price", [{"rental": {"usd_per_hour": 1.0}}, {"reserved_usd_per_hour": 1.0}])
def test_a_candidate_that_is_rented_has_to_say_where_it_is(write: Any, price: dict[str, Any]) -> None:
    (problem,) = problems(write(bent("planning.candidates", [CARD | {"pool": "own"} | price])))
    assert problem.startswith("planning.candidates[0]: zone: ")
    load(write(bent("planning.candidates", [CARD | {"pool": "own", "hardware": pool("own")["hardware"]}])))


def test_auto_cannot_be_redefined(write: Any) -> None:
    (problem,) = problems(write(site(aliases=[{"name": "auto", "models": ["small"]}])))
    assert problem.startswith("aliases[0].name: 'auto'")


def rentable(**fields: Any) -> dict[str, Any]:
    """A pool that may be empty, beside the small site's own."""
    return pool("cloud-gpus", **({"engine": {"kind": "vllm", "path": "w"}, "replicas": {"min": 0, "max": 4}} | fields))


@pytest.mark.parametrize("mode", ["enforce", "advisory"])
def test_a_pool_may_be_empty_beside_one_of_its_model_and_zone_that_is_not(write: Any, mode: str) -> None:
    document = bent("policy.commitment", {"mode": mode}, pools=[pool("own"), rentable(site="there")])
    document["sites"].append(document["sites"][0] | {"name": "there"})
    assert load(write(document)).pools[1].replicas.min == 0


@pytest.mark.parametrize(
    ("fields", "mode", "said"),
    [
        ({"engine": {"kind": "url", "urls": ["http://a.test"]}}, "enforce", "kind url is not ours to start and stop"),
        (
            {"engine": {"kind": "ray-serve-llm", "llm_config": {}, "upstream_model": "m"}},
            "enforce",
            "kind ray-serve-llm is not ours to start and stop",
        ),
        ({"model": "large"}, "enforce", "a pool of 'large' in the same zone with min 1 or more"),
        ({"site": "elsewhere"}, "enforce", "a pool of 'small' in the same zone with min 1 or more"),
        ({}, "off", "policy.commitment.mode is off"),
    ],
)
def test_a_pool_that_nobody_would_ever_start_may_not_be_empty(
    write: Any, fields: dict[str, Any], mode: str, said: str
) -> None:
    document = bent("policy.commitment", {"mode": mode}, pools=[pool("own"), rentable(**fields)], zones=["home", "b"])
    document["sites"].append(document["sites"][0] | {"name": "elsewhere", "zone": "b"})
    document |= {"providers": [], "labels": [], "tenants": [document["tenants"][0] | {"zones": ["home", "b"]}]}
    (problem,) = problems(write(document))
    assert problem.startswith("pools[1].replicas.min: 'cloud-gpus' cannot be empty: ") and said in problem


def test_two_pools_that_may_be_empty_do_not_stand_for_each_other(write: Any) -> None:
    pools = [rentable(), rentable() | {"name": "other"}]
    assert len(problems(write(bent("policy.commitment", {"mode": "enforce"}, pools=pools)))) == 2


def test_a_file_without_any_source_is_refused(write: Any) -> None:
    assert problems(write(site(pools=[], providers=[]))) == ["pools, providers: at least one source is needed"]
    load(write(site(pools=[pool("own")], providers=[])))


@pytest.mark.parametrize("content", ["", "[]", "- version: 1", "7", "null", "just words"])
def test_a_file_that_is_no_mapping_is_refused(write: Any, content: str) -> None:
    assert problems(write(content)) == ["(root): must be a mapping with `version: 1`"]


@pytest.mark.parametrize(
    "content",
    [
        "version: [1",
        "a: *nobody",
        "? [a, b]\n: c",
        "a: !!python/object/apply:os.system [ls]",
        "a: 2024-13-45",
        "a: !!int twelve",
        "a: " + "9" * 5000,
        "[" * 5000,
        b"version: 1\nzones: \xff\xfe",
        b"\x00",
    ],
)
def test_text_that_is_no_yaml_is_refused_with_a_reason(write: Any, content: Any) -> None:
    (problem,) = problems(write(content))
    assert problem.startswith(("not YAML: ", "cannot be read: "))


def test_a_huge_file_is_refused_unread(write: Any) -> None:
    assert problems(write(b"#" * (4 * 1024 * 1024 + 1))) == ["larger than 4194304 bytes"]


def test_a_file_that_is_not_there_or_is_a_directory_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yaml", tmp_path):
        (problem,) = problems(path)
        assert problem.startswith("cannot be read: ")


def test_the_loaded_configuration_cannot_be_changed(write: Any) -> None:
    config = load(write(site()))
    with pytest.raises(ValueError, match="frozen"):
        config.air_gapped = True  # type: ignore[misc]


# ---- Any damage at all ----------------------------------------------------------------------------------------------

names = st.sampled_from(
    ["tiny", "frontier", "here", "on-prem", "nowhere", "", "any", "litellm", "A b", "env", "x" * 70]
)
scalars = st.none() | st.booleans() | st.integers(-2, 10**6) | st.floats() | names | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | st.integers(), inner, max_size=3),
    max_leaves=5,
)


def places(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    keys: Any = node.keys() if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        yield (*above, key)
        yield from places(node[key], (*above, key))


def damage(document: dict[str, Any], data: st.DataObject) -> None:
    where = data.draw(st.sampled_from(sorted(places(document), key=repr)))
    at: Any = document
    for key in where[:-1]:
        at = at[key]
    how = data.draw(st.sampled_from(["delete", "replace", "add", "double"]))
    if how == "delete":
        del at[where[-1]]
    elif how == "replace":
        at[where[-1]] = data.draw(values)
    elif how == "add" and isinstance(at, dict):
        at[data.draw(names | st.text(max_size=5) | st.integers(0, 3))] = data.draw(values)
    elif isinstance(at, list):
        at.append(copy.deepcopy(at[where[-1]]))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_loads_or_says_where_it_is_damaged_and_never_breaks_the_loader(write: Any, data: Any) -> None:
    document = copy.deepcopy(EMBEDDED_DOCUMENT)
    for _ in range(data.draw(st.integers(1, 3))):
        if document:
            damage(document, data)
    text = yaml.dump(document, allow_unicode=data.draw(st.booleans()))
    path = write(text.encode("utf-8", "surrogatepass"))
    try:
        config = load(path)
    except ConfigError as error:
        assert error.problems
        for problem in error.problems:
            where, colon, reason = problem.partition(": ")
            assert where, problem
            assert colon, problem
            assert reason, problem
        return
    assert isinstance(config, ClusterConfig)
    # What loads can be used: every name that is referred to exists, and everything can be priced.
    from pricing import board

    priced = board.price(config, 0.0)
    assert {o.zone for o in priced.offers} <= set(config.zones)


def test_the_embedded_file_itself_is_sound() -> None:
    assert load(EMBEDDED).version == 1
