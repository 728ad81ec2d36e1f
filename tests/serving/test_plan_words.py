"""What a plan is said to come to: the lead, the sentences below figures and the tables, against the plan's own figures."""

from __future__ import annotations

import doctest
import io
from types import ModuleType

import msgspec
import numpy as np
import plans
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from scheduler.planning.document import Curve, Finalist, LoadDuration, Npv, Outcome, Plan, YearNpv
from serving.planning_report import axes, background, findings, merit, outcome, stack, supply_findings, tables, week
from serving.planning_report.outcome import lead, notices
from serving.report import terminal
from serving.report.tables import Table

replace = msgspec.structs.replace


def cells(table: Table, name: str) -> dict[str, str]:
    """A column of a table by the first cell of its rows."""
    place = [column.name for column in table.columns].index(name)
    return {row[0]: row[place] for row in table.rows}


@pytest.mark.parametrize("module", [axes, merit, outcome, stack, tables, week], ids=lambda module: module.__name__)
def test_examples_in_the_code_hold(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0 and found.failed == 0


def test_the_lead_says_what_to_do_what_it_costs_and_what_it_saves() -> None:
    plan = plans.three_pools()
    mean, whole = plan.usd_per_hour.mean, plan.all_api_usd_per_hour
    assert lead(plan) == (
        "Own 21 GPUs (3 × chat-70b, 1 × code-32b, 7 × mail-8b), reserve 4 GPUs (1 × chat-70b), rent up to 10 GPUs "
        f"(2 × chat-70b, 1 × code-32b) by the hour and buy the rest from APIs: this costs ${mean:.1f} per hour "
        f"(${8.76 * mean:.0f},000 a year) and saves ${whole - mean:.1f} per hour ({100 * (1 - mean / whole):.0f} %) against "
        "buying everything from APIs."
    )


def test_one_gpu_is_one_gpu_and_what_is_not_done_is_not_said() -> None:
    plan = plans.plan_of((plans.MAIL._replace(owned=1, peak=0.4),))
    assert plan.costs.api == 0.0
    assert lead(plan).startswith("Own 1 GPU (1 × mail-8b) and buy nothing from APIs: this costs $1.14 per hour")


def test_where_nothing_pays_the_lead_says_so() -> None:
    assert lead(plans.nothing_owned()).startswith("Own nothing and buy everything from APIs: this costs $1.87 per hour")
    assert lead(plans.nothing_owned()).endswith("; nothing else is cheaper.")


def test_a_plan_that_is_dearer_than_apis_is_not_called_a_saving() -> None:
    plan = plans.one_pool()
    told = lead(replace(plan, all_api_usd_per_hour=plan.usd_per_hour.mean / 1.25))
    assert "(25 %) MORE than buying everything from APIs." in told
    assert "saves" not in told
    costs = tables.costs(replace(plan, all_api_usd_per_hour=plan.usd_per_hour.mean / 1.25))
    assert costs.rows[-1][0] == "paid more"


def test_what_has_to_be_said_first_is_said_first() -> None:
    assert notices(plans.one_pool()) == ()
    told = notices(plans.stopped())
    assert told[0].startswith("PARTIAL") and told[1:] == plans.stopped().warnings
    assert notices(plans.one_pool(warnings=("no feed answered",))) == ("No feed answered.",)


def test_the_parts_of_the_cost_add_up_and_are_shares_of_it() -> None:
    plan = plans.three_pools()
    table = tables.costs(plan)
    usd, share = cells(table, "USD per hour"), cells(table, "share")
    parts = ["owned GPUs", "reserved GPUs", "GPUs rented by the hour", "energy", "APIs"]
    assert sum(float(usd[part]) for part in parts) == pytest.approx(float(usd["all of it"]), rel=5e-3)
    assert sum(float(share[part].removesuffix(" %")) for part in parts) == pytest.approx(
        100.0, abs=2.5
    )  # five roundings
    assert {row[0]: row[1] for row in table.rows if row[1]} == dict(
        zip(parts, ["amortized"] * 3 + ["avoidable"] * 2, strict=True)
    )
    assert (
        cells(table, "USD per year")["saved"] == f"{8760 * (plan.all_api_usd_per_hour - plan.usd_per_hour.mean):,.0f}"
    )


def test_a_mean_of_scenarios_that_differs_from_the_planned_hours_has_a_row_of_its_own() -> None:
    plan = plans.one_pool()
    assert "all of it, mean of the scenarios" not in cells(tables.costs(plan), "USD per hour")
    moved = replace(plan, usd_per_hour=plans.spread(1.1 * plan.costs.total))
    assert "all of it, mean of the scenarios" in cells(tables.costs(moved), "USD per hour")


def test_pools_say_what_changes_and_when_owning_pays() -> None:
    plan = plans.three_pools()
    assert cells(tables.pools(plan), "change") == {"chat-70b": "+1", "code-32b": "−1", "mail-8b": "+7"}
    dear = replace(plan, pools=tuple(replace(pool, breakeven_utilization=1.2) for pool in plan.pools))
    assert set(cells(tables.pools(dear), "owning pays from").values()) == {"never"}
    assert cells(tables.prices(plan), "reserved") == {"chat-70b": "7.60", "code-32b": "-", "mail-8b": "-"}


def test_sizings_are_ordered_by_cost_and_compared_with_the_plan() -> None:
    plan = plans.one_pool()
    table = tables.sizings(plan)
    means = [float(row[2]) for row in table.rows]
    assert means == sorted(means)
    assert cells(table, "against the plan")["sized for the peak"] == "+31 %"
    assert cells(table, "replicas")["own nothing"] == "none"


def test_what_ifs_are_a_table_for_the_terminal_too() -> None:
    plan = plans.one_pool()
    found = tables.what_if(plan.what_if)
    assert cells(found, "GPUs to own") == {"api_price_per_year: -0.5": "8", "load_factor: 2": "24"}
    assert tables.what_if(()).empty == "No what-if was asked for."
    told = findings.of_what_if(plan)
    assert told.startswith(
        "With load_factor: 2 the best plan costs $47.3 per hour, $21.0 more than this one, and owns 24 GPUs"
    )
    same = Outcome("nothing: else", 12, {"chat-70b": 3}, plan.usd_per_hour, 0.05)
    assert "as this one does, and owns 12 GPUs" in findings.of_what_if(replace(plan, what_if=(same,)))


@pytest.mark.parametrize("width", [60, 100, 240])
def test_tables_fit_a_terminal(width: int) -> None:
    plan = plans.three_pools()
    out = io.StringIO()
    console = Console(file=out, width=width)
    for table in (tables.pools(plan), tables.prices(plan), tables.costs(plan), tables.what_if(plan.what_if)):
        terminal.show(console, table, 50)
    assert all(len(line) <= width for line in out.getvalue().splitlines())
    assert "mail-8b" in out.getvalue()


def test_who_carries_the_work_is_what_the_week_says() -> None:
    plan = plans.one_pool()
    only = plan.weeks[0]
    whole = sum(only.load)
    need = plans.CHAT
    owned = sum(min(load, need.owned) for load in only.load) / whole
    told = supply_findings.of_load(plan)
    assert f"of chat-70b, owned {owned:.0%}".replace("%", " %") in told
    assert f"rented by the hour {sum(only.rented) / whole:.0%}, ".replace("%", " %") in told
    assert told.endswith(f"APIs {sum(only.api) / whole:.1%}.".replace("%", " %"))
    nearly = replace(plan, load_duration=(replace(plan.load_duration[0], owned=6.3),))
    assert "owned 99.9 %, reserved 0.1 %" in supply_findings.of_load(nearly)
    assert supply_findings.of_load(plans.twelve_pools()).endswith("; and 9 more pools.")


steps = st.lists(st.tuples(st.floats(0.01, 1.0), st.floats(0.0, 50.0)), min_size=1, max_size=20)


@given(steps, st.floats(0, 20), st.floats(0, 20), st.floats(0, 20))
def test_what_carries_the_work_is_all_of_it_and_the_base_goes_first(
    drawn: list[tuple[float, float]], owned: float, reserved: float, rented: float
) -> None:
    spans = np.array([span for span, _ in drawn])
    ends = np.cumsum(spans) / spans.sum()
    loads = sorted((load for _, load in drawn), reverse=True)
    line = [(float(at), load) for a, b, load in zip([0.0, *ends[:-1]], ends, loads, strict=True) for at in (a, b)]
    duration = LoadDuration("p", Curve(*zip(*line, strict=True)), owned, reserved, rented)
    found = stack.carried(duration)
    if not sum(loads):
        assert found == {}
        return
    assert sum(found.values()) == pytest.approx(1.0)
    # By hand: at any instant of the step it is what is left by those before.
    work = dict.fromkeys(stack.KINDS, 0.0)
    for span, load in zip(spans / spans.sum(), loads, strict=True):
        left = load
        for kind, room in zip(stack.KINDS, (owned, reserved, rented, float("inf")), strict=True):
            work[kind] += span * min(left, room)
            left -= min(left, room)
    assert found == pytest.approx({kind: part / sum(work.values()) for kind, part in work.items()}, abs=1e-9)


def test_what_carries_a_slope_is_exact_between_its_points() -> None:
    # A load from 10 replicas down to none; 4 owned ones carry a rectangle of 0.6 and a triangle of 0.4, together 3.2 of 5.
    slope = LoadDuration("p", Curve((0.0, 1.0), (10.0, 0.0)), 4.0, 0.0, 2.0)
    assert stack.carried(slope) == pytest.approx({"owned": 0.64, "reserved": 0.0, "rented": 0.2, "api": 0.16})
    late = LoadDuration("p", Curve((0.5, 1.0), (2.0, 2.0)), 1.0, 0.0, 0.0)
    assert stack.carried(late) == pytest.approx({"owned": 0.5, "reserved": 0.0, "rented": 0.0, "api": 0.5})


def test_the_screening_sentence_is_the_lower_envelope() -> None:
    plan = plans.one_pool()
    pool = plan.pools[0]
    assert pool.owned_usd_per_hour is not None and pool.rented_usd_per_hour is not None
    share = pool.owned_usd_per_hour / pool.rented_usd_per_hour
    assert supply_findings.of_screening(plan).endswith(
        f"for chat-70b it is first renting, then owning from {100 * share:.0f} %."
    )
    one = plan.screening[0]
    alone = replace(plan, screening=(replace(one, lines=one.lines[:1], crossings=((0.0, "owned"),)),))
    assert supply_findings.of_screening(alone).endswith("for chat-70b it is owning throughout.")


def test_a_week_names_its_busiest_hour() -> None:
    found = plans.week_of(plans.CODE, 3)
    place = int(np.argmax(found.load))
    told = supply_findings.of_week(found)
    assert told.startswith("Of code-32b, 1 to 2 replicas should run; it is busiest in ")
    assert f"in hour {place % 24} of day {place // 24 + 1}, with work for 2.68 of them, and APIs take 7.6 %" in told
    assert "always 7 replicas should run" in supply_findings.of_week(plans.week_of(plans.MAIL))
    level = replace(found, load=(1.5,) * 168)
    assert "; its load is level, with work for 1.50 of them" in supply_findings.of_week(level)
    single = plans.week_of(plans.MAIL._replace(owned=1, peak=0.5))
    assert "always 1 replica should run" in supply_findings.of_week(single)
    assert supply_findings.of_week(replace(found, days_seen=2.0)).endswith(
        "Only 2 d of the week were seen; the rest is taken to be like them."
    )


def test_days_that_are_alike_share_a_line() -> None:
    found = plans.week_of(plans.CHAT)
    assert [name for name, _ in week.rows_of(found)] == [f"day {i}" for i in range(1, 8)]
    alike = {name: getattr(found, name)[:24] * 7 for name in ("load", "base", "rented", "api", "replicas")}
    assert week.rows_of(replace(found, **alike)) == [("every day", 0)]
    known = week.rows_of(replace(found, from_monday=True))
    assert [name for name, _ in known] == ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]


