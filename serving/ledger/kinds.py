"""Kinds of requests in the ledger as profiles of today's site file, or the reason why there is none."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple, get_args

import msgspec
import numpy as np

from scheduler.config import ClusterConfig
from scheduler.config.cluster import AUTO
from scheduler.config.supply import Ability
from scheduler.core.supply import Offer
from scheduler.simulation.mix import Mix, Profile, ProfileSpec, resolve
from scheduler.simulation.scenario import api_offers, local_offers
from serving.ledger.window import LedgerTraceError

PROFILES_MAX = 8_000  # each may become four when it is bound to pools by size, and numbers have 16 bits
_TEXTS_MAX = 100_000
_LACKS = re.compile(r'"lacks ([^"]+)"')
_ABILITIES: frozenset[str] = frozenset(get_args(Ability))
_ROUNDING = 1e-9  # of a token: what was multiplied by a ratio is divided by it again
_ENDPOINTS = frozenset({"chat", "completions", "embeddings"})


class Kind(NamedTuple):
    """What a row says of whose it is. The last three are JSON; ``rejected`` is empty where nothing was lacking."""

    tenant: str
    service_class: str
    model: str
    zones: str
    labels: str
    rejected: str


class Kinds:
    """Numbers for kinds: of its profile from 0 on, or below 0, of the reason why a kind is left out.

    A request keeps the zones that it had, as far as its tenant and labels have them today. What it needed beyond text is
    known where some source lacked it: nowhere else does it matter.
    """

    def __init__(self, config: ClusterConfig, offers: tuple[Offer, ...]) -> None:
        self._config, self._offers = config, offers
        self._counted = {offer.id: (offer.tokens_ratio, offer.reasoning_tokens) for offer in offers}
        self._tenants = {tenant.name: tenant for tenant in config.tenants}
        self._labels = {label.name: label.zones for label in config.labels}
        self._models = {AUTO, *(m.name for m in config.models), *(a.name for a in config.aliases)}
        self._numbers: dict[tuple[str, ...], int] = {}
        self._known: dict[tuple[object, ...], int] = {}
        self._profiles: list[Profile] = []
        self._reasons: dict[str, int] = {}
        self._names: set[str] = set()
        self.assumed: list[str] = []  # about whole kinds
        self._sums = np.zeros((3, 0))  # requests, difficulty, its square

    def numbers(self, kinds: Iterable[tuple[str, ...]]) -> list[int]:
        """One for each kind, which is a ``Kind`` or a tuple like it. Raises LedgerTraceError where there are too many."""
        if len(self._numbers) > _TEXTS_MAX:
            self._numbers.clear()
        known = self._numbers
        return [number if (number := known.get(kind)) is not None else self._new(kind) for kind in kinds]

    def left_out(self, reason: str) -> int:
        """The number of a reason."""
        return -1 - self._reasons.setdefault(reason, len(self._reasons))

    def count(self, number: np.ndarray, difficulty: np.ndarray) -> None:
        """Hear how many requests of each kind there are (numbers from 0 on), and how difficult."""
        weights = (np.ones(len(number)), difficulty, difficulty**2)
        found = np.array([np.bincount(number, weight, len(self._profiles)) for weight in weights], float)
        found[:, : self._sums.shape[1]] += self._sums
        self._sums = found

    def uncounted(
        self, offer_ids: Sequence[str], input_tokens: np.ndarray, output_tokens: np.ndarray, cached_tokens: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens measured at these offers as the gateway counts them: by its tokenizer, and without the usual reasoning."""
        ratio, reasoning = np.array([self._counted.get(offer_id, (1.0, 0)) for offer_id in offer_ids]).T
        there = (input_tokens, output_tokens - reasoning, cached_tokens)
        inputs, outputs, cached = (np.floor(tokens / ratio + _ROUNDING) for tokens in there)
        return inputs, np.maximum(np.minimum(output_tokens, 1.0), outputs), cached

    def reasons(self) -> Sequence[str]:
        """By number, the first that of -1."""
        return list(self._reasons)

    def profiles(self) -> tuple[Profile, ...]:
        """By number. The share of each is how many requests it has; its difficulty has their mean and spread."""
        made = []
        for profile, (count, total, squares) in zip(self._profiles, self._sums.T, strict=True):
            mean = min(1.0, float(total / max(1.0, count)))
            half = min(mean, 1.0 - mean, math.sqrt(3.0 * max(0.0, float(squares / max(1.0, count)) - mean**2)))
            made.append(replace(profile, share=float(count), difficulty_low=mean - half, difficulty_high=mean + half))
        return tuple(made)

    def _new(self, kind: tuple[str, ...]) -> int:
        number = self._numbers[kind] = self._found(Kind(*kind))
        return number

    def _found(self, kind: Kind) -> int:
        tenant = self._tenants.get(kind.tenant)
        if tenant is None:
            return self.left_out(f"tenant {kind.tenant!r} is not in the site file (any more)")
        if kind.model not in self._models:
            return self.left_out(f"model {kind.model!r} is neither a model nor an alias in the site file (any more)")
        service_class = kind.service_class
        if service_class not in tenant.service_classes:
            service_class = tenant.service_classes[0]
            self._assume(
                f"{kind.service_class!r} is no service class of tenant {tenant.name!r} (any more): {service_class!r} instead"
            )
        zones = frozenset(msgspec.json.decode(kind.zones, type=list[str])) & frozenset(tenant.zones)
        for label in msgspec.json.decode(kind.labels, type=list[str]):
            allowed = self._labels.get(label, "any")  # of one that is gone the zones of then are what is left
            zones &= zones if allowed == "any" else frozenset(allowed)
        lacking = {need for found in _LACKS.findall(kind.rejected) for need in found.split(", ")}
        needs = frozenset(lacking & _ABILITIES)
        key = (tenant.name, service_class, kind.model, zones, needs)
        if key not in self._known:
            self._known[key] = self._profile(kind, service_class, zones, needs)
        return self._known[key]

    def _profile(self, kind: Kind, service_class: str, zones: frozenset[str], needs: frozenset[str]) -> int:
        where = f"model {kind.model!r} for tenant {kind.tenant!r}"
        if not zones:
            return self.left_out(f"tenant and labels leave no zone to {where}")
        if len(self._profiles) >= PROFILES_MAX:
            raise LedgerTraceError(
                f"more than {PROFILES_MAX:,} kinds of requests (tenant, class, model, zones and needs)"
            )
        spec = ProfileSpec(
            name=self._name(f"{kind.tenant}.{service_class}.{kind.model}"), share=1.0, tenant=kind.tenant,
            service_class=service_class, model=kind.model, zones=tuple(sorted(zones)), needs=needs,  # type: ignore[arg-type]  # abilities all
        )  # fmt: skip
        profile = resolve(Mix(version=1, profiles=(spec,)), self._config)[0]
        offers = [*local_offers(profile, self._offers), *api_offers(profile, self._offers)]
        if not offers:
            asked = f" with {', '.join(sorted(needs))}" if needs else ""
            return self.left_out(f"no pool and no API in {', '.join(sorted(zones))} serves {where}{asked}")
        if not needs & _ENDPOINTS and any("chat" in offer.abilities for offer in offers):
            profile = replace(profile, needs=needs | {"chat"})
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def _assume(self, text: str) -> None:
        if text not in self.assumed:
            self.assumed.append(text)

    def _name(self, wanted: str) -> str:
        name, number = wanted[:63], 2
        while name in self._names:
            name, number = f"{wanted[:56]}-{number}", number + 1
        self._names.add(name)
        return name
