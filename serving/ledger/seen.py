"""What a span of the ledger comes to, hour by hour, for ``scheduler.planning.drift``. Summed by the database."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, RowMapping, and_, case, func, inspect, or_, select

from scheduler.config import ClusterConfig
from scheduler.planning.seen import HOUR_S, Pace, Seen
from serving.ledger.schema import INTERRUPTED, requests
from serving.ledger.store import Store

_SPAN_S_MAX = 53 * 7 * 86_400.0
_ANY_PACE_S = 1e9  # where a class has no objective for it
_NO_RATIOS: Mapping[str, float] = {}

_COMPLETE = requests.c.status == "complete"
_BOUGHT = and_(_COMPLETE, requests.c.source == "api")
_HERE = requests.c.source.in_(("base", "spot"))
# A plain answer comes as a whole: when its first token was there nobody knows.
_TIMED = and_(_COMPLETE, requests.c.stream, requests.c.ttft_s.is_not(None))
# What a client got wrong is no miss of ours.
_MISSED = or_(
    requests.c.status == INTERRUPTED,
    and_(requests.c.status.in_(("failed", "unserved")), requests.c.http_status >= 500),
)


def seen(
    store: Store, config: ClusterConfig, since_s: float, until_s: float, work_ratios: Mapping[str, float] = _NO_RATIOS
) -> Seen | None:
    """Requests begun in [since_s, until_s), the last 53 weeks at most, from the ledger's first on; None without any.

    Money of a request that was served here is energy, failed attempts elsewhere included. Raises StoreError.
    """
    since_s = max(since_s, until_s - _SPAN_S_MAX)
    within = and_(requests.c.at_s >= since_s, requests.c.at_s < until_s)
    query = select(requests.c.hour_s, *_sums(config)).where(within).group_by(requests.c.hour_s)
    with store.reading() as connection:
        first_s = connection.execute(select(func.min(requests.c.at_s))).scalar()
        rows = connection.execute(query.order_by(requests.c.hour_s)).mappings().all()
        paces = connection.execute(_paces(within)).mappings().all()
    if not rows or first_s is None:
        return None
    since_s = max(since_s, float(first_s))
    begin_s = math.floor(since_s / HOUR_S) * HOUR_S
    start_s = np.arange(begin_s, until_s, HOUR_S, dtype=np.float64)
    share = (np.minimum(start_s + HOUR_S, until_s) - np.maximum(start_s, since_s)) / HOUR_S
    names = [str(column.name) for column in _sums(config)]
    columns = {name: _column(rows, name, begin_s, len(start_s)) for name in names}
    return Seen(start_s, share, **columns, paces=_paced(config, paces, begin_s, len(start_s)), work_ratios=work_ratios)


def is_there(store: Store) -> bool:
    """Whether the database holds a ledger; asking does not make a file. Raises StoreError."""
    file = store.engine.url.database
    if store.dialect == "sqlite" and (not file or not Path(file).exists()):
        return False
    with store.reading() as connection:
        return inspect(connection).has_table(requests.name)


def _sums(config: ClusterConfig) -> list[Any]:
    """The columns of ``Seen`` as sums over an hour."""
    judged, in_time = _objectives(config)
    tokens = requests.c.input_tokens + requests.c.output_tokens
    sums = {
        "requests": _count(requests.c.id.is_not(None)),
        "served": _count(_COMPLETE),
        "bought": _count(_BOUGHT),
        "judged": _count(judged),
        "in_time": _count(in_time),
        "input_tokens": _sum(_COMPLETE, requests.c.input_tokens),
        "output_tokens": _sum(_COMPLETE, requests.c.output_tokens),
        "api_tokens": _sum(_BOUGHT, tokens),
        "usd_api": func.sum(case((_HERE, 0.0), else_=requests.c.usd_avoidable)),
        "usd_energy": _sum(_HERE, requests.c.usd_avoidable),
    }
    return [column.label(name) for name, column in sums.items()]


def _objectives(config: ClusterConfig) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Requests of which can be told whether they met the objectives of their class, and those that did."""
    classes = {spec.name: spec for spec in config.service_classes}
    ttft_s = case({name: spec.ttft_s_max for name, spec in classes.items()}, value=requests.c.service_class)
    pace_s = case(
        {name: spec.tpot_s_max or _ANY_PACE_S for name, spec in classes.items()}, value=requests.c.service_class
    )
    decode_s = requests.c.duration_s - requests.c.ttft_s
    in_time = and_(
        _TIMED,
        requests.c.ttft_s <= ttft_s,
        or_(requests.c.output_tokens < 2, decode_s <= pace_s * (requests.c.output_tokens - 1)),
    )
    return and_(requests.c.service_class.in_(classes), or_(_TIMED, _MISSED)), in_time


def _paces(within: ColumnElement[bool]) -> Any:
    decode_s, tokens = requests.c.duration_s - requests.c.ttft_s, requests.c.output_tokens - 1
    told = and_(within, _TIMED, _HERE, requests.c.output_tokens >= 2)
    columns = (requests.c.hour_s, requests.c.offer_id)
    return (
        select(*columns, func.sum(decode_s).label("decode_s"), func.sum(tokens).label("tokens"))
        .where(told)
        .group_by(*columns)
    )


def _paced(config: ClusterConfig, rows: Sequence[RowMapping], begin_s: float, hours: int) -> tuple[Pace, ...]:
    found = []
    for pool in config.pools:
        own = [row for row in rows if row["offer_id"].partition("/")[0] == pool.name]
        if own:
            curve = pool.curve
            most_s = curve.itl_base_s + curve.itl_per_seq_s * curve.seqs_max
            columns = (_column(own, "decode_s", begin_s, hours), _column(own, "tokens", begin_s, hours))
            found.append(Pace(pool.name, curve.itl_base_s + curve.itl_per_seq_s, most_s, *columns))
    return tuple(found)


def _count(condition: ColumnElement[bool]) -> ColumnElement[Any]:
    return func.sum(case((condition, 1), else_=0))


def _sum(condition: ColumnElement[bool], value: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.sum(case((condition, value), else_=0))


def _column(rows: Sequence[RowMapping], name: str, begin_s: float, hours: int) -> np.ndarray:
    """Sums by hour from ``begin_s`` on, 0 where there is no row. PostgreSQL sums integers to Decimal."""
    column = np.zeros(hours)
    for row in rows:
        column[round((float(row["hour_s"]) - begin_s) / HOUR_S)] += float(row[name])
    return column
