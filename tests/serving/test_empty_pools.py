"""A pool that may be empty: nobody waits for it, its lack of replicas is no fault, and it is filled while that pays."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from scheduler.core.capacity import Capacity
from scheduler.core.market import Market
from scheduler.core.supply import Offer
from serving import deployments
from serving.accounting import Accountant
from serving.cli import app
from serving.control import ELSEWHERE, HERE
from serving.deployments import Scaler, deploy, scaled_pools, set_replicas
from serving.status import Status
from serving.view import Published, View
from tests.support.fake_sources import FakeJournal
from tests.support.live_fleets import Clock, LiveTown, config_of, line, rented
from tests.support.markets import NOW_S, POLICY, api, offer
from tests.support.sites import pool, provider, site

CONFIG = config_of("enforce", rented("own", most=1), rented("cloud-gpus", least=0, most=3))
EMPTY_POOL = CONFIG.pools[1]
ONE = Capacity(1, 8, 0, 0, 1.0, as_of_s=NOW_S)
NONE = Capacity(0, 0, 0, 0, 1.0, as_of_s=NOW_S)
OWN, CLOUD = offer("own/small", capacity=ONE), offer("cloud-gpus/small", capacity=NONE, healthy=False)


def status_of(*offers: Offer) -> Status:
    view = View(POLICY, 0.1, lambda: NOW_S)
    view.publish(Published(Market(1, NOW_S, offers), {}))
    return Status(view, Accountant(FakeJournal(), view, "g"), may_be_empty=frozenset({"cloud-gpus"}))  # type: ignore[arg-type]


# --- readiness and health ---------------------------------------------------------------------------------------------


def test_a_gateway_is_ready_without_a_pool_that_is_empty_as_it_may_be() -> None:
    problems, state = status_of(OWN, CLOUD, api("a", 0.1)).readiness()
    assert (problems, state["up"]) == ([], ["a", "own/small"])
    assert (state["down"], state["empty"]) == ([], ["cloud-gpus/small"])
    filled = replace(CLOUD, healthy=True, capacity=ONE)
    assert status_of(OWN, filled).readiness()[1]["empty"] == []


@pytest.mark.parametrize(
    "missing", [replace(OWN, healthy=False, capacity=NONE), replace(CLOUD, capacity=None)], ids=["own", "no gate"]
)
def test_another_pool_without_a_replica_and_an_empty_one_without_its_gate_are_down(missing: Offer) -> None:
    problems, state = status_of(api("a", 0.1), missing).readiness()
    assert problems == [f"starting: {missing.id}"]
    assert (state["down"], state["empty"]) == ([missing.id], [])


def test_an_empty_pool_is_neither_up_nor_down_in_the_metrics() -> None:
    said = status_of(OWN, CLOUD).exposition().decode()
    assert 'baseload_offer_up{offer="own/small"} 1.0' in said
    assert 'baseload_offer_up{offer="cloud-gpus/small"}' not in said
    assert 'baseload_pool_state{pool="cloud-gpus",what="replicas"} 0.0' in said


# --- replicas ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    monkeypatch.setattr("serving.controller.now_s", made)
    yield made


def test_it_is_filled_when_bursts_have_paid_for_that_and_empty_again_when_nobody_needs_it(clock: Clock) -> None:
    town = LiveTown(clock, CONFIG, **{"cloud-gpus": 0})
    town.set_to = {"cloud-gpus": 0}
    calm = {"own": [line(HERE, work_s=0.05)]}
    town.seconds(100, calm)
    assert (town.set_to, town.report["advice"]) == ({"cloud-gpus": 0}, [])
    assert [row["note"] for row in town.report["pools"]] == ["advice only: its bounds leave no choice", ""]
    town.seconds(60, {"own": [line(HERE)] * 2 + [line(ELSEWHERE)] * 8})
    assert town.set_to["cloud-gpus"] >= 1
    town.arrive()
    (seen,) = [o for o in town.published.market.offers if o.id == "cloud-gpus/small"]
    assert not seen.healthy
    for _ in range(80):
        town.seconds(10, calm)
        town.arrive()
    assert town.set_to == {"cloud-gpus": 0}
    assert {row["pool"] for row in town.report["advice"]} == {"cloud-gpus"}


def test_what_is_asked_for_and_does_not_come_leaves_it_empty(clock: Clock) -> None:
    town = LiveTown(clock, CONFIG, **{"cloud-gpus": 0})
    town.set_to = {"cloud-gpus": 0}
    town.seconds(60, {"own": [line(ELSEWHERE)] * 10})
    assert town.set_to["cloud-gpus"] >= 1
    town.seconds(240, {"own": [line(HERE, work_s=0.05)]})
    assert town.set_to == {"cloud-gpus": 0} and town.report["pools"][1]["starting"] == 0


def test_whoever_deploys_pools_begins_with_none_and_sets_what_is_desired() -> None:
    calls: list[tuple[str, int]] = []
    scaler = Scaler(scaled_pools(CONFIG), lambda name, replicas: calls.append((name, replicas)))
    assert scaler.set_to == {"cloud-gpus": 0}
    for desired in (0, 2, -1, 4, 0):
        scaler.follow({"cloud-gpus": desired})
    assert calls == [("cloud-gpus", 2), ("cloud-gpus", 0)]


class FakeServe:
    """Ray Serve as far as applications go: it knows none before one is run, and refuses to run one without replicas.

    The real one, which leaves warnings behind, has its turn in ``tests.e2e.scaling_cluster``.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.apps: dict[str, int] = {"cloud-gpus": 2}  # of a process before
        self._controller = self.update_deployment_replicas = self
        serve = SimpleNamespace(
            delete=lambda name, _blocking: self.apps.pop(name, None),
            context=SimpleNamespace(_get_global_client=lambda: self),
        )
        common = SimpleNamespace(DeploymentID=SimpleNamespace)
        for name, module in {
            "ray": SimpleNamespace(serve=serve, get=lambda done, timeout: done),
            "ray.serve": serve,
            "ray.serve._private": SimpleNamespace(common=common),
            "ray.serve._private.common": common,
        }.items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(deployments, "_run", self._run)

    def _run(self, config: Any, pool: Any, engine: Any, token: str, replicas: int, wait: bool) -> None:
        assert replicas > 0 and pool.name not in self.apps and wait is bool(pool.replicas.min)
        self.apps[pool.name] = replicas

    def remote(self, deployment: Any, replicas: int) -> None:
        if deployment.name not in self.apps:
            raise ValueError(f"Application '{deployment.name}' not found")
        self.apps[deployment.name] = replicas


def test_its_application_comes_with_its_first_replica_and_what_was_left_behind_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeServe(monkeypatch)
    for each in CONFIG.pools:
        deploy(CONFIG, each, "token")
    assert fake.apps == {"own": 1}
    for replicas in (0, 2, 3, 0, 1):
        set_replicas(CONFIG, "token", "cloud-gpus", replicas)
        assert fake.apps.get("cloud-gpus", 0) == replicas


# --- the site file ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "notes"), [("advisory", 1), ("enforce", 0)])
def test_check_says_where_a_pool_would_stay_empty(tmp_path: Path, mode: str, notes: int) -> None:
    pools = [pool("own"), rented("cloud-gpus", least=0)]
    document = site(pools=pools, providers=[provider("api")], policy={"commitment": {"mode": mode}})
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(document))
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.exit_code == 0
    assert result.stdout.count("pool cloud-gpus: stays empty, since policy.commitment.mode is advisory") == notes
