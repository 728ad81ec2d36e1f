"""What could serve: every pool and every candidate of ``planning`` as a technology, with its prices to own and to rent.

The whole is one configuration in which each technology is a pool of its own, so that prices, energy and curves come from the
same code as live.
"""

from __future__ import annotations

from dataclasses import dataclass

from pricing import board, onprem, spot
from pricing.board import Board
from scheduler.config import ClusterConfig
from scheduler.config.planning import Beside, Candidate, CloudOffer
from scheduler.config.prices import Hardware, Rental
from scheduler.config.supply import Pool
from scheduler.core.supply import ServiceCurve

# Of what is there already nobody says how many more could be had.
REPLICAS_MAX = 1024


class PlanError(ValueError):
    """Nothing can be planned from what was given; says what is missing or wrong."""


@dataclass(frozen=True, slots=True)
class Technology:
    """One pool on one type of GPU. USD per hour and replica, amortized; None: not to be had that way.

    ``pool``: the first one of its model on its site; the same requests may be served by all technologies of that (``homes``).

    ``owned_usd_per_hour`` and ``reserved_usd_per_hour`` hold idle power. ``rented_usd_per_hour`` is the effective price of an
    hour of work (``pricing.spot``) with idle power, ``start_s`` what it takes to start one. ``replicas_now``: as many as the
    pool may have, and of those beside it (``companions``) as many as always run.
    """

    name: str
    pool: str
    model: str
    context_tokens: int
    gpu: str
    gpus_per_replica: float
    curve: ServiceCurve
    joules_per_input_token: float
    joules_per_output_token: float
    idle_watts: float
    idle_usd_per_hour: float
    usd_per_joule: float
    owned_usd_per_hour: float | None
    reserved_usd_per_hour: float | None
    rented_usd_per_hour: float | None
    rented_availability: float
    start_s: float
    hardware: Hardware | None
    replicas_now: int
    replicas_max: int


def companions(config: ClusterConfig) -> dict[str, str]:
    """Pools of what is reserved or rented beside another one, by name, with the one whose technology they are.

    They are found by the names that ``planning.cloud`` gives them, and have the same model, site and curve. Raises PlanError
    where a plan may need such a name and something else has it.
    """
    pools, spec = {pool.name: pool for pool in config.pools}, config.planning
    others = {candidate.name for candidate in spec.candidates} | {offer.pool for offer in spec.cloud}
    asked: list[tuple[Pool | None, str, Beside]] = [
        (pools[offer.pool], offer.pool, offer.beside) for offer in spec.cloud
    ]
    asked += [(None, candidate.name, candidate.beside) for candidate in spec.candidates]
    found: dict[str, str] = {}
    for of, owner, beside in asked:
        for what, name in beside._asdict().items():
            there = pools.get(name)
            is_other = there is not None and (of is None or not _is_alike(there, of))
            if is_other or name in others or name in found:
                raise PlanError(
                    f"what may be {what} of {owner} needs a pool {name}, and that name belongs to something else (or its "
                    "model, site or curve differs); give it another one in planning (cloud_pool, reserved_pool)"
                )
            if there is not None:
                found[name] = owner
    return found


def homes(config: ClusterConfig) -> dict[str, str]:
    """By pool, the first one of its model on its site: what may be served by one of them may be by any."""
    beside, first, found = companions(config), dict[tuple[str, str], str](), dict[str, str]()
    for pool in config.pools:
        if pool.name not in beside:
            found[pool.name] = first.setdefault((pool.model, pool.site), pool.name)
    return found | {name: found[owner] for name, owner in beside.items()}


def _is_alike(pool: Pool, other: Pool) -> bool:
    return (pool.model, pool.site, pool.curve) == (other.model, other.site, other.curve)


def expanded(config: ClusterConfig) -> ClusterConfig:
    """``config`` with each candidate as a pool beside the one whose model it serves, one replica of each.

    Pools that hold what another one's technology has reserved or rented are left out: a technology is there once.
    """
    beside = companions(config)
    offers = {offer.pool: offer for offer in config.planning.cloud}
    pools = [_alone(pool, offers.get(pool.name)) for pool in config.pools if pool.name not in beside]
    by_name = {pool.name: pool for pool in pools}
    pools += [_as_pool(candidate, by_name[candidate.pool]) for candidate in config.planning.candidates]
    made = config.model_copy(update={"pools": tuple(pools)})
    made._dir = config.directory
    return made


def _alone(pool: Pool, offer: CloudOffer | None) -> Pool:
    """One replica, owned where that is to be had: also while all that are there are reserved or rented."""
    changes: dict[str, object] = {"replicas": pool.replicas.model_copy(update={"min": 1, "max": 1})}
    if pool.hardware is None and offer is not None and offer.hardware is not None:
        changes |= {"hardware": offer.hardware, "rental": None}
    return pool.model_copy(update=changes)


