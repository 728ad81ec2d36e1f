"""``baseload calibrate`` against pools whose curve is known: it finds what was set, and refuses where it could not."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from batching_engine import Engine, batching
from running_gateway import KEY, ROOT, Running, Site, free_port, key_yaml, serving, wait_until
from running_provider import Provider, running

from pricing.meter.curve import R2_MIN
from scheduler.config import load
from scheduler.config.supply import Curve
from serving.calibration import plan as planning
from serving.calibration import words
from serving.calibration.ask import Answer, CalibrationError, Gateway
from serving.calibration.load import Load
from serving.calibration.plan import Bounds, Exhausted
from serving.calibration.session import Measured

KEY_FAR = "key-of-those-who-are-far"
BASELOAD = [sys.executable, "-c", "from serving.cli import main; main()", "calibrate"]


def near(found: float, true: float) -> bool:
    """Within a factor that a busy machine may add; what is exact is held by the tests of the fit."""
    return 0.5 < found / true < 2.5


class WithStrangers(Site):
    """The usual site, and a tenant who may not reach the pool's zone."""

    def yaml(self, directory: Path, controller_port: int) -> str:
        far = f"  - {{name: far, keys: [{key_yaml(KEY_FAR)}], zones: [east], service_classes: [interactive]}}\n"
        return super().yaml(directory, controller_port).replace("tenants:\n", "tenants:\n" + far)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Provider]]:
    """A gateway whose pool is the simulated provider: 100 ms to the first token, 100 tokens/s, whatever the load."""
    directory = tmp_path_factory.mktemp("simulated")
    with (
        running(ttft_s=0.1, tokens_per_s=100.0, output_tokens=4096) as pool,
        serving(directory, WithStrangers(pool.url)) as gateway,
    ):
        yield gateway, pool


@pytest.fixture(scope="module")
def batched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Engine]]:
    """A gateway whose pool batches: 20,000 tokens/s of prefill, ITL 6 ms + 2 ms per running sequence."""
    with batching() as engine, serving(tmp_path_factory.mktemp("batched"), Site(engine.url)) as gateway:
        yield gateway, engine


def command(gateway: Running, *options: str, key: str = KEY) -> list[str]:
    given = ["local", "--config", str(gateway.directory / "cluster.yaml"), "--url", gateway.url, "--key", key]
    return [*BASELOAD, *given, *options]


def calibrate(gateway: Running, *options: str, key: str = KEY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(gateway, *options, key=key), cwd=ROOT, capture_output=True, text=True, timeout=120)


def measured_in_peace(gateway: Running, engine: Engine) -> subprocess.CompletedProcess[str]:
    """The first of three that the machine did not disturb, as the engine's own steps tell; else the last."""
    for _ in range(3):
        engine.steps_s.clear()
        done = calibrate(gateway, "--json", "--seconds-per-step", "1")
        if done.returncode == 0 and engine.was_calm:
            break
    return done


def test_a_pool_that_batches_is_found_as_it_was_set(batched: tuple[Running, Engine]) -> None:
    gateway, engine = batched
    done = measured_in_peace(gateway, engine)
    if done.returncode:  # three times there was no time for it
        assert "no curve" in done.stderr and "short of CPU" in done.stderr
        return
    found = json.loads(done.stdout)
    fit = found["decode"]
    for point, off in zip(found["decode_points"], fit["residuals"], strict=True):
        assert point["itl_s"] > 0.8 * (
            engine.itl_base_s + engine.itl_per_seq_s * point["running"]
        )  # no sleep is shorter
        line_s = fit["itl_base_s"] + fit["itl_per_seq_s"] * point["running"]
        assert point["itl_s"] == pytest.approx(line_s * (1.0 + off))
    for point in found["prefill_points"]:
        assert point["ttft_s"] > 0.8 * point["tokens"] / engine.prefill_tokens_per_s
    if engine.was_calm:
        assert near(fit["itl_base_s"] + 4 * fit["itl_per_seq_s"], engine.itl_base_s + 4 * engine.itl_per_seq_s)
        assert near(fit["itl_per_seq_s"], engine.itl_per_seq_s)
        assert near(found["prefill"]["prefill_tokens_per_s"], engine.prefill_tokens_per_s)
    poor = any(text.startswith("POOR FIT") and "of ITL" in text for text in found["warnings"])
    assert poor == (fit["r2"] < R2_MIN and not fit["flat"])
    assert found["partial"] is None and found["requests_elsewhere"] == found["requests_failed"] == 0
    assert [point["level"] for point in found["decode_points"]] == [1, 2, 4, 8]
    curve = Curve.model_validate(yaml.safe_load(found["yaml"])["curve"])
    assert curve.model_dump() == found["curve"] | {"kv_tokens": 0}
    assert (curve.seqs_max, found["curve_before"]["prefill_tokens_per_s"]) == (8, 20000)
    assert len(set(engine.prompts)) == len(engine.prompts), "a prompt that was asked twice may be read from a cache"
    assert not any("others used the pool" in text for text in found["warnings"])


