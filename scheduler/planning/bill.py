"""From what the search pays to what is billed: renting costs it more than any cloud asks, since the clock reacts late."""

from __future__ import annotations

from scheduler.planning import recourse
from scheduler.planning.costs import Costs
from scheduler.planning.found import Found
from scheduler.planning.model import Choice, Model
from scheduler.planning.recourse import Parts
from scheduler.planning.scenarios import today


def bill(found: Found, model: Model, choice: Choice, parts: list[Parts]) -> Costs:
    """Sum of the units' parts, and what never comes home. Of what the search pays for renting a part comes on bills."""
    sums = {name: sum(getattr(part.costs, name) for part in parts) for name in Costs.__struct_fields__}
    billed_usd = sum(
        part.costs.rented * _billed_share(found, model, choice, index)
        for index, part in enumerate(parts)
        if part.costs.rented
    )
    api_usd = sums["api"] + float(model.bought_by(model.drawn).mean())
    starting_usd = sums["starting"] + sums["rented"] - billed_usd
    return Costs(**sums | {"api": api_usd, "rented": billed_usd, "starting": starting_usd})


def _billed_share(found: Found, model: Model, choice: Choice, index: int) -> float:
    """Of what the search pays for renting a unit: what the clock is billed for the trace as it is, over what that pays there.

    Where the search rents nothing today, or no clock was rehearsed: as much as the rent is listed at.
    """
    unit = model.units[index]
    searched = recourse.parts(
        model.surfaces[index], model.money(unit), [today(model.edges_s)], choice.owned[index], choice.reserved[index]
    ).costs.rented
    if searched <= 0.0 or unit.name not in found.rent_usd_per_hour:
        return 1.0 / model.overheads.get(unit.name, 1.0)
    return min(1.0, found.rent_usd_per_hour[unit.name] / searched)
