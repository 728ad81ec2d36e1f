"""Service curves: what made the rows is recovered, what was never measured keeps to the physics, and the public rows are
predicted by configurations that are not theirs."""

from __future__ import annotations

import csv
import doctest
import gzip
import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.simulation.curves import facts, fit, physics, rows
from scheduler.simulation.curves.curve import service_curve
from scheduler.simulation.curves.fit import Fit
from scheduler.simulation.curves.rows import Configuration, Row

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "gpu"
HEADER = (
    "id,system,backend,backend_version,model_path,precision,isl,osl,concurrency,batch_size,"
    "tp_size,attention_dp_size,moe_tp_size,moe_ep_size,ttft_ms,tpot_ms"
)
LLAMA = Configuration("h100_sxm", "vllm", "meta-llama/Llama-3.1-8B-Instruct", "bf16", 1, 1024.0, 512.0, 16.0)
MIXTURE = Configuration("h200_sxm", "sglang", "Qwen/Qwen3-235B-A22B-FP8", "fp8", 4, 1024.0, 1024.0, 32.0)
LOADS = (4.0, 8.0, 16.0, 32.0, 64.0)
LENGTHS = ((1024.0, 128.0), (1024.0, 512.0), (2048.0, 256.0), (4096.0, 1024.0))


def exact_rows(base_s: float, per_seq_s: float, per_context_s: float, rate: float, ttft_s: float) -> list[Row]:
    """A closed loop on an engine that is exactly a service curve, to the fixed point of its running sequences."""
    made = []
    for prompt, answer in LENGTHS:
        for load in LOADS:
            running = load
            for _ in range(500):
                tpot_s = base_s + running * (per_seq_s + per_context_s * (prompt + answer / 2) + prompt / answer / rate)
                first_s = ttft_s + prompt / rate * (1.0 + 0.05 * running)
                running = 0.5 * (running + load * answer * tpot_s / (answer * tpot_s + first_s))
            at = LLAMA._replace(input_tokens=prompt, output_tokens=answer, concurrency=load)
            made.append(Row(at, first_s, tpot_s))
    return made


@settings(max_examples=25, deadline=None)
@given(st.floats(2e-3, 5e-2), st.floats(1e-5, 2e-4), st.floats(0.0, 1e-7), st.floats(3e3, 1e5), st.floats(5e-3, 0.1))
def test_the_curve_that_made_the_rows_is_recovered(
    base_s: float, per_seq_s: float, per_context_s: float, rate: float, ttft_s: float
) -> None:
    found = service_curve(
        exact_rows(base_s, per_seq_s, per_context_s, rate, ttft_s), LLAMA.model, "H100", 1, "bf16", seqs_max=99
    )
    assert found.itl_base_s == pytest.approx(base_s, rel=1e-3)
    assert found.itl_per_seq_s == pytest.approx(per_seq_s + per_context_s * (1024 + 256), rel=1e-3)
    assert found.prefill_tokens_per_s == pytest.approx(rate, rel=1e-3)
    assert found.ttft_base_s == pytest.approx(ttft_s, rel=1e-2)
    assert found.seqs_max == 99


def test_rows_of_one_length_do_not_tell_prefill_from_decode() -> None:
    alike = [Row(LLAMA._replace(concurrency=load), 0.1, 0.01 + 0.0001 * load * 0.9) for load in LOADS]
    with pytest.raises(ValueError, match="tell prefill from decode"):
        service_curve(alike, LLAMA.model, "H100", 1, "bf16")
    with pytest.raises(ValueError, match="four rows"):
        service_curve(alike, LLAMA.model, "H200", 1, "bf16")


TRUE = physics.PRIOR | {"layer_us/vllm": 60.0, "utilization/vllm": 0.6, "queue/vllm": 0.2, "weights": 1.1}


