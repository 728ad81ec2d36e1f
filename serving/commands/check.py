"""``baseload check``: load a site file and say what is wrong with it, or what it describes."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import typer

from scheduler.config import ClusterConfig, ConfigError, load


def load_or_explain(path: Path) -> ClusterConfig:
    """The configuration, or exit status 2 with every problem named on standard error."""
    try:
        return load(path)
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from error


def run(path: Path, as_json: bool) -> int:
    """Check ``path``; 0 if it can be used, else 2."""
    try:
        config = load(path)
    except ConfigError as error:
        if as_json:
            print(msgspec.json.encode({"ok": False, "problems": error.problems}).decode())
        else:
            print(error, file=sys.stderr)
        return 2
    from pricing import board

    priced = board.price(config, 0.0)
    notes = [f"{offer_id}: no offer ({reason})" for offer_id, reason in priced.unpriced.items()]
    for tenant in config.tenants:
        notes += [
            f"tenant {tenant.name}: {key.env} is not set, so that key opens nothing"
            for key in tenant.keys
            if key.env and key.digest() is None
        ]
    if as_json:
        print(msgspec.json.encode({"ok": True, "notes": notes, "offers": sorted(priced.sources)}).decode())
        return 0
    print(
        f"{path}: ok. {len(config.pools)} pool(s), {len(config.providers)} provider(s), "
        f"{len(priced.offers)} offer(s), {len(config.tenants)} tenant(s)."
    )
    for note in notes:
        print(f"  note: {note}")
    return 0
