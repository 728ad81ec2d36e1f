"""Ctrl-C and SIGTERM in the middle of a command: what is open is closed, one line is said, the exit status tells which."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


class Terminated(BaseException):
    """SIGTERM has come."""


@contextmanager
def on_sigterm() -> Iterator[None]:
    """Meanwhile SIGTERM raises Terminated in the main thread, so that every ``with`` on the way out is left.

    Once: whoever sends it to a process and to its group sends it twice, and nothing that is closing shall be cut off.
    """

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def status_of(error: BaseException | None) -> int | None:
    """The exit status if Ctrl-C or SIGTERM is behind ``error``, else None.

    Libraries in C make an ImportError of whatever comes up while they are imported: its causes count, too.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return INTERRUPTED
        if isinstance(error, Terminated):
            return TERMINATED
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None
