"""From what was found to the ``Plan`` that is written: every figure in its place."""

from __future__ import annotations

from scheduler.planning import document, meaning, outlook
from scheduler.planning.assumptions import assumptions
from scheduler.planning.bill import bill
from scheduler.planning.cautions import cautions
from scheduler.planning.energy_use import energy_use
from scheduler.planning.found import Found
from scheduler.planning.search import summary
from scheduler.planning.shortage import billed


def plan_of(found: Found, facts: document.TraceFacts, made_at: str) -> document.Plan:
    """The document of what has been found. Raises ValueError where not even a first search was done."""
    model, choice = found.model, found.choice
    if model is None or choice is None:
        raise ValueError("nothing was found that could be written")
    parts = model.parts(choice)
    costs = bill(found, model, choice, parts)
    whole = not found.partial
    return document.Plan(
        made_at=made_at,
        partial=found.partial,
        warnings=(*found.warnings, *cautions(model, choice, costs)),
        trace=facts,
        horizon_years=model.spec.horizon_years,
        pools=meaning.pool_plans(model, choice, parts, found.technologies),
        costs=costs,
        usd_per_hour=summary(billed(model, choice), model.spec.cvar_share),
        all_api_usd_per_hour=float(model.all_api_usd_per_hour().mean()),
        expected=meaning.expected(found, model, choice),
        finalists=tuple(found.finalists),
        sizings=found.sizings,
        owned_costs=found.owned_costs,
        load_duration=outlook.load_durations(model, choice),
        screening=outlook.screenings(model),
        weeks=outlook.weeks(model, choice, found.asked.begins_s),
        merit_order=meaning.merit_order(found, model, choice),
        sensitivity=found.sensitivity,
        npv=meaning.present_value(model, choice) if whole else None,
        energy=energy_use(found, model, choice),
        switches=meaning.switches(found, model, choice, parts),
        assumptions=assumptions(found, model),
    )
