"""Ledgers of requests of the tenants of a small site, for tests that plan with them."""

from __future__ import annotations

import hashlib
from typing import Any

from scheduler.config import ClusterConfig
from serving.ledger.records import Begin, End
from serving.ledger.samples import AT_S, begin, end
from tests.support.sites import site

SAMPLE = {"tenant": "t", "zones": ["cloud", "home"], "labels": [], "rejected": []}
NO_USAGE = {"input_tokens": 0, "output_tokens": 0, "cached_tokens": 0, "offer_id": "", "source": "", "model": ""}


def cluster(**sections: Any) -> ClusterConfig:
    """A pool of ``small``, an API of ``large``, tenants t and u, an alias of both."""
    key = [{"sha256": hashlib.sha256(b"of u").hexdigest()}]
    document = site(**{"aliases": [{"name": "either", "models": ["small", "large"]}], **sections})
    document["tenants"].append({"name": "u", "keys": key, "zones": ["home"], "service_classes": ["batch"]})
    return ClusterConfig.model_validate(document)


def asked(name: str, at_s: float = 0.0, **changes: Any) -> Begin:
    """A begun request of tenant t for any model, ``at_s`` seconds into the ledger; 1,840 tokens in, 260 out are expected."""
    return begin(name, at_s=AT_S + at_s, **(SAMPLE | changes))


def ended(name: str, at_s: float = 0.0, **changes: Any) -> End:
    """Its whole answer from the pool, of 301 tokens for 1,840."""
    return end(name, at_s=AT_S + at_s + 1.9, **({"offer_id": "own/small", "model": "small"} | changes))


def both(name: str, at_s: float = 0.0, **changes: Any) -> tuple[Begin, End]:
    """A request that was answered; ``changes`` are of its beginning."""
    return asked(name, at_s, **changes), ended(name, at_s)
