"""The page of a plan: self-contained, valid, harmless, the same each time, and whole whatever is missing from the plan."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import msgspec
import plans
import pytest
from html_page import Page, harmless
from price_cases import HOSTILE

from scheduler.planning.document import Plan, PoolPlan, Spread
from serving.planning_report import figures
from serving.planning_report.page import html

FIGURES = [
    "owned", "load", "screening", "week", "merit", "tornado", "npv", "energy", "finalists", "switches", "what-if",
    "assumptions",
]  # fmt: skip
DRAWN = ["owned", "load", "screening", "week", "merit", "tornado", "npv"]
replace = msgspec.structs.replace


def alike(plan: Plan) -> Plan:
    """The plan with seven times the same day, which is drawn once: weeks of numbers take most of the time."""
    parts = ("load", "base", "rented", "api", "replicas")
    weeks = tuple(replace(week, **{name: getattr(week, name)[:24] * 7 for name in parts}) for week in plan.weeks)
    return replace(plan, weeks=weeks)


VARIANTS: dict[str, Callable[[], Plan]] = {
    "one": plans.one_pool,
    "three": plans.three_pools,
    "twelve": lambda: alike(plans.twelve_pools()),
    "nothing": plans.nothing_owned,
    "stopped": plans.stopped,
    "tiny": lambda: alike(plans.one_pool(usd=1e-9)),
    "huge": lambda: alike(plans.one_pool(usd=1e9)),
}


@cache
def written(name: str) -> str:
    """A variant's page, drawn once for all tests."""
    return html(VARIANTS[name]()).decode()


def page_of(plan: Plan) -> Page:
    return Page(html(plan).decode())


def text_of(plan: Plan) -> str:
    return "".join(page_of(plan).text)


def figures_of(page: Page) -> list[str]:
    return [str(attrs["id"]).removeprefix("figure-") for tag, attrs in page.tags if tag == "figure"]


@pytest.mark.parametrize("name", VARIANTS)
def test_the_page_is_valid_and_needs_nothing_from_elsewhere(name: str) -> None:
    text = written(name)
    page = Page(text)
    harmless(page)
    assert "http://" not in text and "https://" not in text
    assert "default-src 'none'" in text
    assert [one for one in figures_of(page) if not one.startswith("week-")] == FIGURES


@pytest.mark.parametrize("name", VARIANTS)
def test_no_figure_of_the_machine_is_left_raw(name: str) -> None:
    page = Page(written(name))
    told = " ".join([*page.text, *page.attributes("aria-label")])
    assert not re.search(r"\b(nan|inf|None|NaN|Infinity|e\+\d+)\b|\$\?", told)
    assert "  " not in " ".join(page.attributes("aria-label"))


def test_every_figure_of_a_whole_plan_is_drawn_and_told_in_words() -> None:
    found = {figure.name: figure for figure in figures.all_of(plans.one_pool())}
    assert [name for name, figure in found.items() if figure.drawing is not None] == DRAWN
    for name in DRAWN:
        drawing = found[name].drawing
        assert drawing is not None
        assert drawing.get("role") == "img"
        assert str(drawing.get("aria-label")).endswith(found[name].finding)
    assert all(figure.finding.endswith(".") for figure in found.values())
    assert all(figure.tables[0].rows for name, figure in found.items() if name not in DRAWN)


def test_there_is_a_week_for_each_pool_and_no_drawing_higher_than_a_page() -> None:
    page = Page(written("twelve"))
    assert [name for name in figures_of(page) if name.startswith("week")] == [
        "week",
        *(f"week-{i}" for i in range(2, 13)),
    ]
    sides = [[float(side) for side in box.split()[2:]] for box in page.attributes("viewbox")]
    assert len(sides) == 12 + 2 * 2 + 4  # six panels a drawing of load and screening curves
    assert all(height <= 0.8 * width for width, height in sides)


def test_more_pools_than_can_be_drawn_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_POOLS_MAX", 2)
    found = figures.all_of(alike(plans.three_pools()))
    assert [figure.name for figure in found if "Not drawn: mail-8b." in figure.finding] == [
        "load",
        "screening",
        "week-2",
    ]


def test_the_same_plan_is_the_same_page_also_once_it_was_written_and_read() -> None:
    read = msgspec.json.decode(msgspec.json.encode(plans.one_pool()), type=Plan)
    assert html(read).decode() == written("one")


def test_what_is_partial_says_so_before_anything_else_with_all_warnings() -> None:
    plan = plans.stopped()
    page = Page(written("stopped"))
    text = "\n".join(page.text)
    places = [
        text.index(told)
        for told in ("PARTIAL: the plan was stopped early.", *plan.warnings, "What to own, rent and buy")
    ]
    assert places[-1] != text.index("Plan: what to own")
    assert places == sorted(places)
    assert [attrs["class"] for _, attrs in page.tags if attrs.get("role") == "note"] == ["notice"]


