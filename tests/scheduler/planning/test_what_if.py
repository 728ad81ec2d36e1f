"""What-if: each question changes one thing, and what cannot be understood says what could."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from scheduler.config.document import ConfigError
from scheduler.planning import planner, what_if
from scheduler.planning.model import Model
from scheduler.planning.planner import Found, find
from scheduler.planning.technologies import PlanError
from scheduler.planning.what_if import Question, answer, changed
from tests.scheduler.planning.worlds import ROOT, asked, site

CURVE = {"prefill_tokens_per_s": 44_500, "itl_base_s": 0.0062, "itl_per_seq_s": 0.000081, "seqs_max": 256}
ENERGY = {"joules_per_input_token": 0.0065, "joules_per_output_token": 0.0236, "label": "modelled"}


def candidate(name: str, gpus: float = 1, usd: float | None = 31_250.0, **more: object) -> dict[str, object]:
    """On GPUs of the type ``name`` ends in; without ``usd`` for rent only."""
    gpu = {"gpu": name.rpartition("-")[2].upper(), "gpu_count": gpus, "idle_watts": 90}
    price: dict[str, object] = {"zone": "on-prem", "rental": {**gpu, "usd_per_hour": 900.0}}
    if usd is not None:
        price = {"hardware": {**gpu, "purchase_price_usd": usd, "amortization_years": 5}}
    return {
        "name": name,
        "pool": "llama-8b",
        "gpus_per_replica": gpus,
        "curve": CURVE,
        "energy": ENERGY,
        **price,
        **more,
    }


CANDIDATES = (
    candidate("mine-l40s", usd=9e6), candidate("mine-2xl4", 2, 9e6, replicas_max=3), candidate("mine-b200", usd=None),
)  # fmt: skip


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


def test_the_tariff_among_the_examples_costs_between_its_cheapest_and_its_dearest_hour(
    found: Found, tmp_path: Path
) -> None:
    def usd(path: Path) -> float:
        question = Question("tariff", (f"tariff={path}",))
        change = changed(question, found.asked.config)
        assert change.config is not None
        return answer(question, change, planner.remade(found, change.config)).usd_per_hour.mean

    path, flat = ROOT / "examples" / "tariff.yaml", []
    tariff = yaml.safe_load(path.read_text())["electricity"]
    hours = tariff["time_of_use"]
    prices = [hours["usd_per_kwh"], *(period["usd_per_kwh"] for period in hours["periods"])]
    for price in (min(prices), max(prices)):
        (tmp_path / "flat.yaml").write_text(f"electricity: {{usd_per_kwh: {price}, pue: {tariff['pue']}}}\n")
        flat.append(usd(tmp_path / "flat.yaml"))
    assert flat[0] <= usd(path) <= flat[1]
    assert flat[0] < flat[1]


def test_a_tariff_of_a_timezone_that_nobody_knows_is_refused(found: Found, tmp_path: Path) -> None:
    path = tmp_path / "tariff.yaml"
    path.write_text((ROOT / "examples" / "tariff.yaml").read_text().replace("Europe/Berlin", "Europe/Atlantis"))
    with pytest.raises(PlanError, match="no timezone 'Europe/Atlantis'"):
        changed(Question("q", (f"tariff={path}",)), found.asked.config)


def test_types_of_gpu_are_whole_words(tmp_path: Path) -> None:
    config = site(tmp_path, candidates=[*CANDIDATES])

    def named(text: str) -> list[str]:
        (fixed,) = changed(Question("q", (text,)), config).counts
        return [technology.name for technology in fixed.technologies]

    assert (named("l4=4"), named("l40s=4"), named("2xl4=2")) == (["mine-2xl4"], ["mine-l40s"], ["mine-2xl4"])
    assert (named("h100=4"), named("1xH100=4"), named("llama-8b=4")) == (["llama-8b"],) * 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("mine-b200=1", "no hardware says what it costs to own mine-b200"),
        ("b200=1", "no hardware says what it costs to own mine-b200"),
        ("l4=7", "at most 6 can be had"),
        ("mine-2xl4=4", "at most 3 can be had"),
        ("llama-8b=1025", "at most 1024 can be had"),
        ("100=1", "no pool and no type of GPU"),
        ("h10.=1", "no pool and no type of GPU"),
    ],
)
def test_what_cannot_be_owned_is_refused_before_anything_is_planned(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=f"{text}: {reason}"):
        changed(Question(text, (text,)), site(tmp_path, candidates=[*CANDIDATES]))


def test_what_gets_no_requests_costs_its_price_and_does_nothing(tmp_path: Path) -> None:
    dear = candidate("dear-h100", usd=9e6)
    wide = find(asked(tmp_path, candidates=[*CANDIDATES, dear]), lambda what, share: None)
    assert wide.model is not None
    assert [unit.name for unit in wide.model.units] == ["llama-8b"]
    none = answer(question := Question("q", ("load=+0%",)), changed(question, wide.asked.config), wide.model)
    for text in ("l4=4", "mine-2xl4=2"):
        question = Question("q", (text,))
        two = answer(question, changed(question, wide.asked.config), wide.model)
        (price,) = (t.owned_usd_per_hour for t in wide.technologies if t.name == "mine-2xl4")
        assert price is not None
        assert two.usd_per_hour.mean == pytest.approx(none.usd_per_hour.mean + 2 * price, rel=1e-3)
        assert (two.replicas["mine-2xl4"], two.gpus) == (2, none.gpus + 4)
        assert two.note == f"{text}, mine-2xl4 gets no requests and is not used"
    question = Question("q", ("h100=3",))
    assert answer(question, changed(question, wide.asked.config), wide.model).replicas == {"llama-8b": 3}
    question = Question("q", ("h100=1025",))
    with pytest.raises(PlanError, match="h100=1025: pools with requests can have 1024 of them"):
        answer(question, changed(question, wide.asked.config), wide.model)


def test_what_is_reserved_is_searched_again_beside_what_is_given(tmp_path: Path) -> None:
    cheap = find(
        asked(tmp_path, cloud=[{"pool": "llama-8b", "zone": "on-prem", "reserved_usd_per_hour": 0.1}]),
        lambda what, share: None,
    )
    assert cheap.model is not None
    assert cheap.choice is not None
    (reserved,) = cheap.choice.reserved
    assert reserved > 1
    for text in ("llama-8b", "h100"):
        question = Question("q", (f"{text}={reserved - 1}",))
        change = changed(question, cheap.asked.config)
        found = answer(question, change, cheap.model)
        best = min((cheap.model.of([reserved - 1], [r]) for r in range(reserved + 2)), key=lambda one: one.objective)
        assert found.usd_per_hour.mean == pytest.approx(float(best.usd_per_hour.mean()))
        assert found.replicas == {"llama-8b": reserved - 1 + best.reserved[0]}
        assert best.reserved[0] < reserved


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
