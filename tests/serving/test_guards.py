"""Doors that must stay shut: engines without the token, offers whose place two files disagree on, streams nobody reads."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from scheduler.core.market import Market
from serving import responder as responder_module
from serving.gateway_process import only_ours
from serving.pools import environment, guarded
from serving.responder import Responder
from serving.routes import Route
from serving.view import Published
from tests.support.markets import offer


async def engine(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


def status(path: str, *headers: tuple[bytes, bytes], kind: str = "http") -> int:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": kind, "path": path, "headers": list(headers)}
    asyncio.run(guarded(engine, "secret")(scope, None, send))
    return int(sent[0].get("status") or sent[0]["code"])


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/invocations", "/tokenize", "/load", "/", "//metrics"])
def test_an_engine_answers_nobody_without_the_token(path: str) -> None:
    assert status(path) == 401
    assert status(path, (b"authorization", b"Bearer wrong")) == 401
    assert status(path, (b"authorization", b"Bearer secret")) == 200


def test_an_engine_shows_its_health_and_counters_and_takes_no_websocket() -> None:
    assert (status("/health"), status("/metrics")) == (200, 200)
    assert status("/v1/realtime", (b"authorization", b"Bearer secret"), kind="websocket") == 1008


def test_an_offer_whose_zone_this_gateway_knows_otherwise_is_not_used() -> None:
    home, moved, unknown = offer("a/m"), offer("b/m"), offer("c/m")
    table = {"a/m": Route("a/m", "http", "m", zone=home.zone), "b/m": Route("b/m", "http", "m", zone="elsewhere")}
    published = Published(Market(3, 1.0, (home, moved, unknown)), {"a": "http://gate"})
    seen = only_ours(published, table)
    assert seen.market == replace(published.market, offers=(home,))
    assert seen.gates == published.gates


def test_a_stream_whose_end_nobody_reads_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responder_module, "_LAST_WORD_S", 0.02)
    aborted: list[bool] = []

    async def never(message: Mapping[str, Any]) -> None:
        await asyncio.sleep(60)

    async def run() -> None:
        answer = Responder(never, {})
        answer.abort = lambda: aborted.append(True)
        await answer.break_stream("the source broke off")

    asyncio.run(run())
    assert aborted == [True]


def test_an_air_gapped_site_asks_no_hub_whatever_its_pools_say() -> None:
    assert environment({"HF_HUB_OFFLINE": "0"}, air_gapped=True)["HF_HUB_OFFLINE"] == "1"
    assert environment({"HF_HUB_OFFLINE": "0"})["HF_HUB_OFFLINE"] == "0"
