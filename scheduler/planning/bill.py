"""From what the search pays to what is billed: renting may cost it more than clouds ask, since the clock reacts late."""

from __future__ import annotations

from scheduler.planning import recourse
from scheduler.planning.costs import Costs
from scheduler.planning.found import Found
from scheduler.planning.model import Choice, Model
from scheduler.planning.recourse import Parts
from scheduler.planning.scenarios import today


def bill(found: Found, model: Model, choice: Choice, parts: list[Parts]) -> Costs:
    """Sum of the units' parts, and what never comes home. Of what the search pays for renting a part comes on bills.

    All of it where the clock is billed as much or more: the sum is what the search expects, and that has both in it.
    """
    sums = {name: sum(getattr(part.costs, name) for part in parts) for name in Costs.__struct_fields__}
    shares = billed_shares(found, model, choice)
    billed_usd = sum((part.costs.rented * min(1.0, share) for part, share in zip(parts, shares, strict=True)), 0.0)
    api_usd = sums["api"] + float(model.bought_by(model.drawn).mean())
    starting_usd = max(0.0, sums["rented"] - billed_usd)
    return Costs(**sums | {"api": api_usd, "rented": billed_usd, "starting": starting_usd})


def billed_shares(found: Found, model: Model, choice: Choice) -> list[float]:
    """By unit, what the clock is billed for the trace as it is, over what the search pays for renting there.

    Where the search rents nothing today, or no clock was rehearsed: what an hour is listed at, over what the search pays.
    """
    shares = []
    for index, unit in enumerate(model.units):
        money, had = model.money(unit), (choice.owned[index], choice.reserved[index])
        searched = recourse.parts(model.surfaces[index], money, [today(model.edges_s)], *had).costs.rented
        if searched > 0.0 and unit.name in found.rent_usd_per_hour:
            shares.append(found.rent_usd_per_hour[unit.name] / searched)
        elif money.rented_usd_per_hour:
            shares.append((model.listed(unit).rented_usd_per_hour or 0.0) / money.rented_usd_per_hour)
        else:
            shares.append(1.0)
    return shares
