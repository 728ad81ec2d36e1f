"""A simulation's result for programs: the fields of ``Result.as_json``, and what it rests on."""

from __future__ import annotations

from scheduler.simulation.simulate import Result
from scheduler.simulation.tuning import TUNED


def document(result: Result) -> dict[str, object]:
    """Seconds, USD, fractions. The same for the same input and seed, byte for byte."""
    scenario, settings, bound = result.scenario, result.settings, result.bound
    judged, tuning, trace = scenario.judged, scenario.tuning, scenario.trace
    return {
        **result.as_json(),
        "thresholds": {name: policy.threshold for name, policy in result.policies.items() if name in TUNED},
        "usd_all_api": bound.usd_all_api,
        "slo_by_class": {
            name: {key: met / of if of else 1.0 for key, (met, of) in sorted(policy.tally.by_class.items())}
            for name, policy in result.policies.items()
        },
        "replica_hours": {
            name: {pool: seconds / 3600.0 for pool, seconds in policy.tally.replica_s.items()}
            for name, policy in result.policies.items()
        },
        "workload": {
            "trace": trace.name,
            "requests": trace.requests,
            "span_s": trace.span_s,
            "dropped": trace.dropped,
            "load_factor": scenario.load_factor,
            "copies": scenario.copies,
            "profiles": [profile.name for profile in scenario.profiles],
            "tuning_s": [tuning.start_s, tuning.end_s],
            "judged_s": [judged.start_s, judged.end_s],
            "seed": scenario.seed,
            "gateways": settings.gateways,
            "snapshot_age_s": settings.snapshot_age_s,
        },
    }
