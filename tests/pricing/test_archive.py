"""Published price histories: read whole, kept in the history, replayed as they were, and rebuilt by a desk."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from pricing import archive, guard, timeline
from pricing.archive import ArchiveError
from pricing.book import Change
from pricing.desk import PriceDesk
from pricing.history import History, replay, segments
from pricing.listing import CarbonIntensity, GpuPrice, PowerPrice, Step, TokenPrice
from scheduler.config import ClusterConfig
from tests.pricing.desk_cases import feed
from tests.support.sites import site

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
USD_PER_EUR = 1.08
FILES = {
    "gcp": "prices/gcp_gpu_price_changes.csv.gz",
    "aws": "prices/aws_gpu_spot_2019_2020.csv.gz",
    "marketplace": "prices/gpu_marketplace_30min.csv.gz",
    "tokens": "prices/llm_api_price_changes.csv.gz",
    "power": "energy/de_lu_day_ahead.csv.gz",
    "carbon": "energy/gb_carbon_intensity_2023.csv.gz",
}


@cache
def changes(name: str) -> list[Change]:
    return archive.read(DATA / FILES[name], USD_PER_EUR)


@cache
def rows(name: str) -> list[dict[str, str]]:
    with gzip.open(DATA / FILES[name], "rt", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def at_s(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


POWER = "utc,price_eur_mwh"


def test_power_is_in_usd_per_kwh_and_known_at_one_in_the_afternoon_of_the_day_before(tmp_path: Path) -> None:
    hours = [f"2024-06-{day:02d}T{hour:02d}:00:00Z" for day in (1, 2) for hour in range(24)]
    path = write(tmp_path / "power.csv", POWER, *(f"{hour},{50 + i}" for i, hour in enumerate(hours)))
    found = archive.read(path, USD_PER_EUR)
    # Berlin is two hours ahead: the day of the second of June begins at 22:00 UTC on the first.
    assert [change.at_s for change in found] == [at_s(f"2024-{day}T11:00") for day in ("05-31", "06-01", "06-02")]
    assert [len(timeline.steps_of(change.price) or ()) for change in found if change.price] == [22, 24, 2]
    steps = [step for change in found if change.price for step in timeline.steps_of(change.price) or ()]
    assert steps[0] == Step(at_s("2024-06-01T00:00"), at_s("2024-06-01T01:00"), pytest.approx(50 * 1.08 / 1000))
    assert all(a.end_s == b.start_s for a, b in pairwise(steps))


def test_a_gap_in_a_series_stays_a_gap(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", POWER, "2024-06-01T00:00:00Z,50", "2024-06-01T05:00:00Z,60")
    (change,) = archive.read(path, 1.0)
    steps = timeline.steps_of(change.price) if change.price else None
    assert [(s.end_s - s.start_s) for s in steps or ()] == [3600.0, 3600.0]


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["a,b", "1,2"], "no known price archive has the columns a, b"),
        ([], "no known price archive"),
        ([POWER, "yesterday,50"], "line 2"),
        ([POWER, "2024-06-01T00:00:00Z,nan"], "line 2: 'nan' is no price"),
        ([POWER, "2024-06-01T00:00:00Z,50", "2024-06-01T01:00:00Z"], "line 3"),
        ([POWER, "2024-06-01T00:00:00Z," + "9" * 200_000], "field larger than"),
        (["timestamp,zone,instance,gpu,gpu_count,spot_usd_h", "2024-06-01T00:00:00Z,z,i,g,two,1.0"], "line 2"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_line(tmp_path: Path, lines: list[str], why: str) -> None:
    with pytest.raises(ArchiveError, match=r"^f\.csv: ") as caught:
        archive.read(write(tmp_path / "f.csv", *lines), USD_PER_EUR)
    assert why in str(caught.value)


@pytest.mark.parametrize("cut", [0, 5, 30])
def test_a_packed_file_that_is_cut_short_or_none_at_all_is_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "f.csv.gz"
    packed = gzip.compress("\n".join([POWER, *(f"2024-06-01T{h:02d}:00:00Z,{h}" for h in range(24))]).encode())
    path.write_bytes(packed[:cut] if cut else b"no gzip at all")
    with pytest.raises(ArchiveError, match=r"^f\.csv\.gz: "):
        archive.read(path, USD_PER_EUR)


def test_prices_in_euros_want_a_rate_of_exchange(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="give usd_per_eur"):
        archive.read(write(tmp_path / "p.csv", POWER, "2024-06-01T00:00:00Z,50"))


@pytest.mark.evaluate
@pytest.mark.parametrize(
    ("name", "file_rows", "kind"),
    [
        ("gcp", 1_193, GpuPrice),
        ("aws", 6_991, GpuPrice),
        ("marketplace", 3_829, GpuPrice),
        ("tokens", 3_151, TokenPrice),
        ("power", 59_239, PowerPrice),
        ("carbon", 13_105, CarbonIntensity),
    ],
)
def test_every_row_of_the_public_archives_is_read_in_order_of_time(name: str, file_rows: int, kind: type) -> None:
    found = changes(name)
    assert len(rows(name)) == file_rows
    assert all(isinstance(change.price, kind) and change.what == "price" for change in found)
    assert [change.at_s for change in found] == sorted(change.at_s for change in found)
    assert len({change.product for change in found}) > (3 if kind in (GpuPrice, TokenPrice) else 0)


@pytest.mark.evaluate
def test_a_change_of_the_archives_is_a_row_or_a_price_in_it_that_differs_from_the_one_before() -> None:
    assert len(changes("aws")) == len(rows("aws"))
    priced = [row for row in rows("tokens") if row["input_usd_mtok"] and row["output_usd_mtok"]]
    assert len(changes("tokens")) == len(priced)
    last: dict[tuple[str, ...], str] = {}
    expected = 0
    for row in rows("gcp"):
        for column in ("on_demand_usd_h", "spot_usd_h"):
            key = row["instance"], row["region"], column
            if row[column] and float(row[column]) != float(last.get(key, "nan")):
                last[key] = row[column]
                expected += 1
    assert len(changes("gcp")) == expected


@pytest.mark.evaluate
@pytest.mark.parametrize(("name", "column", "scale"), [("power", "price_eur_mwh", 1.08e-3), ("carbon", "", 1.0)])
def test_every_hour_of_a_series_is_a_step_that_was_known_before_it_began(name: str, column: str, scale: float) -> None:
    known = [(change.at_s, step) for change in changes(name) for step in timeline.steps_of(change.price) or ()]  # type: ignore[arg-type]
    assert len(known) == len(rows(name))
    values = [
        float(row[column] if column else row["forecast_gco2_kwh"] or row["actual_gco2_kwh"]) for row in rows(name)
    ]
    assert [step.value for _, step in known] == pytest.approx([value * scale for value in values])
    assert [step.start_s for _, step in known] == [at_s(row["utc"]) for row in rows(name)]
    assert all(11 * 3600 <= step.start_s - told_s < 36 * 3600 for told_s, step in known)
    assert guard.implausible(PowerPrice(tuple(step for _, step in known[-5_000:]))) is None or name == "carbon"


@pytest.mark.evaluate
def test_all_archives_together_go_through_the_history_and_rebuild_a_desk_with_the_last_prices(tmp_path: Path) -> None:
    everything = sorted((change for name in FILES for change in changes(name)), key=lambda change: change.at_s)
    kept = History(tmp_path, segment_bytes_max=1_000_000)
    for start in range(0, len(everything), 5_000):
        batch = everything[start : start + 5_000]
        kept.append(batch, batch[-1].at_s, batch[-1].at_s)
    assert (kept.waiting, kept.lost, kept.problem) == (0, 0, "")
    assert len(segments(tmp_path)) > 3
    assert list(replay(tmp_path)) == everything
    year_s = at_s("2024-01-01T00:00"), at_s("2025-01-01T00:00")
    assert list(replay(tmp_path, *year_s)) == [c for c in everything if year_s[0] <= c.at_s < year_s[1]]

    feeds = sorted({change.feed for change in everything})
    desk = PriceDesk(ClusterConfig.model_validate(site(feeds=[feed(name) for name in feeds])))
    assert desk.restore(everything) == len(everything)
    last = {(change.feed, change.product): change for change in everything}
    taken = Counter(key[0] for key in desk.entries)
    assert all(count <= 500 for count in taken.values())
    for key, entry in desk.entries.items():
        assert entry.price is not None
        steps = timeline.steps_of(entry.price)
        if steps is None:
            assert (entry.price, entry.observed_s) == (last[key].price, last[key].at_s)
        else:
            final = timeline.steps_of(last[key].price)  # type: ignore[arg-type]
            assert final is not None
            assert steps[-len(final) :] == final
            assert all(a.end_s <= b.start_s for a, b in pairwise(steps))
