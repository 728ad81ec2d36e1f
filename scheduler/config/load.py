"""From a YAML file to a ``ClusterConfig``."""

from __future__ import annotations

from pathlib import Path

from scheduler.config.cluster import ClusterConfig
from scheduler.config.document import ConfigError, read_document

__all__ = ["ConfigError", "load"]


def load(path: str | Path) -> ClusterConfig:
    """Read and check ``path``. Raises ConfigError; never returns a configuration with a doubt left in it."""
    path = Path(path)
    config = read_document(path, ClusterConfig)
    config._dir = str(path.resolve().parent)
    return config
