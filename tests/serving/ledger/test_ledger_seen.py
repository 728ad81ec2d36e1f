"""The ledger by the hour, as drift reads it: the same from SQLite and PostgreSQL, and the same as counted one by one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event

from scheduler.config import ClusterConfig
from scheduler.planning.seen import HOUR_S, Seen
from serving.ledger.records import Begin, End
from serving.ledger.samples import begin, end
from serving.ledger.seen import is_there, seen
from serving.ledger.store import Store
from tests.support.sites import pool, site

MIDNIGHT_S = 1_750_032_000.0
SUMS = (
    "requests", "served", "bought", "judged", "in_time",
    "input_tokens", "output_tokens", "api_tokens", "usd_api", "usd_energy",
)  # fmt: skip
CLASSES = [
    {"name": "interactive", "ttft_s_max": 0.5, "tpot_s_max": 0.05},
    {"name": "batch", "ttft_s_max": 60.0, "deadline_s": 300},
]


def config() -> ClusterConfig:
    return ClusterConfig.model_validate(site(service_classes=CLASSES, pools=[pool("pool-a")]))


Pair = tuple[Begin, End]


def drawn(seed: int, count: int, hours: float) -> list[Pair]:
    """Requests of every kind at random."""
    rng = np.random.default_rng(seed)
    pairs = []
    for i in range(count):
        at_s = MIDNIGHT_S + float(rng.uniform(0.0, hours)) * HOUR_S
        status = str(rng.choice(["complete", "complete", "complete", "failed", "cancelled", "unserved", "interrupted"]))
        source = str(rng.choice(["base", "api", "spot"])) if status != "unserved" else ""
        offer = {"base": "pool-a/small", "spot": "pool-b/small", "api": "cloud/large", "": ""}[source]
        ttft_s = float(rng.uniform(0.1, 0.9)) if rng.random() < 0.9 else None
        ended = end(
            f"r{i}", at_s=at_s + 2.0, status=status, source=source, offer_id=offer, attempts=[],
            http_status=int(rng.choice([200, 400, 503])), input_tokens=int(rng.integers(0, 900)),
            output_tokens=int(rng.integers(0, 40)), usd_avoidable=float(rng.uniform(0.0, 0.01)),
            ttft_s=ttft_s, duration_s=(ttft_s or 0.0) + float(rng.uniform(0.0, 2.0)),
        )  # fmt: skip
        kind = str(rng.choice(["interactive", "batch", "of-before"]))
        begun = begin(f"r{i}", at_s=at_s, service_class=kind, stream=bool(rng.random() < 0.8))
        pairs.append((begun, ended))
    return pairs


def by_hand(pairs: list[Pair], since_s: float, until_s: float) -> dict[str, float]:
    """The sums of a span, one request at a time."""
    total = dict.fromkeys(SUMS, 0.0)
    limits = {"interactive": (0.5, 0.05), "batch": (60.0, np.inf)}
    for begun, ended in pairs:
        if not since_s <= begun.at_s < until_s:
            continue
        total["requests"] += 1
        is_here = ended.source in ("base", "spot")
        total["usd_energy" if is_here else "usd_api"] += ended.usd_avoidable
        is_complete, is_missed = ended.status == "complete", False
        if ended.status in ("failed", "unserved"):
            is_missed = ended.http_status >= 500
        elif ended.status == "interrupted":
            is_missed = True
        if is_complete:
            total["served"] += 1
            total["input_tokens"] += ended.input_tokens
            total["output_tokens"] += ended.output_tokens
            if ended.source == "api":
                total["bought"] += 1
                total["api_tokens"] += ended.input_tokens + ended.output_tokens
        is_timed = is_complete and begun.stream and ended.ttft_s is not None
        if begun.service_class not in limits or not (is_timed or is_missed):
            continue
        total["judged"] += 1
        if is_timed and ended.ttft_s is not None:
            ttft_s, pace_s = limits[begun.service_class]
            tokens = ended.output_tokens - 1
            paced = tokens < 1 or (ended.duration_s - ended.ttft_s) / tokens <= pace_s
            total["in_time"] += ended.ttft_s <= ttft_s and paced
    return total


@pytest.fixture
def fill(store: Store, journal_dir: Path, write_lines: Callable[..., Path]) -> Callable[[list[Pair]], Store]:
    def filled(pairs: list[Pair]) -> Store:
        write_lines(journal_dir, *(record for pair in pairs for record in pair))
        store.load(journal_dir)
        return store

    return filled


def found_in(store: Store, since_s: float, until_s: float) -> Seen:
    found = seen(store, config(), since_s, until_s)
    assert found is not None
    return found


def test_sums_are_those_that_one_counts_by_hand(fill: Callable[[list[Pair]], Store]) -> None:
    pairs = drawn(1, 400, 30.0)
    store = fill(pairs)
    for since_s, until_s in ((0.0, MIDNIGHT_S + 30 * HOUR_S), (MIDNIGHT_S + 3.3 * HOUR_S, MIDNIGHT_S + 20.7 * HOUR_S)):
        found = found_in(store, since_s, until_s)
        wanted = by_hand(pairs, since_s, until_s)
        assert {name: float(getattr(found, name).sum()) for name in SUMS} == pytest.approx(wanted)
    quiet = int(np.flatnonzero(found.requests == found.requests.min())[0])
    hour = by_hand(pairs, float(found.start_s[quiet]), float(found.start_s[quiet]) + HOUR_S)
    assert float(found.requests[quiet]) == hour["requests"]


def test_hours_without_requests_are_hours_and_the_edges_count_in_part(fill: Callable[[list[Pair]], Store]) -> None:
    pairs = [
        (begin(name, at_s=MIDNIGHT_S + at_s), end(name, at_s=MIDNIGHT_S + at_s + 1))
        for name, at_s in (("a", 1800), ("b", 4 * 3600))
    ]
    found = found_in(fill(pairs), 0.0, MIDNIGHT_S + 5.25 * HOUR_S)
    assert found.requests.tolist() == [1, 0, 0, 0, 1, 0]
    assert found.share.tolist() == [0.5, 1, 1, 1, 1, 0.25]
    assert found.hours == 4.75
    assert found.per_hour("requests") == pytest.approx(2 / 4.75)
    assert found.ratio("bought", "judged") == 0.0


def test_a_ledger_that_is_older_than_the_span_was_there_all_the_time(fill: Callable[[list[Pair]], Store]) -> None:
    pairs = [
        (begin(name, at_s=MIDNIGHT_S + at_s), end(name, at_s=MIDNIGHT_S + at_s + 1))
        for name, at_s in (("a", 60), ("b", 9 * 3600))
    ]
    found = found_in(fill(pairs), MIDNIGHT_S + 5 * HOUR_S, MIDNIGHT_S + 10 * HOUR_S)
    assert found.requests.tolist() == [0, 0, 0, 0, 1]
    assert found.share.tolist() == [1, 1, 1, 1, 1]


def test_the_pace_of_streams_is_told_by_pool(fill: Callable[[list[Pair]], Store]) -> None:
    def one(name: str, offer: str, **changes: Any) -> Pair:
        told = {"offer_id": offer, "ttft_s": 0.2, "duration_s": 2.2, "output_tokens": 101, **changes}
        return begin(name, at_s=MIDNIGHT_S + 60.0), end(name, at_s=MIDNIGHT_S + 63.0, **told)

    pairs = [
        one("a", "pool-a/small"), one("b", "pool-a/adapter", duration_s=4.2), one("c", "pool-a/small", output_tokens=1),
        one("gone", "pool-of-before/small"), one("api", "cloud/large", source="api"),
    ]  # fmt: skip
    (pace,) = found_in(fill(pairs), 0.0, MIDNIGHT_S + HOUR_S).paces
    assert (pace.pool, pace.least_s, pace.most_s) == ("pool-a", pytest.approx(0.011), pytest.approx(0.018))
    assert float(pace.decode_s.sum() / pace.tokens.sum()) == pytest.approx(6.0 / 200.0)


def test_an_empty_span_is_none(fill: Callable[[list[Pair]], Store]) -> None:
    assert seen(fill([]), config(), 0.0, MIDNIGHT_S) is None
    assert seen(fill(drawn(1, 3, 1.0)), config(), MIDNIGHT_S + 9 * HOUR_S, MIDNIGHT_S + 10 * HOUR_S) is None


def test_however_many_requests_only_hours_come_out_of_the_database(fill: Callable[[list[Pair]], Store]) -> None:
    store = fill(drawn(1, 300, 3.0))
    asked: list[str] = []

    @event.listens_for(store.engine, "after_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement.upper())

    found_in(store, 0.0, MIDNIGHT_S + 3 * HOUR_S)
    selects = [statement for statement in asked if statement.startswith("SELECT")]
    assert len(selects) == 3
    assert all("GROUP BY" in statement or "MIN(" in statement for statement in selects)


def test_asking_whether_there_is_a_ledger_makes_none(tmp_path: Path, url: str) -> None:
    absent = tmp_path / "none.db"
    assert not is_there(Store(f"sqlite:///{absent}"))
    assert not absent.exists()
    made = Store(url)
    made.create_schema()
    assert is_there(made)
    made.close()


def test_sums_are_plain_numbers(fill: Callable[[list[Pair]], Store]) -> None:
    found = found_in(fill(drawn(1, 20, 1.0)), 0.0, MIDNIGHT_S + HOUR_S)
    assert json.dumps([found.per_hour("usd_api"), found.ratio("output_tokens", "served")])
