"""What a pool costs, as reported: the worked example with every number, and what is left out where it cannot be known."""

from __future__ import annotations

import doctest
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing import onprem
from pricing.bases import EnergyInUse
from pricing.local_cost import ApiPrice, LocalInputs, Rent, Served, input_share, local_cost
from pricing.report import LocalCost
from scheduler.config.supply import Pool
from scheduler.core import costs
from scheduler.core.supply import Usage
from tests.support.markets import NO_USE, NOW_S, POLICY, offer, request

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "costs.md"
GPUS = 8
FULL_PER_S = GPUS * 6_100_000 / 3600
HARDWARE = {
    "gpu": "H100",
    "gpu_count": float(GPUS),
    "purchase_price_usd": 250_000,
    "amortization_years": 5,
    "financing_rate": 0.08,
    "residual_share": 0.1,
    "maintenance_percent_per_year": 8,
}
API = ApiPrice("cloud/large", 0.88)
NO_ENERGY = EnergyInUse(0.0, 0.0, 0.0, "modelled", 7.0)
# 100 W idle and 700 W at 6.1 Mtok an hour, for each GPU.
SLOPE = Fraction(600 * 3600, 6_100_000)
ENERGY = EnergyInUse(float(SLOPE), float(SLOPE), 100.0 * GPUS, "measured", 7.0)
# The annuity done year by year in fractions, and 8 % a year of maintenance.
DISCOUNTS = [Fraction(100, 108) ** year for year in range(1, 6)]
USD_PER_GPU_HOUR = ((250_000 - 25_000 * DISCOUNTS[-1]) / sum(DISCOUNTS) + 20_000) / 8760 / GPUS  # 1.118 without power


def pool(throughput: float = 1.0, **fields: Any) -> Pool:
    """Eight GPUs that make 6.1 Mtok per GPU-hour of any mix when full, or a part of that."""
    per_s = FULL_PER_S * throughput
    return Pool.model_validate(
        {
            "name": "own",
            "site": "here",
            "model": "small",
            "engine": {"kind": "url", "urls": ["http://own.test:8000"]},
            "curve": {"prefill_tokens_per_s": per_s, "itl_base_s": 0, "itl_per_seq_s": 1 / per_s, "seqs_max": 256},
            "energy": {"joules_per_input_token": 0.1, "joules_per_output_token": 1.0, "label": "modelled"},
            "hardware": HARDWARE,
            **fields,
        }
    )


def given_pool(**fields: Any) -> LocalInputs:
    """The example without power; ``fields`` bend it."""
    plain = LocalInputs(pool(), "home", 1, usd_per_kwh=0.0, tariff="flat", pue=1.3, energy=NO_ENERGY, api=API)
    return replace(plain, **fields)


def served_at(share: float, input_tokens: int = 3, output_tokens: int = 1, **fields: Any) -> Served:
    """An hour of the example at ``share`` of its throughput."""
    tokens = FULL_PER_S * 3600 * share / (input_tokens + output_tokens)
    plain = Served(round(tokens * input_tokens), round(tokens * output_tokens), 3600.0, None, "measured", 9.0)
    return plain._replace(**fields)


def notes(cost: LocalCost) -> str:
    return "; ".join(cost.notes)


def test_the_page_on_costs_computes_what_it_says() -> None:
    found = doctest.testfile(str(DOCUMENT), module_relative=False)
    assert (found.failed, found.attempted > 5) == (0, True)


@pytest.mark.parametrize(("throughput", "percent"), [(1.0, 21), (0.5, 42)])
def test_the_worked_example_breaks_even_at_21_percent_and_at_half_the_throughput_at_42(
    throughput: float, percent: int
) -> None:
    cost = local_cost(given_pool(pool=pool(throughput)))
    assert sum(cost.usd_per_gpu_hour.values()) == pytest.approx(float(USD_PER_GPU_HOUR))
    assert round(sum(cost.usd_per_gpu_hour.values()), 2) == 1.12
    exact = USD_PER_GPU_HOUR / (Fraction(61, 10) * Fraction(throughput) * Fraction(88, 100))
    assert cost.break_even_utilization == pytest.approx(float(exact))
    assert round(100 * float(exact)) == percent
    assert cost.break_even_against == "cloud/large"


