"""Who asks, and what may serve them: keys, labels, zones and service classes. Everything here fails closed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from scheduler.config import ClusterConfig
from scheduler.config.demand import DEMO_KEY_SHA256, Budget, ServiceClassSpec
from scheduler.core.market import ServiceClass
from serving.protocol import ProtocolError

Headers = Mapping[bytes, bytes]

_LOOPBACK = ("127.", "::ffff:127.")
# A reverse proxy on this machine makes every caller look local: with any of these a request did not start here.
_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via")

_OURS = b"x-baseload-"
# What a request may ask for; one that is misspelt must not pass for none.
_ASKED = {_OURS + name for name in (b"labels", b"zones", b"class", b"usd-max", b"debug")}


@dataclass(frozen=True, slots=True)
class Account:
    """A tenant as the request path needs it."""

    name: str
    zones: frozenset[str]
    classes: Mapping[str, ServiceClassSpec]
    default_class: ServiceClassSpec
    budget: Budget | None


@dataclass(frozen=True, slots=True)
class Terms:
    """What one request is held to, after tenant, labels and headers."""

    zones: frozenset[str]
    labels: tuple[str, ...]
    service_class: ServiceClass
    deadline_s: float
    usd_max: float


def headers_of(scope: Mapping[str, Any]) -> dict[bytes, bytes]:
    """ASGI headers as a dict; repeated ones are joined, so that a second label header cannot hide the first."""
    result: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        result[name] = result[name] + b"," + value if name in result else value
    return result


class Access:
    """Everything known of callers, read from cluster.yaml once."""

    def __init__(self, config: ClusterConfig) -> None:
        self._zones = frozenset(config.zones)
        self._labels = {label.name: None if label.zones == "any" else frozenset(label.zones) for label in config.labels}
        self._total_s_max = config.policy.bounds.total_s_max
        specs = {spec.name: spec for spec in config.service_classes}
        self._service_classes = {spec.name: spec.core() for spec in config.service_classes}
        self._keys: dict[str, tuple[Account, bool]] = {}
        self.accounts: dict[str, Account] = {}
        for tenant in config.tenants:
            account = Account(
                name=tenant.name,
                zones=frozenset(tenant.zones),
                classes={name: specs[name] for name in tenant.service_classes},
                default_class=specs[tenant.service_classes[0]],
                budget=tenant.budget,
            )
            self.accounts[tenant.name] = account
            for key in tenant.keys:
                digest = key.digest()
                if digest is not None:
                    self._check_key(tenant.name, digest, key.loopback_only)
                    self._keys[digest] = (account, key.loopback_only)

    def _check_key(self, tenant: str, digest: str, loopback_only: bool) -> None:
        """What cluster.yaml cannot see: keys from the environment. Raises ValueError."""
        other = self._keys.get(digest)
        if other is not None and other[0].name != tenant:
            raise ValueError(f"tenant {tenant}: its key also opens tenant {other[0].name}")
        if digest == DEMO_KEY_SHA256 and not loopback_only:
            raise ValueError(f"tenant {tenant}: the public key local-demo needs loopback_only: true")

    def account(self, headers: Headers, client: tuple[str, int] | None) -> Account:
        """The tenant whose key the request carries (``Authorization: Bearer`` or ``x-api-key``), else 401."""
        authorization = headers.get(b"authorization", b"")
        scheme, _, key = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            key = headers.get(b"x-api-key", b"")
        key = key.strip()
        if not key:
            raise ProtocolError(401, "no API key: send `Authorization: Bearer KEY`", "missing_api_key")
        found = self._keys.get(hashlib.sha256(key).hexdigest())
        if found is None:
            raise ProtocolError(401, "this API key is not known here", "invalid_api_key")
        account, loopback_only = found
        if loopback_only and not _is_local(headers, client):
            raise ProtocolError(401, "this API key is accepted from this machine only", "invalid_api_key")
        return account

    def terms(self, account: Account, headers: Headers, tags: list[str]) -> Terms:
        """Zones, class and limits of a request. Labels and headers can only narrow what the tenant may reach."""
        if unknown_headers := {name for name in headers if name.startswith(_OURS)} - _ASKED:
            name = min(unknown_headers).decode("latin-1")
            raise ProtocolError(400, f"unknown header {name}: refused, since it may restrict data", "unknown_header")
        zones = account.zones
        labels = tuple(
            dict.fromkeys([*_list(headers, b"x-baseload-labels"), *_list(headers, b"x-litellm-tags"), *tags])
        )
        for label in labels:
            if label not in self._labels:
                raise ProtocolError(
                    400, f"unknown label {label!r}: refused, since it may restrict data", "unknown_label"
                )
            allowed = self._labels[label]
            if allowed is not None:
                zones &= allowed
        if b"x-baseload-zones" in headers:
            wanted = frozenset(_list(headers, b"x-baseload-zones"))
            if unknown := wanted - self._zones:
                raise ProtocolError(400, f"unknown zone {sorted(unknown)[0]!r} in x-baseload-zones", "unknown_zone")
            zones &= wanted
        spec = self._class(account, headers)
        service_class = self._service_classes[spec.name]
        if b"x-llm-d-slo-ttft-ms" in headers:
            ttft_s = _number(headers, b"x-llm-d-slo-ttft-ms") / 1000.0
            service_class = replace(service_class, ttft_s_max=ttft_s)
        usd_max = spec.usd_max
        if b"x-baseload-usd-max" in headers:
            usd_max = min(usd_max, _number(headers, b"x-baseload-usd-max"))
        return Terms(zones, labels, service_class, min(spec.deadline_s, self._total_s_max), usd_max)

    def _class(self, account: Account, headers: Headers) -> ServiceClassSpec:
        chosen = account.default_class
        for header in (b"x-baseload-class", b"x-llm-d-inference-objective"):  # the last one wins, each must be right
            if header in headers:
                name = headers[header].decode("latin-1")
                if name not in account.classes:
                    text = f"this tenant has no service class {name!r} (it has: {', '.join(account.classes)})"
                    raise ProtocolError(400, text, "unknown_class")
                chosen = account.classes[name]
        return chosen


def _is_local(headers: Headers, client: tuple[str, int] | None) -> bool:
    if client is None or not (client[0] == "::1" or client[0].startswith(_LOOPBACK)):
        return False
    return not any(name in headers for name in _FORWARDED)


def _list(headers: Headers, name: bytes) -> list[str]:
    value = headers.get(name)
    return [item for part in value.decode("latin-1").split(",") if (item := part.strip(" \t"))] if value else []


def _number(headers: Headers, name: bytes) -> float:
    try:
        value = -1.0 if b"_" in headers[name] else float(headers[name])  # Python would read 1_0 as 10
    except ValueError:
        value = -1.0
    if not 0.0 <= value < 1e9:
        raise ProtocolError(400, f"header {name.decode()} must be a number from 0", "invalid_header")
    return value
