"""Pictures of load and supply, from the fluid model: load-duration curves, screening curves, the week by its hours."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from msgspec import structs

from scheduler.planning import document, recourse
from scheduler.planning.model import Choice, Model
from scheduler.planning.scenarios import expected
from scheduler.planning.screening import crossings, lines, load_duration
from scheduler.planning.seen import hour_of_week
from scheduler.planning.surface import Surface
from scheduler.planning.units import Unit

_POINTS = 200
_HARDLY = 0.05  # of an hour in which one is rented: failures of owned replicas are in it
_HOURS = 168
_HOUR_S = 3600.0
_DAY_S = 86_400.0


def load_durations(model: Model, choice: Choice) -> tuple[document.LoadDuration, ...]:
    """Load of each unit over the share of time in which it is exceeded, with what is owned and reserved."""
    found = []
    share = np.diff(model.edges_s)
    for unit, surface, owned, reserved in _rows(model, choice):
        at, load = load_duration(surface.load, share)
        x = np.linspace(0.0, 1.0, min(_POINTS, len(load)))
        rented = float(_rented(model, unit, surface, owned, reserved).max(initial=0.0))
        usable = model.money(unit).usable
        found.append(
            document.LoadDuration(
                unit.name, document.Curve(tuple(x.tolist()), tuple(np.interp(x, at, load).tolist())), owned * usable,
                reserved * usable, rented * usable,
            )
        )  # fmt: skip
    return tuple(found)


def screenings(model: Model) -> tuple[document.Screening, ...]:
    """What one more replica of each unit costs against the share of time that it is used, and what the API would."""
    found = []
    for unit in model.units:
        money = model.money(unit)
        own, held = (np.inf if usd is None else usd for usd in (money.owned_usd_per_hour, money.reserved_usd_per_hour))
        hour_s = _HOUR_S * money.usable
        drawn = lines(
            own, held, money.rent_usd_per_hour(), unit.api_usd_per_work_s * hour_s, unit.energy_usd_per_work_s * hour_s
        )
        # What the API asks where it is cheaper than everything ends the picture.
        found.append(
            document.Screening(
                unit.name,
                tuple(
                    (line.name, document.Curve((0.0, 1.0), (line.usd_per_hour(0.0), line.usd_per_hour(1.0))))
                    for line in drawn
                ),
                crossings(drawn),
            )
        )
    return tuple(found)


def weeks(model: Model, choice: Choice, begins_s: float | None = None) -> tuple[document.Week, ...]:
    """By hour of the week; hours that the trace has not seen are those of the same hour of other days.

    Weeks begin on Monday 00:00 UTC where ``begins_s`` is known (Unix seconds of second 0 of the trace), else with the trace.
    """
    middles_s = 0.5 * (model.edges_s[1:] + model.edges_s[:-1])
    since_s = middles_s % (7 * _DAY_S)
    hour = (since_s // _HOUR_S).astype(int) if begins_s is None else hour_of_week(begins_s + middles_s)
    return tuple(
        structs.replace(_week(model, unit, surface, owned, reserved, hour), from_monday=begins_s is not None)
        for unit, surface, owned, reserved in _rows(model, choice)
    )


def _rows(model: Model, choice: Choice) -> Iterator[tuple[Unit, Surface, int, int]]:
    return zip(model.units, model.surfaces, choice.owned, choice.reserved, strict=True)


def _rented(model: Model, unit: Unit, surface: Surface, owned: int, reserved: int) -> np.ndarray:
    """Replicas rented in each bin as the trace is, with the mean changes of the horizon."""
    as_is = expected(model.spec, model.edges_s - model.edges_s[0])
    return recourse.parts(surface, model.money(unit), [as_is], owned, reserved).rented


def _week(model: Model, unit: Unit, surface: Surface, owned: int, reserved: int, hour: np.ndarray) -> document.Week:
    money = model.money(unit)
    extra = np.zeros(len(hour))
    if money.rented_usd_per_hour is not None:
        extra = _rented(model, unit, surface, owned, reserved)
    had = (owned * money.owned_availability + reserved) * money.usable
    load = surface.load
    base = np.minimum(load, had)
    rented = np.minimum(load - base, extra * money.usable)
    api = load - base - rented
    of_load, of_base, of_rented, of_api, of_extra = (_by_hour(hour, of) for of in (load, base, rented, api, extra))
    running = owned + reserved + np.ceil(of_extra - _HARDLY).astype(int)
    return document.Week(
        pool=unit.name, load=tuple(of_load.tolist()), base=tuple(of_base.tolist()), rented=tuple(of_rented.tolist()),
        api=tuple(of_api.tolist()), replicas=tuple(running.tolist()),
        days_seen=float(model.edges_s[-1] - model.edges_s[0]) / _DAY_S,
    )  # fmt: skip


def _by_hour(hour: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean of each hour of the week, else of that hour of the day, else of everything."""
    found = np.full(_HOURS, float(values.mean()))
    for period in (24, _HOURS):
        at = hour % period
        count = np.bincount(at, minlength=period)
        mean = np.bincount(at, values, period) / np.maximum(1, count)
        seen = np.tile(count > 0, _HOURS // period)
        found = np.where(seen, np.tile(mean, _HOURS // period), found)
    return found
