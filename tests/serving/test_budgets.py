"""Budgets over many gateways: windows, gateways that come and go, and reports that are always a little old."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from scheduler.config.demand import Budget
from scheduler.core.market import Lease
from serving.budgets import BudgetBook, window_start_s

TTL_S = 10.0
NOON_S = datetime(2026, 3, 15, 12, tzinfo=UTC).timestamp()
DAY_S = 86_400.0


def book(usd: float = 10.0, per: str = "day", at_s: float = NOON_S) -> BudgetBook:
    made = BudgetBook({"t": Budget(usd=usd, per=per)}, TTL_S, at_s)  # type: ignore[arg-type]
    made.opens_at_once()
    return made


@pytest.mark.parametrize(
    ("per", "moment", "start"),
    [
        ("day", datetime(2026, 3, 15, 23, 59, 59, tzinfo=UTC), datetime(2026, 3, 15, tzinfo=UTC)),
        ("day", datetime(2026, 3, 15, tzinfo=UTC), datetime(2026, 3, 15, tzinfo=UTC)),
        ("month", datetime(2026, 3, 31, 5, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)),
        ("month", datetime(2024, 2, 29, 5, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC)),
    ],
)
def test_a_window_starts_with_the_utc_day_or_month(per: str, moment: datetime, start: datetime) -> None:
    assert window_start_s(Budget(usd=1, per=per), moment.timestamp()) == start.timestamp()  # type: ignore[arg-type]


def test_a_gateway_gets_its_share_for_the_time_of_one_lease() -> None:
    assert book().leases("a", NOON_S, {}, {}, NOON_S) == {"t": Lease(10.0 / 2, NOON_S + TTL_S)}


def test_what_gateways_that_are_gone_have_spent_is_gone_from_the_budget() -> None:
    ledger = {("t", "gone"): 4.0, ("other", "gone"): 5.0}
    assert book().leases("a", NOON_S, {"t": 1.0}, ledger, NOON_S)["t"].usd == 1.0 + (10.0 - 4.0 - 1.0) / 2


def test_a_gateways_own_ledger_rows_are_not_counted_beside_its_report() -> None:
    assert book().leases("a", NOON_S, {"t": 3.0}, {("t", "a"): 2.5}, NOON_S)["t"].usd == 3.0 + 7.0 / 2


def test_a_new_controller_grants_nothing_until_every_older_lease_has_run_out() -> None:
    made = BudgetBook({"t": Budget(usd=10)}, TTL_S, NOON_S)
    assert made.leases("a", NOON_S - 5, {}, {}, NOON_S + TTL_S - 0.01) == {}
    assert made.leases("a", NOON_S - 5, {}, {}, NOON_S + TTL_S)["t"].usd == 5.0


def test_a_controller_that_has_just_restarted_renews_what_a_gateway_holds_and_counts_it() -> None:
    made = BudgetBook({"t": Budget(usd=10.0)}, TTL_S, NOON_S)
    renewed = made.leases("a", NOON_S - 5, {"t": 1.0}, {}, NOON_S + 1, {"t": 4.0})
    assert renewed == {"t": Lease(4.0, NOON_S + 1 + TTL_S)}
    assert made.leases("new", NOON_S, {}, {}, NOON_S + 1) == {}
    assert made.leases("new", NOON_S, {}, {}, NOON_S + TTL_S)["t"].usd == pytest.approx((10.0 - 4.0) / 3)


def test_until_the_ledger_has_told_what_gateways_hold_is_prolonged_and_nothing_is_granted() -> None:
    made = BudgetBook({"t": Budget(usd=10.0)}, TTL_S, NOON_S)
    late_s = NOON_S + 5 * TTL_S
    assert made.leases("a", NOON_S - 5, {"t": 1.0}, None, late_s, {"t": 4.0}) == {"t": Lease(4.0, late_s + TTL_S)}
    assert made.leases("new", NOON_S, {}, None, late_s) == {}
    # Now the ledger has told, but b, which holds a lease as well, has not been heard of yet.
    assert made.leases("new", NOON_S, {}, {}, late_s + 1) == {}
    assert made.leases("b", NOON_S - 5, {}, {}, late_s + 2, {"t": 3.0})["t"].usd == 3.0
    made.leases("a", NOON_S - 5, {"t": 1.0}, {}, late_s + 2, {"t": 4.0})
    granted = made.leases("new", NOON_S, {}, {}, late_s + TTL_S)["t"].usd
    assert granted == pytest.approx((10.0 - 4.0 - 3.0) / 4)


def test_a_new_day_opens_the_budget_again_and_what_was_spent_before_it_stays_out_of_it() -> None:
    made = book()
    midnight_s = window_start_s(Budget(usd=1), NOON_S) + DAY_S
    made.leases("a", NOON_S, {"t": 8.0}, {}, midnight_s - 1)
    lease = made.leases("a", NOON_S, {"t": 8.0}, {}, midnight_s + 1)["t"]
    assert lease.usd == pytest.approx(8.0 + 10.0 / 2)


def test_a_gateway_older_than_the_window_is_charged_only_for_what_the_ledger_has_in_it() -> None:
    started_s = NOON_S - 5 * DAY_S
    lease = book().leases("a", started_s, {"t": 100.0}, {("t", "a"): 3.0}, NOON_S)["t"]
    # 97 of the 100 were spent before today; of today's ten, three are gone.
    assert lease.usd == pytest.approx(100.0 + 7.0 / 2)


def test_what_a_silent_gateway_was_granted_comes_back_and_what_it_spent_does_not() -> None:
    made = book()
    assert made.leases("silent", NOON_S, {"t": 2.0}, {}, NOON_S)["t"].usd == 6.0
    assert made.leases("b", NOON_S, {}, {}, NOON_S + 1)["t"].usd == pytest.approx((10.0 - 6.0) / 3)
    for ledger, left in (({}, 8.0), ({("t", "silent"): 2.5}, 7.5)):
        later = made.leases("b", NOON_S, {}, ledger, NOON_S + 2 * TTL_S + 1)
        assert later["t"].usd == pytest.approx(left / 2)


def test_a_smaller_lease_counts_only_once_its_gateway_goes_by_it() -> None:
    made = book()
    first = made.leases("a", NOON_S, {}, {}, NOON_S)["t"].usd
    assert first == 5.0
    other = made.leases("b", NOON_S, {}, {}, NOON_S + 1, {})["t"].usd
    smaller = made.leases("a", NOON_S, {}, {}, NOON_S + 2, {"t": first})["t"].usd
    assert smaller < first
    # The smaller one may be lost on its way: a may still spend all of the first.
    assert made.leases("b", NOON_S, {}, {}, NOON_S + 3, {"t": other})["t"].usd == pytest.approx((10.0 - first) / 3)
    made.leases("a", NOON_S, {}, {}, NOON_S + 4, {"t": smaller})
    assert made.leases("b", NOON_S, {}, {}, NOON_S + 5, {"t": other})["t"].usd > other


class Gateways(RuleBasedStateMachine):
    """Three gateways with one budget; answers get lost, spending never waits for them, controllers die."""

    @initialize()
    def start(self) -> None:
        self.now_s = NOON_S
        self.book = book()
        self.ledger: dict[tuple[str, str], float] | None = {}
        self.lease = [Lease(0.0, 0.0)] * 3
        self.spent = [0.0] * 3
        self.in_window = 0.0
        self.window_s = window_start_s(Budget(usd=1), NOON_S)
        self.known = [True] * 3

    @rule(i=st.integers(0, 2), share=st.sampled_from([0.1, 0.5, 1.0]))
    def spend(self, i: int, share: float) -> None:
        if self.now_s < self.lease[i].expires_s:
            usd = share * max(0.0, self.lease[i].usd - self.spent[i])
            self.spent[i] += usd
            self.in_window += usd

    @rule(i=st.integers(0, 2), lost=st.sampled_from([False, False, True]), between=st.sampled_from([0.0, 1.0]))
    def report(self, i: int, lost: bool, between: float) -> None:
        """``between``: what is spent, of what may be, while the report is on its way."""
        spent = {"t": self.spent[i]}
        held = {"t": self.lease[i].usd} if self.now_s < self.lease[i].expires_s else {}
        granted = self.book.leases(f"g{i}", NOON_S, spent, self.ledger, self.now_s, held).get("t")
        self.spend(i, between)
        if not lost and granted is not None:
            self.lease[i] = granted

    @rule()
    def restart(self) -> None:
        """Another controller begins, which knows of no spending until the ledger's loader tells it."""
        self.book, self.ledger = BudgetBook({"t": Budget(usd=10.0)}, TTL_S, self.now_s), None

    @rule()
    def tell(self) -> None:
        self.ledger = {("t", f"g{i}"): usd for i, usd in enumerate(self.spent)}

    @rule(seconds=st.sampled_from([0.5, 0.5, 4.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @invariant()
    def together_they_can_never_spend_more_than_the_budget(self) -> None:
        if not hasattr(self, "lease"):
            return
        pairs = zip(self.lease, self.spent, strict=True)
        could = sum(max(0.0, lease.usd - spent) for lease, spent in pairs if self.now_s < lease.expires_s)
        assert self.in_window + could <= 10.0 + 1e-9


TestGateways = Gateways.TestCase
TestGateways.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
