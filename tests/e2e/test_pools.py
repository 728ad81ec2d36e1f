"""Every kind of pool for real: GPUs as Ray counts them, LoRA adapters, ``ray.serve.llm``, and a vLLM server by URL."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import openai
import pytest
import torch
from safetensors.torch import save_file

from tests.e2e.stack import KEY, ROOT, Stack, free_port, running, wait_until

MODEL = ROOT / "serving" / "tiny_model"
EASY = [{"role": "user", "content": "classify: I want my money back"}]
ARGS = "dtype: float32, enforce_eager: true, max_model_len: 512, max_num_seqs: 32, kv_cache_memory_bytes: 67108864"
# Three engines start in one stack, of which each alone would have as long as any other test.
READY_S = 500.0
pytestmark = pytest.mark.timeout(600)
MODELS = ("tiny-intent", "same", "loud", "relayed", "theirs")

SITE = """
version: 1
zones: [on-prem]
sites: [{{name: here, zone: on-prem, electricity: {{usd_per_kwh: 0.3}}}}]
models: [{models}]
pools:{pools}
service_classes: [{{name: interactive}}]
tenants:
  - {{name: demo, keys: [{{sha256: {key}, loopback_only: true}}], zones: [on-prem], service_classes: [interactive]}}
"""
POOL = """
  - name: {name}
    site: here
    model: {model}
    engine: {engine}
    curve: {{prefill_tokens_per_s: 20000, itl_base_s: 0.002, seqs_max: 32}}
    energy: {{joules_per_input_token: 0.0004, joules_per_output_token: 0.003, label: modelled}}"""


def site(**engines: str) -> str:
    """A site with a pool ``model_name`` for each model, served by that engine."""
    pools = [POOL.format(name=name, model=name.replace("_", "-"), engine=engine) for name, engine in engines.items()]
    models = [
        f"{{name: {name}, context_tokens: 512, quality: {{low: 0.9, medium: 0.5, high: 0.1}}}}" for name in MODELS
    ]
    key = hashlib.sha256(KEY.encode()).hexdigest()
    return SITE.format(models=", ".join(models), pools="".join(pools), key=key)


def answer(stack: Stack, model: str) -> str:
    client = openai.OpenAI(base_url=f"{stack.url}/v1", api_key=KEY, max_retries=0)
    raw = client.chat.completions.with_raw_response.create(model=model, messages=EASY, max_tokens=20)
    assert raw.headers["x-baseload-source"] == "base"
    return raw.parse().choices[0].message.content or ""


def write_adapter(directory: Path, scale: float) -> Path:
    """A LoRA adapter of the tiny model; with ``scale`` 0 it changes nothing."""
    config = json.loads((MODEL / "config.json").read_text())
    hidden, rank, seed = config["hidden_size"], 8, torch.Generator().manual_seed(1)
    kv = config["num_key_value_heads"] * config["head_dim"]
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name, width in (("q_proj", hidden), ("v_proj", kv)):
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(rank, hidden, generator=seed) * 0.1
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(width, rank, generator=seed) * scale
    directory.mkdir()
    save_file(tensors, directory / "adapter_model.safetensors")
    about = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 16, "bias": "none"}
    about |= {"target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": "tiny", "lora_dropout": 0.0}
    (directory / "adapter_config.json").write_text(json.dumps(about))
    return directory


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A vLLM server as people run it already, with a key. It comes up while the stack does."""
    port, log = free_port(), tmp_path_factory.mktemp("vllm") / "vllm.log"
    command = [str(Path(sys.executable).parent / "vllm"), "serve", str(MODEL), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager", "--max-model-len", "512"]
    command += ["--kv-cache-memory-bytes", "67108864", "--served-model-name", "theirs", "--api-key", "their-key"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("wb") as handle:
        server = subprocess.Popen(command, stdout=handle, stderr=handle, env=environment, start_new_session=True)
    try:
        yield f"http://127.0.0.1:{port}"
        assert server.poll() is None, log.read_text()[-2000:]
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


class Unfit(NamedTuple):
    """A pools process, and where its log goes."""

    process: subprocess.Popen[bytes]
    log: Path


@pytest.fixture(scope="module")
def unfit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Unfit]:
    """The pools process of a site that asks for what no node has, on a Ray of its own; it ends while others start."""
    engine = f"{{kind: vllm, path: {MODEL}, args: {{{ARGS}}}, resources: {{rented: 64}}}}"
    directory = tmp_path_factory.mktemp("unfit")
    path, log = directory / "cluster.yaml", directory / "log"
    path.write_text(site(tiny_intent=engine) + f"\ncontroller: {{port: {free_port()}}}\n")
    command = [sys.executable, "-m", "serving.process", "pools", "--config", str(path)]
    with log.open("wb") as handle:
        process = subprocess.Popen(command, stdout=handle, stderr=handle, cwd=directory)
    try:
        yield Unfit(process, log)
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, vllm: str, unfit: Unfit) -> Iterator[Stack]:
    """One stack with a pool of every kind."""
    directory = tmp_path_factory.mktemp("pools")
    same, loud = write_adapter(directory / "same", 0.0), write_adapter(directory / "loud", 1.0)
    text = site(
        tiny_intent=f"{{kind: vllm, path: {MODEL}, args: {{{ARGS}, max_loras: 2}}, "
        "gpus_per_replica: 1, resources: {rented: 1}, "
        f"adapters: [{{model: same, path: {same}}}, {{model: loud, path: {loud}}}]}}",
        relayed="{kind: ray-serve-llm, upstream_model: tiny-intent, llm_config: {"
        f"model_loading_config: {{model_id: tiny-intent, model_source: {MODEL}}}, "
        f"accelerator_config: {{kind: cpu}}, deployment_config: {{num_replicas: 1}}, engine_kwargs: {{{ARGS}}}, "
        'runtime_env: {env_vars: {OMP_NUM_THREADS: "1", HF_HUB_OFFLINE: "1", VLLM_NO_USAGE_STATS: "1"}}}}',
        theirs=f'{{kind: url, urls: ["{vllm}"], upstream_model: theirs, api_key: {{env: THEIR_KEY}}}}',
    )
    # Ray is told of a GPU and a resource that are not there: placement by them is real, the engine is the CPU build.
    # One core for the first pool, and two for ``ray.serve.llm``, which has to do with what a small machine has.
    ray = json.dumps({"CPU": 3, "GPU": 1, "rented": 1})
    with running(directory, text, READY_S, RAY_OVERRIDE_RESOURCES=ray, THEIR_KEY="their-key") as started:
        yield started


