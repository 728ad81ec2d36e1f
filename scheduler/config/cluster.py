"""The whole of cluster.yaml, with every reference between its parts checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, PrivateAttr, StrictBool, model_validator

from scheduler.config.base import Model, Name, Positive
from scheduler.config.demand import Label, PolicySpec, ServiceClassSpec, Tenant
from scheduler.config.planning import PlanningSpec
from scheduler.config.prices import Feed, Listed, PricesSpec
from scheduler.config.supply import ModelSpec, Pool, Provider, Site

AUTO = "auto"


class Alias(Model):
    """A name that clients may ask for, and the models that may answer to it."""

    name: Name
    models: tuple[Name, ...] = Field(min_length=1)


class LedgerSpec(Model):
    """Where the journal and the ledger's database lie, relative to the working directory."""

    journal: str = ".baseload/journal"
    url: str = "sqlite:///.baseload/ledger.db"
    segment_mib_max: Positive = 64.0


class ControllerSpec(Model):
    """Address of the controller; gateways on other machines need one that they can reach."""

    host: str = "127.0.0.1"
    port: int = Field(default=8081, ge=1, le=65535, strict=True)


class ClusterConfig(Model):
    """One site file. Every name that a part refers to is declared in another."""

    version: Literal[1]
    zones: tuple[Name, ...] = Field(min_length=1)
    air_gapped: StrictBool = False
    feeds: tuple[Feed, ...] = ()
    prices: PricesSpec = PricesSpec()
    sites: tuple[Site, ...] = ()
    models: tuple[ModelSpec, ...] = Field(min_length=1)
    aliases: tuple[Alias, ...] = ()
    pools: tuple[Pool, ...] = ()
    providers: tuple[Provider, ...] = ()
    service_classes: tuple[ServiceClassSpec, ...] = Field(min_length=1)
    labels: tuple[Label, ...] = ()
    tenants: tuple[Tenant, ...] = Field(min_length=1)
    policy: PolicySpec = PolicySpec()
    ledger: LedgerSpec = LedgerSpec()
    controller: ControllerSpec = ControllerSpec()
    planning: PlanningSpec = PlanningSpec()
    _dir: str = PrivateAttr(default=".")

    @property
    def directory(self) -> str:
        """Directory of the file, against which relative model paths are read."""
        return self._dir

    @model_validator(mode="after")
    def _references(self) -> ClusterConfig:
        problems = [*self._duplicates(), *self._dangling(), *self._feeds_dangling(), *self._sovereignty()]
        problems += [*self._empty(), *self._cloud_zones()]
        if not self.pools and not self.providers:
            problems.append("pools, providers: at least one source is needed")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _duplicates(self) -> Iterable[str]:
        for section in (
            "feeds",
            "sites",
            "models",
            "aliases",
            "pools",
            "providers",
            "service_classes",
            "labels",
            "tenants",
        ):
            seen: set[str] = set()
            for i, item in enumerate(getattr(self, section)):
                if item.name in seen:
                    yield f"{section}[{i}].name: {item.name!r} is there twice"
                seen.add(item.name)
        pools = {pool.name for pool in self.pools}
        for i, candidate in enumerate(self.planning.candidates):
            if candidate.name in pools:
                yield f"planning.candidates[{i}].name: {candidate.name!r} is there twice"
            pools.add(candidate.name)
        offered: set[str] = set()
        for i, offer in enumerate(self.planning.cloud):
            if offer.pool in offered:
                yield f"planning.cloud[{i}].pool: {offer.pool!r} is there twice"
            offered.add(offer.pool)
        digests: dict[str, str] = {}
        for i, tenant in enumerate(self.tenants):
            for j, key in enumerate(tenant.keys):
                if key.sha256 and digests.setdefault(key.sha256, tenant.name) != tenant.name:
                    yield f"tenants[{i}].keys[{j}]: the same key also opens tenant {digests[key.sha256]!r}"

    def _dangling(self) -> Iterable[str]:
        zones, models = set(self.zones), {m.name for m in self.models}
        sites, classes = {s.name for s in self.sites}, {c.name for c in self.service_classes}
        references: list[tuple[str, str, set[str], str]] = []
        for i, site in enumerate(self.sites):
            references.append((f"sites[{i}].zone", site.zone, zones, "zones"))
        for i, pool in enumerate(self.pools):
            references.append((f"pools[{i}].site", pool.site, sites, "sites"))
            references.append((f"pools[{i}].model", pool.model, models, "models"))
            if pool.engine.kind == "vllm":
                for j, adapter in enumerate(pool.engine.adapters):
                    references.append((f"pools[{i}].engine.adapters[{j}].model", adapter.model, models, "models"))
        for i, provider in enumerate(self.providers):
            references.append((f"providers[{i}].zone", provider.zone, zones, "zones"))
            for j, served in enumerate(provider.models):
                references.append((f"providers[{i}].models[{j}].model", served.model, models, "models"))
        for i, alias in enumerate(self.aliases):
            references += [(f"aliases[{i}].models[{j}]", m, models, "models") for j, m in enumerate(alias.models)]
        pools = {pool.name for pool in self.pools}
        for i, candidate in enumerate(self.planning.candidates):
            references.append((f"planning.candidates[{i}].pool", candidate.pool, pools, "pools"))
        for i, offer in enumerate(self.planning.cloud):
            references.append((f"planning.cloud[{i}].pool", offer.pool, pools, "pools"))
        for i, label in enumerate(self.labels):
            if label.zones != "any":
                references += [(f"labels[{i}].zones[{j}]", z, zones, "zones") for j, z in enumerate(label.zones)]
        for i, tenant in enumerate(self.tenants):
            references += [(f"tenants[{i}].zones[{j}]", z, zones, "zones") for j, z in enumerate(tenant.zones)]
            for j, name in enumerate(tenant.service_classes):
                references.append((f"tenants[{i}].service_classes[{j}]", name, classes, "service_classes"))
        for path, name, known, section in references:
            if name not in known:
                yield f"{path}: {name!r} is not declared under {section} (known: {', '.join(sorted(known)) or 'none'})"

    def listed(self) -> Iterable[tuple[str, Listed]]:
        """Every product of a feed that a part of the file refers to, with the path of the reference."""
        for i, site in enumerate(self.sites):
            electricity, path = site.electricity, f"sites[{i}].electricity"
            if electricity.day_ahead is not None:
                day_ahead = electricity.day_ahead
                yield f"{path}.day_ahead.feed", Listed(feed=day_ahead.feed, product=day_ahead.product)
            if electricity.carbon is not None:
                yield f"{path}.carbon.feed", electricity.carbon
        for i, pool in enumerate(self.pools):
            for j, listed in enumerate(pool.rental.listed if pool.rental else ()):
                yield f"pools[{i}].rental.listed[{j}].feed", listed
        for i, provider in enumerate(self.providers):
            for j, served in enumerate(provider.models):
                for k, listed in enumerate(served.price if isinstance(served.price, tuple) else ()):
                    yield f"providers[{i}].models[{j}].price[{k}].feed", listed

    def _feeds_dangling(self) -> Iterable[str]:
        feeds = {feed.name for feed in self.feeds}
        for path, listed in self.listed():
            if listed.feed not in feeds:
                yield f"{path}: {listed.feed!r} is not declared under feeds (known: {', '.join(sorted(feeds)) or 'none'})"

    def _empty(self) -> Iterable[str]:
        """A pool without a replica needs somebody who may start one, and another pool whose requests show when that pays."""
        zones, mode = {site.name: site.zone for site in self.sites}, self.policy.commitment.mode
        never_empty = {(pool.model, zones.get(pool.site)) for pool in self.pools if pool.replicas.min}
        for i, pool in enumerate(self.pools):
            if pool.replicas.min:
                continue
            if pool.engine.kind != "vllm":
                problem = f"an engine of kind {pool.engine.kind} is not ours to start and stop, so give it 1 or more"
            elif (pool.model, zones.get(pool.site)) not in never_empty:
                problem = f"beside it there has to be a pool of {pool.model!r} in the same zone with min 1 or more"
            elif mode == "off":
                problem = "policy.commitment.mode is off, so nothing would start a replica: set it to enforce"
            else:
                continue
            yield f"pools[{i}].replicas.min: {pool.name!r} cannot be empty: {problem}"

    def _cloud_zones(self) -> Iterable[str]:
        """Whatever a pool may see is seen by what stands in for it: what a plan may rent has to be where the pool is.

        An air-gapped site may rent what stands inside: its zones have no other place.
        """
        zones = {site.name: site.zone for site in self.sites}
        at = {pool.name: zones.get(pool.site) for pool in self.pools}
        told = [(f"planning.candidates[{i}]", c.pool, c.zone) for i, c in enumerate(self.planning.candidates)]
        told += [(f"planning.cloud[{i}]", offer.pool, offer.zone) for i, offer in enumerate(self.planning.cloud)]
        for path, pool, there in told:
            here = at.get(pool)
            if here is not None and there is not None and there != here:
                yield (
                    f"{path}.zone: {there!r} is not {here!r}, where {pool!r} is: what stands in for it would see what may "
                    f"not leave {here!r}"
                )

    def _sovereignty(self) -> Iterable[str]:
        home = {site.zone for site in self.sites}
        for i, provider in enumerate(self.providers):
            if self.air_gapped and provider.kind != "simulated":
                yield f"providers[{i}]: air_gapped is on, so {provider.name!r} may not be here"
            if provider.zone in home:
                yield f"providers[{i}].zone: {provider.zone!r} is a zone of our own sites, which no provider may claim"
        for i, alias in enumerate(self.aliases):
            if alias.name == AUTO:
                yield f"aliases[{i}].name: {AUTO!r} always means every model and cannot be redefined"
