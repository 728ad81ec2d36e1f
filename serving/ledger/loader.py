"""The process that keeps the ledger's database up to date: journals in, the spend of budgets out to the controller.

Its own process, at the lowest priority: a slow or absent database delays totals and nothing else. Until it is back the
journals keep everything. Budgets that are granted already go on with what gateways report; a controller that starts without
this process grants nothing, so that money spent before is never forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from pathlib import Path

import aiohttp

from scheduler.config import ClusterConfig
from serving import control
from serving.control import Spent
from serving.ledger.errors import JournalMissing
from serving.ledger.segments import is_live, list_segments
from serving.ledger.store import Store

log = logging.getLogger("baseload.ledger")

# Each load ends in a sync of the database, and for its time appends to journals on the same disk may wait.
_EVERY_S = 5.0
_NICE = 19
# Summing a window reads all of its rows: it may take this share of the time, but for a writer's end, which is summed at once.
_SUM_SHARE = 0.02
_SUM_EVERY_S = 2.0


async def run(config: ClusterConfig) -> None:
    """Load and report every few seconds until cancelled."""
    os.nice(_NICE)
    token, base = control.token(), control.url(config)
    loader: Loader | None = None
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                loader = loader or Loader(config.ledger.url, Path(config.ledger.journal))
                loader.load()
                answer = await control.post(session, base, "spent", loader.spent, token, dict[str, float])
                if answer is not None and loader.sum_from(answer):
                    continue  # the controller waits for this sum before it grants anything
            except Exception as error:  # whatever the database's driver raises; the journal waits
                log.error("ledger not loaded", extra={"error": f"{type(error).__name__}: {error}"})
            await asyncio.sleep(_EVERY_S)


class Loader:
    """Journal to database, and the spend in the tenants' budget windows."""

    def __init__(self, url: str, journal: Path) -> None:
        self._store, self._journal = Store(url), journal
        self._store.create_schema()
        self._starts: dict[str, float] = {}
        self._writers: set[str] = set()
        self._next_sum_s = 0.0
        self._keep = False  # a line that this version cannot read may be read by another
        self.spent: list[Spent] | None = None  # until it is known from when to sum

    def sum_from(self, starts: dict[str, float]) -> bool:
        """Sum from these instants on (by tenant) at the next load; whether that is news."""
        if starts == self._starts:
            return False
        self._starts, self._next_sum_s = starts, 0.0
        return True

    def load(self) -> None:
        """Load new lines; journals of writers that are gone are removed once they are in the database."""
        writers: set[str] = set()
        with contextlib.suppress(JournalMissing):  # no gateway has written yet
            writers = {s.writer for s in list_segments(self._journal) if is_live(self._journal, s)}
            report = self._store.load(self._journal)
            if report.lines_bad:
                self._keep = True
                log.error("journal lines could not be read; no journal is removed any more", extra=report._asdict())
            if not self._keep:
                self._store.load(self._journal, remove_loaded=True)
        if self._writers - writers:
            self._next_sum_s = 0.0
        self._writers = writers
        began_s = time.monotonic()
        if self._starts and began_s >= self._next_sum_s:
            self.spent = self._sum()
            took_s = time.monotonic() - began_s
            self._next_sum_s = began_s + max(_SUM_EVERY_S, took_s / _SUM_SHARE)

    def _sum(self) -> list[Spent]:
        return [
            Spent(tenant, writer, usd)
            for start_s in set(self._starts.values())
            for (tenant, writer), usd in self._store.spent_usd(start_s).items()
            if self._starts.get(tenant) == start_s
        ]
