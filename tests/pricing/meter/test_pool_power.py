"""Windows from counters that live elsewhere: replicas are replaced, meters restart, gates lose sight of engines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.meter.pool_power import HORIZON_S, PoolMeter, pool_joules
from pricing.meter.readings import HostReading, Label, MeterReport, ReplicaReading

TWO = frozenset({"n1 a", "n1 b"})


class Engine:
    """A pool whose counters follow its load: 100 W idle, 0.1 J per output token, 0.02 J per input token."""

    def __init__(self, meter: PoolMeter) -> None:
        self.meter, self.at_s, self.joules, self.prompt, self.generated = meter, 0.0, 500.0, 10.0, 5.0
        self.members, self.label, self.replicas = frozenset({"n1 a"}), "measured", 1

    def run(self, seconds: float, output_per_s: float, mix: float = 2.0, step_s: float = 5.0) -> None:
        for _ in range(int(seconds / step_s)):
            self.at_s += step_s
            self.generated += output_per_s * step_s
            self.prompt += output_per_s * mix * step_s
            self.joules += (100.0 * len(self.members) + output_per_s * (0.1 + 0.02 * mix)) * step_s
            self.observe()

    def observe(self) -> None:
        self.meter.observe(
            "pool",
            self.at_s,
            self.joules,
            self.prompt,
            self.generated,
            self.members,
            self.label,  # type: ignore[arg-type]
            replicas=self.replicas,
        )


@pytest.fixture
def engine() -> Engine:
    meter = PoolMeter({"pool": (0.02, 0.1)})
    engine = Engine(meter)
    engine.observe()
    return engine


def vary(engine: Engine, minutes: int) -> None:
    for i in range(minutes):
        engine.run(60, 1000.0 * (i * 7 % 10), mix=1.0 + i % 5)


def test_an_hour_of_varying_load_yields_the_slope_and_what_was_served(engine: Engine) -> None:
    vary(engine, 60)
    found = engine.meter.fit("pool", engine.at_s)
    assert found is not None
    assert (found.joules_per_input_token, found.joules_per_output_token) == (pytest.approx(0.02), pytest.approx(0.1))
    assert (found.idle_watts, found.windows) == (pytest.approx(100.0), 60)
    served = engine.meter.served("pool", engine.at_s)
    assert served is not None
    assert served.output_tokens == pytest.approx(engine.generated - 5.0)
    assert served.input_tokens == pytest.approx(engine.prompt - 10.0)
    assert (served.seconds, served.watts_mean) == (3600.0, pytest.approx((engine.joules - 500.0) / 3600.0))


@pytest.mark.parametrize("counter", ["joules", "prompt", "generated"])
def test_a_counter_that_drops_costs_the_window_it_drops_in_and_no_other(engine: Engine, counter: str) -> None:
    engine.run(600, 1000.0)
    engine.run(30, 1000.0)
    setattr(engine, counter, 0.0)
    engine.run(600, 1000.0)
    windows = engine.meter.windows("pool", engine.at_s)
    assert len(windows) == 10 + 9
    assert {round(w.output_tokens) for w in windows} == {60_000}
    assert {round(w.joules / w.seconds) for w in windows} == {240}


def test_a_replica_more_or_less_begins_a_new_window(engine: Engine) -> None:
    engine.run(90, 1000.0)
    engine.members, engine.joules = TWO, engine.joules + 1e9  # another node's meter has been found again
    engine.run(600, 1000.0)
    windows = engine.meter.windows("pool", engine.at_s)
    assert [w.replicas for w in windows] == [1] + [2] * 9
    assert max(w.joules for w in windows) < 60 * 500


def test_an_engine_that_comes_back_into_sight_is_no_burst_of_tokens(engine: Engine) -> None:
    engine.generated = 1e12
    engine.observe()
    engine.at_s += 1
    engine.run(300, 1000.0)
    lost, engine.generated = engine.generated, 0.0
    engine.run(5, 0.0)
    engine.generated = lost
    engine.run(300, 1000.0)
    assert {round(w.output_tokens) for w in engine.meter.windows("pool", engine.at_s)} == {60_000}


def test_a_long_silence_makes_no_window(engine: Engine) -> None:
    engine.run(60, 1000.0)
    engine.at_s += 1000.0
    engine.run(60, 1000.0)
    assert len(engine.meter.windows("pool", engine.at_s)) == 1


def test_windows_are_forgotten_after_an_hour_and_never_more_than_that_are_kept(engine: Engine) -> None:
    engine.run(3 * HORIZON_S, 1000.0)
    assert len(engine.meter.windows("pool", engine.at_s)) == 60
    assert engine.meter.windows("pool", engine.at_s + HORIZON_S + 1) == []
    assert engine.meter.served("pool", engine.at_s + HORIZON_S + 1) is None
    assert engine.meter.fit("pool", engine.at_s + HORIZON_S + 1) is None


def test_a_pool_nobody_has_heard_of_has_nothing(engine: Engine) -> None:
    assert engine.meter.fit("other", 0.0) is None
    assert engine.meter.served("other", 0.0) is None


def test_a_fit_is_as_firm_as_the_weakest_window_it_is_from(engine: Engine) -> None:
    vary(engine, 20)
    engine.label = "calibrated"
    vary(engine, 5)
    found = engine.meter.fit("pool", engine.at_s)
    assert found is not None
    assert (found.label, found.windows) == ("calibrated", 25)


def test_modelled_windows_stand_in_only_while_there_are_too_few_others(engine: Engine) -> None:
    engine.label = "modelled"
    vary(engine, 25)
    few = engine.meter.fit("pool", engine.at_s)
    engine.label = "measured"
    vary(engine, 25)
    many = engine.meter.fit("pool", engine.at_s)
    assert few is not None
    assert many is not None
    assert (few.label, few.windows) == ("modelled", 25)
    assert (many.label, many.windows) == ("measured", 24)  # one window began with modelled joules


@given(
    st.lists(
        st.tuples(
            st.floats(-5, 400),
            st.floats(0, 1e6),
            st.floats(0, 1e6),
            st.floats(0, 1e6),
            st.sampled_from([frozenset(), TWO]),
        ),
        max_size=60,
    )
)
def test_whatever_is_observed_windows_are_never_negative(
    seen: list[tuple[float, float, float, float, frozenset[str]]],
) -> None:
    meter, at_s = PoolMeter({}), 0.0
    for dt_s, joules, prompt, generated, members in seen:
        at_s += dt_s
        meter.observe("pool", at_s, joules, prompt, generated, members)
    for window in meter.windows("pool", at_s):
        assert min(window) >= 0
        assert window.seconds >= 60.0


def test_where_meters_see_some_replicas_only_tokens_count_and_joules_do_not(engine: Engine) -> None:
    engine.replicas = 2
    vary(engine, 30)
    served = engine.meter.served("pool", engine.at_s)
    assert served is not None
    assert (served.watts_mean, served.label) == (None, "modelled")
    assert served.output_tokens == pytest.approx(engine.generated - 5.0)
    assert engine.meter.fit("pool", engine.at_s) is None
    assert engine.meter.coverage("pool") == (1, 2)


def test_a_window_in_which_an_engine_went_out_of_sight_has_tokens_but_no_joules(engine: Engine) -> None:
    engine.members, engine.replicas = TWO, 2
    engine.run(65, 1000.0)
    engine.run(20, 1000.0)
    engine.replicas = 1
    engine.run(5, 1000.0)
    engine.replicas = 2
    engine.run(600, 1000.0)
    windows = engine.meter.windows("pool", engine.at_s)
    assert sum(w.joules == 0.0 for w in windows) == 1
    assert {round(w.output_tokens) for w in windows} == {60_000}
    served = engine.meter.served("pool", engine.at_s)
    assert served is not None
    assert served.watts_mean == pytest.approx(340.0)


def test_windows_without_a_meter_do_not_pull_the_watts_down(engine: Engine) -> None:
    engine.run(600, 1000.0)
    metered_until_s = engine.at_s
    engine.members = frozenset()
    engine.run(1200, 1000.0)
    served = engine.meter.served("pool", engine.at_s)
    assert served is not None
    assert (served.watts_mean, served.label) == (pytest.approx(240.0), "measured")
    assert served.watts_at_s == metered_until_s


def test_a_window_is_as_firm_as_the_weakest_observation_in_it_and_not_as_its_ends(engine: Engine) -> None:
    engine.run(30, 1000.0)
    engine.label = "modelled"
    engine.run(5, 1000.0)
    engine.label = "measured"
    engine.run(25, 1000.0)
    first = engine.meter.served("pool", engine.at_s)
    engine.run(60, 1000.0)
    second = engine.meter.served("pool", engine.at_s)
    assert first is not None
    assert second is not None
    assert (first.label, second.label) == ("modelled", "measured")


def test_what_is_out_of_the_ordinary_with_the_readings_is_told_once_and_never_at_length() -> None:
    def report(node: str, problem: str, *hows: tuple[str, Label]) -> MeterReport:
        readings = tuple(ReplicaReading(f"r{i}", "p", 1.0, 0.0, label, how) for i, (how, label) in enumerate(hows))
        return MeterReport(node, 7.0, 9.0, (), HostReading(9.0, 0.0, 0, 0), readings, problem)

    found = pool_joules(
        [
            report("n1", "", ("NVML energy counter", "measured"), ("integrated power", "measured")),
            report("n2", "no driver", ("integrated power", "measured"), ("idle watts", "modelled"), ("x", "modelled")),
        ]
    )
    assert found["p"].remarks == ("integrated power", "idle watts", "no driver")


def test_a_pools_joules_are_summed_over_its_nodes_with_who_is_in_the_sum() -> None:
    def report(node: str, *replicas: tuple[str, str, float, Label]) -> MeterReport:
        readings = tuple(ReplicaReading(name, pool, joules, 0.0, label, "") for name, pool, joules, label in replicas)
        return MeterReport(node, 7.0, 9.0, (), HostReading(9.0, 0.0, 0, 0), readings)

    found = pool_joules(
        [
            report("n1", ("a", "p", 10.0, "measured"), ("b", "p", 5.0, "measured"), ("c", "q", 1.0, "measured")),
            report("n2", ("d", "p", 2.0, "modelled")),
        ]
    )
    assert found["p"][:3] == (17.0, frozenset({"n1 7.0 a", "n1 7.0 b", "n2 7.0 d"}), "modelled")
    assert found["q"].joules == 1.0