def test_tokens_that_the_engine_made_for_others_are_told(batched: tuple[Running, Engine]) -> None:
    gateway, engine = batched
    process = subprocess.Popen(
        command(gateway, "--json", "--seconds-per-step", "0.5"), cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    before = engine.generated
    wait_until(lambda: engine.generated > before, 30, "the first token")
    engine.made_for_others += 100_000
    found = json.loads(process.communicate(timeout=120)[0])
    assert any("others used the pool meanwhile" in text for text in found["warnings"])


def test_a_provider_that_is_as_fast_at_any_load_is_flat_and_has_no_prefill_rate(
    simulated: tuple[Running, Provider],
) -> None:
    done = calibrate(simulated[0], "--seconds-per-step", "0.7")
    assert done.returncode == 0, done.stderr
    [itl_ms] = re.findall(r"ITL ([\d.]+) ms at any load", done.stdout.replace("\n", " "))
    assert near(float(itl_ms), 10.0)
    curve = Curve.model_validate(
        yaml.safe_load(done.stdout[done.stdout.index("# calibrated") :].split("\n\n")[0])["curve"]
    )
    assert near(curve.ttft_base_s, 0.1)
    assert curve.prefill_tokens_per_s == 20000  # as it was: TTFT does not depend on the prompt
    assert "does not grow with the prompt" in done.stdout
    assert "modelled, not measured" in done.stdout and "energy:" not in done.stdout
    assert "Calibrating local/small" in done.stderr and "Ctrl-C" in done.stderr
    assert "may wait, or be sent elsewhere and cost money" in done.stderr and "nothing is bought" not in done.stderr


def test_ctrl_c_prints_what_was_measured_marked_partial(simulated: tuple[Running, Provider]) -> None:
    gateway, pool = simulated
    pool.call("POST", "/simulated/reset-counters")
    process = subprocess.Popen(
        command(gateway, "--json", "--seconds-per-step", "2"), cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    wait_until(lambda: pool.counters()["completed"] > 12, 60, "some prompts")
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=20)[0]
    assert process.returncode == 130
    found = json.loads(out)
    assert found["partial"] == "interrupted" and found["prefill_points"] and found["decode"] is None
    assert found["yaml"].startswith("# calibrated (partial)")
    wait_until(lambda: pool.counters()["in_flight"] == 0, what="nothing left behind")


def test_a_pool_that_serves_others_is_not_measured_unless_forced(simulated: tuple[Running, Provider]) -> None:
    gateway, _ = simulated
    with gateway.hold("small", stream=True):
        wait_until(lambda: gateway.metrics().get('baseload_pool_state{pool="local",what="running"}'), what="it runs")
        done = calibrate(gateway)
        assert (done.returncode, done.stdout) == (1, "")
        assert "is serving 1 other request(s)" in done.stderr and "--force" in done.stderr


@pytest.mark.parametrize(
    ("options", "key", "status", "said"),
    [
        ((), KEY_FAR, 1, "tenant far may not reach zone on-prem"),
        ((), "nobody's", 1, "this API key is not known here"),
        (("--url", "http://127.0.0.1:9"), KEY, 3, "is `baseload serve` running?"),
        (("--config", "missing.yaml"), KEY, 2, "missing.yaml"),
    ],
)
def test_what_stands_in_the_way_is_named_before_anything_is_sent(
    simulated: tuple[Running, Provider], options: tuple[str, ...], key: str, status: int, said: str
) -> None:
    done = calibrate(simulated[0], *options, key=key)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr


def test_a_pool_that_is_down_is_not_measured(batched: tuple[Running, Engine]) -> None:
    gateway, engine = batched
    engine.up = False
    try:
        down = {"offer": "local/small", "reason": "down"}
        wait_until(lambda: down in gateway.explain(model="small")["rejected"], what="the pool is down")
        done = calibrate(gateway)
        assert (done.returncode, done.stdout) == (1, "") and "pool local is down" in done.stderr
    finally:
        engine.up = True
        gateway.all_sources_stand_ready()


class Canned(Gateway):
    """A gateway that answers every request with the next of ``answers``, over and over."""

    def __init__(self, *answers: Answer) -> None:
        self._answers, self.asked = answers, 0

    async def stream(self, path: str, body: Any, timeout_s: float) -> Answer:
        self.asked += 1
        await asyncio.sleep(0.001)
        now_s = asyncio.get_running_loop().time()
        given = self._answers[self.asked % len(self._answers)]
        length = len(body["messages"][0]["content"].split())
        return given._replace(asked_s=now_s - 0.3, first_s=now_s - 0.2, last_s=now_s, input_tokens=length)


GOOD = Answer(0, 0, 0, "local/small", 1, 0, 21, 1e-9, 0.01)


def planned(tmp_path: Path, bounds: str = "{}", seconds_per_step: float = 0.5) -> planning.Plan:
    path = tmp_path / "cluster.yaml"
    path.write_text(Site("http://127.0.0.1:9", bounds=bounds).yaml(tmp_path, free_port()))
    return planning.make(load(path), "local", seconds_per_step)


def loaded(tmp_path: Path, gateway: Gateway, requests: int = 10_000) -> Load:
    plan = planned(tmp_path)
    return Load(gateway, plan, Bounds(time.monotonic() + 60, requests), lambda text: None, 1)


def test_answers_of_another_source_are_left_out_and_counted(tmp_path: Path) -> None:
    async def run() -> Load:
        made = loaded(tmp_path, Canned(GOOD, GOOD, GOOD._replace(offer="other/small")))
        await made.warm_up()
        await made.run_decode()
        return made

    made = asyncio.run(run())
    assert made.tally.elsewhere["other/small"] > 0
    found = Measured(made._plan, decode_points=made.decode, tally=made.tally)
    assert any(text.startswith("the pool was not alone") for text in words.warnings(found))
    assert made.tally.output_tokens == 21 * (made.tally.requests - made.tally.elsewhere.total())


def test_a_bound_on_requests_ends_the_run_and_keeps_what_was_measured(tmp_path: Path) -> None:
    async def run() -> Load:
        made = loaded(tmp_path, Canned(GOOD), requests=60)
        await made.warm_up()
        with pytest.raises(Exhausted, match="most requests"):
            await made.run_prefill()
            await made.run_decode()
        return made

    made = asyncio.run(run())
    assert made.tally.requests == 60 and made.points()


def test_a_pool_that_fails_every_request_is_given_up_with_its_words(tmp_path: Path) -> None:
    async def run() -> None:
        await loaded(tmp_path, Canned(GOOD._replace(problem="HTTP 503: no replica"))).warm_up()

    with pytest.raises(CalibrationError, match="HTTP 503: no replica"):
        asyncio.run(run())


def test_levels_double_up_to_every_slot_and_lengths_reach_from_end_to_end() -> None:
    assert planning.levels(32, 1) == (1, 2, 4, 8, 16, 32)
    assert planning.levels(100, 1)[-2:] == (64, 100)
    assert planning.levels(24, 3) == (3, 6, 12, 24)
    assert planning.levels(1, 1) == (1,)
    assert planning.lengths(1032) == (32, 232, 432, 632, 832, 1032)


def test_half_of_what_the_gateway_may_serve_at_once_is_left_to_others_and_the_plan_says_so(tmp_path: Path) -> None:
    cut, whole = planned(tmp_path, "{concurrent_max: 9}"), planned(tmp_path, "{concurrent_max: 16}")
    assert (cut.levels, whole.levels) == ((1, 2, 4), (1, 2, 4, 8))
    assert "1 to 4 requests at a time (half of concurrent_max; the pool has 8 slots)" in cut.in_words()
    assert "concurrent_max" not in whole.in_words()
    with pytest.raises(CalibrationError, match="concurrent_max is 1"):
        planned(tmp_path, "{concurrent_max: 1}")


def test_a_step_lasts_a_minute_at_most(tmp_path: Path) -> None:
    assert planned(tmp_path, seconds_per_step=60.0).seconds_per_step == 60.0
    for seconds in (60.5, float("nan")):
        with pytest.raises(CalibrationError, match="--seconds-per-step"):
            planned(tmp_path, seconds_per_step=seconds)


def test_the_run_stops_after_the_step_in_which_somebody_else_asked(simulated: tuple[Running, Provider]) -> None:
    gateway, pool = simulated
    pool.call("POST", "/simulated/reset-counters")
    asked = command(gateway, "--json", "--seconds-per-step", "1")
    process = subprocess.Popen(asked, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    wait_until(lambda: pool.counters()["completed"] > 30, 60, "some prompts")
    assert gateway.chat(model="small", max_tokens=2).status == 200
    found = json.loads(process.communicate(timeout=60)[0])
    assert found["partial"].startswith("others use the gateway (1 request(s) were not ours)")
    assert "--force" in found["partial"] and found["warnings"][0].startswith("PARTIAL: others")
    assert found["requests_of_others"] == 1 and found["prefill_points"]
    assert len(found["decode_points"]) < 4


def test_a_forced_run_that_had_company_says_so(tmp_path: Path) -> None:
    told = words.warnings(Measured(planned(tmp_path), others=3))
    assert any(text.startswith("others used the gateway meanwhile: 3 request(s)") for text in told)


def test_without_a_curve_it_says_what_is_missing_before_all_else(tmp_path: Path) -> None:
    told = words.without_curve(Measured(planned(tmp_path), others=3))
    assert told.startswith("ITL: fewer than three loads were measured, so there is no line; prefill: fewer than")
    assert "others used the gateway" in told


def test_an_answer_in_bursts_is_not_steady() -> None:
    assert GOOD._replace(first_s=1.0, last_s=2.0, gap_s_max=0.02).steady
    assert not GOOD._replace(first_s=1.0, last_s=2.0, gap_s_max=0.6).steady