def world(seed: int = 3) -> list[Row]:
    """Measurements of four models on two boards by an engine with other constants, one of which has a slow kernel."""
    chance = np.random.default_rng(seed)
    models = ("Llama-3.1-8B", "Llama-3.1-70B", "Qwen3-32B", "Qwen3-235B-A22B")
    asked = [
        Configuration(board, "vllm", model, "fp8", gpus, prompt, answer, load)
        for board in ("h100", "b200")
        for model in models
        for gpus in (4, 8)
        for prompt, answer in LENGTHS
        for load in LOADS
    ]
    state = physics.simulate(TRUE, physics.table(asked))
    slow = np.array([1.4 if c.model == "Qwen3-32B" else 1.0 for c in asked])
    noise = chance.lognormal(0.0, 0.02, (2, len(asked)))
    return [
        Row(c, float(ttft_s), float(tpot_s))
        for c, ttft_s, tpot_s in zip(asked, state.ttft_s * noise[0], state.tpot_s * noise[1] * slow, strict=True)
    ]


@cache
def fitted_world() -> tuple[Fit, list[Row]]:
    """A fit to three of the four lengths, and the rows of the fourth."""
    held = [row for row in world() if row.configuration.input_tokens == 2048.0]
    return fit.fit([row for row in world() if row.configuration.input_tokens != 2048.0]), held


