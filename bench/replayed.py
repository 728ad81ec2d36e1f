"""One play of a plan as figures: live or in the simulator, and the two side by side."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares

from pricing.meter.curve import Span, company
from scheduler.config import ClusterConfig
from scheduler.simulation.attempts import Journey
from scheduler.simulation.policies import rule
from scheduler.simulation.scenario import EPOCH_S
from scheduler.simulation.site import site_of
from scheduler.simulation.workload import Batch
from scheduler.simulation.world import Settings, World
from serving.replay.plan import Plan
from serving.replay.play import Row
from serving.settings import core_policy

BAR = 0.1
WARM_S = 20.0
API_JITTER = 0.15
# Answers shorter than this say little of TPOT, as engines send several tokens at once.
TOKENS_MIN = 16
_ANSWERS_MIN = 50
_AT_ONCE_S = 2e-4


class Served(NamedTuple):
    """One request that was answered, live or simulated."""

    at_s: float
    is_api: bool
    ttft_s: float
    tpot_s: float | None


@dataclass(frozen=True)
class Run:
    """One play of the requests; ``others_cpu``: cores that everything but the stack and this program used meanwhile."""

    served: tuple[Served, ...]
    failed: int
    others_cpu: float = 0.0

    @property
    def in_one_piece(self) -> float:
        """Share of the pool's answers whose tokens came all at once: their first token was late, whatever the engine did."""
        timed = [one.tpot_s for one in self.served if not one.is_api and one.tpot_s is not None]
        return sum(tpot_s < _AT_ONCE_S for tpot_s in timed) / max(1, len(timed))

    def figures(self) -> dict[str, float]:
        """Milliseconds and percent, of the requests after the warm-up."""
        judged = [one for one in self.served if one.at_s >= WARM_S]
        own = [one for one in judged if not one.is_api]
        found = {"burst share (%)": 100.0 * (1.0 - len(own) / max(1, len(judged)))}
        for name, some in (("all", judged), ("own pool", own)):
            for figure in ("ttft", "tpot"):
                values = [1e3 * s for one in some if (s := one.ttft_s if figure == "ttft" else one.tpot_s) is not None]
                for share in (50, 95):
                    found[f"{figure.upper()} p{share}, {name} (ms)"] = float(np.percentile(values, share))
        return found


class _Watched(World):
    """The simulated world, with its answers written down."""

    def watch(self) -> list[Served]:
        """The list that answers will be in."""
        self.answers: list[Served] = []
        return self.answers

    def ended(self, journey: Journey, now_s: float) -> None:
        """A request is over."""
        super().ended(journey, now_s)
        last = journey.outcomes[-1] if journey.outcomes else None
        if last is None or last.status != "complete" or last.ttft_s is None or journey.quote is None:
            return
        first_s, steps = last.started_s + last.ttft_s, last.usage.output_tokens - 1
        arrived_s = journey.request.arrived_s
        tpot_s = (last.ended_s - first_s) / steps if last.usage.output_tokens >= TOKENS_MIN else None
        is_api = journey.quote.offer.kind == "api"
        self.answers.append(Served(arrived_s - EPOCH_S, is_api, first_s - arrived_s, tpot_s))


def fitted(*plays: Sequence[Row]) -> dict[str, float]:
    """The pool's service curve from replays, as the engine's model means it: keys are those of ``curve:`` in cluster.yaml.

    An answer of n tokens took n - 1 steps; what is longer than ``itl_base_s + itl_per_seq_s * running`` is prompts of others.
    What a prompt takes is known from those it holds up, so that it is as slow as it is under load; what then remains of the
    first token of requests that were alone is ``ttft_base_s``. Raises ValueError where too few answers tell.
    """
    own = [_of_pool(rows) for rows in plays]
    steps = np.concatenate([_steps(rows) for rows in own])
    if len(steps) < _ANSWERS_MIN:
        raise ValueError(f"{len(steps)} answers of the pool are too few for a curve")
    itl_s, columns = steps[:, 0], steps[:, 1:]
    off = least_squares(
        lambda line: itl_s / (columns @ line) - 1.0, (itl_s.min(), 0.01 * itl_s.min(), 1e-6), bounds=(1e-9, np.inf),
        loss="soft_l1", f_scale=0.1, x_scale=(1e-2, 1e-3, 1e-3),
    )  # fmt: skip
    base_s, per_seq_s, per_token_s = map(float, off.x)
    rate = 1.0 / per_token_s
    alone = [row for rows in own for row in rows if not any(_overlap(row, other) for other in rows)]
    first_s = [(row.ttft_s or 0.0) - max(base_s, row.input_tokens / rate) for row in alone]
    found = {"itl_base_s": base_s, "itl_per_seq_s": per_seq_s, "prefill_tokens_per_s": rate}
    found["ttft_base_s"] = max(0.0, float(np.median(first_s))) if first_s else 0.0
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def _of_pool(rows: Sequence[Row]) -> list[Row]:
    return [r for r in rows if r.served and r.source == "base" and r.ttft_s is not None and r.tpot_s is not None]


