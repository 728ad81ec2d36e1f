"""The prior of ``days`` is what it says it is: reckoned anew from the first four days of the public series."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest

from scheduler.planning.days import LEVEL_SD

TRACES = Path(__file__).resolve().parents[4] / "shared" / "data" / "traces"
DAYS, DAY_S = 4, 86_400.0


def rates() -> dict[str, np.ndarray]:
    """Requests by day of each class."""
    found = {name: np.zeros(DAYS) for name in ("m-small", "m-mid", "m-large")}
    with gzip.open(TRACES / "servegen_rate_10min.csv.gz", "rt") as handle:
        for row in csv.DictReader(handle):
            day = int(float(row["window_start_s"]) // DAY_S)
            if row["model_class"] in found and day < DAYS:
                found[row["model_class"]][day] += float(row["rate_rps"])
    return found


def tokens(name: str) -> np.ndarray:
    """Tokens by day, those of prompts as a fifth."""
    found = np.zeros(DAYS)
    with gzip.open(TRACES / f"servegen_{name}_week1_sampled.csv.gz", "rt") as handle:
        for row in csv.DictReader(handle):
            day = int(float(row["arrival_s"]) // DAY_S)
            if day < DAYS:
                found[day] += 0.2 * float(row["input_tokens"]) + float(row["output_tokens"])
    return found


@pytest.mark.evaluate
def test_the_prior_is_the_root_mean_square_of_forecasts_within_four_public_days() -> None:
    errors = []
    for levels in [*rates().values(), tokens("mlarge"), tokens("msmall")]:
        for day in range(1, DAYS):
            weights = 0.5 ** (np.arange(day)[::-1] / (0.25 * day))
            errors.append(np.log(levels[day:].mean() / np.average(levels[:day], weights=weights)))
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(LEVEL_SD, abs=0.005)
