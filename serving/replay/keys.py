"""Which API key speaks for which tenant, without a key ever being written into a file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping

from scheduler.config import ClusterConfig
from scheduler.config.demand import Tenant
from serving.replay.errors import CONFIG, ReplayError

_PREFIX = "BASELOAD_KEY_"


def variable(tenant: str) -> str:
    """The environment variable that may hold a tenant's key: BASELOAD_KEY_ and its name in capitals."""
    return _PREFIX + re.sub(r"[^A-Z0-9]", "_", tenant.upper())


def keys_of(
    config: ClusterConfig, tenants: Collection[str], key: str, environment: Mapping[str, str]
) -> dict[str, str]:
    """A key for each of ``tenants``: their variable, the variables that the site file names, or ``key`` if it is theirs.

    Raises ReplayError naming those without one.
    """
    found: dict[str, str] = {}
    without: list[str] = []
    for tenant in config.tenants:
        if tenant.name not in tenants:
            continue
        names = [variable(tenant.name), *(spec.env for spec in tenant.keys if spec.env)]
        candidates = [value for name in names if (value := environment.get(name, ""))]
        theirs = [value for value in (*candidates, key) if _is_of(tenant, value)]
        if theirs:
            found[tenant.name] = theirs[0]
        else:
            without.append(f"{tenant.name} ({variable(tenant.name)})")
    if without:
        raise ReplayError(
            f"no key of the site file is known here for {', '.join(without)}: set the variable, or give --key", CONFIG
        )
    return found


def _is_of(tenant: Tenant, value: str) -> bool:
    digest = hashlib.sha256(value.encode()).hexdigest()
    return any(spec.digest() == digest for spec in tenant.keys)
