"""Fewer types of GPU where a second one does not pay: the program over types counts parts of replicas, a plan whole ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from scheduler.planning.model import Choice, Model, model_of
from scheduler.planning.sizes import BUCKETS
from scheduler.planning.units import Placement, Unit

Searched = tuple[Model, Choice]


def consolidated(model: Model, choice: Choice, step: Callable[[], None] = lambda: None) -> Searched:
    """The same requests on fewer technologies, as long as that costs no more; the smallest ones are tried first.

    What is on a technology goes to the one of its pool with which that is best, and where it does not fit, to the first that
    fits.
    """
    for unit in sorted(model.units, key=_gpu_s):
        others = [of for of in model.units if of.technology.pool == unit.technology.pool and of.name != unit.name]
        tried = []
        for heir in others:
            step()
            made = _without(model, unit, heir)
            tried.append((made, made.best()))
        fewer = [one for one in tried if len(one[0].units) < len(model.units)]
        made, best = min(fewer, key=lambda one: one[1].objective, default=(model, choice))
        if best.objective <= choice.objective:
            model, choice = made, best
    return model, choice


def _gpu_s(unit: Unit) -> float:
    return float(unit.work_s.sum(dtype=float)) * unit.stands_for * unit.technology.gpus_per_replica


def _without(model: Model, unit: Unit, heir: Unit) -> Model:
    pool = next(pool for pool in model.requests.pools if pool.pool == unit.technology.pool)
    names = [technology.name for technology in pool.technologies]
    gone, place = names.index(unit.name), names.index(heir.name)
    every = {(int(p), b) for p in set(pool.profile.tolist()) for b in range(BUCKETS)}
    before = model.placements.get(pool.pool, {})
    moved: Placement = {key: place if (at := before.get(key, 0)) == gone else at for key in every}
    made = model_of(model.spec, model.requests, {**model.placements, pool.pool: moved}, model.seed)
    return replace(made, usable=model.usable, overheads=model.overheads, level_sd=model.level_sd, drawn=model.drawn)
