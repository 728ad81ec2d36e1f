"""What clients get wrong, or do on purpose: a clear 4xx or a closed connection, and nothing has changed afterwards."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from running_gateway import KEY, Running, Site, free_port, provider_yaml, serving, simulated, wait_until
from running_provider import Provider, running

BODY_BYTES_MAX = 300_000
CONNECTIONS_MAX = 24
BOUNDS = (
    f"{{header_s_max: 1.0, body_s_max: 0.6, connections_max: {CONNECTIONS_MAX}, body_bytes_max: {BODY_BYTES_MAX},"
    " output_tokens_max: 4096}"
)
CHAT = "/v1/chat/completions"
HEAD = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n".encode()
GOOD = b'{"model":"frontier","messages":[{"role":"user","content":"hi"}]}'
SIZED = HEAD + b"content-length: %d\r\n" % len(GOOD)
PADDED = b'{"model":"frontier","messages":[{"role":"user","content":"%s"}]}' % (b"x" * BODY_BYTES_MAX)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Provider]]:
    directory: Path = tmp_path_factory.mktemp("hostile")
    port = free_port()
    with running() as pool:
        site = Site(pool.url, [provider_yaml("east", "east", 1.0, simulated(port))], bounds=BOUNDS)
        with serving(directory, site) as started:
            yield started, Provider(f"http://127.0.0.1:{port}")
            assert started.errors() == []


@pytest.fixture
def served(parts: tuple[Running, Provider]) -> Iterator[Running]:
    """The gateway; at the end it serves, nothing is in flight, and every request begun has its end in the journal."""
    gateway, _ = parts
    yield gateway
    assert wait_until(lambda: _chat_works(gateway), what="it serves again")
    wait_until(lambda: gateway.metrics()["baseload_inflight_requests"] == 0, what="nothing in flight")
    begun = {record.id for record in gateway.begun()}
    assert all(len(gateway.ends(request_id)) == 1 for request_id in begun)


@pytest.fixture
def gateway(parts: tuple[Running, Provider], served: Running) -> Iterator[Running]:
    """The gateway, where no request of the test may reach the ledger or a source."""
    before = len(served.records()), parts[1].counters()["requests"]
    yield served
    assert (len(served.records()), parts[1].counters()["requests"]) == before


def _chat_works(gateway: Running) -> bool:
    try:
        return gateway.chat().status == 200
    except OSError:
        return False


def refused(answer: bytes, *statuses: int) -> None:
    """``answer`` is one HTTP answer of these statuses, with an error in OpenAI's shape."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(head.split()[1]) in statuses, answer
    assert head.count(b"HTTP/1.1") == 1
    shaped(json.loads(body))


def shaped(document: Any) -> None:
    assert set(document) == {"error"}
    assert set(document["error"]) == {"message", "type", "param", "code"}
    assert document["error"]["message"]
    assert document["error"]["type"]


def with_field(text: str) -> bytes:
    return GOOD[:-1] + b"," + text.encode() + b"}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        GOOD[:-1],
        GOOD + b"x",
        b"\xef\xbb\xbf" + GOOD,
        GOOD.decode().encode("utf-16"),
        bytes(range(256)),
        b"model=frontier&messages=hi",
        GOOD.replace(b"hi", b"\x00"),
        GOOD.replace(b"hi", b"\n"),
        GOOD.replace(b"hi", b"\xff\xfe"),
        with_field('"anything":"Q"').replace(b"Q", b"\xff"),
        with_field('"Q":1').replace(b"Q", b"\xff"),
        GOOD.replace(b"hi", b"\\ud800"),
        GOOD.replace(b"frontier", b"\\udfff"),
        with_field('"user":"\\ud800x"'),
        with_field('"temperature":NaN'),
        with_field('"temperature":Infinity'),
        with_field('"anything":-Infinity'),
        with_field('"temperature":1e999'),
        with_field('"anything":' + "[" * 100_000 + "]" * 100_000),
        with_field('"metadata":' + '{"a":' * 30_000 + "1" + "}" * 30_000),
        with_field('"tools":[' + '{"a":' * 20_000 + "1" + "}" * 20_000 + "]"),
        b"[" * 100_000,
        b'{"model":' + b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:40] + b".." + body[-25:]),
)
def test_a_body_that_is_no_json_of_a_request_is_a_400(gateway: Running, body: bytes) -> None:
    for path in (CHAT, "/v1/completions", "/v1/embeddings", "/v1/explain"):
        reply = gateway.call("POST", path, body)
        assert reply.status == 400, reply.body
        shaped(reply.json)


