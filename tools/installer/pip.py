"""Running pip so that one can see how far it is, and why it failed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from installer.machine import InstallError, cause

NOISE = re.compile(r"^WARNING: (?:Location .* is ignored|Skipping page).*\n", re.MULTILINE)
LOOKED_AT = re.compile(r"^(?:Collecting|Processing|Requirement already satisfied:) ", re.MULTILINE)
FETCHED = re.compile(
    r"^ *(?:Downloading|Using cached|Processing) (?:\S*/)?([^\s/-]+-[^\s/-]+)-\S+\.whl( \(.+? .B\))?", re.M
)
RETRYING = "Retrying ("
BEGUN_S = time.monotonic()
LINE_EVERY_S = 10.0
POLL_S = 0.2


class Display:
    """What is being done and for how long: one line rewritten on a terminal, elsewhere a line every ten seconds."""

    def __init__(self) -> None:
        self.shown_s = 0.0
        self.terminal = sys.stdout.isatty()

    def step(self, text: str) -> None:
        """Print a line that stays."""
        self.shown_s = time.monotonic()
        start = "\r\033[K" if self.terminal else ""
        print(f"{start}[{self.shown_s - BEGUN_S:4.0f} s] {text}", flush=True)

    def update(self, text: str) -> None:
        """Say how far the step is."""
        now_s = time.monotonic()
        if self.terminal:
            line = f"[{now_s - BEGUN_S:4.0f} s]   {text}"
            print(f"\r\033[K{line[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
        elif now_s - self.shown_s >= LINE_EVERY_S:
            self.step(f"  {text}")


class Runner:
    """Runs the Python of an environment, its output in install.log, and shows how far it is."""

    def __init__(self, venv: Path, site: Path, display: Display) -> None:
        self.venv = venv
        self.site = site
        self.log = venv / "install.log"
        self.display = display

    def run(self, what: str, arguments: list[str], packages: int = 0) -> tuple[bool, str]:
        """Run `python arguments`; tells whether it went well, and what it said."""
        self.display.step(what)
        folder = self.venv / "tmp"  # pip unpacks here: /tmp is often small, and often memory
        folder.mkdir(exist_ok=True)
        settings = {"TMPDIR": str(folder), "PIP_NO_INPUT": "1", "PIP_PROGRESS_BAR": "off"}
        settings["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
        unwanted = ("PYTHONHOME", "PYTHONPATH", "PIP_USER", "PIP_TARGET", "PIP_PREFIX")
        settings |= {name: value for name, value in os.environ.items() if name not in (*unwanted, *settings)}
        command = [str(self.venv / "bin" / "python"), *arguments]
        with self.log.open("a") as log:
            print(f"\n$ {' '.join(command)}", file=log, flush=True)
            start = log.tell()
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=settings)
        output, running = "", True
        while running:
            running = process.poll() is None
            output = NOISE.sub("", self.log.read_bytes()[start:].decode(errors="replace"))
            self.display.update(self.progress(output, packages) if packages else "working")
            time.sleep(POLL_S if running else 0)
        shutil.rmtree(folder, ignore_errors=True)
        return process.returncode == 0, output

    def must(self, what: str, arguments: list[str], packages: int = 0) -> None:
        """The same, where a failure ends the installation: with its likely cause, and the end of what was said."""
        well, output = self.run(what, arguments, packages)
        if not well:
            raise self.failure(what, output)

    def failure(self, what: str, output: str) -> InstallError:
        """What failed, why as far as one can tell, and the end of what was said."""
        lines = [line for line in output.strip().splitlines() if RETRYING not in line]
        said = "\n".join(f"    {line[:300]}" for line in lines[-10:])
        text = f"{what}: this failed. {cause(output)}\n{said}\n  All of it is in {self.log}."
        return InstallError(f"{text} Run the same again to go on from here.")

    def progress(self, output: str, packages: int) -> str:
        """How far pip is, from what it has printed and from what lies in the environment."""
        unpacking = "Installing collected packages" in output
        done = len(list(self.site.glob("*.dist-info"))) if unpacking else len(LOOKED_AT.findall(output))
        done = min(done, packages)
        fetched = FETCHED.findall(output)
        parts = [
            "unpacking" if unpacking else "fetching",
            f"{done} of {packages} packages ({100 * done // packages} %)" if packages > 1 else "",
            "".join(fetched[-1]) if fetched and not unpacking else "",
            "(the network is slow or away; trying again)" if RETRYING in output[-500:] else "",
        ]
        return " ".join(filter(None, parts))
