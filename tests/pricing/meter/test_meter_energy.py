"""Joules from samples: whatever counters and sensors do, the sum never falls and never grows by what cannot be."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pricing.meter import energy
from pricing.meter.energy import COUNTER, MODEL, POWER, Count, Sample

WATTS_MAX = 1400.0

energies = st.none() | st.integers(0, 10**13)
watts = st.none() | st.floats(-10, 10_000)
steps = st.lists(st.tuples(st.floats(-5, 600), energies, watts, st.none() | st.floats(0, 700)), min_size=1, max_size=30)


def count(*samples: Sample) -> Count:
    """All of them, one after the other."""
    counted = energy.start(samples[0], WATTS_MAX)
    for sample in samples[1:]:
        counted = energy.advance(counted, sample, WATTS_MAX)
    return counted


@given(steps)
@example([(0.0, 5, None, None), (5.0, 10**13, None, None), (5.0, 7, None, None)])
def test_joules_never_fall_and_never_outgrow_what_a_board_can_draw(
    steps: list[tuple[float, int | None, float | None, float | None]],
) -> None:
    at_s, counted = 0.0, energy.start(Sample(0.0, *steps[0][1:]), WATTS_MAX)
    for dt_s, energy_mj, power, modelled in steps[1:]:
        at_s += dt_s
        after = energy.advance(counted, Sample(at_s, energy_mj, power, modelled), WATTS_MAX)
        elapsed_s = max(0.0, after.last.at_s - counted.last.at_s)
        assert counted.joules <= after.joules <= counted.joules + WATTS_MAX * (elapsed_s + 0.2) + 1e-6
        assert after.missed_s >= counted.missed_s
        counted = after


def test_the_counter_is_preferred_to_the_power_that_a_sensor_samples_now_and_then() -> None:
    counted = count(Sample(0, 1_000_000, 90.0), Sample(5, 3_000_000, 90.0))
    assert (counted.joules, counted.watts, counted.label, counted.how) == (2000.0, 400.0, "measured", COUNTER)


def test_without_a_counter_power_is_integrated_between_samples() -> None:
    counted = count(Sample(0, None, 100.0), Sample(4, None, 300.0), Sample(6, None, 500.0))
    assert (counted.joules, counted.label, counted.how) == (800.0 + 800.0, "measured", POWER)


def test_power_is_not_integrated_over_a_long_silence_and_the_count_says_so() -> None:
    counted = count(Sample(0, None, 100.0), Sample(100, None, 300.0), Sample(101, None, 300.0))
    assert counted.joules == 300.0
    assert counted.how == f"{POWER}, 100 s not counted"


def test_the_counter_counts_through_a_long_silence() -> None:
    assert count(Sample(0, 0, None), Sample(1000, 300_000_000, None)).joules == 300_000.0


def test_a_reset_counter_goes_on_from_its_new_value_and_loses_at_most_one_interval() -> None:
    blind = count(Sample(0, 9_000_000, None), Sample(5, 400_000, None), Sample(10, 1_400_000, None))
    assert blind.joules == 1000.0
    assert blind.how == f"{COUNTER}, 5 s not counted"
    seeing = count(Sample(0, 9_000_000, 200.0), Sample(5, 400_000, 200.0), Sample(10, 1_400_000, 200.0))
    assert seeing.joules == 2000.0
    assert seeing.how == f"{COUNTER}, 1 intervals bridged by integrated power"


def test_a_counter_that_jumps_for_a_moment_adds_nothing_that_was_not_drawn() -> None:
    samples = [Sample(5.0 * i, 1_000_000 * i, 200.0) for i in range(6)]
    samples[3] = samples[3]._replace(energy_mj=2**60)
    assert count(*samples).joules == pytest.approx(5000.0)


def test_a_counter_that_stands_still_while_power_is_drawn_is_not_believed() -> None:
    assert count(Sample(0, 7, 200.0), Sample(5, 7, 200.0)).joules == 1000.0


def test_a_counter_that_stands_still_is_found_out_however_often_one_looks() -> None:
    counted = count(*(Sample(0.5 * i, 7, 200.0) for i in range(41)))
    assert counted.joules == pytest.approx(200.0 * 20.0, rel=0.05)
    assert counted.how.startswith(COUNTER)
    assert "39 intervals bridged" in counted.how


@pytest.mark.parametrize("every_s", [0.25, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("step_s", [0.1, 0.5, 2.0])
def test_a_counter_that_moves_in_steps_counts_nothing_twice(every_s: float, step_s: float) -> None:
    """200 W on a counter that is brought up to date each ``step_s`` only."""
    at_s = [every_s * i for i in range(int(60 / every_s) + 1)]
    counted = count(*(Sample(t, int(t / step_s + 1e-9) * int(step_s * 200_000), 200.0) for t in at_s))
    assert counted.joules == pytest.approx(12_000.0, abs=200.0 * (step_s + every_s))


def test_an_idle_board_that_draws_nothing_may_stand_still() -> None:
    counted = count(*(Sample(0.5 * i, 7, 0.0) for i in range(20)))
    assert (counted.joules, counted.how) == (0.0, COUNTER)


def test_a_counter_that_cannot_be_read_for_a_moment_counts_no_joule_twice() -> None:
    samples = [Sample(5.0 * i, 1_000_000 * i, 200.0) for i in range(6)]
    samples[2] = samples[2]._replace(energy_mj=None)
    assert count(*samples).joules == pytest.approx(5000.0)


def test_a_board_without_sensors_is_modelled_and_labelled_so() -> None:
    counted = count(Sample(0, None, None, 70.0), Sample(10, None, None, 385.0))
    assert (counted.joules, counted.watts, counted.label, counted.how) == (3850.0, 385.0, "modelled", MODEL)


def test_a_board_of_which_nothing_is_known_counts_nothing() -> None:
    counted = count(Sample(0, None, None), Sample(10, None, None))
    assert (counted.joules, counted.watts, counted.label) == (0.0, 0.0, "modelled")
    assert "10 s not counted" in counted.how


def test_a_sample_from_before_the_last_one_changes_nothing() -> None:
    before = count(Sample(0, 0, None), Sample(5, 1_000_000, None))
    assert energy.advance(before, Sample(3, 9_000_000, None), WATTS_MAX) == before
