"""The page of a plan in a real browser, on screens of two widths and on paper."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scheduler.planning.document import Plan
from serving.planning_report.page import html
from serving.report.page import write
from tests.e2e import browser as browsers
from tests.e2e.browser import Browser, browsing
from tests.e2e.pages import faults, figures
from tests.serving import plans

FIGURES = [
    "owned", "load", "screening", "week", "merit", "tornado", "npv", "energy", "finalists", "switches", "what-if",
    "assumptions",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as found:
        yield found


@pytest.mark.parametrize(
    "plan",
    [
        plans.one_pool,
        plans.three_pools,
        plans.twelve_pools,
        plans.nothing_owned,
        plans.stopped,
        lambda: plans.one_pool(usd=1e-7),
        lambda: plans.three_pools(usd=1e7),
        lambda: plans.plan_of(
            (plans.CHAT._replace(name="a-pool-with-a-rather-long-name-" * 4, gpu="H100 SXM 80 GB HBM3"),)
        ),
    ],
    ids=["one", "three", "twelve", "nothing", "stopped", "tiny", "huge", "long"],
)
def test_the_page_is_whole_quiet_and_printable(browser: Browser, plan: Callable[[], Plan], tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    write(html(plan()), page)
    assert faults(browser, page) == []
    found = [name.removeprefix("figure-") for name in figures(browser)]
    assert [name for name in found if not name.startswith("week-")] == FIGURES


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("<script>console.error('loud')</script>", "console error"),
        ("<script>throw new Error('thrown')</script>", "thrown"),
        ("<img src='http://127.0.0.1:9/x.png'>", "failed: net::"),
        ("<img src='data:,'>", "has scripts, links or pictures"),
        ("<p style='width: 3000px'>wide", "too wide at 1280 px: P wide"),
        (
            "<figure id='f'><svg width='300' height='50'><text x='290' y='20'>beyond the edge",
            "beyond the edge at 1280 px: f: beyond the edge",
        ),
        ("<figure><svg width='300' height='0'></svg>", "<svg width="),
    ],
)
def test_what_is_wrong_with_a_page_is_seen(browser: Browser, tmp_path: Path, body: str, told: str) -> None:
    page = tmp_path / "bad.html"
    page.write_text(f"<!DOCTYPE html><title>x</title><body>{body}")
    assert any(told in fault for fault in faults(browser, page))


def test_without_a_browser_the_failure_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    with pytest.raises(AssertionError, match="apt install chromium"):
        browsers.executable()
    own = tmp_path / "own-browser"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("CHROMIUM", str(own))
    assert browsers.executable() == str(own)


def test_a_browser_that_was_stopped_leaves_nothing_behind() -> None:
    with browsing() as found:
        group = os.getpgid(found.process_id)
        assert found.evaluate("1 + 1") == 2
    with pytest.raises(ProcessLookupError):
        os.getpgid(found.process_id)
    assert group == found.process_id != os.getpgid(0)
