"""What of a client's body may reach litellm, which takes addresses, keys and fallbacks from the same arguments."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, json, sys
from scheduler.config import load
from serving.routes import Route
from serving.upstreams import litellm as transport

seen = []

async def call(**fields):
    seen.append(fields)
    raise transport.litellm.BadRequestError("stop here", "m", "openai")

transport._CALLS["/v1/chat/completions"] = call

async def main():
    upstream = transport.LitellmUpstream(load(sys.argv[1]))
    route = Route("anthropic/claude-sonnet", "litellm", "claude", api_key="ours", zone="eu-cloud")
    body = {"model": "claude", "messages": [], "temperature": 0, "api_base": "http://evil", "base_url": "http://evil",
            "fallbacks": ["gpt"], "custom_llm_provider": "openai", "extra_headers": {"a": "b"}, "api_key": "theirs",
            "mock_response": "x", "timeout": 1, "num_retries": 9}
    await upstream.post("", "/v1/chat/completions", json.dumps(body).encode(), route, 5.0)
    await upstream.close()

asyncio.run(main())
print("RESULT", json.dumps(seen[0]))
"""


def test_a_client_cannot_redirect_a_litellm_source_or_add_others(pytestconfig: pytest.Config) -> None:
    root = pytestconfig.rootpath
    example = str(root / "examples" / "existing-endpoints.yaml")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, example], capture_output=True, text=True, timeout=120, cwd=root, check=True
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    assert json.loads(line.removeprefix("RESULT ")) == {
        "model": "claude",
        "messages": [],
        "temperature": 0,
        "api_key": "ours",
        "timeout": 5.0,
        "num_retries": 0,
        "max_retries": 0,
        "fallbacks": None,
    }
