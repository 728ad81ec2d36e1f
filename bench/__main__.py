"""``python -m bench [decide|ledger|prices|pool|bound|simulate]... [--json]``: measure, and print a table."""

from __future__ import annotations

import argparse
import importlib
import json

_FAST = ("decide", "ledger", "prices")
_ALL = (*_FAST, "pool", "bound", "simulate")


def main() -> None:
    """Run the benchmarks that are named; without a name, the fast ones. ``pool`` starts real vLLM (two minutes);
    ``bound`` and ``simulate`` take some minutes of one core."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *_ALL], help=f"default: {' '.join(_FAST)}")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args()
    results = {name: importlib.import_module(f"bench.{name}").run() for name in options.names or _FAST}
    if options.json:
        print(json.dumps(results))
        return
    for name, rows in results.items():
        print(f"\n{name}")
        for row, figures in rows.items():
            print(f"  {row:34}" + "  ".join(f"{key} {value:10.2f}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
