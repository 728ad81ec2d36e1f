"""Processes are killed under light load: the service comes back by itself, and what it wrote down stays true."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil
import pytest
from running_gateway import Running, Site, alive, free_port, provider_yaml, reset, serving, simulated, wait_until
from running_market import SLOW
from running_provider import Provider, running


@dataclass
class Parts:
    """The gateway, its pool and its provider."""

    gateway: Running
    pool: Provider
    east: Provider


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    port = free_port()
    with running() as pool:
        site = Site(pool.url, [provider_yaml("east", "east", 1, simulated(port))])
        with serving(tmp_path_factory.mktemp("supervision"), site) as gateway:
            yield Parts(gateway, pool, Provider(f"http://127.0.0.1:{port}"))
            assert gateway.errors() == []


@pytest.fixture
def here(shared: Parts) -> Parts:
    reset(shared.pool, shared.east)
    wait_until(lambda: shared.gateway.call("GET", "/readyz").status == 200, 30, "ready")
    shared.gateway.all_sources_stand_ready()
    return shared


@dataclass
class Load:
    """A few clients that ask without pause; what they got."""

    gateway: Running
    model: str
    complete: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def _ask(self) -> None:
        while not self._stop.wait(0.01):
            stream = len(self.complete) % 2 == 0
            try:
                reply = self.gateway.chat(model=self.model, stream=stream)
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
                self._stop.wait(0.05)
                continue
            whole = reply.body.endswith(b"data: [DONE]\n\n") if stream else reply.body.endswith(b"}")
            if reply.status == 200 and whole:
                self.complete.append(reply.headers["x-baseload-decision-id"])
            else:
                self.failed.append(f"{reply.status} {reply.body[-300:]!r}")

    def more(self, answers: int, seconds: float = 30.0) -> None:
        """Wait for so many further complete answers."""
        before = len(self.complete)
        wait_until(lambda: len(self.complete) >= before + answers, seconds, f"{answers} more answers")


@contextmanager
def load(gateway: Running, model: str) -> Iterator[Load]:
    clients = Load(gateway, model)
    threads = [threading.Thread(target=clients._ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        clients.more(10)
        yield clients
    finally:
        clients._stop.set()
        for thread in threads:
            thread.join(40)


@contextmanager
def slow_stream(gateway: Running, model: str) -> Iterator[tuple[socket.socket, str]]:
    """A stream that has begun and will not end; and its decision's id."""
    with gateway.hold(model, stream=True) as connection:
        answer = b""
        while b"\r\n\r\n" not in answer:
            chunk = connection.recv(65536)
            assert chunk, answer
            answer += chunk
        match = re.search(rb"x-baseload-decision-id: (\w+)", answer)
        assert match, answer
        yield connection, match[1].decode()


def kill(gateway: Running, role: str) -> None:
    """SIGKILL the process of ``role``, then wait for the one that takes its place."""
    old = gateway.child(role)
    assert old is not None
    old.kill()
    wait_until(lambda: (new := gateway.child(role)) is not None and new.pid != old.pid, what=f"another {role}")


def assert_each_has_one_row(gateway: Running, clients: Load) -> None:
    assert len(clients.complete) == len(set(clients.complete))
    with gateway.ledger() as store:
        for request_id in clients.complete:
            row = wait_until(lambda i=request_id: store.decision(i), what="loaded")
            if row["status"] == "open":  # the begin is loaded, the end a moment later
                row = wait_until(lambda i=request_id: (r := store.decision(i)) and r["status"] != "open" and r)
            assert row["status"] == "complete"


def test_a_killed_gateway_comes_back_and_what_it_left_open_is_marked(here: Parts) -> None:
    assert here.east.change(**SLOW).status == 200
    with slow_stream(here.gateway, "frontier") as (connection, open_id):
        with load(here.gateway, "small") as clients:
            kill(here.gateway, "gateway")
            clients.more(30)
        while connection.recv(65536):
            pass  # what had come before; then the end, without [DONE]
    assert here.east.counters_when(lambda counters: counters["in_flight"] == 0)["cancelled"] == 1
    with here.gateway.ledger() as store:
        row = wait_until(lambda: (r := store.decision(open_id)) and r["status"] != "open" and r, 15, "marked")
        assert (row["status"], row["ended_s"]) == ("interrupted", None)
        assert row["usd_avoidable"] > 0
    assert_each_has_one_row(here.gateway, clients)


def test_without_a_controller_requests_go_on_being_served(here: Parts) -> None:
    with load(here.gateway, "small") as local, load(here.gateway, "frontier") as bought:
        for _ in range(2):
            kill(here.gateway, "controller")
            local.more(20)
            bought.more(20)
        wait_until(lambda: here.gateway.call("GET", "/readyz").json["status"] == "ready")
        local.more(5)
    assert (local.failed, bought.failed) == ([], [])
    assert_each_has_one_row(here.gateway, local)
    assert_each_has_one_row(here.gateway, bought)


def test_a_controller_that_hangs_holds_nobody_up(here: Parts) -> None:
    controller = here.gateway.child("controller")
    assert controller is not None
    with load(here.gateway, "small") as local, load(here.gateway, "frontier") as bought:
        controller.suspend()
        try:
            time.sleep(1.5)
            local.more(20)
            bought.more(20)
        finally:
            controller.resume()
    assert (local.failed, bought.failed) == ([], [])


def test_a_killed_gate_loses_neither_streams_nor_those_who_wait(here: Parts) -> None:
    here.pool.change(**SLOW)
    with slow_stream(here.gateway, "small") as (connection, _):
        here.pool.change(tokens_per_s=100_000, output_tokens=8)
        with load(here.gateway, "small") as clients:
            kill(here.gateway, "gate")
            clients.more(20)
        assert connection.recv(65536)  # it went straight from the engine all the time
        wait_until(lambda: pool_running(here.gateway) == 1, what="the new gate knows who is being served")
    wait_until(lambda: pool_running(here.gateway) == 0, what="and who has gone")
    assert clients.failed == []
    assert_each_has_one_row(here.gateway, clients)


def pool_running(gateway: Running) -> float:
    return gateway.metrics()['baseload_pool_state{pool="local",what="running"}']


def test_a_killed_simulated_provider_comes_back(here: Parts) -> None:
    kill(here.gateway, "simulated")
    wait_until(lambda: here.gateway.chat().status == 200, 20, "served again")


@pytest.mark.parametrize("ready", [True, False])
def test_a_killed_supervisor_leaves_no_process_behind(tmp_path_factory: pytest.TempPathFactory, ready: bool) -> None:
    with running() as pool:
        site = Site(pool.url, [provider_yaml("east", "east", 1, simulated(free_port()))])
        with serving(tmp_path_factory.mktemp("orphans"), site, ready) as gateway:
            wait_until(lambda: len(gateway.children()) == 6, what="started")
            children: list[psutil.Process] = gateway.children()
            os.kill(gateway.process.pid, signal.SIGKILL)
            gateway.process.wait(10)
            wait_until(lambda: not alive(children), 10, "all gone")
