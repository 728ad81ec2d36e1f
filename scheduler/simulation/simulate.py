"""``simulate``: policies side by side on one trace, against the clairvoyant bound. What ``baseload simulate`` prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from pricing.holding import holdings
from scheduler.simulation.bound.bound import Bound
from scheduler.simulation.policies import NAMES, Rule, rule
from scheduler.simulation.regret import (
    SLO_ALLOWANCE_MAX,
    Judged,
    bound_of,
    clairvoyant_rule,
    false_burst_usd_share,
    judged,
    savings_captured,
)
from scheduler.simulation.scenario import EPOCH_S, Scenario
from scheduler.simulation.tally import Tally
from scheduler.simulation.tuning import play, tuned
from scheduler.simulation.workload import Batch
from scheduler.simulation.world import Settings

SHIPPED = "bid-price"
# The chain from the bound to what ships: each step gives up one advantage of the clairvoyant.
CHAIN = ("bound", "clairvoyant-replay", "bid-price-fresh", SHIPPED)

Say = Callable[[str, int], None]  # what is being done, requests played since the last call


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """One policy on the judged part. Shares are fractions; USD of that part. ``usd_fixed``: of hardware and rent, used or
    not."""

    name: str
    threshold: float
    tally: Tally
    savings_captured: float
    false_burst_usd_share: float
    usd_fixed: float

    def figures(self) -> dict[str, float | int]:
        """For JSON."""
        tally = self.tally
        return {
            "usd_total": tally.usd_total,
            "usd_api": tally.usd_api,
            "usd_energy": tally.usd_energy,
            "usd_fixed": self.usd_fixed,
            "slo_attainment": tally.slo_attainment,
            "savings_captured": self.savings_captured,
            "local_share": tally.local_share,
            "false_burst_usd_share": self.false_burst_usd_share,
            "sovereignty_violations": tally.violations,
        }


@dataclass(frozen=True, slots=True)
class Regret:
    """USD between the bound and the shipped policy, split by what the clairvoyant has and it has not.

    ``relaxation``: fractional requests and fluid engines, down to the cheapest schedule of whole requests that is known.
    ``information``: the future, with everything else exact. ``engineering``: stale snapshots, several gateways, learnt
    lengths. They add up to the whole, and none is below zero: a schedule that was found is one that the better informed
    could have chosen.
    """

    relaxation_usd: float
    information_usd: float
    engineering_usd: float


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that a simulation came to."""

    scenario: Scenario
    settings: Settings
    requests: int
    bound: Bound
    policies: dict[str, PolicyResult]
    regret: Regret | None = None
    prices: Judged | None = field(default=None, repr=False)

    def as_json(self) -> dict[str, object]:
        """The document of ``--json``; field names are an interface."""
        document: dict[str, object] = {
            "trace": {"requests": self.requests, "span_s": self.scenario.judged.span_s},
            "bound": {"usd_total": self.bound.usd_total, "usd_api": self.bound.usd_api},
            "policies": {name: result.figures() for name, result in self.policies.items()},
            "thresholds": {n: r.threshold for n, r in self.policies.items() if r.threshold == r.threshold},
        }
        if self.regret is not None:
            document["regret"] = {
                "relaxation_usd": self.regret.relaxation_usd,
                "information_usd": self.regret.information_usd,
                "engineering_usd": self.regret.engineering_usd,
            }
        return document


def simulate(
    scenario: Scenario,
    settings: Settings,
    names: Sequence[str] = NAMES,
    *,
    chain: bool = True,
    say: Say | None = None,
) -> Result:
    """Tune, play and judge every policy of ``names`` on the same requests.

    The bound may be late with as many requests as the shipped policy was: the same allowance. A policy that was later is
    held against a bound with its own, or it could seem to save more than can be saved. Raises ValueError where the judged
    part is empty.
    """
    tell = say if say is not None else _silent
    prices = judged(scenario, settings.usd_factor)
    batches = list(scenario.batches(scenario.judged))
    tallies: dict[str, tuple[Rule, Tally]] = {}
    for name in names:
        of = tuned(name, scenario, settings, prices, lambda what: tell(f"tuning {what}", 0))
        tell(name, 0)
        tallies[name] = (of, _played(scenario, of, settings, batches, tell))
    late = [1.0 - t.slo_attainment for n, (_, t) in tallies.items() if n == SHIPPED] or [
        1.0 - t.slo_attainment for _, t in tallies.values() if 1.0 - t.slo_attainment <= SLO_ALLOWANCE_MAX
    ]
    tell("clairvoyant bound", 0)
    allowance = max(late, default=0.0)
    bound = bound_of(prices, allowance)
    regret = _regret(scenario, settings, bound, tallies, batches, tell) if chain and SHIPPED in tallies else None
    policies = {}
    for name, (of, tally) in tallies.items():
        late_share = 1.0 - tally.slo_attainment
        fair = bound if late_share <= allowance else bound_of(prices, late_share)
        policies[name] = PolicyResult(
            name,
            of.threshold,
            tally,
            savings_captured(tally, fair),
            false_burst_usd_share(tally, bound),
            usd_fixed(scenario, tally),
        )
    return Result(scenario, settings, len(prices), bound, policies, regret, prices)


def usd_fixed(scenario: Scenario, tally: Tally) -> float:
    """USD of replicas over the judged part, used or not: all that there may be, or what came and went (``Tally.usd_held``).

    Hardware that is owned is paid for in any case; then what is held is its idle power.
    """
    site, hours = scenario.site, scenario.judged.span_s / 3600.0
    prices = holdings(site.config, site.priced(EPOCH_S))
    usd = 0.0
    for pool in site.pools:
        per_hour = pool.fixed.usd_per_hour if pool.fixed else 0.0
        if pool.name in tally.usd_held:
            per_hour = max(0.0, per_hour - prices[pool.name].held)
        usd += hours * pool.replicas_max * per_hour + tally.usd_held.get(pool.name, 0.0)
    return usd


def _played(scenario: Scenario, of: Rule, settings: Settings, batches: Sequence[Batch], tell: Say) -> Tally:
    return play(scenario, of, settings, scenario.judged, batches, lambda done: tell(of.name, done))


def _regret(
    scenario: Scenario,
    settings: Settings,
    bound: Bound,
    tallies: dict[str, tuple[Rule, Tally]],
    batches: Sequence[Batch],
    tell: Say,
) -> Regret:
    shipped = tallies[SHIPPED][1].usd_total
    replays = []
    for fills in (False, True):
        tell("clairvoyant replay", 0)
        replays.append(_played(scenario, clairvoyant_rule(bound, fills), settings, batches, tell).usd_total)
    tell("fresh snapshots, lengths known", 0)
    fresh_rule = replace(rule(SHIPPED), knows_lengths=True)
    fresh = replace(settings, gateways=1, snapshot_age_s=min(0.25, settings.snapshot_age_s))
    informed = min(shipped, _played(scenario, fresh_rule, fresh, batches, tell).usd_total)
    replayed = min(informed, *replays)
    return Regret(replayed - bound.usd_total, informed - replayed, shipped - informed)


def _silent(what: str, requests: int) -> None:
    """Nobody listens."""
