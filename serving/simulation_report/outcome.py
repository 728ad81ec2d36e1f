"""Which policies of a result matter, and the sentences that say what they came to. Shares are fractions, money is USD."""

from __future__ import annotations

from scheduler.simulation.policies import KNOWN
from scheduler.simulation.scenario import EPOCH_S, Scenario, api_offers, local_offers
from scheduler.simulation.simulate import SHIPPED, PolicyResult, Result
from scheduler.simulation.tuning import SLO_MIN
from serving.report.words import age, count, number, percent

OVERFLOW = ("overflow-queue", "overflow-kv")
REFERENCES = ("all-api", "all-local")
# Below this many points of what could be saved, the sentence calls a gain small.
_SMALL_POINTS = 2.0
# Bid prices rest on the last five minutes of demand: what is judged for less time has never seen them settled.
_SPAN_S_MIN = 300.0


def usd(value: float) -> str:
    """Four significant digits.

    >>> usd(0.5871234), usd(17.806), usd(12345.6), usd(0.0)
    ('0.5871', '17.81', '12,346', '0')
    """
    if abs(value) < 1e-12:  # what is left of sums that are equal
        return "0"
    if abs(value) < 1e-6:
        return number(value)
    exponent = int(f"{abs(value):.3e}".partition("e")[2])
    return f"{value:,.{max(0, 3 - exponent)}f}"


def share(value: float) -> str:
    """A share in per cent, to a tenth, without the sign: for a column that says so. Never 100.0 for less than all.

    >>> share(0.98294), share(1.0), share(0.99999), share(-0.0)
    ('98.3', '100.0', '99.9', '0.0')
    """
    tenths = round(1000.0 * value)
    if tenths == 1000 and value < 1.0:
        tenths = 999
    return f"{tenths / 10.0 + 0.0:,.1f}"


def in_time(policy: PolicyResult) -> bool:
    """Whether enough requests were answered in time, and no request left its zones."""
    return policy.tally.slo_attainment >= SLO_MIN and not policy.tally.violations


def whole_usd(policy: PolicyResult) -> float:
    """With hardware and rent, used or not."""
    return policy.tally.usd_total + policy.usd_fixed


def scales(result: Result) -> bool:
    """Whether a policy was played that starts and stops replicas, where there are some to start and stop."""
    may = any(pool.replicas_min < pool.replicas_max for pool in result.scenario.site.pools)
    return may and any(policy.tally.usd_held for policy in result.policies.values())


def ranked(result: Result) -> list[PolicyResult]:
    """The cheapest first, with hardware and rent where these differ; those that missed their objectives after the others."""
    place, is_whole = {name: i for i, name in enumerate(KNOWN)}, scales(result)

    def key(policy: PolicyResult) -> tuple[bool, float, int]:
        paid_usd = whole_usd(policy) if is_whole else policy.tally.usd_total
        return not in_time(policy), paid_usd, place[policy.name]

    return sorted(result.policies.values(), key=key)


def best(result: Result) -> PolicyResult | None:
    """The cheapest policy that met its objectives."""
    first = ranked(result)[0]
    return first if in_time(first) else None


def best_overflow(result: Result) -> PolicyResult | None:
    """The better of the tuned overflow rules that were played."""
    return next((policy for policy in ranked(result) if policy.name in OVERFLOW), None)


def shown(result: Result) -> PolicyResult:
    """The policy that the page is about: the shipped one, or the best of what was played."""
    return result.policies.get(SHIPPED) or ranked(result)[0]


def saved_share(policy: PolicyResult, result: Result) -> float:
    """Share of the bill of all-API that this policy did not pay."""
    whole = result.bound.usd_all_api
    return (whole - policy.tally.usd_total) / whole if whole > 0.0 else 0.0


