"""Streams on their way through: however the network cuts them, the client gets the same."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.supply import Usage
from serving import sse
from serving.sse import DONE, StreamReader, usage_of, usage_with_cost
from serving.upstreams import UpstreamError

USAGE = {"prompt_tokens": 20, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 5}}
FINAL = {"id": "x", "choices": [], "usage": USAGE}


def event(fields: Any, end: str = "\n") -> bytes:
    return f"data: {json.dumps(fields)}{end}{end}".encode()


def read(chunks: list[bytes]) -> tuple[bytes, StreamReader]:
    reader = StreamReader()
    return b"".join(reader.feed(chunk) for chunk in chunks), reader


words = st.text(max_size=12) | st.sampled_from(['"usage"', "[DONE]", '"error"', "data: ", "\r\n\r\n", "ümlaut €"])
contents = st.lists(words.map(lambda w: {"choices": [{"delta": {"content": w}}], "usage": None}), max_size=6)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, str]:
    """A whole stream, and its line end: events of content, comments, perhaps an error, usage, an end."""
    end = draw(st.sampled_from(["\n", "\r\n"]))
    parts = [event(fields, end) for fields in draw(contents)]
    if draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts))), f": keep-alive{end}{end}".encode())
    if draw(st.booleans()):
        parts.append(event(FINAL, end))
    if draw(st.sampled_from([False, False, True])):
        parts.insert(
            draw(st.integers(0, len(parts))), event({"error": draw(st.sampled_from(["no", {"message": "no"}]))}, end)
        )
    if draw(st.booleans()):
        parts.append(f"data: [DONE]{end}{end}".encode())
    return b"".join(parts), end


@st.composite
def cuts(draw: st.DrawFn, data: bytes) -> list[bytes]:
    if draw(st.booleans()):
        return [data[i : i + 1] for i in range(len(data))]
    at = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[i:j] for i, j in zip([0, *at], [*at, len(data)], strict=True)]


@given(streams(), st.data())
def test_a_stream_cut_anywhere_reads_the_same_as_whole(stream: tuple[bytes, str], data: st.DataObject) -> None:
    whole, _ = stream
    expected, once = read([whole])
    relayed, reader = read(data.draw(cuts(whole)))
    assert relayed == expected
    seen = [(r.usage, r.usage_event, r.done, r.error, r.events) for r in (reader, once)]
    assert seen[0] == seen[1]


@given(contents, st.booleans(), st.booleans(), st.sampled_from(["\n", "\r\n"]), st.data())
def test_content_is_relayed_and_the_usage_event_and_the_end_are_held_back(
    fields: list[Any], with_usage: bool, with_end: bool, end: str, data: st.DataObject
) -> None:
    content = b"".join(event(f, end) for f in fields)
    tail = (event(FINAL, end) if with_usage else b"") + (f"data: [DONE]{end}{end}".encode() if with_end else b"")
    relayed, reader = read(data.draw(cuts(content + tail)))
    assert relayed == content.replace(b"\r\n", b"\n")
    assert reader.done is with_end
    assert reader.usage == (Usage(20, 5, 7) if with_usage else None)
    assert reader.usage_event == (FINAL if with_usage else None)
    assert (reader.events, reader.error) == (len(fields), "")


def test_usage_beside_content_is_read_and_the_content_relayed() -> None:
    both = event({"choices": [{"delta": {"content": "x"}}], "usage": USAGE})
    relayed, reader = read([both + DONE])
    assert (relayed, reader.usage, reader.usage_event) == (both, Usage(20, 5, 7), None)


@pytest.mark.parametrize("error", [{"message": "a secret", "code": 500}, "a secret", ["a secret"]])
def test_an_error_event_is_noticed_and_the_sources_words_are_not_relayed(error: Any) -> None:
    word = event({"choices": [{"delta": {"content": "x"}}]})
    relayed, reader = read([word + event({"error": error}) + DONE])
    assert relayed == word
    assert reader.error
    assert "secret" not in reader.error


def test_an_error_that_is_null_is_none() -> None:
    fine = event({"choices": [{"delta": {}}], "error": None})
    relayed, reader = read([fine])
    assert (relayed, reader.error) == (fine, "")


def test_an_event_that_is_no_json_is_passed_on_as_it_is() -> None:
    odd = b'event: ping\ndata: "usage" [DONE] {\n\n'
    relayed, reader = read([odd])
    assert (relayed, reader.done, reader.usage) == (odd, False, None)


def test_an_event_beyond_all_reason_is_the_sources_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "_EVENT_BYTES_MAX", 100)
    reader = StreamReader()
    assert reader.feed(b"x" * 60) == b""
    with pytest.raises(UpstreamError):
        reader.feed(b"x" * 60)


@pytest.mark.parametrize(
    ("block", "usage"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 3}, Usage(5, 0, 3)),
        ({"prompt_tokens": 5, "total_tokens": 5}, Usage(5, 0, 0)),
        ({"prompt_tokens": 5, "completion_tokens": None, "prompt_tokens_details": None}, Usage(5, 0, 0)),
        ({"prompt_tokens": -5, "completion_tokens": -3}, Usage(0, 0, 0)),
        ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 9}}, Usage(5, 5, 0)),
        ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": None}}, Usage(5, 0, 0)),
        ({"prompt_tokens": "5"}, None),
        (None, None),
    ],
)
def test_the_usage_of_a_plain_answer_is_read_and_impossible_counts_are_cut(block: Any, usage: Usage | None) -> None:
    assert usage_of(json.dumps({"choices": [], "usage": block}).encode()) == usage


WRITES = {"prompt_tokens": 100, "completion_tokens": 9}
HOUR = {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 20}


@pytest.mark.parametrize(
    ("block", "details", "usage"),
    [
        # OpenRouter and OpenAI; litellm's own name; both, as litellm mirrors them; Anthropic's, beside the details
        ({}, {"cached_tokens": 10, "cache_write_tokens": 50}, Usage(100, 10, 9, 50)),
        ({}, {"cached_tokens": 10, "cache_creation_tokens": 50}, Usage(100, 10, 9, 50)),
        ({}, {"cache_write_tokens": 50, "cache_creation_tokens": 50}, Usage(100, 0, 9, 50)),
        ({"cache_creation_input_tokens": 50}, {"cached_tokens": 10, "cache_write_tokens": 0}, Usage(100, 10, 9, 50)),
        ({"cache_creation_input_tokens": 50, "cache_read_input_tokens": 0}, None, Usage(100, 0, 9, 50)),
        ({}, {"cache_creation_tokens": 50, "cache_creation_token_details": HOUR}, Usage(100, 0, 9, 30, 20)),
        ({}, {"cache_creation_tokens": 15, "cache_creation_token_details": HOUR}, Usage(100, 0, 9, 0, 15)),
        ({}, {"cache_creation_token_details": HOUR | {"ephemeral_1h_input_tokens": None}}, Usage(100, 0, 9)),
        ({}, {"cached_tokens": 70, "cache_write_tokens": 50}, Usage(100, 70, 9, 30)),
        ({}, {"cached_tokens": 0, "cache_write_tokens": -5}, Usage(100, 0, 9)),
    ],
)
def test_cache_writes_are_read_under_each_name_that_sources_give_them(block: Any, details: Any, usage: Usage) -> None:
    fields = WRITES | block | {"prompt_tokens_details": details}
    assert usage_of(json.dumps({"usage": fields}).encode()) == usage


@pytest.mark.parametrize(
    ("total", "reasoning", "usage"),
    [
        (100 + 9 + 40, 40, Usage(100, 0, 49, reasoning_tokens=40)),  # xAI: beside the completion
        (100 + 9, 4, Usage(100, 0, 9, reasoning_tokens=4)),  # OpenAI: part of it
        (100 + 9, 40, Usage(100, 0, 9, reasoning_tokens=9)),
        (None, 40, Usage(100, 0, 9, reasoning_tokens=9)),
        ("149", 40, Usage(100, 0, 9, reasoning_tokens=9)),
        (100 + 9, 0, Usage(100, 0, 9)),
        (100 + 9 - 40, -40, Usage(100, 0, 9)),
    ],
)
def test_reasoning_beside_the_completion_is_output_too(total: Any, reasoning: int, usage: Usage) -> None:
    fields = WRITES | {"total_tokens": total, "completion_tokens_details": {"reasoning_tokens": reasoning}}
    assert usage_of(json.dumps({"usage": fields}).encode()) == usage


@pytest.mark.parametrize(
    ("block", "searches"),
    [
        ({"server_tool_use": {"web_search_requests": 3, "tool_calls_requested": 4}}, 3),
        ({"server_tool_use": {"web_search_requests": 0}}, 0),
        ({"prompt_tokens_details": {"web_search_requests": 2}}, 2),
        ({"server_tool_use": {"web_search_requests": None}, "prompt_tokens_details": {"web_search_requests": 2}}, 2),
        ({"server_tool_use": {"web_search_requests": -2}}, 0),
        ({"server_tool_use": None, "prompt_tokens_details": {}}, 1),
        ({}, 1),
    ],
)
def test_searches_that_are_reported_count_and_else_those_asked_for(block: Any, searches: int) -> None:
    expected = Usage(100, 0, 9, searches=searches)
    assert usage_of(json.dumps({"usage": WRITES | block}).encode(), 1) == expected
    reader = StreamReader(1)
    reader.feed(event({"choices": [], "usage": WRITES | block}) + DONE)
    assert reader.usage == expected


counts = st.none() | st.integers(-10, 200) | st.integers(2**38, 2**66)
usage_blocks = st.fixed_dictionaries(
    {"prompt_tokens": counts.map(lambda n: n or 0), "completion_tokens": counts, "total_tokens": counts},
    optional={
        "cache_creation_input_tokens": counts,
        "completion_tokens_details": st.fixed_dictionaries({"reasoning_tokens": counts}),
        "prompt_tokens_details": st.fixed_dictionaries(
            {"cached_tokens": counts, "cache_write_tokens": counts},
            optional={
                "cache_creation_tokens": counts,
                "cache_creation_token_details": st.fixed_dictionaries({"ephemeral_1h_input_tokens": counts}),
                "web_search_requests": counts,
            },
        ),
        "server_tool_use": st.fixed_dictionaries({"web_search_requests": counts}),
    },
)


@given(usage_blocks)
def test_whatever_a_source_claims_the_parts_fit_into_the_whole(block: Any) -> None:
    usage = usage_of(json.dumps({"usage": block}).encode())
    assert usage is not None
    assert min(usage) >= 0
    assert usage.cached_tokens + usage.cache_write_tokens + usage.cache_write_long_tokens <= usage.input_tokens
    assert usage.reasoning_tokens <= usage.output_tokens
    assert max(usage) <= 2**41


@given(
    st.binary(max_size=50) | st.recursive(st.none() | st.integers(), st.lists, max_leaves=5).map(msgspec.json.encode)
)
def test_an_answer_of_garbage_has_no_usage_and_breaks_nothing(body: bytes) -> None:
    assert usage_of(body) is None
    relayed, reader = read([body + b"\n\n", body])
    assert isinstance(relayed, bytes)
    assert not reader.done or b"[DONE]" in body


def test_the_completed_usage_event_carries_the_cost_and_where_it_ran() -> None:
    data = usage_with_cost(json.loads(json.dumps(FINAL)), 0.25, {"source": "api"})
    assert data.endswith(b"\n\n")
    fields = json.loads(data.removeprefix(b"data: "))
    assert fields["usage"] == USAGE | {"cost": 0.25}
    assert fields["baseload"] == {"source": "api"}
