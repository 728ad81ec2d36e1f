"""Verdicts on drift in words, one sentence each."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.planning.drift import Finding, Verdict
from serving.report.words import number, percent, plain

_NAMES = {
    "load": ("Load fits", "Load has drifted", "Load cannot be told"),
    "tokens": ("Token lengths fit", "Token lengths have drifted", "Token lengths cannot be told"),
    "prices": ("API prices fit", "API prices have drifted", "API prices cannot be told"),
    "curve": ("Service curves fit", "A service curve no longer fits", "Service curves cannot be told"),
    "slo": ("Objectives are met", "Objectives are missed", "Objectives cannot be told"),
}
_PLACES: dict[Verdict, int] = {"fits": 0, "drift": 1, "unknown": 2}


def verdict_of(findings: Sequence[Finding]) -> Verdict:
    """Of all of them: drift where anything has, unknown where nothing can be told."""
    verdicts = {finding.verdict for finding in findings}
    return "drift" if "drift" in verdicts else "fits" if "fits" in verdicts else "unknown"


def sentence(finding: Finding) -> str:
    """One finding."""
    name = _NAMES[finding.about][_PLACES[finding.verdict]]
    if finding.expected is None or finding.actual is None:
        return f"{name}: {finding.note}."
    said = {"load": _load, "tokens": _tokens, "prices": _prices, "curve": _curve, "slo": _slo}[finding.about]
    return f"{name}: {said(finding)}{f'; {finding.note}' if finding.note else ''}."


def overall(findings: Sequence[Finding], made_at: str) -> str:
    """What it comes to."""
    verdict = verdict_of(findings)
    if verdict == "drift":
        return f"The plan of {plain(made_at)} no longer fits: run `baseload plan` again."
    told = sum(finding.verdict == "fits" for finding in findings)
    if verdict == "unknown":
        return f"Whether the plan of {plain(made_at)} fits cannot be told yet."
    rest = f", as far as {told} of {len(findings)} questions can be answered" if told < len(findings) else ""
    return f"The plan of {plain(made_at)} fits{rest}."


def _load(finding: Finding) -> str:
    return f"{number(finding.actual)} requests an hour, {_against(finding)}"


def _tokens(finding: Finding) -> str:
    return f"{number(finding.actual)} {finding.subject} tokens an answer, {_against(finding)}"


def _prices(finding: Finding) -> str:
    return f"${number(finding.actual)} for a million tokens, {_against(finding, '$')}"


def _against(finding: Finding, unit: str = "") -> str:
    difference = finding.difference or 0.0
    error = _error(finding)
    if abs(difference) < 0.0005:
        return f"as planned{error}"
    return f"{_off(difference)} the plan's {unit}{number(finding.expected)}{error}"


def _curve(finding: Finding) -> str:
    pool, difference = plain(finding.subject), finding.difference or 0.0
    if finding.basis == "gate":
        return f"{pool} needs {number(finding.actual)} × the time of its curve, as its gate has learnt"
    told = f"streams of {pool} take {number(finding.actual)} s a token"
    if not difference:
        return f"{told}, which its curve allows"
    return f"{told}, {_off(difference)} the {number(finding.expected)} s that its curve allows{_error(finding)}"


def _slo(finding: Finding) -> str:
    actual, expected, error = (
        100.0 * (share or 0.0) for share in (finding.actual, finding.expected, finding.give_or_take)
    )
    return f"{actual:.1f} % of requests in time, planned {expected:.1f} %, give or take {error:.1f} points"


def _off(difference: float) -> str:
    return f"{percent(abs(difference))} {'more' if difference > 0 else 'less'} than"


def _error(finding: Finding) -> str:
    width = finding.give_or_take or 0.0
    return f", give or take {percent(width)}" if width >= 0.0005 else ""
