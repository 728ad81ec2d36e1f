"""What-if: the same traffic under other assumptions, searched again without reading the trace twice.

api_price=-30%/yr       a change a year (growth and power_price as well)
api_price=-30%          now and for good (load, power_price, hardware_price and rent as well)
availability=0.98       share of the time in which an owned replica works
h100=24                 own so many GPUs whose type has this in its name, split over the pools in the best way
llama-8b=12             own so many replicas of this pool or candidate
tariff=FILE             another ``electricity`` section for every site
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from scheduler.config import ClusterConfig
from scheduler.config.base import Model as Section
from scheduler.config.document import read_document
from scheduler.config.planning import PlanningSpec
from scheduler.config.prices import Electricity
from scheduler.planning import document, scenarios
from scheduler.planning.alternatives import gpus_of
from scheduler.planning.model import Choice, Levers, Model
from scheduler.planning.search import summary
from scheduler.planning.technologies import PlanError

_YEARLY = {"growth": "growth_per_year", "api_price": "api_price_per_year", "power_price": "power_price_per_year"}
_NOW = {
    "load": "growth", "growth": "growth", "api_price": "api_price", "power_price": "power_price",
    "hardware_price": "hardware_price", "rent": "rent_price",
}  # fmt: skip
_PERCENT = re.compile(r"^([+-]?\d+(?:\.\d+)?)\s*%(/yr)?$")
_NUMBER = re.compile(r"^\d+(\.\d+)?$")


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


@dataclass(frozen=True, slots=True)
class Changed:
    """A question as what it changes: the section ``planning``, factors, fixed counts by word, the site file."""

    spec: PlanningSpec
    levers: Levers
    counts: tuple[tuple[str, int], ...]
    config: ClusterConfig | None


def changed(question: Question, config: ClusterConfig) -> Changed:
    """Raises PlanError for what cannot be understood, with what can."""
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
            known = [
                *(f"{n}=±N%/yr" for n in _YEARLY),
                *(f"{n}=±N%" for n in _NOW),
                "availability=0.5…1",
                "tariff=FILE",
            ]
            raise PlanError(f"--what-if {text!r}: not understood (known: {', '.join(known)}, GPU=N, POOL=N)")
    return Changed(spec, levers, tuple(counts), other)


def _change(text: str, percent: re.Match[str]) -> float:
    value = float(percent[1]) / 100.0
    if not -1.0 < value <= 10.0:
        raise PlanError(f"--what-if {text!r}: a change is above -100 % and at most +1000 %")
    return value


def _with_tariff(config: ClusterConfig, path: Path) -> ClusterConfig:
    electricity = read_document(path, _Tariff).electricity
    if electricity.day_ahead is not None:
        raise PlanError(f"{path}: a tariff from a feed has no price in a plan; give usd_per_kwh or time_of_use")
    made = config.model_copy(
        update={"sites": tuple(site.model_copy(update={"electricity": electricity}) for site in config.sites)}
    )
    made._dir = config.directory
    return made


def answer(question: Question, change: Changed, model: Model) -> document.Outcome:
    """The best plan under the question's assumptions. ``model``: already made with its tariff, if it has another one."""
    edges_s = model.edges_s - model.edges_s[0]
    moved = replace(model, spec=change.spec, drawn=scenarios.draw(change.spec, edges_s, model.seed))
    best = moved.best(change.levers) if not change.counts else _fixed(moved, change)
    had = [sum(counts) for counts in zip(best.owned, best.reserved, strict=True)]
    everything = float(moved.all_api_usd_per_hour(change.levers).mean())
    bought = float(moved.bought_by(moved.scenarios(change.levers)).mean())
    api = sum(part.costs.api for part in moved.parts(best, change.levers)) + bought
    return document.Outcome(
        name=question.name, gpus=gpus_of(moved, best.owned),
        replicas={unit.name: count for unit, count in zip(moved.units, had, strict=True)},
        usd_per_hour=summary(best.usd_per_hour, change.spec.cvar_share),
        api_share=min(1.0, api / max(1e-12, everything)), note=", ".join(question.assume),
    )  # fmt: skip


def _fixed(model: Model, change: Changed) -> Choice:
    """Counts that are given are kept: replicas of a pool, or GPUs of a type split over its pools in the best way."""
    best = model.best(change.levers)
    owned = list(best.owned)
    for word, count in change.counts:
        exact = [i for i, unit in enumerate(model.units) if unit.name.lower() == word]
        of_type = [i for i, unit in enumerate(model.units) if word in unit.technology.gpu.lower()]
        if exact:
            owned[exact[0]] = count
        elif of_type:
            for index, replicas in _split(model, change.levers, of_type, count).items():
                owned[index] = replicas
        else:
            known = sorted({unit.name for unit in model.units} | {unit.technology.gpu for unit in model.units})
            raise PlanError(
                f"--what-if {word}={count}: no pool and no type of GPU is called so (known: {', '.join(known)})"
            )
    return model.of(owned, best.reserved, change.levers)


def _split(model: Model, levers: Levers, units: Sequence[int], gpus: int) -> dict[int, int]:
    """``gpus`` over these units, whole replicas, at the least mean cost: dynamic programming over the GPUs used."""
    least = {0: (0.0, dict[int, int]())}
    for index in units:
        each = model.units[index].technology.gpus_per_replica
        usd = [model.one(index, n, levers) for n in range(int(gpus // each) + 1)]
        following: dict[int, tuple[float, dict[int, int]]] = {}
        for used, (cost, chosen) in least.items():
            for n in range(int((gpus - used) // each) + 1):
                place = used + round(n * each)
                if place not in following or cost + usd[n] < following[place][0]:
                    following[place] = (cost + usd[n], {**chosen, index: n})
        least = following
    smallest = min(model.units[index].technology.gpus_per_replica for index in units)
    full = [used for used in least if used > gpus - smallest] or [max(least)]
    return min((least[used] for used in full), key=lambda one: one[0])[1]
