"""The sentence below each figure, computed from the data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scheduler.simulation.simulate import SHIPPED, Regret, Result
from scheduler.simulation.tuning import SLO_MIN
from serving.report.words import count, listed, number, percent
from serving.simulation_report.outcome import REFERENCES, in_time, ranked, scales, share, shown, usd
from serving.simulation_report.timeline import Bins, Spend, Work


def of_costs(result: Result, is_cut: bool) -> str:
    """The cheapest policy beside the bound."""
    bound = result.bound.usd_total
    by_avoidable = sorted(ranked(result), key=lambda p: (not in_time(p), p.tally.usd_total))
    first = by_avoidable[0] if in_time(by_avoidable[0]) else None
    cut = " A bar with a gap goes on beyond the figure." if is_cut else ""
    if first is None:
        return f"No policy met its objectives; a clairvoyant would pay ${usd(bound)}.{cut}"
    over = first.tally.usd_total - bound
    told = (
        f"{'In API and energy ' if scales(result) else ''}{first.name} is the cheapest that meets its objectives and pays "
        f"${usd(max(0.0, over))} more than the least "
    )
    told += f"that anybody could (${usd(bound)})"
    others = [p for p in by_avoidable[1:] if p.name not in REFERENCES]
    if others:
        told += f"; the next, {others[0].name}, pays ${usd(others[0].tally.usd_total - bound)} more"
    return f"{told}.{cut}"


def of_spend(panels: Sequence[tuple[str, Spend]], bins: Bins) -> str:
    """How much of the bill the dearest tenth of the time makes."""
    told = []
    for name, found in panels:
        whole = np.sort(found.api + found.energy)[::-1]
        if whole.sum() > 0.0:
            tenth = float(whole[: max(1, len(whole) // 10)].sum() / whole.sum())
            told.append(f"{name} spends {percent(tenth)} of its money")
    if not told:
        return "Nothing was spent."
    return f"In the dearest tenth of the time {' and '.join(told)}; each step is {number(bins.width_s)} s."


def of_work(found: Work, capacity: float, name: str) -> str:
    """How often the load is above the capacity, and what happens to it then."""
    whole = found.local + found.burst + found.unserved
    above = float((whole > capacity).mean())
    total = float(whole.sum())
    if total <= 0.0:
        return "No request could have been served here."
    kept = float(found.local.sum()) / total
    offered, most = number(total / len(whole)), number(capacity)
    told = f"The work on offer is {offered} of {most} replicas on average, and above what they can do for {percent(above)} "
    told += f"of the time; {name} keeps {percent(kept)} of it here."
    if found.unserved.any():
        told += f" {percent(float(found.unserved.sum()) / total)} of it was served by nobody."
    return told


def of_bids(panels: Sequence[tuple[str, np.ndarray | None, np.ndarray | None]]) -> str:
    """What a pool's time is usually worth, to the policy and to the clairvoyant."""
    told = []
    for name, price, dual in panels:
        if price is not None:
            text = f"${number(float(np.median(price)))} at {name} (up to ${number(float(price.max()))}"
            known = dual[np.isfinite(dual)] if dual is not None else np.zeros(0)
            told.append(text + (f"; to the clairvoyant ${number(float(np.median(known)))})" if len(known) else ")"))
    if not told:
        return f"Only the clairvoyant's price is known: {SHIPPED} was not played."
    return f"A second of a replica is usually worth {', '.join(told)}; who would cost less than that elsewhere leaves."


def of_classes(result: Result) -> str:
    """Which policies miss the goal, and for whom."""
    late = [
        f"{policy.name} ({name} {share(met / of)} %)"
        for policy in ranked(result)
        for name, (met, of) in sorted(policy.tally.by_class.items())
        if of and met / of < SLO_MIN
    ]
    if not late:
        return f"Every policy brings at least {percent(SLO_MIN)} of the requests of every class in time."
    fine = " " if shown(result).name in " ".join(late) else f" {shown(result).name} keeps it for every class."
    return f"The goal of {percent(SLO_MIN)} is missed by {listed(late, 6)}.{fine}".rstrip()


def of_regret(regret: Regret | None) -> str:
    """Why the shipped policy pays more than the bound."""
    if regret is None:
        return f"Not measured: this takes {SHIPPED} and two more runs, which --no-chain leaves out."
    parts = regret_parts(regret)
    whole = sum(part for _, part in parts)
    told = f"Of ${usd(whole)} between the bound and {SHIPPED}: " + ", ".join(
        f"{name.partition(':')[0]} ${usd(max(0.0, part))}" for name, part in parts
    )
    return f"{told}."


def regret_parts(regret: Regret) -> tuple[tuple[str, float], ...]:
    """The steps of the chain, USD, from the bound on."""
    return (
        ("relaxation: real engines", _whole(regret.relaxation_usd)),
        ("information: no future", _whole(regret.information_usd)),
        ("engineering: old snapshots", _whole(regret.engineering_usd)),
    )


def _whole(part_usd: float) -> float:
    return part_usd if abs(part_usd) > 1e-12 else 0.0


def heading(result: Result) -> str:
    """What the page is about, in a line."""
    return f"{count(len(result.policies), 'policy', 'policies')} on one trace"
