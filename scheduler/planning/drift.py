"""Whether a plan still fits: what it expects of load, token lengths, prices, engines and objectives against what was seen.

Something has drifted where it differs by more than the tolerance *and* chance cannot explain the rest: the 90 % interval
around what was seen, from hourly sums, lies outside the band. Too few requests, or hours that the plan says nothing of, are
no verdict. Pure.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np

from scheduler.config.expected import ExpectedSpec, Tolerances
from scheduler.planning.seen import (
    DAY_H,
    WEEK_H,
    Estimate,
    Hours,
    Pace,
    Seen,
    carried,
    estimate,
    hour_of_week,
    season_of,
)

About = Literal["load", "tokens", "prices", "curve", "slo"]
Verdict = Literal["fits", "drift", "unknown"]

# An interval that is wider than so many tolerances would not even show what matters: no verdict.
_BLUNT = 3.0
_WHOLE_HOUR = 0.999
_UNLEARNT = 1e-3  # a gate that has not seen a line for a while says 1
_HOUR_VARIES = 0.15  # share by which an hour's load differs from its expectation, beyond the luck of single requests


class Finding(msgspec.Struct, frozen=True):
    """One verdict. ``difference``: relative, for ``slo`` in shares; ``give_or_take`` is half of its 90 % interval.

    ``subject``: which tokens, which pool; of a pool ``basis`` says whether its gate has learnt it or its streams show it.
    ``note``: what was compared, or why there is no verdict.
    """

    about: About
    verdict: Verdict
    expected: float | None = None
    actual: float | None = None
    difference: float | None = None
    give_or_take: float | None = None
    subject: str = ""
    basis: Literal["", "gate", "streams"] = ""
    note: str = ""


def drift(expected: ExpectedSpec, actual: Seen, tolerances: Tolerances) -> tuple[Finding, ...]:
    """One finding each on load, token lengths, prices, service curve and objectives, in this order."""
    return (
        _load(expected, actual, tolerances),
        _tokens(expected, actual, tolerances),
        _prices(expected, actual, tolerances),
        _curve(actual, tolerances),
        _slo(expected, actual, tolerances),
    )


def _load(expected: ExpectedSpec, seen: Seen, tolerances: Tolerances) -> Finding:
    by_hour = expected.requests_by_hour_of_week
    if not (sum(by_hour) or expected.requests_per_hour):
        return Finding("load", "unknown", note="the plan expects no requests")
    if reason := _too_few(seen.requests, "request", tolerances):
        return Finding("load", "unknown", note=reason)
    if sum(by_hour):
        chosen = np.arange(len(seen.share))
        wanted = np.asarray(by_hour)[hour_of_week(seen.start_s)] * seen.share
        note = "the same hours of the week"
    else:
        found, note = _comparable(expected.trace_hours, seen)
        if found is None:
            return Finding("load", "unknown", note=note)
        chosen = found
        wanted = expected.requests_per_hour * seen.share[chosen]
    came = seen.requests[chosen]
    if not wanted.sum():
        return Finding("load", "unknown", note="the plan expects no requests in these hours")
    if sum(by_hour):
        got = estimate(came, wanted, _error_least(came, wanted))
    else:
        season = season_of(seen.start_s[chosen])
        got = estimate(came, wanted, _error_least(came, wanted), season, season is None and len(came) >= DAY_H)
    hours = float(seen.share[chosen].sum())
    means = (float(wanted.sum()) / hours, float(came.sum()) / hours)
    return _judged("load", *means, Estimate(got.value - 1.0, got.give_or_take), tolerances.load, note=note)


def _comparable(trace_hours: float, seen: Seen) -> tuple[np.ndarray | None, str]:
    """The hours that a mean over the plan's trace speaks of: the newest whole weeks, whole days, or any; and in words."""
    if trace_hours < DAY_H:
        return np.arange(len(seen.share)), "any hours: the plan's trace was shorter than a day"
    whole = np.flatnonzero(seen.share >= _WHOLE_HOUR)
    period, word = (WEEK_H, "week") if trace_hours >= WEEK_H else (DAY_H, "day")
    count = len(whole) // period
    if not count:
        hours = f"{len(whole)} whole hour{'' if len(whole) == 1 else 's'}"
        return None, f"{hours} cannot be held against a mean of whole {word}s: load follows the clock and the calendar"
    note = f"{count} whole {word}{'' if count == 1 else 's'}"
    if word == "day":
        note += ", of whatever days of the week"
    return whole[-count * period :], note


def _tokens(expected: ExpectedSpec, seen: Seen, tolerances: Tolerances) -> Finding:
    """The one of input and output tokens that is further off."""
    if reason := _too_few(seen.served, "answer", tolerances):
        return Finding("tokens", "unknown", note=reason)
    found = []
    for subject, column, mean in (
        ("input", seen.input_tokens, expected.input_tokens_mean),
        ("output", seen.output_tokens, expected.output_tokens_mean),
    ):
        if mean:
            got = estimate(column, seen.served)
            relative = Estimate(got.value / mean - 1.0, got.give_or_take / mean)
            found.append(_judged("tokens", mean, got.value, relative, tolerances.tokens, subject))
    if not found:
        return Finding("tokens", "unknown", note="the plan expects no tokens")
    return _worst(found)