def _as_pool(candidate: Candidate, of: Pool) -> Pool:
    """The pool that a candidate would be. Of several ways to have it the first of owning and renting prices it."""
    engine = of.engine
    if engine.kind == "vllm":
        engine = engine.model_copy(
            update={"args": {**engine.args, **candidate.engine_args}, "gpus_per_replica": candidate.gpus_per_replica}
        )
    rental = candidate.rental
    if candidate.hardware is None and rental is None:
        rental = Rental(usd_per_hour=candidate.reserved_usd_per_hour)
    return of.model_copy(
        update={
            "name": candidate.name, "curve": candidate.curve, "energy": candidate.energy, "engine": engine,
            "hardware": candidate.hardware, "rental": rental if candidate.hardware is None else None,
        }
    )  # fmt: skip


def technologies_of(config: ClusterConfig, now_s: float) -> tuple[Technology, ...]:
    """Every technology of ``config``, priced as of ``now_s``. Raises PlanError naming each that has no price.

    With ``policy.commitment.mode: off`` nobody would start a replica beside others, so what can be owned or reserved is not
    to be had by the hour.
    """
    whole = expanded(config)
    priced = board.price(whole, now_s)
    beside, family = companions(config), homes(config)
    here = {pool.name: pool for pool in config.pools}
    more: dict[str, Candidate | CloudOffer] = {offer.pool: offer for offer in config.planning.cloud}
    more |= {candidate.name: candidate for candidate in config.planning.candidates}
    problems, found = [], []
    for pool in whole.pools:
        candidate = more.get(pool.name)
        rental = _by_the_hour(here.get(pool.name), candidate)
        reason = _unpriced(pool, rental, candidate, priced)
        if reason:
            problems.append(f"{pool.name}: {reason}")
        else:
            alike = [p for p in config.pools if beside.get(p.name, p.name) == pool.name]
            now = sum(p.replicas.min if p.name in beside else p.replicas.max for p in alike)
            home = family[candidate.pool if isinstance(candidate, Candidate) else pool.name]
            found.append(_technology(whole, pool, home, candidate, rental, priced, now))
    if problems:
        raise PlanError("no plan without prices: " + "; ".join(problems))
    if not found:
        raise PlanError("there is no pool and so nothing to plan: declare at least one under pools")
    return tuple(found)


def _by_the_hour(pool: Pool | None, more: Candidate | CloudOffer | None) -> Rental | None:
    """What it costs to rent. The price of something reserved is none by the hour."""
    if more is not None and more.rental is not None:
        return more.rental
    if pool is None or (isinstance(more, CloudOffer) and more.holds_reserved):
        return None
    return pool.rental


def _unpriced(pool: Pool, rental: Rental | None, candidate: Candidate | CloudOffer | None, priced: Board) -> str:
    if pool.name not in priced.pools:
        return next((why for offer, why in priced.unpriced.items() if offer.startswith(f"{pool.name}/")), "no price")
    if rental is not None and rental.usd_per_hour is None:
        return "its rent comes from a feed; a plan needs rental.usd_per_hour"
    reserved = candidate.reserved_usd_per_hour if candidate is not None else None
    if pool.hardware is None and rental is None and reserved is None:
        return "neither hardware (what it costs to own) nor rental (to rent) is given"
    return ""


def _technology(
    config: ClusterConfig,
    pool: Pool,
    home: str,
    more: Candidate | CloudOffer | None,
    rental: Rental | None,
    priced: Board,
    now: int,
) -> Technology:
    site = next(site for site in config.sites if site.name == pool.site)
    tariff, pue = priced.pools[pool.name].tariff.usd_per_kwh, site.electricity.pue
    hardware = pool.hardware
    idle_watts = (hardware or rental or Rental(usd_per_hour=0.0)).idle_watts
    idle_usd = onprem.power_usd_per_hour(idle_watts, tariff, pue)
    candidate = more if isinstance(more, Candidate) else None
    reserved = more.reserved_usd_per_hour if more is not None else None
    is_rented = config.policy.commitment.mode != "off" or (hardware is None and reserved is None)
    rented = rental.usd_per_hour if rental is not None and is_rented else None
    gpus = candidate.gpus_per_replica if candidate is not None else getattr(pool.engine, "gpus_per_replica", 0.0)
    return Technology(
        name=pool.name,
        pool=home,
        model=pool.model,
        context_tokens=next(model.context_tokens for model in config.models if model.name == pool.model),
        gpu=(hardware.gpu if hardware is not None else rental.gpu if rental is not None else "") or pool.name,
        gpus_per_replica=gpus or (hardware.gpu_count if hardware is not None else 1.0),
        curve=onprem.service_curve(pool.curve),
        joules_per_input_token=priced.pools[pool.name].energy.joules_per_input_token,
        joules_per_output_token=priced.pools[pool.name].energy.joules_per_output_token,
        idle_watts=idle_watts,
        idle_usd_per_hour=idle_usd,
        usd_per_joule=max(0.0, onprem.usd_per_joule(tariff, pue)),
        owned_usd_per_hour=onprem.fixed_cost(hardware, tariff, pue).usd_per_hour if hardware is not None else None,
        reserved_usd_per_hour=reserved + idle_usd if reserved is not None else None,
        rented_usd_per_hour=spot.effective_usd_per_hour(rented, rental) + idle_usd
        if rented is not None and rental
        else None,
        rented_availability=rental.availability if rental is not None else 1.0,
        start_s=pool.start_s,
        hardware=hardware,
        replicas_now=now,
        replicas_max=candidate.replicas_max if candidate is not None else REPLICAS_MAX,
    )
