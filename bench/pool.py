"""A pool reached through the gateway against ``vllm serve`` alone: same model, same settings, streams over HTTP.

Two engines would share two cores, so the two are started one after the other, in turns; the figures to read are ratios.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.e2e.stack import free_port, running

_ROOT = Path(__file__).resolve().parents[1]
_TURNS = 2
_SECONDS = 8.0
_SINGLE_REQUESTS = 60
_OUTPUT_TOKENS = 64


@contextmanager
def _vllm() -> Iterator[tuple[str, str]]:
    """``vllm serve`` with the engine arguments of cluster.yaml's pool."""
    pool = yaml.safe_load((_ROOT / "cluster.yaml").read_text())["pools"][0]
    port = free_port()
    command = [str(Path(sys.executable).parent / "vllm"), "serve", str(_ROOT / pool["engine"]["path"])]
    for name, value in pool["engine"]["args"].items():
        flag = "--" + name.replace("_", "-")
        command += [flag] if value is True else [flag, str(value)]
    command += ["--served-model-name", pool["model"], "--host", "127.0.0.1", "--port", str(port)]
    command += ["--disable-uvicorn-access-log"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    )
    try:
        asyncio.run(_until_up(f"http://127.0.0.1:{port}/health"))
        yield f"http://127.0.0.1:{port}", pool["model"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@contextmanager
def _baseload() -> Iterator[tuple[str, str]]:
    with tempfile.TemporaryDirectory() as directory, running(Path(directory)) as stack:
        yield stack.url, "small"


async def _until_up(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(600):
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except (aiohttp.ClientError, OSError):
                pass
            await asyncio.sleep(0.3)
    raise TimeoutError(url)


async def _stream(session: aiohttp.ClientSession, url: str, model: str) -> tuple[float, int]:
    """One stream: seconds to its first content, and its output tokens (counted by the engine)."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "classify: my parcel has not arrived"}],
        "max_tokens": _OUTPUT_TOKENS,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, first_s, tokens = time.perf_counter(), 0.0, 0
    headers = {"authorization": "Bearer local-demo"}
    async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
        response.raise_for_status()
        async for line in response.content:
            if not first_s and b'"content":"' in line and b'"content":""' not in line:
                first_s = time.perf_counter() - began
            if b'"completion_tokens":' in line:
                tokens = int(line.partition(b'"completion_tokens":')[2].partition(b",")[0].partition(b"}")[0])
    return first_s, tokens


async def _measure(url: str, model: str) -> tuple[float, float, float]:
    """p10 and p50 of the time to first token (ms) at concurrency 1, and tokens/s at 32 streams."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for _ in range(10):
            await _stream(session, url, model)
        single = [(await _stream(session, url, model))[0] for _ in range(_SINGLE_REQUESTS)]
        until, total = time.perf_counter() + _SECONDS, 0
        began = time.perf_counter()

        async def client() -> None:
            nonlocal total
            while time.perf_counter() < until:
                tokens = (await _stream(session, url, model))[1]
                total += tokens  # not `total += await ...`: that reads the sum before the wait

        await asyncio.gather(*(client() for _ in range(32)))
        single.sort()
        return single[len(single) // 10] * 1e3, statistics.median(single) * 1e3, total / (time.perf_counter() - began)


def run() -> dict[str, dict[str, float]]:
    """Medians over the turns, and their ratio."""
    seen: dict[str, list[tuple[float, float, float]]] = {"vllm serve": [], "through the gateway": []}
    for _ in range(_TURNS):
        for name, start in (("vllm serve", _vllm), ("through the gateway", _baseload)):
            with start() as (url, model):
                seen[name].append(asyncio.run(_measure(url, model)))
    figures = ("ttft_p10_ms", "ttft_p50_ms", "tokens_per_s_32_streams")
    rows = {
        name: {figure: statistics.median(turn[i] for turn in turns) for i, figure in enumerate(figures)}
        for name, turns in seen.items()
    }
    alone, through = rows["vllm serve"], rows["through the gateway"]
    rows["added (ms) / ratio"] = {
        figure: through[figure] - alone[figure] if figure.startswith("ttft") else through[figure] / alone[figure]
        for figure in figures
    }
    return rows
