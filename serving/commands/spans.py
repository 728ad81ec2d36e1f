"""Spans of time as people type them: 90m, 24h, 7d, 4w, all."""

from __future__ import annotations

import re
import time

import typer

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def start_s(since: str) -> float:
    """Unix seconds of ``since`` ago; 0 for ``all``. Raises typer.BadParameter for what is no span."""
    if since == "all":
        return 0.0
    match = re.fullmatch(r"(\d{1,9})([smhdw])", since)
    if match is None:
        raise typer.BadParameter(f"{since!r} is no span: 90m, 24h, 7d, 4w or all", param_hint="--since")
    return max(0.0, time.time() - int(match[1]) * _SECONDS[match[2]])
