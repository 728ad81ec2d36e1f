"""The whole product as an operator starts it, ``baseload serve``, around simulated sources; and ways to talk to it."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psutil
from running_provider import QUICK, Provider, Reply

from serving.ledger.records import Begin, End, Record, decode
from serving.ledger.segments import list_segments
from serving.ledger.store import Store
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
KEY = "key-of-the-team"
KEY_POOR = "key-of-the-poor"
KEY_HOME = "key-of-the-home"
READY_S_MAX = 60.0
STOP_S_MAX = 30.0

ABILITIES = "[chat, completions, embeddings, tools, response_format, logprobs]"


def key_yaml(key: str) -> str:
    return "{sha256: " + hashlib.sha256(key.encode()).hexdigest() + "}"


def wait_until(condition: Callable[[], Any], seconds: float = 10.0, what: str = "") -> Any:
    """The first true value of ``condition``, asked again and again; fails the test after ``seconds``."""
    deadline_s = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline_s, f"not within {seconds} s: {what or condition}"
        time.sleep(0.02)
    return value


@dataclass
class Site:
    """What a cluster.yaml of these tests may vary: sources are added as YAML, the rest is the same for all."""

    pool_url: str = ""
    providers: Sequence[str] = ()
    bounds: str = "{}"
    policy: Mapping[str, Any] = field(default_factory=dict)
    budget_usd: float = 0.001
    more: str = ""  # further sections

    def yaml(self, directory: Path, controller_port: int) -> str:
        pool = _POOL.format(url=self.pool_url) if self.pool_url else "[]"
        policy = {"clearing_s": 0.2, "breaker_base_s": 0.05, "breaker_max_s": 0.2, **self.policy}
        return _SITE.format(
            abilities=ABILITIES,
            pool=pool,
            providers="".join(self.providers) or " []",
            team=key_yaml(KEY),
            poor=key_yaml(KEY_POOR),
            home=key_yaml(KEY_HOME),
            budget_usd=self.budget_usd,
            policy="".join(f"\n  {name}: {value}" for name, value in policy.items()),
            bounds=self.bounds,
            journal=directory / "journal",
            database=directory / "ledger.db",
            port=controller_port,
            more=self.more,
        )


_POOL = """
  - name: local
    site: here
    model: small
    engine: {{kind: url, urls: ["{url}"], upstream_model: simulated-frontier}}
    curve: {{prefill_tokens_per_s: 20000, itl_base_s: 0.0001, itl_per_seq_s: 0, seqs_max: 8, ttft_base_s: 0.001}}
    energy: {{joules_per_input_token: 0.0004, joules_per_output_token: 0.003, label: modelled}}
    gate: {{waiting_max: 64, hold_s_max: 30}}"""

_SITE = """
version: 1
zones: [on-prem, east, west]
sites:
  - {{name: here, zone: on-prem, electricity: {{usd_per_kwh: 0.30, pue: 1.2}}}}
models:
  - {{name: small, context_tokens: 4096, abilities: {abilities}, quality: {{low: 0.98, medium: 0.9, high: 0.5}}}}
  - {{name: frontier, context_tokens: 200000, abilities: {abilities}, quality: {{low: 0.99, medium: 0.97, high: 0.9}}}}
  - {{name: frail, context_tokens: 200000, abilities: {abilities}, quality: {{low: 0.99, medium: 0.97, high: 0.9}}}}
  - {{name: taped, context_tokens: 200000, abilities: {abilities}, quality: {{low: 0.99, medium: 0.97, high: 0.9}}}}
aliases:
  - {{name: fast, models: [small, frontier]}}
pools: {pool}
providers:{providers}
service_classes:
  - {{name: interactive, ttft_s_max: 5, usd_max: 0.50, deadline_s: 30}}
  - {{name: hasty, ttft_s_max: 0.05, usd_max: 0.50, deadline_s: 2.0}}
labels:
  - {{name: restricted, zones: [on-prem]}}
  - {{name: public, zones: any}}
tenants:
  - {{name: team, keys: [{team}], zones: [on-prem, east, west], service_classes: [interactive, hasty], sees_costs: true}}
  - {{name: home, keys: [{home}], zones: [on-prem], service_classes: [interactive]}}
  - name: poor
    keys: [{poor}]
    zones: [on-prem, east, west]
    service_classes: [interactive]
    budget: {{usd: {budget_usd}, per: month}}
policy:{policy}
  bounds: {bounds}
