"""The history under crashes at every byte, full disks, clocks that jump and restarts: nothing is lost or doubled."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing import history
from pricing.book import Change
from pricing.history import History, read, replay, segments
from tests.pricing.price_strategies import tokens

T0_S = 1_700_000_000.0


def change(i: int, at_s: float = 0.0, **fields: object) -> Change:
    return Change(at_s or T0_S + i, "f", f"p{i}", "price", tokens(float(i)), **fields)  # type: ignore[arg-type]


def told(directory: Path) -> list[str]:
    return [found.product for found in replay(directory)]


def append(kept: History, i: int) -> None:
    kept.append([change(i)], T0_S + i, 100.0 + i)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in segments(directory)}


def test_what_was_appended_is_replayed_as_it_was(tmp_path: Path) -> None:
    kept = History(tmp_path / "new" / "folder")
    changes = [
        change(1),
        Change(T0_S + 1, "f", "", "seen", observed_s=T0_S - 5),
        Change(T0_S + 1, "f", "p", "quarantined", tokens(0.0), "free at first sight", True),
    ]
    kept.append(changes, T0_S + 1, 1.0)
    assert list(replay(tmp_path / "new" / "folder")) == changes
    assert (kept.waiting, kept.lost, kept.problem) == (0, 0, "")
    assert list(replay(tmp_path / "nowhere")) == []


def test_segments_are_only_ever_extended_and_a_full_one_is_followed_by_the_next(tmp_path: Path) -> None:
    before: dict[str, bytes] = {}
    for i in range(60):
        if i % 7 == 0:
            kept = History(tmp_path, segment_bytes_max=600)
        append(kept, i)
        after = contents(tmp_path)
        assert all(after[name].startswith(data) for name, data in before.items())
        assert all(after[name] == before[name] for name in list(before)[:-1])
        before = after
    assert len(before) > 5
    assert all(len(data) < 600 + 400 for data in before.values())
    assert told(tmp_path) == [f"p{i}" for i in range(60)]


def test_numbers_of_segments_count_as_numbers_and_other_files_are_left_alone(tmp_path: Path) -> None:
    History(tmp_path).append([change(1)], T0_S + 1, 1.0)
    (tmp_path / "prices-00000001.jsonl").rename(tmp_path / "prices-99999999.jsonl")
    for name in ("prices-old.jsonl", "prices-².jsonl", "notes.txt"):
        (tmp_path / name).write_text("mine")
    kept = History(tmp_path, segment_bytes_max=1)
    append(kept, 2)
    assert [path.name for path in segments(tmp_path)] == ["prices-99999999.jsonl", "prices-100000000.jsonl"]
    assert told(tmp_path) == ["p1", "p2"]


def test_a_line_torn_at_any_byte_loses_itself_at_the_most(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    History(whole).append([change(i) for i in range(3)], T0_S, 1.0)
    data = segments(whole)[0].read_bytes()
    for cut in range(len(data) + 1):
        directory = tmp_path / str(cut)
        directory.mkdir()
        (directory / segments(whole)[0].name).write_bytes(data[:cut])
        # A line is whole but for its end: it still counts.
        complete = [f"p{i}" for i, end in enumerate(ends(data)) if end - 1 <= cut]
        assert told(directory) == complete
        kept = History(directory)
        append(kept, 7)
        append(kept, 8)
        append(History(directory), 9)
        assert told(directory) == [*complete, "p7", "p8", "p9"]
        assert segments(directory)[0].read_bytes().startswith(data[:cut])


def ends(data: bytes) -> list[int]:
    return [i + 1 for i, byte in enumerate(data) if byte == 10]


def test_rubbish_in_the_middle_costs_its_own_lines_only(tmp_path: Path) -> None:
    append(History(tmp_path), 1)
    with segments(tmp_path)[0].open("ab") as handle:
        handle.write(b'\xff\xfe{"seq":\n\n{"seq":"x"}\n[]\n' + b"z" * 100_000)
    append(History(tmp_path), 2)
    assert told(tmp_path) == ["p1", "p2"]


def test_segments_of_which_nothing_can_be_read_do_not_swallow_what_comes_after(tmp_path: Path) -> None:
    append(History(tmp_path), 1)
    for number in (2, 3, 4):
        (tmp_path / f"prices-{number:08d}.jsonl").write_bytes(b"\x00" * 64)
    append(History(tmp_path), 2)
    append(History(tmp_path), 3)
    assert told(tmp_path) == ["p1", "p2", "p3"]


@pytest.fixture(autouse=True, scope="module")
def no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


class Disk:
    """Each write goes as the next of ``fates`` says: None wholly, a number so many bytes and then no more."""

    def __init__(self, fates: Iterator[int | None]) -> None:
        self.fates, self.full = fates, False

    def write(self, descriptor: int, data: bytes) -> int:
        if self.full:
            self.full = False
            raise OSError(errno.ENOSPC, "No space left on device")
        fate = next(self.fates, None)
        if fate is None:
            return os.write(descriptor, data)
        self.full = True
        return os.write(descriptor, data[: fate % (len(data) + 1)]) if fate else self.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        if next(self.fates, None) == 0:
            raise OSError(errno.EIO, "Input/output error")
        os.fsync(descriptor)

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)


fates = st.lists(st.none() | st.integers(0, 400), max_size=40)


@settings(deadline=None, max_examples=150)
@given(fates, st.lists(st.booleans(), min_size=4, max_size=12), st.sampled_from([200, 10_000]))
def test_a_disk_that_is_full_now_and_then_loses_and_doubles_nothing(
    drawn: list[int | None], again: list[bool], bytes_max: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        directory = Path(folder)
        kept = History(directory, bytes_max)
        disk = Disk(iter(drawn))
        patch.setattr(history, "os", disk)
        before: dict[str, bytes] = {}
        for i, restart in enumerate(again):
            append(kept, i)
            after = contents(directory)
            assert all(after[name].startswith(data) for name, data in before.items())
            before = after
            assert bool(kept.waiting) == bool(kept.problem)
            assert told(directory) == sorted(told(directory), key=lambda product: int(product[1:]))
            if restart and not kept.waiting:
                kept = History(directory, bytes_max)
        disk.fates, disk.full = iter(()), False
        assert kept.flush()
        assert (kept.waiting, kept.lost, kept.problem) == (0, 0, "")
        assert told(directory) == [f"p{i}" for i in range(len(again))]
        append(History(directory), len(again))
        assert told(directory) == [f"p{i}" for i in range(len(again) + 1)]


FULL_DISK = """
import resource, sys
from pathlib import Path
from pricing import history
from tests.pricing.test_history import append, told
directory = Path(sys.argv[1])
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
kept = history.History(directory)
for i in range(40):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000 if i < 20 else hard, hard))
    append(kept, i)
    if i == 19:
        assert kept.waiting > 5 and "waiting" not in kept.problem and "too large" in kept.problem, kept.problem
