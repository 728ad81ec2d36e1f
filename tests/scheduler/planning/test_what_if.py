"""What-if: each question changes one thing, and what cannot be understood says what could."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.config.document import ConfigError
from scheduler.planning import planner, what_if
from scheduler.planning.model import Model
from scheduler.planning.planner import Found, find
from scheduler.planning.technologies import PlanError
from scheduler.planning.what_if import Question, answer, changed
from tests.scheduler.planning.worlds import asked


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return find(asked(tmp_path_factory.mktemp("plan")), lambda what, share: None)


@pytest.fixture(scope="module")
def model(found: Found) -> Model:
    assert found.model is not None
    return found.model


def asking(found: Found, model: Model, *assume: str) -> float:
    question = Question("q", assume)
    return answer(question, changed(question, found.asked.config), model).usd_per_hour.mean


def test_a_question_that_changes_nothing_answers_with_the_plan(found: Found, model: Model) -> None:
    assert found.choice is not None
    assert asking(found, model, "load=+0%") == pytest.approx(float(found.choice.usd_per_hour.mean()))


@pytest.mark.parametrize("name", ["load", "api_price", "power_price", "hardware_price"])
def test_more_of_anything_that_costs_costs_more(name: str, found: Found, model: Model) -> None:
    usd = [asking(found, model, f"{name}={percent}%") for percent in (-50, 0, 50)]
    assert usd == sorted(usd)
    assert usd[0] < usd[2]


def test_a_change_a_year_works_over_the_horizon(found: Found, model: Model) -> None:
    now, in_a_year = asking(found, model, "load=+40%"), asking(found, model, "growth=+40%/yr")
    assert asking(found, model, "load=+0%") < in_a_year < now


def test_gpus_that_are_given_are_owned_whatever_they_cost(found: Found, model: Model) -> None:
    for gpus in (0, 3, 30):
        question = Question(f"h100={gpus}", (f"h100={gpus}",))
        outcome = answer(question, changed(question, found.asked.config), model)
        assert outcome.gpus == gpus
        assert outcome.replicas == {"llama-8b": gpus}
        assert outcome.usd_per_hour.mean >= asking(found, model, "load=+0%") - 1e-9


def test_another_tariff_is_read_and_moves_nothing_but_power(found: Found, model: Model, tmp_path: Path) -> None:
    path = tmp_path / "tariff.yaml"
    path.write_text("electricity: {usd_per_kwh: 0.54, pue: 1.3}\n")  # three times the site's
    question = Question("dear power", (f"tariff={path}",))
    change = changed(question, found.asked.config)
    assert change.config is not None
    other = planner.remade(found, change.config)
    dear, threefold = answer(question, change, other).usd_per_hour.mean, asking(found, model, "power_price=+200%")
    assert dear == pytest.approx(threefold, rel=0.01)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("api_price", "not of the form name=value"),
        ("api_price=cheap", "not understood"),
        ("api_price=-130%/yr", "above -100 %"),
        ("warp=9%", "not understood"),
        ("availability=0.2", "not understood"),
        ("tariff=nowhere.yaml", "cannot be read"),
    ],
)
def test_what_is_not_understood_is_told_with_what_would_be(text: str, reason: str, found: Found) -> None:
    with pytest.raises((PlanError, ConfigError), match=reason):
        changed(Question(text, (text,)), found.asked.config)


def test_a_gpu_that_nobody_has_is_told_with_those_that_there_are(found: Found, model: Model) -> None:
    with pytest.raises(PlanError, match=r"b200=8.*1xH100"):
        asking(found, model, "b200=8")


def test_a_file_of_scenarios_is_read_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "scenarios.yaml"
    path.write_text("scenarios:\n  - {name: cheap apis, assume: [api_price=-50%, growth=+10%/yr]}\n")
    assert what_if.read(path) == (Question("cheap apis", ("api_price=-50%", "growth=+10%/yr")),)
    path.write_text("scenarios:\n  - {name: empty, assume: []}\n")
    with pytest.raises(ConfigError, match="assume"):
        what_if.read(path)
