"""The pools of a plan in the text of cluster.yaml.

``planning.cloud`` keeps the prices that none of a technology's pools has, so that the next plan sees the same technology.
"""

from __future__ import annotations

from typing import Any

from scheduler.config import ClusterConfig
from scheduler.config.editing import insert, put, read, remove
from scheduler.config.planning import Candidate
from scheduler.config.supply import Pool, Replicas
from scheduler.planning.document import PoolPlan
from scheduler.planning.shares import Kind, Share, beside_of, shares_in
from scheduler.planning.technologies import PlanError, companions

Data = dict[str, Any]

CANDIDATES, CLOUD, POOLS = ("planning", "candidates"), ("planning", "cloud"), ("pools",)
_PRICES = ("hardware", "rental", "reserved_usd_per_hour")


def with_pool(text: str, config: ClusterConfig, pool: Pool, entry: PoolPlan, by: str) -> str:
    """A pool that stays, and those beside it, as planned. Raises PlanError for a price that the file does not give."""
    main, *others = shares_in(config, entry)
    data, offer = _item(text, POOLS, pool.name), _offer_of(text, pool.name)
    prices = _prices_of(data, offer)
    text = _with_bounds(text, main, pool.replicas, by)
    if main.kinds[0] != _kind_of(data, offer):
        text = _with_price(text, main, _priced(main, entry, prices), by)
    text = _with_offer(text, entry, main, prices, offer, by)
    text = _with_others(text, config, entry, others, prices, by)
    unwanted = {name for name, owner in companions(config).items() if owner == entry.name} - {o.pool for o in others}
    for name in sorted(unwanted):
        text = remove(text, (*POOLS, place_of(text, POOLS, name)), f"{by}: none of {name}")
    return text


def with_candidate(text: str, config: ClusterConfig, candidate: Candidate, entry: PoolPlan, by: str) -> str:
    """The candidate as a pool behind the one whose model it serves. Raises PlanError for a price that is not given."""
    main, *others = shares_in(config, entry)
    told, origin = _item(text, CANDIDATES, candidate.name), _item(text, POOLS, candidate.pool)
    prices = {key: told[key] for key in _PRICES if told.get(key) is not None}
    made = _pool_of(told, origin) | {"replicas": main.bounds} | _priced(main, entry, prices)
    text = insert(text, (*POOLS, _behind(text, config, candidate.pool)), made, f"{by}: {main.words}")
    named = {"cloud_pool": candidate.cloud_pool} if candidate.cloud_pool else {}
    text = _with_offer(text, entry, main, prices, named, by)
    return _with_others(text, config, entry, others, prices, by)


def without_pool(text: str, config: ClusterConfig, pool: Pool, heir: str | None, by: str) -> str:
    """The file without it, its offer and what is beside it; it becomes a candidate of ``heir``, as its own candidates do."""
    for candidate in config.planning.candidates:
        if candidate.pool != pool.name or (place := found(text, CANDIDATES, candidate.name)) is None:
            continue
        if heir is not None:
            text = put(text, (*CANDIDATES, place, "pool"), heir)
        else:
            text = remove(text, (*CANDIDATES, place), f"{candidate.name}: there is no pool {pool.name} by the {by}")
    data, offer = _item(text, POOLS, pool.name), _offer_of(text, pool.name)
    if offer:
        text = remove(text, (*CLOUD, _offers(text).index(offer)), f"of {pool.name}, which is no pool by the {by}")
    prices = _prices_of(data, offer)
    if heir is not None and prices:
        named = {key: offer[key] for key in ("cloud_pool",) if offer.get(key)}
        made = _candidate_of(data, heir, _zone_of(text, pool.name)) | prices | named
        text = _appended(text, CANDIDATES, made, f"was a pool before the {by}")
    for name in (name for name, owner in companions(config).items() if owner == pool.name):
        text = remove(text, (*POOLS, place_of(text, POOLS, name)), f"{by}: none of {name}")
    return remove(text, (*POOLS, place_of(text, POOLS, pool.name)), f"{by}: none of {pool.name}")


def place_of(text: str, path: tuple[str, ...], name: str) -> int:
    """Where in the sequence at ``path`` the item of that name is. Raises PlanError where there is none."""
    place = found(text, path, name)
    if place is None:
        raise PlanError(f"{'.'.join(path)}: there is no {name}")
    return place


def found(text: str, path: tuple[str, ...], name: str) -> int | None:
    """The same, or None."""
    return next((i for i, item in enumerate(_items(text, path)) if item["name"] == name), None)


def _items(text: str, path: tuple[str, ...]) -> list[Data]:
    data = read(text)
    for part in path:
        data = data[part]
    return list(data)


def _item(text: str, path: tuple[str, ...], name: str) -> Data:
    return _items(text, path)[place_of(text, path, name)]


def _offers(text: str) -> list[Data]:
    return (read(text).get("planning") or {}).get("cloud") or []


def _offer_of(text: str, pool: str) -> Data:
    return next((offer for offer in _offers(text) if offer["pool"] == pool), {})


def _kind_of(data: Data, offer: Data) -> Kind | None:
    """How the replicas of a pool in the file are had."""
    if data.get("hardware"):
        return "owned"
    if not data.get("rental"):
        return None
    return "reserved" if offer.get("reserved_pool") == data["name"] else "rented"


