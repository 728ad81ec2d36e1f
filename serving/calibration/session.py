"""A calibration from the first question to the last: may we, are we alone, warm up, prefill, decode, what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from pricing.meter import curve
from pricing.meter.curve import DecodeFit, DecodePoint, PrefillFit, PrefillPoint
from scheduler.config import ClusterConfig
from serving.calibration import plan as planning
from serving.calibration import power
from serving.calibration.ask import CalibrationError, Gateway
from serving.calibration.load import Load, Progress, Step, Tally
from serving.calibration.others import Others, look
from serving.calibration.plan import Bounds, Exhausted, Plan
from serving.calibration.power import Power, Sample

_STATE = "baseload_pool_state"
_QUIET_TRIES = 4
_QUIET_S = 1.0
_COUNTED_S = 3.0
_FOREIGN_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Given:
    """What the person asked for."""

    pool: str
    url: str
    key: str
    seconds_per_step: float
    force: bool = False
    seed: int = 0


@dataclass(slots=True)
class Measured:
    """All that was found; ``partial`` says why it is not everything, if it is not."""

    plan: Plan
    prefill_points: list[PrefillPoint] = field(default_factory=list)
    decode_points: list[tuple[int, DecodePoint]] = field(default_factory=list)
    prefill: PrefillFit | None = None
    decode: DecodeFit | None = None
    power: Power = Power(None, "not measured")  # noqa: RUF009 - immutable
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0
    output_tokens: int = 0
    foreign_tokens: int = 0
    others: int = 0
    partial: str = ""
    interrupted: bool = False


async def calibrate(
    config: ClusterConfig, given: Given, began: Callable[[Plan], Progress], warned: Callable[[str], None]
) -> Measured:
    """Measure the pool. ``began`` is told the plan before the first request, and gives who is told of progress.

    Raises CalibrationError where it cannot start. Cancelled while it measures, it returns what it has.
    """
    planning.make(config, given.pool, given.seconds_per_step)  # what the site file rules out needs no gateway
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        gateway, gauges = await _open(session, config, given)
        replicas = max(1, round(gauges.get((_STATE, "replicas"), 1.0)))
        plan = planning.make(config, given.pool, given.seconds_per_step, replicas)
        await _alone(gateway, plan, given.force, warned)
        return await _measure(config, gateway, plan, began(plan), given)


async def _open(
    session: aiohttp.ClientSession, config: ClusterConfig, given: Given
) -> tuple[Gateway, Mapping[tuple[str, str], float]]:
    """A gateway that would send such requests to the pool. Raises CalibrationError naming what is in the way."""
    plan = planning.make(config, given.pool, given.seconds_per_step)
    zone = {"x-baseload-zones": plan.zone, "x-baseload-debug": "true", "authorization": f"Bearer {given.key}"}
    question = {"model": plan.pool.model, "messages": [{"role": "user", "content": "calibration"}], "max_tokens": 2}
    asked = await Gateway(session, given.url, zone).explain(question)
    tenant = _reachable(asked, plan)
    headers = dict(zone)
    spec = next((tenant_ for tenant_ in config.tenants if tenant_.name == tenant), None)
    if spec is not None:  # the most patient class: nobody waits for these answers
        classes = [c for c in config.service_classes if c.name in spec.service_classes]
        headers["x-baseload-class"] = max(classes, key=lambda c: (c.deadline_s, c.usd_max)).name
    gateway = Gateway(session, given.url, headers)
    return gateway, await gateway.gauges(plan.pool.name)


def _reachable(asked: Mapping[str, Any], plan: Plan) -> str:
    """The tenant's name, where the pool is in the merit order. Raises CalibrationError."""
    try:
        order = [quote["offer"] for quote in asked["merit_order"]]
        rejected = {each["offer"]: each["reason"] for each in asked["rejected"]}
        tenant = str(asked["request"]["tenant"])
    except (KeyError, TypeError):
        raise CalibrationError("the gateway's /v1/explain is not what this version understands") from None
    if plan.offer in order:
        return tenant
    reason = rejected.get(plan.offer)
    if reason is None:
        raise CalibrationError(f"the gateway offers no {plan.offer}: is it running with this site file?")
    if reason.startswith("lacks ") and plan.path != "/v1/chat/completions":
        return tenant  # explain asks for a chat, which this model does not offer: it is reachable all the same
    if reason == "zone not allowed":
        raise CalibrationError(f"tenant {tenant} may not reach zone {plan.zone}, where pool {plan.pool.name} is")
    if reason in ("down", "cooling down"):
        raise CalibrationError(f"pool {plan.pool.name} is {reason}: nothing can be measured")
    raise CalibrationError(f"the gateway would not send tenant {tenant}'s requests to {plan.offer}: {reason}")


