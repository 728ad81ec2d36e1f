"""The simulated provider fails, slows down and turns requests away as told, and counts what it did."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import openai
import pytest
from running_provider import MODEL, QUICK, Provider, running

SLOW: dict[str, Any] = {"tokens_per_s": 20.0, "output_tokens": 1000}  # an answer that outlasts every test


@pytest.fixture(scope="module")
def shared() -> Iterator[Provider]:
    with running() as started:
        yield started


@pytest.fixture
def provider(shared: Provider) -> Iterator[Provider]:
    """The shared provider, as new."""
    shared.call("POST", "/simulated/reset-counters")
    yield shared
    plain = {"outage": "", "cut_after_tokens": 0, "error_rate": 0.0, "slow_factor": 1.0, "api_key": ""}
    assert shared.change(**QUICK, **plain).status == 200


async def read_and_leave(provider: Provider, stream: bool) -> None:
    """Asks, waits for the first bytes or for 0.2 s without any, and closes the connection."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "stream": stream}
    async with aiohttp.ClientSession() as session:
        asking = session.post(f"{provider.url}/v1/chat/completions", json=body)
        try:
            response = await asyncio.wait_for(asking, 0.2)
        except TimeoutError:
            return
        await response.content.readany()
        response.close()


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b'{"model": "simulated', 400, None),
        (b"\xff", 400, None),
        (b"[]", 400, None),
        (b'{"model": "simulated-frontier"}', 400, None),
        (b'{"model": "simulated-frontier", "messages": []}', 400, "messages"),
        (b'{"model": "simulated-frontier", "messages": [{"role": 5}]}', 400, "messages[0].role"),
        (b'{"model": "simulated-frontier", "messages": [{"role": "user"}], "max_tokens": 0}', 400, "max_tokens"),
        (b'{"model": "other", "messages": [{"role": "user"}]}', 404, "model"),
        (b" " * (8 * 1024 * 1024 + 1), 413, None),
    ],
    ids=["cut", "bytes", "list", "no-messages", "empty", "type", "range", "model", "size"],
)
def test_what_cannot_be_read_is_refused_in_openais_words(
    provider: Provider, body: bytes, status: int, param: str | None
) -> None:
    reply = provider.call("POST", "/v1/chat/completions", body)
    assert reply.status == status
    assert set(reply.json["error"]) == {"message", "type", "param", "code"}
    assert reply.json["error"]["param"] == param
    assert provider.counters()["rejected_4xx"] == 1


def test_a_key_is_needed_once_one_is_set_and_is_never_shown(provider: Provider) -> None:
    shown = provider.change(api_key="open-sesame")
    assert b"sesame" not in shown.body
    assert provider.chat().status == 401
    headers = {"authorization": "Bearer open-sesame"}
    assert provider.call("GET", "/v1/models", headers=headers).status == 200


def test_embeddings_can_be_switched_off() -> None:
    with running(embedding_dimensions=0) as provider:
        assert provider.call("POST", "/v1/embeddings", {"model": MODEL, "input": "one"}).status == 404


def test_too_many_at_a_time_are_told_when_the_next_place_is_free() -> None:
    with running(concurrency_max=2, tokens_per_s=10.0, output_tokens=16) as provider, ThreadPoolExecutor(2) as threads:
        running_ones = [threads.submit(provider.chat) for _ in range(2)]
        assert provider.counters_when(lambda c: c["in_flight"] == 2)["in_flight"] == 2
        turned_away = provider.chat()
        assert turned_away.status == 429
        assert turned_away.json["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(turned_away.headers["retry-after"]) <= 2
        assert int(turned_away.headers["retry-after-ms"]) <= 1500
        assert [one.result().status for one in running_ones] == [200, 200]
        assert provider.counters()["in_flight_max"] == 2
        assert provider.chat(max_tokens=1).status == 200


def test_too_many_a_minute_are_told_to_come_back_within_one() -> None:
    with running(requests_per_min_max=2) as provider:
        assert [provider.chat().status for _ in range(3)] == [200, 200, 429]
        with openai.OpenAI(base_url=f"{provider.url}/v1", api_key="any", max_retries=0) as client:
            with pytest.raises(openai.RateLimitError) as raised:
                client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hello"}])
            assert 50 <= int(raised.value.response.headers["retry-after"]) <= 60
        assert provider.counters()["rejected_429"] == 2


@pytest.mark.parametrize("status", [500, 503])
def test_an_outage_fails_every_request_and_ends_when_told(provider: Provider, status: int) -> None:
    provider.change(outage=str(status))
    assert provider.chat().status == status
    assert provider.call("GET", "/v1/models").status == status
    assert provider.call("GET", "/healthz").status == 200
    assert provider.counters()["failed_5xx"] == 1
    provider.change(outage="")
    assert provider.chat().status == 200


def test_a_refusing_provider_closes_the_connection_without_an_answer(provider: Provider) -> None:
    provider.change(outage="refuse")
    with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
        provider.chat()
    assert provider.counters()["refused"] == 1


def test_a_hanging_provider_answers_nothing_until_the_client_leaves(provider: Provider) -> None:
    provider.change(outage="hang")
    asyncio.run(read_and_leave(provider, stream=False))
    counters = provider.counters_when(lambda c: c["cancelled"] == 1)
    assert (counters["cancelled"], counters["in_flight"], counters["tokens_out"]) == (1, 0, 0)


def test_errors_by_chance_repeat_with_the_seed() -> None:
    def statuses(seed: int) -> list[int]:
        with running(error_rate=0.5, seed=seed) as provider:
            return [provider.chat().status for _ in range(12)]

    first = statuses(7)
    assert set(first) == {200, 500}
    assert first == statuses(7)


def test_a_cut_stream_breaks_off_after_its_tokens_without_an_end(provider: Provider) -> None:
    provider.change(cut_after_tokens=3)

    async def read() -> bytes:
        received = b""
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "stream": True}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{provider.url}/v1/chat/completions", json=body) as response,
        ):
            with pytest.raises(aiohttp.ClientPayloadError):
                async for part in response.content.iter_any():
                    received += part
        return received

    events = [json.loads(line.removeprefix("data: ")) for line in asyncio.run(read()).decode().split("\n\n") if line]
    assert len(events) == 1 + 3
    assert all(event["choices"][0]["finish_reason"] is None for event in events)
    assert (provider.counters()["cut"], provider.counters()["tokens_out"]) == (1, 3)


