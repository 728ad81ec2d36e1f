"""Published price histories as changes, in order of time: what the history and the simulator can replay beside our own.

Each reader knows a file by its columns. Times are when a price was recorded by the archive, which may be later than the
change; prices are what the archive says and are judged by nobody here.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby, pairwise
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

from pricing.book import Change
from pricing.listing import CarbonIntensity, GpuPrice, PowerPrice, Price, Step, TokenPrice
from scheduler.core.supply import Rate

# Results of the European day-ahead auction are out by 13:00 of the day before, by the clock of Berlin: eleven hours before
# delivery begins at its midnight.
_KNOWN_AHEAD_S = 11 * 3600.0
_STEP_S_MAX = 3600.0


class Market(NamedTuple):
    """A power market: feed and product of its changes, and the clock by which its days begin."""

    feed: str
    product: str
    timezone: str


_DE_LU, _GB = Market("day-ahead", "DE-LU", "Europe/Berlin"), Market("carbon", "GB", "Europe/London")

Row = dict[str, str]
Reader = Callable[[Iterable[Row], float | None], Iterator[Change]]


class ArchiveError(ValueError):
    """The file is no archive that is known here, or a line of it cannot be read; the text names file and line."""


def read(path: str | Path, usd_per_eur: float | None = None) -> list[Change]:
    """Every change in a CSV file (gzip or plain), by time. Raises ArchiveError.

    ``usd_per_eur``: needed for power prices in EUR, since an exchange rate is never a default.
    """
    path = Path(path)
    with path.open("rb") as raw, io.TextIOWrapper(gzip.open(raw) if path.suffix == ".gz" else raw, "utf-8") as handle:
        rows = csv.DictReader(handle)
        try:
            columns = rows.fieldnames or ()
            reader = next((r for known, r in _READERS.items() if set(known) <= set(columns)), None)
            if reader is None:
                raise ArchiveError(f"{path.name}: no known price archive has the columns {', '.join(columns)}")
            changes = list(reader(rows, usd_per_eur))
        except ArchiveError:
            raise
        except (ValueError, TypeError, KeyError, EOFError, OSError, csv.Error, zlib.error) as error:
            raise ArchiveError(f"{path.name}: line {rows.line_num}: {error}") from None
    return sorted(changes, key=lambda change: change.at_s)


def _at_s(text: str) -> float:
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _usd(text: str) -> float:
    usd = float(text)
    if not math.isfinite(usd):
        raise ValueError(f"{text!r} is no price")
    return usd


def _gcp(rows: Iterable[Row], usd_per_eur: float | None) -> Iterator[Change]:
    """On-demand and spot prices of GCP's GPU instances; a price that stays is not repeated."""
    last: dict[str, float] = {}
    for row in rows:
        for kind, column in (("on-demand", "on_demand_usd_h"), ("spot", "spot_usd_h")):
            product = f"{row['instance']}/{row['region']}/{kind}"
            if row[column] and last.get(product) != (usd := _usd(row[column])):
                last[product] = usd
                gpus, spot = int(row["gpu_count"]), kind == "spot"
                price = GpuPrice(usd, row["gpu"], gpus, "gcp", row["region"], row["instance"], spot)
                yield Change(_at_s(row["snapshot_date"]), "gcp", product, "price", price)


def _aws(rows: Iterable[Row], usd_per_eur: float | None) -> Iterator[Change]:
    for row in rows:
        price = GpuPrice(
            _usd(row["spot_usd_h"]), row["gpu"], int(row["gpu_count"]), "aws", row["zone"], row["instance"], True
        )
        yield Change(_at_s(row["timestamp"]), "aws-spot", f"{row['instance']}/{row['zone']}/spot", "price", price)


def _marketplace(rows: Iterable[Row], usd_per_eur: float | None) -> Iterator[Change]:
    """Best prices of a marketplace, every half hour; only what has changed."""
    last: dict[str, float] = {}
    columns = (("spot", "best_spot_usd_gpu_h"), ("on-demand", "best_non_spot_usd_gpu_h"), ("any", "min_usd_gpu_h"))
    for row in rows:
        for kind, column in columns:
            product = f"{row['gpu']}/{kind}"
            if row[column] and last.get(product) != (usd := _usd(row[column])):
                last[product] = usd
                price = GpuPrice(usd, row["gpu"], 1, "marketplace", "any", spot=kind == "spot")
                yield Change(_at_s(row["timestamp"]), "marketplace", product, "price", price)


def _tokens(rows: Iterable[Row], usd_per_eur: float | None) -> Iterator[Change]:
    """List prices of hosted models. One that names no output price is no price of tokens to be written."""
    for row in rows:
        if not (row["input_usd_mtok"] and row["output_usd_mtok"]):
            continue
        usd_input = _usd(row["input_usd_mtok"]) / 1e6
        cached, write = row["cache_read_usd_mtok"], row["cache_write_usd_mtok"]
        rate = Rate(
            usd_input,
            _usd(cached) / 1e6 if cached else usd_input,
            _usd(row["output_usd_mtok"]) / 1e6,
            usd_per_cache_write=_usd(write) / 1e6 if write else None,
        )
        product = f"{row['provider']}/{row['model']}" if row["provider"] else row["model"]
        yield Change(_at_s(row["date"]), row["source"], product, "price", TokenPrice({"standard": rate}))


def _series(
    rows: Iterable[Row], value: Callable[[Row], float | None], price: Callable[[tuple[Step, ...]], Price], where: Market
) -> Iterator[Change]:
    """One change a local day, known the day before; a step ends where the next begins, after an hour at the most."""
    points = [(_at_s(row["utc"]), value(row)) for row in rows]
    last_s = points[-1][0] + (points[-1][0] - points[-2][0] if len(points) > 1 else _STEP_S_MAX) if points else 0.0
    spans = pairwise([*points, (last_s, None)])
    steps = [Step(a, min(b, a + _STEP_S_MAX), v) for (a, v), (b, _) in spans if v is not None and b > a]
    zone = ZoneInfo(where.timezone)
    for day, group in groupby(steps, key=lambda step: datetime.fromtimestamp(step.start_s, zone).date()):
        midnight_s = datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()
        yield Change(midnight_s - _KNOWN_AHEAD_S, where.feed, where.product, "price", price(tuple(group)))


def _day_ahead(rows: Iterable[Row], usd_per_eur: float | None) -> Iterator[Change]:
    if usd_per_eur is None:
        raise ValueError("the prices are in EUR: give usd_per_eur")
    rate = usd_per_eur
    return _series(rows, lambda row: _usd(row["price_eur_mwh"]) * rate / 1000.0, PowerPrice, _DE_LU)


def _carbon(rows: Iterable[Row], usd_per_eur: float | None) -> Iterator[Change]:
    def value(row: Row) -> float | None:
        text = row["forecast_gco2_kwh"] or row["actual_gco2_kwh"]  # what was known the day before
        return _usd(text) if text else None

    return _series(rows, value, CarbonIntensity, _GB)


_READERS: dict[tuple[str, ...], Reader] = {
    ("snapshot_date", "instance", "on_demand_usd_h", "spot_usd_h"): _gcp,
    ("timestamp", "zone", "instance", "spot_usd_h"): _aws,
    ("timestamp", "gpu", "best_spot_usd_gpu_h", "best_non_spot_usd_gpu_h"): _marketplace,
    ("date", "source", "model", "input_usd_mtok", "output_usd_mtok"): _tokens,
    ("utc", "price_eur_mwh"): _day_ahead,
    ("utc", "actual_gco2_kwh"): _carbon,
}