def test_days_have_their_names_where_the_calendar_is_known() -> None:
    found = replace(plans.week_of(plans.CODE), from_monday=True)
    told = supply_findings.of_week(replace(found, load=(*found.load[:32], 9.0, *found.load[33:])))
    assert "; it is busiest from 08:00 UTC on Tuesdays, with work for 9.00 of them" in told


def test_the_merit_order_begins_with_the_cheapest_next_token() -> None:
    plan = plans.three_pools()
    order = background.by_merit(plan)
    assert [one.avoidable_usd_per_mtok for one in order] == sorted(
        one.avoidable_usd_per_mtok for one in plan.merit_order
    )
    told = supply_findings.of_merit(plan)
    assert told.startswith(
        "The next million tokens is cheapest at chat-70b (owned) for $0.0210 ($0.310 with everything); "
    )
    assert told.endswith("(an API) for $0.880.")
    bought = replace(plan, merit_order=plan.merit_order[-2:])
    assert supply_findings.of_merit(bought).endswith("; nothing is ours.")


def test_bars_of_the_merit_order_stand_side_by_side_and_none_vanishes() -> None:
    supplies = background.by_merit(plans.twelve_pools())
    found = merit.steps_of(supplies)
    known = sum(one.capacity_tokens_per_s or 0.0 for one in supplies)
    assert all(one.left == pytest.approx(sum(other.width for other in found[:i])) for i, one in enumerate(found))
    for one in found:
        capacity = one.supply.capacity_tokens_per_s
        assert one.width >= 0.02 * known
        assert capacity is None or one.width in (capacity, pytest.approx(0.025 * known))


