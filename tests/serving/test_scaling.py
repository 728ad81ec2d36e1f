"""Whoever deploys pools sets what the controller answers, and nothing else; a replica that is to go finishes what it has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from serving import draining
from serving.deployments import Scaler, scaled_pools
from serving.draining import DrainedReplica
from serving.pools import ReplicaSettings, VllmReplica
from tests.support.live_fleets import config_of, rented
from tests.support.sites import pool

POOLS = scaled_pools(config_of("enforce", rented(least=1, most=4), rented("other", least=2, most=3)))


class FakeServe:
    """Takes numbers as Serve's controller does; ``broken``: refuses."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.broken = False

    def __call__(self, name: str, replicas: int) -> None:
        if self.broken:
            raise RuntimeError("no such deployment")
        self.calls.append((name, replicas))


def asked(answers: list[web.Response], scaler: Scaler) -> list[Any]:
    """What the controller was asked while it gave these answers."""
    seen: list[Any] = []

    async def scale(request: web.Request) -> web.Response:
        assert request.headers["authorization"] == "Bearer token"
        seen.append((await request.json())["replicas"])
        return answers[len(seen) - 1]

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/scale", scale)
        async with TestServer(app) as server, ClientSession() as session:
            for _ in answers:
                scaler._asked_s = float("-inf")
                await scaler.keep(session, str(server.make_url("")).rstrip("/"), "token")

    asyncio.run(run())
    return seen


def test_pools_are_scaled_where_that_is_asked_for_and_possible() -> None:
    pools = (rented(), rented("fixed", least=2, most=2), pool("theirs", replicas={"min": 1, "max": 4}))
    assert [found.name for found in scaled_pools(config_of("enforce", *pools))] == ["own"]
    assert scaled_pools(config_of("advisory", *pools)) == scaled_pools(config_of("off", *pools)) == []


def test_what_is_desired_is_set_once_and_told_from_then_on() -> None:
    serve = FakeServe()
    scaler = Scaler(POOLS, serve)
    answers = [web.json_response({"replicas": {"own": n}}) for n in (3, 3, 2)]
    assert asked(answers, scaler) == [{"own": 1, "other": 2}, {"own": 3, "other": 2}, {"own": 3, "other": 2}]
    assert serve.calls == [("own", 3), ("own", 2)]


def test_without_an_answer_that_makes_sense_nothing_changes() -> None:
    serve = FakeServe()
    scaler = Scaler(POOLS, serve)
    bad = [
        web.Response(status=500),
        web.Response(status=401),
        web.Response(body=b"not JSON"),
        web.json_response({"replicas": {"own": "two"}}),
        web.json_response({"replicas": {"own": 2.5}}),
        web.json_response({}),
        web.json_response({"replicas": {"own": 5, "other": 1, "nobody": 2}}),
    ]
    asked(bad, scaler)
    assert serve.calls == [] and scaler.set_to == {"own": 1, "other": 2}


def test_a_controller_that_is_away_changes_nothing() -> None:
    serve = FakeServe()
    scaler = Scaler(POOLS, serve)

    async def run() -> None:
        async with ClientSession() as session:
            await scaler.keep(session, "http://127.0.0.1:9", "token")

    asyncio.run(run())
    assert serve.calls == []


def test_what_serve_refuses_is_tried_again_at_the_next_answer() -> None:
    serve = FakeServe()
    scaler = Scaler(POOLS, serve)
    serve.broken = True
    scaler.follow({"own": 2, "other": 3})
    assert scaler.set_to == {"own": 1, "other": 2}
    serve.broken = False
    scaler.follow({"own": 2, "other": 3})
    assert serve.calls == [("own", 2), ("other", 3)]