@pytest.mark.parametrize(
    ("path", "field", "values"),
    [
        (CHAT, "model", [None, 1, [], {}, ""]),
        (CHAT, "messages", [None, 1, {}, "hi", [1], [{}], [{"role": 1}], [{"role": "user", "content": 1}], []]),
        (CHAT, "messages", [[{"role": "user", "content": [{"text": "no type"}]}], [{"role": ""}]]),
        (CHAT, "stream", [0, "true", []]),
        (CHAT, "stream_options", [1, "x", [], {"include_usage": "yes"}]),
        (CHAT, "max_tokens", [0, -1, 1.5, "5", 4097, 10**30, True]),
        (CHAT, "max_completion_tokens", [0, -1, 1.5, "5", 4097, 10**30]),
        (CHAT, "n", [0, 129, "1", 1.5]),
        (CHAT, "temperature", [-0.1, 2.1, "1", []]),
        (CHAT, "top_p", [-0.1, 1.1, "1"]),
        (CHAT, "user", [1, {}]),
        (CHAT, "metadata", [1, "x", [], {"tags": "public"}, {"tags": [1]}, {"tags": ["unheard-of"]}]),
        (CHAT, "tools", [1, "x", {}, ["x"]]),
        (CHAT, "response_format", [1, "json", []]),
        (CHAT, "logprobs", [1, "yes"]),
        (CHAT, "reasoning_effort", [1, []]),
        ("/v1/completions", "prompt", [None, 1, {}, "", [], [1.5], ["a", 1], [{}]]),
        ("/v1/completions", "logprobs", ["1", True]),
        ("/v1/embeddings", "input", [None, 1, {}, "", [], [1.5], ["a", 1], [{}]]),
        ("/v1/embeddings", "stream", [True]),
    ],
)
def test_a_known_field_of_the_wrong_type_is_a_400_that_names_it(
    gateway: Running, path: str, field: str, values: list[Any]
) -> None:
    own = {CHAT: {"messages": [{"role": "user", "content": "hi"}]}, "/v1/completions": {"prompt": "hi"}}
    body = {"model": "frontier", **own.get(path, {"input": "hi"})}
    for value in values:
        reply = gateway.call("POST", path, {**body, field: value})
        assert reply.status == 400, (value, reply.body)
        shaped(reply.json)
        assert field in reply.json["error"]["message"] or "label" in reply.json["error"]["message"]


@pytest.mark.parametrize("field", ["model", "messages"])
def test_a_missing_field_is_a_400_that_names_it(gateway: Running, field: str) -> None:
    body = json.loads(GOOD)
    del body[field]
    reply = gateway.call("POST", CHAT, body)
    assert (reply.status, field in reply.json["error"]["message"]) == (400, True)


