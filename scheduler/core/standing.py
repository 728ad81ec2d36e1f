"""What one gateway knows by itself: its own load at every offer, what failed there, and what its tenants have spent."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping

from scheduler.core.capacity import Capacity
from scheduler.core.market import NO_LOAD, Load, OfferLoad, Outcome, Policy
from scheduler.core.supply import Offer

_RETRY_TOKENS_MAX = 50.0
_TTFT_WEIGHT = 0.1
# TPOT by a quantile tracker (Angelopoulos, Candes and Tibshirani 2023): each miss takes it up, each hit a little down, so
# that in the long run this share of answers is slower, whatever the load does.
_TPOT_MISSES, _TPOT_STEP = 0.1, 0.1
_TPOT_TOKENS_MIN, _TPOT_S_MIN = 8, 1e-4  # shorter answers, and those that came in one piece, tell nothing


class Standing:
    """``load`` is what ``decide`` reads; it stays one object and is kept up to date in place."""

    def __init__(self, policy: Policy, retry_share_max: float) -> None:
        self._offers: dict[str, OfferLoad] = {}
        self._usd: dict[str, float] = {}
        self._starts: dict[str, deque[float]] = {}
        self.load = Load(self._offers, self._usd)
        self.retry_tokens = _RETRY_TOKENS_MAX
        self._policy, self._retry_share_max = policy, retry_share_max

    def seen(self, old: Mapping[str, Capacity | None], offers: Iterable[Offer], now_s: float) -> None:
        """A new market: what was sent before a newer snapshot is in that snapshot's counts."""
        for offer in offers:
            here = self._offers.get(offer.id)
            if here is None:
                continue
            before = old.get(offer.id)
            if here.sent_s and offer.capacity and (before is None or offer.capacity.as_of_s > before.as_of_s):
                here = self._offers[offer.id] = here._replace(sent_s=0.0)
            if offer.id in self._starts:
                # A limit that was reached sends nothing here any more: the minute passes all the same.
                self._offers[offer.id] = here._replace(requests_last_min=self._recent(offer, now_s))

    def cooling(self, now_s: float) -> list[str]:
        """Offers that are left alone for a while after failures."""
        return sorted(offer_id for offer_id, load in self._offers.items() if load.cooldown_until_s > now_s)

    def spent_usd(self) -> dict[str, float]:
        """Per tenant, USD spent or reserved since this gateway started."""
        return dict(self._usd)

    def begin(self, offer: Offer, tenant: str, usd: float, work_s: float, now_s: float) -> None:
        """An attempt starts: it counts as load, and its estimate is reserved from the tenant's lease."""
        here = self._offers.get(offer.id, NO_LOAD)
        recent = here.requests_last_min
        if offer.requests_per_min_max:
            starts = self._starts.setdefault(offer.id, deque(maxlen=offer.requests_per_min_max))
            starts.append(now_s)
            recent = self._recent(offer, now_s)
        sent_s, sent_at_s = here.sent_s, here.sent_at_s
        if offer.capacity is not None:
            sent_s, sent_at_s = here.waiting_s(now_s) + work_s / max(1, offer.capacity.replicas), now_s
        self._offers[offer.id] = here._replace(
            inflight=here.inflight + 1, sent_s=sent_s, sent_at_s=sent_at_s, requests_last_min=recent
        )
        self._usd[tenant] = self._usd.get(tenant, 0.0) + usd
        self.retry_tokens = min(_RETRY_TOKENS_MAX, self.retry_tokens + self._retry_share_max)

    def end(self, offer: Offer, tenant: str, usd_reserved: float, outcome: Outcome, prefill_s: float) -> None:
        """An attempt ended: release its load, replace the reservation by what it cost, and learn from it."""
        here = self._offers.get(offer.id, NO_LOAD)
        self._usd[tenant] = self._usd.get(tenant, 0.0) + outcome.usd - usd_reserved
        cooldown_s, failures, ratio = here.cooldown_until_s, here.failures, here.ttft_ratio
        if outcome.status in ("failed", "timeout"):
            self.retry_tokens = max(0.0, self.retry_tokens - 1.0)
            # A burst that fails together is one failure: only the first after a cooldown makes the next one longer.
            if offer.kind == "api" and cooldown_s <= outcome.ended_s:
                failures += 1
                cooldown_s = outcome.ended_s + self._cooldown_s(outcome, failures)
            elif outcome.retry_after_s:
                cooldown_s = max(cooldown_s, outcome.ended_s + self._cooldown_s(outcome, failures))
        elif outcome.status == "complete":
            failures = 0
        if outcome.ttft_s is not None and offer.kind == "api" and prefill_s > 0:
            ratio += _TTFT_WEIGHT * (min(outcome.ttft_s / prefill_s, 100.0) - ratio)
        sent_s = here.sent_s
        if outcome.status == "bounced" and sent_s:
            sent_s = 0.0  # it did not join the line: better to forget all that was sent than to count it for ever
        recent = self._recent(offer, outcome.ended_s)
        tpot_s, tpot_at_s = _tracked(here, outcome)
        self._offers[offer.id] = OfferLoad(
            here.inflight - 1, sent_s, here.sent_at_s, recent, cooldown_s, failures, ratio, tpot_s, tpot_at_s
        )

    def _recent(self, offer: Offer, now_s: float) -> int:
        starts = self._starts.get(offer.id)
        return sum(1 for start_s in starts if start_s > now_s - 60.0) if starts else 0

    def _cooldown_s(self, outcome: Outcome, failures: int) -> float:
        """Retry-After is obeyed; a refused connection or a 503 counts at once; other faults from the second on."""
        policy = self._policy
        if outcome.retry_after_s:
            return min(outcome.retry_after_s, policy.breaker_max_s)
        if failures < 2 and outcome.http_status not in (0, 429, 503):
            return 0.0
        return float(min(policy.breaker_max_s, policy.breaker_base_s * 2.0 ** min(failures - 1, 16)))


def _tracked(here: OfferLoad, outcome: Outcome) -> tuple[float, float]:
    """The TPOT that nine answers in ten stay below, and when it was last learnt."""
    seen_s = outcome.tpot_s
    few = outcome.usage.output_tokens < _TPOT_TOKENS_MIN
    if outcome.status != "complete" or few or seen_s is None or seen_s < _TPOT_S_MIN:
        return here.tpot_s, here.tpot_at_s
    if not here.tpot_s:
        return seen_s, outcome.ended_s
    return here.tpot_s * math.exp(_TPOT_STEP * ((seen_s > here.tpot_s) - _TPOT_MISSES)), outcome.ended_s
