"""The published document and the running gateway agree: whatever the one allows or forbids, so does the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from recording_source import recording
from running_gateway import KEY, Running, Site, provider_yaml, serving

HERE = Path(__file__).parent
# Left out: use_after_free, ensure_resource_availability and object_level_authorization are about resources that
# requests create, own and delete; here are none.
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection,positive_data_acceptance,missing_required_header,"
    "unsupported_method,allow_header_conformance,ignored_auth"
)
# Unknown headers mean nothing in HTTP; a gateway that refused them would refuse most clients.
CONFIG = f"""
[auth.openapi.key]
bearer = "{KEY}"
[generation]
allow-extra-parameters = false
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with recording() as source:
        how = f"kind: openai\n    base_url: {source.url}"
        site = Site(source.url, [provider_yaml("east", "east", 1.0, how, ("frontier", "frail", "taped"))])
        with serving(tmp_path_factory.mktemp("openapi"), site) as started:
            yield started
            assert started.errors() == []


@pytest.mark.parametrize(
    ("operations", "examples"),
    [("/v1/chat/completions", 80), ("/v1/completions", 50), ("/v1/embeddings", 50), ("/v1/explain", 25), ("", 10)],
)
def test_schemathesis_finds_no_difference(gateway: Running, tmp_path: Path, operations: str, examples: int) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"{gateway.url}/openapi.json"]
    command += ["--checks", CHECKS, "--phases", "examples,coverage,fuzzing"]
    command += ["--max-examples", str(examples), "--generation-deterministic", "--continue-on-failure"]
    command += ["--warnings", "off", "--no-color", "--workers", "1", "--suppress-health-check", "all", "--no-shrink"]
    command += ["--include-path", operations] if operations else ["--include-method", "GET"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "openapi_hooks", "PYTHONPATH": str(HERE)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-12_000:] + result.stderr[-2000:]


def test_the_document_names_what_this_site_knows(gateway: Running) -> None:
    document = gateway.call("GET", "/openapi.json", key="").json
    chat = document["paths"]["/v1/chat/completions"]["post"]
    headers = {parameter["name"]: parameter["schema"] for parameter in chat["parameters"]}
    assert headers["x-baseload-class"]["enum"] == ["interactive", "hasty"]
    assert "restricted|public" in headers["x-baseload-labels"]["pattern"]
    assert "on-prem|east|west" in headers["x-baseload-zones"]["pattern"]
    assert "frontier" in json.dumps(chat["requestBody"])