def one_price(scenario: Scenario) -> str:
    """The model that every request served here would cost the same at elsewhere; "" where prices differ."""
    offers = scenario.site.priced(EPOCH_S + scenario.judged.start_s).offers
    found = set()
    for profile in scenario.profiles:
        elsewhere = api_offers(profile, offers)
        if local_offers(profile, offers) and elsewhere:
            cheapest = min(elsewhere, key=lambda offer: offer.rate.usd_per_input + offer.rate.usd_per_output)
            found.add((cheapest.model, cheapest.rate))
    return found.pop()[0] if len(found) == 1 else ""


def lead(result: Result) -> str:
    """What a simulation came to, in two or three sentences."""
    return " ".join(text for text in (sentence(result), gain(result), rents(result), caution(result)) if text)


def rents(result: Result) -> str:
    """What comes out cheapest with hardware and rent, where policies start and stop replicas; else ""."""
    good = sorted((policy for policy in result.policies.values() if in_time(policy)), key=whole_usd)
    hours = result.scenario.judged.span_s / 3600.0
    if not scales(result) or not good:
        return ""
    first, whole = good[0], whole_usd(good[0])
    paid = f"${usd(whole)} (${usd(whole / hours)} per hour)"
    if len(result.policies) == 1:
        return f"With hardware and rent that is {paid}."
    told = f"With hardware and rent {first.name} is the cheapest that meets its objectives, {paid}"
    return f"{told}; next is {good[1].name}, ${usd(whole_usd(good[1]))}." if len(good) > 1 else f"{told}."


def caution(result: Result) -> str:
    """What is to be kept in mind where little was judged; "" where it was enough."""
    span_s = result.scenario.judged.span_s
    if span_s >= _SPAN_S_MIN:
        return ""
    return f"Only {age(span_s)} are judged: bid prices first have to be learnt, which weighs more here than over a day."


def sentence(result: Result) -> str:
    """What the shipped policy paid, what it saved of what could be saved, and what the best overflow rule paid."""
    policy, overflow = shown(result), best_overflow(result)
    told = f"{policy.name} paid ${usd(policy.tally.usd_total)} for {count(result.requests, 'request')}"
    told += " (APIs and energy)" if scales(result) else ""
    if not result.bound.usd_all_api - result.bound.usd_total > 1e-12:
        told += "; there was nothing to save"
    else:
        told += f", {share(policy.savings_captured)} % of what a clairvoyant could have saved"
    if policy.name == SHIPPED and overflow is not None:
        told += f"; the best tuned overflow rule ({overflow.name}) paid ${usd(overflow.tally.usd_total)}"
        told += _late(overflow)
    first = best(result)
    if first is not None and first.tally.usd_total < policy.tally.usd_total and not scales(result):
        told += f"; {first.name} paid least, ${usd(first.tally.usd_total)}"
    return f"{told}.{_misses(policy)}"


def gain(result: Result) -> str:
    """How far the shipped policy is ahead of the best overflow rule, and why that is little where it is; may be ""."""
    policy, overflow = result.policies.get(SHIPPED), best_overflow(result)
    if policy is None or overflow is None or not result.bound.usd_all_api > result.bound.usd_total:
        return ""
    points = 100.0 * (policy.savings_captured - overflow.savings_captured)
    model = one_price(result.scenario)
    only = "only " if 0.0 <= points < _SMALL_POINTS else ""
    told = (
        f"{policy.name} is {only}{abs(points):.1f} points {'ahead of' if points >= 0.0 else 'BEHIND'} {overflow.name}"
    )
    if model:
        return f"Elsewhere everything here costs the same ({model}), which leaves a bid price little to gain: {told}."
    if only:
        return f"The gain is small here: {told}."
    return f"{told}." if points < 0.0 else f"{told}, because what requests would cost elsewhere differs."


def _late(policy: PolicyResult) -> str:
    late = policy.tally.slo_attainment
    return f" with only {share(late)} % of requests in time" if late < SLO_MIN else ""


def _misses(policy: PolicyResult) -> str:
    tally = policy.tally
    told = ""
    if tally.slo_attainment < SLO_MIN:
        told += f" Only {share(tally.slo_attainment)} % of its requests were in time, {percent(SLO_MIN)} should."
    if tally.violations:
        told += f" {count(tally.violations, 'request')} left their zones, which none may."
    return told
