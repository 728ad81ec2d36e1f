"""How far a long command is: one line on standard error, only where that is a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class Bar:
    """What is read or played, and how fast; ``progress`` is what shows it, to be entered and left.

    ``check`` is called whenever something has been done; what it raises ends the work.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description:<30}"),
            BarColumn(),
            TextColumn("{task.fields[rate]:>16}"),
            TimeElapsedColumn(),
        )
        self.progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self.progress.add_task("", total=None, rate="")
        self._what, self._since_s, self._played = "", 0.0, 0
        self._check = check

    def reads(self, path: Path) -> None:
        """A trace is being read."""
        self.progress.update(self._task, description=f"reading {path.name}"[:30], total=1.0)

    def read(self, part: float) -> None:
        """That much of it has been read."""
        self._check()
        self.progress.update(self._task, completed=part)

    def plays(self, requests: int) -> None:
        """So many requests are to be played in all."""
        self.progress.reset(self._task, total=max(1, requests), completed=0)

    def say(self, what: str, requests: int) -> None:
        """``what`` goes on, and has played so many requests more."""
        self._check()
        now_s = time.monotonic()
        if what != self._what:
            self._what, self._since_s, self._played = what, now_s, 0
        self._played += requests
        rate = f"{self._played / max(1e-3, now_s - self._since_s):,.0f} requests/s" if self._played else ""
        self.progress.update(self._task, description=what[:30], advance=requests, rate=rate)
