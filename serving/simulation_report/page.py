"""The page of a simulation: which figures and tables stand where."""

from __future__ import annotations

from scheduler.simulation.simulate import Result
from serving.report import page
from serving.report.page import Heading
from serving.report.words import plain
from serving.simulation_report import findings, tables
from serving.simulation_report.figures import all_of
from serving.simulation_report.outcome import lead
from serving.simulation_report.tables import Given


def html(result: Result, given: Given) -> bytes:
    """The page in UTF-8."""
    name = plain(result.scenario.trace.name)
    heading = Heading(
        f"Simulation of {name}",
        f"Simulation: {findings.heading(result)}, {name}",
        lead(result),
        tables.legend(result),
    )
    return page.html(
        heading,
        (
            ("The policies", (tables.policies(result),)),
            ("", all_of(result)),
            ("What this rests on", (tables.assumptions(result, given),)),
        ),
    )
