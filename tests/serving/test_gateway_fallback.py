"""When sources fail: the next one answers, unless the first byte has left; then the client is told the truth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from recording_source import JSON
from running_gateway import Running, events_of, wait_until
from running_market import Town, town
from running_provider import Reply

from serving.ledger.records import End

HASTY = {"x-baseload-class": "hasty"}  # two seconds in all


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town(tmp_path_factory.mktemp("fallback")) as started:
        yield started


@pytest.fixture
def here(shared: Town) -> Iterator[Town]:
    """The market as new; afterwards nothing is in flight and every request has exactly one end."""
    shared.renew()
    yield shared
    wait_until(lambda: shared.gateway.metrics()["baseload_inflight_requests"] == 0, what="nothing in flight")
    assert all(len(shared.gateway.ends(record.id)) == 1 for record in shared.gateway.begun())


def end_of(gateway: Running, reply: Reply) -> End:
    [end] = gateway.ends(str(reply.headers["x-baseload-decision-id"]))
    return end


def statuses(end: End) -> list[tuple[str, str]]:
    return [(attempt.offer_id, attempt.status) for attempt in end.attempts]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("outage", ["503", "500", "refuse"])
def test_an_outage_is_answered_by_the_next_source(here: Town, outage: str, stream: bool) -> None:
    here.east.change(outage=outage)
    reply = here.gateway.chat(stream=stream)
    assert (reply.status, reply.headers["x-baseload-offer"]) == (200, "west/frontier")
    assert reply.headers["x-litellm-attempted-fallbacks"] == "1"
    assert reply.headers["x-baseload-reason"].startswith("fallback: east/frontier failed")
    assert statuses(end_of(here.gateway, reply)) == [("east/frontier", "failed"), ("west/frontier", "complete")]
    assert here.east.counters()["requests"] == 1


def test_a_429_is_answered_by_the_next_source_and_its_retry_after_obeyed(here: Town) -> None:
    here.east.change(requests_per_min_max=1)
    assert here.gateway.chat().headers["x-baseload-offer"] == "east/frontier"
    reply = here.gateway.chat()
    assert reply.headers["x-baseload-offer"] == "west/frontier"
    assert "HTTP 429" in reply.headers["x-baseload-reason"]
    assert end_of(here.gateway, reply).attempts[0].http_status == 429


@pytest.mark.parametrize("stream", [False, True])
def test_a_refused_connection_is_answered_by_the_next_source(here: Town, stream: bool) -> None:
    reply = here.gateway.chat(model="frail", stream=stream)
    assert (reply.status, reply.headers["x-baseload-offer"]) == (200, "west/frail")
    end = end_of(here.gateway, reply)
    assert statuses(end) == [("gone/frail", "failed"), ("west/frail", "complete")]
    assert end.attempts[0].usd_avoidable == 0


def test_a_pool_that_fails_bursts_to_a_provider_only_where_the_model_allows(here: Town) -> None:
    here.pool.change(outage="500")
    assert here.gateway.chat(model="fast").headers["x-baseload-offer"] == "east/frontier"
    reply = here.gateway.chat(model="small")
    assert (reply.status, int(reply.headers["retry-after"])) == (503, 1)
    assert here.west.counters()["requests"] == 0


def test_a_plain_answer_cut_in_the_middle_is_answered_by_the_next_source(here: Town) -> None:
    here.east.change(cut_after_tokens=3)
    reply = here.gateway.chat()
    assert (reply.status, reply.headers["x-baseload-offer"]) == (200, "west/frontier")
    assert statuses(end_of(here.gateway, reply)) == [("east/frontier", "failed"), ("west/frontier", "complete")]


def test_a_stream_cut_after_its_first_byte_ends_in_an_honest_error(here: Town) -> None:
    here.east.change(cut_after_tokens=3)
    reply = here.gateway.chat(stream=True, stream_options={"include_usage": True})
    *chunks, last = events_of(reply.body)
    assert (reply.status, reply.headers["x-baseload-offer"]) == (200, "east/frontier")
    assert chunks and all(chunk["choices"] for chunk in chunks)
    assert last["error"]["code"] == "stream_interrupted"
    assert "[DONE]" not in reply.body.decode()
    end = end_of(here.gateway, reply)
    assert (end.status, statuses(end)) == ("interrupted", [("east/frontier", "interrupted")])
    assert end.usd_avoidable > 0
    assert here.west.counters()["requests"] == 0


def test_an_error_inside_a_stream_is_not_passed_off_as_an_end(here: Town) -> None:
    lines = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: {"error":{"message":"out of memory"}}\n\n'
    here.tape.replies.append((200, [(b"content-type", b"text/event-stream")], lines + b"data: [DONE]\n\n"))
    reply = here.gateway.chat(model="taped", stream=True)
    assert end_of(here.gateway, reply).status == "interrupted"
    assert events_of(reply.body)[-1]["error"]["code"] == "stream_interrupted"


def test_an_event_beyond_all_measure_ends_the_stream_and_nothing_else(here: Town) -> None:
    flood = b'data: {"choices":[{"delta":{"content":"' + b"x" * (9 * 2**20)
    first = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    for answer in (flood, first + flood):
        here.tape.replies.append((200, [(b"content-type", b"text/event-stream")], answer))
    before_any_byte = here.gateway.chat(model="taped", stream=True)
    assert (before_any_byte.status, before_any_byte.headers["x-baseload-offer"]) == (200, "west/taped")
    here.gateway.all_sources_stand_ready()
    reply = here.gateway.chat(model="taped", stream=True)
    assert events_of(reply.body)[-1]["error"]["code"] == "stream_interrupted"
    assert end_of(here.gateway, reply).status == "interrupted"


def test_when_every_source_fails_the_client_is_told_when_to_come_back(here: Town) -> None:
    here.east.change(outage="503")
    here.west.change(requests_per_min_max=1)
    assert here.gateway.chat().headers["x-baseload-offer"] == "west/frontier"
    here.gateway.all_sources_stand_ready()
    reply = here.gateway.chat()
    assert (reply.status, reply.json["error"]["code"]) == (503, "sources_failed")
    assert int(reply.headers["retry-after"]) > 1  # the provider's own: its minute has just begun
    end = end_of(here.gateway, reply)
    assert (end.status, statuses(end)) == ("failed", [("east/frontier", "failed"), ("west/frontier", "failed")])
    reply = here.gateway.chat()
    assert (reply.status, reply.json["error"]["code"]) == (503, "no_source")
    assert int(reply.headers["retry-after"]) >= 1
    assert "cooling down" in reply.json["error"]["message"]
    assert end_of(here.gateway, reply).status == "unserved"


@pytest.mark.parametrize("body", [b'{"error":{"message":"no","type":"t","param":null,"code":"c"}}', b"<html>", b"[1]"])
def test_the_sources_verdict_on_the_request_itself_is_final(here: Town, body: bytes) -> None:
    here.tape.replies.append((400, JSON, body))
    reply = here.gateway.chat(model="taped")
    assert reply.status == 400
    assert set(reply.json["error"]) == {"message", "type", "param", "code"}
    end = end_of(here.gateway, reply)
    assert (end.status, statuses(end)) == ("failed", [("tape/taped", "refused")])
    assert here.west.counters()["requests"] == 0


@pytest.mark.parametrize(
    ("status", "body"),
    [(401, b"{}"), (403, b"{}"), (404, b"{}"), (302, b""), (400, b'{"error":{"message":"maximum context length"}}')],
)
def test_what_is_only_this_sources_trouble_is_answered_by_the_next(here: Town, status: int, body: bytes) -> None:
    here.tape.replies.append((status, [*JSON, (b"location", b"http://127.0.0.1:1/")], body))
    reply = here.gateway.chat(model="taped")
    assert (reply.status, reply.headers["x-baseload-offer"]) == (200, "west/taped")
    assert end_of(here.gateway, reply).attempts[0].http_status == status


def test_an_answer_of_a_shape_that_nobody_expects_is_still_delivered_once(here: Town) -> None:
    odd: list[Any] = [b"", b"not json", b'{"usage":"none"}', b'{"usage":{"prompt_tokens":-5}}', b"[" * 5000]
    for body in odd:
        here.tape.replies.append((200, JSON, body))
        reply = here.gateway.chat(model="taped")
        assert (reply.status, reply.body) == (200, body)
        end = end_of(here.gateway, reply)
        assert (end.status, end.usd_avoidable >= 0) == ("complete", True)


def test_one_deadline_spans_the_whole_chain(here: Town) -> None:
    here.east.change(outage="hang")
    here.west.change(outage="hang")
    for stream, attempts in ((False, 1), (True, 2)):
        here.gateway.all_sources_stand_ready()
        reply = here.gateway.chat(headers=HASTY, stream=stream)
        assert (reply.status, reply.json["error"]["code"]) == (504, "deadline")
        assert int(reply.headers["retry-after"]) >= 1
        end = end_of(here.gateway, reply)
        assert [attempt.status for attempt in end.attempts] == ["timeout"] * attempts
        assert sum(attempt.duration_s for attempt in end.attempts) < 5
    wait_until(lambda: here.east.counters()["in_flight"] == here.west.counters()["in_flight"] == 0)


def test_a_source_that_does_not_begin_is_left_while_another_one_remains(here: Town) -> None:
    here.east.change(outage="hang")
    reply = here.gateway.chat(headers=HASTY, stream=True)
    assert (reply.status, reply.headers["x-baseload-offer"]) == (200, "west/frontier")
    assert statuses(end_of(here.gateway, reply)) == [("east/frontier", "timeout"), ("west/frontier", "complete")]


def test_a_clients_impossible_wish_for_speed_takes_no_source_from_the_others(here: Town) -> None:
    for _ in range(3):
        reply = here.gateway.chat(headers={"x-llm-d-slo-ttft-ms": "0"}, stream=True)
        assert (reply.status, reply.headers["x-litellm-attempted-fallbacks"]) == (200, "0")
    assert here.gateway.explain()["merit_order"][0]["offer"] == "east/frontier"


def test_a_failing_source_is_left_alone_for_a_while_and_then_asked_again(here: Town) -> None:
    here.east.change(outage="503")
    here.gateway.chat()
    rejected = here.gateway.explain()["rejected"]
    here.east.change(outage="")
    if {"offer": "east/frontier", "reason": "cooling down"} in rejected:  # it lasts 50 ms here
        assert here.east.counters()["requests"] == 1
    wait_until(lambda: here.gateway.chat().headers["x-baseload-offer"] == "east/frontier")
    assert json.loads(here.gateway.call("GET", "/readyz").body)["status"] == "ready"