def test_an_unknown_model_or_path_is_a_404_and_a_wrong_method_a_405(gateway: Running) -> None:
    reply = gateway.chat(model="no-such-model")
    assert (reply.status, reply.json["error"]["code"]) == (404, "model_not_found")
    assert "frontier" in reply.json["error"]["message"]
    for path in ("/", "/v1", "/v1/chat/completions/", "//v1/models", "/v1/../metrics", "/%00", "/%ff", "/v1/models?x"):
        reply = gateway.call("GET", path)
        assert reply.status == (200 if path.endswith("?x") else 404)
    reply = gateway.call("GET", CHAT)
    assert (reply.status, reply.headers["allow"]) == (405, "POST")
    reply = gateway.call("DELETE", "/v1/models")
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer  "},
        {"authorization": f"Basic {KEY}"},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Bearer {KEY},{KEY}"},
        {"authorization": "Bearer \xff\xfe"},
        {"x-api-key": "wrong"},
        {"authorization": "Bearer " + "k" * 60_000},
    ],
    ids=lambda headers: str(headers)[:40],
)
def test_without_a_known_key_nothing_is_read(gateway: Running, headers: dict[str, str]) -> None:
    for method, path, body in (("POST", CHAT, GOOD), ("GET", "/v1/models", None), ("POST", "/v1/explain", b"{")):
        reply = gateway.call(method, path, body, headers, key="")
        assert reply.status == 401
        shaped(reply.json)
        assert "wrong" not in reply.body.decode()


def test_a_header_that_means_nothing_here_is_a_400_and_never_ignored(gateway: Running) -> None:
    for name, value in [
        ("x-baseload-labels", "unheard-of"),
        ("x-litellm-tags", "public,unheard-of"),
        ("x-baseload-zones", "mars"),
        ("x-baseload-class", "first-class"),
        ("x-llm-d-inference-objective", "first-class"),
        ("x-baseload-usd-max", "nan"),
        ("x-baseload-usd-max", "-1"),
        ("x-baseload-usd-max", "1_0"),
        ("x-baseload-usd-max", ""),
        ("x-llm-d-slo-ttft-ms", "inf"),
        ("x-llm-d-slo-ttft-ms", "soon"),
    ]:
        reply = gateway.chat(headers={name: value})
        assert reply.status == 400, (name, value)
        shaped(reply.json)


def test_a_body_over_the_bound_is_a_413_whether_it_says_its_length_or_not(gateway: Running) -> None:
    announced = HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(PADDED)
    refused(gateway.raw(announced), 413)
    refused(gateway.raw(HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % 10**17), 413)
    chunk = b"%x\r\n%s\r\n" % (50_000, b" " * 50_000)
    chunked = HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk * 6 + b"a\r\n          \r\n"
    refused(gateway.raw(chunked, seconds=2), 413)


def test_a_body_announced_too_large_is_not_even_asked_for(gateway: Running) -> None:
    head = HEAD + b"connection: close\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(PADDED)
    refused(gateway.raw(head), 413)


@pytest.mark.parametrize(
    "data",
    [
        bytes(range(256)) * 20,
        bytes.fromhex("16030100a5010000a10303") + b"x" * 200,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
        HEAD + b"content-length: -1\r\n\r\n",
        HEAD + b"content-length: " + b"9" * 5000 + b"\r\n\r\n",
        HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"x: a\x00b\r\n\r\n",
        HEAD + b"no colon\r\n\r\n",
    ],
    ids=lambda data: repr(data[-40:]),
)
def test_rubbish_on_the_socket_is_a_400_and_the_connection_is_closed(gateway: Running, data: bytes) -> None:
    refused(gateway.raw(data), 400)


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"a: b\r\n" * 40_000,
        HEAD + b"a: b\r\n" * 20_000 + b"\r\n",
        HEAD + b"".join(b"a%d: b\r\n" % i for i in range(10_000)) + b"\r\n",
        HEAD + b"x: " + b"y" * 400_000,
        b"GET /" + b"y" * 400_000,
    ],
    ids=["endless", "same", "different", "long", "url"],
)
def test_a_head_without_measure_is_a_431(gateway: Running, head: bytes) -> None:
    answer = gateway.raw(head)
    if answer:  # closing while the flood still comes may reset the connection before the answer is read
        refused(answer, 431)