def test_the_assumption_that_matters_most_comes_first() -> None:
    plan = plans.one_pool()
    shuffled = replace(plan, sensitivity=tuple(reversed(plan.sensitivity)))
    swings = [one.swing_usd_per_hour for one in findings.by_swing(shuffled)]
    assert swings == sorted(swings, reverse=True)
    told = findings.of_tornado(shuffled)
    low, high = 0.83 * plan.usd_per_hour.mean, 1.48 * plan.usd_per_hour.mean
    assert told.startswith(
        f"Load matters most: between 80 % and 120 % of what is planned the plan costs ${low:.1f} to ${high:.1f} per hour; "
        "3 of 6 assumptions would change how many GPUs to own, most load (from 8 to 16 GPUs)."
    )
    still = replace(plan, sensitivity=tuple(replace(one, gpus_high=one.gpus_low) for one in plan.sensitivity))
    assert findings.of_tornado(still).endswith("none of 6 assumptions changes how many GPUs are best to own.")


def test_a_share_is_told_in_per_cent_and_never_rounded_up_to_all() -> None:
    found = {one.assumption: findings.ends(one) for one in plans.one_pool().sensitivity}
    assert found["availability of owned replicas"] == ("97 %", "99.9 %")
    assert found["interest"] == ("−0.04", "0.12")


