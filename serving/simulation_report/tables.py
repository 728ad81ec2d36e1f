"""Policies, classes and assumptions of a simulation as tables of text, for terminal and page alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from scheduler.core.supply import Offer, ServiceCurve
from scheduler.simulation.scenario import EPOCH_S
from scheduler.simulation.simulate import PolicyResult, Result
from scheduler.simulation.site import SitePool
from scheduler.simulation.tuning import SLO_MIN, TUNED, TUNING_REQUESTS
from serving.report.tables import Column, Table, left
from serving.report.words import age, count, number, percent, plain
from serving.simulation_report.outcome import best, in_time, ranked, saved_share, scales, share, usd, whole_usd

BOUND = "clairvoyant bound"
# What a threshold is a threshold of, by policy: no two are in the same unit.
_TUNED_TO = {
    "overflow-queue": "{} of ttft_s_max",
    "overflow-kv": "{} of the KV cache",
    "static-price": "{} USD/replica-s",
    "quality-threshold": "difficulty {}",
    "hpa": "{} of slots or KV cache",
}


class Given(NamedTuple):
    """What was asked for, as far as the result does not say it."""

    config: Path
    trace: Path
    mix: Path | None
    requests_max: int


def policies(result: Result) -> Table:
    """The bound, then every policy, the cheapest first."""
    columns = (
        left("policy"),
        Column("USD total"),
        *([Column("with hardware")] if scales(result) else []),
        Column("API", 2),
        Column("energy", 2),
        Column("saved %", 1),
        Column("captured %"),
        Column("SLO %"),
        Column("local %", 3),
        Column("false burst %", 4),
        left("tuned to", 5),
        left("", 6),
    )
    bound, first = result.bound, best(result)
    whole = bound.usd_all_api
    saved = share(bound.usd_saved / whole) if whole > 0.0 else "-"
    rows: list[tuple[str, ...]] = [
        (BOUND, usd(bound.usd_total), *(["-"] if scales(result) else []), usd(bound.usd_api),
         usd(bound.usd_energy), saved, "100.0", "-", share(bound.local_share), "0.0", "-", "")
    ]  # fmt: skip
    rows += [_policy(policy, result, policy is first) for policy in ranked(result)]
    paid = "cheapest with hardware first" if scales(result) else "cheapest first"
    return Table(
        f"Policies, {paid}, those that miss their objectives last; USD total is avoidable: API and energy",
        columns,
        rows,
    )


def _policy(policy: PolicyResult, result: Result, is_best: bool) -> tuple[str, ...]:
    tally = policy.tally
    tuned = _TUNED_TO[policy.name].format(number(policy.threshold)) if policy.name in TUNED else "-"
    note = "best" if is_best else "" if in_time(policy) else "misses its objectives"
    if tally.violations:
        note = f"{count(tally.violations, 'request')} left their zones"
    return (
        f"{policy.name} *" if is_best else policy.name,
        usd(tally.usd_total),
        *([usd(whole_usd(policy))] if scales(result) else []),
        usd(tally.usd_api),
        usd(tally.usd_energy),
        share(saved_share(policy, result)),
        share(policy.savings_captured),
        share(tally.slo_attainment) + ("" if tally.slo_attainment >= SLO_MIN else " !"),
        share(tally.local_share),
        share(policy.false_burst_usd_share),
        tuned,
        note,
    )


def legend(result: Result) -> str:
    """How to read the table, and the cost that it leaves out."""
    told = (
        f"*: the cheapest with at least {percent(SLO_MIN)} of requests in time. Saved: of what all-API costs "
        f"(${usd(result.bound.usd_all_api)}). Captured: of what a clairvoyant saves. False burst: of the API bill, what "
        "a clairvoyant would have served here. greedy-perfect knows how long answers will be, which nobody does. "
        "API and energy of the bound are those of a relaxed optimum, and add up to its total only nearly. "
    )
    fixed = sorted(policy.usd_fixed for policy in result.policies.values())
    if not scales(result):
        return f"{told}The hardware costs ${usd(fixed[0])} over the same time in any case, not among these USD."
    moving = [name for name, policy in result.policies.items() if policy.tally.usd_held]
    do = f"{' and '.join(moving)} {'starts and stops' if len(moving) == 1 else 'start and stop'}"
    span = f"${usd(fixed[0])}" + (f" to ${usd(fixed[-1])}" if fixed[-1] > fixed[0] else "")
    return (
        f"{told}With hardware: {span} of hardware and rent over the same time on top, as {do} replicas; "
        "others, and the bound, have all of them all the time."
    )


def classes(result: Result) -> Table:
    """Share of requests in time, by policy and class."""
    names = class_names(result)
    rows = []
    for policy in ranked(result):
        found = policy.tally.by_class
        rows.append((policy.name, *(share(found[n][0] / found[n][1]) if n in found else "-" for n in names)))
    columns = (left("policy"), *(Column(plain(name)) for name in names))
    return Table("Requests in time (first token and pace) by class, in %", columns, rows)


def class_names(result: Result) -> list[str]:
    """Every service class that somebody asked in, the most urgent first."""
    limits = {p.service_class.name: p.service_class.ttft_s_max for p in result.scenario.profiles}
    asked = {name for policy in result.policies.values() for name in policy.tally.by_class}
    return sorted(asked, key=lambda name: (limits.get(name, 0.0), name))


def assumptions(result: Result, given: Given) -> Table:
    """Everything that the figures rest on."""
    return Table("Assumptions", (left("what"), left("value")), list(_assumptions(result, given)))


def _assumptions(result: Result, given: Given) -> Iterator[tuple[str, str]]:
    scenario, settings = result.scenario, result.settings
    trace, judged, tuning = scenario.trace, scenario.judged, scenario.tuning
    yield "site file", plain(str(given.config))
    dropped = f"; {count(trace.dropped, 'failed row')} left out" if trace.dropped else ""
    yield "trace", f"{plain(str(given.trace))}: {count(trace.requests, 'request')} in {age(trace.span_s)}{dropped}"
    yield "mix", plain(str(given.mix)) if given.mix else "every tenant in equal shares, with its first class"
    yield "load", f"{number(scenario.load_factor)} × the pools' capacity, by {scenario.copies:.4g} copies of the trace"
    yield "seed", str(scenario.seed)
    yield (
        "gateways",
        f"{settings.gateways}, which see the market as a snapshot every {number(settings.snapshot_age_s)} s",
    )
    yield "judged", f"{_part(judged.start_s, judged.end_s)} of the trace's clock: {count(result.requests, 'request')}"
    told = (
        f"{_part(tuning.start_s, tuning.end_s)}, the last {TUNING_REQUESTS:,} requests of it at most; no request of it "
    )
    yield "tuned", told + f"is judged. The cheapest threshold with {percent(SLO_MIN)} in time wins"
    yield "cut", f"at {count(given.requests_max, 'request')}" if judged.end_s < trace.span_s else "no: the whole trace"
    offers = scenario.site.priced(EPOCH_S + judged.start_s).offers
    for pool in scenario.site.pools:
        yield f"pool {plain(pool.name)}", _pool(pool, offers)
    for offer in offers:
        if offer.kind == "api":
            yield (
                f"API {plain(offer.id)}",
                f"{_price(offer)}; {_latency(offer.curve)}, spread {percent(settings.api_spread)}",
            )
    yield (
        "bound",
        f"{result.bound.method}; the future known, fractional requests, fluid engines, as many late as bid-price",
    )


def _part(start_s: float, end_s: float) -> str:
    return f"{number(start_s)} s to {number(end_s)} s"


def _pool(pool: SitePool, offers: tuple[Offer, ...]) -> str:
    curve = pool.curve
    own = next(offer for offer in offers if offer.id == pool.offer_ids[0])
    told = (
        f"{count(pool.replicas_max, 'replica')}; prefill {number(curve.prefill_tokens_per_s)} tokens/s; per token "
        f"{number(1e3 * curve.itl_base_s)} ms + {number(1e3 * curve.itl_per_seq_s)} ms × running; at most "
        f"{curve.seqs_max:,} at a time; {_price(own)} of energy"
    )
    if curve.kv_tokens:
        told += f"; KV cache {curve.kv_tokens:,} tokens"
    if pool.fixed:
        told += f"; fixed ${number(pool.fixed.usd_per_hour)} per replica-hour ({plain(pool.fixed.basis)})"
    return told


def _price(offer: Offer) -> str:
    rate = offer.rate
    return f"${number(1e6 * rate.usd_per_input)}/Mtok in, ${number(1e6 * rate.usd_per_output)}/Mtok out"


def _latency(curve: ServiceCurve) -> str:
    return f"first token after {number(curve.ttft_base_s)} s, then {number(1e3 * curve.itl_base_s)} ms each"
