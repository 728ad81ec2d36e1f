"""The simulated provider answers as OpenAI's API does, and says everywhere that it is simulated."""

from __future__ import annotations

import base64
import itertools
import json
import struct
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from running_provider import MODEL, Provider, running

from serving.upstreams.simulated.pacing import Chance
from serving.upstreams.simulated.settings import Settings

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer", "minimum": 3, "maximum": 9},
                "unit": {"enum": ["celsius", "kelvin"]},
                "note": {"type": "string"},
            },
            "required": ["city", "days", "unit"],
        },
    },
}


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with running() as started:
        yield started


@pytest.fixture(scope="module")
def client(provider: Provider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{provider.url}/v1", api_key="any", max_retries=0) as opened:
        yield opened


def ask(content: str) -> list[Any]:
    return [{"role": "user", "content": content}]


def test_simulated_is_written_on_everything_it_says(provider: Provider) -> None:
    answer = provider.chat()
    assert answer.json["choices"][0]["message"]["content"].startswith("[simulated] ")
    assert answer.json["system_fingerprint"] == "simulated"
    assert answer.json["id"].startswith("chatcmpl-simulated-")
    error = provider.chat(model="other")
    assert error.json["error"]["message"].startswith("[simulated] ")
    replies = [answer, error, provider.chat(stream=True)]
    for path in ("/healthz", "/v1/models", "/simulated/settings", "/simulated/counters", "/nowhere"):
        replies.append(provider.call("GET", path))
        assert "simulated" in replies[-1].body.decode()
    assert {reply.headers["x-simulated"] for reply in replies} == {"true"}


def test_a_plain_answer_reports_the_tokens_it_sent(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ask("é" * 10))
    assert answer.model == MODEL
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (5, 8, 13)


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_an_answer_cut_short_by_its_limit_says_so(provider: Provider, limit: str) -> None:
    answer = provider.chat("hello", **{limit: 3}).json
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["choices"][0]["finish_reason"] == "length"
    assert provider.chat("hello", **{limit: 300}).json["usage"]["completion_tokens"] == 8


def test_the_same_question_gets_the_same_answer_plain_and_streamed(provider: Provider) -> None:
    plain = provider.chat("twice").json["choices"][0]["message"]["content"]
    events = provider.chat("twice", stream=True).events
    streamed = "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-1])
    assert plain == streamed
    assert plain != provider.chat("another").json["choices"][0]["message"]["content"]


def test_a_stream_names_the_role_first_and_the_reason_last(provider: Provider) -> None:
    *events, done = provider.chat(stream=True).events
    assert done == "[DONE]"
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [e["choices"][0]["finish_reason"] for e in events] == [None] * 9 + ["stop"]
    assert {e["object"] for e in events} == {"chat.completion.chunk"}
    assert not any("usage" in e for e in events)


def test_a_stream_ends_with_its_usage_if_that_is_asked_for(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=ask("hello"), stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 8


def test_several_choices_are_all_sent_and_all_counted(provider: Provider) -> None:
    answer = provider.chat(n=3).json
    assert len({choice["message"]["content"] for choice in answer["choices"]}) == 3
    assert answer["usage"]["completion_tokens"] == 24
    events = provider.chat(n=3, stream=True).events[:-1]
    assert [e["choices"][0]["index"] for e in events[:6]] == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("content", "wish"),
    [
        ("hello", "required"),
        ("hello", {"type": "function", "function": {"name": "weather"}}),
        ("please Use the tool weather", "auto"),
    ],
)
def test_a_tool_is_called_with_arguments_that_satisfy_its_schema(provider: Provider, content: str, wish: Any) -> None:
    answer = provider.chat(content, tools=[WEATHER], tool_choice=wish).json
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert call["function"]["name"] == "weather"
    arguments = json.loads(call["function"]["arguments"])
    assert arguments == {"city": "[simulated] text", "days": 3, "unit": "celsius"}


def test_a_streamed_tool_call_adds_up_to_the_plain_one(client: openai.OpenAI) -> None:
    messages, tools = ask("use the tool"), [WEATHER]
    plain = client.chat.completions.create(model=MODEL, messages=messages, tools=tools)  # type: ignore[arg-type]
    with client.chat.completions.stream(model=MODEL, messages=messages, tools=tools) as stream:  # type: ignore[arg-type]
        streamed = stream.get_final_completion()
    (expected,), (found,) = plain.choices[0].message.tool_calls or [], streamed.choices[0].message.tool_calls or []
    assert found.function.arguments == expected.function.arguments  # type: ignore[union-attr]
    assert found.id.startswith("call_simulated_")


def test_tools_are_left_alone_unless_they_are_asked_for(provider: Provider) -> None:
    assert "tool_calls" not in provider.chat("hello", tools=[WEATHER]).json["choices"][0]["message"]
    forbidden = provider.chat("use the tool", tools=[WEATHER], tool_choice="none").json
    assert "tool_calls" not in forbidden["choices"][0]["message"]
    after_its_result = [*ask("use the tool"), {"role": "tool", "content": "rain", "tool_call_id": "x"}]
    assert provider.chat(messages=after_its_result, tools=[WEATHER]).json["choices"][0]["finish_reason"] == "stop"
    assert provider.chat(tool_choice="required").status == 400


def test_json_is_answered_where_json_is_asked_for(provider: Provider) -> None:
    answer = provider.chat(response_format={"type": "json_object"}).json["choices"][0]["message"]["content"]
    assert json.loads(answer)["simulated"] is True
    point = {"type": "object", "properties": {"x": {"type": "number", "exclusiveMinimum": 2}}, "required": ["x"]}
    schema = {
        "type": "object",
        "properties": {
            "points": {"type": "array", "items": {"$ref": "#/$defs/point"}, "minItems": 2},
            "kind": {"anyOf": [{"const": "line"}, {"type": "null"}]},
            "label": {"type": "string", "maxLength": 5},
            "self": {"$ref": "#"},
        },
        "required": ["points", "kind", "label"],
        "$defs": {"point": point},
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "shape", "schema": schema}}
    answer = json.loads(provider.chat(response_format=wanted).json["choices"][0]["message"]["content"])
    assert answer["kind"] == "line"
    assert len(answer["points"]) == 2
    assert answer["points"][0]["x"] > 2
    assert len(answer["label"]) <= 5