@pytest.mark.parametrize("data", [b"", b"G", b"GET / HTTP/1.1\r\nho", HEAD], ids=["nothing", "byte", "line", "headers"])
def test_a_head_that_comes_too_slowly_closes_the_connection(gateway: Running, data: bytes) -> None:
    started_s = time.monotonic()
    assert gateway.raw(data, seconds=8) == b""
    assert time.monotonic() - started_s < 8


def test_a_head_dripping_byte_by_byte_is_ended_all_the_same(gateway: Running) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=8) as connection:
        with pytest.raises(ConnectionError):
            for i in range(800):
                connection.sendall(HEAD[i % len(HEAD) :][:1])
                time.sleep(0.01)
        assert i > 2


@pytest.mark.parametrize(
    "framing",
    [b"content-length: 70\r\n\r\n", b"content-length: 70\r\n\r\n{", b"transfer-encoding: chunked\r\n\r\n"],
    ids=["none", "some", "chunked"],
)
def test_a_body_that_comes_too_slowly_is_a_408_and_closes_the_connection(gateway: Running, framing: bytes) -> None:
    refused(gateway.raw(HEAD + framing, seconds=8), 408)


def test_a_refused_upload_does_not_hold_its_connection_for_ever(gateway: Running) -> None:
    answer = gateway.raw(HEAD.replace(KEY.encode(), b"wrong") + b"content-length: 1000\r\n\r\n{", seconds=8)
    refused(answer, 401)
    assert b"connection: close" not in answer  # the client may finish its upload and go on


def test_connections_over_the_bound_are_closed_and_the_others_are_served(served: Running) -> None:
    with ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=8))
            for _ in range(3 * CONNECTIONS_MAX)
        ]
        closed = 0
        for connection in idle[CONNECTIONS_MAX:]:
            try:
                closed += connection.recv(1) == b""
            except ConnectionError:
                closed += 1
        assert closed == 2 * CONNECTIONS_MAX


def test_a_client_that_closes_its_half_has_gone(served: Running) -> None:
    answer = served.raw(SIZED + b"\r\n" + GOOD, half_close=True)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 200")


def test_pipelined_requests_are_answered_in_order(served: Running) -> None:
    one, bad = SIZED + b"\r\n" + GOOD, HEAD + b"content-length: 1\r\n\r\n{"
    last = HEAD + b"connection: close\r\ncontent-length: 2\r\n\r\n{}"
    answer = served.raw(one + bad + one + one + last)
    assert [int(status) for status in re.findall(rb"HTTP/1.1 (\d+)", answer)] == [200, 400, 200, 200, 400]


def test_http_1_0_is_served_and_closed(served: Running) -> None:
    answer = served.raw(SIZED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n" + GOOD)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer


def test_expect_100_continue_is_honoured(served: Running) -> None:
    answer = served.raw(SIZED + b"connection: close\r\nexpect: 100-continue\r\n\r\n" + GOOD)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


def test_an_offered_upgrade_is_declined_and_the_request_served(served: Running) -> None:
    for protocol in (b"h2c", b"websocket"):
        offer = b"connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: %s\r\nHTTP2-Settings: AA\r\n\r\n" % protocol
        answer = served.raw(SIZED + offer + GOOD)
        assert answer.startswith(b"HTTP/1.1 200")


def test_a_key_given_twice_means_its_last_value_everywhere(served: Running) -> None:
    reply = served.call("POST", CHAT, with_field('"model":"small"'))
    assert reply.headers["x-baseload-model"] == "small"
    reply = served.call("POST", CHAT, with_field('"metadata":{"tags":["public"]},"metadata":{"tags":["restricted"]}'))
    assert (reply.status, reply.json["error"]["code"]) == (503, "no_allowed_source")


def test_a_null_byte_that_json_allows_is_served(served: Running) -> None:
    reply = served.call("POST", CHAT, GOOD.replace(b"hi", b"a\\u0000b"))
    assert reply.status == 200
    assert len(served.ends(reply.headers["x-baseload-decision-id"])) == 1
