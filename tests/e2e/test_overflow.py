"""Base load and peak under a real load: overflow bursts and comes home; a provider that is down stops nothing local."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter

import aiohttp

from tests.e2e.stack import Answer, Stack, ask, load, wait_until


def one(stack: Stack, stream: bool = False, **body: object) -> Answer:
    async def run() -> Answer:
        async with aiohttp.ClientSession() as session:
            return await ask(session, stack.url, stream, **body)

    return asyncio.run(run())


def test_a_saturated_pool_bursts_and_the_load_comes_home_when_it_ends(stack: Stack) -> None:
    assert one(stack).source == "base"
    under_load = load(stack.url, clients=120, seconds=5, max_tokens=120, ignore_eos=True)
    assert all(answer.complete for answer in under_load), Counter(a.error for a in under_load if not a.complete)
    sources = Counter(answer.source for answer in under_load)
    assert sources["base"] > 0 and sources["api"] > 0, sources

    def at_home() -> bool:
        # Shorter answers than the embedded site's break-even are cheaper to buy, whatever the line is like.
        answers = load(stack.url, clients=2, seconds=1, max_tokens=60, ignore_eos=True)
        return {answer.source for answer in answers} == {"base"}

    wait_until(at_home, 20, "the load has come home")  # the market's view of the crowd is up to some seconds old


def test_with_the_provider_down_overflow_stays_local_and_nothing_is_lost(stack: Stack) -> None:
    stack.provider(outage="503")
    answers = load(stack.url, clients=40, seconds=4, max_tokens=40, ignore_eos=True)
    assert all(answer.complete and answer.source == "base" for answer in answers if answer.status == 200)
    assert sum(answer.complete for answer in answers) > 40
    for answer in answers:
        if not answer.complete:
            assert answer.status == 503 and "error" in answer.error


def test_with_the_provider_down_what_only_it_can_do_fails_promptly_with_the_reason(stack: Stack) -> None:
    stack.provider(outage="refuse")
    answer = one(stack, model="frontier")
    assert answer.status == 503
    assert "frontier-sim" in answer.error
    assert answer.ended_s - answer.started_s < 10


def test_restricted_requests_never_leave_even_when_the_pool_is_full(stack: Stack) -> None:
    before = stack.provider_counters()["requests"]

    async def run() -> list[Answer]:
        headers = {"x-baseload-labels": "restricted"}
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:
            return await asyncio.gather(
                *(ask(session, stack.url, False, max_tokens=120, ignore_eos=True) for _ in range(150))
            )

    answers = asyncio.run(run())
    assert stack.provider_counters()["requests"] == before
    assert sum(answer.complete for answer in answers) >= 90
    assert {answer.source for answer in answers if answer.complete} == {"base"}
    assert {answer.status for answer in answers if not answer.complete} <= {503, 504}


def test_a_client_that_leaves_frees_its_slot_in_the_engine(stack: Stack) -> None:
    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            body = {"model": "small", "stream": True, "max_tokens": 400, "ignore_eos": True}
            body["messages"] = [{"role": "user", "content": "classify: hello"}]
            response = await session.post(
                f"{stack.url}/v1/chat/completions", json=body, headers={"authorization": "Bearer local-demo"}
            )
            await response.content.readany()
            response.close()

    asyncio.run(run())

    def idle() -> bool:
        import urllib.request

        with urllib.request.urlopen(f"{stack.url}/metrics") as answer:
            text = answer.read().decode()
        return (
            'baseload_pool_state{pool="tiny",what="running"} 0.0' in text
            and 'baseload_pool_state{pool="tiny",what="engine_running"} 0.0' in text
        )

    wait_until(idle, 10, "gate and engine hold nothing")


def test_the_ledger_shows_what_was_decided_and_explain_says_why(stack: Stack) -> None:
    answer = one(stack)
    command = [sys.executable, "-m", "serving.cli", "ledger", "show", answer.decision_id, "--json"]
    command += ["--url", f"sqlite:///{stack.directory}/ledger.db", "--journal", str(stack.directory / "journal")]
    shown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert shown["status"] == "complete" and shown["source"] == "base"
    assert shown["merit_order"][0]["terms"].keys() >= {"energy", "wrong_answer"}
    explain = [sys.executable, "-m", "serving.cli", "explain", "prove it", "--label", "restricted", "--url", stack.url]
    text = subprocess.run(explain, capture_output=True, text=True, check=True).stdout
    assert "frontier-sim/frontier: zone not allowed" in text