def npv_of(*cash: float) -> Npv:
    """Cash by year without interest."""
    sums = np.cumsum(cash)
    back = next((float(i) for i, usd in enumerate(sums) if i and usd >= 0.0), None)
    rows = tuple(
        YearNpv(float(i), usd, usd, float(total)) for i, (usd, total) in enumerate(zip(cash, sums, strict=True))
    )
    return Npv(0.08, rows, float(sums[-1]), back)


def test_owning_says_when_it_is_paid_back_and_what_it_comes_to() -> None:
    plan = plans.one_pool()
    told = findings.of_npv(replace(plan, npv=npv_of(-1000.0, 600.0, 600.0)))
    assert told.startswith(
        "$1,000 at the start is paid back after 2 years; over 2 years at 8.0 % a year it is worth $200 "
    )
    told = findings.of_npv(replace(plan, npv=npv_of(-1000.0, 600.0)))
    assert told.startswith("$1,000 at the start never pays back; over 1 year at 8.0 % a year it loses $400 ")
    assert findings.of_npv(plans.nothing_owned()) == "Nothing is to be owned, so that nothing has to pay back."


def with_finalists(*others: Finalist) -> Plan:
    plan = plans.one_pool()
    return replace(plan, finalists=(*(one for one in plan.finalists if one.is_chosen), *others))