assert (kept.waiting, kept.lost, kept.problem) == (0, 0, "")
"""


def test_a_file_that_may_really_not_grow_loses_nothing_once_it_may(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], check=True, timeout=60)
    assert told(tmp_path) == [f"p{i}" for i in range(40)]


def test_a_folder_that_cannot_be_made_is_a_problem_that_passes(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    kept = History(blocked / "prices")
    append(kept, 1)
    assert kept.waiting == 1
    assert "1 changes wait in memory" in kept.problem
    blocked.unlink()
    append(kept, 2)
    assert (kept.problem, told(blocked / "prices")) == ("", ["p1", "p2"])


def test_what_waits_is_bounded_and_what_is_lost_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "WAITING_MAX", 5)
    disk = Disk(iter([0] * 1000))
    monkeypatch.setattr(history, "os", disk)
    kept = History(tmp_path)
    for i in range(8):
        append(kept, i)
    assert (kept.waiting, kept.lost) == (5, 3)
    disk.fates, disk.full = iter(()), False
    append(kept, 8)
    assert kept.lost == 3
    assert told(tmp_path) == ["p0", "p1", "p2", "p3", "p4", "p8"]


events = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.0, 900.0, 7200.0]),  # true seconds that pass
        st.sampled_from([0.0, 0.0, 0.0, 61.5, 3600.0, 1e9, -61.5, -3600.1, -86_400.3]),  # by which the clock is set
        st.booleans(),  # whether the process starts anew
    ),
    min_size=1,
    max_size=14,
)


@settings(deadline=None, max_examples=200)
@given(events)
def test_replayed_time_never_goes_back_and_the_newest_clock_is_right(drawn: list[tuple[float, float, bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        kept = History(directory)
        true_s, wall_s = 0.0, T0_S
        walls, trues, unknown = [], [], set()
        for i, (pass_s, set_by_s, restart) in enumerate(drawn):
            true_s, wall_s = true_s + pass_s, wall_s + pass_s + set_by_s
            if restart:
                kept = History(directory)
                unknown.add(i)  # nobody knows how long it was down
            observed_s = wall_s - 10.0 if i % 2 else None
            kept.append([change(i, wall_s, observed_s=observed_s)], wall_s, true_s)
            walls.append(wall_s)
            trues.append(true_s)
        found = list(replay(directory))
        times = [line.at_s for line in found]
        assert [line.product for line in found] == [f"p{i}" for i in range(len(drawn))]
        assert times == sorted(times)
        assert all(line.observed_s is None or abs(line.at_s - line.observed_s - 10.0) < 1e-5 for line in found)
        for i, (a, b) in enumerate(pairwise(times), start=1):
            if i not in unknown:
                assert b - a == pytest.approx(trues[i] - trues[i - 1], abs=1e-5)
        last_set = max((i for i, (_, set_by_s, _) in enumerate(drawn) if set_by_s and i), default=0)
        assert times[last_set:] == walls[last_set:]


def test_a_part_of_the_history_is_what_lies_between_its_times(tmp_path: Path) -> None:
    kept = History(tmp_path)
    for i in range(10):
        append(kept, i)
    assert [line.product for line in replay(tmp_path, T0_S + 3, T0_S + 6)] == ["p3", "p4", "p5"]
    assert list(replay(tmp_path, T0_S + 10)) == list(replay(tmp_path, 0.0, T0_S)) == []


def test_a_reader_beside_the_writer_sees_whole_lines_in_order(tmp_path: Path) -> None:
    kept = History(tmp_path, 300)
    append(kept, 0)
    reader = replay(tmp_path)
    first = next(reader)
    for i in range(1, 20):
        kept.append([change(i, T0_S - 90.0 * i)], T0_S - 90.0 * i, 100.0 + i)  # the clock goes back each time
    rest = list(reader)
    assert first.at_s == T0_S
    assert [line.at_s for line in rest] == sorted(line.at_s for line in rest)
    assert [line.seq for line in read(tmp_path)] == list(range(1, 40))


def test_every_line_is_json_that_says_its_number(tmp_path: Path) -> None:
    append(History(tmp_path), 1)
    line = msgspec.json.decode(segments(tmp_path)[0].read_bytes())
    assert (line["seq"], line["change"]["product"], line["change"]["price"]["type"]) == (1, "p1", "tokens")


def test_a_clock_that_only_drifts_back_a_little_makes_no_time_go_back(tmp_path: Path) -> None:
    kept = History(tmp_path)
    for i, wall_s in enumerate([T0_S, T0_S + 40, T0_S + 1, T0_S + 50]):
        kept.append([change(i, wall_s)], wall_s, 10.0 * i)
    assert [line.at_s for line in replay(tmp_path)] == [T0_S, T0_S + 40, T0_S + 40, T0_S + 50]
    assert len(list(read(tmp_path))) == 4


def test_what_is_too_much_for_one_write_goes_in_several(tmp_path: Path) -> None:
    History(tmp_path).append([change(i, text="x" * 700_000) for i in range(5)], T0_S, 1.0)
    assert told(tmp_path) == [f"p{i}" for i in range(5)]