def test_adapters_of_one_engine_on_a_gpu_node_answer_by_their_own_names(stack: Stack) -> None:
    base = answer(stack, "tiny-intent")
    assert json.loads(base)["intent"] == "refund"
    assert answer(stack, "same") == base
    assert answer(stack, "loud") != base


def test_a_pool_of_ray_serve_llm_answers(stack: Stack) -> None:
    assert json.loads(answer(stack, "relayed"))["intent"] == "refund"


def test_a_vllm_server_that_runs_already_serves_as_a_pool_and_its_counters_are_read(stack: Stack) -> None:
    assert json.loads(answer(stack, "theirs"))["intent"] == "refund"

    def counted() -> bool:
        with urllib.request.urlopen(f"{stack.url}/metrics") as response:
            lines = response.read().decode().splitlines()
        name = 'baseload_pool_state{pool="theirs",what="engine_generation_tokens"}'
        return any(line.startswith(name) and float(line.rpartition(" ")[2]) > 0 for line in lines)

    wait_until(counted, 10, "the engine's own counters")


def test_a_pool_that_does_not_fit_says_what_is_missing(unfit: Unfit) -> None:
    assert unfit.process.wait(120) == 1
    assert "pools.tiny_intent: 1 replica(s) of 64 rented do not fit" in unfit.log.read_text()
