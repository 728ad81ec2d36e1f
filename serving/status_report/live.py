"""What the running gateway and its controller say of this moment. Nobody answering is no error: the ledger says the rest."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from scheduler.config import ClusterConfig
from serving import control
from serving.report.tables import Column, Table, left
from serving.report.words import NONE, count, listed, number, plain

_TIMEOUT_S = 3.0
_ANSWER_BYTES_MAX = 16 * 1024 * 1024


class PoolNow(msgspec.Struct, frozen=True):
    """A pool as the gateway sees it. None: not told. ``work_ratio``: seconds its engines need over those of their curve."""

    pool: str
    replicas: int | None = None
    desired: int | None = None
    slots: int | None = None
    running: int | None = None
    waiting: int | None = None
    bid_usd_per_replica_hour: float | None = None
    work_ratio: float | None = None
    note: str = ""


class Live(msgspec.Struct, frozen=True):
    """``problem``: why less is known than could be, '' where all is. ``market_version`` None: nobody answers."""

    url: str
    market_version: int | None = None
    ready: bool = False
    problem: str = ""
    up: tuple[str, ...] = ()
    down: tuple[str, ...] = ()
    cooling: tuple[str, ...] = ()
    pools: tuple[PoolNow, ...] = ()
    commitment_mode: str = ""

    @property
    def work_ratios(self) -> dict[str, float]:
        """By pool, where its gate has told."""
        return {now.pool: now.work_ratio for now in self.pools if now.work_ratio is not None}


def look(url: str, config: ClusterConfig) -> Live:
    """Ask the gateway at ``url``, else the controller of ``config``. Raises nothing for what does not answer."""
    try:
        state = json.loads(_get(f"{url}/readyz"))
        metrics = _samples(_get(f"{url}/metrics").decode("utf-8", "replace"))
        commitment = _commitment(config)
        return _of_gateway(url, state, metrics, commitment)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, http.client.HTTPException) as error:
        problem = f"no gateway answers at {url} ({_reason(error)})"
    controller = control.url(config)
    try:
        state = json.loads(_get(f"{controller}/healthz"))
        pools = tuple(PoolNow(str(name)) for name in state["pools"])
        problem += f"; the controller at {controller} does"
        return Live(url, int(state["market_version"]), False, problem, pools=pools)
    except (OSError, ValueError, TypeError, KeyError, http.client.HTTPException):
        return Live(url, problem=f"{problem}, no controller at {controller}")


def _get(address: str, token: str = "") -> bytes:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(address, headers=headers)  # noqa: S310 - the user's own URL
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310
            return bytes(response.read(_ANSWER_BYTES_MAX))
    except urllib.error.HTTPError as error:
        if error.code != 503:  # a gateway that is not ready says why
            raise
        return bytes(error.read(_ANSWER_BYTES_MAX))


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return plain(str(getattr(reason, "strerror", None) or reason), 120)


def _samples(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Gauges that are shown, by name and then by the values of their labels."""
    names = ("baseload_pool_state", "baseload_bid_usd_per_replica_second", "baseload_commitment_desired_replicas")
    found: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in names}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in found:
                labels = tuple(sample.labels[key] for key in ("pool", "what") if key in sample.labels)
                found[sample.name][labels] = float(sample.value)
    return found


def _commitment(config: ClusterConfig) -> Mapping[str, Any]:
    """The controller's own report, which it gives only to whoever has the run's token."""
    token = os.environ.get(control.TOKEN_ENV, "")
    if not token:
        return {}
    try:
        answer = json.loads(_get(f"{control.url(config)}/commitment", token))
    except (OSError, ValueError, http.client.HTTPException):
        return {}
    return answer if isinstance(answer, dict) else {}


def _of_gateway(
    url: str,
    state: Mapping[str, Any],
    metrics: Mapping[str, Mapping[tuple[str, ...], float]],
    commitment: Mapping[str, Any],
) -> Live:
    states, bids = metrics["baseload_pool_state"], metrics["baseload_bid_usd_per_replica_second"]
    desired = metrics["baseload_commitment_desired_replicas"]
    names = sorted({labels[0] for samples in (states, bids, desired) for labels in samples})
    planned = {str(row["pool"]): row for row in commitment.get("pools", ())}

    def whole(value: float | None) -> int | None:
        return None if value is None else int(value)

    pools = tuple(
        PoolNow(
            name,
            desired=whole(desired.get((name,))),
            bid_usd_per_replica_hour=None if (name,) not in bids else bids[(name,)] * 3600.0,
            work_ratio=states.get((name, "work_ratio")),
            note=str(planned.get(name, {}).get("note", "")),
            **{what: whole(states.get((name, what))) for what in ("replicas", "slots", "running", "waiting")},
        )
        for name in names
    )
    up, down, cooling = (tuple(str(name) for name in state[key]) for key in ("up", "down", "cooling"))
    problem, mode = "; ".join(str(each) for each in state["problems"]), str(commitment.get("mode", ""))
    is_ready = state["status"] == "ready"
    return Live(url, int(state["market_version"]), is_ready, problem, up, down, cooling, pools, mode)


def sentence(live: Live) -> str:
    """The state of the gateway in a sentence or two."""
    if live.market_version is None:
        return f"Nothing is known of this moment: {live.problem}."
    told = f"Market version {live.market_version:,}"
    if not live.ready:
        return f"{told}; not ready: {live.problem}."
    told += f", {count(len(live.up), 'offer')} up"
    told += f", down: {listed(live.down)}" if live.down else ""
    return told + (f", cooling down: {listed(live.cooling)}." if live.cooling else ".")


def table(live: Live) -> Table:
    """Pools of this moment."""
    columns = (
        left("pool"), Column("replicas"), Column("wanted"), Column("slots", 2), Column("running"), Column("waiting"),
        Column("bid USD/replica-h", 1), Column("work ratio", 1), left("note", 3, aside=True),
    )  # fmt: skip
    rows = [
        (
            plain(now.pool), *(_whole(value) for value in (now.replicas, now.desired, now.slots, now.running, now.waiting)),
            number(now.bid_usd_per_replica_hour), number(now.work_ratio), plain(now.note),
        )
        for now in live.pools
    ]  # fmt: skip
    title = "Pools now" + (f" (replicas: {live.commitment_mode})" if live.commitment_mode else "")
    return Table(title, columns, rows)


def _whole(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"
