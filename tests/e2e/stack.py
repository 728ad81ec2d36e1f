"""The embedded default as a newcomer starts it, on free ports: real vLLM under real Ray Serve, and a real load on it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from serving.ledger.store import Store
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
KEY = "local-demo"
READY_S_MAX = 240.0


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true value of ``condition``; fails the test after ``seconds``."""
    deadline_s = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline_s, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return value


@dataclass
class Answer:
    """What a client saw of one request."""

    started_s: float
    status: int = 0
    source: str = ""
    decision_id: str = ""
    complete: bool = False
    error: str = ""
    ended_s: float = 0.0


@dataclass
class Stack:
    """A running ``baseload serve``."""

    process: subprocess.Popen[bytes]
    directory: Path
    port: int
    provider_port: int
    ready_s: float

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as response:
                state = json.load(response)
                return state["down"] == [] and state["cooling"] == []
        except (OSError, ValueError):
            return False

    def at_home(self) -> bool:
        """What is easy would go to the pool: nothing is left of the crowd that the last test may have sent."""
        body = {"model": "auto", "messages": [{"role": "user", "content": "classify: my parcel has not come"}]}
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        request = urllib.request.Request(f"{self.url}/v1/explain", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                return json.load(response)["decision"].get("source") == "base"
        except (OSError, ValueError):
            return False

    def provider(self, **settings: Any) -> None:
        """Change how the simulated provider behaves."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.provider_port}/simulated/settings", json.dumps(settings).encode(), method="PUT"
        )
        urllib.request.urlopen(request, timeout=5).close()

    def provider_counters(self) -> dict[str, int]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.provider_port}/simulated/counters", timeout=5) as response:
            return json.load(response)

    def pid_of(self, pattern: str) -> int:
        """Pid of the one process of this stack whose command line matches."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                line = " ".join(child.cmdline()) or child.name()
            except psutil.Error:
                continue
            if re.search(pattern, line):
                return child.pid
        raise AssertionError(f"no process {pattern!r}")

    def kill(self, pattern: str) -> int:
        """``kill -9`` of that process."""
        pid = self.pid_of(pattern)
        os.kill(pid, signal.SIGKILL)
        return pid

    def store(self) -> Store:
        """The ledger's database, with every journal line loaded."""
        store = Store(f"sqlite:///{self.directory}/ledger.db")
        store.load(self.directory / "journal")
        return store


def embedded(directory: Path, provider_port: int) -> str:
    """The embedded cluster.yaml with the ports and paths of a test."""
    text = (ROOT / "cluster.yaml").read_text()
    text = text.replace("serving/tiny_model", str(ROOT / "serving" / "tiny_model"))
    text = text.replace("simulated: {ttft_s: 0.3,", f"simulated: {{port: {provider_port}, ttft_s: 0.1,")
    text = text.replace("budget: {usd: 5,", "budget: {usd: 5000,")  # these tests burst more than a newcomer would
    assert str(provider_port) in text and "5000" in text
    return text


@contextmanager
def running(directory: Path, text: str = "", ready_s_max: float = READY_S_MAX, **environment: str) -> Iterator[Stack]:
    """Start, wait until every source is up, stop with Ctrl-C's signal, and see that nothing is left.

    ``text``: a cluster.yaml without ledger and controller; the embedded one if empty.
    """
    provider_port, port = free_port(), free_port()
    path = directory / "cluster.yaml"
    path.write_text(
        (text or embedded(directory, provider_port)) + f"\ncontroller: {{port: {free_port()}}}\n"
        f"ledger: {{journal: {directory}/journal, url: 'sqlite:///{directory}/ledger.db'}}\n"
    )
    command = [sys.executable, "-m", "serving.cli", "serve", "--config", str(path), "--port", str(port)]
    command += ["--log-to", str(directory / "logs")]
    started_s = time.monotonic()
    with (directory / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            command, stderr=log, stdout=log, cwd=directory, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}
        )
    stack = Stack(process, directory, port, provider_port, 0.0)
    tree: list[psutil.Process] = []
    try:
        wait_until(lambda: process.poll() is not None or stack.ready(), ready_s_max, f"ready; see {directory}/logs")
        assert process.poll() is None, (directory / "serve.log").read_text()
        stack.ready_s = time.monotonic() - started_s
        yield stack
        tree = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        wait_until(lambda: not psutil.wait_procs(tree, timeout=0.1)[1], 15, "every process of the stack has ended")
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


async def ask(session: aiohttp.ClientSession, url: str, stream: bool, **body: Any) -> Answer:
    """One chat request as a careful client makes it: a stream counts as complete with its [DONE] only."""
    answer = Answer(time.monotonic())
    request = {"model": "auto", "messages": [{"role": "user", "content": "classify: my parcel has not come"}], **body}
    try:
        async with session.post(
            f"{url}/v1/chat/completions",
            json={**request, "stream": stream},
            headers={"authorization": f"Bearer {KEY}"},
            timeout=aiohttp.ClientTimeout(total=60),
        ) as response:
            answer.status = response.status
            answer.source = response.headers.get("x-baseload-source", "")
            answer.decision_id = response.headers.get("x-baseload-decision-id", "")
            payload = await response.read()
            whole = payload.endswith(b"data: [DONE]\n\n") if stream else True
            answer.complete = response.status == 200 and whole
            answer.error = "" if answer.complete else payload[-300:].decode("utf-8", "replace")
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    answer.ended_s = time.monotonic()
    return answer


def load(url: str, clients: int, seconds: float, stream: bool = True, **body: Any) -> list[Answer]:
    """``clients`` closed loops for ``seconds``; a client that fails pauses briefly before it asks again."""

    async def run() -> list[Answer]:
        answers: list[Answer] = []
        until_s = time.monotonic() + seconds

        async def client() -> None:
            while time.monotonic() < until_s:
                answer = await ask(session, url, stream, **body)
                answers.append(answer)
                if not answer.complete:
                    await asyncio.sleep(0.2)

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(client() for _ in range(clients)))
        return answers

    return asyncio.run(run())
