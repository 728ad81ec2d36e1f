"""The gateway over real HTTP: answers, headers, streams, who may be served where, and what is written down of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import openai
import pytest
from running_gateway import (
    KEY,
    KEY_HOME,
    KEY_POOR,
    ROOT,
    Site,
    events_of,
    free_port,
    provider_yaml,
    serving,
    simulated,
    wait_until,
)
from running_market import SLOW, Town, town
from running_provider import Provider, Reply

CHAT = "/v1/chat/completions"
CONCURRENT_MAX = 6
BUDGET_USD = 0.01


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    bounds = f"{{concurrent_max: {CONCURRENT_MAX}}}"
    with town(tmp_path_factory.mktemp("http"), bounds=bounds, budget_usd=BUDGET_USD) as started:
        yield started


@pytest.fixture
def here(shared: Town) -> Iterator[Town]:
    """The market as new; afterwards nothing is in flight and every request has exactly one end."""
    shared.renew()
    yield shared
    wait_until(lambda: shared.gateway.metrics()["baseload_inflight_requests"] == 0, what="nothing in flight")
    assert all(len(shared.gateway.ends(record.id)) == 1 for record in shared.gateway.begun())


def id_of(reply: Reply) -> str:
    return str(reply.headers["x-baseload-decision-id"])


def test_a_plain_answer_says_where_it_ran_why_and_at_what_cost(here: Town) -> None:
    reply = here.gateway.chat("hello", headers={"x-session-id": "session-7"})
    assert reply.status == 200
    usd = reply.json["usage"]["total_tokens"] * 1e-6
    [end] = here.gateway.ends(id_of(reply))
    assert (end.status, end.http_status, end.offer_id, end.source) == ("complete", 200, "east/frontier", "api")
    assert end.usd_avoidable == pytest.approx(usd)
    headers = dict(reply.headers)
    assert float(headers["x-baseload-usd"]) == pytest.approx(usd)
    assert headers["x-litellm-response-cost"] == headers["x-baseload-usd"]
    assert headers["x-litellm-call-id"] == headers["x-baseload-decision-id"]
    assert headers["x-litellm-model-id"] == headers["x-baseload-offer"] == "east/frontier"
    assert (headers["x-baseload-source"], headers["x-baseload-model"]) == ("api", "frontier")
    assert headers["x-litellm-attempted-fallbacks"] == "0"
    assert headers["x-baseload-simulated"] == "true"
    assert int(headers["x-baseload-market-version"]) > 0
    assert "next west/frontier" in headers["x-baseload-reason"]
    assert float(headers["x-litellm-overhead-duration-ms"]) >= 0
    begin = next(record for record in here.gateway.begun() if record.id == id_of(reply))
    assert (begin.tenant, begin.session, begin.model_requested) == ("team", "session-7", "frontier")
    assert "session-7" not in here.gateway.call("GET", "/metrics").body.decode()


def test_the_ledger_has_one_row_for_each_answer(here: Town) -> None:
    replies = [here.gateway.chat(f"question {i}", stream=i % 2 == 0) for i in range(6)]
    with here.gateway.ledger() as store:
        for reply in replies:
            decision = wait_until(lambda reply=reply: store.decision(id_of(reply)), what="loaded")
            assert (decision["status"], len(decision["attempts"])) == ("complete", 1)
            assert [quote["offer_id"] for quote in decision["merit_order"]] == ["east/frontier", "west/frontier"]
            assert "question" not in json.dumps(decision)


def test_a_stream_carries_no_usage_that_nobody_asked_for(here: Town) -> None:
    reply = here.gateway.chat(stream=True)
    *chunks, done = events_of(reply.body)
    assert done == "[DONE]"
    assert all(chunk.get("usage") is None and chunk["choices"] for chunk in chunks)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert float(reply.headers["x-baseload-usd"]) > 0
    [end] = here.gateway.ends(id_of(reply))
    assert end.output_tokens == sum(bool(chunk["choices"][0]["delta"].get("content")) for chunk in chunks)
    assert end.ttft_s is not None


def test_a_stream_ends_with_its_real_cost_if_usage_is_asked_for(here: Town) -> None:
    reply = here.gateway.chat(stream=True, stream_options={"include_usage": True})
    *chunks, last, done = events_of(reply.body)
    assert done == "[DONE]"
    assert all(chunk["choices"] for chunk in chunks)
    [end] = here.gateway.ends(id_of(reply))
    assert last["choices"] == []
    assert last["usage"]["cost"] == pytest.approx(last["usage"]["total_tokens"] * 1e-6)
    assert last["usage"]["cost"] == pytest.approx(end.usd_avoidable)
    assert last["baseload"]["offer"] == "east/frontier"
    assert last["baseload"]["decision_id"] == id_of(reply)


def test_openais_client_finds_every_endpoint_it_knows(here: Town) -> None:
    with openai.OpenAI(base_url=f"{here.gateway.url}/v1", api_key=KEY, max_retries=0) as client:
        assert {"auto", "fast", "small", "frontier"} <= {model.id for model in client.models.list()}
        assert client.completions.create(model="frontier", prompt="hi").choices[0].text
        assert len(client.embeddings.create(model="frontier", input=["a", "b"]).data) == 2
        messages: list[Any] = [{"role": "user", "content": "hi"}]
        text = [c.choices[0].delta.content or "" for c in client.chat.completions.create(
            model="small", messages=messages, stream=True)]  # fmt: skip
        assert "simulated" in "".join(text)
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="missing", messages=messages)
    assert here.gateway.call("HEAD", "/v1/models").body == b""
    assert here.gateway.call("GET", "/v1/models", headers={"x-api-key": KEY}, key="").status == 200


def test_what_the_gateway_does_not_read_reaches_the_source_unchanged(here: Town) -> None:
    fields = (
        '"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}],"tool_choice":"auto",'
        '"response_format":{"type":"json_object"},"logprobs":true,"top_logprobs":3,"temperature":0.10,'
        '"seed":123456789012345678901234567890,"vendor":{"x":1.50,"ä":"\\u00e9\\ud83d\\ude00"},"top_k":-1'
    )
    raw = '{"messages":[{"role":"user","content":"hi","name":"n"}],"model":"taped",' + fields + "}"
    reply = here.gateway.call("POST", CHAT, raw.encode(), {"x-session-id": "s"})
    assert reply.headers["x-baseload-offer"] == "tape/taped"
    [(path, headers, body)] = here.tape.asked
    assert path == CHAT
    assert fields.encode() in body
    assert json.loads(body) == {**json.loads(raw), "model": "simulated-frontier"}
    assert KEY.encode() not in b"".join(headers.values())
    assert not [name for name in headers if name.startswith(b"x-")]


def test_a_stream_is_always_asked_for_its_usage(here: Town) -> None:
    assert here.gateway.chat(model="taped", stream=True).status == 200
    assert json.loads(here.tape.asked[0][2])["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    "carried",
    [
        {"headers": {"x-baseload-labels": "public, restricted"}},
        {"headers": {"x-litellm-tags": "restricted"}},
        {"metadata": {"tags": ["restricted"]}},
        {"headers": {"x-baseload-labels": "public"}, "metadata": {"tags": ["restricted"]}},
        {"headers": {"x-baseload-zones": "on-prem"}},
        {"key": KEY_HOME},
        {"key": KEY_HOME, "headers": {"x-baseload-zones": "on-prem,east"}},
        {"key": KEY_HOME, "headers": {"x-baseload-labels": "public"}},
    ],
    ids=str,
)
def test_data_that_may_not_leave_does_not_leave(here: Town, carried: dict[str, Any]) -> None:
    reply = here.gateway.chat(model="auto", reasoning_effort="high", **carried)
    assert (reply.status, reply.headers["x-baseload-offer"]) == (200, "local/small")
    here.pool.change(outage="503")
    for model in ("frontier", "fast"):
        assert here.gateway.chat(model=model, **carried).status == 503
    refused = here.gateway.chat(**carried)
    assert refused.json["error"]["code"] == "no_allowed_source"
    assert "outside the allowed zones (on-prem)" in refused.json["error"]["message"]
    assert here.east.counters()["requests"] == here.west.counters()["requests"] == len(here.tape.asked) == 0


def test_zones_can_be_narrowed_and_never_widened(here: Town) -> None:
    assert here.gateway.chat(headers={"x-baseload-zones": "west"}).headers["x-baseload-offer"] == "west/frontier"
    for zones in ("east,west", ""):
        reply = here.gateway.chat(key=KEY_HOME, headers={"x-baseload-zones": zones})
        assert (reply.status, reply.json["error"]["code"]) == (503, "no_allowed_source")
    lines = b"x-baseload-zones: west\r\nx-baseload-labels: public\r\nx-baseload-labels: restricted\r\n"
    body = b'{"model":"auto","messages":[{"role":"user","content":"hi"}]}'
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {KEY}\r\n".encode()
    answer = here.gateway.raw(head + lines + b"content-length: %d\r\n\r\n" % len(body) + body)
    assert answer.startswith(b"HTTP/1.1 503")


def test_a_cost_limit_holds_for_every_source(here: Town) -> None:
    dear = here.gateway.explain()["merit_order"][1]["usd_at_most"]
    limited = here.gateway.explain(headers={"x-baseload-usd-max": str(dear * 0.75)})
    assert [quote["offer"] for quote in limited["merit_order"]] == ["east/frontier"]
    here.east.change(outage="503")
    assert here.gateway.chat(headers={"x-baseload-usd-max": str(dear * 0.75)}).status == 503
    assert here.west.counters()["requests"] == 0
    reply = here.gateway.chat(headers={"x-baseload-usd-max": "0.0000001", "x-baseload-zones": "west"})
    assert (reply.status, reply.json["error"]["code"]) == (400, "cost_limit")


def test_a_budget_ends_in_429_and_is_not_overspent(here: Town) -> None:
    question = "word " * 400
    with ThreadPoolExecutor(4) as clients:
        replies = list(clients.map(lambda i: here.gateway.chat(f"{i} {question}", key=KEY_POOR), range(16)))
    while (refused := here.gateway.chat(question, key=KEY_POOR)).status != 429 and len(replies) < 40:
        replies.append(refused)  # what was reserved above and not spent
    assert {reply.status for reply in replies} <= {200, 429}
    assert refused.json["error"]["code"] == "insufficient_quota"
    assert int(refused.headers["retry-after"]) >= 1
    poor = {record.id for record in here.gateway.begun() if record.tenant == "poor"}
    spent = [end.usd_avoidable for request_id in poor for end in here.gateway.ends(request_id)]
    assert 0 < sum(spent) <= BUDGET_USD + 4 * max(spent)
    assert here.gateway.chat().status == 200


@pytest.mark.parametrize("model", ["frontier", "small"])
@pytest.mark.parametrize(("stream", "times"), [(True, 1), (False, 1), (True, 3), (False, 3)])
def test_a_client_that_leaves_ends_the_work_upstream(here: Town, model: str, stream: bool, times: int) -> None:
    source: Provider = here.east if model == "frontier" else here.pool
    assert source.change(**SLOW).status == 200
    before = len(here.gateway.begun())
    with here.gateway.hold(model, stream, times) as connection:
        wait_until(lambda: source.counters()["in_flight"] == 1, what="asked")
        if stream:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    counters = source.counters_when(lambda counters: counters["cancelled"] == 1)
    assert (counters["cancelled"], counters["in_flight"], counters["requests"]) == (1, 0, 1)
    [begin] = here.gateway.begun()[before:]
    [end] = wait_until(lambda: here.gateway.ends(begin.id))
    assert (end.status, end.http_status) == ("cancelled", 499)
    wait_until(lambda: here.gateway.metrics()['baseload_pool_state{pool="local",what="running"}'] == 0)


def test_requests_over_the_bound_are_told_when_to_come_back(here: Town) -> None:
    here.east.change(**SLOW)
    with ExitStack() as stack:
        for i in range(CONCURRENT_MAX):
            stack.enter_context(here.gateway.hold("frontier", i % 2 == 0))
        wait_until(lambda: here.east.counters()["in_flight"] == CONCURRENT_MAX)
        assert here.gateway.metrics()["baseload_inflight_requests"] == CONCURRENT_MAX
        reply = here.gateway.chat()
        assert (reply.status, reply.json["error"]["code"]) == (503, "overloaded")
        assert int(reply.headers["retry-after"]) >= 1
        assert here.gateway.call("GET", "/healthz").status == 200
    wait_until(lambda: here.gateway.chat(model="small").status == 200)


def test_explain_shows_the_whole_order_and_runs_nothing(here: Town) -> None:
    before = len(here.gateway.records())
    answer = here.gateway.explain(model="auto", max_tokens=5, tools=[{"type": "function"}])
    assert answer["decision"]["offer"] == answer["merit_order"][0]["offer"]
    usd = [quote["usd"] for quote in answer["merit_order"]]
    assert usd == sorted(usd)
    assert all(sum(quote["terms"].values()) == pytest.approx(quote["usd"]) for quote in answer["merit_order"])
    assert answer["request"]["needs"] == ["chat", "tools"]
    refused = here.gateway.explain(model="small", max_tokens=4090, messages=[{"role": "user", "content": "x" * 400}])
    assert {"offer": "local/small", "reason": "context too long"} in refused["rejected"]
    assert refused["decision"]["offer"] is None
    assert len(here.gateway.records()) == before
    assert here.east.counters()["requests"] == here.pool.counters()["requests"] == 0


def explain_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from serving.cli import main; main()", "explain", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_the_explain_command_shows_the_order_and_says_by_its_status_what_went_wrong(here: Town) -> None:
    shown = explain_command("prove it", "--model", "frontier", "--url", here.gateway.url, "--key", KEY)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "It would go to east/frontier" in shown.stdout
    assert "rejected: local/small: model not asked for" in shown.stdout
    options = ("--url", here.gateway.url, "--key", KEY, "--label", "restricted", "--json")
    assert json.loads(explain_command("hi", *options).stdout)["request"]["zones"] == ["on-prem"]
    refused = explain_command("hi", "--url", here.gateway.url, "--key", "wrong")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "HTTP 401" in refused.stderr
    away = explain_command("hi", "--url", f"http://127.0.0.1:{free_port()}")
    assert (away.returncode, away.stdout) == (3, "")
    assert "cannot reach" in away.stderr


def test_the_metrics_have_the_names_that_people_know(here: Town) -> None:
    here.gateway.chat(stream=True)
    samples = here.gateway.metrics()
    labels = 'gen_ai_provider_name="east",gen_ai_request_model="frontier",gen_ai_response_model="frontier"'
    for name in (
        "gen_ai_client_operation_duration_seconds",
        "gen_ai_server_time_to_first_token_seconds",
        "gen_ai_server_time_per_output_token_seconds",
    ):
        assert samples[f"{name}_count{{{labels}}}"] >= 1
    for kind in ("input", "output"):
        assert samples[f'gen_ai_client_token_usage_count{{{labels},gen_ai_token_type="{kind}"}}'] >= 1
    assert samples['baseload_usd_total{cost_basis="avoidable",source="api",tenant="team"}'] > 0
    assert samples['baseload_offer_up{offer="local/small"}'] == 1
    assert samples["baseload_overhead_seconds_count"] >= 1
    assert samples["baseload_ledger_healthy"] == 1


def test_readiness_names_what_is_missing(tmp_path_factory: pytest.TempPathFactory) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    site = Site(nobody, [provider_yaml("east", "east", 1, simulated(free_port()))])
    with serving(tmp_path_factory.mktemp("unready"), site, ready=False) as gateway:

        def problems() -> Any:
            with suppress(OSError):
                reply = gateway.call("GET", "/readyz")
                assert reply.status == 503
                return "local/small" in str(reply.json["problems"]) and reply.json
            return None

        answer = wait_until(problems, 30)
        assert (answer["status"], answer["down"], answer["up"]) == ("not ready", ["local/small"], ["east/frontier"])
        assert gateway.call("GET", "/healthz", key="").status == 200
        assert wait_until(lambda: gateway.chat().status == 200)
        assert gateway.chat(model="small").status == 503


def test_a_fault_of_our_own_is_one_requests_500_in_openais_shape(tmp_path_factory: pytest.TempPathFactory) -> None:
    site = Site("", [provider_yaml("east", "east", 1, simulated(free_port()))], policy={"triage": "builtins:repr"})
    with serving(tmp_path_factory.mktemp("fault"), site) as gateway:
        for stream in (False, True):
            reply = gateway.chat("my secret", stream=stream)
            assert (reply.status, reply.json["error"]["code"]) == (500, "internal")
        assert gateway.metrics()["baseload_inflight_requests"] == 0
        assert gateway.call("GET", "/readyz").status == 200
        assert "a request has failed" in gateway.log()
        assert "my secret" not in gateway.log()


def test_a_triage_that_fails_costs_no_request(tmp_path_factory: pytest.TempPathFactory) -> None:
    site = Site("", [provider_yaml("east", "east", 1, simulated(free_port()))], policy={"triage": "math:sqrt"})
    with serving(tmp_path_factory.mktemp("triage"), site) as gateway:
        assert gateway.chat("my secret").status == 200