def test_a_schema_that_requires_itself_is_answered_all_the_same(provider: Provider) -> None:
    schema = {"type": "object", "properties": {k: {"$ref": "#"} for k in "ab"}, "required": ["a", "b"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "endless", "schema": schema}}
    assert provider.chat(response_format=wanted).status == 200


def test_log_probabilities_come_with_each_token(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ask("hello"), logprobs=True, top_logprobs=2)
    content = answer.choices[0].logprobs.content if answer.choices[0].logprobs else None
    assert content is not None
    assert "".join(token.token for token in content) == answer.choices[0].message.content
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in content)


def test_completions_answer_each_prompt(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt=["one", "two"], n=2, logprobs=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert all(choice.text.startswith("[simulated] ") for choice in answer.choices)
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.text_offset is not None
    chunks = list(client.completions.create(model=MODEL, prompt="one", stream=True, max_tokens=2, logprobs=0))
    assert "".join(chunk.choices[0].text for chunk in chunks).startswith("[simulated] ")
    assert chunks[-1].choices[0].finish_reason == "length"
    offsets = [chunk.choices[0].logprobs.text_offset for chunk in chunks[:-1] if chunk.choices[0].logprobs]
    assert offsets == [[0], [len(chunks[0].choices[0].text)]]


def test_embeddings_depend_on_nothing_but_the_text(provider: Provider) -> None:
    def embed(**fields: Any) -> Any:
        return provider.call("POST", "/v1/embeddings", {"model": MODEL, **fields}).json

    answer = embed(input=["one", "two", "one"])
    one, two, again = (item["embedding"] for item in answer["data"])
    assert one == again != two
    assert len(one) == 256
    assert sum(x * x for x in one) == pytest.approx(1.0)
    assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert len(embed(input="one", dimensions=16)["data"][0]["embedding"]) == 16
    packed = base64.b64decode(embed(input="one", encoding_format="base64")["data"][0]["embedding"])
    assert struct.unpack("<256f", packed) == pytest.approx(one, abs=1e-6)


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "simulated"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_jitter_moves_tokens_but_neither_swaps_nor_delays_them_for_good() -> None:
    settings = Settings(ttft_s=1.0, tokens_per_s=10.0, jitter=1.0, slow_factor=2.0)
    schedule, again = (Chance(seed=3).schedule(settings, now_s=100.0) for _ in range(2))
    due_s = [schedule.due_s(i) for i in range(1000)]
    assert due_s == sorted(due_s) == [again.due_s(i) for i in range(1000)]
    assert 100.0 <= due_s[0] <= 104.0
    assert due_s[-1] - due_s[0] == pytest.approx(999 * 0.2, abs=0.1)
    assert len({round(later - sooner, 6) for sooner, later in itertools.pairwise(due_s)}) > 100
