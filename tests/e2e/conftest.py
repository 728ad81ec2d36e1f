"""One real stack for all end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import Stack, running, wait_until


@pytest.fixture(scope="session")
def real_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory: Path = tmp_path_factory.mktemp("stack")
    with running(directory) as stack:
        yield stack


@pytest.fixture
def stack(real_stack: Stack) -> Stack:
    """The stack, healthy and with a well-behaved provider, whatever the test before has done to it."""
    real_stack.provider(outage="", ttft_s=0.1, tokens_per_s=400, concurrency_max=0, cut_after_tokens=0)
    wait_until(real_stack.ready, 120, "every source is up")
    wait_until(real_stack.at_home, 40, "the pool takes what is easy")
    return real_stack
