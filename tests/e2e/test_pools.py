"""Every kind of pool for real: GPUs as Ray counts them, LoRA adapters, ``ray.serve.llm``, and a vLLM server by URL."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import openai
import pytest
import torch
from safetensors.torch import save_file

from tests.e2e.stack import KEY, ROOT, Stack, free_port, running, wait_until

MODEL = ROOT / "serving" / "tiny_model"
EASY = [{"role": "user", "content": "classify: I want my money back"}]
ARGS = "dtype: float32, enforce_eager: true, max_model_len: 512, max_num_seqs: 32, kv_cache_memory_bytes: 67108864"

SITE = """
version: 1
zones: [on-prem]
sites: [{{name: here, zone: on-prem, electricity: {{usd_per_kwh: 0.3}}}}]
models:
  - {{name: tiny-intent, context_tokens: 512, quality: {{low: 0.9, medium: 0.5, high: 0.1}}}}
  - {{name: same, context_tokens: 512, quality: {{low: 0.8, medium: 0.5, high: 0.1}}}}
  - {{name: loud, context_tokens: 512, quality: {{low: 0.7, medium: 0.5, high: 0.1}}}}
pools:
  - name: tiny
    site: here
    model: tiny-intent
    engine: {engine}
    curve: {{prefill_tokens_per_s: 20000, itl_base_s: 0.002, seqs_max: 32}}
    energy: {{joules_per_input_token: 0.0004, joules_per_output_token: 0.003, label: modelled}}
service_classes: [{{name: interactive}}]
tenants:
  - {{name: demo, keys: [{{sha256: {key}, loopback_only: true}}], zones: [on-prem], service_classes: [interactive]}}
"""


def site(engine: str) -> str:
    return SITE.format(engine=engine, key=hashlib.sha256(KEY.encode()).hexdigest())


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


def test_adapters_of_one_engine_on_a_gpu_node_answer_by_their_own_names(tmp_path: Path) -> None:
    same, loud = write_adapter(tmp_path / "same", 0.0), write_adapter(tmp_path / "loud", 1.0)
    engine = (
        f"{{kind: vllm, path: {MODEL}, args: {{{ARGS}, max_loras: 2}}, gpus_per_replica: 1, "
        f"adapters: [{{model: same, path: {same}}}, {{model: loud, path: {loud}}}]}}"
    )
    # Ray is told of a GPU that is not there: placement by num_gpus is real, the engine is the CPU build.
    with running(tmp_path, site(engine), RAY_OVERRIDE_RESOURCES=json.dumps({"CPU": 2, "GPU": 1})) as stack:
        base = answer(stack, "tiny-intent")
        assert json.loads(base)["intent"] == "refund"
        assert answer(stack, "same") == base
        assert answer(stack, "loud") != base


def test_a_pool_that_does_not_fit_says_what_is_missing(tmp_path: Path) -> None:
    engine = f"{{kind: vllm, path: {MODEL}, args: {{{ARGS}}}, gpus_per_replica: 64}}"
    text = site(engine) + f"\ncontroller: {{port: {free_port()}}}\n"
    (tmp_path / "cluster.yaml").write_text(text)
    command = [sys.executable, "-m", "serving.process", "pools", "--config", str(tmp_path / "cluster.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 1
    assert "pools.tiny: 1 replica(s) of 64 GPU do not fit" in done.stderr


def test_a_pool_of_ray_serve_llm_answers(tmp_path: Path) -> None:
    engine = (
        "{kind: ray-serve-llm, upstream_model: tiny-intent, llm_config: {"
        f"model_loading_config: {{model_id: tiny-intent, model_source: {MODEL}}}, "
        f"accelerator_config: {{kind: cpu}}, deployment_config: {{num_replicas: 1}}, engine_kwargs: {{{ARGS}}}, "
        'runtime_env: {env_vars: {OMP_NUM_THREADS: "1", HF_HUB_OFFLINE: "1", VLLM_NO_USAGE_STATS: "1"}}}}'
    )
    with running(tmp_path, site(engine)) as stack:
        assert json.loads(answer(stack, "tiny-intent"))["intent"] == "refund"


@pytest.fixture
def vllm_url(tmp_path: Path) -> str:
    """A vLLM server as people run it already, with a key."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "vllm"), "serve", str(MODEL), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager", "--max-model-len", "512"]
    command += ["--kv-cache-memory-bytes", "67108864", "--served-model-name", "theirs", "--api-key", "their-key"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with (tmp_path / "vllm.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    url = f"http://127.0.0.1:{port}"

    def up() -> bool:
        assert server.poll() is None, (tmp_path / "vllm.log").read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2) as response:
                return response.status == 200
        except OSError:
            return False

    try:
        wait_until(up, 180, "vllm serve is up")
        yield url
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def test_a_vllm_server_that_runs_already_serves_as_a_pool_and_its_counters_are_read(
    tmp_path: Path, vllm_url: str
) -> None:
    engine = f'{{kind: url, urls: ["{vllm_url}"], upstream_model: theirs, api_key: {{env: THEIR_KEY}}}}'
    with running(tmp_path, site(engine), THEIR_KEY="their-key") as stack:
        assert json.loads(answer(stack, "tiny-intent"))["intent"] == "refund"

        def counted() -> bool:
            with urllib.request.urlopen(f"{stack.url}/metrics") as response:
                lines = response.read().decode().splitlines()
            name = 'baseload_pool_state{pool="tiny",what="engine_generation_tokens"}'
            return any(line.startswith(name) and float(line.rpartition(" ")[2]) > 0 for line in lines)

        wait_until(counted, 10, "the engine's own counters")
