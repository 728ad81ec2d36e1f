"""What a replica costs while it is there: idle power at the tariff, and rent; never what was paid for hardware."""

from __future__ import annotations

from typing import Any

import pytest

from pricing import board
from pricing.holding import Holding, holdings
from scheduler.config import ClusterConfig
from tests.support.sites import pool, site

NOW_S = 1_000_000.0


def held(row: dict[str, Any], **sections: Any) -> dict[str, Holding]:
    config = ClusterConfig.model_validate(site(pools=[row], **sections))
    return holdings(config, board.price(config, NOW_S))


def test_of_hardware_that_was_bought_only_idle_power_counts() -> None:
    hardware = {"gpu": "g", "purchase_price_usd": 250_000, "amortization_years": 4, "idle_watts": 1000.0}
    [found] = held(pool("own", hardware=hardware)).values()
    assert found == Holding(pytest.approx(0.3 * 1.2), 0.0, pytest.approx(0.3 * 1.2))


def test_rented_capacity_counts_with_its_effective_rent_and_is_billed_as_listed() -> None:
    rental = {"gpu": "g", "usd_per_hour": 2.0, "availability": 0.8, "restart_share": 0.05, "idle_watts": 100.0}
    rental |= {"interruptions_per_hour": 0.1, "usd_lost_per_interruption": 1.5}
    [found] = held(pool("own", hardware=None, rental=rental)).values()
    assert found.rent == pytest.approx(2.0)
    assert found.held == pytest.approx(2.0 / (0.8 * 0.95) + 0.1 * 1.5 + 0.036)
    assert found.standby == pytest.approx(0.036)


def test_an_unknown_rent_is_said_and_not_taken_for_nothing() -> None:
    rental = {"gpu": "g", "listed": [{"feed": "list", "product": "gpu"}]}
    feeds = [{"name": "list", "kind": "static", "options": {"file": "x"}}]
    [found] = held(pool("own", hardware=None, rental=rental), feeds=feeds).values()
    assert found.held == 0.0 and "list: gpu" in found.unknown