def test_with_power_the_worked_example_breaks_even_where_fractions_say() -> None:
    cost = local_cost(given_pool(usd_per_kwh=0.1, energy=ENERGY))
    usd_per_kwh = Fraction(13, 100)  # 0.10 at the meter, times 1.3
    idle_usd = Fraction(1, 10) * usd_per_kwh
    slope_usd_per_mtok = Fraction(600, 1000) * usd_per_kwh / Fraction(61, 10)
    exact = (USD_PER_GPU_HOUR + idle_usd) / (Fraction(61, 10) * (Fraction(88, 100) - slope_usd_per_mtok))
    assert cost.break_even_utilization == pytest.approx(float(exact))
    assert round(float(exact), 4) == 0.2138
    assert cost.bases["avoidable"].blended == pytest.approx(float(slope_usd_per_mtok))
    assert cost.bases["usage"].blended == pytest.approx(
        float((USD_PER_GPU_HOUR + Fraction(7, 10) * usd_per_kwh) / Fraction(61, 10))
    )


def test_700_watts_at_every_load_move_the_break_even_to_22_and_a_half_percent() -> None:
    cost = local_cost(given_pool(usd_per_kwh=0.1, energy=NO_ENERGY._replace(idle_watts=700.0 * GPUS)))
    exact = (USD_PER_GPU_HOUR + Fraction(91, 1000)) / (Fraction(61, 10) * Fraction(88, 100))
    assert cost.break_even_utilization == pytest.approx(float(exact))
    assert round(float(exact), 3) == 0.225


def test_an_hour_at_the_break_even_costs_what_the_api_asks() -> None:
    inputs = given_pool(usd_per_kwh=0.1, energy=ENERGY)
    share = local_cost(inputs).break_even_utilization
    assert share is not None
    cost = local_cost(replace(inputs, served=served_at(share)))
    assert cost.bases["allocation"].blended == pytest.approx(0.88, rel=1e-6)


@pytest.mark.parametrize("replicas", [1, 3])
def test_the_stack_of_a_gpu_hour_holds_every_part_and_the_power_as_measured(replicas: int) -> None:
    served = served_at(0.5, watts=5_600.0 * replicas)
    hardware = HARDWARE | {"staff_usd_per_year": 70_080.0}
    cost = local_cost(
        given_pool(pool=pool(hardware=hardware), replicas=replicas, usd_per_kwh=0.1, energy=ENERGY, served=served)
    )
    assert list(cost.usd_per_gpu_hour) == ["capital", "maintenance", "staff", "rack", "network", "power"]
    assert cost.usd_per_gpu_hour["staff"] == pytest.approx(1.0)
    assert cost.usd_per_gpu_hour["power"] == pytest.approx(0.7 * 1.3 * 0.1)
    assert (cost.gpus, cost.watts) == (8.0 * replicas, 5_600.0 * replicas)
    assert (cost.power_label, cost.power_at_s) == ("measured", 9.0)


def test_power_that_follows_from_a_measured_slope_is_calibrated_and_as_old_as_the_slope() -> None:
    cost = local_cost(given_pool(energy=ENERGY, served=served_at(0.5)))
    assert cost.watts == pytest.approx(GPUS * (100 + 300), rel=1e-6)
    assert (cost.power_label, cost.power_at_s) == ("calibrated", 7.0)
    modelled = local_cost(given_pool(energy=ENERGY._replace(label="modelled"), served=served_at(0.5)))
    assert modelled.power_label == "modelled"


def test_carbon_is_that_of_all_the_power_in_the_window() -> None:
    served = served_at(0.5, watts=3_200.0)
    cost = local_cost(given_pool(energy=ENERGY, served=served, grams_co2_per_kwh=400.0))
    # 3.2 kW for an hour, times 1.3, times 400 g, over half of 48.8 Mtok.
    assert cost.grams_co2_per_mtok == pytest.approx(3.2 * 1.3 * 400 / 24.4, rel=1e-6)
    assert local_cost(given_pool(energy=ENERGY, served=served)).grams_co2_per_mtok is None
    assert local_cost(given_pool(energy=ENERGY, grams_co2_per_kwh=400.0)).grams_co2_per_mtok is None


@given(st.floats(0.01, 1.0), st.integers(1, 10), st.integers(1, 10))
def test_without_power_utilization_is_the_share_of_the_time_at_work(share: float, read: int, written: int) -> None:
    cost = local_cost(given_pool(served=served_at(share, read, written)))
    assert cost.utilization == pytest.approx(share, rel=1e-5)
    assert cost.input_share == pytest.approx(read / (read + written), rel=1e-5)
    assert cost.tokens_per_hour == pytest.approx(FULL_PER_S * 3600 * share, rel=1e-5)


