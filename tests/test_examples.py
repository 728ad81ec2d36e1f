"""Every site file in the repository passes the real command, and a broken copy fails it with the path in the text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SITES = (path for path in (ROOT / "examples").glob("*.yaml") if not path.stem.startswith(("mix-", "tariff")))
FILES = [ROOT / "cluster.yaml", *sorted(SITES)]
BASELOAD = Path(sys.executable).with_name("baseload")


def check(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_KEY")}
    return subprocess.run(
        [BASELOAD, "check", path, *options], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )


def test_there_are_examples() -> None:
    assert len(FILES) >= 4


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_site_file_of_the_repository_passes_and_a_broken_copy_names_what_is_wrong(path: Path, tmp_path: Path) -> None:
    sound = check(path)
    assert (sound.returncode, sound.stderr) == (0, "")
    assert ": ok. " in sound.stdout
    assert "no offer" not in sound.stdout

    broken = tmp_path / "broken.yaml"
    text = path.read_text(encoding="utf-8")
    assert "ttft_s_max: " in text
    broken.write_text(text.replace("ttft_s_max: ", "ttft_s_mux: ", 1), encoding="utf-8")
    refused = check(broken)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"{broken}: not a usable configuration" in refused.stderr
    assert "service_classes[0].ttft_s_mux: unknown field" in refused.stderr


def test_the_check_as_json_lists_problems_for_machines(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("version: 1\n", encoding="utf-8")
    refused = check(broken, "--json")
    answer = json.loads(refused.stdout)
    assert (refused.returncode, answer["ok"]) == (2, False)
    assert "zones: Field required" in answer["problems"]