def test_what_was_played_is_held_against_what_was_searched() -> None:
    plan = plans.one_pool()
    total = plan.costs.total
    told = findings.of_finalists(plan)
    played = 0.021 * total
    assert f"the compiled kernel paid ${1.021 * total:.1f} per hour for energy and APIs over 336 h, " in told
    assert f", ${played:.3f} more than searched (2.1 % of the whole cost); the exact engine paid " in told
    assert told.endswith("; 1 other plan was played too.")
    other = plan.finalists[1]
    assert findings.of_finalists(with_finalists(other, other)).endswith("; 2 other plans were played too.")
    assert findings.of_finalists(with_finalists()).endswith("of the whole cost).")
    same = replace(plan.finalists[0], played_usd_per_hour=plan.finalists[0].searched_usd_per_hour)
    assert findings.of_finalists(replace(plan, finalists=(same,))).endswith("over 336 h, as searched.")
    assert [row[-1] for row in background.finalists(plan).rows] == ["chosen", "chosen", ""]


def test_objectives_are_never_rounded_up_to_all() -> None:
    plan = plans.one_pool()
    late = replace(plan, finalists=(replace(plan.finalists[0], slo_attainment=0.99999, burst_share=0.0),))
    assert cells(background.finalists(late), "in time %") == {"3 × chat-70b": "99.9"}
    assert cells(background.finalists(late), "burst %") == {"3 × chat-70b": "0.0"}


def test_kinds_of_requests_are_counted_by_where_they_are_cheaper() -> None:
    told = findings.of_switches(plans.three_pools())
    assert told.startswith("2 of 2 kinds of requests are cheaper here, everything included; closest to a change is ")
    # 44 Mtok a day, crossings at 29 and 61: 61 / 44 is the smaller ratio.
    assert told.endswith("code-32b short, with 44.0 million tokens a day, where an own replica pays from 61.0 million.")
    assert findings.of_switches(plans.one_pool()).startswith("chat-70b short is cheaper here, everything included; ")


def test_energy_is_told_in_units_that_fit() -> None:
    plan = plans.one_pool()
    assert plan.energy is not None
    mwh = plan.energy.kwh_per_year / 1000.0
    assert supply_findings.of_energy(plan).startswith(
        f"A year takes {mwh:.1f} MWh for $9,470, 0.412 J a token, and 31.4 t of CO2"
    )
    small = replace(plan, energy=replace(plan.energy, kwh_per_year=120.0, kg_co2_per_year=44.0))
    assert supply_findings.of_energy(small).startswith("A year takes 120 kWh")
    assert "and 44.0 kg of CO2" in supply_findings.of_energy(small)
    unknown = replace(plan, energy=replace(plan.energy, kg_co2_per_year=None, grams_co2_per_kwh=None))
    assert supply_findings.of_energy(unknown).endswith("how much carbon that is, is not known.")
    assert {row[0] for row in background.energy(unknown).rows} == {"energy", "its price", "a token served here"}


def test_assumptions_are_counted_by_how_well_they_are_known() -> None:
    told = findings.of_assumptions(plans.one_pool())
    assert told == "Of 5 figures that the plan rests on: 1 measured, 1 calibrated, 1 modelled, 2 assumed."


def test_the_cost_of_other_sizes_is_told_with_their_gpus() -> None:
    plan = plans.one_pool()
    total = plan.costs.total
    told = findings.of_owned(plan)
    assert told.startswith(f"With 12 GPUs owned, everything costs ${total:.1f} per hour on average, and between ")
    assert f"between ${0.88 * total:.1f} and ${1.14 * total:.1f} in eight of ten scenarios" in told
    assert (
        f"; sized for the mean (8 GPUs) it would cost ${1.13 * total:.1f}, for the 95th percentile (17 GPUs) " in told
    )
    assert findings.of_owned(plans.nothing_owned()).startswith("With no GPU owned, everything costs ")
    lower = replace(plan.owned_costs[0], usd_per_hour=plans.spread(0.5 * total))
    assert f"; 0 GPUs would have the lowest mean, ${0.5 * total:.1f}" in findings.of_owned(
        replace(plan, owned_costs=(lower,))
    )