@given(st.floats(0.01, 0.99), st.floats(0.0, 1.0))
def test_utilization_is_usage_over_allocation(share: float, usd_per_kwh: float) -> None:
    cost = local_cost(given_pool(served=served_at(share), usd_per_kwh=usd_per_kwh, energy=ENERGY))
    assert cost.utilization == pytest.approx(cost.bases["usage"].blended / cost.bases["allocation"].blended)
    prices = [cost.bases[basis].blended for basis in ("avoidable", "usage", "allocation")]
    assert prices == sorted(prices)


@given(st.floats(0.001, 1.5), st.floats(0.001, 1.5), st.integers(1, 9), st.floats(0.0, 9_000.0))
def test_no_use_and_no_measured_power_of_the_moment_moves_the_standard_price_or_the_floor(
    share: float, other: float, replicas: int, watts: float
) -> None:
    # A price that rises as use falls would burst more, and so raise itself again.
    inputs = given_pool(usd_per_kwh=0.2, energy=ENERGY)
    one = local_cost(replace(inputs, served=served_at(share)))
    two = local_cost(replace(inputs, served=served_at(other, watts=watts), replicas=replicas))
    unused = local_cost(inputs)
    assert one.standard_usd_per_mtok is not None
    for cost in (two, unused):
        assert cost.standard_usd_per_mtok is not None
        assert cost.standard_usd_per_mtok.blended == pytest.approx(one.standard_usd_per_mtok.blended, rel=1e-4)
        assert cost.standard_usd_per_mtok.output == pytest.approx(one.standard_usd_per_mtok.output, rel=1e-4)


def test_the_standard_price_is_the_floor_and_the_cash_of_dispatch() -> None:
    own = pool(hardware=HARDWARE | {"idle_watts": 800.0, "utilization_standard": 0.4})
    cost = local_cost(given_pool(pool=own, usd_per_kwh=0.1, energy=ENERGY))
    rate = onprem.avoidable_rate(*ENERGY[:2], usd_per_kwh=0.1, pue=1.3)
    assert own.hardware is not None
    floored = offer(rate=rate, curve=onprem.service_curve(own.curve), floor=onprem.fixed_cost(own.hardware, 0.1, 1.3))
    asked = request(usage=Usage(750, 0, 250))
    usd = sum(term(asked, floored, NO_USE, POLICY, NOW_S) for term in (costs.floor, costs.cash))
    assert cost.standard_usd_per_mtok is not None
    assert cost.standard_usd_per_mtok.blended == pytest.approx(usd / 1_000 * 1e6)
    assert cost.utilization_standard == 0.4


def test_rented_hardware_costs_its_effective_rent() -> None:
    rented = pool(hardware=None, kind="spot", rental={"usd_per_hour": 8.0, "utilization_standard": 0.8})
    cost = local_cost(given_pool(pool=rented, rent=Rent(16.0, "H100", 8.0), served=served_at(0.5)))
    assert cost.usd_per_gpu_hour == {"rent": 2.0, "power": 0.0}
    assert (cost.gpu, cost.gpus, cost.utilization_standard) == ("H100", 8.0, 0.8)
    assert cost.bases["allocation"].blended == pytest.approx(16.0 / 24.4, rel=1e-6)
    assert cost.standard_usd_per_mtok is not None
    assert cost.standard_usd_per_mtok.blended == pytest.approx(16.0 / 48.8 / 0.8)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"hardware": None}, "neither hardware nor rental"),
        ({"hardware": None, "rental": {"usd_per_hour": 1.0}}, "the rent is unknown"),
    ],
)
def test_without_a_known_cost_by_the_hour_only_the_avoidable_basis_is_there(
    fields: dict[str, Any], reason: str
) -> None:
    cost = local_cost(given_pool(pool=pool(**fields), usd_per_kwh=0.1, energy=ENERGY, served=served_at(0.5)))
    assert list(cost.bases) == ["avoidable"]
    assert (cost.standard_usd_per_mtok, cost.break_even_utilization) == (None, None)
    assert list(cost.usd_per_gpu_hour) == ["power"]
    assert reason in notes(cost)
    # How busy the pool was is known all the same.
    assert cost.utilization == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"served": None}, "nothing was counted yet"),
        ({"served": served_at(0.5, seconds=0.0)}, "nothing was counted yet"),
        ({"served": served_at(0.0)}, "no token was computed"),
        ({"served": Served(100, 0, 60.0, None, "measured", 9.0, cached_tokens=100)}, "no token was computed"),
        ({"served": served_at(0.5), "replicas": 0}, "no replica runs"),
    ],
)
def test_without_tokens_to_spread_it_over_there_is_no_allocation_and_a_note_says_why(
    fields: dict[str, Any], reason: str
) -> None:
    cost = local_cost(given_pool(**fields))
    assert list(cost.bases) == ["usage", "avoidable"]
    assert (cost.utilization, cost.tokens_per_hour, cost.input_share) == (None, 0.0, 0.75)
    assert reason in notes(cost)


