"""A plan as the file that an operator runs: cluster.yaml with the planned pools, and what the plan expects of them."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from scheduler.config import ClusterConfig
from scheduler.config.editing import insert, put, read, remove
from scheduler.config.expected import ExpectedSpec, Tolerances
from scheduler.config.planning import Candidate
from scheduler.config.supply import Pool
from scheduler.planning.document import Expected, Plan, PoolPlan
from scheduler.planning.technologies import PlanError

_CANDIDATES = ("planning", "candidates")


def written(text: str, config: ClusterConfig, plan: Plan) -> str:
    """``text``, the YAML that ``config`` was loaded from, with the pools of ``plan`` and the section ``policy.expected``.

    A pool has its owned and reserved replicas at least and the rented ones on top, as far as a pool can: it is never empty.
    Chosen candidates become pools; a pool of which nothing is left becomes a candidate of the one that has taken its place.
    Comments and order stay. Raises PlanError where the plan was made for another file.
    """
    wanted = {entry.name: entry for entry in plan.pools}
    _check_names(config, wanted)
    text = text.replace("\r\n", "\n")
    by = f"plan of {plan.made_at}"
    chosen = [c for c in config.planning.candidates if c.name in wanted and _total(wanted[c.name])]
    gone = [pool for pool in config.pools if pool.name in wanted and not _total(wanted[pool.name])]
    for pool in config.pools:
        if pool.name in wanted and pool not in gone:
            text = _resized(text, pool, wanted[pool.name], by)
    for candidate in chosen:
        text = _with_pool(text, candidate, wanted[candidate.name], by)
    for pool in gone:
        text = _without_pool(text, config, pool, _heir(config, pool, gone, chosen), by)
    for candidate in chosen:
        place = _place(text, _CANDIDATES, candidate.name)
        text = remove(text, (*_CANDIDATES, place), f"{candidate.name} is a pool by the {by}")
    if plan.expected is not None:
        text = _with_expected(text, config, plan, plan.expected)
    elif config.policy.expected is not None:
        text = put(text, ("policy", "expected"), None, f"the {by} expects nothing: what was here was of other pools")
    try:
        ClusterConfig.model_validate(read(text))
    except ValidationError as error:
        raise PlanError(f"the plan does not make a usable site file: {error}") from error
    return text


def notes(config: ClusterConfig, plan: Plan) -> tuple[str, ...]:
    """What ``written`` cannot do and the operator has to, or has to know; each without a full stop."""
    pools, candidates = {p.name: p for p in config.pools}, {c.name: c for c in config.planning.candidates}
    found = []
    for entry in plan.pools:
        candidate = candidates.get(entry.name)
        origin = pools.get(candidate.pool if candidate else entry.name)
        if origin is not None and _total(entry):
            found += [f"{entry.name}: {note}" for note in _pool_notes(entry, candidate, origin)]
    if config.policy.commitment.mode != "enforce" and any(entry.rented_max for entry in plan.pools):
        found.append("replicas are rented by the hour only with policy.commitment.mode: enforce; it is left as it is")
    if plan.expected is None:
        found.append(
            "the plan is not complete and expects nothing, so that `baseload status` cannot hold it to anything"
        )
    return tuple(found)


def _pool_notes(entry: PoolPlan, candidate: Candidate | None, origin: Pool) -> list[str]:
    found, base = [], entry.owned + entry.reserved
    # As _pool_of prices it; a pool that is there keeps what it has.
    is_owned = bool(entry.owned) and not entry.rented_max if candidate is not None else origin.hardware is not None
    if not base:
        found.append("a pool is never empty, so that one replica stays all the time")
    if candidate is None and origin.rental is None and entry.rented_max:
        kept = "keeps its hardware and gets no rental: rented replicas count as owned ones in reports"
        found.append(
            f"the pool {kept if is_owned else 'gets no rental: reports do not count what rented replicas cost'}"
        )
    elif base and entry.rented_max:
        found.append("some replicas are rented, so that reports count all of them at the rent")
    if is_owned and entry.reserved:
        found.append("its reserved replicas count as owned ones in reports")
    if origin.engine.kind == "url":
        servers = len(origin.engine.urls)
        if candidate is not None or servers != base + entry.rented_max:
            planned = base + entry.rented_max
            found.append(f"{planned} servers are planned, engine.urls names {servers}: yours to change")
    elif origin.engine.kind == "ray-serve-llm":
        found.append("engine.llm_config says itself how many replicas it has, on which GPUs: yours to change")
    return found


def _check_names(config: ClusterConfig, wanted: dict[str, PoolPlan]) -> None:
    known = {pool.name for pool in config.pools} | {candidate.name for candidate in config.planning.candidates}
    if unknown := sorted(wanted.keys() - known):
        raise PlanError(f"the plan was made for another site file: this one knows no {', '.join(unknown)}")


def _total(entry: PoolPlan) -> int:
    return entry.owned + entry.reserved + entry.rented_max


def _bounds(entry: PoolPlan) -> dict[str, int]:
    return {"min": max(1, entry.owned + entry.reserved), "max": max(1, _total(entry))}


def _in_words(entry: PoolPlan) -> str:
    parts = [f"{entry.owned} owned"] if entry.owned else []
    parts += [f"{entry.reserved} reserved"] if entry.reserved else []
    parts += [f"up to {entry.rented_max} rented"] if entry.rented_max else []
    return ", ".join(parts)


def _resized(text: str, pool: Pool, entry: PoolPlan, by: str) -> str:
    before, bounds = pool.replicas, _bounds(entry)
    if bounds == {"min": before.min, "max": before.max}:
        return text
    comment = f"{by}: {_in_words(entry)}; before: {before.min} to {before.max}"
    return put(text, ("pools", _place(text, ("pools",), pool.name), "replicas"), bounds, comment)


def _with_pool(text: str, candidate: Candidate, entry: PoolPlan, by: str) -> str:
    """The candidate as a pool behind the one whose model it serves."""
    at, place = _place(text, ("pools",), candidate.pool), _place(text, _CANDIDATES, candidate.name)
    data = read(text)
    made = _pool_of(data["planning"]["candidates"][place], data["pools"][at], entry)
    return insert(text, ("pools", at + 1), made, f"{by}: {_in_words(entry)}")


def _pool_of(candidate: dict[str, Any], origin: dict[str, Any], entry: PoolPlan) -> dict[str, Any]:
    """Data of a pool: the origin's in its order, with what the candidate says of GPUs and prices."""
    made = {key: value for key, value in origin.items() if key not in ("hardware", "rental")}
    made |= {"name": entry.name, "replicas": _bounds(entry), "curve": candidate["curve"], "energy": candidate["energy"]}
    engine = origin["engine"]
    if engine["kind"] == "vllm":
        arguments = {**engine.get("args", {}), **candidate.get("engine_args", {})}
        made["engine"] = {**engine, "args": arguments, "gpus_per_replica": candidate["gpus_per_replica"]}
    if entry.rented_max and "rental" in candidate:
        return {**made, "rental": candidate["rental"]}
    if entry.owned and "hardware" in candidate:
        return {**made, "hardware": candidate["hardware"]}
    if "reserved_usd_per_hour" not in candidate:
        raise PlanError(f"{entry.name}: the plan has {_in_words(entry)}, the site file gives no price for that")
    told = candidate.get("hardware") or candidate.get("rental") or {}
    rental = {"gpu": entry.gpu, "usd_per_hour": candidate["reserved_usd_per_hour"]}
    rental |= {key: told[key] for key in ("gpu_count", "idle_watts") if key in told}
    return {**made, "rental": rental}


