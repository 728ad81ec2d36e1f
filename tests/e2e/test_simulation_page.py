"""The page of a simulation in a real browser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from serving.cli import app
from tests.e2e.browser import browsing
from tests.e2e.pages import faults, figures

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FIGURES = ["costs", "spend", "load", "bids", "classes", "regret"]


def test_the_page_is_whole_quiet_and_printable(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    rows = zip(np.sort(rng.uniform(0, 60, 600)), rng.lognormal(8.9, 0.6, 600), rng.lognormal(4, 0.8, 600), strict=True)
    trace, page = tmp_path / "small.csv", tmp_path / "simulation.html"
    lines = [f"{at:.6f},{int(tokens_in) + 1},{int(tokens_out) + 1}" for at, tokens_in, tokens_out in rows]
    trace.write_text("arrival_s,input_tokens,output_tokens\n" + "\n".join(lines) + "\n")
    asked = [
        "simulate",
        "--config",
        str(EXAMPLES / "h100-site.yaml"),
        "--mix",
        str(EXAMPLES / "mix-heterogeneous.yaml"),
    ]
    asked += ["--trace", str(trace), "--load-factor", "1.2", "--html", str(page)]
    done = CliRunner().invoke(app, [*asked, "--policy", "bid-price,overflow-queue,all-local,all-api"])
    assert done.exit_code == 0, done.stderr
    with browsing() as browser:
        assert faults(browser, page) == []
        assert figures(browser) == [f"figure-{name}" for name in FIGURES]
