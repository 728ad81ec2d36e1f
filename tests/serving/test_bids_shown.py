"""What people see of bid prices: /v1/explain, `baseload explain`, and the metrics."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scheduler.core import admission
from scheduler.core.capacity import BidCurve, Level
from serving import metrics
from serving.accounting import Accountant
from serving.commands import explain as command
from serving.status import Status
from tests.support import virtual_time
from tests.support.dispatch_cases import ANSWER
from tests.support.fake_sources import Plan
from tests.support.gates import steep
from tests.support.local_town import CLOUD, POOL, TTFT_S, LocalTown

PLAIN = Plan("answer", parts=(ANSWER,), whole=ANSWER)
CURVE = BidCurve((0.0, 10.0), (0.0, -0.02))  # two thousandths of a USD a second


def explained(levels: tuple[Level, ...]) -> tuple[dict[str, Any], float]:
    """/v1/explain of a pool with these lines, and the pool's work for the request."""

    async def run() -> tuple[dict[str, Any], float]:
        town = LocalTown({POOL: [PLAIN], CLOUD: [PLAIN]}, levels=levels)
        made = await town.explain()
        await town.ask()
        return made, town.gate.asked[0].work_s

    return virtual_time.run(run())


def quote_of(made: dict[str, Any], offer: str) -> dict[str, Any]:
    return dict(next(quote for quote in made["merit_order"] if quote["offer"] == offer))


def test_explain_shows_the_wait_and_the_full_price_of_a_pools_time() -> None:
    made, work_s = explained((Level(TTFT_S, 0.25, CURVE), Level(5.0, 0.5, None)))
    quote = quote_of(made, POOL)
    bid = quote["bid"]
    assert bid["wait_s"] == pytest.approx(0.25, abs=0.01)
    assert bid["usd_per_replica_s"] == pytest.approx(0.002)
    assert bid["price_usd"] == pytest.approx(0.002 * work_s)
    assert quote["terms"]["scarcity"] == pytest.approx(0.6 * bid["price_usd"])
    assert bid["solved_s_ago"] == pytest.approx(3.0, abs=0.01)
    assert sum(quote["terms"].values()) == pytest.approx(quote["usd"])
    assert quote_of(made, CLOUD)["bid"] is None
    assert "scarcity" not in quote_of(made, CLOUD)["terms"]


def test_explain_says_so_where_nothing_is_scarce() -> None:
    quote = quote_of(explained((Level(TTFT_S, 0.0), Level(5.0, 0.0)))[0], POOL)
    assert quote["terms"]["scarcity"] == quote["bid"]["price_usd"] == quote["bid"]["usd_per_replica_s"] == 0.0


def test_the_command_puts_the_bid_into_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    made, _ = explained((Level(TTFT_S, 0.25, CURVE),))
    command._show(json.loads(json.dumps(made)))
    lines = [line for line in capsys.readouterr().out.splitlines() if "in line" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"{POOL}: about 0.25 s in line; its time costs $0.002000 a replica-second, $0.0")
    assert lines[0].endswith("for this request (solved 3 s ago).")
    unsolved = {"wait_s": 0.0, "price_usd": 0.0, "usd_per_replica_s": 0.0, "solved_s_ago": None}
    assert command._bid_in_words(POOL, unsolved) == f"{POOL}: about 0.00 s in line; its time has no price yet."


def test_bounces_are_counted_by_pool_and_reason_and_the_price_is_a_gauge() -> None:
    async def run() -> bytes:
        town = LocalTown({POOL: [PLAIN], CLOUD: [PLAIN]}, levels=(Level(TTFT_S, 0.25, CURVE),))
        town.gate.state.set_bids(steep(1000.0, ttft_s_max=TTFT_S))
        await town.ask()
        return Status(town.view, Accountant(town.journal, town.view, "g")).exposition()  # type: ignore[arg-type]

    counted = metrics.bounce_counter("own", admission.WORTH_LESS)
    before = counted._value.get()
    shown = virtual_time.run(run()).decode()
    assert counted._value.get() == before + 1
    assert f'baseload_gate_bounces_total{{pool="own",reason="{admission.WORTH_LESS}"}} {before + 1}' in shown
    assert 'baseload_bid_usd_per_replica_second{pool="own"} 0.00' in shown
    assert "baseload_bid_solve_seconds 0.02" in shown
