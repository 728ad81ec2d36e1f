"""Tenants' budgets over many gateways: who has spent what in this window, and what each gateway may still spend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType

from scheduler.config.demand import Budget
from scheduler.core.clearing import grant
from scheduler.core.market import Lease

SpentByWriter = Mapping[tuple[str, str], float]


def window_start_s(budget: Budget, now_s: float) -> float:
    """Start of the UTC day or month that ``now_s`` lies in."""
    moment = datetime.fromtimestamp(now_s, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return (moment if budget.per == "day" else moment.replace(day=1)).timestamp()


@dataclass(slots=True)
class _Gateway:
    started_s: float
    heard_s: float
    spent: dict[str, float]
    granted: dict[str, float] = field(default_factory=dict)
    baseline: dict[str, float] = field(default_factory=dict)
    held: dict[str, float] = field(default_factory=dict)


class BudgetBook:
    """Grants leases so that all gateways together stay inside every budget.

    ``ledger`` is the spend in the window by (tenant, writer), from the database: it stands for gateways that are gone
    and for what was spent before this controller started.
    """

    def __init__(self, budgets: Mapping[str, Budget], lease_ttl_s: float, now_s: float) -> None:
        self._budgets, self._ttl_s = dict(budgets), lease_ttl_s
        self._gateways: dict[str, _Gateway] = {}
        self._windows = {tenant: window_start_s(budget, now_s) for tenant, budget in budgets.items()}
        # Gateways that live already hold leases that this controller knows nothing of; they report within one lease.
        self._open_from_s = now_s + lease_ttl_s

    def window_starts(self, now_s: float) -> dict[str, float]:
        """Start of each tenant's current window: what ``ledger`` must be summed from."""
        return {tenant: window_start_s(budget, now_s) for tenant, budget in self._budgets.items()}

    def opens_at_once(self) -> None:
        """No gateway can hold a lease (everything has just been started together): nothing to wait for."""
        self._open_from_s = 0.0

    def leases(
        self,
        gateway: str,
        started_s: float,
        spent: Mapping[str, float],
        ledger: SpentByWriter | None,
        now_s: float,
        held: Mapping[str, float] = MappingProxyType({}),
    ) -> dict[str, Lease]:
        """Leases for ``gateway``, which has spent ``spent`` (USD by tenant) since ``started_s``.

        ``held`` are the leases it goes by: a smaller one may never have reached it, so until it says so the larger counts.
        Without a ``ledger`` nothing new is granted, but what a gateway has already it keeps: the sum was inside the budget.
        """
        kept = {tenant: usd for tenant, usd in held.items() if tenant in self._budgets and usd > 0.0}
        if ledger is None:
            if kept:  # others may hold leases as well: all have to report before anything is granted
                self._open_from_s = max(self._open_from_s, now_s + self._ttl_s)
            return self._prolonged(kept, now_s)
        mine = self._gateways.get(gateway)
        if mine is None:
            mine = self._gateways[gateway] = _Gateway(started_s, now_s, dict(spent))
            for tenant in self._budgets:
                if started_s < self._windows[tenant]:
                    in_window = ledger.get((tenant, gateway), 0.0)
                    mine.baseline[tenant] = max(0.0, spent.get(tenant, 0.0) - in_window)
        mine.heard_s, mine.spent, mine.held = now_s, dict(spent), dict(held)
        for each in self._gateways.values():
            if now_s - each.heard_s > 2 * self._ttl_s:
                each.granted = {}  # its leases have run out; what it reported as spent stays
        if now_s < self._open_from_s:
            # No new money before all have reported: nothing runs dry meanwhile.
            for tenant, usd in kept.items():
                mine.granted[tenant] = max(0.0, usd - mine.baseline.get(tenant, 0.0))
            return self._prolonged(kept, now_s)
        return {tenant: self._lease(tenant, gateway, ledger, now_s) for tenant in self._budgets}

    def _prolonged(self, kept: Mapping[str, float], now_s: float) -> dict[str, Lease]:
        return {tenant: Lease(usd, now_s + self._ttl_s) for tenant, usd in kept.items()}

    def _lease(self, tenant: str, gateway: str, ledger: SpentByWriter, now_s: float) -> Lease:
        budget = self._budgets[tenant]
        start_s = window_start_s(budget, now_s)
        if start_s != self._windows[tenant]:
            self._windows[tenant] = start_s
            for each in self._gateways.values():
                until_usd = each.granted.get(tenant, 0.0) + each.baseline.get(tenant, 0.0)
                each.baseline[tenant] = each.spent.get(tenant, 0.0)
                each.granted[tenant] = max(0.0, until_usd - each.baseline[tenant])  # still good for so much
        in_window, granted, gone_usd = {}, {}, 0.0
        for name, each in self._gateways.items():
            usd = max(0.0, each.spent.get(tenant, 0.0) - each.baseline.get(tenant, 0.0))
            if now_s - each.heard_s > 2 * self._ttl_s:
                gone_usd += max(usd, ledger.get((tenant, name), 0.0))
            else:
                in_window[name], granted[name] = usd, each.granted.get(tenant, 0.0)
        gone_usd += sum(usd for (who, writer), usd in ledger.items() if who == tenant and writer not in self._gateways)
        usd = grant(budget.usd, gone_usd, granted, in_window, gateway)
        mine = self._gateways[gateway]
        baseline = mine.baseline.get(tenant, 0.0)
        mine.granted[tenant] = max(usd, mine.held.get(tenant, 0.0) - baseline)
        return Lease(usd + baseline, now_s + self._ttl_s)
