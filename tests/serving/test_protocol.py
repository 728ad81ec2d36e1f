"""What the gateway reads of a request, what it rewrites, and what it leaves as it came."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.protocol import Parsed, ProtocolError, parse

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def read(endpoint: str = "chat", **fields: Any) -> Parsed:
    base = {"chat": CHAT, "completions": {"model": "m", "prompt": "hi"}, "embeddings": {"model": "m", "input": "hi"}}
    return parse(endpoint, json.dumps(base[endpoint] | fields).encode())


def refused(endpoint: str, raw: bytes) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        parse(endpoint, raw)
    assert caught.value.status == 400
    error = json.loads(caught.value.body())["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    return caught.value


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
known = st.sampled_from(
    ["messages", "prompt", "input", "stream", "max_tokens", "n", "tools", "metadata", "stop", "logprobs"]
)


@given(st.sampled_from(["chat", "completions", "embeddings"]), st.dictionaries(known, documents, max_size=5))
def test_any_json_is_read_or_refused_with_a_400(endpoint: str, fields: dict[str, Any]) -> None:
    raw = json.dumps({"model": "m"} | fields).encode()
    try:
        parsed = parse(endpoint, raw)
    except ProtocolError as error:
        assert error.status == 400
        return
    assert parsed.input_tokens >= 1
    assert endpoint in parsed.needs


@given(st.sampled_from(["chat", "completions", "embeddings"]), st.binary(max_size=60))
def test_any_bytes_that_are_no_request_are_refused_with_a_400(endpoint: str, raw: bytes) -> None:
    refused(endpoint, raw)


@given(st.dictionaries(st.text(max_size=8).map("x{}".format), documents, max_size=5), st.booleans())
def test_the_rewrite_changes_the_model_and_the_usage_wish_and_nothing_else(extra: dict[str, Any], stream: bool) -> None:
    fields = extra | CHAT | {"stream": stream, "seed": 7}
    parsed = parse("chat", json.dumps(fields).encode())
    sent = json.loads(parsed.rewritten("their-model"))
    expected = fields | {"model": "their-model"} | ({"stream_options": {"include_usage": True}} if stream else {})
    assert sent == expected


def test_numbers_and_unicode_of_fields_that_nobody_here_reads_pass_through_byte_by_byte() -> None:
    odd = b'"logit_bias":{"5":1.00},"x":"\\u00e9 \xc3\xa9","y":123456789012345678901234567890'
    raw = b'{"model":"m","messages":[{"role":"user","content":"h"}],' + odd + b"}"
    assert odd in parse("chat", raw).rewritten("n")


@pytest.mark.parametrize(
    ("endpoint", "raw", "param"),
    [
        ("chat", b'{"model":"m"}', "messages"),
        ("completions", b'{"model":"m"}', "prompt"),
        ("embeddings", b'{"model":"m"}', "input"),
        ("chat", b'{"model":"m","messages":[]}', "messages"),
        ("chat", b'{"model":"m","messages":[{"role":"user"}],"max_tokens":0}', "max_tokens"),
        ("chat", b'{"model":"m","messages":[{"role":"user"}],"max_tokens":"5"}', "max_tokens"),
        ("chat", b'{"model":"m","messages":[{"role":"user"}],"n":0}', "n"),
        ("chat", b'{"model":"m","messages":[{"role":"user"}],"temperature":3}', "temperature"),
        ("chat", b'{"model":"","messages":[{"role":"user"}]}', "model"),
        ("completions", b'{"model":"m","prompt":""}', "prompt"),
        ("completions", b'{"model":"m","prompt":["a",5]}', "prompt"),
        ("embeddings", b'{"model":"m","input":"a","stream":true}', "stream"),
    ],
)
def test_a_refusal_names_the_field(endpoint: str, raw: bytes, param: str) -> None:
    assert refused(endpoint, raw).param == param


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"\xff", b'{"a":NaN}', b"[" * 100_000, b'{"model":"m","messages":"hi"}']
)
def test_what_is_no_json_object_of_this_shape_is_refused(raw: bytes) -> None:
    refused("chat", raw)


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({}, {"chat"}),
        ({"tools": [{"type": "function"}]}, {"chat", "tools"}),
        ({"tools": []}, {"chat"}),
        ({"response_format": {"type": "text"}}, {"chat"}),
        ({"response_format": {"type": "json_object"}}, {"chat", "response_format"}),
        ({"logprobs": True}, {"chat", "logprobs"}),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, {"chat", "images"}),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, {"chat", "audio"}),
    ],
)
def test_what_a_chat_needs_is_read_from_its_fields(fields: dict[str, Any], needs: set[str]) -> None:
    assert read(**fields).needs == needs


@pytest.mark.parametrize(
    "fields",
    [
        {"web_search_options": {}},
        {"tools": [{"type": "function", "function": {"name": "f"}}, {"type": "web_search_20250305", "max_uses": 5}]},
        {"tools": [{"type": "web_search_preview"}]},
        {"tools": [{"type": "openrouter:web_search", "parameters": {}}], "web_search_options": {}},
        {"plugins": [{"id": "file-parser"}, {"id": "web", "max_results": 3}]},
    ],
)
def test_a_search_that_the_provider_runs_is_counted_and_needed(fields: dict[str, Any]) -> None:
    parsed = read(**fields)
    assert parsed.searches == 1
    assert "search" in parsed.needs
    assert ("tools" in parsed.needs) == ("tools" in fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "web_search"}}]},
        {"tools": [{"type": "code_execution_20250522"}, {"type": None}, {"type": 5}, {}]},
        {"tools": [{"type": "tool_search_tool_regex_20251119"}]},
        {"plugins": [{"id": "web", "enabled": False}]},
        {"plugins": [{"id": "response-healing"}, {}, "web", 5]},
        {"plugins": {"id": "web"}},
        {"plugins": None, "tools": None},
    ],
)
def test_what_is_no_search_of_the_providers_is_not_counted_as_one(fields: dict[str, Any]) -> None:
    parsed = read(**fields)
    assert parsed.searches == 0
    assert "search" not in parsed.needs


@pytest.mark.parametrize(("tier", "sent"), [("", {}), ("flex", {"service_tier": "flex"})])
def test_the_service_tier_is_the_offers_and_never_the_clients(tier: str, sent: dict[str, str]) -> None:
    fields = json.loads(read(service_tier="priority").rewritten("m", tier))
    assert {name: value for name, value in fields.items() if name == "service_tier"} == sent


def test_triage_sees_the_last_words_of_the_user_and_not_the_systems() -> None:
    messages = [
        {"role": "user", "content": "first"},
        {"role": "user", "content": [{"type": "text", "text": "last"}, {"type": "image_url"}]},
        {"role": "assistant", "content": "no"},
        {"role": "system", "content": "neither"},
    ]
    parsed = read(messages=messages)
    assert (parsed.text, parsed.turns) == ("last", 4)


def test_the_newer_name_of_the_token_limit_wins() -> None:
    assert read(max_tokens=5, max_completion_tokens=9).output_tokens_asked == 9
    assert read(max_tokens=5).output_tokens_asked == 5
    assert read().output_tokens_asked is None


@pytest.mark.parametrize(("value", "tokens"), [("x" * 38, 10), ([1, 2, 3], 3), ("x", 1)])
def test_prompts_are_measured_in_tokens_where_they_are_tokens_and_else_in_bytes(value: Any, tokens: int) -> None:
    assert read("completions", prompt=value).input_tokens == tokens
    assert read("embeddings", input=value).input_tokens == tokens


def test_longer_chats_and_tools_count_as_more_input() -> None:
    short = read().input_tokens
    assert read(messages=CHAT["messages"] * 50).input_tokens > 40 * short
    assert read(tools=[{"type": "function", "description": "x" * 4000}]).input_tokens > short + 1000
