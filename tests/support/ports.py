"""Ports for servers that tests start a moment later."""

from __future__ import annotations

import socket
from pathlib import Path
from random import SystemRandom

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LEAST = 20_000  # Ray's workers are below
# Every worker of pytest-xdist has the same seed of ``random``, and they must not want the same ports.
_CHANCE = SystemRandom()


def free_port() -> int:
    """A port of loopback that nobody has, below those that the kernel gives to connections: it stays free for a while."""
    most = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32_768
    while True:
        port = _CHANCE.randrange(_LEAST, most) if most > _LEAST else 0
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
