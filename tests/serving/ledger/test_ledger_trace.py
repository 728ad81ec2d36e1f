"""The ledger as a trace, on SQLite and PostgreSQL alike: what was offered, whose it was, and what is said of the rest."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.config import ClusterConfig
from scheduler.core.market import Policy
from scheduler.core.supply import Usage
from scheduler.simulation.scenario import EPOCH_S, Window, scenario_of
from scheduler.simulation.site import site_of
from serving.ledger import kinds as kinds_module
from serving.ledger import trace as trace_module
from serving.ledger.errors import StoreError
from serving.ledger.journal import Journal
from serving.ledger.kinds import Kinds
from serving.ledger.records import Begin, End, RejectionLine
from serving.ledger.samples import AT_S, end
from serving.ledger.store import Store
from serving.ledger.trace import LedgerTrace, LedgerTraceError, read
from tests.support.ledgers import NO_USAGE, asked, both, cluster, ended
from tests.support.sites import QUALITY, provider

Fill = Callable[..., None]
Take = Callable[..., LedgerTrace]
DAY_S = 86_400.0


@pytest.fixture
def fill(store: Store, journal_dir: Path, write_lines: Callable[..., Path]) -> Fill:
    """Puts records into the ledger."""

    def filled(*records: Begin | End | tuple[Begin, End]) -> None:
        flat = [line for record in records for line in (record if isinstance(record, tuple) else (record,))]
        write_lines(journal_dir, *flat)
        store.load(journal_dir)

    return filled


@pytest.fixture
def take(url: str) -> Iterator[Take]:
    """Reads the whole ledger and closes what was read when the test is over."""
    taken: list[LedgerTrace] = []

    def read_all(config: ClusterConfig | None = None, since_s: float = 0.0, until_s: float = math.inf) -> LedgerTrace:
        taken.append(read(url, since_s, until_s, config or cluster()))
        return taken[-1]

    yield read_all
    for each in taken:
        each.trace.close()


def test_a_request_counts_whoever_answered_it_and_if_nobody_did(
    store: Store, journal_dir: Path, fill: Fill, take: Take
) -> None:
    fill(
        both("here"),
        (asked("bought", 10), ended("bought", 10, offer_id="cloud/large", source="api", model="large")),
        (asked("throttled", 20), end("throttled", status="unserved", http_status=429, attempts=[], **NO_USAGE)),
        (asked("refused", 30), end("refused", status="unserved", http_status=503, attempts=[], **NO_USAGE)),
        (asked("failed", 40), ended("failed", 40, status="failed", http_status=503, output_tokens=7)),
        (asked("gone", 50), ended("gone", 50, status="cancelled", http_status=499, output_tokens=9)),
        (asked("broke off", 60), ended("broke off", 60, status="interrupted", output_tokens=400)),
        asked("its writer is dead", 70),
    )
    with Journal(journal_dir, "gateway-1") as journal:
        journal.append(asked("running", 80, writer="gateway-1"))
        store.load(journal_dir)
        found = take()
    trace = found.trace
    np.testing.assert_allclose(trace.arrival_s, np.arange(9) * 10.0, atol=1e-6)
    assert trace.input_tokens.tolist() == [1840] * 9
    assert trace.output_tokens.tolist() == [301, 301, 260, 260, 260, 9, 400, 260, 260]
    assert trace.reusable_prefix_tokens.tolist() == [1024] * 9
    assert trace.client.tolist() == [0] * 9
    (note,) = found.notes
    assert note.startswith(
        "6 of 9 requests were not measured to their end (2 unserved, 2 interrupted, 1 failed, 1 open)"
    )


def test_what_a_source_calls_faulty_and_what_has_no_beginning_is_left_out_and_said(fill: Fill, take: Take) -> None:
    fill(
        both("a"),
        both("b", 90),
        (asked("faulty", 5), ended("faulty", 5, status="failed", http_status=400, **NO_USAGE)),
        (
            asked("no such model there", 6),
            ended("no such model there", 6, status="failed", http_status=404, **NO_USAGE),
        ),
        ended("only an end", 7),
    )
    found = take()
    assert found.trace.requests == 3
    assert found.notes[0] == "left out: 1 request, of which only the end is in the ledger, not whose it was"
    assert found.notes[1].startswith("left out: 1 request that a source refused as faulty")


def test_tenants_and_models_that_are_gone_are_left_out_with_their_names_and_numbers(fill: Fill, take: Take) -> None:
    fill(
        both("a"),
        both("b", 90),
        *(both(f"old {i}", i, tenant="old") for i in range(3)),
        *(both(f"gone {i}", i, model_requested="gone") for i in range(2)),
    )
    found = take()
    assert found.trace.requests == 2
    assert [profile.tenant for profile in found.profiles] == ["t"]
    assert list(found.notes) == [
        "left out: 3 requests, since tenant 'old' is not in the site file (any more)",
        "left out: 2 requests, since model 'gone' is neither a model nor an alias in the site file (any more)",
    ]


def test_what_nobody_can_serve_any_more_is_left_out_so_that_the_rest_can_be_planned(fill: Fill, take: Take) -> None:
    fill(
        both("a"),
        both("b", 90),
        both("away", 1, tenant="u", model_requested="large", zones=["home"], service_class="batch"),
        both("nowhere", 2, labels=["restricted"], zones=["cloud"]),
    )
    found = take()
    assert found.trace.requests == 2
    assert sorted(found.notes) == [
        "left out: 1 request, since no pool and no API in home serves model 'large' for tenant 'u'",
        "left out: 1 request, since tenant and labels leave no zone to model 'auto' for tenant 't'",
    ]
    scenario_of(cluster(), found.profiles, "given", found.trace, 1.0, Policy())


def test_a_class_that_a_tenant_has_no_more_becomes_its_first_one(fill: Fill, take: Take) -> None:
    fill(both("a", tenant="u", zones=["home"]), both("b", 90, tenant="u", zones=["home"], service_class="batch"))
    found = take()
    assert [(p.name, p.service_class.name, p.share) for p in found.profiles] == [("u.batch.auto", "batch", 2.0)]
    assert found.notes == ("'interactive' is no service class of tenant 'u' (any more): 'batch' instead",)


def test_there_is_one_profile_for_each_tenant_class_model_zones_and_needs(fill: Fill, take: Take) -> None:
    lacks = [RejectionLine("cloud/large", "lacks logprobs"), RejectionLine("own/small", "lacks images, tools")]
    home = ["home"]
    config = cluster(
        models=[
            {"name": name, "context_tokens": 8_000, "quality": QUALITY, "abilities": can}
            for name, can in (("small", ["chat", "logprobs"]), ("large", ["chat", "images", "tools"]))
        ]
    )
    fill(
        both("plain"),
        both("same", 10, rejected=[RejectionLine("cloud/large", "cooling down")], labels=["public"], session="other"),
        both("batch", 20, service_class="batch"),
        both("model", 30, model_requested="either"),
        both("header", 40, zones=home),
        both("label", 50, zones=home, labels=["restricted"]),
        both("label of then", 60, zones=home, labels=["no longer declared"]),
        both("images", 70, rejected=lacks[1:]),
        both("logprobs", 80, rejected=lacks[:1]),
        both("u", 90, tenant="u", service_class="batch", zones=home),
    )
    found = take(config)
    assert [(p.name, sorted(p.zones), sorted(p.needs), p.share) for p in found.profiles] == [
        ("t.interactive.auto", ["cloud", "home"], ["chat"], 2.0),
        ("t.batch.auto", ["cloud", "home"], ["chat"], 1.0),
        ("t.interactive.either", ["cloud", "home"], ["chat"], 1.0),
        ("t.interactive.auto-2", ["home"], ["chat"], 3.0),
        ("t.interactive.auto-3", ["cloud", "home"], ["chat", "images", "tools"], 1.0),
        ("t.interactive.auto-4", ["cloud", "home"], ["chat", "logprobs"], 1.0),
        ("u.batch.auto", ["home"], ["chat"], 1.0),
    ]
    assert found.trace.client.tolist() == [0, 0, 1, 2, 3, 3, 3, 4, 5, 6]
    assert found.profiles[2].models == {"small", "large"}
    assert found.profiles[0].models is None
    assert found.notes == ()


def test_zones_and_labels_of_today_can_only_narrow_what_a_request_had(fill: Fill, take: Take) -> None:
    wider = {"labels": [{"name": "restricted", "zones": "any"}, {"name": "public", "zones": ["home"]}]}
    fill(
        both("a", zones=["home"], labels=["restricted"]),
        both("b", 30, labels=["public"]),
        both("c", 90, zones=["a zone of old", "cloud"]),
    )
    found = take(cluster(**wider))
    assert [set(p.zones) for p in found.profiles] == [{"home"}, {"cloud"}]
    assert found.trace.client.tolist() == [0, 0, 1]


def test_embeddings_are_not_taken_for_chat(fill: Fill, take: Take) -> None:
    models = [
        {"name": "small", "context_tokens": 8_000, "quality": QUALITY, "abilities": ["embeddings"]},
        {"name": "large", "context_tokens": 8_000, "quality": QUALITY},
    ]  # fmt: skip
    lacks = [RejectionLine("cloud/large", "lacks embeddings")]
    fill(
        both("by name", model_requested="small"),
        both("any", 90, rejected=lacks),
        both("chat", 30, model_requested="large"),
    )
    found = take(cluster(models=models))
    assert [sorted(p.needs) for p in found.profiles] == [[], ["chat"], ["embeddings"]]


def test_the_difficulty_of_a_profile_has_the_mean_of_its_requests_and_their_spread(fill: Fill, take: Take) -> None:
    drawn = np.random.default_rng(3).uniform(0.2, 0.6, 400)
    fill(
        *(both(f"{i:03d}", float(i), difficulty=float(d)) for i, d in enumerate(drawn)),
        both("u", 5, tenant="u", zones=["home"], service_class="batch", difficulty=1.0),
    )
    first, second = take().profiles
    assert (first.difficulty_low + first.difficulty_high) / 2 == pytest.approx(drawn.mean())
    assert (first.difficulty_high - first.difficulty_low) / math.sqrt(12) == pytest.approx(drawn.std())
    assert (second.difficulty_low, second.difficulty_high) == (1.0, 1.0)


def test_what_says_nothing_of_its_length_is_taken_for_the_mean_of_its_kind(fill: Fill, take: Take) -> None:
    nothing = {"input_tokens": 0, "output_tokens": 0, "cached_tokens": 0}
    fill(
        (asked("a"), ended("a", input_tokens=100, output_tokens=10, cached_tokens=0)),
        (asked("b", 10), ended("b", 10, input_tokens=200, output_tokens=30, cached_tokens=0)),
        (asked("c", 20, model_requested="large"), ended("c", 20, input_tokens=900, output_tokens=50, cached_tokens=0)),
        asked("its kind is known", 80, **nothing),
        asked("its kind is not", 90, model_requested="either", **nothing),
    )
    found = take()
    assert found.trace.input_tokens.tolist() == [100, 200, 900, 150, 400]
    assert found.trace.output_tokens.tolist() == [10, 30, 50, 20, 30]
    assert found.notes == ("2 requests without any word of the length: each is taken for the mean of its kind",)


def test_where_no_length_is_known_at_all_such_requests_are_left_out(fill: Fill, take: Take) -> None:
    fill(asked("a"), asked("b", 90), asked("c", 10, input_tokens=0, output_tokens=0, cached_tokens=0))
    found = take()
    assert found.trace.requests == 2
    assert found.notes[0] == "left out: 1 request of unknown length"


def test_tokens_that_a_provider_counts_its_own_way_are_brought_back_to_the_gateways(fill: Fill, take: Take) -> None:
    """What planning prices with the same offer again would else hold its tokenizer and its reasoning twice."""
    config = cluster(providers=[provider("cloud", tokens_ratio=1.25, reasoning_tokens=100)])
    measured = {"offer_id": "cloud/large", "source": "api", "input_tokens": 1000, "cached_tokens": 0}
    fill(
        (asked("answer"), ended("answer", output_tokens=350, **measured)),
        (asked("thought less than usual", 10), ended("thought less than usual", 10, output_tokens=60, **measured)),
        both("here", 90),
    )
    trace = take(config).trace
    assert trace.input_tokens.tolist() == [800, 800, 1840]
    assert trace.output_tokens.tolist() == [200, 1, 301]


@given(st.integers(0, 200_000), st.integers(1, 50_000), st.integers(100, 1_000), st.integers(0, 5_000))
def test_what_an_offer_makes_of_a_count_is_undone_exactly(
    inputs: int, outputs: int, percent: int, thought: int
) -> None:
    config = cluster(providers=[provider("cloud", tokens_ratio=percent / 100, reasoning_tokens=thought)])
    offers = site_of(config, (), EPOCH_S).priced(EPOCH_S).offers
    there = next(offer for offer in offers if offer.id == "cloud/large").expected(Usage(inputs, 0, outputs))
    columns = (np.array([float(n)]) for n in (there.input_tokens, there.output_tokens, there.cached_tokens))
    found = Kinds(config, offers).uncounted(["cloud/large"], *columns)
    assert [int(column[0]) for column in found] == [inputs, outputs, 0]


@pytest.mark.parametrize("rows", [1, 3, 1_000])
def test_requests_come_by_arrival_whatever_the_order_of_the_ledger_and_the_size_of_a_batch(
    rows: int, fill: Fill, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_module, "_ROWS_PER_BATCH", rows)
    rng = np.random.default_rng(rows)
    at_s, inputs = np.round(rng.uniform(0, 500, 60), 3), rng.integers(1, 9_000, 60)
    classes = ["interactive" if odd else "batch" for odd in rng.random(60) < 0.5]
    fill(
        *(
            (
                asked(f"{i:02d}", float(at_s[i]), service_class=classes[i]),
                ended(f"{i:02d}", input_tokens=int(inputs[i])),
            )
            for i in range(60)
        )
    )
    found = take()
    order = np.argsort(at_s, kind="stable")
    np.testing.assert_allclose(found.trace.arrival_s, at_s[order] - at_s.min(), atol=1e-6)
    assert found.trace.input_tokens.tolist() == inputs[order].tolist()
    assert [found.profiles[i].service_class.name for i in found.trace.client] == [classes[i] for i in order]
    assert sum(profile.share for profile in found.profiles) == 60
    played = replace(scenario_of(cluster(), found.profiles, "given", found.trace, 1.0, Policy()), copies=1.0)
    profiles = [batch.profile for batch in played.batches(Window(0.0, found.trace.span_s))]
    np.testing.assert_array_equal(np.concatenate(profiles), found.trace.client)


def test_only_what_arrived_in_the_time_asked_for_is_taken(fill: Fill, take: Take) -> None:
    fill(*(both(str(i), 30.0 * i) for i in range(10)))
    found = take(since_s=AT_S + 60, until_s=AT_S + 180)
    assert found.trace.arrival_s.tolist() == [0, 30, 60, 90]
    assert found.begins_s == AT_S + 60
    assert found.trace.name == "ledger, 2025-06-15 15:07 to 2025-06-15 15:09 UTC"
    with pytest.raises(LedgerTraceError, match="no request in it arrived in the time asked for"):
        take(since_s=AT_S + 1_000)


def test_of_more_than_a_year_the_last_weeks_are_taken_and_it_is_said(fill: Fill, take: Take) -> None:
    fill(*(both(str(day), DAY_S * day) for day in range(0, 400, 4)))
    found = take()
    assert found.trace.requests == 91
    assert found.notes == ("of 396 days only the last 364 are taken",)
    scenario_of(cluster(), found.profiles, "given", found.trace, 1.0, Policy())


def test_where_prices_change_by_the_hour_the_clock_of_the_trace_is_said(fill: Fill, take: Take) -> None:
    night = {"hours": "00:00-06:00", "usd_per_kwh": 0.1}
    rates = {"timezone": "UTC", "usd_per_kwh": 0.3, "periods": [night]}
    fill(both("a"), both("b", 90))
    config = cluster(sites=[{"name": "here", "zone": "home", "electricity": {"time_of_use": rates, "pue": 1.2}}])
    (note,) = take(config).notes
    assert note == "prices by the hour take 2025-06-15 15:06 UTC, where the trace begins, for a Thursday, 00:00"


def test_a_ledger_that_is_not_there_is_named_and_none_is_made(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with pytest.raises(LedgerTraceError, match=r"ledger\.db: there is no ledger"):
        read(f"sqlite:///{path}", 0.0, math.inf, cluster(ledger={"url": "sqlite:///elsewhere.db"}))
    with pytest.raises(LedgerTraceError, match=r"nowhere\.db: there is no ledger"):
        read(None, 0.0, math.inf, cluster(ledger={"url": f"sqlite:///{tmp_path}/nowhere.db"}))
    with pytest.raises(StoreError, match="refused"):
        read("postgresql://127.0.0.1:1/name", 0.0, math.inf, cluster())
    assert not list(tmp_path.iterdir())


def test_what_is_too_little_to_plan_with_is_refused_with_the_reason(fill: Fill, take: Take) -> None:
    with pytest.raises(LedgerTraceError, match="no request in it arrived"):
        take()
    fill(both("a"), both("b", 59), both("c", 90, tenant="old"))
    with pytest.raises(LedgerTraceError, match=r"2 requests in 59 s, too little to plan with \(at least a minute\)"):
        take()
    with pytest.raises(LedgerTraceError, match=r"can be planned with \(left out: 1 request, since tenant 'old' is not"):
        take(since_s=AT_S + 60)


def test_no_files_are_left_behind_by_a_trace_that_is_closed_or_was_refused(
    url: str, fill: Fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "files"))
    (tmp_path / "files").mkdir()
    fill(both("a"), both("b", 90), both("c", 20, model_requested="large"))
    with read(url, 0.0, math.inf, cluster()).trace as trace:
        assert trace.requests == 3
        assert len(list((tmp_path / "files").iterdir())) == 1
    monkeypatch.setattr(kinds_module, "PROFILES_MAX", 1)
    with pytest.raises(LedgerTraceError, match="more than 1 kinds of requests"):
        read(url, 0.0, math.inf, cluster())
    assert not list((tmp_path / "files").iterdir())


def test_many_reasons_to_leave_requests_out_are_told_in_few_lines(fill: Fill, take: Take) -> None:
    fill(both("a"), both("b", 90), *(both(str(i), 1, model_requested=f"gone-{i}") for i in range(30)))
    notes = take().notes
    assert len(notes) == 9
    assert notes[-1] == "left out: 22 requests for 22 more such reasons"
