"""Baselines "lowest-cost" and "least-busy": two routing strategies of litellm's Router, restated as pure functions.

Source: behaviour of ``litellm.Router`` 1.106.2 with ``routing_strategy`` "cost-based-routing" and "least-busy", which
``tests/scheduler/simulation/test_litellm_rules.py`` puts into the same states. Both are deterministic: no chance is involved,
ties go by order. A deployment is its index in the model list; one that is cooling down is never chosen.

**Lowest cost** takes the smallest ``rank_usd``: USD per input token plus USD per output token, whatever the request's own mix
of the two. Of equals it takes the one that has been longest in its *table* of usage: a success enters a deployment, and each
choice from a table that is not empty enters all others that are not cooling, in list order. Its limits count what *succeeded*
in this minute of the wall clock; what is in flight or failed counts nothing. The table, and this minute's counts with it, is
forgotten ``TABLE_LIFE_S`` after it was begun, however much it is used.

**Least busy** takes the fewest requests in flight, the first in the list among equals; a deployment never used counts zero.
It knows neither prices nor limits nor how large a deployment is. A request counts from just before it is sent until its last
token or its failure. A count never falls below zero and is forgotten ``COUNT_LIFE_S`` after it was begun, also while requests
are in flight; a stream that its reader abandons stays counted until then. Each process counts its own requests, unless they
share a Redis.

How the simulator uses them. The local pool and the APIs that may answer a request are deployments of one ``model_name``:
one list for each set of models that requests accept. A pool is one deployment, or one per replica where each has its own
address. What litellm would be told about them, it is told here:

* An API has its list prices in ``usd_per_input`` and ``usd_per_output``. litellm alone looks in its price map for the exact
  ``base_model``, then the exact ``model``. There "gpt-4o" is and "openai/gpt-4o" is not: give the baseline the better set-up.
* A pool has its avoidable cost, energy per token. That is positive, so it ranks first. A zero would count as not given, and a
  price neither given nor mapped is ``UNKNOWN_USD_PER_TOKEN``: a pool entered as free ranks behind every API.
* The rank knows no load. Requests leave the pool only once its limits for the minute are spent, or while it cools down. In
  litellm the first 429 of one deployment among several cools it for ``COOLDOWN_S`` and the retry goes to the next. So a pool
  that refuses beyond a full queue lets this baseline overflow: set ``cooling`` from then on for that long. Tune both.
* litellm also takes ``rpm`` (else 6 per 1000 ``tpm``) for the most requests in flight. Under lowest cost one more is answered
  429 though others are free: the retry chooses the same again. That belongs to the call, not to the choice, and is not here;
  ``max_parallel_requests`` raises it.
* None is a 429 to the client: nothing waits in front of the choice.

Left out: ``order``, tags, teams and pre-call checks, which narrow the list before a strategy sees it and are off by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

UNKNOWN_USD_PER_TOKEN = 5.0
TABLE_LIFE_S = 600.0
COUNT_LIFE_S = 3600.0
COOLDOWN_S = 5.0


class Deployment(NamedTuple):
    """One deployment as litellm's strategies see it at one instant; prices in USD per token.

    ``usd_per_*`` is what the operator wrote beside the deployment, ``map_usd_per_*`` the row of litellm's price map; None
    where there is none. A limit of zero or None is no limit. ``*_this_min`` are of requests that succeeded in this minute of
    the wall clock, their tokens those of input and output together. ``in_flight`` is kept by ``in_flight_after``.
    """

    usd_per_input: float | None = None
    usd_per_output: float | None = None
    map_usd_per_input: float | None = None
    map_usd_per_output: float | None = None
    requests_per_min_max: int | None = None
    tokens_per_min_max: int | None = None
    requests_this_min: int = 0
    tokens_this_min: int = 0
    in_flight: int = 0
    cooling: bool = False


def rank_usd(deployment: Deployment) -> float:
    """What lowest cost compares: USD of one input token and one output token.

    >>> rank_usd(Deployment(usd_per_input=1e-6, usd_per_output=3e-6))
    4e-06
    >>> rank_usd(Deployment(usd_per_input=0.0, usd_per_output=0.0))
    10.0
    """
    return _side_usd(deployment.usd_per_input, deployment.map_usd_per_input) + _side_usd(
        deployment.usd_per_output, deployment.map_usd_per_output
    )


def _side_usd(given: float | None, mapped: float | None) -> float:
    """A zero counts where the map says it, and not where the operator does."""
    if given:
        return given
    return UNKNOWN_USD_PER_TOKEN if mapped is None else mapped


def within_limits(deployment: Deployment, input_tokens: int) -> bool:
    """Whether lowest cost may still choose it: one request and ``input_tokens`` more reach the limits at most.

    ``input_tokens`` is litellm's own count of the prompt; the answer's tokens are not foreseen.
    """
    requests_max, tokens_max = deployment.requests_per_min_max, deployment.tokens_per_min_max
    if requests_max and deployment.requests_this_min + 1 > requests_max:
        return False
    return not (tokens_max and deployment.tokens_this_min + input_tokens > tokens_max)


def cheapest(deployments: Sequence[Deployment], input_tokens: int = 0) -> tuple[int, ...]:
    """All that lowest cost may choose from, depending on its table: the equals of lowest rank, in list order."""
    ranks = {i: rank_usd(d) for i, d in enumerate(deployments) if not d.cooling and within_limits(d, input_tokens)}
    lowest = min(ranks.values(), default=0.0)
    return tuple(i for i, rank in ranks.items() if rank == lowest)


def lowest_cost(deployments: Sequence[Deployment], input_tokens: int = 0, table: Sequence[int] = ()) -> int | None:
    """The index chosen by "cost-based-routing", or None where litellm answers 429.

    ``table`` holds the indices in the order in which they entered the table; empty at the start.
    """
    equals = cheapest(deployments, input_tokens)
    return next((i for i in table if i in equals), equals[0] if equals else None)


def table_after_choice(deployments: Sequence[Deployment], table: Sequence[int]) -> tuple[int, ...]:
    """The table once a choice has looked at it: an empty one stays so, any other takes in all that are not cooling."""
    if not table:
        return ()
    return (*table, *(i for i, d in enumerate(deployments) if not d.cooling and i not in table))


def table_after_success(index: int, table: Sequence[int]) -> tuple[int, ...]:
    """The table once a request to ``index`` has succeeded."""
    return tuple(table) if index in table else (*table, index)


def least_busy(deployments: Sequence[Deployment]) -> int | None:
    """The index chosen by "least-busy", or None where everything is cooling and litellm answers 429."""
    warm = (i for i, d in enumerate(deployments) if not d.cooling)
    return min(warm, key=lambda i: deployments[i].in_flight, default=None)


def in_flight_after(in_flight: int, change: int) -> int:
    """The count after a request was sent (+1), or ended or failed (-1); an end that nobody saw begin leaves zero."""
    return max(0, in_flight + change)
