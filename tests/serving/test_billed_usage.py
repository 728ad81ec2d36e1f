"""What an attempt is billed where the source does not say, or says it only in part: its own tokens, and the searches."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from scheduler.core.market import Decision, Outcome, Policy, Quote
from scheduler.core.supply import Rate, Usage
from serving.dispatcher import Dispatch, Services
from serving.learned import Learned
from serving.protocol import parse
from serving.routes import Route
from serving.sse import DONE
from serving.tickets import Wants
from serving.view import View
from tests.support import virtual_time
from tests.support.dispatch_cases import NO_USAGE, WORDS, event
from tests.support.fake_sources import FakeTransport, Plan
from tests.support.markets import api, request

RATE = Rate(1e-6, 1e-7, 4e-6, usd_per_search=0.01)
OFFER = api("p/m", 0.0, rate=RATE, tokens_ratio=1.5, reasoning_tokens=200)
ASKED = Usage(100, 0, 50, searches=1)
USAGE = {"prompt_tokens": 90, "completion_tokens": 30}
SEARCHED = USAGE | {"server_tool_use": {"web_search_requests": 4}}


class Client:
    """Takes what it is sent."""

    started = False

    async def start_stream(self, *_: Any) -> None:
        self.started = True

    async def relay(self, data: bytes) -> None:
        assert data


def billed(plan: Plan, *, stream: bool = False, endpoint: str = "chat", leave_s: float = 0.0) -> Outcome:
    """The outcome of one attempt at ``OFFER``; the client goes away after ``leave_s``, if given."""

    async def run() -> Outcome:
        clock = asyncio.get_running_loop().time
        needs = frozenset({endpoint})
        asked = request(usage=ASKED, needs=needs, arrived_s=clock(), deadline_s=clock() + 5.0)
        decision = Decision(asked, 1, (Quote(OFFER, 0.0, 0.0, {}),), ())
        own = {"messages": [{"role": "user"}]} if endpoint == "chat" else {"input": "hello"}
        parsed = parse(endpoint, json.dumps({"model": "m", "user": "q", "stream": stream} | own).encode())
        services = Services(
            View(Policy(), 0.1, clock),
            {"p/m": Route("p/m", "http", "m")},
            {"http": FakeTransport({"p/m": [plan]})},
            {},
            None,  # type: ignore[arg-type]  # whoever dispatches keeps the books
            Policy(attempts_max=1),
            Learned(),
            Wants(),
            clock,
        )
        dispatch = Dispatch(services, decision, parsed, "/v1/x", Client())  # type: ignore[arg-type]
        task = asyncio.ensure_future(dispatch.run())
        if leave_s:
            await asyncio.sleep(leave_s)
            task.cancel()
        await asyncio.wait([task])
        [made] = dispatch.outcomes
        assert made.usd == pytest.approx(RATE.usd(made.usage))
        return made

    return virtual_time.run(run())


def answer(usage: Any) -> Plan:
    return Plan("answer", parts=(json.dumps({"choices": [], "usage": usage}).encode(),))


# 100 tokens of the gateway's are 150 of this source's, and where it writes it has thought 200.
WHOLE = Usage(150, 0, 75 + 200, reasoning_tokens=200, searches=1)
CUT = Usage(150, 0, 5 + 200, reasoning_tokens=200, searches=1)  # three events came
TOLD, TOLD_ALL = Usage(90, 0, 30, searches=1), Usage(90, 0, 30, searches=4)
LAST, LAST_SEARCHED = event({"choices": [], "usage": USAGE}), event({"choices": [], "usage": SEARCHED})
HANG = Plan("hang", head="hang")


@pytest.mark.parametrize(
    ("plan", "stream", "status", "usage"),
    [
        (answer(USAGE), False, "complete", TOLD),
        (answer(SEARCHED), False, "complete", TOLD_ALL),
        (HANG, False, "timeout", WHOLE),
        (HANG, True, "timeout", WHOLE),
        (Plan("broken", head="broken"), False, "failed", WHOLE),
        (Plan("ends", parts=(LAST, DONE)), True, "complete", TOLD),
        (Plan("ends", parts=(LAST_SEARCHED, DONE)), True, "complete", TOLD_ALL),
        (Plan("cut", parts=(*WORDS, LAST_SEARCHED), end="cut"), True, "interrupted", TOLD_ALL),
        (Plan("no usage", parts=(*WORDS, DONE)), True, "complete", CUT),
        (Plan("cut", parts=tuple(WORDS), end="cut"), True, "interrupted", CUT),
        (Plan("hangs", parts=tuple(WORDS), end="hang"), True, "interrupted", CUT),
        (Plan("hangs at once", end="hang"), True, "timeout", Usage(150, 0, 0, searches=1)),
    ],
)
def test_every_way_to_end_bills_the_sources_tokens_and_the_searches(
    plan: Plan, stream: bool, status: str, usage: Usage
) -> None:
    made = billed(plan, stream=stream)
    assert (made.status, made.usage) == (status, usage)
    assert made.measured == (status == "complete" and usage.input_tokens == 90)


def test_an_answer_without_usage_is_estimated_by_its_length_in_the_sources_tokens() -> None:
    written = -(-len(NO_USAGE) // 4 * 3 // 2)  # four bytes a token, half as many again here
    made = billed(Plan("no usage", parts=(NO_USAGE,)))
    assert made.usage.output_tokens == pytest.approx(written + 200, abs=1)
    assert made.usage[:2] + made.usage[3:] == (150, 0, 0, 0, 200, 1)
    assert not made.measured


def test_embeddings_without_usage_have_no_output() -> None:
    assert billed(Plan("vectors", parts=(NO_USAGE * 100,)), endpoint="embeddings").usage == Usage(150, 0, 0, searches=1)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_billed_what_the_source_may_bill(stream: bool) -> None:
    made = billed(HANG, stream=stream, leave_s=1.0)
    assert (made.status, made.usage) == ("cancelled", WHOLE)


@pytest.mark.parametrize("plan", [Plan("unreachable", head="unreachable"), Plan("HTTP 500", status=500)])
def test_a_source_that_did_no_work_bills_nothing(plan: Plan) -> None:
    made = billed(plan)
    assert (made.usage, made.usd) == (Usage(0, 0, 0), 0.0)