def misses(fitted: Fit, held: list[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Relative errors of TTFT and TPOT."""
    ttft_s, tpot_s = fit.predict_many(fitted, [row.configuration for row in held])
    return abs(ttft_s / [row.ttft_s for row in held] - 1.0), abs(tpot_s / [row.tpot_s for row in held] - 1.0)


def test_a_length_that_was_left_out_is_predicted_and_the_slow_kernel_is_noticed() -> None:
    fitted, held = fitted_world()
    ttft, tpot = misses(fitted, held)
    assert np.median(ttft) < 0.06 and np.median(tpot) < 0.03
    slow = [row for row in held if row.configuration.model == "Qwen3-32B"]
    assert np.median(misses(fitted, slow)[1]) < 0.06


def test_a_group_that_was_never_seen_keeps_to_the_physics() -> None:
    fitted, _ = fitted_world()
    other = LLAMA._replace(backend="another", model="acme/Foo-13B", gpu="h200")
    ttft_s, tpot_s = fit.predict(fitted, other)
    state = physics.simulate(fitted.constants, physics.table([other]))
    assert tpot_s == pytest.approx(state.tpot_s[0], rel=0.5)
    assert ttft_s == pytest.approx(state.ttft_s[0], rel=0.8)
    bare = Fit(fitted.constants, {}, {}, 0)
    assert fit.predict(bare, other) == (pytest.approx(state.ttft_s[0]), pytest.approx(state.tpot_s[0]))


def test_a_fit_is_plain_data_and_predicts_the_same_after_a_journey() -> None:
    fitted, held = fitted_world()
    again = msgspec.json.decode(msgspec.json.encode(fitted), type=Fit)
    assert again == fitted
    assert fit.predict(again, held[0].configuration) == fit.predict(fitted, held[0].configuration)


def test_the_curve_of_a_fit_lies_near_the_one_of_its_rows() -> None:
    fitted, _ = fitted_world()
    of_rows = service_curve(world(), "Llama-3.1-70B", "H100", 4, "fp8")
    of_fit = service_curve(fitted, "Llama-3.1-70B", "H100", 4, "fp8")
    assert of_fit.itl_base_s == pytest.approx(of_rows.itl_base_s, rel=0.15)
    assert of_fit.itl_s(64) == pytest.approx(of_rows.itl_s(64), rel=0.15)
    assert of_fit.kv_tokens == of_rows.kv_tokens == physics.kv_tokens("Llama-3.1-70B", "h100_sxm", 4, "fp8")


@given(
    st.sampled_from([LLAMA, MIXTURE, LLAMA._replace(model="openai/gpt-oss-120b", precision="fp4", gpus=2)]),
    st.floats(64, 16_000),
    st.floats(32, 8_000),
    st.floats(1, 500),
    st.floats(1.01, 4),
)
def test_more_requests_at_a_time_make_no_token_come_sooner(
    engine: Configuration, prompt: float, answer: float, load: float, more: float
) -> None:
    at = engine._replace(input_tokens=prompt, output_tokens=answer, concurrency=load)
    state = physics.simulate(physics.PRIOR, physics.table([at, at._replace(concurrency=load * more)]))
    for seconds in (state.ttft_s, state.tpot_s):
        assert 0.0 < seconds[0] <= seconds[1] * 1.001
    assert np.all(state.running <= [load, load * more])


def test_room_for_keys_and_values_is_what_weights_and_workspace_leave() -> None:
    by_hand = (0.9 * 85.5e9 - 4e9 - 8.03e9 * 2) / (2 * 32 * 8 * 128 * 2)
    assert physics.kv_tokens("meta-llama/Llama-3.1-8B-Instruct", "h100_sxm", 1, "bf16") == int(by_hand)
    assert physics.kv_tokens("meta-llama/Llama-3.1-70B", "h100_sxm", 1, "bf16") == 0


def test_one_measurement_under_two_labels_is_one_configuration(tmp_path: Path) -> None:
    common = "b200_sxm,sglang,0.5.9,deepseek-ai/{},{},1024,1024,64"
    layouts = {
        "64,8,1,8,1": (8, 1),
        "64,64,1,8,8": (8, 1),
        "4,1,64,8,8": (8, 8),
        "16,4,4,1,16": (4, 4),
        "64,8,,1,8": (8, 1),
    }
    lines = [f"x,{common.format('DeepSeek-R1', 'fp8')},{layout},250,12.5" for layout in layouts]
    lines.append(f"x,{common.format('DeepSeek-V3', '').replace(',64', ',')},64,8,1,8,1,250,12.5")
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([HEADER, *lines]), encoding="utf-8")
    *read, last = rows.read(path)
    assert [(r.configuration.gpus, r.configuration.attention_replicas) for r in read] == list(layouts.values())
    assert read[0].configuration.whole == read[1].configuration.whole
    assert (last.configuration.concurrency, last.configuration.precision) == (64.0, "bf16")
    assert last.configuration.whole[2] == read[0].configuration.whole[2]
    assert (last.ttft_s, last.tpot_s) == (0.25, 0.0125)


def test_an_unknown_model_is_guessed_from_the_sizes_in_its_name_or_refused() -> None:
    assert facts.architecture("acme/Foo-13B").active == 13e9
    assert facts.architecture("acme/Bar-100B-A9B").active == 9e9
    for change in ({"model": "acme/foo"}, {"gpu": "tpu"}, {"precision": "int2"}):
        with pytest.raises(ValueError, match="unknown"):
            physics.table([LLAMA._replace(**change)])
    with pytest.raises(ValueError, match="one row"):
        fit.fit([])
    with pytest.raises(ValueError, match="above zero"):
        fit.fit([Row(LLAMA, 0.1, 0.0)])
    assert doctest.testmod(facts) == (0, 2)


@cache
def measured() -> list[Row]:
    """All public rows."""
    return rows.read(DATA / "e2e_ttft_tpot.csv.gz")


def folds(key: Callable[[Configuration], tuple[str, ...]], salt: str, count: int = 5) -> np.ndarray:
    """The fold of each row, by a hash of what it is held out with."""
    keys = ["|".join([salt, *key(row.configuration)]) for row in measured()]
    return np.array([int(hashlib.sha256(k.encode()).hexdigest()[:8], 16) % count for k in keys])


@pytest.mark.evaluate
@pytest.mark.parametrize(
    ("key", "salt"), [("whole", "one"), ("whole", "two"), ("whole", "three"), ("engine", "one"), ("engine", "two")]
)
def test_held_out_configurations_are_predicted_within_the_bar(key: str, salt: str) -> None:
    """Median error on H100 of at most 9 % of TPOT and 25 % of TTFT. ``engine``: model on so many GPUs never seen at all."""
    fold = folds(lambda configuration: getattr(configuration, key), salt)
    errors = np.zeros((2, len(fold)))
    for out in range(fold.max() + 1):
        fitted = fit.fit([row for row, at in zip(measured(), fold, strict=True) if at != out])
        errors[:, fold == out] = misses(fitted, [row for row, at in zip(measured(), fold, strict=True) if at == out])
    h100 = np.array([facts.board_name(row.configuration.gpu) == "h100" for row in measured()])
    ttft, tpot = np.median(errors[:, h100], axis=1)
    everywhere = np.median(errors, axis=1)
    print(f"{key} {salt}: H100 TPOT {tpot:.1%} TTFT {ttft:.1%}; all TPOT {everywhere[1]:.1%} TTFT {everywhere[0]:.1%}")
    assert h100.sum() > 500
    assert tpot <= 0.09 and ttft <= 0.25


@pytest.mark.evaluate
def test_a_full_queue_shows_the_room_that_was_computed() -> None:
    """Qwen3-32B on two H100 at 128 requests of 4096 in and 1024 out: sequences that ran, by Little's law, times context."""
    asked = Configuration("h100_sxm", "vllm", "Qwen/Qwen3-32B", "bf16", 2, 4096.0, 1024.0, 128.0, version="0.12.0")
    row = next(row for row in measured() if row.configuration == asked)
    running = 128 * 1024 * row.tpot_s / (1024 * row.tpot_s + row.ttft_s)
    assert running * (4096 + 512) == pytest.approx(physics.kv_tokens(asked.model, "h100", 2, "bf16"), rel=0.1)


@pytest.mark.evaluate
def test_two_sources_agree_on_the_curve_of_qwen3_32b() -> None:
    """aiconfigurator's vLLM rows against ML.ENERGY's line of 14.3 ms + 0.119 ms a sequence, bf16 on two H100; and the fit."""
    found = service_curve(measured(), "Qwen/Qwen3-32B", "h100", 2, "bf16")
    assert found.itl_base_s == pytest.approx(0.0143, rel=0.05)
    assert found.itl_per_seq_s == pytest.approx(0.000119, rel=0.05)
    assert found.prefill_tokens_per_s == pytest.approx(18_300, rel=0.02)
    fitted = service_curve(fit.fit(measured()), "Qwen/Qwen3-32B", "h100", 2, "bf16", version="0.12.0")
    assert fitted.itl_s(64) == pytest.approx(found.itl_s(64), rel=0.05)
    assert fitted.prefill_tokens_per_s == pytest.approx(found.prefill_tokens_per_s, rel=0.1)


@pytest.mark.evaluate
@pytest.mark.parametrize(
    ("model", "gpus", "base_ms", "per_seq_ms", "joules", "watts"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", 1, 6.2, 0.081, 0.0236, 477),
        ("Qwen/Qwen3-32B", 2, 14.3, 0.119, 0.0707, 808),
        ("meta-llama/Llama-3.1-70B-Instruct", 4, 15.3, 0.107, 0.133, 1671),
    ],
)
def test_the_documented_lines_are_those_of_ml_energy(
    model: str, gpus: int, base_ms: float, per_seq_ms: float, joules: float, watts: float
) -> None:
    with gzip.open(DATA / "mlenergy_v3_power_energy.csv.gz", "rt", encoding="utf-8") as handle:
        asked = ("lm-arena-chat", model, "H100", str(gpus))
        chosen = [r for r in csv.DictReader(handle) if (r["task"], r["model"], r["gpu"], r["num_gpus"]) == asked]
    assert {r["precision"] for r in chosen} == {"bfloat16"}
    names = ("avg_batch_size", "itl_p50_ms", "throughput_tok_s", "avg_power_w")
    running, itl_ms, tokens_per_s, power = (np.array([float(r[name]) for r in chosen]) for name in names)
    assert np.polyfit(running, itl_ms, 1) == pytest.approx([per_seq_ms, base_ms], rel=0.01)
    assert np.polyfit(tokens_per_s, power, 1) == pytest.approx([joules, watts], rel=0.01)
