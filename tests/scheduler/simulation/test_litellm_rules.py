"""Lowest cost and least busy choose what litellm's own Router chooses, over histories of use, limits and cooldowns."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.simulation import litellm_rules
from scheduler.simulation.litellm_rules import (
    COOLDOWN_S,
    COUNT_LIFE_S,
    TABLE_LIFE_S,
    Deployment,
    cheapest,
    in_flight_after,
    least_busy,
    lowest_cost,
    rank_usd,
    table_after_choice,
    table_after_success,
    within_limits,
)

PROGRAM = Path(__file__).with_name("real_litellm_router.py")
# Mapped, mapped under another name only, mapped as free, not mapped, mapped for output alone, an embedding, cheaper.
MODELS = (
    "gpt-4o",
    "openai/gpt-4o",
    "ollama/llama2",
    "hosted_vllm/own",
    "twelvelabs.pegasus-1-2-v1:0",
    "text-embedding-3-small",
    "gpt-4o-mini",
)
CASES_PER_STRATEGY = 200
START_S = 30.0  # the program's clock stands half a minute after a full one
USD = st.sampled_from([None, 0.0, 1e-6, 2e-6])
DEPLOYMENTS = st.lists(
    st.builds(
        Deployment,
        *[USD] * 4,
        requests_per_min_max=st.sampled_from([None, 0, 2]),
        tokens_per_min_max=st.sampled_from([None, 0, 100]),
        requests_this_min=st.integers(0, 3),
        tokens_this_min=st.integers(0, 120),
        in_flight=st.integers(0, 3),
        cooling=st.booleans(),
    ),
    max_size=5,
)


class Mirror:
    """What one litellm process remembers, kept with this module's rules instead."""

    def __init__(self, models: list[dict[str, Any]], prices: dict[str, list[float | None]]) -> None:
        self.now_s = 0.0
        self.fixed = [self._fixed(model, prices) for model in models]
        self.cooling: set[int] = set()
        self.table: tuple[int, ...] = ()
        self.table_begun_s = 0.0
        self.used: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
        self.counts: dict[int, tuple[int, float]] = {}

    @staticmethod
    def _fixed(model: dict[str, Any], prices: dict[str, list[float | None]]) -> Deployment:
        params = model["params"]
        names = (model["info"].get("base_model"), params["model"])
        rows = [prices[name] for name in names if name is not None]
        row: list[float | None] = next((row for row in rows if row != [None, None]), [None, None])
        given = params.get("input_cost_per_token"), params.get("output_cost_per_token")
        return Deployment(*given, *row, params.get("rpm"), params.get("tpm"))

    def seen(self) -> list[Deployment]:
        """The deployments as the strategies see them now."""
        minute = int((START_S + self.now_s) // 60)
        used = [self.used.get((i, minute), [0, 0]) for i in range(len(self.fixed))]
        return [
            fixed._replace(
                requests_this_min=used[i][0],
                tokens_this_min=used[i][1],
                in_flight=self.counts.get(i, (0, 0.0))[0],
                cooling=i in self.cooling,
            )
            for i, fixed in enumerate(self.fixed)
        ]

    def step(self, what: str, value: Any) -> None:
        if what == "wait":
            self.now_s += value
            if self.now_s > self.table_begun_s + TABLE_LIFE_S:
                self.table = ()
                self.used.clear()
            self.counts = {i: c for i, c in self.counts.items() if self.now_s <= c[1] + COUNT_LIFE_S}
        elif what == "cool":
            self.cooling.add(value)
        elif what == "warm":
            self.cooling.clear()
        elif what == "send":
            self._count(value, 1)
        elif what == "fail":
            self._count(value, -1)
        elif what == "succeed":
            index, tokens = value
            self._count(index, -1)
            if not self.table:
                self.table_begun_s = self.now_s
            self.table = table_after_success(index, self.table)
            used = self.used[index, int((START_S + self.now_s) // 60)]
            used[0] += 1
            used[1] += tokens

    def _count(self, index: int, change: int) -> None:
        count, begun_s = self.counts.get(index, (0, self.now_s))
        self.counts[index] = in_flight_after(count, change), begun_s

    def choose(self, strategy: str, input_tokens: int) -> tuple[int | None, int]:
        """The choice, and among how many it was possible by price."""
        seen = self.seen()
        if strategy == "least-busy":
            fewest = [d.in_flight for d in seen if not d.cooling]
            return least_busy(seen), fewest.count(min(fewest, default=0))
        index = lowest_cost(seen, input_tokens, self.table)
        self.table = table_after_choice(seen, self.table)
        return index, len(cheapest(seen, input_tokens))


def optional(rng: np.random.Generator, name: str, values: list[Any]) -> dict[str, Any]:
    """One of ``values`` under ``name``, or nothing."""
    value = values[rng.integers(len(values))]
    return {} if value is None else {name: value}


def random_model(rng: np.random.Generator) -> dict[str, Any]:
    usd = [None, None, 0.0, 1e-7, 1e-6, 5.0]
    params = {"model": str(rng.choice(MODELS))}
    params |= optional(rng, "input_cost_per_token", usd) | optional(rng, "output_cost_per_token", usd)
    params |= optional(rng, "rpm", [None, None, 0, 1, 2]) | optional(rng, "tpm", [None, None, 0, 60, 200])
    return {"params": params, "info": optional(rng, "base_model", [None, None, None, "gpt-4o-mini", "no/such"])}


def random_case(rng: np.random.Generator, strategy: str) -> dict[str, Any]:
    """Up to five deployments, in part equal, and up to forty steps of which about every third is a choice."""
    models = [random_model(rng) for _ in range(rng.integers(1, 6))]
    models += [models[0]] * int(rng.integers(0, 3))
    steps: list[tuple[str, Any]] = []
    for _ in range(rng.integers(1, 40)):
        index = int(rng.integers(len(models)))
        waits_s = [0.7, 10.3, 45.1, 200.9, 590.3, 601.3, 3_100.3, 3_601.3]  # around the lives of table and counts
        possible = {
            "choose": int(rng.choice([0, 2, 12, 52])),  # words: 10, 20 and 60 tokens, to meet limits exactly
            "send": index,
            "succeed": (index, int(rng.choice([0, 10, 20, 40]))),
            "fail": index,
            "cool": index,
            "warm": None,
            "wait": waits_s[rng.integers(len(waits_s))],
        }
        what = str(rng.choice(list(possible), p=[0.34, 0.22, 0.2, 0.06, 0.06, 0.04, 0.08]))
        steps.append((what, possible[what]))
    return {"strategy": strategy, "models": models, "steps": [*steps, ("choose", 10)]}


@pytest.fixture(scope="module")
def cases() -> list[dict[str, Any]]:
    rng = np.random.default_rng(20260301)
    strategies = ("cost-based-routing", "least-busy")
    return [random_case(rng, strategy) for strategy in strategies for _ in range(CASES_PER_STRATEGY)]


@pytest.fixture(scope="module")
def real(cases: list[dict[str, Any]], pytestconfig: pytest.Config) -> dict[str, Any]:
    """The prices in litellm's map, its cooldown, and what its Router chose in every case."""
    asked = json.dumps({"models": [*MODELS, "no/such"], "cases": cases})
    command = [sys.executable, "-W", "ignore", str(PROGRAM)]
    done = subprocess.run(
        command, input=asked, capture_output=True, text=True, timeout=200, cwd=pytestconfig.rootpath, check=True
    )
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


@pytest.mark.parametrize("strategy", ["cost-based-routing", "least-busy"])
def test_the_real_router_makes_the_same_choice_after_every_history(
    cases: list[dict[str, Any]], real: dict[str, Any], strategy: str
) -> None:
    met: Counter[str] = Counter()
    for number, (case, answers) in enumerate(zip(cases, real["answers"], strict=True)):
        if case["strategy"] != strategy:
            continue
        mirror, told = Mirror(case["models"], real["prices"]), iter(answers)
        for what, value in case["steps"]:
            if what != "choose":
                mirror.step(what, value)
                continue
            answer = next(told)
            index, equals = mirror.choose(strategy, answer["input_tokens"])
            assert index == answer["index"], f"case {number}: {mirror.seen()}, table {mirror.table}"
            met.update(["choices"], nobody=index is None, ties=equals > 1, not_first=index not in (None, 0))
    # The histories have to reach what they are about.
    assert met["choices"] > 1_200
    assert min(met["nobody"], met["ties"], met["not_first"]) > 50


def test_the_map_that_is_compared_with_has_all_kinds_of_rows(real: dict[str, Any]) -> None:
    prices = real["prices"]
    assert prices["gpt-4o"][0] > 0.0
    assert prices["openai/gpt-4o"] == prices["hosted_vllm/own"] == [None, None]
    assert prices["ollama/llama2"] == [0.0, 0.0]
    assert [usd is None for usd in prices["twelvelabs.pegasus-1-2-v1:0"]] == [True, False]


def test_a_cooldown_lasts_as_long_as_the_routers_own_default(real: dict[str, Any]) -> None:
    assert real["cooldown_s"] == COOLDOWN_S


def test_a_pool_entered_as_free_ranks_behind_every_api() -> None:
    free, api = Deployment(0.0, 0.0), Deployment(1e-5, 5e-5)
    assert rank_usd(free) == 10.0
    assert lowest_cost([free, api]) == 1
    assert lowest_cost([free._replace(usd_per_input=1e-9, usd_per_output=1e-9), api]) == 0


def test_the_rank_takes_one_token_of_each_kind_whatever_is_asked() -> None:
    # At 1000 tokens in and 1 out the first costs 20 times the second, and is chosen all the same.
    dear_input, dear_output = Deployment(2e-6, 1e-6), Deployment(1e-7, 4e-6)
    assert lowest_cost([dear_output, dear_input], input_tokens=1000) == 1


@pytest.mark.parametrize(
    ("used", "ok"), [({"requests_this_min": 1, "tokens_this_min": 90}, True), ({"requests_this_min": 2}, False)]
)
def test_a_limit_may_be_reached_and_not_passed(used: dict[str, int], ok: bool) -> None:
    deployment = Deployment(requests_per_min_max=2, tokens_per_min_max=100, **used)
    assert within_limits(deployment, 10) is ok
    assert not within_limits(deployment, 101)


def test_requests_in_flight_spend_no_limit() -> None:
    assert within_limits(Deployment(requests_per_min_max=2, in_flight=50), 10)


def test_among_equals_the_one_first_used_goes_first() -> None:
    equals = [Deployment(1e-6, 1e-6)] * 3
    assert lowest_cost(equals) == 0
    table = table_after_choice(equals, table_after_success(2, ()))
    assert table == (2, 0, 1)
    assert lowest_cost(equals, 0, table) == 2


@given(DEPLOYMENTS, st.integers(0, 120), st.permutations(range(5)))
def test_a_choice_is_warm_and_within_limits_and_nothing_eligible_beats_it(
    deployments: list[Deployment], input_tokens: int, order: list[int]
) -> None:
    table = tuple(i for i in order if i < len(deployments))
    index = lowest_cost(deployments, input_tokens, table)
    eligible = [i for i, d in enumerate(deployments) if not d.cooling and within_limits(d, input_tokens)]
    if index is None:
        assert not eligible
    else:
        assert index in eligible
        assert rank_usd(deployments[index]) == min(rank_usd(deployments[i]) for i in eligible)
    busy = least_busy(deployments)
    warm = [i for i, d in enumerate(deployments) if not d.cooling]
    assert busy == min(warm, key=lambda i: (deployments[i].in_flight, i), default=None)


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(litellm_rules) == (0, 2)