async def _alone(gateway: Gateway, plan: Plan, force: bool, warned: Callable[[str], None]) -> None:
    """Nobody else on the pool or in the gateway: the curve would be that of a busier one, and they would be in the way of
    the load. Raises CalibrationError."""
    busy = elsewhere = 0.0
    for attempt in range(_QUIET_TRIES):
        gauges = await gateway.gauges(plan.pool.name)
        busy = sum(gauges.get((_STATE, what), 0.0) for what in ("running", "waiting"))
        busy = max(busy, gauges.get((_STATE, "engine_running"), 0.0))
        elsewhere = (await look(gateway, plan.pool.name)).inflight
        if not busy and not elsewhere:
            return
        if attempt + 1 < _QUIET_TRIES:
            await asyncio.sleep(_QUIET_S)  # the gauge is a second or two behind
    who = f"pool {plan.pool.name}" if busy else "the gateway"
    text = f"{who} is serving {busy or elsewhere:.0f} other request(s)"
    if not force:
        raise CalibrationError(f"{text}: measure when it is idle, or say --force")
    warned(f"{text}; going on as asked, but they may be sent elsewhere, and the curve may be that of a busier pool")


async def _measure(config: ClusterConfig, gateway: Gateway, plan: Plan, progress: Progress, given: Given) -> Measured:
    clock = asyncio.get_running_loop().time
    began_s, every_s = clock(), config.prices.meter_every_s
    load = Load(gateway, plan, Bounds(began_s + plan.seconds_max), progress, given.seed)
    result = Measured(plan, tally=load.tally)
    before = await gateway.gauges(plan.pool.name)
    others = Others(gateway, plan.pool.name, load.tally, await look(gateway, plan.pool.name), given.force)
    load.between = others.stop_if_any
    why_not = power.unusable(before, plan.seconds_per_step, every_s)
    samples: list[Sample] = []
    follower = None if why_not else asyncio.create_task(power.follow(gateway, plan.pool.name, samples))
    try:
        if follower is not None:
            await _idle(load, plan, progress)
        await load.warm_up()
        await load.run_prefill()
        await load.run_decode()
    except Exhausted as bound:
        result.partial = str(bound)
    except asyncio.CancelledError:
        result.partial, result.interrupted = "interrupted", True
    finally:
        if follower is not None:
            follower.cancel()
    result.seconds, result.output_tokens = clock() - began_s, load.output_tokens
    result.prefill_points, result.decode_points = load.points(), load.decode
    result.prefill = curve.fit_prefill(result.prefill_points)
    result.decode = curve.fit_decode([point for _, point in load.decode])
    result.power = Power(None, why_not)
    if not why_not:
        energy = plan.pool.energy
        found = power.windows(samples, load.steps, every_s, plan.replicas)
        result.power = power.measured(found, (energy.joules_per_input_token, energy.joules_per_output_token))
    if not result.interrupted:
        result.others = await others.count(load.clients)
        result.foreign_tokens = await _foreign(gateway, plan, before, load.tally)
    return result


async def _idle(load: Load, plan: Plan, progress: Progress) -> None:
    """A stretch without load, so that idle power is measured and not only inferred."""
    clock = asyncio.get_running_loop().time
    start_s = clock()
    progress("idle power")
    await asyncio.sleep(plan.seconds_per_step)
    load.steps.append(Step("idle", start_s, clock(), 0, 0))


async def _foreign(gateway: Gateway, plan: Plan, before: Mapping[tuple[str, str], float], tally: Tally) -> int:
    """Tokens that the engine made for others meanwhile; 0 where it does not count, or within what counting late explains."""
    counter = (_STATE, "engine_generation_tokens")
    if tally.failed or counter not in before:
        return 0  # what became of requests that failed nobody knows
    await asyncio.sleep(_COUNTED_S)
    try:
        after = await gateway.gauges(plan.pool.name)
    except CalibrationError:
        return 0
    made = after.get(counter, 0.0) - before[counter]
    foreign = made - tally.output_tokens
    return round(foreign) if foreign > _FOREIGN_SHARE * max(1.0, made) else 0
