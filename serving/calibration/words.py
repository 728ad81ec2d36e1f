"""What a calibration found, in words, as rows, and as a fragment to paste into the site file."""

from __future__ import annotations

from typing import Any

from serving.calibration.session import Measured

_SAME, _TIMES_FROM = 0.02, 2.0

# What a warning ends with where a half of the curve is missing.
_MISSING = (", so there is no line", ", so there is no rate")


def sentence(found: Measured) -> str:
    """The curve in one sentence, and how far it is from the site file's."""
    parts = []
    if found.decode is not None:
        fit = found.decode
        per_seq = " at any load" if fit.flat else f" + {_ms(fit.itl_per_seq_s)} ms per running sequence"
        firm = "flat" if fit.flat else f"R² {fit.r2:.2f}"
        parts.append(f"ITL {_ms(fit.itl_base_s)} ms{per_seq} ({firm})")
    if found.prefill is not None and found.prefill.prefill_tokens_per_s is not None:
        parts.append(f"prefill {found.prefill.prefill_tokens_per_s:,.0f} tokens/s (R² {found.prefill.r2:.2f})")
    if not parts:
        return "No curve could be measured."
    return "; ".join([*parts, *_against(found)]) + "."


def _against(found: Measured) -> list[str]:
    """How fast beside what the site file says: decode at the highest load measured, prefill by its rate."""
    curve, said = found.plan.pool.curve, []
    if found.decode is not None:
        running = max(point.running for _, point in found.decode_points)
        configured_s = curve.itl_base_s + curve.itl_per_seq_s * running
        if configured_s > 0.0:
            said.append(f"decode {_ratio(found.decode.itl_s(running) / configured_s)} at {running:.0f} running")
    if found.prefill is not None and found.prefill.prefill_tokens_per_s is not None:
        said.append(f"prefill {_ratio(curve.prefill_tokens_per_s / found.prefill.prefill_tokens_per_s)}")
    return ["beside cluster.yaml: " + ", ".join(said)] if said else []


def _ratio(time_ratio: float) -> str:
    """Seconds over seconds, as people say it."""
    if abs(time_ratio - 1.0) < _SAME:
        return "as fast"
    factor = max(time_ratio, 1.0 / time_ratio)
    if factor >= _TIMES_FROM:
        return f"{factor:.3g} times as {'slow' if time_ratio > 1.0 else 'fast'}"
    percent = 100.0 * (time_ratio - 1.0 if time_ratio > 1.0 else 1.0 / time_ratio - 1.0)
    return f"{percent:,.0f} % {'slower' if time_ratio > 1.0 else 'faster'}"


def warnings(found: Measured) -> list[str]:
    """Everything that makes the figures less than they look."""
    told = []
    tally = found.tally
    if found.partial:
        told.append(f"PARTIAL: {found.partial}; only what is shown was measured")
    if tally.elsewhere:
        names = ", ".join(f"{offer or 'unknown'} {count:,}" for offer, count in tally.elsewhere.most_common(3))
        told.append(
            f"the pool was not alone: {tally.elsewhere.total():,} answers came from elsewhere ({names}), left out"
        )
    if found.others and not found.partial.startswith("others"):
        told.append(
            f"others used the gateway meanwhile: {found.others:,} request(s) were not ours; the pool may have been busier, "
            "and they may have been sent elsewhere"
        )
    if found.foreign_tokens:
        told.append(f"others used the pool meanwhile: {found.foreign_tokens:,} output tokens were not ours")
    for problem, count in tally.failed.most_common(3):
        told.append(f"{count:,} request(s) failed and were left out: {problem}")
    if found.tally.bursts:
        told.append(
            f"{found.tally.bursts:,} answers came in bursts and were not timed: this machine, the gateway's or the engine's "
            "was short of CPU, and the figures are those of a starved stack"
        )
    told += _doubts(found)
    return told


def _doubts(found: Measured) -> list[str]:
    told, fit = [], found.decode
    missing = sorted({*found.plan.levels} - {level for level, _ in found.decode_points})
    if missing and not found.partial:
        told.append(
            f"no answer could be timed at {', '.join(map(str, missing))} requests at a time: the curve ends elsewhere"
        )
    if fit is None:
        told.append(f"ITL: fewer than three loads were measured{_MISSING[0]}")
    else:
        if fit.poor:
            told.append(
                f"POOR FIT: R² {fit.r2:.2f} of ITL is below 0.9: other load, or more seconds per step are needed"
            )
        elif fit.flat:
            told.append("ITL does not grow with load: R² would say nothing of it")
        if fit.bend:
            where = "above" if fit.bend == "up" else "below"
            told.append(f"ITL bends {fit.bend}: at both ends it lies {where} the line; see the column `off the line`")
    prefill = found.prefill
    if prefill is None:
        told.append(f"prefill: fewer than three prompt lengths were measured{_MISSING[1]}")
    elif prefill.prefill_tokens_per_s is None:
        told.append(f"TTFT ({_ms(prefill.ttft_base_s)} ms) does not grow with the prompt enough to tell a prefill rate")
    elif prefill.r2 < 0.9:
        told.append(f"POOR FIT: R² {prefill.r2:.2f} of TTFT against prompt length is below 0.9")
    return told


