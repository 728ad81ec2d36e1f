"""A provider reached through litellm: transport and nothing else, one call for each attempt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from running_gateway import Running, Site, events_of, provider_yaml, reset, serving, wait_until
from running_market import SLOW, openai
from running_provider import Provider, running


@dataclass
class Parts:
    """The gateway, the provider behind litellm (cheap) and the one beside it."""

    gateway: Running
    behind: Provider
    beside: Provider


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    with running() as pool, running() as behind, running() as beside:
        how = f"kind: litellm\n    base_url: {behind.url}/v1\n    api_key: {{env: KEY_BEHIND_LITELLM}}"
        site = Site(
            pool.url,
            [
                provider_yaml("thin", "east", 1, how, ["frontier", "frail"], "openai/simulated-frontier"),
                provider_yaml("west", "west", 2, openai(beside.url)),
            ],
        )
        secrets = {"KEY_BEHIND_LITELLM": "secret-of-the-provider"}
        with serving(tmp_path_factory.mktemp("litellm"), site, environment=secrets) as gateway:
            yield Parts(gateway, behind, beside)
            assert gateway.errors() == []
            assert "secret-of-the-provider" not in gateway.log()


@pytest.fixture
def here(shared: Parts) -> Iterator[Parts]:
    reset(shared.behind, shared.beside)
    shared.gateway.all_sources_stand_ready()
    yield shared
    wait_until(lambda: shared.gateway.metrics()["baseload_inflight_requests"] == 0, what="nothing in flight")
    assert all(len(shared.gateway.ends(record.id)) == 1 for record in shared.gateway.begun())
    reset(shared.behind, shared.beside)


def test_a_plain_answer_comes_through_with_its_usage(here: Parts) -> None:
    reply = here.gateway.chat()
    assert (reply.status, reply.headers["x-baseload-offer"]) == (200, "thin/frontier")
    assert reply.json["choices"][0]["message"]["content"].startswith("[simulated]")
    assert float(reply.headers["x-baseload-usd"]) == pytest.approx(reply.json["usage"]["total_tokens"] * 1e-6)
    assert here.behind.counters()["requests"] == 1


def test_a_stream_comes_through_and_ends_with_its_cost(here: Parts) -> None:
    reply = here.gateway.chat(stream=True, stream_options={"include_usage": True})
    *chunks, last, done = events_of(reply.body)
    assert done == "[DONE]"
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert text.startswith("[simulated]")
    assert last["usage"]["cost"] == pytest.approx(last["usage"]["total_tokens"] * 1e-6)
    quiet = events_of(here.gateway.chat(stream=True).body)
    assert not [event for event in quiet[:-1] if event.get("usage")]
    assert here.behind.counters()["requests"] == 2


def test_completions_and_embeddings_come_through(here: Parts) -> None:
    body = {"model": "frail", "prompt": "hi"}
    reply = here.gateway.call("POST", "/v1/completions", body)
    assert (reply.status, reply.headers["x-baseload-offer"]) == (200, "thin/frail")
    reply = here.gateway.call("POST", "/v1/embeddings", {"model": "frail", "input": ["a", "b"]})
    assert (reply.status, len(reply.json["data"])) == (200, 2)
    assert here.behind.counters()["requests"] == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "change", [{"outage": "503"}, {"outage": "500"}, {"outage": "refuse"}, {"error_rate": 1.0}], ids=str
)
def test_a_failure_is_tried_once_and_answered_by_the_next_source(
    here: Parts, change: dict[str, object], stream: bool
) -> None:
    here.behind.change(**change)
    reply = here.gateway.chat(stream=stream)
    assert (reply.status, reply.headers["x-baseload-offer"]) == (200, "west/frontier")
    assert (here.behind.counters()["requests"], here.beside.counters()["requests"]) == (1, 1)


def test_a_429_is_tried_once_and_its_retry_after_reaches_the_client(here: Parts) -> None:
    here.behind.change(requests_per_min_max=1)
    assert here.gateway.chat(model="frail").status == 200
    reply = here.gateway.chat(model="frail")
    assert (reply.status, reply.json["error"]["code"]) == (503, "sources_failed")
    assert int(reply.headers["retry-after"]) > 1
    assert here.behind.counters()["requests"] == 2
    [end] = here.gateway.ends(reply.headers["x-baseload-decision-id"])
    assert [(attempt.status, attempt.http_status) for attempt in end.attempts] == [("failed", 429)]


def test_the_providers_verdict_on_the_request_itself_is_final(here: Parts) -> None:
    reply = here.gateway.chat(tools=[{"type": "function"}])
    assert reply.status == 400
    assert set(reply.json["error"]) == {"message", "type", "param", "code"}
    assert (here.behind.counters()["requests"], here.beside.counters()["requests"]) == (1, 0)


def test_a_stream_cut_after_its_first_byte_ends_in_an_honest_error(here: Parts) -> None:
    here.behind.change(cut_after_tokens=3)
    reply = here.gateway.chat(stream=True)
    assert events_of(reply.body)[-1]["error"]["code"] == "stream_interrupted"
    [end] = here.gateway.ends(reply.headers["x-baseload-decision-id"])
    assert end.status == "interrupted"
    assert here.beside.counters()["requests"] == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_work_upstream(here: Parts, stream: bool) -> None:
    here.behind.change(**SLOW)
    with here.gateway.hold("frail", stream) as connection:
        wait_until(lambda: here.behind.counters()["in_flight"] == 1, what="asked")
        if stream:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    counters = here.behind.counters_when(lambda counters: counters["cancelled"] == 1)
    assert (counters["cancelled"], counters["in_flight"], counters["requests"]) == (1, 0, 1)
