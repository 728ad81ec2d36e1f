"""What a plan is asked for, and what has been found so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from scheduler.config import ClusterConfig
from scheduler.planning import document
from scheduler.planning.model import Choice, Model
from scheduler.planning.played import Played, Sample
from scheduler.planning.requests import Requests
from scheduler.planning.technologies import Technology
from scheduler.simulation.scenario import Scenario, Window

_T = TypeVar("_T")

PLAYED_REQUESTS = 2_400_000
EXACT_REQUESTS = 12_000


class Say(Protocol):
    """Hears what goes on, and how much of everything is done (0 to 1)."""

    def __call__(self, what: str, share: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What is planned for: ``window`` of ``scenario``, the trace with its copies and the original profiles.

    ``begins_s``: Unix seconds at which second 0 of the trace was; None: not known.
    """

    config: ClusterConfig
    scenario: Scenario
    window: Window
    seed: int = 0
    played_requests: int = PLAYED_REQUESTS
    exact_requests: int = EXACT_REQUESTS
    begins_s: float | None = None


@dataclass(slots=True)
class Found:
    """What has been found so far; None or empty: not reached. ``rent_usd_per_hour``: by unit, as the clock rents today."""

    asked: Asked
    technologies: tuple[Technology, ...] = ()
    requests: Requests | None = None
    model: Model | None = None
    choice: Choice | None = None
    program_usd_per_hour: float | None = None
    sample: Sample | None = None
    finalists: list[document.Finalist] = field(default_factory=list)
    played: Played | None = None
    rent_usd_per_hour: Mapping[str, float] = field(default_factory=dict)
    sizings: tuple[document.Sizing, ...] = ()
    owned_costs: tuple[document.OwnedCost, ...] = ()
    sensitivity: tuple[document.Sensitivity, ...] = ()
    warnings: list[str] = field(default_factory=list)
    partial: bool = False

    @property
    def replicas(self) -> dict[str, int]:
        """Owned and reserved replicas of the choice, by unit."""
        if self.model is None or self.choice is None:
            return {}
        had = zip(self.choice.owned, self.choice.reserved, strict=True)
        return {unit.name: sum(counts) for unit, counts in zip(self.model.units, had, strict=True)}


def there(value: _T | None) -> _T:
    """``value``, which an earlier step has found."""
    if value is None:
        raise RuntimeError("a step was taken before the one that it needs")
    return value
