"""Totals, the sentence, and exports."""

from __future__ import annotations

import csv
import errno
import json
import math
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from serving.ledger.journal import Journal
from serving.ledger.report import By, Format, export_requests, summary, totals, usd_text
from serving.ledger.samples import AT_S, begin, end
from serving.ledger.store import Store

API = {"source": "api", "model": "big", "offer_id": "provider-c", "usd_fixed_share": 0.0}
FORMATS: list[Format] = ["csv", "parquet"]


@pytest.fixture
def filled(store: Store, journal_dir: Path, write_lines: Callable[..., Path]) -> Store:
    """Three complete on base load, one on an API, one failed, one interrupted, one unserved, one open an hour later."""
    records = [record for name in ("b0", "b1", "b2") for record in (begin(name), end(name))]
    records += [begin("api", tenant="ops"), end("api", **API, usd_avoidable=0.02, usd_counterfactual=0.05)]
    records += [begin("failed"), end("failed", **API, status="failed", usd_avoidable=0.01, usd_counterfactual=0.0)]
    records += [begin("gone"), begin("unserved"), end("unserved", status="unserved", source="", model="", attempts=[])]
    write_lines(journal_dir, *records)
    with Journal(journal_dir, "gateway-1") as journal:
        journal.append(begin("running", at_s=AT_S + 3_600))
        store.load(journal_dir)
    return store


def test_every_request_is_in_exactly_one_state_and_one_line(filled: Store) -> None:
    bys: list[By] = ["tenant", "model", "source", "hour"]
    for by in bys:
        lines = totals(filled, by)
        assert sum(line.requests for line in lines) == 8
        for line in lines:
            states = (line.complete, line.failed, line.cancelled, line.unserved, line.interrupted, line.open)
            assert sum(states) == line.requests
            assert line.savings_usd == line.usd_counterfactual - line.usd_avoidable


def test_totals_by_source_keep_avoidable_and_amortized_apart(filled: Store) -> None:
    by_key = {line.key: line for line in totals(filled, "source")}
    assert [*by_key] == ["api", "base", ""]  # the dearest first
    base, api, none = by_key["base"], by_key["api"], by_key[""]
    assert (base.requests, base.complete, base.input_tokens, base.output_tokens) == (3, 3, 5_520, 903)
    assert base.usd_avoidable == pytest.approx(3 * 0.000024)
    assert base.usd_fixed_share == pytest.approx(3 * 0.0004)
    assert (api.complete, api.failed) == (1, 1)
    assert api.savings_usd == pytest.approx(0.05 - 0.03)
    assert (none.unserved, none.interrupted, none.open) == (1, 1, 1)


def test_totals_by_tenant_and_by_model_name_what_served(filled: Store) -> None:
    assert {line.key: line.requests for line in totals(filled, "tenant")} == {"ops": 1, "research": 7}
    assert {line.key: line.requests for line in totals(filled, "model")} == {"big": 2, "small-8b": 3, "": 3}


def test_hours_come_in_order_of_time_and_bounds_are_half_open(filled: Store) -> None:
    assert [(line.key, line.requests) for line in totals(filled, "hour")] == [("1749999600", 7), ("1750003200", 1)]
    assert [line.requests for line in totals(filled, "hour", AT_S + 1)] == [1]
    assert [line.requests for line in totals(filled, "hour", AT_S, AT_S + 3_600)] == [7]


def test_an_unknown_key_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="'moon' is none of tenant"):
        totals(store, "moon")  # type: ignore[arg-type]


def test_the_sentence_says_what_the_money_is_and_what_is_not_known(filled: Store) -> None:
    assert summary(filled) == (
        "3 of 8 requests ran on base load; avoidable $0.0301, $0.0212 less than the cheapest alternative. "
        "Amortized hardware share ($0.0016) is shown apart. 1 interrupted, at their estimate. "
        "1 still open, not in the sums."
    )
    assert summary(filled, until_s=AT_S) == "No requests."


def test_a_loss_is_called_a_loss(store: Store, journal_dir: Path, write_lines: Callable[..., Path]) -> None:
    write_lines(journal_dir, begin("a"), end("a", usd_avoidable=0.5, usd_counterfactual=0.2))
    store.load(journal_dir)
    assert "avoidable $0.5000, $0.3000 more than the cheapest alternative" in summary(store)


@pytest.mark.parametrize(
    ("usd", "text"),
    [(0.0, "$0"), (1234.5, "$1,234.5000"), (-0.25, "-$0.2500"), (0.00034, "$0.00034"), (-2.1e-6, "-$0.0000021")],
)
def test_small_sums_show_two_digits(usd: float, text: str) -> None:
    assert usd_text(usd) == text


def test_a_csv_holds_one_row_per_request_oldest_first(filled: Store, tmp_path: Path) -> None:
    path = tmp_path / "requests.csv"
    assert export_requests(filled, path, "csv", rows_per_batch=3) == 8
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["api", "b0", "b1", "b2", "failed", "gone", "unserved", "running"]
    assert json.loads(rows[0]["zones"]) == ["eu-de", "eu-fr"]
    assert (rows[5]["status"], rows[5]["ttft_s"], float(rows[5]["usd_avoidable"])) == ("interrupted", "", 0.000021)


def test_a_parquet_file_has_types_and_the_same_rows(filled: Store, tmp_path: Path) -> None:
    path = tmp_path / "requests.parquet"
    assert export_requests(filled, path, "parquet", since_s=AT_S, until_s=AT_S + 1, rows_per_batch=3) == 7
    table = pq.read_table(path)
    assert table["id"].to_pylist() == ["api", "b0", "b1", "b2", "failed", "gone", "unserved"]
    assert table["zones"].to_pylist()[0] == ["eu-de", "eu-fr"]
    assert table["ttft_s"].to_pylist()[5] is None
    assert math.isclose(sum(table["usd_avoidable"].to_pylist()), 0.000072 + 0.03 + 0.000021 + 0.000024)


@pytest.mark.parametrize("file_format", FORMATS)
def test_an_empty_export_is_a_valid_file(store: Store, tmp_path: Path, file_format: Format) -> None:
    path = tmp_path / "requests"
    assert export_requests(store, path, file_format) == 0
    assert path.stat().st_size > 0


@pytest.mark.parametrize("file_format", FORMATS)
def test_an_export_that_fails_leaves_the_former_file_and_no_other(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: Format
) -> None:
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "requests"
    path.write_text("former")
    real = filled.stream

    def breaks(*arguments: object) -> object:
        with closing(real(*arguments)) as parts:  # type: ignore[arg-type]
            yield next(parts)
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(filled, "stream", breaks)
    with pytest.raises(OSError, match="No space"):
        export_requests(filled, path, file_format, rows_per_batch=2)
    assert [file.name for file in path.parent.iterdir()] == ["requests"]
    assert path.read_text() == "former"


def test_an_export_reads_in_batches(filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = filled.stream

    def counts(*arguments: object) -> object:
        for part in real(*arguments):  # type: ignore[arg-type]
            sizes.append(len(part))
            yield part

    monkeypatch.setattr(filled, "stream", counts)
    export_requests(filled, tmp_path / "requests.csv", "csv", rows_per_batch=3)
    assert sizes == [3, 3, 2]