@given(st.lists(st.dictionaries(st.sampled_from(["own", "other", "nobody"]), st.integers(-3, 9)), max_size=5))
def test_whatever_is_answered_no_pool_is_set_outside_its_bounds(answers: list[dict[str, int]]) -> None:
    serve = FakeServe()
    scaler = Scaler(POOLS, serve)
    for answer in answers:
        scaler.follow(answer)
    bounds = {"own": (1, 4), "other": (2, 3)}
    for name, replicas in serve.calls:
        assert bounds[name][0] <= replicas <= bounds[name][1]
    for name, replicas in scaler.set_to.items():
        said = [answer[name] for answer in answers if bounds[name][0] <= answer.get(name, -1) <= bounds[name][1]]
        assert replicas == (said[-1] if said else bounds[name][0])


# --- draining ---------------------------------------------------------------------------------------------------------


class Engine:
    errored = False


class Replica(DrainedReplica):
    """Without vLLM: its application answers when it is told to, and the server around it is the real one."""

    def __init__(self, drain_s: float, controller: str) -> None:
        self._settings = ReplicaSettings("own", "m", "w", {}, [], "127.0.0.1", controller, "token")
        self._id, self._drain_s, self._inflight, self._url = "own-1", drain_s, 0, ""
        self._engine, self._tasks = Engine(), []
        self.ended = False

    def __del__(self) -> None:  # type: ignore[override]
        """Nothing: tests call ``go``, and not the garbage collector."""

    async def go(self) -> None:
        await DrainedReplica._drain(self)
        self.ended = True


async def drained(
    monkeypatch: pytest.MonkeyPatch, drain_s: float, during: Callable[[Replica, Any], Awaitable[None]]
) -> list[Any]:
    """Announcements that the controller got from a replica that goes while ``during`` runs."""
    told: list[Any] = []
    monkeypatch.setattr(draining, "_SETTLE_S", 0.05)
    monkeypatch.setattr(draining, "_LOOK_S", 0.005)

    async def replicas(request: web.Request) -> web.Response:
        told.append(await request.json())
        return web.json_response({"ok": True})

    app = web.Application()
    app.router.add_post("/replicas", replicas)
    async with TestServer(app) as server:
        replica = Replica(drain_s, str(server.make_url("")).rstrip("/"))
        release = asyncio.Event()

        async def answer(scope: Any, receive: Any, send: Any) -> None:
            await release.wait()

        async def built(_: Any) -> Any:
            return answer

        monkeypatch.setattr(VllmReplica, "_build", built)
        application = await replica._build()
        replica._url = "http://here"
        replica._tasks = [asyncio.create_task(asyncio.sleep(60)), asyncio.create_task(asyncio.sleep(60))]
        server_task, announcing = replica._tasks
        request = asyncio.create_task(application({"type": "http", "path": "/v1/chat/completions"}, None, None))
        scrape = asyncio.create_task(application({"type": "http", "path": "/metrics"}, None, None))
        await asyncio.sleep(0)
        going = asyncio.create_task(replica.go())
        await during(replica, release)
        await asyncio.wait_for(going, 10)
        assert announcing.cancelled() and not server_task.done()
        for task in (server_task, request, scrape):
            task.cancel()
        await asyncio.gather(server_task, request, scrape, return_exceptions=True)
    return told


def test_a_replica_that_goes_says_so_and_finishes_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    async def during(replica: Replica, release: asyncio.Event) -> None:
        await asyncio.sleep(0.2)
        assert not replica.ended
        release.set()

    told = asyncio.run(drained(monkeypatch, 30.0, during))
    assert [(one["pool"], one["replica"]["id"], one["replica"]["url"], one["leaves"]) for one in told] == [
        ("own", "own-1", "http://here", True)
    ]


def test_an_answer_that_does_not_end_holds_nobody_up_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async def during(replica: Replica, release: asyncio.Event) -> None:
        """It is never released."""

    asyncio.run(drained(monkeypatch, 0.2, during))


def test_an_engine_that_has_died_finishes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def during(replica: Replica, release: asyncio.Event) -> None:
        await asyncio.sleep(0.1)
        replica._engine.errored = True

    asyncio.run(drained(monkeypatch, 60.0, during))