def test_an_idle_pool_still_shows_the_power_that_the_meter_sees() -> None:
    cost = local_cost(given_pool(usd_per_kwh=0.1, served=served_at(0.0, watts=800.0)))
    assert (cost.watts, cost.power_label, cost.power_at_s, cost.window_s) == (800.0, "measured", 9.0, 3600.0)
    assert cost.usd_per_gpu_hour["power"] == pytest.approx(0.1 * 1.3 * 0.1)


def test_power_below_zero_is_shown_as_it_is_and_the_standard_price_counts_it_as_free() -> None:
    cost = local_cost(given_pool(usd_per_kwh=-0.1, energy=ENERGY, served=served_at(0.5)))
    assert cost.bases["avoidable"].output == pytest.approx(-float(SLOPE) / 3.6 * 1.3 * 0.1)
    assert cost.usd_per_gpu_hour["power"] < 0.0
    assert cost.standard_usd_per_mtok is not None
    assert cost.standard_usd_per_mtok.blended == pytest.approx(2 * float(USD_PER_GPU_HOUR) / 6.1)
    assert "below zero" in notes(cost)
    # A ratio of costs says nothing of use when power pays: the share of time does.
    assert cost.utilization == pytest.approx(0.5, rel=1e-6)


def test_an_api_that_is_cheaper_even_at_full_utilization_is_named() -> None:
    cost = local_cost(given_pool(api=ApiPrice("cloud/tiny", 0.1)))
    assert cost.break_even_utilization == pytest.approx(float(USD_PER_GPU_HOUR) / 0.61)
    assert "cloud/tiny is cheaper even at full utilization" in notes(cost)
    below = local_cost(given_pool(api=ApiPrice("cloud/tiny", 0.001), usd_per_kwh=0.1, energy=ENERGY))
    assert below.break_even_utilization is None
    assert "cloud/tiny is cheaper even at full utilization" in notes(below)
    assert local_cost(given_pool(api=None)).break_even_against == ""


def test_more_work_than_time_is_reported_as_such() -> None:
    cost = local_cost(given_pool(served=served_at(1.5)))
    assert cost.utilization == pytest.approx(1.5, rel=1e-6)
    assert "more work than" in notes(cost)
    two = local_cost(given_pool(served=served_at(1.5), replicas=2))
    assert two.utilization == pytest.approx(0.75, rel=1e-6)
    assert "more work than" not in notes(two)


def test_work_as_settled_request_by_request_counts_where_it_is_known() -> None:
    settled = served_at(0.5, work_s=2_700.0)
    assert local_cost(given_pool(served=settled)).utilization == pytest.approx(0.75)


def test_cached_input_counts_as_served_and_takes_no_time() -> None:
    half = served_at(0.5)
    plain = local_cost(given_pool(served=half))
    cached = local_cost(
        given_pool(served=half._replace(input_tokens=2 * half.input_tokens, cached_tokens=half.input_tokens))
    )
    assert cached.utilization == pytest.approx(plain.utilization)
    assert cached.bases["allocation"].input == pytest.approx(plain.bases["allocation"].input)
    assert cached.bases["allocation"].cached == 0.0
    assert cached.tokens_per_hour == pytest.approx(plain.tokens_per_hour * 7 / 4, rel=1e-6)


def test_the_mix_for_comparisons_is_the_windows_or_the_usual_one() -> None:
    assert input_share(None) == input_share(served_at(0.0)) == 0.75
    assert input_share(Served(90, 10, 60.0, None, "measured", 9.0, cached_tokens=80)) == 0.9
