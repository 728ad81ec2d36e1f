"""Ctrl-C and SIGTERM while the command line is loaded, and in the middle of a simulation."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from scheduler.simulation import policies
from serving.cli import app
from serving.commands.stopping import INTERRUPTED, TERMINATED, Terminated, by_signal, status_of

ROOT = Path(__file__).resolve().parents[2]
SIMULATE = ("simulate", "--config", "examples/h100-site.yaml", "--policy", "all-api", "--json", "--trace")
# Sends itself Ctrl-C's signal as soon as a certain module is about to be imported. Whoever runs the tests in the background
# may have had it ignored.
PROGRAM = """
import os, runpy, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            os.kill(os.getpid(), signal.SIGINT)

wanted = sys.argv.pop(1)
sys.meta_path.insert(0, Interrupting())
runpy.run_module("serving", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("typer", ("--help",)),
        ("serving.commands.check", ("check",)),
        ("yaml", ("check",)),
        ("numpy", (*SIMULATE, "no.csv")),
    ],
)
def test_control_c_during_an_import_is_one_line_and_status_130(module: str, arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", PROGRAM, module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.startswith("baseload: stopped")
    assert done.stderr.count("\n") == 1


def test_what_an_import_has_made_of_control_c_is_still_control_c() -> None:
    def made_of(cause: BaseException) -> ImportError:
        error = ImportError("numpy._core.multiarray failed to import")
        error.__context__ = cause
        return error

    assert status_of(made_of(KeyboardInterrupt())) == INTERRUPTED == 130
    assert status_of(made_of(made_of(Terminated()))) == TERMINATED == 143
    assert status_of(made_of(ModuleNotFoundError("numpy"))) is None
    assert status_of(None) is None


def test_sigterm_in_a_simulation_leaves_no_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace, scratch = tmp_path / "short.csv", tmp_path / "scratch"
    trace.write_text("arrival_s,input_tokens,output_tokens\n" + "".join(f"{at},100,10\n" for at in range(50)))
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    opened: list[str] = []

    def terminated(*_: object, **__: object) -> None:
        opened.extend(path.name for path in scratch.iterdir())
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("scheduler.simulation.simulate.simulate", terminated)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        ran = CliRunner().invoke(app, [*SIMULATE, str(trace)])
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (ran.exit_code, ran.stdout, ran.stderr) == (143, "", "baseload: stopped; nothing was written\n")
    assert [name.partition("-")[0] for name in opened] == ["trace"]
    assert list(scratch.iterdir()) == []


def test_a_second_sigterm_does_not_cut_off_what_the_first_one_closes() -> None:
    closed = []
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), by_signal():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            closed.append(True)
    assert closed == [True]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_somebody_swallowed_stops_a_simulation_at_the_next_sign_of_progress(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "short.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n" + "".join(f"{at},100,10\n" for at in range(50)))
    known = policies.rule

    def swallowing(*given: Any) -> Any:
        with contextlib.suppress(KeyboardInterrupt, Terminated):
            os.kill(os.getpid(), number)
        return known(*given)

    monkeypatch.setattr("scheduler.simulation.tuning.rule", swallowing)
    ran = CliRunner().invoke(app, [*SIMULATE, str(trace)])
    assert (ran.exit_code, ran.stdout) == (128 + number, "")
    assert ran.stderr == "baseload: stopped; nothing was written\n"
