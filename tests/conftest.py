"""For every test: hypothesis does not time examples, since the machine may be busy; and which worker runs what."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings

# The same examples every time: what passes here passes elsewhere. `--hypothesis-profile=explore` looks for new ones.
settings.register_profile("baseload", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("baseload")

# Those with a real engine first, then those with a gateway: what takes long is not left to one worker at the end.
FIRST = ("tests/e2e/", "tests/serving/")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For workers only; the order within each of the three parts stays as random as it is."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: [not item.nodeid.startswith(part) for part in FIRST])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The tests of a file share a worker, and so do all end-to-end tests: they have one real stack between them."""
    from xdist.scheduler import LoadScopeScheduling

    class ByStack(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return FIRST[0] if nodeid.startswith(FIRST[0]) else nodeid.partition("::")[0]

    return ByStack(config, log)