def test_a_whole_plan_without_warnings_has_no_frame() -> None:
    assert "note" not in Page(written("one")).attributes("role")


def test_what_is_missing_leaves_a_sentence_and_no_empty_figure() -> None:
    stopped, whole = plans.stopped(), plans.one_pool()
    missing = {
        name: figure for figure in figures.all_of(stopped) if (name := figure.name) in ("week", "merit", "tornado")
    }
    assert {figure.finding for figure in missing.values()} == {"Not reached: the plan was stopped before this."}
    nothing = {
        "owned_costs",
        "load_duration",
        "screening",
        "weeks",
        "merit_order",
        "sensitivity",
        "finalists",
        "sizings",
    }
    nothing |= {"switches", "what_if", "assumptions"}
    empty = replace(whole, **dict.fromkeys(nothing, ()), npv=None, energy=None, expected=None)
    told = [figure.finding for figure in figures.all_of(empty)]
    assert len(set(told)) == len(FIGURES) - 1  # neither a load-duration curve nor a week of what has no load
    assert all(figure.drawing is None and not figure.tables for figure in figures.all_of(empty))
    assert "What the gateway should see is not known." in text_of(empty)


def test_a_title_says_what_is_special_about_a_plan() -> None:
    text = html(alike(plans.one_pool()), "twice the load").decode()
    assert "<title>Plan for azure-2024 (twice the load)</title>" in text
    assert "for azure-2024 (twice the load)</h1>" in text


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_from_outside_stays_a_name(name: str) -> None:
    need = plans.CHAT._replace(name=name, gpu=name)
    plan = alike(plans.plan_of((need,), warnings=(name,)))
    plan = replace(
        plan,
        trace=replace(plan.trace, name=name),
        screening=tuple(replace(one, lines=((name, one.lines[0][1]),)) for one in plan.screening),
        sizings=tuple(replace(one, name=name) for one in plan.sizings[-1:]),
        merit_order=tuple(replace(one, name=name) for one in plan.merit_order),
        sensitivity=tuple(replace(one, assumption=name, unit=name) for one in plan.sensitivity[:1]),
        switches=tuple(replace(one, profile=name, model_there=name, advice=name) for one in plan.switches),
        what_if=tuple(replace(one, name=name, note=name) for one in plan.what_if),
        assumptions=tuple(replace(one, name=name, value=name, source=name) for one in plan.assumptions[:1]),
    )
    page = Page(html(plan, name).decode())
    harmless(page)
    joined = "".join(page.text)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", joined)
    if len(name) < 16 and name.isprintable():
        assert joined.count(name) >= 12


def test_costs_beyond_all_money_are_left_out_of_the_curve() -> None:
    never = Spread(*(float("inf"),) * 5)
    plan = alike(plans.one_pool(all_api_usd_per_hour=float("inf")))
    plan = replace(
        plan,
        owned_costs=(replace(plan.owned_costs[0], usd_per_hour=never), *plan.owned_costs[1:]),
        sizings=tuple(replace(one, usd_per_hour=never) if one.name == "none" else one for one in plan.sizings),
    )
    assert [mark.name for mark in figures.marks(plan)] == [
        "this plan",
        "mean, now",
        "for the 95th perc.",
        "for the peak",
    ]
    assert figures.owned(plan).drawing is not None
    assert "what APIs alone would cost is not known" in text_of(plan)


def test_a_plan_without_any_pool_is_a_page_that_says_so() -> None:
    plan = plans.plan_of(())
    assert plan.pools == ()
    assert "No pool and no candidate was planned." in text_of(plan)


def test_a_single_point_of_every_curve_is_enough() -> None:
    plan = alike(plans.one_pool())
    assert plan.npv is not None
    plan = replace(
        plan,
        owned_costs=plan.owned_costs[:1],
        merit_order=plan.merit_order[:1],
        sensitivity=plan.sensitivity[:1],
        npv=replace(plan.npv, years=plan.npv.years[:1], breakeven_years=None),
        pools=(replace(plan.pools[0], breakeven_utilization=1.4), *_nothing_known(plan.pools[0])),
    )
    page = page_of(plan)
    harmless(page)
    assert "never pays back" in "".join(page.text)


def _nothing_known(pool: PoolPlan) -> tuple[PoolPlan, ...]:
    unknown = dict.fromkeys(("owned_usd_per_hour", "reserved_usd_per_hour", "rented_usd_per_hour"))
    return (replace(pool, name="new", owned=0, reserved=0, breakeven_utilization=None, **unknown),)
