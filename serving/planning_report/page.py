"""The page of a plan: what stands where."""

from __future__ import annotations

from scheduler.planning.document import Plan
from serving.planning_report import background, tables
from serving.planning_report.figures import all_of
from serving.planning_report.outcome import lead, made_from, notices
from serving.report import page
from serving.report.page import Heading, Notice
from serving.report.words import plain


def html(plan: Plan, title_note: str = "") -> bytes:
    """The page in UTF-8. ``title_note`` says in a few words what is special about this plan."""
    name = plain(plan.trace.name, 80)
    note = f" ({plain(title_note)})" if title_note else ""
    heading = Heading(
        f"Plan for {name}{note}",
        f"Plan: what to own, rent and buy for {name}{note}",
        lead(plan),
        made_from(plan),
    )
    return page.html(
        heading,
        (
            ("", (Notice(notices(plan)),)),
            ("What to own, rent and buy", (tables.pools(plan), tables.prices(plan), tables.costs(plan))),
            ("", all_of(plan)),
            ("Where this comes from", (background.trace(plan), background.expected(plan))),
        ),
    )
