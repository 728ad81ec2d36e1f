"""The prices process: polls every feed in the background, keeps the history, tells the controller. Never on a request's path.

It may hang, die or be away: the controller then goes on with what it was told, until each price's time to live is over.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from pricing import checks, feeds, history, isolated, schedule
from pricing.desk import PriceDesk
from pricing.feeds import FeedError, FeedUnavailable
from pricing.history import History
from pricing.http import BoundedHttp, OfflineHttp
from pricing.listing import Listing
from scheduler.config import ClusterConfig
from scheduler.config.prices import Feed
from serving import control
from serving.clock import now_s

log = logging.getLogger("baseload.prices")

_TELL_S = 2.0


class Poller:
    """Asks one feed, for ever."""

    def __init__(self, config: ClusterConfig, feed: Feed, desk: PriceDesk, kept: History) -> None:
        self._feed, self._desk, self._history = feed, desk, kept
        self._kind, self._options = checks.prepared(config, feed)
        self._offline = config.air_gapped
        self._http = OfflineHttp() if self._offline else BoundedHttp(feed.timeout_s, feed.bytes_max)
        self._failures = 0

    async def run(self, chance: Callable[[], float] = random.random) -> None:
        """Poll with jitter and back-off until cancelled."""
        pause_s = schedule.first_poll_s(chance)
        while True:
            self._desk.scheduled(self._feed.name, now_s() + pause_s)
            await asyncio.sleep(pause_s)
            retry_after_s = await self.poll()
            pause_s = schedule.next_poll_s(self._feed.every_s, self._failures, retry_after_s, chance, self._feed.ttl_s)

    async def poll(self) -> float:
        """Ask once and hand the result to the desk; returns the source's Retry-After, 0 where it gave none."""
        name = self._feed.name
        try:
            listings = await self._ask()
            at_s = now_s()
            desk = self._desk
            changes = desk.unchanged(name, at_s) if listings is None else desk.polled(name, listings, at_s)
        except FeedUnavailable as error:
            self._failed(str(error))
            return error.retry_after_s
        except FeedError as error:
            self._failed(str(error))
            return 0.0
        except Exception as error:  # what a site's own feed lists may be anything; the others go on
            log.exception("a feed has failed", extra={"feed": name})
            self._failed(type(error).__name__)
            return 0.0
        self._failures = 0
        if changes:
            self._history.append(changes, at_s, time.monotonic())
        return 0.0

    def _failed(self, error: str) -> None:
        self._failures += 1
        self._http.forget()  # or an answer that could not be used would come back as "unchanged" for ever
        self._desk.failed(self._feed.name, error)
        if self._failures == 1:
            log.warning("a feed brings nothing", extra={"feed": self._feed.name, "error": error})

    async def _ask(self) -> Iterable[Listing] | None:
        if not self._kind.isolated:
            return await asyncio.to_thread(self._in_thread)
        http = self._http
        question = isolated.Question(
            self._feed.kind,
            self._options,
            now_s(),
            self._feed.timeout_s,
            self._feed.bytes_max,
            self._offline,
            http.validators if isinstance(http, BoundedHttp) else {},
        )
        answered = await isolated.ask(question)
        if isinstance(http, BoundedHttp):
            http.validators = answered.validators
        return answered.listings

    def _in_thread(self) -> list[Listing] | None:
        try:
            listings = self._kind.feed(self._http, feeds.options_of(self._kind, self._options), now_s())
            taken = None if listings is None else _checked(listings)
        except FeedError:
            raise
        except BaseException as error:  # a site's own feed may even exit, and no thread may hand on a StopIteration
            log.exception("a feed has failed", extra={"feed": self._feed.name})
            raise FeedError(type(error).__name__) from None
        self._http.accept()
        return taken


def _checked(listings: Iterable[Listing]) -> list[Listing]:
    """The listings, every part of them of the type that it says it is: there and back again. Raises FeedError."""
    try:
        return msgspec.msgpack.decode(msgspec.msgpack.encode(list(listings)), type=list[Listing])
    except (msgspec.MsgspecError, UnicodeError, OverflowError, TypeError) as error:
        raise FeedError(f"what the feed lists are no listings: {error}") from None


async def run(config: ClusterConfig) -> None:
    """Poll all feeds and keep the controller informed until cancelled."""
    # A feed that hangs must not take the thread of another.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(len(config.feeds) + 1, "feed"))
    desk = PriceDesk(config)
    lines = desk.restore(history.replay(config.prices.history))
    kept = History(config.prices.history)
    pollers = [Poller(config, feed, desk, kept) for feed in config.feeds]
    log.info("prices ready", extra={"feeds": [feed.name for feed in config.feeds], "history_lines": lines})
    async with asyncio.TaskGroup() as group:
        for poller in pollers:
            group.create_task(poller.run())
        await _tell(config, desk, kept)


async def _tell(config: ClusterConfig, desk: PriceDesk, kept: History) -> None:
    token, base = control.token(), control.url(config)
    while True:
        kept.flush()
        sheet = desk.sheet(now_s(), kept.problem)
        await asyncio.to_thread(control.tell, base, "prices", sheet, token, dict)
        await asyncio.sleep(_TELL_S)
