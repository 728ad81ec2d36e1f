"""What meter and price board cost beside the requests: CPU and memory over an empty process, and the speed of a replay."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_POLLS = 200
_DATA = Path("../shared/data")


def run() -> dict[str, dict[str, float]]:
    """Rows: the meter's sample, the desk's poll, the board, each with CPU; both processes' memory; the replay's rate."""
    return {**_meter(), **_desk(), **_board(), **_processes(), **_replay()}


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _meter() -> dict[str, dict[str, float]]:
    """Eight boards behind the double, sampled at the default period of five seconds."""
    from pricing.meter.double import DoubleBoard, DoubleHost, DoubleLibrary
    from pricing.meter.meter import Meter
    from pricing.meter.nvml import Nvml

    boards = [DoubleBoard(uuid=f"GPU-{i}") for i in range(8)]
    meter = Meter(Nvml(DoubleLibrary(boards)), DoubleHost(), {}, "bench")
    began_s = _cpu_s()
    for i in range(_POLLS):
        meter.sample(1e9 + 5.0 * i)
    each_s = (_cpu_s() - began_s) / _POLLS
    return {"meter, 8 GPUs": {"cpu_ms": each_s * 1e3, "core_percent": each_s / 5.0 * 100.0}}


def _desk() -> dict[str, dict[str, float]]:
    """litellm's whole map decoded and judged, at the default period of a quarter of an hour."""
    from pricing import feeds
    from pricing.desk import PriceDesk
    from pricing.http import OfflineHttp
    from scheduler.config import load

    config = load("examples/market-prices.yaml")
    desk = PriceDesk(config)
    found = feeds.kind("litellm-map")
    rounds = 5
    began_s = _cpu_s()
    for i in range(rounds):
        desk.polled("litellm", found.feed(OfflineHttp(), found.options(), 1e9 + i) or (), 1e9 + i)
    each_s = (_cpu_s() - began_s) / rounds
    return {"poll of litellm's map": {"cpu_ms": each_s * 1e3, "core_percent": each_s / 900.0 * 100.0}}


def _board() -> dict[str, dict[str, float]]:
    """The board made anew every five seconds, and the report every two."""
    from pricing import board, board_report, desk
    from scheduler.config import load

    config = load("examples/market-prices.yaml")
    now_s = time.time()
    began_s = _cpu_s()
    for _ in range(_POLLS):
        priced = board.price(config, now_s)
    board_s = (_cpu_s() - began_s) / _POLLS
    began_s = _cpu_s()
    for _ in range(_POLLS):
        board_report.report(config, priced, desk.EMPTY, now_s, {}, {})
    report_s = (_cpu_s() - began_s) / _POLLS
    return {
        "board": {"cpu_ms": board_s * 1e3, "core_percent": board_s / 5.0 * 100.0},
        "report": {"cpu_ms": report_s * 1e3, "core_percent": report_s / 2.0 * 100.0},
    }


_EMPTY = "pass"
_METER = """
from serving.meter_process import *
from pricing.meter.meter import Meter
from pricing.meter.nvml import Nvml
from pricing.meter.host import Host
meter = Meter(Nvml(), Host(), {}, "bench")
for i in range(20): meter.sample(1e9 + 5 * i)
"""
_PRICES = """
from serving.prices_process import *
from scheduler.config import load
from pricing.feeds.litellm_map import feed, Options
from pricing.http import OfflineHttp
config = load("examples/market-prices.yaml")
desk = PriceDesk(config)
for i in range(3): desk.polled("litellm", feed(OfflineHttp(), Options(), 1e9 + i), 1e9 + i)
"""

_BOARD = """
from pricing import board, board_report
priced = board.price(config, 1e9 + 5, desk.sheet(1e9 + 5))
board_report.report(config, priced, desk.sheet(1e9 + 5), 1e9 + 5, {}, {})
"""


def _processes() -> dict[str, dict[str, float]]:
    """Resident memory at rest in MiB over a process that does nothing: each alone, and all of it in one process."""
    codes = {"meter": _METER, "price_desk": _PRICES, "together": _PRICES + _METER + _BOARD}
    empty = _resident_mib(_EMPTY)
    return {"memory over an empty process": {f"{k}_mib": _resident_mib(code) - empty for k, code in codes.items()}}


def _resident_mib(code: str) -> float:
    tell = "\nimport gc, os; gc.collect(); print(int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGESIZE'))"
    done = subprocess.run([sys.executable, "-c", code + tell], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) / 2**20


def _replay() -> dict[str, dict[str, float]]:
    """Every public price and tariff history that lies beside the repository: read, recorded, replayed, judged."""
    from pricing import archive, history
    from pricing.book import apply
    from pricing.listing import CarbonIntensity, PowerPrice

    paths = sorted((*_DATA.glob("prices/*.gz"), *_DATA.glob("energy/*.gz")))
    if not paths:
        return {}
    began = time.perf_counter()
    changes = []
    for path in paths:
        try:
            changes += archive.read(path, usd_per_eur=1.08)
        except archive.ArchiveError:
            continue  # latencies, snapshot dates, today's list: no history
    read_s = time.perf_counter() - began
    changes.sort(key=lambda change: change.at_s)
    rows = sum(len(c.price.steps) if isinstance(c.price, PowerPrice | CarbonIntensity) else 1 for c in changes)
    with tempfile.TemporaryDirectory() as directory:
        began = time.perf_counter()
        kept = history.History(directory)
        for i in range(0, len(changes), 100):
            kept.append(changes[i : i + 100], changes[i].at_s, changes[i].at_s)
        written_s = time.perf_counter() - began
        began = time.perf_counter()
        entries = {}
        count = 0
        for change in history.replay(directory):
            key = (change.feed, change.product)
            entries[key] = apply(entries.get(key), change)
            count += 1
        replayed_s = time.perf_counter() - began
    return {
        "history": {"rows": rows, "changes": count, "read_s": read_s, "written_s": written_s, "replayed_s": replayed_s}
    }
