"""The commitment clock in the controller: advice that is only kept, replicas that are asked for, and what changes nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from serving import controller as controller_module
from serving.control import ELSEWHERE, HERE, Announcement, MarketRequest, Wanted
from serving.controller import Controller
from serving.gate.wire import ReplicaInfo
from tests.support.live_fleets import HOLD_S, NOW_S, START_S, Clock, LiveTown, config_of, line, rented
from tests.support.sites import pool

# Of ten requests a second of half a replica-second each, one replica takes two.
OVERLOAD = {"own": [line(HERE)] * 2 + [line(ELSEWHERE)] * 8}
CALM = {"own": [line(HERE, work_s=0.05)]}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    monkeypatch.setattr("serving.controller.now_s", made)
    yield made


def town_of(clock: Clock, mode: str, *pools: dict[str, Any], there: int = 1, **policy: Any) -> LiveTown:
    town = LiveTown(clock, config_of(mode, *pools, **policy), **({"own": there} if not pools else {}))
    if mode == "enforce":
        town.set_to = {pool.name: town.there[pool.name] for pool in town.config.pools if pool.engine.kind == "vllm"}
    return town


def test_under_overload_advice_is_kept_and_logged_and_nothing_changes(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    town = town_of(clock, "advisory")
    town.set_to = {"own": 1}
    with caplog.at_level(logging.INFO, "baseload.controller"):
        town.seconds(120, OVERLOAD)
    assert town.set_to == {"own": 1} and set(map(len, town.answers)) == {0}
    ups = [row for row in town.report["advice"] if row["change"] > 0]
    assert ups and not any(row["applied"] for row in ups)
    assert all(row["pool"] == "own" and row["usd"] > 0.0 for row in ups)
    assert "USD" in ups[0]["reason"]
    told = [record for record in caplog.records if record.getMessage() == "replicas should change"]
    assert len(told) == len(town.report["advice"])
    assert told[0].pool == "own" and told[0].change == 1  # type: ignore[attr-defined]
    [row] = town.report["pools"]
    assert (row["replicas"], row["starting"], row["min"], row["max"]) == (1, 0, 1, 4)
    assert row["held_usd_per_hour"] == pytest.approx(3.6)
    assert row["note"].startswith("advice only")
    assert ("own", "up", False) in {action[:3] for action in town.published.fleet.actions}


def test_with_enforce_replicas_are_asked_for_once_each_and_go_when_nobody_needs_them(clock: Clock) -> None:
    town = town_of(clock, "enforce")
    town.seconds(60, OVERLOAD)
    asked = town.set_to["own"]
    assert 2 <= asked <= 4
    assert town.desired() == asked == town.answers[-1]["own"]
    [row] = town.report["pools"]
    assert (row["replicas"], row["starting"], row["note"]) == (1, asked - 1, "")
    town.arrive()
    town.seconds(10, CALM)
    assert town.report["pools"][0]["replicas"] == asked
    town.seconds(int(HOLD_S) - 30, CALM)
    assert town.set_to["own"] == asked  # not before its minimum hold
    for _ in range(60):
        town.seconds(10, CALM)
        town.arrive()
    assert town.set_to["own"] == 1
    downs = [row for row in town.report["advice"] if row["change"] < 0]
    assert downs and all(row["applied"] for row in downs)


def test_however_much_is_wanted_no_pool_leaves_its_bounds(clock: Clock) -> None:
    town = town_of(clock, "enforce")
    for _ in range(20):
        town.seconds(10, {"own": [line(ELSEWHERE, weight=100.0)] * 10})
        town.arrive()
    assert town.set_to == {"own": 4}
    assert {n for answer in town.answers for n in answer.values()} <= {1, 2, 3, 4}


def test_off_looks_at_nothing(clock: Clock) -> None:
    town = town_of(clock, "off")
    town.set_to = {"own": 1}
    town.seconds(120, OVERLOAD)
    assert town.report == {"mode": "off", "at_s": 0.0, "took_s": 0.0, "pools": [], "advice": []}
    assert town.published.fleet.desired == {} and town.published.fleet.actions == ()
    assert set(map(len, town.answers)) == {0}


def test_a_controller_that_has_restarted_keeps_the_replicas_for_their_minimum_hold(clock: Clock) -> None:
    town = town_of(clock, "enforce", there=3)
    town.seconds(20, CALM)
    town.restart()
    town.answers.clear()
    town.seconds(int(HOLD_S) - 10, CALM)
    assert town.set_to == {"own": 3}
    assert [answer for answer in town.answers if answer != {"own": 3}] == []
    town.seconds(400, CALM)  # and then until it knows again how far its forecasts can be trusted
    assert town.set_to["own"] < 3


def test_a_replica_that_is_starting_is_not_called_off_by_a_restart_of_the_controller(clock: Clock) -> None:
    town = town_of(clock, "enforce")
    town.set_to = {"own": 2}  # asked for by the controller before
    town.seconds(40, CALM)
    assert town.set_to == {"own": 2}
    assert town.report["pools"][0]["starting"] == 1


def test_nothing_is_planned_on_the_word_of_gateways_that_do_not_tell_how_requests_end(clock: Clock) -> None:
    town = town_of(clock, "enforce", there=3)
    old = msgspec.json.encode([0.005, 0.5, 5.0, 1.0])  # a line as it was before
    assert msgspec.json.decode(old, type=Wanted).end == ""
    town.seconds(400, {"own": [line("")] * 4})
    assert town.set_to == {"own": 3} and town.report["advice"] == []


def test_a_site_that_nobody_asks_goes_down_to_its_least(clock: Clock) -> None:
    town = town_of(clock, "enforce", there=3)
    for _ in range(50):
        town.seconds(10)
        town.arrive()
    assert town.set_to == {"own": 1}


def test_a_pool_that_is_down_is_no_pool_without_demand(clock: Clock) -> None:
    town = town_of(clock, "enforce", there=3)
    town.seconds(30, OVERLOAD)
    before = dict(town.set_to)
    town.there["own"] = 0
    town.seconds(400)
    assert town.set_to["own"] <= before["own"]  # what does not come back is given up, but nothing is judged as idle
    assert not [row for row in town.report["advice"] if row["change"] < 0]


def test_what_is_asked_for_and_does_not_come_is_given_up_and_left_alone_for_a_while(clock: Clock) -> None:
    town = town_of(clock, "enforce", rented(most=2))
    town.seconds(30, OVERLOAD)
    assert town.set_to == {"own": 2}
    town.seconds(2 * int(START_S), CALM)
    assert town.set_to == {"own": 2}
    town.seconds(150, CALM)  # three minutes at least, or three times its start
    assert town.set_to == {"own": 1}
    assert town.report["pools"][0]["starting"] == 0


def test_servers_by_url_get_advice_that_says_that_it_is_no_more(clock: Clock) -> None:
    engine = {"kind": "url", "urls": ["http://a.test:1", "http://b.test:1"]}
    town = LiveTown(clock, config_of("enforce", pool("own", engine=engine, replicas={"min": 1, "max": 4})), own=2)
    town.set_to = {"own": 2}
    town.seconds(60, OVERLOAD)
    assert {row["applied"] for row in town.report["advice"]} == {False}
    [row] = town.report["pools"]
    assert row["replicas"] == 2 and "url is not ours" in row["note"]
    assert set(map(len, town.answers)) == {0}


def test_beside_a_pool_that_is_scaled_its_substitutes_stay_as_they_are(clock: Clock) -> None:
    theirs = pool("theirs", replicas={"min": 1, "max": 4}, start_s=1.0)  # free to hold, so it would come first
    town = LiveTown(clock, config_of("enforce", theirs, rented()))
    town.set_to = {"own": 1}
    town.seconds(60, OVERLOAD)
    assert town.set_to["own"] > 1
    assert {row["pool"] for row in town.report["advice"]} == {"own"}


def test_while_nobody_who_scales_pools_is_heard_advice_is_only_advice(clock: Clock) -> None:
    town = LiveTown(clock, config_of("enforce"))
    town.seconds(60, OVERLOAD)
    assert {row["applied"] for row in town.report["advice"]} == {False}
    assert "heard" in town.report["pools"][0]["note"]


def test_a_pool_whose_rent_is_not_known_rests(clock: Clock) -> None:
    rental = {"gpu": "g", "listed": [{"feed": "list", "product": "gpu"}]}
    made = rented(rental=rental)
    document = config_of("advisory", made | {"rental": {"gpu": "g", "usd_per_hour": 1.0}}).model_dump(mode="json")
    document["feeds"] = [{"name": "list", "kind": "static", "options": {"file": "x"}}]
    document["pools"][0]["rental"] = rental
    town = LiveTown(clock, type(config_of("off")).model_validate(document))
    town.seconds(60, OVERLOAD)
    assert town.report["pools"] == [] and town.report["advice"] == []


def test_a_replica_that_leaves_is_forgotten_at_once(clock: Clock) -> None:
    town = town_of(clock, "enforce", there=2)
    town.seconds(20, CALM)
    message = Announcement("own", ReplicaInfo("own-1", "http://own-1"), leaves=True)
    town.controller._replica(msgspec.json.encode(message))
    assert set(town.controller._known(clock())["own"]) == {"own-0"}


def test_a_plan_that_cannot_be_made_does_not_stop_the_market(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    town = town_of(clock, "advisory")
    monkeypatch.setattr("serving.commitment.commit", lambda *_: 1 / 0)
    town.seconds(30, OVERLOAD)
    assert town.controller.market.version >= 29 and town.report["advice"] == []


def test_the_routes_are_guarded_and_refuse_what_they_cannot_read(clock: Clock) -> None:
    async def run() -> None:
        made = Controller(config_of("enforce"), "token", True)
        key = {"authorization": "Bearer token"}
        async with TestClient(TestServer(made.app())) as client:
            assert (await client.get("/commitment")).status == 401
            assert (await client.post("/scale", data=b'{"replicas":{}}')).status == 401
            report = await client.get("/commitment", headers=key)
            assert (report.status, (await report.json())["mode"]) == (200, "enforce")
            for bad in (b"", b"[]", b'{"replicas":{"own":"two"}}', b'{"replicas":{"own":1.5}}', b"\xff"):
                assert (await client.post("/scale", data=bad, headers=key)).status == 400
            strange = b'{"replicas":{"nobody":7,"own":99}}'
            answer = await client.post("/scale", data=strange, headers=key)
            assert await answer.json() == {"replicas": {"own": 4}}

    asyncio.run(run())


LINES = st.builds(
    Wanted,
    st.none() | st.floats(-1.0, 1.0, allow_subnormal=False),
    st.floats(-1.0, 50.0, allow_subnormal=False),
    st.just(5.0),
    st.floats(-1.0, 100.0, allow_subnormal=False),
    st.sampled_from(["", HERE, ELSEWHERE, "?"]),
)


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from([1, 7, 40]),
            st.integers(0, 6),
            st.lists(LINES, max_size=4),
            st.sampled_from(["none", "restart", "told 0", "told 9", "arrive"]),
        ),
        max_size=6,
    ),
    least=st.integers(0, 3),
    more=st.integers(1, 3),
)
def test_whatever_is_told_what_is_asked_for_stays_within_the_bounds(
    steps: list[tuple[int, int, list[Wanted], str]], least: int, more: int
) -> None:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(controller_module, "now_s", clock)
        patch.setattr("serving.commitment.log.exception", pytest.fail)
        town = town_of(
            clock, "enforce", rented(least=least, most=least + more), rented("never-empty", most=1), every_s=1.0
        )
        for seconds, there, lines, event in steps:
            if event == "restart":
                town.restart()
            elif event == "arrive":
                town.arrive()
            else:
                town.there["own"] = there
            if event.startswith("told"):
                town.set_to = {"own": int(event[-1])}
            town.seconds(seconds, {"own": lines})
            assert all(least <= answer["own"] <= least + more for answer in town.answers)
            town.answers.clear()


def test_reports_of_strangers_are_left_out(clock: Clock) -> None:
    town = town_of(clock, "enforce")
    body = msgspec.json.encode(MarketRequest("g", NOW_S, {}, {}, {"nobody": [line(ELSEWHERE)] * 10}))
    town.controller._market(body)
    town.seconds(60, CALM)
    assert town.set_to == {"own": 1}
