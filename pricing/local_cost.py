"""What a pool costs, as the report shows it: the cost stack by part, the three bases, break-even and carbon. Pure.

Everything known comes in as ``LocalInputs``. What cannot be known is missing from the result, and a note says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pricing import bases, onprem
from pricing.bases import EnergyInUse, Mix
from pricing.meter.readings import Label
from pricing.owning import owning
from pricing.report import BLEND_INPUT_SHARE, Basis, LocalCost, MtokPrice
from scheduler.config.supply import Pool
from scheduler.core.supply import Usage

_MTOK = 1e6


class Served(NamedTuple):
    """What all replicas of a pool did in a window that ended at ``at_s``; ``cached_tokens`` are part of the input.

    ``watts`` is their mean draw together, at the boards; None where no meter saw it. ``work_s`` is the replica-seconds of
    work as settled request by request, where that is known.
    """

    input_tokens: int
    output_tokens: int
    seconds: float
    watts: float | None
    label: Label
    at_s: float
    cached_tokens: int = 0
    work_s: float | None = None


class Rent(NamedTuple):
    """Effective price of the rented hardware under one replica, and what it is, where the source says so."""

    usd_per_hour: float
    gpu: str = ""
    gpu_count: float | None = None


class ApiPrice(NamedTuple):
    """The cheapest comparable offer that could be bought: its blended price at the pool's own mix (``input_share``)."""

    offer: str
    usd_per_mtok: float


@dataclass(frozen=True, slots=True)
class LocalInputs:
    """All that the cost of a pool is made of. A pool without a known tariff has no cost: then there are no inputs."""

    pool: Pool
    zone: str
    replicas: int
    usd_per_kwh: float
    tariff: str
    pue: float
    energy: EnergyInUse
    served: Served | None = None
    rent: Rent | None = None
    grams_co2_per_kwh: float | None = None
    api: ApiPrice | None = None

    @property
    def usd_per_joule(self) -> float:
        """Price of a joule at the boards, of the instant."""
        return onprem.usd_per_joule(self.usd_per_kwh, self.pue)


def input_share(served: Served | None) -> float:
    """Share of input in the tokens of a window: the mix at which prices are to be blended and compared."""
    if served is None or not served.input_tokens + served.output_tokens:
        return BLEND_INPUT_SHARE
    return served.input_tokens / (served.input_tokens + served.output_tokens)


def local_cost(given: LocalInputs) -> LocalCost:
    """The cost of a pool; ``usd_per_gpu_hour`` and ``bases`` hold only what is known."""
    pool = given.pool
    notes: list[str] = []
    served = _counted(given, notes)
    curve = onprem.service_curve(pool.curve)
    mix = bases.mix_of(curve, given.energy)
    if served is not None:
        usage = Usage(served.input_tokens, served.cached_tokens, served.output_tokens)
        mix = bases.mix_of(curve, given.energy, usage, served.work_s)
    parts = _parts(given, notes)
    watts, power_label, power_at_s = _power(given, mix, served)
    prices = _bases(given, mix, parts, served, watts)
    gpu, gpu_count = _gpu(given)
    gpus = gpu_count * given.replicas
    power_usd = onprem.power_usd_per_hour(watts / gpus, given.usd_per_kwh, given.pue) if gpus else 0.0
    owned = pool.hardware or pool.rental
    if given.usd_per_kwh < 0.0:
        notes.append("power has a price below zero: dispatch counts it as free, the bases here do not")
    return LocalCost(
        pool=pool.name,
        site=pool.site,
        zone=given.zone,
        gpu=gpu,
        gpus=gpus,
        replicas=given.replicas,
        usd_per_gpu_hour={part: usd / gpu_count for part, usd in (parts or {}).items()} | {"power": power_usd},
        bases=prices,
        utilization=_utilization(given, mix, prices, served, notes),
        utilization_standard=owned.utilization_standard if owned else 0.0,
        standard_usd_per_mtok=_standard(given, mix),
        input_share=mix.usage.input_tokens / mix.tokens,
        tokens_per_hour=mix.tokens / served.seconds * 3600.0 if served else 0.0,
        window_s=given.served.seconds if given.served else 0.0,
        watts=watts,
        power_label=power_label,
        power_at_s=power_at_s,
        usd_per_kwh=given.usd_per_kwh,
        tariff=given.tariff,
        pue=given.pue,
        grams_co2_per_kwh=given.grams_co2_per_kwh,
        grams_co2_per_mtok=_grams_per_mtok(given, mix, watts, served),
        break_even_utilization=_break_even(given, mix, parts, prices["avoidable"], notes),
        break_even_against=given.api.offer if given.api else "",
        owning=None if pool.hardware is None else owning(pool.hardware, power_usd * gpu_count),
        notes=tuple(notes),
    )