def _heir(config: ClusterConfig, pool: Pool, gone: list[Pool], chosen: list[Candidate]) -> str | None:
    """The pool that serves the model of ``pool`` on its site once that is gone: first of its own candidates."""
    own = [candidate.name for candidate in chosen if candidate.pool == pool.name]
    origins = {other.name: other for other in config.pools}
    others = {other.name: other for other in config.pools if other not in gone}
    others |= {candidate.name: origins[candidate.pool] for candidate in chosen}
    alike = [name for name, other in others.items() if (other.model, other.site) == (pool.model, pool.site)]
    return next(iter([*own, *alike]), None)


def _without_pool(text: str, config: ClusterConfig, pool: Pool, heir: str | None, by: str) -> str:
    for candidate in config.planning.candidates:
        if candidate.pool != pool.name or (place := _found(text, _CANDIDATES, candidate.name)) is None:
            continue
        if heir is not None:
            text = put(text, (*_CANDIDATES, place, "pool"), heir)
        else:
            text = remove(text, (*_CANDIDATES, place), f"{candidate.name}: there is no pool {pool.name} by the {by}")
    for place in reversed([i for i, offer in enumerate(_cloud(text)) if offer["pool"] == pool.name]):
        text = remove(text, ("planning", "cloud", place), f"of {pool.name}, which is no pool by the {by}")
    at = _place(text, ("pools",), pool.name)
    if heir is not None and (pool.hardware or pool.rental):
        text = _with_candidate(text, _candidate_of(read(text)["pools"][at], heir), by)
    return remove(text, ("pools", at), f"{by}: none of {pool.name}")


