"""What-if: the same traffic under other assumptions, searched again without reading the trace twice.

api_price=-30%/yr       a change a year (growth and power_price as well)
api_price=-30%          now and for good (load, power_price, hardware_price and rent as well)
availability=0.98       share of the time in which an owned replica works
h100=24                 own so many GPUs of this type (1xH100 and 4xH100 alike), split over the pools in the best way
llama-8b=12             own so many replicas of this pool or candidate
tariff=FILE             another ``electricity`` section for every site
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field

from pricing import tariff
from scheduler.config import ClusterConfig
from scheduler.config.base import Model as Section
from scheduler.config.document import read_document
from scheduler.config.planning import PlanningSpec
from scheduler.config.prices import Electricity
from scheduler.planning import document, recourse
from scheduler.planning.alternatives import gpus_of
from scheduler.planning.hourly import enough
from scheduler.planning.model import Choice, Levers, Model
from scheduler.planning.search import UnitCosts, search, summary
from scheduler.planning.technologies import PlanError, Technology, technologies_of
from scheduler.simulation.scenario import EPOCH_S

_YEARLY = {"growth": "growth_per_year", "api_price": "api_price_per_year", "power_price": "power_price_per_year"}
_NOW = {
    "load": "growth", "growth": "growth", "api_price": "api_price", "power_price": "power_price",
    "hardware_price": "hardware_price", "rent": "rent_price",
}  # fmt: skip
_PERCENT = re.compile(r"^([+-]?\d+(?:\.\d+)?)\s*%(/yr)?$")
_NUMBER = re.compile(r"^\d+(\.\d+)?$")
_STEPS_MAX = 160  # of reserved replicas, while owned ones are split


class Question(NamedTuple):
    """A what-if: its name and what is assumed, as ``name=value``."""

    name: str
    assume: tuple[str, ...]


class _Named(Section):
    name: str = Field(min_length=1, max_length=80)
    assume: tuple[str, ...] = Field(min_length=1, max_length=20)


class _File(Section):
    scenarios: tuple[_Named, ...] = Field(min_length=1, max_length=50)


class _Tariff(Section):
    electricity: Electricity


def read(path: Path) -> tuple[Question, ...]:
    """A YAML file of ``scenarios``, each with ``name`` and a list ``assume``. Raises ConfigError naming every problem."""
    return tuple(Question(one.name, one.assume) for one in read_document(path, _File).scenarios)


class Fixed(NamedTuple):
    """So many replicas of one technology, or (``is_gpus``) GPUs over all of their type; each of them can be owned."""

    technologies: tuple[Technology, ...]
    number: int
    is_gpus: bool
    text: str


@dataclass(frozen=True, slots=True)
class Changed:
    """A question as what it changes: the section ``planning``, factors, fixed counts, the site file."""

    spec: PlanningSpec
    levers: Levers
    counts: tuple[Fixed, ...]
    config: ClusterConfig | None


def changed(question: Question, config: ClusterConfig) -> Changed:
    """Raises PlanError for what cannot be understood, with what can, and for what the site file cannot answer."""
    spec, levers, counts, other = config.planning, Levers(), [], None
    for text in question.assume:
        name, is_there, value = (part.strip() for part in text.partition("="))
        percent = _PERCENT.match(value)
        if not is_there or not name or not value:
            raise PlanError(f"--what-if {text!r}: not of the form name=value, such as api_price=-30%/yr")
        if name == "tariff":
            other = _with_tariff(config, Path(value))
        elif percent and percent[2] and name in _YEARLY:
            of = getattr(spec, _YEARLY[name])
            spec = spec.model_copy(update={_YEARLY[name]: of.model_copy(update={"mean": _change(text, percent)})})
        elif percent and not percent[2] and name in _NOW:
            levers = replace(levers, **{_NOW[name]: 1.0 + _change(text, percent)})
        elif name == "availability" and _NUMBER.match(value) and 0.5 < float(value) <= 1.0:
            levers = replace(levers, owned_availability=float(value))
        elif value.isdigit():
            counts.append((name.lower(), int(value)))
        else:
            said = [*(f"{n}=±N%/yr" for n in _YEARLY), *(f"{n}=±N%" for n in _NOW), "availability=0.5…1", "tariff=FILE"]
            raise PlanError(f"--what-if {text!r}: not understood (known: {', '.join(said)}, GPU=N, POOL=N)")
    known = technologies_of(other or config, EPOCH_S) if counts or other is not None else ()
    return Changed(spec, levers, tuple(_resolved(word, count, known) for word, count in counts), other)


def _resolved(word: str, count: int, known: Sequence[Technology]) -> Fixed:
    """The pool or candidate of this name, else all on this type of GPU."""
    text, exact = f"--what-if {word}={count}", [t for t in known if t.name.lower() == word]
    of_type = re.compile(rf"(?:[\d.]+x)?{re.escape(word)}")
    named = exact or [t for t in known if of_type.fullmatch(t.gpu.lower())]
    if not named:
        names = ", ".join(sorted({t.name for t in known} | {t.gpu for t in known}))
        raise PlanError(f"{text}: no pool and no type of GPU is called so (known: {names})")
    owned = tuple(t for t in named if t.owned_usd_per_hour is not None)
    if not owned:
        raise PlanError(f"{text}: no hardware says what it costs to own {', '.join(t.name for t in named)}")
    most = sum(t.replicas_max * (1.0 if exact else t.gpus_per_replica) for t in owned)
    if count > most:
        raise PlanError(f"{text}: at most {most:g} can be had (replicas_max)")
    return Fixed(owned, count, not exact, text)


def _change(text: str, percent: re.Match[str]) -> float:
    value = float(percent[1]) / 100.0
    if not -1.0 < value <= 10.0:
        raise PlanError(f"--what-if {text!r}: a change is above -100 % and at most +1000 %")
    return value


def _with_tariff(config: ClusterConfig, path: Path) -> ClusterConfig:
    electricity = read_document(path, _Tariff).electricity
    if problems := tariff.check(electricity):
        raise PlanError(f"{path}: electricity.{problems[0]}")
    if electricity.day_ahead is not None:
        raise PlanError(f"{path}: a tariff from a feed has no price in a plan; give usd_per_kwh or time_of_use")
    made = config.model_copy(
        update={"sites": tuple(site.model_copy(update={"electricity": electricity}) for site in config.sites)}
    )
    made._dir = config.directory
    return made


def answer(question: Question, change: Changed, model: Model) -> document.Outcome:
    """The best plan under the question's assumptions. ``model``: already made with its tariff, if it has another one.

    What is to be owned of a technology that gets no request is not used: its price is added. Raises PlanError where more
    GPUs are asked for than pools with requests can have.
    """
    moved = model.under(change.spec)
    fixed, idle = _fixed(moved, change)
    best = _around(moved, fixed, change.levers) if fixed else moved.best(change.levers)
    replicas = {unit.name: sum(counts) for unit, *counts in zip(moved.units, best.owned, best.reserved, strict=True)}
    usd = best.usd_per_hour + sum(n * _idle_usd_per_hour(t, moved, change.levers) for t, n in idle)
    everything = float(moved.all_api_usd_per_hour(change.levers).mean())
    bought = float(moved.bought_by(moved.scenarios(change.levers)).mean())
    api = sum(part.costs.api for part in moved.parts(best, change.levers)) + bought
    unused = [f"{t.name} gets no requests and is not used" for t, n in idle if n]
    return document.Outcome(
        name=question.name, gpus=gpus_of(moved, best.owned) + sum(n * t.gpus_per_replica for t, n in idle),
        replicas=replicas | {t.name: n for t, n in idle}, usd_per_hour=summary(usd, change.spec.cvar_share),
        api_share=min(1.0, api / max(1e-12, everything)), note=", ".join([*question.assume, *unused]),
    )  # fmt: skip


def _fixed(model: Model, change: Changed) -> tuple[dict[int, int], list[tuple[Technology, int]]]:
    """Owned replicas that are given, by unit; and those of technologies that are no unit, since they get no request."""
    by_name = {unit.name: index for index, unit in enumerate(model.units)}
    fixed, idle = dict[int, int](), dict[str, tuple[Technology, int]]()
    for technologies, count, is_gpus, text in change.counts:
        used = [t for t in technologies if t.name in by_name]
        if not used:  # of several the one whose GPUs cost least
            usd = [float(_idle_usd_per_hour(t, model, change.levers).mean()) / t.gpus_per_replica for t in technologies]
            cheapest = technologies[int(np.argmin(usd))]
            idle[cheapest.name] = (cheapest, _most(cheapest, count) if is_gpus else count)
        elif not is_gpus:
            fixed[by_name[used[0].name]] = count
        elif count > (most := sum(t.replicas_max * t.gpus_per_replica for t in used)):
            raise PlanError(f"{text}: pools with requests can have {most:g} of them (replicas_max)")
        else:
            fixed |= _split(model, change.levers, [by_name[t.name] for t in used], count)
    return fixed, list(idle.values())


def _around(model: Model, fixed: Mapping[int, int], levers: Levers) -> Choice:
    """With so many owned replicas of these units, and the best reserved ones beside them; other units as without."""
    free, spec = model.best(levers), model.spec
    tables = []
    for index in range(len(model.units)):
        owned = np.array([fixed.get(index, free.owned[index])])
        reserved = _reserved(model, index, levers) if index in fixed else np.array([free.reserved[index]])
        tables.append(_table(model, index, owned, reserved, levers))
    best = search(tables, spec.risk_weight, spec.cvar_share)
    return model.of(best.owned, best.reserved, levers)


def _table(model: Model, index: int, owned: np.ndarray, reserved: np.ndarray, levers: Levers) -> UnitCosts:
    money, drawn = model.money(model.units[index], levers), model.scenarios(levers)
    return UnitCosts(owned, reserved, recourse.costs(model.surfaces[index], money, drawn, owned, reserved))


def _reserved(model: Model, index: int, levers: Levers) -> np.ndarray:
    """Every number of reserved replicas that may pay."""
    money, surface = model.money(model.units[index], levers), model.surfaces[index]
    if money.reserved_usd_per_hour is None:
        return np.zeros(1, np.int64)
    most = max(enough(surface, money, instant) for s in model.scenarios(levers) for instant in s.instants)
    return np.arange(min(most, model.units[index].technology.replicas_max) + 1)


def _most(technology: Technology, gpus: int) -> int:
    return min(int(gpus // technology.gpus_per_replica), technology.replicas_max)


def _idle_usd_per_hour(technology: Technology, model: Model, levers: Levers) -> np.ndarray:
    """USD per hour [scenario] of an owned replica that does nothing."""
    power = np.array([np.mean([i.power_price for i in s.instants]) for s in model.scenarios(levers)])
    idle_usd = technology.idle_usd_per_hour
    bought_usd = max(0.0, (technology.owned_usd_per_hour or 0.0) - idle_usd)
    return np.asarray(bought_usd * levers.hardware_price + idle_usd * power, np.float64)


def _split(model: Model, levers: Levers, units: Sequence[int], gpus: int) -> dict[int, int]:
    """``gpus`` over these units, whole replicas, at the least mean cost: dynamic programming over the GPUs used."""
    least = {0: (0.0, dict[int, int]())}
    for index in units:
        technology, every = model.units[index].technology, _reserved(model, index, levers)
        reserved = every[:: -(-len(every) // _STEPS_MAX)]
        table = _table(model, index, np.arange(_most(technology, gpus) + 1), reserved, levers)
        usd, each = table.usd_per_hour.mean(axis=0).min(axis=1), technology.gpus_per_replica
        following: dict[int, tuple[float, dict[int, int]]] = {}
        for used, (cost, chosen) in least.items():
            for n in range(min(int((gpus - used) // each) + 1, len(usd))):
                place = used + round(n * each)
                if place not in following or cost + usd[n] < following[place][0]:
                    following[place] = (cost + float(usd[n]), {**chosen, index: n})
        least = following
    smallest = min(model.units[index].technology.gpus_per_replica for index in units)
    full = [used for used in least if used > gpus - smallest] or [max(least)]
    return min((least[used] for used in full), key=lambda one: one[0])[1]
