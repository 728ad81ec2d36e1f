"""The mix file is as strict as cluster.yaml, and means what the gateway would make of the same request."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler.config import ClusterConfig, ConfigError, load
from scheduler.core.market import ServiceClass
from scheduler.simulation.mix import DifficultyRange, Mix, ProfileSpec, default_mix, load_mix, resolve
from serving.access import Access
from tests.support.sites import KEY, site

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs" / "simulation-inputs.md"


def cluster(**sections: Any) -> ClusterConfig:
    return ClusterConfig.model_validate(site(**sections))


def mix(*profiles: dict[str, Any], **fields: Any) -> dict[str, Any]:
    plain = {"name": "p", "share": 1.0, "tenant": "t"}
    return {"version": 1, "profiles": [plain | profile for profile in profiles or ({},)], **fields}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def written(content: Any) -> Path:
        path = tmp_path / "mix.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
        return path

    return written


def problems(path: Path, config: ClusterConfig | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        resolve(load_mix(path), config or cluster())
    assert str(path) in str(caught.value)
    return caught.value.problems


def test_a_profile_says_little_and_the_tenant_says_the_rest(write: Any) -> None:
    (profile,) = resolve(load_mix(write(mix())), cluster())
    assert profile.service_class == ServiceClass("interactive", 5.0, 0.01, 0.0001, 0.01, usd_per_tpot_miss=0.01)
    assert profile.models is None
    assert profile.zones == {"home", "cloud"}
    assert (profile.difficulty_low, profile.difficulty_high) == (0.2, 0.2)
    assert profile.needs == {"chat"}
    assert not profile.budgeted
    assert (profile.usd_max, profile.deadline_s) == (1.0, 120.0)
    assert profile.output_tokens_max is None


def test_every_field_arrives(write: Any) -> None:
    fields = {
        "service_class": "batch",
        "model": "either",
        "zones": ["home"],
        "labels": ["public"],
        "difficulty": {"low": 0.1, "high": 0.7},
        "needs": ["chat", "tools"],
        "output_tokens_max": 99,
    }
    tenants = site()["tenants"]
    tenants[0]["budget"] = {"usd": 5}
    config = cluster(tenants=tenants, aliases=[{"name": "either", "models": ["small", "large"]}])
    loaded = load_mix(write(mix(fields, assign_by="session")))
    (profile,) = resolve(loaded, config)
    assert loaded.assign_by == "session"
    assert profile.service_class.name == "batch"
    assert profile.models == {"small", "large"}
    assert profile.zones == {"home"}
    assert (profile.difficulty_low, profile.difficulty_high) == (0.1, 0.7)
    assert profile.needs == {"chat", "tools"}
    assert profile.budgeted
    assert profile.deadline_s == 300.0
    assert profile.output_tokens_max == 99


def test_a_model_may_be_named_by_itself(write: Any) -> None:
    (profile,) = resolve(load_mix(write(mix({"model": "small"}))), cluster())
    assert profile.models == {"small"}


@pytest.mark.parametrize("labels", [[], ["restricted"], ["public"], ["public", "restricted"]])
@pytest.mark.parametrize("zones", [None, ["home"], ["cloud", "home"]])
def test_zones_are_narrowed_as_the_gateway_narrows_them(write: Any, labels: list[str], zones: list[str] | None) -> None:
    config = cluster()
    headers = {b"authorization": b"Bearer " + KEY.encode(), b"x-baseload-labels": ",".join(labels).encode()}
    if zones is not None:
        headers[b"x-baseload-zones"] = ",".join(zones).encode()
    access = Access(config)
    terms = access.terms(access.account(headers, None), headers, [])
    (profile,) = resolve(load_mix(write(mix({"labels": labels} | ({"zones": zones} if zones else {})))), config)
    assert profile.zones == terms.zones
    assert profile.service_class == terms.service_class
    assert (profile.usd_max, profile.deadline_s) == (terms.usd_max, terms.deadline_s)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("- 1", "(root): must be a mapping with `version: 1`"),
        ("version: 1\nversion: 1", "is there twice"),
        ({"version": 1}, "profiles: Field required"),
        (mix(version=2), "version: Input should be 1 (got '2')"),
        (mix() | {"profiles": []}, "profiles: Tuple should have at least 1 item"),
        (mix({}, {}), "profiles[1].name: 'p' is there twice"),
        (mix(assign_by="tenant"), "assign_by: Input should be 'request', 'client' or 'session' (got 'tenant')"),
        (mix({"shares": 1}), "profiles[0].shares: unknown field"),
        (mix({"share": 0}), "profiles[0].share: Input should be greater than 0 (got '0')"),
        (mix({"share": float("inf")}), "profiles[0].share: Input should be a finite number"),
        (mix({"share": "1"}), "profiles[0].share: Input should be a valid number (got '1')"),
        (mix({"zones": []}), "profiles[0].zones: Tuple should have at least 1 item"),
        (mix({"needs": ["chatting"]}), "profiles[0].needs"),
        (mix({"difficulty": 1.5}), "profiles[0].difficulty"),
        (mix({"difficulty": {"low": 0.5, "high": 0.4}}), "high (0.4) is below low (0.5)"),
        (mix({"output_tokens_max": 0}), "profiles[0].output_tokens_max"),
        (mix({"tenant": "nobody"}), "profiles[0].tenant: 'nobody' is not a tenant (known: t)"),
        (mix({"model": "huge"}), "profiles[0].model: 'huge' is no model or alias (known: auto, large, small)"),
        (mix({"service_class": "vip"}), "profiles[0].service_class: 'vip' is no class of tenant 't'"),
        (mix({"zones": ["mars"]}), "profiles[0].zones[0]: 'mars' is not declared under zones (known: cloud, home)"),
        (mix({"labels": ["secret"]}), "profiles[0].labels[0]: 'secret' is not declared under labels"),
        (mix({"labels": ["restricted"], "zones": ["cloud"]}), "profiles[0]: labels and zones leave tenant 't' no zone"),
        (mix({"output_tokens_max": 10**6}), "profiles[0].output_tokens_max: above policy.bounds.output_tokens_max"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(write: Any, content: Any, problem: str) -> None:
    assert any(problem in line for line in problems(write(content)))


def test_a_zone_or_class_of_another_tenant_is_refused(write: Any) -> None:
    tenants = site()["tenants"]
    keys = [{"sha256": hashlib.sha256(b"another").hexdigest()}]
    tenants.append({"name": "u", "keys": keys, "zones": ["home"], "service_classes": ["batch"]})
    found = problems(
        write(mix({"tenant": "u", "zones": ["cloud"], "service_class": "interactive"})), cluster(tenants=tenants)
    )
    assert found == [
        "profiles[0].service_class: 'interactive' is no class of tenant 'u' (known: batch)",
        "profiles[0].zones[0]: 'cloud' is no zone of tenant 'u' (known: home)",
    ]


def test_every_problem_of_every_profile_is_listed(write: Any) -> None:
    found = problems(write(mix({"name": "a", "tenant": "x", "model": "y"}, {"name": "b", "labels": ["z"]})))
    assert [line.split(":")[0] for line in found] == [
        "profiles[0].model",
        "profiles[0].tenant",
        "profiles[1].labels[0]",
    ]


def test_a_file_that_is_not_there_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_mix(tmp_path / "none.yaml")


def test_without_a_file_each_tenant_has_an_equal_share_of_plain_requests() -> None:
    tenants = site()["tenants"]
    keys = [{"sha256": hashlib.sha256(b"another").hexdigest()}]
    tenants.append({"name": "u", "keys": keys, "zones": ["home"], "service_classes": ["batch"]})
    config = cluster(tenants=tenants)
    made = default_mix(config)
    assert made.assign_by == "request"
    told = [(p.tenant, p.service_class.name, p.share, p.models) for p in resolve(made, config)]
    assert told == [("t", "interactive", 1.0, None), ("u", "batch", 1.0, None)]


def test_the_example_of_the_documentation_works_with_the_embedded_site(write: Any) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    loaded = load_mix(write(example))
    profiles = resolve(loaded, load(ROOT / "cluster.yaml"))
    assert [profile.name for profile in profiles] == ["chat", "hard-questions", "private-batch"]
    assert profiles[2].zones == {"on-prem"}


@pytest.mark.parametrize("name", [*Mix.model_fields, *ProfileSpec.model_fields, *DifficultyRange.model_fields])
def test_every_field_is_documented(name: str) -> None:
    assert f"`{name}`" in DOCS.read_text(encoding="utf-8")