ledger: {{journal: "{journal}", url: "sqlite:///{database}"}}
controller: {{port: {port}}}
{more}
"""


def provider_yaml(
    name: str,
    zone: str,
    usd_per_mtok: float,
    how: str,
    models: Sequence[str] = ("frontier",),
    upstream: str = "simulated-frontier",
) -> str:
    """A provider; ``how`` is its kind and address as YAML fields. Input and output cost the same."""
    price = f"{{input: {usd_per_mtok}, output: {usd_per_mtok}}}"
    curve = "{prefill_tokens_per_s: 100000, itl_base_s: 0.0001, ttft_base_s: 0.01}"
    served = "".join(
        f"\n      - {{model: {model}, upstream: {upstream}, price: {price}, curve: {curve}}}" for model in models
    )
    return f"\n  - name: {name}\n    zone: {zone}\n    {how}\n    models:{served}"


def simulated(port: int) -> str:
    """``how`` of a provider that ``baseload serve`` starts itself, quick from the start."""
    return f"kind: simulated\n    simulated: {{port: {port}, ttft_s: 0, tokens_per_s: 100000}}"


@dataclass
class Running:
    """A running ``baseload serve``."""

    port: int
    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, key: str = KEY
    ) -> Reply:
        """One request on a connection of its own; ``body`` is JSON unless it is bytes."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"authorization": f"Bearer {key}"} if key else {}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path, data, sent | dict(headers or {}))
            answer = connection.getresponse()
            return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())

    def chat(
        self,
        content: str = "hello",
        headers: Mapping[str, str] | None = None,
        key: str = KEY,
        path: str = "/v1/chat/completions",
        **fields: Any,
    ) -> Reply:
        body = {"model": "frontier", "messages": [{"role": "user", "content": content}], **fields}
        return self.call("POST", path, body, headers, key)

    def raw(self, data: bytes, half_close: bool = False, seconds: float = 10.0) -> bytes:
        """Everything that comes back for ``data`` on a bare socket until the gateway closes it or ``seconds`` pass."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            answer = b""
            try:
                connection.sendall(data)
                if half_close:
                    connection.shutdown(socket.SHUT_WR)
                while chunk := connection.recv(65536):
                    answer += chunk
            except (ConnectionError, TimeoutError):
                pass
            return answer

    def hold(self, model: str, stream: bool, times: int = 1) -> socket.socket:
        """A connection on which ``times`` questions were sent; the caller decides what becomes of it."""
        body = json.dumps({"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}]})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode() * times)
        return connection

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics, by its name with labels."""
        lines = [line for line in self.call("GET", "/metrics").body.decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def records(self) -> list[Record]:
        """The journal as it is now; a line still being written is left out."""
        lines: list[bytes] = []
        for segment in list_segments(self.directory / "journal"):
            lines += [line for line in segment.path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        return [decode(line) for line in lines]

    def ends(self, request_id: str) -> list[End]:
        return [r for r in self.records() if isinstance(r, End) and r.id == request_id]

    def begun(self) -> list[Begin]:
        return [r for r in self.records() if isinstance(r, Begin)]

    @contextmanager
    def ledger(self) -> Iterator[Store]:
        """The ledger's database, about a second behind the journal."""
        with closing(Store(f"sqlite:///{self.directory}/ledger.db")) as store:
            yield store

    def explain(self, **fields: Any) -> dict[str, Any]:
        return dict(self.chat(path="/v1/explain", **fields).json)

    def all_sources_stand_ready(self, model: str = "auto") -> None:
        """Wait until no source is down or cooling down."""
        wait_until(
            lambda: not [r for r in self.explain(model=model)["rejected"] if r["reason"] in ("down", "cooling down")],
            what="every source ready",
        )

    def children(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def child(self, role: str) -> psutil.Process | None:
        """The process of ``role`` (controller, gate, gateway, simulated), or None while there is none."""
        for process in self.children():
            try:
                if [role] == process.cmdline()[3:4]:
                    return process
            except psutil.Error:
                continue
        return None

    def log(self) -> str:
        paths = sorted((self.directory / "logs").glob("*.log*"))
        return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')}" for path in paths)

    def errors(self) -> list[str]:
        """Lines of the processes' logs that speak of an exception nobody expected."""
        return re.findall(r".*(?:Traceback|Exception in ASGI|\"level\":\"(?:error|critical)\").*", self.log())


def _is_ready(running: Running) -> bool:
    assert running.process.poll() is None, "baseload serve has ended:\n" + running.log()
    try:
        return running.call("GET", "/readyz").status == 200
    except OSError:
        return False


def alive(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that still run (a zombie does not)."""
    result = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                result.append(process)
        except psutil.NoSuchProcess:
            continue
    return result


@contextmanager
def serving(
    directory: Path, site: Site, ready: bool = True, environment: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """``baseload serve`` for ``site``, ready; at the end stopped by SIGTERM: exit status 0, no process left."""
    config = directory / "cluster.yaml"
    config.write_text(site.yaml(directory, free_port()))
    port = free_port()
    command = [sys.executable, "-c", "from serving.cli import main; main()", "serve", "--config", str(config)]
    command += ["--port", str(port), "--log-to", str(directory / "logs")]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("BASELOAD_")}
    with (directory / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env={**variables, **(environment or {})}, stdout=log, stderr=log)
    running = Running(port, directory, process)
    family: list[psutil.Process] = []
    try:
        if ready:
            wait_until(lambda: _is_ready(running), READY_S_MAX, "ready")
        yield running
        if process.poll() is None:
            family = running.children()
            process.send_signal(signal.SIGTERM)
            assert process.wait(STOP_S_MAX) == 0, (directory / "serve.log").read_text()
            assert not alive(family), "processes were left behind"
    finally:
        for each in alive(family or running.children()):
            each.kill()
        if process.poll() is None:
            process.kill()
        process.wait(STOP_S_MAX)


def reset(*providers: Provider) -> None:
    """Simulated providers as new: quick, whole, counting from zero."""
    for provider in providers:
        plain = {"outage": "", "cut_after_tokens": 0, "error_rate": 0.0, "slow_factor": 1.0}
        limits = {"concurrency_max": 0, "requests_per_min_max": 0}
        assert provider.change(**QUICK, **plain, **limits).status == 200
        provider.call("POST", "/simulated/reset-counters")


def events_of(body: bytes) -> list[Any]:
    """The events of a stream; [DONE] as text."""
    lines = [line.removeprefix("data: ") for line in body.decode().split("\n\n") if line]
    return [line if line == "[DONE]" else msgspec.json.decode(line) for line in lines]
