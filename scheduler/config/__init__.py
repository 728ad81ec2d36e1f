"""cluster.yaml: the one file an operator edits, as strict, frozen, cross-checked models.

ConfigError                     the file cannot be used; its text names every path and reason
load(path) -> ClusterConfig     read, parse, validate
"""

from scheduler.config.cluster import ClusterConfig
from scheduler.config.load import ConfigError, load

__all__ = ["ClusterConfig", "ConfigError", "load"]
