"""Make or buy for a new workload: the arithmetic of one replica against one price list."""

from __future__ import annotations

import pytest

from scheduler.planning import workloads
from scheduler.planning.planner import Found, find
from scheduler.planning.technologies import PlanError
from tests.scheduler.planning.worlds import asked


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return find(asked(tmp_path_factory.mktemp("plan")), lambda what, share: None)


def test_little_traffic_is_bought_and_much_is_made(found: Found) -> None:
    assert found.model is not None
    few, many = (
        workloads.answered(workloads.read(f"w=1500,300,{mtok}"), found.asked.config, found.technologies, found.model)
        for mtok in (1.0, 2000.0)
    )
    assert few.replicas == 0
    assert few.choice == "openai/gpt-4o-mini"
    # 1,500 of 1,800 tokens at 0.15 USD per million, 300 at 0.6.
    assert few.buy_usd_per_day == pytest.approx((1500 * 0.15 + 300 * 0.6) / 1800)
    assert many.choice == "llama-8b"
    assert many.replicas >= 1
    assert many.make_usd_per_day is not None
    assert many.buy_usd_per_day == pytest.approx(2000 * (1500 * 0.15 + 300 * 0.6) / 1800)
    assert many.make_usd_per_day < many.buy_usd_per_day
    assert many.own_from_mtok_per_day == few.own_from_mtok_per_day
    assert many.own_from_mtok_per_day is not None
    assert 1.0 < many.own_from_mtok_per_day < 2000.0


def test_a_day_at_home_is_a_day_of_replicas_and_the_energy_of_its_tokens(found: Found) -> None:
    assert found.model is not None
    (technology,) = found.technologies
    one = workloads.answered(workloads.read("w=1500,300,500"), found.asked.config, found.technologies, found.model)
    requests = 500e6 / 1800
    joules = requests * (1500 * technology.joules_per_input_token + 300 * technology.joules_per_output_token)
    assert technology.owned_usd_per_hour is not None
    expected = one.replicas * 24 * technology.owned_usd_per_hour if one.replicas else 24 * technology.owned_usd_per_hour
    assert one.make_usd_per_day == pytest.approx(expected + joules * technology.usd_per_joule)


def test_what_no_context_holds_is_refused(found: Found) -> None:
    assert found.model is not None
    with pytest.raises(PlanError, match="more than any context"):
        workloads.answered(workloads.read("w=9000000,300,5"), found.asked.config, found.technologies, found.model)


@pytest.mark.parametrize(
    "text", ["mail", "mail=1,2", "=1,2,3", "mail=1.5,2,3", "mail=-1,2,3", "mail=1,2,0", "mail=0,0,3"]
)
def test_what_is_no_workload_is_told_with_an_example(text: str) -> None:
    with pytest.raises(PlanError, match="--workload"):
        workloads.read(text)
