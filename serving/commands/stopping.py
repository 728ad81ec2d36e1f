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


class Stop:
    """Whether a signal has come."""

    def __init__(self) -> None:
        self._what: type[BaseException] | None = None

    def check(self) -> None:
        """Raise what the signal raised, should that have been lost: imports and destructors may swallow anything."""
        if self._what is not None:
            raise self._what

    def come(self, number: int, frame: FrameType | None) -> None:
        """The handler of both signals."""
        self._what = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if number == signal.SIGTERM:
            # Whoever sends it to a process and to its group sends it twice: nothing that is closing shall be cut off.
            signal.signal(number, signal.SIG_IGN)
        raise self._what


@contextmanager
def by_signal() -> Iterator[Stop]:
    """Meanwhile Ctrl-C raises KeyboardInterrupt and SIGTERM Terminated in the main thread, so that every ``with`` is left."""
    stop = Stop()
    before = {number: signal.signal(number, stop.come) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
