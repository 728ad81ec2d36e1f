"""A plan as the file that an operator runs: cluster.yaml with the planned pools, and what the plan expects of them."""

from __future__ import annotations

from pydantic import ValidationError

from scheduler.config import ClusterConfig
from scheduler.config.editing import put, read, remove
from scheduler.config.expected import ExpectedSpec, Tolerances
from scheduler.config.planning import Candidate
from scheduler.config.supply import Pool
from scheduler.planning.document import Expected, Plan, PoolPlan
from scheduler.planning.pools_written import CANDIDATES, place_of, with_candidate, with_pool, without_pool
from scheduler.planning.shares import Share, shares_in, total
from scheduler.planning.technologies import PlanError, companions


def written(text: str, config: ClusterConfig, plan: Plan) -> str:
    """``text``, the YAML that ``config`` was loaded from, with the pools of ``plan`` and the section ``policy.expected``.

    What is owned, reserved and rented of a technology is a pool each (``shares``). A rented one is empty until a replica
    pays; one that is alone never is. Where replicas come and go, ``policy.commitment.mode`` is ``enforce`` unless the
    file says otherwise. Chosen candidates become pools; a pool of which nothing is left becomes a candidate of the one
    that has taken its place. Comments and order stay. Raises PlanError where the plan was made for another file.
    """
    wanted = {entry.name: entry for entry in plan.pools}
    _check_names(config, wanted)
    text = text.replace("\r\n", "\n")
    by = f"plan of {plan.made_at}"
    chosen = [c for c in config.planning.candidates if c.name in wanted and total(wanted[c.name])]
    gone = [pool for pool in config.pools if pool.name in wanted and not total(wanted[pool.name])]
    for pool in config.pools:
        if pool.name in wanted and pool not in gone:
            text = with_pool(text, config, pool, wanted[pool.name], by)
    for candidate in chosen:
        text = with_candidate(text, config, candidate, wanted[candidate.name], by)
    for pool in gone:
        text = without_pool(text, config, pool, _heir(config, pool, gone, chosen), by)
    for candidate in chosen:
        place = place_of(text, CANDIDATES, candidate.name)
        text = remove(text, (*CANDIDATES, place), f"{candidate.name} is a pool by the {by}")
    if _comes_and_goes(config, plan) and not _is_told(config):
        text = _with_enforce(text, by)
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
    found, mode = [], config.policy.commitment.mode
    is_held = mode != "enforce" and _is_told(config)
    for entry in plan.pools:
        candidate = candidates.get(entry.name)
        origin = pools.get(candidate.pool if candidate else entry.name)
        if origin is not None and total(entry):
            for share in shares_in(config, entry):
                engine_of = origin if candidate is not None else pools.get(share.pool, origin)
                found += [f"{share.pool}: {note}" for note in _pool_notes(entry, share, candidate, engine_of, is_held)]
    if is_held and _comes_and_goes(config, plan):
        found.append(
            f"replicas are rented by the hour only with policy.commitment.mode: enforce; the file says {mode}, and that stays"
        )
    if plan.expected is None:
        found.append(
            "the plan is not complete and expects nothing, so that `baseload status` cannot hold it to anything"
        )
    return tuple(found)


def _pool_notes(entry: PoolPlan, share: Share, candidate: Candidate | None, origin: Pool, is_held: bool) -> list[str]:
    """``is_held``: nothing starts or stops replicas."""
    found, (first, *rest) = [], share.kinds
    if share.kinds == ("rented",) and share.pool == entry.name:
        stays = "one rented replica stays all the time"
        if is_held and origin.engine.kind == "vllm" and share.replicas_max > 1:
            stays = f"one of up to {share.replicas_max} rented replicas runs, all the time"
        found.append(f"nothing of it is owned or reserved, so that {stays}")
    if rest:
        found.append(
            f"its engine cannot be given to a second pool, so that {' and '.join(rest)} replicas count as {first} in reports"
        )
    if origin.engine.kind == "url":
        servers, planned = len(origin.engine.urls), share.replicas_max
        if candidate is not None or servers != planned:
            found.append(f"{planned} servers are planned, engine.urls names {servers}: yours to change")
    elif origin.engine.kind == "ray-serve-llm":
        found.append("engine.llm_config says itself how many replicas it has, on which GPUs: yours to change")
    return found


def _check_names(config: ClusterConfig, wanted: dict[str, PoolPlan]) -> None:
    known = {pool.name for pool in config.pools} | {candidate.name for candidate in config.planning.candidates}
    if unknown := sorted(wanted.keys() - known):
        raise PlanError(f"the plan was made for another site file: this one knows no {', '.join(unknown)}")


def _heir(config: ClusterConfig, pool: Pool, gone: list[Pool], chosen: list[Candidate]) -> str | None:
    """The pool that serves the model of ``pool`` on its site once that is gone: first of its own candidates."""
    own, beside = [candidate.name for candidate in chosen if candidate.pool == pool.name], companions(config)
    origins = {other.name: other for other in config.pools}
    others = {name: other for name, other in origins.items() if other not in gone and name not in beside}
    others |= {candidate.name: origins[candidate.pool] for candidate in chosen}
    alike = [name for name, other in others.items() if (other.model, other.site) == (pool.model, pool.site)]
    return next(iter([*own, *alike]), None)


def _comes_and_goes(config: ClusterConfig, plan: Plan) -> bool:
    """Whether replicas are rented that could be started and stopped: engines that are ours, and more than one that stays."""
    engines = {pool.name: pool.engine.kind for pool in config.pools}
    engines |= {candidate.name: engines[candidate.pool] for candidate in config.planning.candidates}
    rented = {entry.name: entry.rented_max - (entry.owned + entry.reserved == 0) for entry in plan.pools}
    return any(engines.get(name) == "vllm" and count > 0 for name, count in rented.items())


def _is_told(config: ClusterConfig) -> bool:
    """Whether the file itself says what the mode is."""
    return "mode" in config.policy.commitment.model_fields_set


def _with_enforce(text: str, by: str) -> str:
    policy = read(text).get("policy")
    comment = f"{by}: rented replicas come and go"
    if policy is None:
        return put(text, ("policy",), {"commitment": {"mode": "enforce"}}, comment)
    if policy.get("commitment") is None:
        return put(text, ("policy", "commitment"), {"mode": "enforce"}, comment)
    return put(text, ("policy", "commitment", "mode"), "enforce", comment)


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
    if expected.requests_by_hour_of_week:
        data["requests_by_hour_of_week"] = [float(f"{value:.4g}") for value in expected.requests_by_hour_of_week]
    comment = "what the plan expects: `baseload status` holds the ledger against it"
    if "policy" not in read(text):
        return put(text, ("policy",), {"expected": data})
    return put(text, ("policy", "expected"), data, comment)
