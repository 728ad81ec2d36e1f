"""Traces are read as a stream, whatever their family, and what is wrong with one is named by file, line and reason."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.simulation.trace_formats import Options, csv_file, mooncake
from scheduler.simulation.traces import Trace, TraceError, open_trace, trace_of

Write = Callable[..., Path]
PLAIN = "arrival_s,input_tokens,output_tokens\n"
FULL = "arrival_s,input_tokens,output_tokens,reusable_prefix_tokens,prefix_blocks\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
AGENTIC = "session,session_t_s,input_tokens,output_tokens,cached_input_tokens,model\n"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(content: str | bytes, packed: bool = False, name: str = "some.data") -> Path:
        data = content.encode() if isinstance(content, str) else content
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if packed else data)
        return path

    return written


def refused(path: Path) -> TraceError:
    with pytest.raises(TraceError) as caught:
        open_trace(path)
    assert str(path) in str(caught.value)
    return caught.value


def listed(trace: Trace) -> list[tuple[float, int, int]]:
    return list(zip(trace.arrival_s.tolist(), trace.input_tokens.tolist(), trace.output_tokens.tolist(), strict=True))


@pytest.mark.parametrize("packed", [False, True])
def test_the_plain_form_is_read_from_its_first_arrival(write: Write, packed: bool) -> None:
    with open_trace(write(PLAIN + "10.5,7,1\n11,8,0\n11,9,3\n", packed)) as trace:
        assert listed(trace) == [(0.0, 7, 1), (0.5, 8, 0), (0.5, 9, 3)]
        assert trace.arrival_s.dtype == np.float64
        assert trace.input_tokens.dtype == trace.output_tokens.dtype == trace.client.dtype == np.int32
        assert isinstance(trace.arrival_s, np.memmap)
        assert trace.requests == 3
        assert trace.span_s == pytest.approx(0.75)
        assert not trace.has_clients
        assert trace.client.tolist() == [0, 0, 0]
        assert trace.session.tolist() == [-1, -1, -1]
        assert trace.prefix_blocks is None


def test_temporary_files_live_as_long_as_the_trace(write: Write, tmp_path: Path) -> None:
    path, spools = write(PLAIN + "0,1,1\n"), tmp_path / "spools"
    spools.mkdir()
    with open_trace(path, directory=spools):
        assert list(spools.iterdir())
    assert not list(spools.iterdir())
    path.write_text(PLAIN + "0,1,1\n5,x,1\n")
    with pytest.raises(TraceError):
        open_trace(path, directory=spools)
    assert not list(spools.iterdir())


def test_prefix_blocks_are_ragged_and_may_be_missing(write: Write) -> None:
    with open_trace(write(FULL + "0,600,1,0,5 6\n1,600,1,512,\n2,100,1,0,7\n")) as trace:
        assert trace.prefix_offsets is not None
        assert trace.prefix_blocks is not None
        assert trace.prefix_offsets.tolist() == [0, 2, 2, 3]
        assert trace.prefix_blocks.tolist() == [5, 6, 7]
        assert trace.reusable_prefix_tokens.tolist() == [0, 512, 0]


def test_columns_that_nobody_asked_for_and_their_order_do_not_matter(write: Write) -> None:
    with open_trace(write("x,output_tokens,client,arrival_s,input_tokens\na b,3,9,0,2\n")) as trace:
        assert listed(trace) == [(0.0, 2, 3)]
        assert trace.has_clients
        assert trace.client.tolist() == [9]


@pytest.mark.parametrize("zone", ["", "+00:00"])
def test_azure_keeps_all_seven_digits_of_a_second(write: Write, zone: str) -> None:
    rows = [f"2023-11-16 18:15:46.6805900{zone},374,44", f"2023-11-16 18:15:50.9951690{zone},396,109"]
    with open_trace(write("\r\n".join([AZURE.strip(), *rows, f"2023-11-17 00:00:00{zone},879,55"]))) as trace:
        assert listed(trace) == [(0.0, 374, 44), (4.314579, 396, 109), (20_653.31941, 879, 55)]


def test_burstgpt_leaves_out_failures_and_counts_them(write: Write) -> None:
    rows = "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,10,0,10,API log\n118,GPT-4,417,276,693,API log\n"
    with open_trace(write(BURST + rows)) as trace:
        assert listed(trace) == [(0.0, 472, 18), (113.0, 417, 276)]
        assert trace.dropped == 1
        assert not trace.has_sessions


def test_newer_burstgpt_has_sessions_but_not_for_its_api(write: Write) -> None:
    header = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    rows = "19.5,u-b,4,GPT-4,9,4,13,Conversation log\n20.0,,1,GPT-4,1,2,3,API log\n21.0,u-a,1,GPT-4,1,2,3,x\n"
    rows += "22,u-b,1,GPT-4,1,2,3,x\n"
    with open_trace(write(header + rows, packed=True)) as trace:
        assert trace.session.tolist() == [0, -1, 1, 0]
        assert trace.arrival_s.tolist() == [0.0, 0.5, 1.5, 2.5]


def test_what_servegen_writes_is_read(write: Write) -> None:
    with open_trace(write("request_id,timestamp,input_tokens,output_tokens\n0,0.5,10,20\n1,1.25,15,25\n")) as trace:
        assert listed(trace) == [(0.0, 10, 20), (0.75, 15, 25)]


def test_mooncake_counts_reusable_tokens_by_leading_blocks_seen_before(write: Write) -> None:
    lines = [
        {"timestamp": 0, "input_length": 1500, "output_length": 5, "hash_ids": [0, 1, 2]},
        {"timestamp": 3000, "input_length": 1600, "output_length": 6, "hash_ids": [0, 1, 9, 2]},
        {"timestamp": 3001, "input_length": 700, "output_length": 7, "hash_ids": [0, 1]},
        {"timestamp": 3002, "input_length": 10, "output_length": 8, "hash_ids": [77]},
    ]
    with open_trace(write("\n".join(map(json.dumps, lines)), packed=True)) as trace:
        assert listed(trace) == [(0.0, 1500, 5), (3.0, 1600, 6), (3.001, 700, 7), (3.002, 10, 8)]
        assert trace.reusable_prefix_tokens.tolist() == [0, 1024, 700, 0]
        assert trace.prefix_blocks is not None
        assert trace.prefix_blocks.tolist() == [0, 1, 2, 0, 1, 9, 2, 0, 1, 77]


def test_agentic_sessions_keep_their_own_pace_and_start_by_chance(write: Write) -> None:
    sessions = [f"s{i}" for i in range(300)]
    rows = [f"{name},{t},100,{i + 1},64,m" for i, name in enumerate(sessions) for t in (0.0, 7.5, 60.0)]
    path = write(AGENTIC + "\n".join(rows))
    with open_trace(path, options=Options(seed=3, sessions_per_hour=60.0)) as trace, open_trace(path) as other:
        assert (np.diff(trace.arrival_s) >= 0.0).all()
        starts_s = [float(trace.arrival_s[trace.session == i].min()) for i in range(300)]
        for i in range(300):
            mine = trace.session == i
            assert np.allclose(trace.arrival_s[mine] - starts_s[i], [0.0, 7.5, 60.0])
            assert set(trace.output_tokens[mine].tolist()) == {i + 1}
        assert starts_s == sorted(starts_s)
        assert np.diff(starts_s).mean() == pytest.approx(60.0, rel=0.2)
        assert np.diff(starts_s).std() == pytest.approx(60.0, rel=0.3)
        assert trace.reusable_prefix_tokens.tolist() == [64] * 900
        assert other.arrival_s[-1] > 3.0 * trace.arrival_s[-1]
        with open_trace(path, options=Options(seed=3, sessions_per_hour=60.0)) as again:
            assert again.arrival_s.tobytes() == trace.arrival_s.tobytes()


CELLS = [
    ("0,1", "2 fields, but the header has 3"),
    ("0,1,2,3", "4 fields, but the header has 3"),
    ("0,-1,2", "input_tokens: -1 is negative"),
    ("0,1,nan", "output_tokens: 'nan' is not a whole number"),
    ("0,1,2.5", "output_tokens: '2.5' is not a whole number"),
    ("0,1,", "output_tokens: no value"),
    ("0,3000000000,1", "input_tokens: 3000000000 is above 2147483647"),
    ("nan,1,1", "arrival_s: 'nan' is not a finite number"),
    ("soon,1,1", "arrival_s: 'soon' is not a number"),
    (",1,1", "arrival_s: no value"),
]


@pytest.mark.parametrize(("row", "reason"), CELLS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_bad_row_is_named_by_its_line_and_reason(write: Write, row: str, reason: str, packed: bool) -> None:
    error = refused(write(PLAIN + "0,1,1\n\n0,1,1\n" + row + "\n9,1,1\n", packed))
    assert (error.line, error.reason) == (5, reason)


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        ("", 0, "the file or its first line is empty"),
        ("\n", 0, "the file or its first line is empty"),
        (PLAIN, 0, "no requests"),
        (b"\x00\xff\xfe\x01", 1, "neither CSV nor JSON lines in UTF-8"),
        ("a,b\n1,2\n", 1, "not a trace of requests"),
        ("TIMESTAMP,ContextTokens\n", 1, "looks like Azure LLM inference, but the column 'GeneratedTokens' is missing"),
        ("arrival_s,input_tokens\n", 1, "looks like a normalised trace, but the column 'output_tokens' is missing"),
        ("arrival_s,arrival_s,input_tokens,output_tokens\n", 1, "the column 'arrival_s' is there twice"),
        (FULL + "0,1,1,0,1 2\n0,1,1,0,1  2\n", 3, "prefix_blocks: '' is not a whole number"),
        (FULL + "0,1,1,0,1 -2\n", 2, "prefix_blocks: -2 is negative"),
        (AZURE + "2023-11-16 18:15:46,1,1\nyesterday,1,1\n", 3, "TIMESTAMP: 'yesterday' is not a date and time"),
        (BURST + "5,m,472,0,490,c\n", 0, "no requests but 1 failed ones"),
        ('{"timestamp": 1, "input_length": 1, "output_length": 1}\n{"timestamp": 2}\n', 2, "missing required field"),
        ('{"timestamp": 1, "input_length": 1.5, "output_length": 1}\n', 1, "Expected `int`"),
        ('{"timestamp": 1, "input_length": 1, "output_length": -1}\n', 1, "Expected `int` >= 0"),
        ('{"timestamp": 1, "input_length": 1, "output_length": 1, "chat_id": 1}', 1, "unknown field `chat_id`"),
        ('{"timestamp": 1, "input_len', 1, "truncated"),
    ],
)
def test_a_file_that_is_no_trace_says_why(write: Write, content: str | bytes, line: int, reason: str) -> None:
    error = refused(write(content))
    assert error.line == line
    assert reason in error.reason


def test_mixed_offsets_from_utc_are_refused(write: Write) -> None:
    error = refused(write(AZURE + "2024-05-10 00:00:00,1,1\n2024-05-10 00:00:01+00:00,1,1\n"))
    assert "zone offset" in error.reason


@pytest.mark.parametrize("start", [PLAIN, ""])
def test_a_gzip_file_that_is_cut_off_is_no_trace(write: Write, start: str) -> None:
    row = "1,2,3\n" if start else '{"timestamp": 1, "input_length": 1, "output_length": 1}\n'
    whole = gzip.compress((start + "".join(row for _ in range(5_000))).encode())
    assert "cut off" in refused(write(whole[:-9])).reason
    assert "cut off" in refused(write(whole[: len(whole) // 2])).reason
    assert "cannot be read" in refused(write(b"\x1f\x8b" + b"nothing that gzip wrote")).reason


def test_a_file_that_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path / "none.csv").reason


def test_arrivals_that_go_back_are_refused_with_their_line(write: Write) -> None:
    error = refused(write(PLAIN + "0,1,1\n5,2,1\n\n3,3,1\n9,4,1\n"))
    assert error.line == 5
    assert error.reason == "arrives 2 s before the request above it (sort=True accepts that)"
    line = '{{"timestamp": {}, "input_length": 1, "output_length": 1}}'
    assert refused(write("\n".join(line.format(t) for t in (5, 7, 6)))).line == 3


def test_arrivals_that_go_back_are_sorted_on_request_and_ties_stay(write: Write) -> None:
    path = write(FULL + "5,50,1,1,7 8\n3,30,1,2,9\n5,51,1,3,\n3,31,1,4,1 2 3\n")
    with open_trace(path, sort=True) as trace:
        assert listed(trace) == [(0.0, 30, 1), (0.0, 31, 1), (2.0, 50, 1), (2.0, 51, 1)]
        assert trace.reusable_prefix_tokens.tolist() == [2, 4, 1, 3]
        assert trace.prefix_offsets is not None
        assert trace.prefix_blocks is not None
        assert trace.prefix_offsets.tolist() == [0, 1, 4, 6, 6]
        assert trace.prefix_blocks.tolist() == [9, 1, 2, 3, 7, 8]


ROWS = st.lists(
    st.tuples(st.floats(0, 1e3, width=32), st.integers(0, 2**31 - 1), st.integers(0, 9_999), st.integers(0, 99)),
    min_size=1,
    max_size=40,
)
FIXTURES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


@FIXTURES
@given(rows=ROWS, block_bytes=st.integers(64, 400))
def test_where_a_file_is_cut_into_blocks_changes_nothing(
    write: Write, monkeypatch: pytest.MonkeyPatch, rows: list[tuple[float, int, int, int]], block_bytes: int
) -> None:
    rows.sort(key=lambda row: row[0])
    text = PLAIN.strip() + ",client\n" + "".join(f"{t!r},{i},{o},{c}\n" for t, i, o, c in rows)
    monkeypatch.setattr(csv_file, "_BLOCK_BYTES", block_bytes)
    seen: list[float] = []
    with open_trace(write(text, packed=block_bytes % 2 == 0), progress=seen.append) as trace:
        assert listed(trace) == [(t - rows[0][0], i, o) for t, i, o, _ in rows]
        assert trace.client.tolist() == [c for *_, c in rows]
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


@FIXTURES
@given(
    ids=st.lists(st.lists(st.integers(0, 5), max_size=4), min_size=1, max_size=12),
    lines=st.integers(1, 5),
    at=st.data(),
)
def test_lines_of_json_are_numbered_through_all_blocks(
    write: Write, monkeypatch: pytest.MonkeyPatch, ids: list[list[int]], lines: int, at: st.DataObject
) -> None:
    monkeypatch.setattr(mooncake, "_BLOCK_LINES", lines)
    rows = [{"timestamp": 10 * i, "input_length": 1, "output_length": 1, "hash_ids": x} for i, x in enumerate(ids, 1)]
    with open_trace(write("\n".join(map(json.dumps, rows)))) as trace:
        assert trace.prefix_blocks is not None
        assert trace.prefix_blocks.tolist() == [block for row in ids for block in row]
    late = {"timestamp": 0, "input_length": 1, "output_length": 1}
    place = at.draw(st.integers(1, len(rows)))
    assert refused(write("\n".join(map(json.dumps, [*rows[:place], late, *rows[place:]])))).line == place + 1


def test_a_trace_can_be_made_of_arrays() -> None:
    trace = trace_of("mine", [4.0, 6.0], [1, 2], [3, 4], session=[-1, 8])
    assert trace.arrival_s.tolist() == [0.0, 2.0]
    assert trace.has_sessions
    for arrivals in ([], [2.0, 1.0], [0.0, float("nan")]):
        with pytest.raises(ValueError, match="ascending"):
            trace_of("mine", arrivals, [1] * len(arrivals), [1] * len(arrivals))