def _prices_of(data: Data, offer: Data) -> Data:
    """Every price of a pool's technology, by its field in a candidate: its own and those of its offer."""
    own = data.get("rental") if _kind_of(data, offer) == "rented" else None
    prices = {
        "hardware": data.get("hardware") or offer.get("hardware"),
        "rental": offer.get("rental") or own,
        "reserved_usd_per_hour": offer.get("reserved_usd_per_hour"),
    }
    return {key: price for key, price in prices.items() if price is not None}


def _priced(share: Share, entry: PoolPlan, prices: Data) -> Data:
    """``hardware`` or ``rental`` of a pool; where it has several kinds, that of the first."""
    field = {"owned": "hardware", "reserved": "reserved_usd_per_hour", "rented": "rental"}[share.kinds[0]]
    if field not in prices:
        raise PlanError(f"{entry.name}: the plan has {share.words}, the site file gives no price for that")
    if share.kinds[0] != "reserved":
        return {field: prices[field]}
    told = prices.get("hardware") or prices.get("rental") or {}
    rental = {"gpu": entry.gpu, "usd_per_hour": prices[field]}
    return {"rental": rental | {key: told[key] for key in ("gpu_count", "idle_watts") if key in told}}


def _with_bounds(text: str, share: Share, before: Replicas, by: str) -> str:
    if share.bounds == {"min": before.min, "max": before.max}:
        return text
    comment = f"{by}: {share.words}; before: {before.min} to {before.max}"
    return put(text, (*POOLS, place_of(text, POOLS, share.pool), "replicas"), share.bounds, comment)


def _with_price(text: str, share: Share, price: Data, by: str) -> str:
    at = (*POOLS, place_of(text, POOLS, share.pool))
    for key in ("hardware", "rental"):
        if key in price:
            text = put(text, (*at, key), price[key], f"{by}: {share.words}")
        elif _item(text, POOLS, share.pool).get(key) is not None:
            text = put(text, (*at, key), None, f"{by}: what that costs is in planning.cloud")
    return text


def _with_offer(text: str, entry: PoolPlan, main: Share, prices: Data, offer: Data, by: str) -> str:
    """The prices that the pool itself does not have, and whether it has the reserved ones."""
    kind = main.kinds[0]
    in_pool = {"owned": "hardware", "rented": "rental"}.get(kind)
    wanted = {key: price for key, price in prices.items() if key != in_pool}
    if kind == "reserved":
        wanted["reserved_pool"] = entry.name
    elif offer.get("reserved_pool") == entry.name:
        wanted["reserved_pool"] = None
    if not offer.get("pool"):
        made = {"pool": entry.name, "zone": _zone_of(text, entry.name), **wanted, **offer}
        return _appended(text, CLOUD, made, f"{by}: {entry.name}") if wanted else text
    place = _offers(text).index(offer)
    for key, value in wanted.items():
        if offer.get(key) != value:
            text = put(text, (*CLOUD, place, key), value)
    return text


def _zone_of(text: str, pool: str) -> str:
    site = _item(text, POOLS, pool)["site"]
    return str(_item(text, ("sites",), site)["zone"])


def _with_others(text: str, config: ClusterConfig, entry: PoolPlan, others: list[Share], prices: Data, by: str) -> str:
    """Pools beside the one of that name, behind it."""
    here = {pool.name: pool for pool in config.pools}
    for share in others:
        if share.pool in here:
            text = _with_bounds(text, share, here[share.pool].replicas, by)
            continue
        kept = {k: v for k, v in _item(text, POOLS, entry.name).items() if k not in ("hardware", "rental")}
        made = kept | {"name": share.pool, "replicas": share.bounds} | _priced(share, entry, prices)
        text = insert(text, (*POOLS, _behind(text, config, entry.name)), made, f"{by}: {share.words}")
    return text


def _behind(text: str, config: ClusterConfig, pool: str) -> int:
    """The place behind a pool and those beside it."""
    beside = beside_of(config, pool)
    names = [item["name"] for item in _items(text, POOLS)]
    place = names.index(pool) + 1
    while place < len(names) and names[place] in beside:
        place += 1
    return place


def _pool_of(candidate: Data, origin: Data) -> Data:
    """Data of a pool: the origin's in its order, with what the candidate says of GPUs; without a price."""
    made = {key: value for key, value in origin.items() if key not in ("hardware", "rental")}
    made |= {key: candidate[key] for key in ("name", "curve", "energy")}
    engine = origin["engine"]
    if engine["kind"] == "vllm":
        arguments = {**engine.get("args", {}), **candidate.get("engine_args", {})}
        made["engine"] = {**engine, "args": arguments, "gpus_per_replica": candidate["gpus_per_replica"]}
    return made


def _candidate_of(data: Data, heir: str, zone: str) -> Data:
    made = {"name": data["name"], "pool": heir, "zone": zone}
    made |= {"gpus_per_replica": data["engine"].get("gpus_per_replica") or 1}
    made |= {key: data[key] for key in ("curve", "energy")}
    return made | ({"engine_args": data["engine"]["args"]} if data["engine"].get("args") else {})


def _appended(text: str, path: tuple[str, str], made: Data, comment: str) -> str:
    """The sequence of section ``planning`` with one item more."""
    planning = read(text).get("planning")
    if planning is None:
        return put(text, path[:1], {path[1]: [made]})
    if not planning.get(path[1]):
        return put(text, path, [made])
    return insert(text, (*path, len(planning[path[1]])), made, comment)