def _prices(expected: ExpectedSpec, seen: Seen, tolerances: Tolerances) -> Finding:
    if not expected.api_usd_per_mtok:
        return Finding("prices", "unknown", note="the plan buys nothing from APIs")
    if reason := _too_few(seen.bought, "answer from an API", tolerances, "answers from APIs"):
        return Finding("prices", "unknown", note=reason)
    if not seen.api_tokens.sum():
        return Finding("prices", "unknown", note="APIs have reported no tokens")
    got = estimate(seen.usd_api * 1e6, seen.api_tokens)
    mean = expected.api_usd_per_mtok
    relative = Estimate(got.value / mean - 1.0, got.give_or_take / mean)
    return _judged("prices", mean, got.value, relative, tolerances.prices)


def _curve(seen: Seen, tolerances: Tolerances) -> Finding:
    """What the gates have learnt, and the pace of streams in the ledger; of all pools the one that is furthest off."""
    found = [
        _judged("curve", 1.0, ratio, Estimate(ratio - 1.0, 0.0), tolerances.curve, pool, "gate")
        for pool, ratio in sorted(seen.work_ratios.items())
        if abs(ratio - 1.0) > _UNLEARNT
    ]
    reasons = []
    for pace in seen.paces:
        if reason := _too_few(pace.tokens, "token", tolerances):
            reasons.append(f"{pace.pool}: {reason}")
        else:
            found.append(_paced(pace, tolerances.curve))
    if not found:
        return Finding(
            "curve", "unknown", note=reasons[0] if reasons else "no gate answers, and no stream was served here"
        )
    return _worst(found)


def _paced(pace: Pace, tolerance: float) -> Finding:
    """A curve allows any pace between that of a request that is alone and that of a full batch."""
    got = estimate(pace.decode_s, pace.tokens)
    nearest = min(max(got.value, pace.least_s), pace.most_s)
    relative = Estimate(got.value / nearest - 1.0, got.give_or_take / nearest) if nearest else Estimate(0.0, math.inf)
    return _judged("curve", nearest, got.value, relative, tolerance, pace.pool, "streams")


def _slo(expected: ExpectedSpec, seen: Seen, tolerances: Tolerances) -> Finding:
    """Only fewer in time than planned count."""
    if reason := _too_few(seen.judged, "request with an objective", tolerances, "requests with an objective"):
        return Finding("slo", "unknown", note=reason)
    lowest = max(0.0, expected.slo_attainment - tolerances.slo)
    binomial = math.sqrt(max(1e-4, lowest * (1.0 - lowest)) / float(seen.judged.sum()))
    got = estimate(seen.in_time, seen.judged, binomial)
    difference = Estimate(got.value - expected.slo_attainment, got.give_or_take)
    finding = _judged("slo", expected.slo_attainment, got.value, difference, tolerances.slo)
    return msgspec.structs.replace(finding, verdict="fits", note="") if difference.value > 0.0 else finding


def _judged(
    about: About,
    expected: float,
    actual: float,
    difference: Estimate,
    tolerance: float,
    subject: str = "",
    basis: Literal["", "gate", "streams"] = "",
    note: str = "",
) -> Finding:
    """``drift`` beyond band and chance; ``fits`` only where it is inside the band and known well enough."""
    over, width = abs(difference.value) - tolerance, difference.give_or_take
    verdict: Verdict = "drift" if over > width else "fits"
    if verdict == "fits" and over > 0.0:
        verdict, note = "unknown", "it may be chance"
    elif verdict == "fits" and width > _BLUNT * tolerance:
        verdict, note = "unknown", "what was seen varies too much"
    return Finding(about, verdict, expected, actual, difference.value, width, subject, basis, note)


def _worst(findings: list[Finding]) -> Finding:
    """The one that matters most: drift before the rest, then what is known before what is not, then the larger difference."""
    order = ("unknown", "fits", "drift")
    return max(findings, key=lambda found: (order.index(found.verdict), abs(found.difference or 0.0)))


def _too_few(counts: Hours, one: str, tolerances: Tolerances, many: str = "") -> str:
    """Why that many are too few for a verdict, or ''."""
    count, hours = int(counts.sum()), int(np.count_nonzero(counts))
    if count >= tolerances.requests_min and hours >= tolerances.hours_min:
        return ""
    told = f"{count:,} {one if count == 1 else many or one + 's'} in {hours} {'hour' if hours == 1 else 'hours'}"
    return f"too few to tell: {told}, {tolerances.requests_min:,} in {tolerances.hours_min} are needed"


def _error_least(came: Hours, wanted: Hours) -> float:
    """What a ratio of counts may be off at the least: requests come in bursts, and a handful of hours may look too even."""
    counted = math.sqrt(float(came.sum())) / float(wanted.sum())
    return math.hypot(counted, _HOUR_VARIES * math.sqrt(carried(1) / len(came)))
