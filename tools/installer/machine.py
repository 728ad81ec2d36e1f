"""What the installer asks of a machine before it fetches the first byte, and how it says what is missing."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

PYTHON_NAMES = ("python3.11", "python3.12", "python3.13", "python3.14", "python3")  # 3.11 first: most is tested there
DISK_FREE_GB_MIN = 6.0
GLIBC_MIN = (2, 31)
CAUSES = (
    (r"No space left on device", "The disk is full."),
    (r"Permission denied", "A file or folder may not be written."),
    (
        r"NewConnectionError|Name or service not known|name resolution|Network is unreachable|ProxyError|timed out",
        "pip cannot reach a package index: see to the network, the proxy, or pip's own settings (pip config list).",
    ),
    (r"No matching distribution found for ([^\s(]+)", "pip's package index does not offer {}."),
)


class InstallError(Exception):
    """Something the person at the keyboard can mend; its text says what."""


def cause(output: str) -> str:
    """The likely reason for which pip failed, or nothing."""
    found = ((re.search(pattern, output), text) for pattern, text in CAUSES)
    return next((text.format(*match.groups()) for match, text in found if match), "")


def base_python() -> str:
    """The Python to make the environment with: 3.11 if there is one, else the next newer."""
    probe = "import sys; print(*sys.version_info[:2], flush=True); import ensurepip, venv"
    without_venv = ""
    for name in (*PYTHON_NAMES, sys.executable):
        found = shutil.which(name)
        answer = subprocess.run([found, "-c", probe], check=False, capture_output=True, text=True) if found else None
        version = answer.stdout.split() if answer else []
        if answer is None or tuple(map(int, version)) < (3, 11):
            continue
        if answer.returncode == 0:
            return str(found)
        without_venv = without_venv or ".".join(version)
    if without_venv:
        package = f"python{without_venv}-venv"
        raise InstallError(f"Python {without_venv} has no venv module. On Debian: sudo apt install {package}")
    raise InstallError("Baseload needs Python 3.11 or newer. On Debian: sudo apt install python3 python3-venv")


def check_platform() -> None:
    """Linux on the two kinds of processor for which every package has a binary."""
    machine = platform.machine()
    if not sys.platform.startswith("linux") or machine not in ("x86_64", "aarch64"):
        raise InstallError(f"Baseload runs on Linux on x86-64 and aarch64; this is {platform.system()} on {machine}.")
    try:
        library = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError):
        library = ""
    version = tuple(map(int, library.removeprefix("glibc ").split("."))) if library.startswith("glibc ") else (0,)
    if version < GLIBC_MIN:
        least = f"glibc {GLIBC_MIN[0]}.{GLIBC_MIN[1]} or newer"
        raise InstallError(f"The packages need {least}; this machine has {library or 'another C library'}.")


def check_disk(folder: Path, present_gb: float) -> None:
    """Room for the environment, less what is there already."""
    parent = next(path for path in folder.parents if path.is_dir())
    free_gb = shutil.disk_usage(parent).free / 1e9
    needed_gb = max(1.0, DISK_FREE_GB_MIN - present_gb)
    if free_gb < needed_gb:
        raise InstallError(f"The environment needs {needed_gb:.1f} GB of disk; {parent} has {free_gb:.1f} GB free.")
