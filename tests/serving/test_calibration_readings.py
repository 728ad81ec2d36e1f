"""What ``baseload calibrate`` reads at the gateway while it runs: whether others use it, and what energy the pool took."""

from __future__ import annotations

import asyncio

import pytest

from serving.calibration import power
from serving.calibration.ask import Gateway
from serving.calibration.load import Step, Tally
from serving.calibration.others import Others, look
from serving.calibration.plan import Exhausted
from serving.calibration.power import Sample


class Scraped(Gateway):
    """A gateway that tells ``text`` as its /metrics, then the same for ever."""

    def __init__(self, *texts: str) -> None:
        self._texts, self.scrapes = texts, 0

    async def _call(self, method: str, path: str, data: bytes | None) -> bytes:
        self.scrapes += 1
        return self._texts[min(self.scrapes, len(self._texts)) - 1].encode()


def exposition(ended: int, overloaded: int, inflight: int, running: int) -> str:
    return (
        f'baseload_requests_total{{tenant="a",status="complete"}} {ended}.0\n'
        f'baseload_refused_requests_total{{code="overloaded"}} {overloaded}.0\n'
        'baseload_refused_requests_total{code="invalid_api_key"} 77.0\n'
        f"baseload_inflight_requests {inflight}.0\n"
        f'baseload_pool_state{{pool="local",what="running"}} {running}.0\n'
        'baseload_pool_state{pool="other",what="running"} 99.0\n'
    )


@pytest.mark.parametrize(
    ("later", "others"),
    [
        ([exposition(60, 0, 0, 4)], 0),  # our fifty, and the gate still tells of our four
        ([exposition(60, 0, 1, 0), exposition(60, 0, 0, 0)], 0),  # our last was not put away yet
        ([exposition(63, 0, 0, 0)], 3),
        ([exposition(58, 4, 0, 0)], 2),  # turned away because of us
        ([exposition(60, 0, 2, 0)], 2),  # still in flight
        ([exposition(60, 0, 0, 9)], 5),  # of another gateway, on the same pool
        ([exposition(61, 0, 0, 5)], 1),  # it has ended here, and the gate still tells of it
        ([exposition(0, 0, 0, 0)], 0),  # the gateway was started anew
    ],
)
def test_whoever_is_not_us_is_told_from_the_gateways_counters(later: list[str], others: int) -> None:
    async def run(force: bool) -> Others:
        gateway = Scraped(exposition(10, 0, 0, 0), *later)
        watch = Others(gateway, "local", Tally(requests=50), await look(gateway, "local"), force)
        await watch.stop_if_any(4)
        return watch

    assert asyncio.run(run(force=True)).requests == others
    if others:
        with pytest.raises(Exhausted, match=rf"\({others} request"):
            asyncio.run(run(force=False))
    else:
        asyncio.run(run(force=False))


JOULES = {(power.JOULES, "measured"): 5.0, (power.WATTS, "measured"): 100.0}


def test_power_is_used_only_where_it_was_measured_often_enough() -> None:
    assert power.unusable(JOULES, 15.0, 5.0) == ""
    assert "steps must last 15 s" in power.unusable(JOULES, 5.0, 5.0)
    assert "modelled" in power.unusable({(power.WATTS, "modelled"): 3.0}, 60.0, 5.0)
    assert "too seldom" in power.unusable(JOULES, 60.0, 30.0)
    assert "no joules" in power.unusable({(power.WATTS, "measured"): 3.0}, 60.0, 5.0)


def test_idle_power_and_slope_come_back_from_a_counter_that_moves_every_five_seconds() -> None:
    idle_watts, per_output, steps, samples, joules = 80.0, 0.05, [], [], 1000.0
    for i, tokens_per_s in enumerate((0, 500, 1000, 2000, 4000)):
        start_s = 30.0 * i
        steps.append(Step(str(i), start_s, start_s + 30.0, 0, round(30 * tokens_per_s)))
        for k in range(6):
            joules += 5.0 * (idle_watts + per_output * tokens_per_s)
            samples.append(Sample(start_s + 5.0 * (k + 1), joules))
    found = power.measured(power.windows(samples, steps, 5.0, 1), (0.001, 0.01))
    assert found.fit is not None and found.windows == 5
    assert found.fit.idle_watts == pytest.approx(idle_watts)
    assert found.fit.joules_per_output_token == pytest.approx(per_output, rel=0.01)
    assert power.measured([], (0.001, 0.01)).fit is None


def test_a_label_that_changes_and_a_counter_that_falls_or_is_away_are_gaps() -> None:
    def found(*moves: tuple[float, str]) -> int:
        samples = [Sample(10.0 + 5.0 * i, *move) for i, move in enumerate(moves)]
        return len(power.windows(samples, [Step("1", 0.0, 40.0, 0, 100)], 5.0, 1))

    measured_, calibrated, modelled = "measured", "calibrated", "modelled"
    assert found((1.0, measured_), (2.0, measured_), (3.0, measured_)) == 1
    assert found((1.0, calibrated), (2.0, calibrated), (3.0, calibrated)) == 1
    assert found((1.0, measured_), (2.0, measured_), (3.0, calibrated)) == 0
    assert found((1.0, measured_), (2.0, calibrated), (3.0, measured_)) == 0
    assert found((1.0, modelled), (2.0, modelled), (3.0, modelled)) == 0
    assert found((1.0, measured_), (0.0, ""), (3.0, measured_)) == 0
    assert found((5.0, measured_), (1.0, measured_), (9.0, measured_)) == 0


def test_the_joules_of_the_pool_are_followed_with_their_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "_POLL_S", 0.0)
    line = 'baseload_pool_joules{{label="{}",pool="local"}} {}\nbaseload_pool_joules{{label="measured",pool="b"}} 9.0\n'
    texts = [line.format(*each) for each in [("measured", 5.0), ("measured", 5.0), ("calibrated", 5.0)]]
    gateway, samples = Scraped(*texts, "", line.format("measured", 1.25e6)), list[Sample]()

    async def run() -> None:
        task = asyncio.create_task(power.follow(gateway, "local", samples))
        while len(samples) < 4:
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(asyncio.wait_for(run(), 10))
    assert [s[1:] for s in samples] == [(5.0, "measured"), (5.0, "calibrated"), (0.0, ""), (1.25e6, "measured")]
