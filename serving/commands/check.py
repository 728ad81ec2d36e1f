"""``baseload check``: load a site file and say what is wrong with it, or what it describes."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
import typer

from scheduler.config import ClusterConfig, ConfigError, load


def load_or_explain(path: Path) -> ClusterConfig:
    """The configuration, or exit status 2 with every problem named on standard error."""
    try:
        return checked(path)
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from error


def checked(path: Path) -> ClusterConfig:
    """Load ``path`` and look at what only shows on this machine: kinds of feeds, time zones. Raises ConfigError."""
    config = load(path)
    from pricing import checks

    if problems := checks.problems(config):
        raise ConfigError(path, problems)
    return config


def run(path: Path, as_json: bool) -> int:
    """Check ``path``; 0 if it can be used, else 2."""
    try:
        config = checked(path)
    except ConfigError as error:
        if as_json:
            print(msgspec.json.encode({"ok": False, "problems": error.problems}).decode())
        else:
            print(error, file=sys.stderr)
        return 2
    from pricing import board, bought

    priced = board.price(config, time.time())
    listed = {f"{p.name}/{m.model}" for p in config.providers for m in p.models if bought.keys(config, m)}
    notes = [
        f"{offer_id}: is offered once a feed has been heard"
        if offer_id in listed
        else f"{offer_id}: no offer ({reason})"
        for offer_id, reason in priced.unpriced.items()
    ]
    mode = config.policy.commitment.mode
    if mode != "enforce":
        notes += [
            f"pool {pool.name}: stays empty, since policy.commitment.mode is {mode}, which starts no replica"
            for pool in config.pools
            if not pool.replicas.min
        ]
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
        f"{len(priced.offers)} offer(s), {len(config.feeds)} feed(s), {len(config.tenants)} tenant(s)."
    )
    for note in notes:
        print(f"  note: {note}")
    return 0