def _cloud(text: str) -> list[dict[str, Any]]:
    return (read(text).get("planning") or {}).get("cloud") or []


def _candidate_of(data: dict[str, Any], heir: str) -> dict[str, Any]:
    made = {"name": data["name"], "pool": heir, "gpus_per_replica": data["engine"].get("gpus_per_replica") or 1}
    made |= {key: data[key] for key in ("curve", "energy", "hardware", "rental") if key in data}
    if data["engine"].get("args"):
        made["engine_args"] = data["engine"]["args"]
    return made


def _with_candidate(text: str, made: dict[str, Any], by: str) -> str:
    planning = read(text).get("planning")
    if planning is None:
        return put(text, ("planning",), {"candidates": [made]})
    if not planning.get("candidates"):
        return put(text, _CANDIDATES, [made])
    return insert(text, (*_CANDIDATES, len(planning["candidates"])), made, f"was a pool before the {by}")


def _with_expected(text: str, config: ClusterConfig, plan: Plan, expected: Expected) -> str:
    before = config.policy.expected
    spec = ExpectedSpec(
        plan_made_at=plan.made_at,
        usd_per_hour=expected.usd_per_hour,
        usd_api_per_hour=expected.usd_api_per_hour,
        usd_energy_per_hour=expected.usd_energy_per_hour,
        requests_per_hour=expected.requests_per_hour,
        burst_share=expected.burst_share,
        slo_attainment=expected.slo_attainment,
        input_tokens_mean=expected.input_tokens_mean,
        output_tokens_mean=expected.output_tokens_mean,
        api_usd_per_mtok=expected.api_usd_per_mtok,
        trace_hours=max(1e-3, plan.trace.span_s / 3600.0),
        tolerances=before.tolerances if before is not None else Tolerances(),
    )
    data = spec.model_dump(exclude={"requests_by_hour_of_week"})
    data = {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in data.items()}
    comment = "what the plan expects: `baseload status` holds the ledger against it"
    if "policy" not in read(text):
        return put(text, ("policy",), {"expected": data})
    return put(text, ("policy", "expected"), data, comment)


def _place(text: str, path: tuple[str, ...], name: str) -> int:
    place = _found(text, path, name)
    if place is None:
        raise PlanError(f"{'.'.join(path)}: there is no {name}")
    return place


def _found(text: str, path: tuple[str, ...], name: str) -> int | None:
    data = read(text)
    for part in path:
        data = data[part]
    return next((i for i, item in enumerate(data) if item["name"] == name), None)
