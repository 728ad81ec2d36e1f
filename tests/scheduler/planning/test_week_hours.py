"""Where the calendar of a trace is known, a plan says what each hour of the week brings, and guesses none of them."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.planning import outlook
from scheduler.planning.model import Choice, Model, model_of
from scheduler.planning.requests import requests_of
from scheduler.planning.seen import hour_of_week
from scheduler.planning.technologies import technologies_of
from scheduler.planning.week_hours import requests_by_hour
from scheduler.simulation.scenario import EPOCH_S, Window
from tests.scheduler.planning.worlds import SPAN_S, hours, scenario, site

HOUR_S, WEEK_S = 3600.0, 7 * 86_400.0
MONDAY_S = 1_750_032_000.0  # 2025-06-16 00:00 UTC


def by_the_calendar(arrival_s: np.ndarray, window: Window, begins_s: float) -> tuple[Counter[int], Counter[int]]:
    """Requests and seconds of each hour of the week, one request and one piece of an hour after the other."""

    def hour(at_s: float) -> int:
        moment = datetime.fromtimestamp(at_s, UTC)
        return 24 * moment.weekday() + moment.hour

    came = Counter(hour(begins_s + float(at)) for at in arrival_s if window.start_s <= at < window.end_s)
    seen_s: Counter[int] = Counter()
    at = datetime.fromtimestamp(begins_s + window.start_s, UTC)
    end = datetime.fromtimestamp(begins_s + window.end_s, UTC)
    while at < end:
        following = min(end, at.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1))
        seen_s[24 * at.weekday() + at.hour] += (following - at).total_seconds()  # type: ignore[assignment]
        at = following
    return came, seen_s


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(0, 4_000_000_000), st.floats(WEEK_S, 3.5 * WEEK_S), st.floats(0.0, 90_000.0)
)
def test_each_hour_of_the_week_is_its_requests_over_the_time_that_it_was_seen(
    seed: int, begins_s: int, span_s: float, from_s: float
) -> None:
    window = Window(from_s, from_s + span_s)
    arrival_s = np.sort(np.random.default_rng(seed).uniform(0.0, from_s + span_s + 9_000.0, 900))
    found = requests_by_hour(arrival_s, window, begins_s, 1800.0)
    came, seen_s = by_the_calendar(arrival_s, window, begins_s)
    wanted = [came[hour] / (seen_s[hour] / HOUR_S) * 1800.0 / came.total() for hour in range(168)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert sum(rate * seen_s[hour] / HOUR_S for hour, rate in enumerate(found)) == pytest.approx(1800.0, rel=1e-5)


def test_a_busy_hour_stands_where_the_calendar_has_it() -> None:
    begins_s = MONDAY_S + 30.5 * HOUR_S  # Tuesday 06:30
    arrival_s = np.concatenate([np.arange(0.5, 168.0), 8.0 + np.linspace(0.0, 0.9, 9)]) * HOUR_S
    found = requests_by_hour(np.sort(arrival_s), Window(0.0, WEEK_S), begins_s, 177.0)
    assert found[24 + 14] == pytest.approx(6.0)  # 14:30 begins its second half, and four come after 15:00
    assert found[24 + 15] == pytest.approx(5.0)
    assert {round(rate, 9) for hour, rate in enumerate(found) if hour not in (38, 39)} == {1.0}


@pytest.mark.parametrize("span_h", [4.0, 24.0, 120.0, 167.4])
def test_hours_that_were_not_seen_are_not_guessed(span_h: float) -> None:
    arrival_s = np.arange(0.0, span_h * HOUR_S, 600.0)
    assert requests_by_hour(arrival_s, Window(0.0, span_h * HOUR_S), MONDAY_S, 100.0) == ()


def test_the_last_minutes_of_a_week_may_be_missing() -> None:
    span_s = 167.9 * HOUR_S
    found = requests_by_hour(np.arange(0.0, span_s, 600.0), Window(0.0, span_s), MONDAY_S, 1008.0)
    assert len(found) == 168
    assert min(found) > 5.9


def test_without_a_calendar_or_without_requests_there_is_nothing_to_say() -> None:
    arrival_s = np.arange(0.0, 2 * WEEK_S, 600.0)
    assert requests_by_hour(arrival_s, Window(0.0, 2 * WEEK_S), None, 100.0) == ()
    assert requests_by_hour(arrival_s, Window(2 * WEEK_S, 4 * WEEK_S), MONDAY_S, 100.0) == ()


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Choice]:
    """Four hours, of which the second two are busy."""
    config = site(tmp_path_factory.mktemp("week"))
    of, window = scenario(config, hours()), Window(0.0, SPAN_S)
    model = model_of(
        config.planning, requests_of(of, config, technologies_of(config, EPOCH_S), window, rows_max=20_000), {}, 0
    )
    return model, model.best()


@pytest.mark.parametrize("begins_h", [0, 58, 167])
def test_the_week_of_a_pool_begins_on_monday_where_the_calendar_is_known(
    begins_h: int, searched: tuple[Model, Choice]
) -> None:
    (plain,) = outlook.weeks(*searched)
    (known,) = outlook.weeks(*searched, MONDAY_S + begins_h * HOUR_S)
    assert (plain.from_monday, known.from_monday) == (False, True)
    for name in ("load", "base", "rented", "api", "replicas"):
        without, with_it = (np.array(getattr(week, name)) for week in (plain, known))
        np.testing.assert_array_equal(with_it[(begins_h + np.arange(4)) % 168], without[:4])
    assert int(np.argmax(known.load)) == (begins_h + int(np.argmax(plain.load[:4]))) % 168 % 24


def test_bins_of_a_trace_that_begins_within_an_hour_go_to_the_hours_of_the_clock(
    searched: tuple[Model, Choice],
) -> None:
    model, choice = searched
    begins_s = MONDAY_S + 9.5 * HOUR_S
    (week,) = outlook.weeks(model, choice, begins_s)
    middles_s = 0.5 * (model.edges_s[1:] + model.edges_s[:-1])
    for hour in range(9, 14):
        own = hour_of_week(begins_s + middles_s) == hour
        assert own.any()
        assert week.load[hour] == pytest.approx(float(model.surfaces[0].load[own].mean()))
