"""The slope of power against tokens: what was put in comes out, and what cannot be known is not believed."""

from __future__ import annotations

from itertools import product

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.meter import slope
from pricing.meter.slope import EnergyFit, PowerWindow

CONFIGURED = (0.02, 0.2)


def windows(
    count: int = 60,
    idle_watts: float = 400.0,
    per_input: float = 0.01,
    per_output: float = 0.15,
    noise_watts: float = 0.0,
    seed: int = 1,
    input_per_output: float | None = None,
    replicas: int = 1,
) -> list[PowerWindow]:
    """Windows of a minute at loads between none and full; with ``input_per_output`` every one has the same mix."""
    chance = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        load = chance.random()
        output = load * 60 * 3000.0
        mix = chance.uniform(0.5, 20.0) if input_per_output is None else input_per_output
        joules = idle_watts * 60 * replicas + per_input * mix * output + per_output * output
        joules += chance.normal(0.0, noise_watts) * 60
        made.append(PowerWindow(60.0, joules, mix * output, output, replicas))
    return made


def fit(made: list[PowerWindow], configured: tuple[float, float] = CONFIGURED) -> EnergyFit:
    found = slope.fit(made, configured, 1000.0)
    assert found is not None
    return found


@given(st.floats(0, 3000), st.floats(0.0005, 0.1), st.floats(0.005, 5), st.integers(0, 1000))
def test_slope_and_idle_power_are_recovered_exactly_from_exact_counters(
    idle_watts: float, per_input: float, per_output: float, seed: int
) -> None:
    found = fit(windows(idle_watts=idle_watts, per_input=per_input, per_output=per_output, seed=seed))
    assert found.method == "apart"
    assert found.joules_per_input_token == pytest.approx(per_input, rel=1e-6)
    assert found.joules_per_output_token == pytest.approx(per_output, rel=1e-6)
    assert found.idle_watts == pytest.approx(idle_watts, rel=1e-6, abs=1e-4)
    assert found.r2 == pytest.approx(1.0)
    assert slope.trustworthy(found)


def test_a_noisy_sensor_costs_a_few_percent() -> None:
    found = fit(windows(noise_watts=20.0))
    assert found.joules_per_output_token == pytest.approx(0.15, rel=0.1)
    assert found.joules_per_input_token == pytest.approx(0.01, rel=0.1)
    assert found.idle_watts == pytest.approx(400.0, rel=0.05)
    assert slope.trustworthy(found)


def test_one_mix_for_all_falls_back_to_the_configured_ratio_and_keeps_the_sum() -> None:
    found = fit(windows(input_per_output=4.0))
    assert found.method == "ratio"
    assert found.joules_per_output_token == pytest.approx(10 * found.joules_per_input_token)
    assert 4.0 * found.joules_per_input_token + found.joules_per_output_token == pytest.approx(4.0 * 0.01 + 0.15)
    assert found.idle_watts == pytest.approx(400.0)
    assert slope.trustworthy(found)


def test_mixes_that_noise_hides_fall_back_as_well() -> None:
    made = [
        w._replace(input_tokens=w.input_tokens * f)
        for w, f in zip(
            windows(input_per_output=4.0, noise_watts=30.0),
            np.random.default_rng(3).uniform(0.98, 1.02, 60),
            strict=True,
        )
    ]
    assert fit(made).method == "ratio"


def test_without_a_configured_ratio_one_mix_cannot_be_told_apart_at_all() -> None:
    assert slope.fit(windows(input_per_output=4.0), (0.0, 0.0), 0.0) is None


def test_idle_power_is_per_replica_however_many_there_were() -> None:
    made = windows(seed=1) + windows(seed=2, replicas=3) + windows(seed=3, replicas=2)
    assert fit(made).idle_watts == pytest.approx(400.0)


@pytest.mark.parametrize(
    "made",
    [
        windows(count=10),
        windows(noise_watts=2000.0),
        [PowerWindow(60.0, 24_000.0 + i % 2, 1000.0 + i % 3, 500.0 + i % 5) for i in range(60)],
        windows(per_input=0.0, per_output=0.0, noise_watts=5.0),
    ],
    ids=["few windows", "noise", "steady load", "power that does not follow tokens"],
)
def test_what_the_windows_do_not_show_is_not_believed(made: list[PowerWindow]) -> None:
    found = slope.fit(made, CONFIGURED, 0.0)
    assert found is None or not slope.trustworthy(found)


def test_modelled_joules_never_stand_in_for_measured_ones() -> None:
    found = slope.fit(windows(), CONFIGURED, 0.0, label="modelled")
    assert found is not None
    assert not slope.trustworthy(found)


@pytest.mark.parametrize(
    "made",
    [
        [],
        windows(count=3),
        [PowerWindow(60.0, 1000.0, 0.0, 0.0)] * 30,
        [*windows(), PowerWindow(0.0, 1.0, 1.0, 1.0)],
        [*windows(), PowerWindow(60.0, float("nan"), 1.0, 1.0)],
    ],
)
def test_windows_that_hold_nothing_make_no_fit(made: list[PowerWindow]) -> None:
    assert slope.fit(made, CONFIGURED, 0.0) is None


@given(
    st.integers(4, 12).flatmap(
        lambda rows: st.tuples(
            st.lists(st.lists(st.floats(0, 10), min_size=3, max_size=3), min_size=rows, max_size=rows),
            st.lists(st.floats(-10, 10), min_size=rows, max_size=rows),
        )
    )
)
def test_no_corner_of_the_feasible_region_fits_better(case: tuple[list[list[float]], list[float]]) -> None:
    """Optimality by the Karush-Kuhn-Tucker conditions, and against a grid around the solution."""
    columns, target = np.array(case[0]), np.array(case[1])
    solution, residual = slope.non_negative(columns, target)
    assert (solution >= 0.0).all()
    assert residual == pytest.approx(target - columns @ solution, abs=1e-6)
    size = float(np.abs(columns).max(initial=1.0) * np.abs(target).max(initial=1.0))
    gradient = columns.T @ residual
    assert (gradient <= 1e-6 * size * len(target) + 1e-9).all()
    for step in product((-1e-3, 0.0, 1e-3), repeat=3):
        near = np.maximum(0.0, solution + np.array(step))
        assert residual @ residual <= np.sum((target - columns @ near) ** 2) + 1e-6 * size


def test_a_fit_can_be_sent() -> None:
    found = fit(windows())
    assert msgspec.json.decode(msgspec.json.encode(found), type=EnergyFit) == found
