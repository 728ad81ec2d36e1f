"""The node itself: counters with laps, files that only root may read, process trees."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pricing.meter import host as hosts
from pricing.meter.host import Host, HostSample, Process, Zone


def powercap(root: Path, zones: dict[str, tuple[str, int, int]]) -> Path:
    for name, (kind, energy_uj, range_uj) in zones.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / "name").write_text(f"{kind}\n")
        (root / name / "energy_uj").write_text(f"{energy_uj}\n")
        (root / name / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return root


def sample(at_s: float, zones: dict[str, Zone], busy_s: float = 0.0, total_s: float = 0.0) -> HostSample:
    return HostSample(at_s, busy_s, total_s, 1, 2, zones)


def test_packages_and_their_memory_are_read_and_nothing_twice(tmp_path: Path) -> None:
    zones = {
        "intel-rapl:0": ("package-0", 10, 1000),
        "intel-rapl:0:0": ("core", 5, 1000),
        "intel-rapl:0:1": ("dram", 3, 1000),
        "intel-rapl:1": ("psys", 99, 1000),
        "intel-rapl-mmio:0": ("package-0", 10, 1000),
    }
    seen = Host(str(powercap(tmp_path, zones))).sample(1.0)
    assert seen.zones == {"intel-rapl:0": Zone(10, 1000), "intel-rapl:0:1": Zone(3, 1000)}


@pytest.mark.parametrize("content", ["", "not a number", "12 13"])
def test_a_counter_that_cannot_be_read_is_no_counter(tmp_path: Path, content: str) -> None:
    root = powercap(tmp_path, {"intel-rapl:0": ("package-0", 10, 1000)})
    (root / "intel-rapl:0" / "energy_uj").write_text(content)
    assert Host(str(root)).sample(1.0).zones == {}


def test_a_counter_that_only_root_may_read_is_no_counter(tmp_path: Path) -> None:
    root = powercap(tmp_path, {"intel-rapl:0": ("package-0", 10, 1000)})
    (root / "intel-rapl:0" / "energy_uj").unlink()
    (root / "intel-rapl:0" / "energy_uj").mkdir()  # also root cannot read a directory
    seen = Host(str(root)).sample(1.0)
    assert seen.zones == {}
    assert hosts.between(seen, seen._replace(at_s=2.0)).joules is None


def test_a_package_counter_goes_over_its_end_without_losing_a_joule() -> None:
    last, now = sample(0, {"a": Zone(900, 1000)}), sample(5, {"a": Zone(300, 1000)})
    assert hosts.between(last, now).joules == pytest.approx(400e-6)


def test_an_interval_in_which_laps_may_have_been_missed_is_not_counted() -> None:
    assert hosts.between(sample(0, {"a": Zone(0, 9)}), sample(400, {"a": Zone(5, 9)})).joules is None


def test_a_package_that_comes_or_goes_begins_a_new_count() -> None:
    assert hosts.between(sample(0, {"a": Zone(0, 9)}), sample(5, {"a": Zone(1, 9), "b": Zone(7, 9)})).joules is None


def test_utilization_is_that_of_the_interval_and_at_first_that_since_boot() -> None:
    last, now = sample(0, {}, 100.0, 1000.0), sample(5, {}, 115.0, 1020.0)
    assert hosts.between(None, last).utilization == 0.1
    assert hosts.between(last, now)[:2] == (0.75, 15.0)


def test_this_machine_says_what_psutil_says() -> None:
    seen = Host().sample(5.0)
    assert seen.memory_total_bytes == psutil.virtual_memory().total
    assert 0 < seen.memory_used_bytes < seen.memory_total_bytes
    assert 0 < seen.busy_s < seen.total_s


def test_a_tree_of_real_processes_is_found_with_its_cpu_time() -> None:
    burn = (
        "import sys, time\nprint(1, flush=True)\nsys.stdin.readline()\nwhile time.process_time() < 0.4: pass\n"
        "print(2, flush=True)\ntime.sleep(60)"
    )
    outer = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])"
    process = subprocess.Popen(
        [sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        before = Host().processes()
        process.stdin.write(b"go\n")
        process.stdin.flush()
        process.stdout.readline()
        after = Host().processes()
        tree = hosts.trees(after, [process.pid])[process.pid]
        assert len(tree) == 2
        assert 0.15 < hosts.cpu_seconds(tree, before, after) < 5.0
        assert after[process.pid].parent == os.getpid()
    finally:
        os.killpg(process.pid, 9)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def test_a_process_with_spaces_and_brackets_in_its_name_is_read(tmp_path: Path) -> None:
    (tmp_path / "42").mkdir()
    (tmp_path / "42" / "stat").write_text("42 (a ) (b) S 7 1 1 0 -1 0 0 0 0 0 250 150 0 0 20 0 1 0 500 0 0\n")
    (tmp_path / "43").mkdir()  # has ended meanwhile
    (tmp_path / "self").mkdir()
    ticks = os.sysconf("SC_CLK_TCK")
    assert Host(proc=str(tmp_path)).processes() == {42: Process(7, 500 / ticks, 400 / ticks)}


def test_a_process_counts_from_its_first_sample_on_and_one_that_took_over_its_number_from_its_own() -> None:
    last, now = (
        {5: Process(1, 10.0, 100.0), 7: Process(5, 1.0, 4.0)},
        {
            5: Process(1, 99.0, 3.0),  # another one by now
            6: Process(5, 1.0, 5000.0),  # old, but just found
            7: Process(5, 1.0, 4.5),
        },
    )
    assert hosts.cpu_seconds([5, 6, 7, 8], last, now) == 0.5


def test_processes_that_name_each_other_as_parents_do_not_hang_the_meter() -> None:
    ring = {1: Process(2, 0, 0), 2: Process(1, 0, 0)}
    assert hosts.trees(ring, [1]) == {1: frozenset({1, 2})}


def test_reading_the_process_table_is_quick() -> None:
    host, started_s = Host(), time.process_time()
    count = len(host.processes())
    assert (time.process_time() - started_s) / count < 1e-3
