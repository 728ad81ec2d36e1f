"""Any interleaving, any cut, any number of loads: the store says what the complete lines say, once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from serving.ledger.loading import LoadReport
from serving.ledger.records import Begin, End, Record
from serving.ledger.samples import AT_S, begin, end
from serving.ledger.schema import requests
from serving.ledger.store import Store

STATUSES = ["complete", "failed", "cancelled", "interrupted", "unserved"]


@st.composite
def journals(draw: st.DrawFn) -> list[list[Record]]:
    """Two files of one writer: some requests lack an end, some a begin, some lines come twice, in any order."""
    records: list[Record] = []
    for number in range(draw(st.integers(1, 7))):
        name = f"r{number}"
        first = begin(name, tenant=f"tenant {number % 2}", merit_order=begin(name).merit_order[number % 4 :])
        last = end(name, at_s=AT_S + number, status=draw(st.sampled_from(STATUSES)), usd_avoidable=number / 8)
        records += draw(st.sampled_from([[first], [last], [first, last], [first, last], [first, last, first, last]]))
    records = draw(st.permutations(records))
    cut = draw(st.integers(0, len(records)))
    return [records[:cut], records[cut:]]


# A step shows the loader more of one file (a share of what it does not see yet), or all the same.
steps = st.lists(
    st.tuples(
        st.integers(0, 1), st.floats(0, 1), st.sampled_from([1, 300, 2**20]), st.booleans()
    ),  # file, share, batch, remove
    min_size=1,
    max_size=6,
)


def expected(complete: list[bytes]) -> dict[str, tuple[Any, ...]]:
    """An independent reading: status, tenant, avoidable USD, quotes, rejections and attempts of every id."""
    decoder = msgspec.json.Decoder(Record)
    records = [decoder.decode(line) for line in complete]
    begins = {record.id: record for record in records if isinstance(record, Begin)}
    ends = {record.id: record for record in records if isinstance(record, End)}
    rows: dict[str, tuple[Any, ...]] = {}
    for name in begins.keys() | ends.keys():
        first, last = begins.get(name), ends.get(name)
        offers = first.merit_order if first else []
        estimate = sum(offers[0].terms.get(term, 0.0) for term in ("tokens", "energy")) if offers else 0.0
        rows[name] = (
            last.status if last else "interrupted",
            first.tenant if first else "",
            last.usd_avoidable if last else estimate,
            len(offers),
            1 if first else 0,
            1 if last else 0,
        )
    return rows


def found(store: Store) -> dict[str, tuple[Any, ...]]:
    """The same, from the store."""
    lists = (requests.c.merit_order, requests.c.rejected, requests.c.attempts)
    query = select(requests.c.id, requests.c.status, requests.c.tenant, requests.c.usd_avoidable, *lists)
    with store.reading() as connection:
        return {
            name: (status, tenant, usd, *(len(each) for each in rest))
            for name, status, tenant, usd, *rest in connection.execute(query)
        }


@settings(max_examples=50, deadline=None)
@given(journal=journals(), steps=steps)
def test_the_store_holds_what_the_complete_lines_say_whatever_was_seen_when(
    new_url: Callable[[], str], journal: list[list[Record]], steps: list[tuple[int, float, int, bool]]
) -> None:
    whole = [b"".join(msgspec.json.encode(record) + b"\n" for record in records) for records in journal]
    seen = [0, 0]
    total = LoadReport()
    with tempfile.TemporaryDirectory() as name, closing(Store(new_url())) as store:
        directory = Path(name)
        store.create_schema()
        for file, share, batch_bytes, remove_loaded in steps:
            seen[file] += round((len(whole[file]) - seen[file]) * share)
            (directory / f"20250615T150640-gateway-0-{file + 1}.jsonl").write_bytes(whole[file][: seen[file]])
            report = store.load(directory, remove_loaded=remove_loaded, batch_bytes=batch_bytes)
            again = store.load(directory)
            assert again == LoadReport()
            total = total.plus(report)
            visible = [line for data, size in zip(whole, seen, strict=True) for line in data[:size].split(b"\n")[:-1]]
            assert found(store) == expected(visible)
        assert total.lines_bad == 0
        assert total.rows_begun == len({line for line in visible if b'"kind":"begin"' in line})
        assert total.rows_ended == len({line for line in visible if b'"kind":"end"' in line})
