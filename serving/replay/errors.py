"""Why a replay does not start."""

from __future__ import annotations

REFUSED, CONFIG, UNREACHABLE = 1, 2, 3


class ReplayError(Exception):
    """The replay cannot start; the text says why and what to do. ``status`` is the command's exit status."""

    def __init__(self, message: str, status: int = REFUSED) -> None:
        super().__init__(message)
        self.status = status
