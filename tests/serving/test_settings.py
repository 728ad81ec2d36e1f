"""What cluster.yaml says of prices and gates is what the core and the gates' processes go by."""

from __future__ import annotations

from typing import Any

from scheduler.config import ClusterConfig
from scheduler.core.market import Policy
from serving.gate.server import GateServer
from serving.settings import core_policy, ttft_limits
from tests.support.sites import CURVE, pool, site


def config(gate: dict[str, Any] | None = None, **policy: Any) -> ClusterConfig:
    rows = [pool("own", gate=gate or {}, curve=CURVE | {"kv_tokens": 9_000})]
    classes = [{"name": "interactive", "ttft_s_max": 2.0}, {"name": "batch", "ttft_s_max": 60.0}]
    classes.append({"name": "also", "ttft_s_max": 2.0})
    return ClusterConfig.model_validate(site(pools=rows, service_classes=classes, policy=policy))


def test_defaults_of_the_site_file_are_those_of_the_core() -> None:
    assert core_policy(config()) == Policy()
    assert config().pools[0].gate.holds
    assert config().pools[0].gate.waiting_max == 1024
    assert config().pools[0].start_s == 120.0
    assert config().policy.bid_every_s == 15.0


def test_margins_and_prefilter_reach_the_core() -> None:
    policy = core_policy(config(ttft_margin=0.5, grant_ahead_s=0.0, bid_prefilter=1.0))
    assert (policy.ttft_margin, policy.grant_ahead_s, policy.bid_prefilter) == (0.5, 0.0, 1.0)


def test_a_gate_has_a_line_for_every_objective_and_the_engines_bounds() -> None:
    site_file = config({"waiting_max": 3, "holds": False})
    assert ttft_limits(site_file) == (2.0, 60.0)
    state = GateServer(site_file, site_file.pools[0], "token").state
    assert [line.ttft_s_max for line in state.pool.lines] == [2.0, 60.0]
    lane = state.pool.lanes["own-0"]
    assert (lane.slots, lane.kv_tokens, state.holds) == (CURVE["seqs_max"], 9_000, False)