def _overlap(row: Row, other: Row) -> bool:
    return other.planned_s < row.planned_s < other.planned_s + (other.e2e_s or 0.0)


def _steps(rows: Sequence[Row]) -> np.ndarray:
    """Of each answer with enough tokens: seconds a token, 1, how many decoded beside it, prompt tokens of others a step."""
    spans = [_span(row) for row in rows]
    first_s, prompts = np.array([span.first_s for span in spans]), np.array([row.input_tokens for row in rows], float)
    found = []
    for count, span in zip(company(spans), spans, strict=True):
        if span.tokens >= TOKENS_MIN:
            inside = (first_s > span.first_s) & (first_s <= span.last_s)
            found.append((span.itl_s, 1.0, count, prompts[inside].sum() / (span.tokens - 1)))
    return np.array(found).reshape(-1, 4)


def _span(row: Row) -> Span:
    first_s = row.planned_s + (row.ttft_s or 0.0)
    return Span(first_s, first_s + (row.tpot_s or 0.0) * (row.output_tokens - 1), row.output_tokens)


def synthetic(path: Path, seed: int = 5) -> Path:
    """A trace in the normalised format where none is at hand: an hour of gamma gaps (a little burstier than Poisson)."""
    rng = np.random.default_rng(seed)
    at_s = np.cumsum(rng.gamma(0.6, 1.0 / 0.6, 7200))
    read = np.clip(rng.lognormal(math.log(640), 0.9, len(at_s)), 8, 8000)
    written = np.clip(rng.lognormal(math.log(100), 1.0, len(at_s)), 1, 2000)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("arrival_s", "input_tokens", "output_tokens"))
        writer.writerows(zip(at_s.round(4), read.astype(int), written.astype(int), strict=True))
    return path


def simulated(plan: Plan, config: ClusterConfig) -> Run:
    """Play the plan through the simulator. The live gateway knows lengths too: clients send ``max_tokens`` and keep to it."""
    profiles = tuple(kind.profile for kind in plan.kinds)
    policy = core_policy(config)
    settings = Settings(
        snapshot_age_s=config.policy.clearing_s, bid_every_s=config.policy.bid_every_s, api_spread=API_JITTER / 3**0.5
    )
    shipped = replace(rule("bid-price"), knows_lengths=True)
    world = _Watched(site_of(config, profiles, EPOCH_S), profiles, shipped, policy, settings, 0.0, plan.seconds)
    answers = world.watch()
    world.play([_batch(plan)])
    return Run(tuple(answers), len(plan.requests) - len(answers))


def _batch(plan: Plan) -> Batch:
    at_s, read, written, difficulty, kind = (
        np.array([request[i] for request in plan.requests]) for i in range(1, 6)
    )  # fmt: skip
    nobody = np.zeros(len(at_s), np.int64)
    return Batch(
        at_s, read.astype(np.int32), written.astype(np.int32), kind.astype(np.int16), difficulty.astype(np.float32),
        nobody, nobody - 1, nobody.astype(np.int32),
    )  # fmt: skip


def compared(first: Run, second: Run, simulated_: Run) -> dict[str, dict[str, float]]:
    """By figure: both live runs, the simulator, its difference from their mean and their spread (%), 1 if within the bar."""
    rows = {}
    for name, one in first.figures().items():
        two, model = second.figures()[name], simulated_.figures()[name]
        mean = (one + two) / 2.0
        off, spread = (model - mean) / (mean or math.nan), abs(one - two) / (mean or math.nan)
        within = abs(off) <= max(BAR, spread)
        rows[name] = {
            "live 1": one, "live 2": two, "simulated": model, "difference %": 100.0 * off, "live spread %": 100.0 * spread,
            "within": float(within),
        }  # fmt: skip
    return rows
