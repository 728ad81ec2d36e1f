#!/usr/bin/env python3
"""Make the virtual environment in which Baseload runs and is tested: `python3 tools/install.py`, or any `make` target.

It uses the standard library only, since it runs before anything is installed. It installs requirements.lock exactly,
then the project itself (editable), and leaves a stamp, so that the next call finds nothing to do and says nothing.
Without a stamp it mends what is there: an interrupted install goes on where it stopped. Everything pip says is in
install.log inside the environment; its tail is shown where a step fails.

Five packages of the lock are placeholders, wheels with metadata and no code: torchvision, torchaudio, torchcodec,
triton and vllm are required by others, but not needed without a GPU (installer/placeholders.py says why for each).
With `--extra gpu` there are none: pip resolves the real `vllm` with its own torch, without a lock. That path is kept as
simple as can be, because nothing tests it on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from installer.machine import InstallError, base_python, check_disk, check_platform
from installer.pip import RETRYING, Display, Runner
from installer.placeholders import LOCK, pins, write_placeholders

ROOT = LOCK.parent
INSTALLER = [Path(__file__), *sorted((ROOT / "tools" / "installer").glob("*.py"))]
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


class Environment:
    """One virtual environment: where its parts are, and whether it is what the lock says."""

    def __init__(self, venv: Path, extra: str | None) -> None:
        self.venv = venv
        self.python = venv / "bin" / "python"
        self.stamp = venv / "baseload.json"
        self.kind = venv / "baseload.kind"  # what it was made for and where: an environment cannot be moved
        made_for = self.kind.read_text().split("\n") if self.kind.is_file() else []
        self.extra = extra or (made_for[0] if made_for else "cpu")
        self.unfit = bool(made_for) and made_for != [self.extra, str(venv)]

    @property
    def site(self) -> Path:
        """Where packages lie."""
        return next((self.venv / "lib").glob("python3*/site-packages"), self.venv / "lib" / "none")

    def wanted(self) -> dict[str, str]:
        """What the stamp holds if nothing has changed; the project apart, because that part is quick to renew."""
        sources = [LOCK, *INSTALLER, self.venv / "pyvenv.cfg"]  # the last one names the Python version
        packages = b"\0".join(source.read_bytes() for source in sources if source.is_file())
        project = (ROOT / "pyproject.toml").read_bytes()
        return {"packages": hashlib.sha256(packages).hexdigest(), "project": hashlib.sha256(project).hexdigest()}

    def stale(self) -> set[str]:
        """The parts to install: none, the project, or all. Costs a few milliseconds."""
        try:
            stamp = json.loads(self.stamp.read_text())
        except (OSError, ValueError):
            return {"packages", "project"}
        present = {path.name for path in self.site.glob("*.dist-info")} if self.python.exists() else set()
        if self.unfit or not present.issuperset(stamp["present"]):
            return {"packages", "project"}
        return {part for part, value in self.wanted().items() if stamp[part] != value}

    def write_stamp(self) -> None:
        """Record that all is installed; in one move, so that a stamp is whole or absent."""
        present = sorted(path.name for path in self.site.glob("*.dist-info"))
        draft = self.stamp.with_suffix(".draft")
        draft.write_text(json.dumps({**self.wanted(), "present": present}))
        draft.replace(self.stamp)

    def size_gb(self) -> float:
        """What the environment takes on disk."""
        files = (Path(folder, name) for folder, _, names in os.walk(self.venv) for name in names)
        return sum(file.lstat().st_blocks * 512 for file in files) / 1e9


def whole(info: Path) -> bool:
    """Whether a package is complete: pip writes INSTALLER last, and RECORD names every file."""
    if not (info / "INSTALLER").is_file() or not (info / "RECORD").is_file():
        return False
    with (info / "RECORD").open(newline="") as record:
        return all(row[0].endswith(".pyc") or (info.parent / row[0]).exists() for row in csv.reader(record))


def prepare(env: Environment, display: Display) -> None:
    """An environment whose Python and pip run, made anew if need be, and without half a package in it."""
    if env.venv.is_dir() and any(env.venv.iterdir()) and not (env.venv / "pyvenv.cfg").is_file():
        raise InstallError(f"{env.venv} exists and is no virtual environment. Name another with --venv, or remove it.")
    check_disk(env.venv, 0.0 if env.unfit else env.size_gb())
    probe = [str(env.python), "-c", "import pip, sys; sys.exit(sys.version_info < (3, 11))"]
    if env.unfit or not env.python.exists() or subprocess.run(probe, check=False, capture_output=True).returncode:
        python = base_python()
        display.step(f"creating {env.venv} with {python}")
        command = [python, "-m", "venv", "--clear", str(env.venv)]
        made = subprocess.run(command, check=False, capture_output=True, text=True)
        if made.returncode:
            raise InstallError(f"{python} -m venv failed:\n{made.stdout}{made.stderr}")
    env.kind.write_text(f"{env.extra}\n{env.venv}")
    broken = [*env.site.glob("~*"), *(info for info in env.site.glob("*.dist-info") if not whole(info))]
    for path in broken:
        shutil.rmtree(path)
    if broken:
        display.step(f"mending {len(broken)} packages that were installed in part")


def install_lock(env: Environment, runner: Runner) -> None:
    """Everything in the lock, torch first: it is the largest, and the one that may have to come from elsewhere."""
    placeholders = env.venv / "placeholders"
    write_placeholders(placeholders)
    install = ["-m", "pip", "install", "--no-deps", "--no-compile"]
    torch = f"torch=={pins()['torch']}"
    what = f"installing {torch}"
    well, output = runner.run(what, [*install, torch], packages=1)
    if not well and ("No matching distribution" not in output or RETRYING in output):
        raise runner.failure(what, output)
    if not well:
        elsewhere = [*install, "--extra-index-url", PYTORCH_CPU_INDEX, torch]
        runner.must(f"{what} from {PYTORCH_CPU_INDEX}", elsewhere, packages=1)
    count = len(pins())
    lock = [*install, "--find-links", str(placeholders), "-r", str(LOCK)]
    runner.must(f"installing {count} packages of {LOCK.name}", lock, packages=count)
    # Compile now, on all cores, rather than at the first import, where warnings about others' code would show; but not
    # what is never imported (their tests), nor what is imported one file of thousands at a time.
    seldom = r"/tests?/|/transformers/models/|/ray/(rllib|train|tune)/"
    compiling = ["-W", "ignore", "-m", "compileall", "-qq", "-j", "0", "-x", seldom, str(env.site)]
    runner.run("compiling them (a minute on two cores)", compiling)


def install_gpu(runner: Runner) -> None:
    """The extras gpu and postgres and the development tools, as pip resolves them."""
    import tomllib

    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    tools = [requirement for requirement in extras["dev"] if not requirement.startswith("baseload[")]
    command = ["-m", "pip", "install", "-e", f"{ROOT}[gpu,postgres]", *tools]
    runner.must("installing vllm for GPUs", command, packages=250)


def install(env: Environment, display: Display) -> None:
    """Bring the environment to what the lock and the project say, and stamp it."""
    stale = env.stale()
    if not stale:
        return
    check_platform()
    env.stamp.unlink(missing_ok=True)
    if "packages" in stale:
        prepare(env, display)
    runner = Runner(env.venv, env.site, display)
    if "packages" in stale and env.extra == "cpu":
        install_lock(env, runner)
    elif "packages" in stale:
        install_gpu(runner)
    project = ["-m", "pip", "install", "--no-deps", "--no-build-isolation", "-e", str(ROOT)]
    runner.must("installing Baseload itself", project)
    runner.must("checking that all packages fit together", ["-m", "pip", "check"])
    env.write_stamp()
    display.step(f"ready: {env.venv}, {env.size_gb():.1f} GB")


def main() -> int:
    """Parse the command line, wait for an installation that is under way, install; 0 if all is well."""
    parser = argparse.ArgumentParser(description="Make or mend Baseload's virtual environment.")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", metavar="DIR", help="default: .venv")
    parser.add_argument("--extra", choices=("cpu", "gpu"), help="default: what DIR was made for, else cpu")
    choice = parser.parse_args()
    try:
        with LOCK.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            install(Environment(choice.venv.absolute(), choice.extra), Display())
    except InstallError as error:
        print(f"\nbaseload: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbaseload: interrupted; run again to go on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