def _counted(given: LocalInputs, notes: list[str]) -> Served | None:
    """The window, if tokens were computed in it by replicas that are there."""
    served = given.served
    if served is None or served.seconds <= 0.0:
        notes.append("nothing was counted yet: no allocation, and the usual mix of tokens is assumed")
    elif served.input_tokens - served.cached_tokens + served.output_tokens <= 0:
        notes.append("no token was computed in the window: no allocation, and the usual mix of tokens is assumed")
    elif given.replicas <= 0:
        notes.append("no replica runs: no allocation, and the usual mix of tokens is assumed")
    else:
        return served
    return None


def _parts(given: LocalInputs, notes: list[str]) -> dict[str, float] | None:
    """USD per replica-hour by part, or None where it is unknown."""
    if given.pool.hardware is not None:
        return onprem.fixed_parts_usd_per_hour(given.pool.hardware)
    if given.pool.rental is not None and given.rent is not None:
        return onprem.rent_parts_usd_per_hour(given.rent.usd_per_hour)
    what = "the rent is unknown" if given.pool.rental else "neither hardware nor rental is configured"
    notes.append(f"{what}: only the avoidable cost is known")
    return None


def _power(given: LocalInputs, mix: Mix, served: Served | None) -> tuple[float, Label, float]:
    """Watts of all replicas, how firm they are, and of when: measured, or idle power plus what the tokens drew."""
    energy = given.energy
    if given.served is not None and given.served.watts is not None:
        return given.served.watts, given.served.label, given.served.at_s
    drawn_watts = mix.joules / served.seconds if served else 0.0
    # Watts that follow from a measured slope were not themselves measured.
    label: Label = "calibrated" if energy.label == "measured" else energy.label
    return energy.idle_watts * given.replicas + drawn_watts, label, energy.at_s


def _bases(
    given: LocalInputs, mix: Mix, parts: dict[str, float] | None, served: Served | None, watts: float
) -> dict[Basis, MtokPrice]:
    """In the order of the report: allocation, usage, avoidable."""
    prices: dict[Basis, MtokPrice] = {}
    if parts is not None:
        usd_per_s = sum(parts.values()) / 3600.0
        if served is not None:
            prices["allocation"] = bases.allocation(
                mix, usd_per_s, given.usd_per_joule, given.replicas, watts, served.seconds
            )
        prices["usage"] = bases.full(mix, usd_per_s, given.usd_per_joule)
    prices["avoidable"] = bases.avoidable(mix, given.usd_per_joule)
    return prices


def _gpu(given: LocalInputs) -> tuple[str, float]:
    """Name and number of the GPUs under one replica; hardware without a GPU counts as one."""
    pool = given.pool
    if pool.hardware is not None:
        return pool.hardware.gpu, pool.hardware.gpu_count
    configured = pool.engine.gpus_per_replica if pool.engine.kind == "vllm" else 0.0
    rent = given.rent or Rent(0.0)
    return rent.gpu or "unknown", rent.gpu_count or configured or 1.0


def _standard(given: LocalInputs, mix: Mix) -> MtokPrice | None:
    """At the very ``FixedCost`` that floor and settlement use."""
    owned, rent = given.pool.hardware or given.pool.rental, given.rent.usd_per_hour if given.rent else None
    if owned is None or (given.pool.hardware is None and rent is None):
        return None
    cost = onprem.fixed_cost(owned, given.usd_per_kwh, given.pue, rent)
    return bases.standard(mix, cost, given.usd_per_joule)


def _utilization(
    given: LocalInputs, mix: Mix, prices: dict[Basis, MtokPrice], served: Served | None, notes: list[str]
) -> float | None:
    """Usage over allocation; work over time where costs give no such ratio."""
    if served is None:
        return None
    busy = mix.work_s / (served.seconds * given.replicas)
    if busy > 1.0:
        notes.append("more work than the replicas had time for: the service curve is too slow, or replicas have left")
    if given.usd_per_kwh < 0.0 or "allocation" not in prices or prices["allocation"].blended <= 0.0:
        return busy
    return prices["usage"].blended / prices["allocation"].blended


def _break_even(
    given: LocalInputs, mix: Mix, parts: dict[str, float] | None, avoidable: MtokPrice, notes: list[str]
) -> float | None:
    """Utilization from which the pool is cheaper than the API, idle and drawn power included."""
    if given.api is None or parts is None:
        return None
    usd_per_hour = sum(parts.values())
    usd_per_hour += onprem.power_usd_per_hour(given.energy.idle_watts, given.usd_per_kwh, given.pue)
    found = bases.break_even_utilization(usd_per_hour, mix.mtok_per_hour, given.api.usd_per_mtok, avoidable.blended)
    if found is None or found > 1.0:
        notes.append(f"{given.api.offer} is cheaper even at full utilization")
    return found


def _grams_per_mtok(given: LocalInputs, mix: Mix, watts: float, served: Served | None) -> float | None:
    """Grams of CO2 equivalent of all the power in the window, idle included; what making the hardware emitted is not."""
    if given.grams_co2_per_kwh is None or served is None:
        return None
    kwh = watts * served.seconds * given.pue / onprem.JOULES_PER_KWH
    return kwh * given.grams_co2_per_kwh / mix.tokens * _MTOK
