"""How requests ended, as gateways tell the controller: once for all pools of a kind, here or elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.core.market import Decision, Outcome, Quote
from scheduler.core.supply import Offer, ServiceCurve, Usage
from serving import metrics
from serving.accounting import Accountant
from serving.control import ELSEWHERE, HERE, Wanted
from serving.status import Status
from serving.tickets import Wants
from serving.view import ActionCount, FleetState, Published
from tests.support import virtual_time
from tests.support.dispatch_cases import ANSWER
from tests.support.fake_sources import Plan
from tests.support.gates import steep
from tests.support.local_town import CLOUD, POOL, TTFT_S, LocalTown
from tests.support.markets import CURVE, NOW_S, api, offer, request

PLAIN = Plan("answer", parts=(ANSWER,), whole=ANSWER)
SLOW_CURVE = ServiceCurve(prefill_tokens_per_s=500.0, itl_base_s=0.02, itl_per_seq_s=0.002, seqs_max=10)
FIRST, SECOND, ADAPTER = offer("a/small"), offer("b/small", curve=SLOW_CURVE), offer("a/tuned", model="tuned")
LARGE, BOUGHT = offer("c/large", model="large"), api("cloud/small", 0.1)


def decision(*quotes: tuple[Offer, float, float]) -> Decision:
    """A merit order of (offer, USD, of that scarcity)."""
    made = tuple(Quote(offer, usd, usd, {"scarcity": scarcity}) for offer, usd, scarcity in quotes)
    return Decision(request(), 1, made, ())


def ended(made: Decision, *tried: tuple[Offer, Any]) -> dict[str, list[Wanted]]:
    wants = Wants()
    wants.ended(made, [Outcome(of.id, status, NOW_S, NOW_S, Usage(0, 0, 0), 0.0) for of, status in tried])
    return wants.take()


def test_substitutes_are_told_of_once_and_adapters_are_their_pool() -> None:
    made = decision(
        (FIRST, 0.02, 0.015), (SECOND, 0.01, 0.0), (ADAPTER, 0.03, 0.0), (LARGE, 0.05, 0.0), (BOUGHT, 0.1, 0)
    )
    told = ended(made, (SECOND, "complete"))
    [small] = told["a"]  # the cheapest of its kind, without its scarcity
    assert (small.end, small.weight) == (HERE, 1.0)
    assert small.usd_displaced == pytest.approx(0.05 - 0.005)
    assert small.work_s == pytest.approx(CURVE.work_s(Usage(100, 0, 50)))
    [large] = told["c"]
    assert (large.end, large.usd_displaced) == (ELSEWHERE, pytest.approx(0.01 - 0.05))
    assert set(told) == {"a", "c"}


@pytest.mark.parametrize(
    ("tried", "end"),
    [
        ([(FIRST, "complete")], HERE),
        ([(FIRST, "cancelled")], HERE),  # the client went away: nobody else was paid
        ([(FIRST, "interrupted")], HERE),
        ([(FIRST, "bounced")], ELSEWHERE),
        ([(FIRST, "failed")], ELSEWHERE),
        ([(FIRST, "bounced"), (BOUGHT, "complete")], ELSEWHERE),
        ([(BOUGHT, "failed"), (FIRST, "complete")], HERE),
        ([(BOUGHT, "cancelled")], ELSEWHERE),
        ([], ELSEWHERE),
    ],
)
def test_a_request_was_served_here_if_its_last_attempt_was(tried: list[tuple[Offer, Any]], end: str) -> None:
    told = ended(decision((FIRST, 0.01, 0.0), (BOUGHT, 0.1, 0.0)), *tried)
    assert [one.end for one in told["a"]] == [end]


def test_what_can_go_nowhere_else_has_no_price() -> None:
    assert ended(decision((FIRST, 0.01, 0.0)), (FIRST, "complete"))["a"][0].usd_displaced is None


def test_requests_that_no_pool_may_serve_are_not_told() -> None:
    assert ended(decision((BOUGHT, 0.1, 0.0)), (BOUGHT, "complete")) == {}


def test_many_requests_are_told_by_a_bounded_sample_with_their_weight() -> None:
    wants, made = Wants(), decision((FIRST, 0.01, 0.0), (BOUGHT, 0.1, 0.0))
    for _ in range(1000):
        wants.ended(made, [])
    told = wants.take()["a"]
    assert len(told) <= 64
    assert sum(one.weight for one in told) == pytest.approx(1000.0)


def test_a_gateway_tells_of_the_decision_and_of_the_end() -> None:
    async def run() -> None:
        town = LocalTown({POOL: [PLAIN], CLOUD: [PLAIN]})
        await town.ask()
        assert [one.end for one in town.wants.take()["own"]] == ["", HERE]
        town.gate.state.set_bids(steep(1000.0, ttft_s_max=TTFT_S))
        await town.ask()
        assert [one.end for one in town.wants.take()["own"]] == ["", ELSEWHERE]
        assert town.wants.take() == {}

    virtual_time.run(run())


def test_what_the_controller_wants_of_pools_is_in_the_metrics() -> None:
    async def run() -> None:
        town = LocalTown({POOL: [PLAIN], CLOUD: [PLAIN]})
        status = Status(town.view, Accountant(town.journal, town.view, "g"))  # type: ignore[arg-type]

        def shown(times: int, **desired: int) -> str:
            fleet = FleetState(desired, (ActionCount("own", "up", True, times),))
            town.view.publish(Published(town.view.market, {}, fleet=fleet))
            return status.exposition().decode()

        labels = {"pool": "own", "direction": "up", "applied": "true"}
        before = metrics.REGISTRY.get_sample_value("baseload_commitment_actions_total", labels) or 0.0
        name = 'baseload_commitment_actions_total{applied="true",direction="up",pool="own"}'
        text = shown(2, own=3)
        assert 'baseload_commitment_desired_replicas{pool="own"} 3.0' in text
        assert f"{name} {before + 2}" in text
        assert f"{name} {before + 5}" in shown(5, own=3)
        assert f"{name} {before + 6}" in shown(1, own=3)  # the controller has restarted
        assert "baseload_commitment_desired_replicas{" not in shown(1)

    virtual_time.run(run())
