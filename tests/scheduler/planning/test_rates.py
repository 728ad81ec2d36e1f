"""Rates as traces: what a file may hold, what is said of its gaps, and that what is drawn is what the rates say."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from scheduler.planning import rates
from scheduler.planning.rates import Rates, drawn, is_rates, read
from scheduler.simulation.mix import Mix, load_mix
from scheduler.simulation.trace_formats import TraceError

ROOT = Path(__file__).resolve().parents[3]
CHAT = {"input_tokens": {"median": 400, "p95": 3_000}, "output_tokens": {"median": 60, "p95": 400}}
SIGMAS = 6.0  # a right program strays further once in five hundred million draws


def written(path: Path, *rows: str, header: str = "window_start_s,rate_rps") -> Path:
    """A file of rates."""
    path.write_text("\n".join([header, *rows, ""]))
    return path


def mix(*profiles: dict[str, Any]) -> Mix:
    """Profiles of tenant t with the lengths of ``CHAT``; those of no class unless they say so."""
    rows = [
        {"name": f"p{i}", "share": 1.0, "tenant": "t", **CHAT, **profile} for i, profile in enumerate(profiles or ({},))
    ]
    return Mix.model_validate({"version": 1, "profiles": rows})


def of(*rows: list[float], window_s: float = 60.0, classes: tuple[str, ...] = ()) -> Rates:
    """Rates by class."""
    return Rates("rates", classes or ("all", "b", "c")[: len(rows)], window_s, np.array(rows), ())


def test_a_file_is_known_by_its_header() -> None:
    assert is_rates("model_class,window_start_s,window_s,rate_rps")
    assert is_rates("rate_rps, window_start_s")
    assert not is_rates("arrival_s,input_tokens,output_tokens")
    assert not is_rates("window_start_s,rate")


def test_classes_may_lie_in_any_order_between_each_other(tmp_path: Path) -> None:
    header = "model_class,window_start_s,rate_rps,other"
    found = read(
        written(tmp_path / "r.csv", "a,0,1,x", "b,0,5,", "b,60,6,x", "a,60,2,x", "a,120,3,", "b,120,7,y", header=header)
    )
    assert found.classes == ("a", "b")
    assert found.rate_rps.tolist() == [[1, 2, 3], [5, 6, 7]]
    assert (found.window_s, found.span_s, found.notes, found.name) == (60.0, 180.0, (), "r.csv")


def test_a_file_may_be_packed_and_have_blank_lines_spaces_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "r.csv.gz"
    path.write_bytes(gzip.compress("\ufeffwindow_start_s, rate_rps\r\n\r\n0, 1\r\n 60 ,2 \r\n\r\n".encode()))
    assert read(path).rate_rps.tolist() == [[1, 2]]


def test_times_may_be_unix_seconds_and_starts_may_be_rounded(tmp_path: Path) -> None:
    unix = read(written(tmp_path / "u.csv", *(f"{1_700_000_000 + 300 * i},{i}" for i in range(50))))
    assert unix.window_s == 300.0
    assert unix.rate_rps.tolist() == [list(range(50))]
    thirds = read(written(tmp_path / "t.csv", *(f"{i / 3:.3f},{i}" for i in range(400))))
    assert thirds.window_s == pytest.approx(1 / 3, rel=1e-4)
    assert thirds.rate_rps.tolist() == [list(range(400))]


def test_windows_that_are_missing_lie_on_a_line_between_their_neighbours_and_it_is_said(tmp_path: Path) -> None:
    found = read(written(tmp_path / "r.csv", "0,2", "60,4", "240,10", "300,0"))
    assert found.rate_rps.tolist() == [[2, 4, 6, 8, 10, 0]]
    assert found.notes == (
        "all: 2 windows of 60 s are missing; their rates are a line between their neighbours",
        "all: 1 of 4 windows have no request; taken as they are",
    )


def test_more_gaps_than_windows_do_not_make_the_windows_longer(tmp_path: Path) -> None:
    assert read(written(tmp_path / "r.csv", "0,1", "60,1", "180,1")).window_s == 60.0


def test_a_class_that_begins_later_or_ends_earlier_has_no_requests_there(tmp_path: Path) -> None:
    rows = ("a,0,1", "a,60,1", "a,120,1", "b,60,3", "b,120,3")
    found = read(written(tmp_path / "r.csv", *rows, header="model_class,window_start_s,rate_rps"))
    assert found.rate_rps.tolist() == [[1, 1, 1], [0, 3, 3]]
    assert found.notes == ("b: rates cover 2 of 3 windows; elsewhere there are none",)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["0,1", "60,1", "120,-2"], r"line 4: rate_rps is negative \(-2\)"),
        (["0,1", "60,1", "60,1"], "line 4: window_start_s 60 is there twice for one model_class"),
        (["1700000060,1", "1700000000,1"], "line 3: window_start_s goes back, from 1700000060 to 1700000000"),
        (["0,1", "", "60,many"], "line 4: rate_rps: 'many' is no number"),
        (["0,1", "60"], "line 3: rate_rps: None is no number"),
        (["0,1", "60,inf"], "line 3: rate_rps: inf is not finite"),
        (["0,1", "nan,1"], "line 3: window_start_s: nan is not finite"),
        (["0,1e300", "60,1"], "line 2: rate_rps is above"),
        (["0,1"], "one window says nothing of how long it is"),
        (["0,0", "60,0"], "all rates are 0: there is nothing to plan for"),
        (["0,1", "60,1", "120,1", "150,1"], "all: window 150 is not a multiple of 60 s after the first"),
        (["0,1", "60,1", "120,1", "120.1,1"], "all: window 120.1 is not a multiple of 60 s after the first"),
        (["0,1", "60,1", "60000000000000,1"], "6e.13 s in windows of 60 s are more than 1,000,000 windows"),
        (["0,1", "1e-9,1"], "shorter than a microsecond"),
        ([], "there is no window in it"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(TraceError, match=rf"r\.csv.*{message}"):
        read(written(tmp_path / "r.csv", *rows))


def test_a_field_that_never_ends_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="field larger than field limit"):
        read(written(tmp_path / "r.csv", "0,1", f'60,"{"1" * 200_000}'))


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "r.csv", *(f"{60 * i},1" for i in range(200_000)))
    monkeypatch.setattr(rates, "_BYTES_MAX", 1024**2)
    with pytest.raises(TraceError, match="more than 1 MiB of rates"):
        read(path)
    monkeypatch.setattr(rates, "_BYTES_MAX", 1024**3)
    monkeypatch.setattr(rates, "_ROWS_MAX", 1_000)
    with pytest.raises(TraceError, match="line 1001: more than 1,000 windows"):
        read(path)


def strays(count: float, expected: float) -> float:
    """By how many standard deviations a Poisson count misses its mean; one more or less is nothing."""
    return max(0.0, abs(count - expected) - 1.0) / math.sqrt(max(1.0, expected))


@given(
    st.lists(st.lists(st.floats(0.0, 20.0), min_size=12, max_size=12), min_size=1, max_size=3),
    st.floats(0.5, 900.0), st.integers(0, 2**32 - 1), st.sampled_from([50, 3_000, 100_000]),
)  # fmt: skip
@settings(max_examples=50)
def test_what_is_drawn_times_what_it_stands_for_comes_to_the_rates_of_every_class(
    rows: list[list[float]], window_s: float, seed: int, requests_max: int
) -> None:
    found = of(*[[5.0, *row, 5.0] for row in rows], window_s=window_s)
    trace, stands_for, notes = drawn(found, mix(*({"model_class": name} for name in found.classes)), seed, requests_max)
    expected = found.rate_rps.sum(axis=1) * window_s
    assert stands_for == pytest.approx(max(1.0, expected.sum() / requests_max))
    for profile, requests in enumerate(expected / stands_for):
        assert strays(np.count_nonzero(trace.client == profile), requests) <= SIGMAS
    assert trace.arrival_s[-1] <= 14 * window_s
    assert notes == ()


def test_every_window_has_its_own_rate_and_inside_it_arrivals_are_poisson() -> None:
    rng = np.random.default_rng(4)
    found = of([50.0, *rng.uniform(0.0, 50.0, 40)])
    trace, stands_for, _ = drawn(found, mix({"model_class": "all"}), 1)
    counts = np.bincount((trace.arrival_s / 60.0).astype(int), minlength=41)
    assert stands_for == 1.0
    assert max(map(strays, counts, found.rate_rps[0] * 60.0)) <= 5.0
    assert stats.kstest(trace.arrival_s % 60.0 / 60.0, "uniform").pvalue > 1e-4
    first = trace.arrival_s[: counts[0]]
    assert stats.kstest(np.diff(first) * 50.0, "expon").pvalue > 1e-4


def test_profiles_of_a_class_share_its_requests_by_their_shares_and_the_client_is_their_number() -> None:
    whose = mix({"model_class": "b", "share": 3.0}, {"model_class": "all"}, {"model_class": "b"})
    trace, _, notes = drawn(of([10.0, 10.0], [20.0, 20.0], window_s=1_000.0), whose, 2)
    counts = np.bincount(trace.client, minlength=3)
    assert max(map(strays, counts, (30_000.0, 20_000.0, 10_000.0))) <= SIGMAS
    assert notes == ()


@pytest.mark.parametrize("tokens", [(43, 700), (400, 3_000), (3, 85), (50, 50), (100, 101)])
def test_lengths_have_the_median_and_the_95th_percentile_that_were_asked_for(tokens: tuple[int, int]) -> None:
    median, p95 = tokens
    lengths = {"median": median, "p95": p95}
    whose = mix({"input_tokens": lengths, "output_tokens": {"median": 7, "p95": 7}})
    trace, _, _ = drawn(of([100.0, 100.0], window_s=1_000.0), whose, 5)
    assert np.quantile(trace.input_tokens, 0.5) == pytest.approx(median, rel=0.02, abs=0.5)
    assert np.quantile(trace.input_tokens, 0.95) == pytest.approx(p95, rel=0.03, abs=0.5)
    assert trace.input_tokens.min() >= 1
    assert set(trace.output_tokens.tolist()) == {7}


def test_the_same_seed_draws_the_same_and_another_one_something_else() -> None:
    found, whose = of([5.0, 3.0], [1.0, 0.5]), mix({"model_class": "all"}, {"model_class": "b"})
    one, again, other = (drawn(found, whose, seed)[0] for seed in (7, 7, 8))
    for name in ("arrival_s", "input_tokens", "output_tokens", "client"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    assert one.requests != other.requests or (one.arrival_s != other.arrival_s).any()
    assert (np.diff(one.arrival_s) >= 0.0).all()


def test_classes_that_no_profile_has_and_profiles_that_no_class_has_are_told() -> None:
    whose = mix({"model_class": "b"}, {"model_class": "x"}, {})
    trace, _, notes = drawn(of([5.0, 5.0], [2.0, 2.0], classes=("a", "b")), whose, 0)
    assert set(trace.client.tolist()) == {0}
    assert notes == (
        "model_class 'a' is in no profile of the mix: its requests were left out",
        "no request for the profiles whose model_class has no rates: p1, p2",
    )
    with pytest.raises(ValueError, match=r"no profile of the mix has a model_class that is in it \(there are: a, c\)"):
        drawn(of([5.0, 5.0], [2.0, 2.0], classes=("a", "c")), whose, 0)
    with pytest.raises(ValueError, match="the classes that the mix knows have no request"):
        drawn(of([5.0, 5.0], [0.0, 0.0], classes=("a", "b")), whose, 0)


def test_rates_without_classes_are_of_profiles_without_classes() -> None:
    trace, _, notes = drawn(of([5.0, 5.0]), mix({}, {}), 0)
    assert set(trace.client.tolist()) == {0, 1}
    assert notes == ()


@pytest.mark.parametrize("missing", ["input_tokens", "output_tokens"])
def test_a_profile_of_the_rates_needs_its_lengths(missing: str) -> None:
    with pytest.raises(ValueError, match=r"profile 'p0': a trace of rates needs its input_tokens and output_tokens"):
        drawn(of([5.0, 5.0]), mix({missing: None}), 0)
    drawn(of([5.0, 5.0]), mix({}, {missing: None, "model_class": "other"}), 0)


def test_empty_windows_at_either_end_cannot_be_in_a_trace_and_are_told() -> None:
    trace, _, notes = drawn(of([0.0, 0.0, 10.0, 0.0, 10.0, 0.0], window_s=100.0), mix({}), 0)
    assert 290.0 < trace.span_s < 301.0
    assert not ((trace.arrival_s > 100.5) & (trace.arrival_s < 199.0)).any()
    assert notes == ("a trace begins and ends with a request: 2 windows before and 1 after them without one are gone",)


def test_rates_of_which_nothing_is_drawn_say_how_little_they_are() -> None:
    with pytest.raises(ValueError, match=r"rates: its rates come to 1.2e-07 requests, and none was drawn"):
        drawn(of([1e-9, 1e-9]), mix({}), 0)


def test_the_example_of_a_mix_has_lengths_for_every_class_and_keeps_its_shares() -> None:
    whose = load_mix(ROOT / "examples" / "mix-rates.yaml")
    names = ("m-small", "m-mid", "m-large")
    trace, stands_for, notes = drawn(
        of([40.0, 40.0], [4.0, 4.0], [1.0, 1.0], window_s=600.0, classes=names), whose, 3, 20_000
    )
    assert notes == ()
    assert stands_for == pytest.approx(45.0 * 1_200 / 20_000)
    small = [i for i, spec in enumerate(whose.profiles) if spec.model_class == "m-small"]
    assert strays(np.isin(trace.client, small).sum(), 20_000 * 40 / 45) <= SIGMAS
