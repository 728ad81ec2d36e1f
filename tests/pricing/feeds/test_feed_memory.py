"""How much memory a hostile answer can make a feed take, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

MIB = 2**20
# What the process may grow by, its body not counted. Unbounded lists took 77 to 2900 MiB here.
GROWTH_MIB_MAX = 64

CHILD = """
import importlib, os, resource, sys
module, body = importlib.import_module("pricing.feeds." + sys.argv[1]), BODY
os.environ["TOKEN"] = "x" * 36

class Http:
    def get(self, url, params=None, headers=None, **_):
        return b'{"timestamps": [1742770800000]}' if "/index_" in url else body

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = peak()
try:
    found = module.feed(Http(), module.Options(OPTIONS), 1742770800.0)
    print(f"{len(found)} listings")
except module.FeedChanged as error:
    print("changed:", error)
print((peak() - before) // 1024)
"""
OPTIONS = {
    "smard": "usd_per_eur=1.0",
    "azure_retail": "regions=('westeurope',)",
    "entsoe": "token_env='TOKEN', area='10Y1001A1001A82H', usd_per_eur=1.0",
}


def growth_mib(feed: str, body: str) -> int:
    """By how much the poll of a feed with this answer (a Python expression) raises the peak of a process's memory."""
    code = CHILD.replace("BODY", body).replace("OPTIONS", OPTIONS.get(feed, ""))
    done = subprocess.run([sys.executable, "-c", code, feed], capture_output=True, text=True, check=True)
    said, grown = done.stdout.splitlines()
    assert said.startswith("changed:"), said
    return int(grown)


@pytest.mark.parametrize("mib", [0.5, 3, 30])
@pytest.mark.parametrize(
    ("feed", "start", "unit", "end"),
    [
        ("smard", '{"series": [0', ",0", "]}"),
        ("smard", '{"series": [[[]', ",[]", "]]}"),
        ("carbon_gb", '{"data": [0', ",0", "]}"),
        ("carbon_gb", '{"data": [{}', ",{}", "]}"),
        ("openrouter", '{"data": [0', ",0", "]}"),
        ("openrouter", '{"data": [{"id": "a", "pricing": {"overrides": [{}', ",{}", "]}}]}"),
        ("azure_retail", '{"Items": [0', ",0", "]}"),
        ("litellm_map", '{"a": [[]', ",[]", "]}"),
        ("genai", "[0", ",0", "]"),
        ("entsoe", "<Publication_MarketDocument>", "<a/>", "</Publication_MarketDocument>"),
    ],
)
def test_an_answer_of_nothing_but_small_values_costs_little_memory(
    feed: str, start: str, unit: str, end: str, mib: float
) -> None:
    body = f"{start.encode()!r} + {unit.encode()!r} * {int(mib * MIB) // len(unit)} + {end.encode()!r}"
    assert growth_mib(feed, body) < GROWTH_MIB_MAX


@pytest.mark.parametrize("count", [19_000, 60_000, 2_000_000])
def test_a_map_of_many_models_costs_little_memory(count: int) -> None:
    body = f"""b'{{"a": 0' + b"".join(b',"%d": {{"mode": 1}}' % n for n in range({count})) + b"}}" """
    assert growth_mib("litellm_map", body) < GROWTH_MIB_MAX
