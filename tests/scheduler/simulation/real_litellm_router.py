"""The real ``litellm.Router``, put into given states and asked for its choice: JSON from stdin, JSON to stdout.

A program of its own, so that importing litellm and registering prices with it changes nothing in the tests' process.
A case is a model list and steps; an answer has the choice of each step that asks for one. No request is sent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from datetime import datetime, timedelta
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from litellm.router_strategy import lowest_cost
from litellm.types.router import RouterRateLimitError

GROUP = "models"
START = datetime(2026, 3, 1, 12, 0, 30)  # noqa: DTZ001 litellm reads local time


class Clock:
    """Stands in for the time of the strategy and of the router's memory."""

    passed_s = 0.0

    @classmethod
    def now(cls) -> datetime:
        return START + timedelta(seconds=cls.passed_s)

    @classmethod
    def seconds(cls) -> float:
        return cls.passed_s


def call(index: int) -> dict[str, Any]:
    """What litellm tells a strategy about a request to a deployment."""
    return {"litellm_params": {"metadata": {"model_group": GROUP}, "model_info": {"id": str(index)}}}


def answer_of(tokens: int) -> litellm.ModelResponse:
    usage = litellm.Usage(prompt_tokens=tokens, completion_tokens=0, total_tokens=tokens)
    return litellm.ModelResponse(usage=usage)


class Real:
    """One router and the handler of its strategy."""

    def __init__(self, strategy: str) -> None:
        deployment = {"model_name": GROUP, "litellm_params": {"model": "openai/none", "api_key": "none"}}
        self.router = litellm.Router(model_list=[deployment], routing_strategy=strategy)
        self.handler = self.router.lowestcost_logger or self.router.leastbusy_logger
        self.router.cache.in_memory_cache._clock = Clock.seconds

    def reset(self, models: list[dict[str, Any]]) -> None:
        """Nothing used, nothing cooling, and these deployments."""
        Clock.passed_s = 0.0
        self.router.cache.in_memory_cache.flush_cache()
        self.router.cooldown_cache.in_memory_cache.flush_cache()
        self.router.set_model_list(
            [
                {
                    "model_name": GROUP,
                    "litellm_params": {"api_key": "none", **model["params"]},
                    "model_info": {"id": str(i), **model["info"]},
                }
                for i, model in enumerate(models)
            ]
        )

    async def step(self, what: str, value: Any) -> dict[str, Any] | None:
        handler = self.handler
        if what == "choose":
            return await self.choose(value)
        if what == "wait":
            Clock.passed_s += value
        elif what == "cool":
            self.router.cooldown_cache.add_deployment_to_cooldown(str(value), Exception("busy"), 429, 1e6)
        elif what == "warm":
            self.router.cooldown_cache.in_memory_cache.flush_cache()
        elif what == "send":
            handler.log_pre_api_call("", [], call(value))
        elif what == "succeed":
            index, tokens = value
            await handler.async_log_success_event(call(index), answer_of(tokens), 0, 0)
        elif what == "fail":
            await handler.async_log_failure_event(call(value), None, 0, 0)
        else:
            raise ValueError(what)
        return None

    async def choose(self, words: int) -> dict[str, Any]:
        """The index that the router chooses for a prompt of so many words, and litellm's count of its tokens."""
        messages = [{"role": "user", "content": "word " * words}]
        try:
            chosen = await self.router.async_get_available_deployment(GROUP, request_kwargs={}, messages=messages)
        except (RouterRateLimitError, litellm.RateLimitError):
            return {"index": None, "input_tokens": litellm.token_counter(messages=messages)}
        index = int(chosen["model_info"]["id"])
        return {"index": index, "input_tokens": litellm.token_counter(messages=messages)}


async def main() -> None:
    logging.disable(logging.CRITICAL)
    asked = json.load(sys.stdin)
    rows = {name: litellm.model_cost.get(name) or {} for name in asked["models"]}
    prices = {name: [row.get("input_cost_per_token"), row.get("output_cost_per_token")] for name, row in rows.items()}
    lowest_cost.datetime = Clock
    routers = {strategy: Real(strategy) for strategy in ("cost-based-routing", "least-busy")}
    answers = []
    for case in asked["cases"]:
        real = routers[case["strategy"]]
        real.reset(case["models"])
        results = [await real.step(*step) for step in case["steps"]]
        answers.append([result for result in results if result is not None])
    cooldown_s = routers["least-busy"].router.cooldown_time
    json.dump({"prices": prices, "answers": answers, "cooldown_s": cooldown_s}, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