def without_curve(found: Measured) -> str:
    """Which half of the curve is missing, and whatever else was noticed, which may be why."""
    told = warnings(found)
    missing = [text for text in told if text.endswith(_MISSING)]
    return "; ".join([*missing, *(text for text in told if text not in missing)])


def prefill_rows(found: Measured) -> list[tuple[str, ...]]:
    """Prompt tokens, requests, measured TTFT, on the line, as the site file has it; milliseconds."""
    rows: list[tuple[str, ...]] = []
    fit, curve = found.prefill, found.plan.pool.curve
    for point in found.prefill_points:
        old_s = curve.ttft_base_s + point.tokens / curve.prefill_tokens_per_s
        rate = fit.prefill_tokens_per_s if fit is not None else None
        line_s = fit.ttft_base_s + (point.tokens / rate if rate else 0.0) if fit is not None else None
        rows.append((f"{point.tokens:,.0f}", str(point.requests), _ms(point.ttft_s), _ms(line_s), _ms(old_s)))
    return rows


def decode_rows(found: Measured) -> list[tuple[str, ...]]:
    """Asked at a time, running per replica, requests, measured ITL, off the line, as the site file has it."""
    rows: list[tuple[str, ...]] = []
    fit, curve = found.decode, found.plan.pool.curve
    for i, (level, point) in enumerate(found.decode_points):
        old_s = curve.itl_base_s + curve.itl_per_seq_s * point.running
        off = f"{100.0 * fit.residuals[i]:+.0f} %" if fit is not None else "-"
        rows.append((str(level), f"{point.running:.1f}", str(point.requests), _ms(point.itl_s), off, _ms(old_s)))
    return rows


def values(found: Measured) -> dict[str, Any]:
    """The section ``curve`` as measured; what was not measured stays as it is in the site file."""
    old, fit, prefill = found.plan.pool.curve, found.decode, found.prefill
    rate = prefill.prefill_tokens_per_s if prefill is not None else None
    base_s = _rounded(prefill.ttft_base_s) if prefill is not None else old.ttft_base_s
    new: dict[str, Any] = {
        "prefill_tokens_per_s": _rounded(rate) if rate else old.prefill_tokens_per_s,
        "itl_base_s": _rounded(fit.itl_base_s) if fit is not None else old.itl_base_s,
        "itl_per_seq_s": _rounded(fit.itl_per_seq_s) if fit is not None else old.itl_per_seq_s,
        "seqs_max": old.seqs_max,
        "ttft_base_s": base_s,
    }
    return new | ({"kv_tokens": old.kv_tokens} if old.kv_tokens else {})


def fragment(found: Measured) -> str:
    """YAML below ``pools: - name:``, old values beside the new."""
    old = found.plan.pool.curve
    count = sum(point.requests for _, point in found.decode_points) + sum(p.requests for p in found.prefill_points)
    firm = [f"R² {found.decode.r2:.3f}" if not found.decode.flat else "flat ITL"] if found.decode else []
    firm += [f"prefill R² {found.prefill.r2:.3f}"] if found.prefill and found.prefill.prefill_tokens_per_s else []
    lines = [f"# calibrated{' (partial)' if found.partial else ''}: {', '.join([*firm, f'{count:,} requests timed'])}"]
    lines.append("curve:")
    for name, value in values(found).items():
        before = getattr(old, name)
        note = f"  # was {_plain(before)}" if value != before else "  # as it was"
        lines.append(f"  {name}: {_plain(value)}{note}")
    energy, fit = found.plan.pool.energy, found.power.fit
    if fit is None:
        return "\n".join(lines)
    lines.append("energy:")
    for name in ("joules_per_input_token", "joules_per_output_token"):
        lines.append(f"  {name}: {_plain(_rounded(getattr(fit, name)))}  # was {_plain(getattr(energy, name))}")
    lines.append(f"  label: calibrated  # R² {fit.r2:.3f}, {fit.windows} steps; was {energy.label}")
    lines.append(f"# idle power: {fit.idle_watts:.0f} W a replica (hardware.idle_watts or rental.idle_watts)")
    return "\n".join(lines)


def _ms(seconds: float | None) -> str:
    """Milliseconds to three significant figures."""
    return "-" if seconds is None else _plain(_rounded(seconds * 1e3))


def _rounded(value: float) -> float:
    """Three significant figures: no timing here is good for more."""
    return float(f"{value:.3g}")


def _plain(value: float) -> str:
    """A number as YAML reads it back, without exponents."""
    text = f"{value:.12f}".rstrip("0").rstrip(".")
    return text or "0"
