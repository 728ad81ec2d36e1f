"""What the plan expects beside what the ledger has seen, and budgets, as data and as tables."""

from __future__ import annotations

import math

import msgspec

from scheduler.config import ClusterConfig
from scheduler.config.expected import ExpectedSpec
from scheduler.planning.seen import Seen
from serving.budgets import window_start_s
from serving.ledger.store import Store
from serving.report.tables import Column, Table, left
from serving.report.words import NONE, age, number, percent, plain


class Figure(msgspec.Struct, frozen=True):
    """None: not known. ``difference`` is relative to what was expected."""

    name: str
    unit: str
    expected: float | None
    actual: float | None

    @property
    def difference(self) -> float | None:
        """Actual over expected, less one."""
        if self.expected is None or self.actual is None or not self.expected:
            return None
        return self.actual / self.expected - 1.0


class BudgetNow(msgspec.Struct, frozen=True):
    """A tenant's budget in its current window, USD; open requests count at their estimate."""

    tenant: str
    per: str
    usd: float
    spent_usd: float


def figures(expected: ExpectedSpec | None, seen: Seen | None) -> tuple[Figure, ...]:
    """Every figure of the plan beside what was seen. The ledger does not know what hardware and rent cost."""

    def of(name: str) -> float | None:
        return getattr(expected, name) if expected is not None else None

    def rate(what: str) -> float | None:
        return seen.per_hour(what) if seen is not None else None

    def ratio(over: str, under: str, factor: float = 1.0) -> float | None:
        value = seen.ratio(over, under) if seen is not None else None
        return None if value is None else value * factor

    return (
        Figure("requests", "an hour", of("requests_per_hour"), rate("requests")),
        Figure("API money", "USD an hour", of("usd_api_per_hour"), rate("usd_api")),
        Figure("energy", "USD an hour", of("usd_energy_per_hour"), rate("usd_energy")),
        Figure("all, with hardware and rent", "USD an hour", of("usd_per_hour"), None),
        Figure("bought from APIs", "share", of("burst_share"), ratio("bought", "served")),
        Figure("in time", "share", of("slo_attainment"), ratio("in_time", "judged")),
        Figure("input tokens", "an answer", of("input_tokens_mean"), ratio("input_tokens", "served")),
        Figure("output tokens", "an answer", of("output_tokens_mean"), ratio("output_tokens", "served")),
        Figure("API price", "USD/Mtok", of("api_usd_per_mtok"), ratio("usd_api", "api_tokens", 1e6)),
    )


def budgets(config: ClusterConfig, store: Store, now_s: float) -> tuple[BudgetNow, ...]:
    """Of every tenant that has one. Raises StoreError."""
    found, spent_by_start = [], {}
    for tenant in config.tenants:
        if tenant.budget is None:
            continue
        start_s = window_start_s(tenant.budget, now_s)
        if start_s not in spent_by_start:
            spent_by_start[start_s] = store.spent_usd(start_s)
        spent_usd = math.fsum(usd for (name, _), usd in spent_by_start[start_s].items() if name == tenant.name)
        found.append(BudgetNow(tenant.name, tenant.budget.per, tenant.budget.usd, spent_usd))
    return tuple(found)


def table(rows: tuple[Figure, ...], hours: float, made_at: str) -> Table:
    """The figures."""
    columns = (left("figure"), Column("plan"), Column("seen"), Column("difference"), left("unit"))
    texts = [
        (row.name, _text(row, row.expected), _text(row, row.actual), _signed(row.difference), row.unit) for row in rows
    ]
    plan = f"plan of {plain(made_at)}" if made_at else "no plan"
    return Table(f"The last {age(hours * 3600.0)} of the ledger, {plan}", columns, texts)


def budget_table(rows: tuple[BudgetNow, ...]) -> Table:
    """Budgets."""
    columns = (left("tenant"), Column("budget USD"), left("per"), Column("spent USD"), Column("left USD"))
    texts = [
        (plain(r.tenant), number(r.usd), r.per, number(r.spent_usd), number(max(0.0, r.usd - r.spent_usd)))
        for r in rows
    ]
    return Table("Budgets", columns, texts)


def _text(row: Figure, value: float | None) -> str:
    if row.unit == "share" and value is not None:
        return f"{100.0 * value:.1f} %"  # attainments differ by tenths
    return number(value)


def _signed(difference: float | None) -> str:
    return NONE if difference is None else f"{'+' if difference > 0 else ''}{percent(difference)}"
