"""The gate has the last word before the first token: who is sent on goes down the merit order, and is still in time."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest

from scheduler.core import admission
from scheduler.core.capacity import Level
from serving.sse import DONE
from tests.support import virtual_time
from tests.support.dispatch_cases import ANSWER, TEXT, USAGE_EVENT, WORDS
from tests.support.fake_sources import Plan
from tests.support.gates import steep
from tests.support.local_town import CLOUD, POOL, TTFT_S, LocalTown

STREAM = Plan("stream", parts=(*WORDS, USAGE_EVENT, DONE), whole=TEXT)
SLOW = replace(STREAM, name="slow stream", gap_s=2.0)
PLAIN = Plan("answer", parts=(ANSWER,), whole=ANSWER)


def attempts(town: LocalTown, made: object) -> list[tuple[str, str, str]]:
    return [(a.offer_id, a.status, a.error) for a in town.end_of(made).attempts]  # type: ignore[arg-type]


def test_a_request_that_is_worth_less_than_the_pools_time_goes_down_the_merit_order_at_once() -> None:
    async def run() -> None:
        town = LocalTown({POOL: [PLAIN], CLOUD: [PLAIN]})
        assert attempts(town, await town.ask()) == [(POOL, "complete", "")]
        town.gate.state.set_bids(steep(1000.0, ttft_s_max=TTFT_S))
        began_s = town.clock()
        made = await town.ask()
        assert attempts(town, made) == [(POOL, "bounced", admission.WORTH_LESS), (CLOUD, "complete", "")]
        assert made.response_headers[b"x-baseload-offer"] == CLOUD.encode()
        assert b"bounced" in made.response_headers[b"x-baseload-reason"]
        assert town.clock() - began_s < 0.01
        load = town.view.load.offers[POOL]
        assert (load.inflight, load.sent_s) == (0, 0.0)

    virtual_time.run(run())


def test_a_request_that_can_go_nowhere_else_is_held_whatever_the_price() -> None:
    async def run() -> None:
        town = LocalTown({POOL: [PLAIN], CLOUD: [PLAIN]})
        town.gate.state.set_bids(steep(1000.0, ttft_s_max=TTFT_S))
        made = await town.ask(tools=None, metadata={"tags": ["restricted"]})
        assert attempts(town, made) == [(POOL, "complete", "")]
        asked = town.gate.asked[-1]
        assert (asked.usd_displaced, asked.leave_within_s) == (None, None)
        assert asked.start_within_s > 100.0

    virtual_time.run(run())


def test_a_request_that_is_evicted_before_its_first_token_is_answered_elsewhere_in_time() -> None:
    async def run() -> None:
        town = LocalTown({POOL: [SLOW], CLOUD: [STREAM]})
        first = asyncio.create_task(town.ask(stream=True))
        await asyncio.sleep(0.01)
        made = await town.ask(stream=True)
        assert made.body.endswith(DONE)
        assert attempts(town, made) == [(POOL, "bounced", admission.EVICTED), (CLOUD, "complete", "")]
        end = town.end_of(made)
        assert end.ttft_s is not None and 0.5 < end.ttft_s <= TTFT_S
        assert attempts(town, await first) == [(POOL, "complete", "")]
        assert town.gate.state.pool.running == town.gate.state.pool.waiting == 0

    virtual_time.run(run())


def test_the_first_token_of_a_stream_is_told_to_the_gate_and_a_plain_answer_is_not() -> None:
    async def run() -> None:
        town = LocalTown({POOL: [STREAM, PLAIN], CLOUD: [PLAIN]})
        told: list[str] = []
        town.gate.began = told.append  # type: ignore[method-assign]
        await town.ask(stream=True)
        assert told == [town.gate.asked[0].id]
        await town.ask()
        assert len(told) == 1

    virtual_time.run(run())


def test_a_ticket_says_what_the_request_is_worth_and_how_long_it_may_stay() -> None:
    async def run() -> None:
        town = LocalTown({POOL: [PLAIN], CLOUD: [PLAIN]})
        await town.ask(max_tokens=50)
        [asked] = town.gate.asked
        order = {quote["offer"]: quote for quote in (await town.explain(max_tokens=50))["merit_order"]}
        offers = {offer.id: offer for offer in town.view.market.offers}
        curve = offers[POOL].curve
        tokens = town.journal.begins[asked.id.partition("-")[0]]
        uncached_s = tokens.input_tokens / curve.prefill_tokens_per_s
        assert asked.prefill_s == pytest.approx(uncached_s)
        assert asked.kv_tokens == tokens.input_tokens + tokens.output_tokens == tokens.input_tokens + 50
        assert asked.work_s > asked.prefill_s
        assert (asked.ttft_s_max, asked.ttft_within_s) == (TTFT_S, TTFT_S)
        assert asked.leave_within_s == pytest.approx(TTFT_S - 0.05 - 1.4 * (curve.ttft_base_s + uncached_s))
        assert asked.start_within_s == TTFT_S
        assert asked.usd_displaced is not None
        assert asked.usd_displaced == pytest.approx(order[CLOUD]["usd"] - order[POOL]["usd"], rel=0.2)

    virtual_time.run(run())


def test_a_line_is_no_part_of_what_a_request_displaces() -> None:
    """The gate counts the wait that is really there, so the one of the snapshot must not count as well."""

    async def displaced(wait_s: float) -> float:
        town = LocalTown({POOL: [PLAIN], CLOUD: [PLAIN]}, levels=steep_levels(wait_s))
        await town.ask()
        wanted, _ = town.wants.take()["own"]  # as it was decided, and how it ended
        assert wanted.usd_displaced == pytest.approx(town.gate.asked[0].usd_displaced)
        return wanted.usd_displaced or math.nan

    empty, full = (virtual_time.run(displaced(wait_s)) for wait_s in (0.0, 0.5))
    assert full == pytest.approx(empty)


def steep_levels(wait_s: float) -> tuple[Level, ...]:
    curve = steep(0.0001, ttft_s_max=TTFT_S).levels[0].curve
    return (Level(TTFT_S, wait_s, curve),)