def test_a_cut_plain_answer_is_shorter_than_announced(provider: Provider) -> None:
    provider.change(cut_after_tokens=3)
    with pytest.raises(aiohttp.ClientPayloadError):
        provider.chat()
    assert provider.counters()["cut"] == 1
    assert provider.chat(max_tokens=2).status == 200


def test_a_slow_provider_is_late_but_complete(provider: Provider) -> None:
    def seconds() -> float:
        started_s = time.monotonic()
        assert provider.chat(stream=True).events[-1] == "[DONE]"
        return time.monotonic() - started_s

    provider.change(ttft_s=0.05, tokens_per_s=100.0, output_tokens=11)
    usual_s = seconds()
    provider.change(slow_factor=4.0)
    assert usual_s >= 0.14
    assert seconds() >= 0.57


@pytest.mark.parametrize("stream", [True, False])
def test_generation_stops_at_once_when_the_client_leaves(provider: Provider, stream: bool) -> None:
    provider.change(**SLOW)
    asyncio.run(read_and_leave(provider, stream))
    counters = provider.counters_when(lambda c: c["cancelled"] == 1)
    assert (counters["cancelled"], counters["in_flight"], counters["completed"]) == (1, 0, 0)
    assert 1 <= counters["tokens_out"] < 200
    time.sleep(0.15)
    assert provider.counters()["tokens_out"] == counters["tokens_out"]


@pytest.mark.parametrize(
    "changes", [{"unknown": 1}, {"tokens_per_s": 0}, {"error_rate": 2}, {"outage": "flood"}, {"models": []}]
)
def test_a_setting_that_makes_no_sense_is_refused_and_changes_nothing(
    provider: Provider, changes: dict[str, Any]
) -> None:
    before = provider.call("GET", "/simulated/settings").json
    assert provider.change(output_tokens=5, **changes).status == 400
    assert provider.call("GET", "/simulated/settings").json == before
    assert provider.change(**before).json == before


def test_a_long_prompt_seen_before_is_cached_and_cheaper() -> None:
    prices = {"usd_per_mtok_input": 4.0, "usd_per_mtok_cached": 1.0, "usd_per_mtok_output": 10.0}
    with running(**prices) as provider:
        usages = [provider.chat("x" * 4096, max_tokens=4).json["usage"] for _ in range(2)]
        assert [usage["prompt_tokens_details"]["cached_tokens"] for usage in usages] == [0, 1024]
        assert [usage["cost"] for usage in usages] == pytest.approx([1024 * 4e-6 + 4e-5, 1024e-6 + 4e-5])
        provider.change(prompt_cache=False)
        assert provider.chat("x" * 4096).json["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_the_outcomes_add_up_to_the_requests(provider: Provider) -> None:
    asked = [provider.chat(), provider.chat(stream=True), provider.chat(model="other"), provider.chat(n=0)]
    provider.change(outage="503")
    asked.append(provider.chat())
    counters = provider.counters()
    outcomes = ("completed", "cancelled", "rejected_429", "rejected_4xx", "failed_5xx", "refused", "cut", "in_flight")
    assert counters["requests"] == sum(counters[name] for name in outcomes) == len(asked)
    assert (counters["completed"], counters["tokens_out"]) == (2, 16)


def test_as_a_process_it_says_when_it_is_ready_and_stops_in_the_middle_of_a_stream() -> None:
    command = [sys.executable, "-m", "serving.upstreams.simulated", "--port", "0", "--tokens-per-s", "20"]
    endless = [*command, "--ttft-s", "0", "--output-tokens", "1000", "--models", f"a,{MODEL}"]
    with subprocess.Popen(endless, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready.startswith("[simulated] ")
        provider = Provider(ready.split()[-1])
        with ThreadPoolExecutor(1) as threads:
            stream = threads.submit(provider.chat, stream=True)
            provider.counters_when(lambda c: c["in_flight"] == 1)
            process.send_signal(signal.SIGTERM)
            assert isinstance(stream.exception(10), aiohttp.ClientError)
        assert process.wait(10) == 0
        assert process.communicate() == ("", "")
    wrong = subprocess.run([*command, "--error-rate", "2"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "error_rate" in wrong.stderr
