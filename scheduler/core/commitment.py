"""``commit``: about once a minute, how many replicas every pool should have, and why.

Up, by ski rental: a replica is started once what was burst since the shortage began equals its start and its minimum hold,
so that whatever comes after, no more than about twice the least is spent; sooner where even a low forecast of what it would
save in its hold is more than that. Down: the dearest goes first, where what it is expected to save is below its avoidable
cost for long enough. What counts as one are pools of the same model in the same zone: requests cannot tell them apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from scheduler.core.fleet import Action, CommitmentPolicy, FleetPlan, Memory, Outlook, PoolFleet, Replacing
from scheduler.core.market import Market
from scheduler.core.shortage import Shortage

_NO_MEMORY: Mapping[str, Memory] = {}


def commit(
    forecast: Mapping[str, Outlook],
    pools: Mapping[str, PoolFleet],
    market: Market,
    policy: CommitmentPolicy,
    now_s: float,
    memory: Mapping[str, Memory] = _NO_MEMORY,
) -> FleetPlan:
    """The plan of this moment; ``forecast`` and ``memory`` by group (``substitutes``). Pools without an offer rest.

    At most one group gets smaller at a time, since what a pool is worth depends on the others.
    """
    rounds = []
    for group, names in substitutes(pools, market, now_s).items():
        found = _Round([pools[name] for name in names], forecast.get(group), memory.get(group, Memory()), policy, now_s)
        found.plan()
        rounds.append((group, found))
    _shrink([found for _, found in rounds], policy, now_s)
    actions = tuple(action for _, found in rounds for action in found.actions)
    return FleetPlan(actions, {group: found.memory for group, found in rounds})


def substitutes(pools: Mapping[str, PoolFleet], market: Market, now_s: float) -> dict[str, tuple[str, ...]]:
    """Names of pools that serve the same model in the same zone, by ``model@zone``; those without a price are left out."""
    offers = {offer.id: offer for offer in market.offers if offer.expires_s > now_s}
    found: dict[str, tuple[str, ...]] = {}
    for name, pool in pools.items():
        offer = offers.get(pool.offer_id)
        if offer is not None:
            group = f"{offer.model}@{offer.zone}"
            found[group] = (*found.get(group, ()), name)
    return found


def _shrink(rounds: list[_Round], policy: CommitmentPolicy, now_s: float) -> None:
    """Whoever has had too much for long enough gives it up, the dearest of them; the others are judged anew."""
    ripe = []
    for found in rounds:
        surplus = found.surplus()
        since_s = min(found.memory.idle_since_s, now_s) if surplus else math.inf
        found.memory = replace(found.memory, idle_since_s=since_s)
        if surplus and now_s - since_s >= policy.down_after_s:
            ripe.append((found.dearest_usd(surplus), found, surplus))
    if ripe:
        _, found, surplus = max(ripe, key=lambda entry: entry[0])
        found.actions += surplus
        for other in rounds:
            if other.memory.idle_since_s < math.inf:
                other.memory = replace(other.memory, idle_since_s=math.inf if other is found else now_s)


@dataclass(slots=True)
class _Round:
    """One group while it is being planned: ``members`` as they will be."""

    members: list[PoolFleet]
    outlook: Outlook | None
    memory: Memory
    policy: CommitmentPolicy
    now_s: float
    actions: list[Action] = field(default_factory=list)

    def plan(self) -> None:
        """Everything but getting smaller, which one group does at a time."""
        self.keep_bounds()
        self.meter()
        self.launch()
        if not self.surplus():
            self.replace_dear()

    @property
    def count(self) -> int:
        """Replicas of the group, with what is starting."""
        return sum(member.count for member in self.members)

    def _act(self, pool: PoolFleet, change: int, reason: str, usd: float) -> None:
        self.actions.append(Action(pool.name, change, reason, usd))
        ready_s = sorted([*pool.ready_s, *[self.now_s + pool.start_s] * change])
        # What is started last goes first, so that whoever has served its hold is still there to be judged.
        changed = replace(pool, ready_s=tuple(ready_s[:change] if change < 0 else ready_s))
        self.members = [changed if member.name == pool.name else member for member in self.members]

    @property
    def capacity(self) -> float:
        """Replica-seconds of work a second, with what is starting."""
        return self.policy.usable_share * sum(member.count * member.speed for member in self.members)

    def _commit_usd(self, pool: PoolFleet) -> float:
        return pool.start_usd() + pool.held_usd(self.policy.hold_s)

    def keep_bounds(self) -> None:
        """The bounds of cluster.yaml hold whatever the money says."""
        for pool in self.members:
            if pool.count < pool.replicas_min:
                self._act(pool, pool.replicas_min - pool.count, f"the pool must have {pool.replicas_min}", 0.0)
            elif pool.count > pool.replicas_max:
                self._act(pool, pool.replicas_max - pool.count, f"the pool may have {pool.replicas_max}", 0.0)

    def meter(self) -> None:
        """The ski rental's meter goes on."""
        room = [member for member in self.members if member.count < member.replicas_max]
        if self.outlook is None or not room:
            self.memory = replace(self.memory, shortage=Shortage())
            return
        look, usable = self.outlook.look, self.policy.usable_share
        # A replica that became ready only now was starting while this was burst.
        covered = sum(m.starting(self.now_s - look.span_s) * m.speed for m in self.members)
        levels = math.ceil(sum((m.replicas_max - m.count) * m.speed for m in room))
        running_usd = min(m.held_usd(1.0) / m.speed for m in room)
        shortage = self.memory.shortage.after(look.burst, look.span_s, covered, usable, running_usd, levels, self.now_s)
        self.memory = replace(self.memory, shortage=shortage)

    def _candidate(self) -> PoolFleet | None:
        """Where the next replica should be: cheapest for its work, in the emptiest failure domain among nearly equals.

        Pools to be avoided come last: without another way (on-demand), capacity is asked for again.
        """
        room = [member for member in self.members if member.count < member.replicas_max]
        sound = [member for member in room if member.avoid_until_s <= self.now_s]
        price = {member.name: self._commit_usd(member) / member.speed for member in room}
        among = sound or room
        if not among:
            return None
        limit_usd = min(price[member.name] for member in among) * self.policy.spread_ratio
        domains: dict[str, int] = {}
        for member in self.members:
            domains[member.domain] = domains.get(member.domain, 0) + member.count
        near = [member for member in among if price[member.name] <= limit_usd]
        return min(near, key=lambda member: (domains[member.domain], price[member.name], member.name))

    def launch(self) -> None:
        """As many more as have paid for themselves, or are going to."""
        policy, outlook = self.policy, self.outlook
        while outlook is not None and (pool := self._candidate()) is not None:
            cost_usd, shortage = self._commit_usd(pool), self.memory.shortage
            spent_usd, net_usd = shortage.usd(pool.speed)
            added = policy.usable_share * pool.speed
            worth_usd = outlook.worth_usd(
                self.capacity, self.capacity + added, pool.start_s, pool.start_s + policy.hold_s, "low"
            )
            if 0.0 < spent_usd >= cost_usd and net_usd >= pool.start_usd():
                reason = (
                    f"{spent_usd:.4f} USD were burst in the {self.now_s - shortage.since_s:.0f} s of this shortage, as much "
                    f"as a start and {policy.hold_s:.0f} s of one more replica cost ({cost_usd:.4f} USD)"
                )
                usd = spent_usd
            elif 0.0 < worth_usd >= cost_usd:
                reason = (
                    f"one more replica is expected to save at least {worth_usd:.4f} USD in {policy.hold_s:.0f} s and costs "
                    f"{cost_usd:.4f} USD with its start"
                )
                usd = worth_usd
            else:
                return
            self._act(pool, 1, reason, usd)
            self.memory = replace(self.memory, shortage=shortage.less(pool.speed))

    def replace_dear(self) -> None:
        """On-demand capacity stands in while spot is not to be had; once it is, the dear replica has had its day."""
        policy, replacing = self.policy, self.memory.replacing
        if any(member.starting(self.now_s) for member in self.members):
            return
        dear = self._leaving()
        if replacing is not None:
            self.memory = replace(self.memory, replacing=None)
            if dear is not None and dear.name == replacing.pool and self.count > replacing.replicas:
                self._act(dear, -1, "a cheaper replica has taken its place", dear.held_usd(policy.hold_s))
            return
        new = self._candidate()
        if dear is None or new is None or new.name == dear.name or new.avoid_until_s > self.now_s:
            return
        dear_usd, new_usd = dear.held_usd(policy.hold_s) / dear.speed, self._commit_usd(new) / new.speed
        if dear_usd > policy.swap_ratio * new_usd:
            count = self.count
            reason = (
                f"it replaces one of {dear.name}: {new_usd:.4f} instead of {dear_usd:.4f} USD in {policy.hold_s:.0f} s"
            )
            self._act(new, 1, reason, dear_usd - new_usd)
            self.memory = replace(self.memory, replacing=Replacing(dear.name, count))

    def _leaving(self) -> PoolFleet | None:
        """The dearest pool of which a replica may go."""
        may = [m for m in self.members if m.count > m.replicas_min and m.settled(self.policy.hold_s, self.now_s)]
        return max(may, key=lambda m: (m.held_usd(1.0) / m.speed, m.name), default=None)

    def dearest_usd(self, surplus: list[Action]) -> float:
        """USD a second of the dearest that would go."""
        return max(
            member.held_usd(1.0) for member in self.members if member.name in {action.pool for action in surplus}
        )

    def surplus(self) -> list[Action]:
        """What would go now, dearest first, while nothing is starting."""
        policy, outlook, found = self.policy, self.outlook, list[Action]()
        if outlook is None or self.actions or any(member.starting(self.now_s) for member in self.members):
            return found
        left = self.capacity
        for pool in sorted(self.members, key=lambda m: (-m.held_usd(1.0) / m.speed, m.name)):
            spare = min(pool.settled(policy.hold_s, self.now_s), pool.count - pool.replicas_min)
            held_usd, own = pool.held_usd(policy.hold_s), policy.usable_share * pool.speed
            for _ in range(spare):
                worth_usd = outlook.mean_usd(left - own, left, policy.hold_s)
                if worth_usd >= policy.down_share * held_usd:
                    return found
                reason = (
                    f"it is expected to save {worth_usd:.4f} USD in {policy.hold_s:.0f} s, and to stand by costs "
                    f"{held_usd:.4f} USD"
                )
                found.append(Action(pool.name, -1, reason, held_usd - worth_usd))
                left -= own
        return found
