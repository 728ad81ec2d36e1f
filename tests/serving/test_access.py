"""Who asks and what may serve them: every door here fails closed."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.config import ClusterConfig
from scheduler.config.demand import DEMO_KEY_SHA256
from serving.access import Access, Terms, headers_of
from serving.protocol import ProtocolError
from tests.support.sites import KEY, provider, site

ZONES = ("home", "cloud", "far")
LABELS: dict[str, Any] = {"restricted": ["home"], "eu": ["home", "cloud"], "none": [], "public": "any"}


def config(**tenant: Any) -> ClusterConfig:
    document = site(
        zones=list(ZONES),
        providers=[provider("cloud"), provider("far", zone="far")],
        labels=[{"name": name, "zones": zones} for name, zones in LABELS.items()],
    )
    document["tenants"][0] |= {"zones": list(ZONES)} | tenant
    return ClusterConfig.model_validate(document)


ACCESS = Access(config())
DEMO = Access(config(keys=[{"sha256": DEMO_KEY_SHA256, "loopback_only": True}]))
LOCAL = ("127.0.0.1", 9)


def terms(*headers: tuple[bytes, bytes], tags: list[str] | None = None, access: Access = ACCESS) -> Terms:
    return access.terms(access.accounts["t"], headers_of({"headers": list(headers)}), tags or [])


def refused(status: int, code: str, run: Any) -> None:
    with pytest.raises(ProtocolError) as caught:
        run()
    assert (caught.value.status, caught.value.code) == (status, code)


# ---- keys -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": f"Bearer {KEY}".encode()},
        {b"authorization": f"bearer  {KEY} ".encode()},
        {b"x-api-key": KEY.encode()},
    ],
)
def test_a_known_key_opens_its_tenant_in_either_header(headers: dict[bytes, bytes]) -> None:
    assert ACCESS.account(headers, ("203.0.113.9", 1)).name == "t"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({b"authorization": b"Bearer "}, "missing_api_key"),
        ({b"authorization": b"Basic " + KEY.encode()}, "missing_api_key"),
        ({b"authorization": b"Bearer nobody"}, "invalid_api_key"),
        ({b"authorization": b"Bearer nobody", b"x-api-key": KEY.encode()}, "invalid_api_key"),
        ({b"x-api-key": hashlib.sha256(KEY.encode()).hexdigest().encode()}, "invalid_api_key"),
    ],
)
def test_without_a_known_key_nobody_comes_in(headers: dict[bytes, bytes], code: str) -> None:
    refused(401, code, lambda: ACCESS.account(headers, LOCAL))


def test_a_second_authorization_header_cannot_ride_on_the_first() -> None:
    bearer = (b"authorization", f"Bearer {KEY}".encode())
    headers = headers_of({"headers": [bearer, (b"authorization", b"Bearer other")]})
    refused(401, "invalid_api_key", lambda: ACCESS.account(headers, LOCAL))


def test_a_key_whose_variable_is_not_set_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [{"env": "TEST_ACCESS_KEY"}]
    monkeypatch.delenv("TEST_ACCESS_KEY", raising=False)
    closed = Access(config(keys=keys))
    for key in (b"", b"None", b"TEST_ACCESS_KEY"):
        with pytest.raises(ProtocolError):
            closed.account({b"x-api-key": key}, LOCAL)
    monkeypatch.setenv("TEST_ACCESS_KEY", "now-it-is")
    assert Access(config(keys=keys)).account({b"x-api-key": b"now-it-is"}, LOCAL).name == "t"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_the_demonstration_key_works_on_this_machine(host: str) -> None:
    assert DEMO.account({b"authorization": b"Bearer local-demo"}, (host, 9)).name == "t"


@pytest.mark.parametrize(
    "client", [None, *((h, 1) for h in ("203.0.113.9", "::2", "::12", "::ffff:10.0.0.1", "10.127.0.0", ""))]
)
def test_the_demonstration_key_does_not_work_from_elsewhere(client: Any) -> None:
    refused(401, "invalid_api_key", lambda: DEMO.account({b"authorization": b"Bearer local-demo"}, client))


@pytest.mark.parametrize("name", [b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via"])
def test_the_demonstration_key_does_not_work_through_a_proxy_on_this_machine(name: bytes) -> None:
    headers = {b"authorization": b"Bearer local-demo", name: b"203.0.113.9"}
    refused(401, "invalid_api_key", lambda: DEMO.account(headers, LOCAL))


# ---- zones and labels -----------------------------------------------------------------------------------------------

LABEL_HEADERS = (b"x-baseload-labels", b"x-litellm-tags")
some_labels = st.lists(st.sampled_from(sorted(LABELS)), max_size=3)


@given(
    st.frozensets(st.sampled_from(ZONES), min_size=1),
    st.lists(st.tuples(st.sampled_from(LABEL_HEADERS), some_labels), max_size=3),
    some_labels,
    st.none() | st.lists(st.sampled_from(ZONES), max_size=3),
)
def test_labels_and_zones_only_ever_narrow_wherever_they_stand(
    tenant_zones: frozenset[str], in_headers: Any, tags: list[str], wanted: list[str] | None
) -> None:
    access = Access(config(zones=sorted(tenant_zones)))
    headers = [(name, ",".join(labels).encode()) for name, labels in in_headers]
    if wanted is not None:
        headers.append((b"x-baseload-zones", " , ".join(wanted).encode()))
    got = terms(*headers, tags=tags, access=access)
    named = [label for _, labels in in_headers for label in labels] + tags
    allowed = {
        zone
        for zone in tenant_zones
        if all(LABELS[label] == "any" or zone in LABELS[label] for label in named)
        and (wanted is None or zone in wanted)
    }
    assert got.zones == allowed
    assert set(got.labels) == set(named)
    assert len(got.labels) == len(set(got.labels))


@pytest.mark.parametrize("second", [b"public", b"", b"eu"])
def test_a_repeated_label_header_cannot_hide_the_first(second: bytes) -> None:
    name = b"x-baseload-labels"
    assert terms((name, b"restricted"), (name, second)).zones == {"home"}
    assert terms((name, second), (name, b"restricted")).zones == {"home"}


@pytest.mark.parametrize("where", ["x-baseload-labels", "x-litellm-tags", "tags"])
@pytest.mark.parametrize("label", ["Restricted", "restricted;public", "secret"])
def test_an_unknown_label_is_refused_since_it_may_restrict(where: str, label: str) -> None:
    if where == "tags":
        refused(400, "unknown_label", lambda: terms(tags=[label]))
    else:
        refused(400, "unknown_label", lambda: terms((where.encode(), b"public, " + label.encode())))


@pytest.mark.parametrize("name", [b"x-baseload-label", b"x-baseload-zone", b"x-baseload-Labels"])
def test_a_misspelt_header_of_ours_is_refused_since_it_may_restrict(name: bytes) -> None:
    refused(400, "unknown_header", lambda: terms((name, b"restricted")))


def test_an_unknown_zone_is_refused_and_an_empty_list_of_zones_allows_none() -> None:
    refused(400, "unknown_zone", lambda: terms((b"x-baseload-zones", b"home,atlantis")))
    assert terms((b"x-baseload-zones", b"")).zones == frozenset()
    assert terms((b"x-baseload-zones", b" , ")).zones == frozenset()


# ---- classes and limits ---------------------------------------------------------------------------------------------


def test_the_first_class_is_the_default_and_only_the_tenants_own_can_be_chosen() -> None:
    assert terms().service_class.name == "interactive"
    assert terms((b"x-baseload-class", b"batch")).service_class.name == "batch"
    assert terms((b"x-llm-d-inference-objective", b"batch")).service_class.name == "batch"
    only = Access(config(service_classes=["interactive"]))
    with pytest.raises(ProtocolError) as caught:
        terms((b"x-baseload-class", b"batch"), access=only)
    assert caught.value.status == 400


def test_a_header_can_lower_the_cost_limit_and_never_raise_it() -> None:
    assert terms().usd_max == 1.0
    assert terms((b"x-baseload-usd-max", b"0.25")).usd_max == 0.25
    assert terms((b"x-baseload-usd-max", b"250")).usd_max == 1.0
    assert terms((b"x-baseload-usd-max", b"0")).usd_max == 0.0


@pytest.mark.parametrize("value", [b"", b"-1", b"nan", b"inf", b"1e9", b"free", b"0x1", b"\xff"])
@pytest.mark.parametrize("name", [b"x-baseload-usd-max", b"x-llm-d-slo-ttft-ms"])
def test_a_limit_that_is_no_number_is_refused(name: bytes, value: bytes) -> None:
    refused(400, "invalid_header", lambda: terms((name, value)))


def test_the_objective_header_is_in_milliseconds_and_the_deadline_stays_below_the_gateways_own() -> None:
    assert terms((b"x-llm-d-slo-ttft-ms", b"1500")).service_class.ttft_s_max == 1.5
    document = config().model_dump()
    document["policy"]["bounds"]["total_s_max"] = 7.0
    short = Access(ClusterConfig.model_validate(document))
    assert terms(access=short).deadline_s == 7.0
    assert terms().deadline_s == 120.0
